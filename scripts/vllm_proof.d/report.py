"""proof.json as text: a short summary for the terminal and tables for docs/results. Every figure
comes from the file; what was not measured says so."""

NOT_MEASURED = "not measured"


def get(value, *path):
    for key in path:
        if value is None:
            return None
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def number(value, digits=1, unit=""):
    return NOT_MEASURED if value is None else f"{value:.{digits}f}{unit}"


def verdict(holds):
    return {True: "yes", False: "NO", None: ""}[holds]


def interval(value, digits=3):
    if not value:
        return NOT_MEASURED
    return f"{value['median']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}] (n = {value['n']})"


def at_most(value, bound):
    return None if value is None or bound is None else value <= bound


def memory_rows(part):
    idle = get(part, "plan", "idle")
    bursts = get(part, "elastic", "bursts") or []
    over = get(part, "after_load_over_floor_mib")
    rows = [("floor: static engine minus its pools (MiB)", number(get(part, "floor_mib"), 0), "", None),
            ("after load, static (MiB)", number(get(part, "static", "after_load_mib"), 0), "", None),
            ("after load, elastic, over the floor (MiB)", number(over, 0), "64", at_most(over, 64))]
    if bursts:
        fresh = bursts[0]
        rows.append(("growth in the first burst (MiB)", number(fresh.get("growth_mib"), 0),
                     f"{number(fresh.get('growth_bound_mib'), 0)} (written: "
                     f"{number(fresh.get('written_mib'), 0)})",
                     at_most(fresh.get("growth_mib"), fresh.get("growth_bound_mib"))))
        worst = max((b.get("over_floor_mib") or 0 for b in bursts), default=None)
        rows.append(("after each idle time-out, over the floor, worst (MiB)", number(worst, 0), "64",
                     at_most(worst, 64)))
        times = [b.get("seconds_to_floor") for b in bursts]
        slowest = None if None in times else max(times)
        rows.append(("from a burst's end to the floor + 64 MiB, slowest (s)",
                     "never in at least one" if slowest is None else number(slowest, 2),
                     f"{idle + 1:.1f}", slowest is not None and slowest <= idle + 1))
    same = get(part, "same_outputs")
    if same:
        rows.append(("bursts with the static engine's outputs", f"{sum(same)} of {len(same)}", "all",
                     all(same)))
    if "same_blocks" in part:
        rows.append(("blocks, static and elastic",
                     f"{get(part, 'static', 'num_blocks')}, {get(part, 'elastic', 'num_blocks')}",
                     "equal", part["same_blocks"]))
    for what in ("decode", "prefill"):
        shares = get(part, "elastic", f"fault_share_{what}") or {}
        rows += waiting_rows(what, shares.get("share"), shares.get("moves_share"), 0.01)
    rows.append(("start, static and elastic (s)", f"{number(get(part, 'static', 'ready_after'), 0)}, "
                 f"{number(get(part, 'elastic', 'ready_after'), 0)}", "", None))
    return rows + shim_rows(part)


def waiting_rows(what, faults, moves, bound=None):
    """How long guards waited. Runs whose shim did not tell moves from faults have no row of them."""
    rows = [(f"time spent in faults, {what}", percent(faults), f"{100 * bound:.0f} %" if bound else "",
             at_most(faults, bound) if bound else None)]
    if moves is not None:
        rows.append((f"time spent in swaps of what moves beside the work, {what}", percent(moves), "",
                     None))
    return rows


def percent(share):
    return NOT_MEASURED if share is None else f"{100 * share:.2f} %"


def shim_rows(part):
    status = part.get("status")
    pools = part.get("pools") or get(part, "elastic", "pools")
    rows = []
    if pools:
        rows.append(("pools; from the first to the last line in the log (ms)",
                     f"{pools['count']} of {pools['mib']} MiB in all; {number(pools['span_ms'], 0)}",
                     "", None))
    if status:
        faults = status["faults"]
        rows.append(("faults: count, p50, p99, max (us)",
                     f"{faults['count']}, {faults['p50_us']}, {faults['p99_us']}, {faults['max_us']}",
                     "", None))
        rows.append(("releases; parked, zero, dropped, brought back in all (MiB)",
                     f"{status['releases']}; {status['parked_bytes_total'] >> 20}, "
                     f"{status['released_zero_bytes'] >> 20}, {status['dropped_bytes'] >> 20}, "
                     f"{status['promoted_bytes'] >> 20}", "", None))
    if get(part, "release_ms"):
        rows.append(("a release (ms): median, max", f"{number(part['release_ms']['median'], 0)}, "
                     f"{number(part['release_ms']['max'], 0)}", "", None))
    if part.get("unknown_kernels") is not None:
        rows.append(("kernels of no profile that named a pool", str(len(part["unknown_kernels"])), "",
                     None))
    return rows


def pair_rows(part):
    pairs = part.get("pairs") or []
    ratio = part.get("throughput_ratio")
    done = part.get("identical_pairs")
    wanted = get(part, "plan", "releases") or 0
    cycles = part.get("releases_during_pairs")
    rows = [("pairs of bursts with identical outputs", f"{done} of {len(pairs)}", "all",
             None if done is None else done == len(pairs) and bool(pairs)),
            ("release cycles meanwhile", str(cycles), str(wanted),
             None if cycles is None else cycles >= wanted)]
    if get(part, "plan", "prefix"):
        rate = part.get("hit_rate")
        rows.append(("prompt tokens found in the prefix cache",
                     NOT_MEASURED if rate is None else f"{100 * rate:.1f} %", "", None))
    if get(part, "plan", "kv_bytes"):  # other engines shared the GPU: times mean nothing
        return rows + [("blocks, static and elastic", f"{get(part, 'static', 'num_blocks')}, "
                        f"{get(part, 'elastic', 'num_blocks')}", "equal", part.get("same_blocks"))
                       ] + shim_rows(part)
    rows.append(("throughput, elastic over static, median [95 %]", interval(ratio), "0.98",
                 None if not ratio else ratio["median"] >= 0.98))
    for first in ("static", "elastic"):
        rows.append((f"the same where the {first} one went first",
                     interval(part.get(f"throughput_ratio_{first}_first")), "", None))
    rows.append(("a burst (s), static and elastic, median",
                 f"{number(get(part, 'static_seconds', 'median'), 3)}, "
                 f"{number(get(part, 'elastic_seconds', 'median'), 3)}", "", None))
    if part.get("first_token"):
        first = part["first_token"]
        over = get(first, "over_bound_ms", "median")
        rows += [("first token after idleness (ms), static and elastic, median",
                  f"{number(get(first, 'static_ms', 'median'))}, "
                  f"{number(get(first, 'elastic_ms', 'median'))}", "", None),
                 ("first token, later by (ms), median [95 %]", interval(first.get("later_ms"), 1),
                  f"10 + {number(get(first, 'brought_back_mib', 'median'), 0)} MiB at 40 GB/s",
                  at_most(over, 0))]
    rows += waiting_rows("all bursts", part.get("fault_share"), part.get("moves_share"))
    rows.append(("blocks, static and elastic", f"{get(part, 'static', 'num_blocks')}, "
                 f"{get(part, 'elastic', 'num_blocks')}", "equal", part.get("same_blocks")))
    return rows + shim_rows(part)


def serve_rows(part):
    rows = [("after load (MiB)", number(part.get("after_load_mib"), 0), "", None)]
    for i, burst in enumerate(part.get("bursts", [])):
        rows.append((f"burst {i}: tokens; first token (ms) median; peak, idle (MiB)",
                     f"{burst['tokens']}; {number(get(burst, 'first_token_ms', 'median'))}; "
                     f"{number(burst['peak_mib'], 0)}, {number(burst['idle_mib'], 0)}", "", None))
    rows.append(("exit status after SIGINT", str(part.get("exit")), "", None))
    return rows + shim_rows(part)


def variants_rows(part):
    rows = [("engines; rounds", f"{len(part.get('seconds') or {})}; "
             f"{len(get(part, 'seconds', 'static') or [])}", "", None),
            ("outputs that differ from the static engine's", str(len(part.get("wrong") or [])), "0",
             None if part.get("wrong") is None else not part["wrong"])]
    for name, ratio in (part.get("ratios") or {}).items():
        settings = get(part, "plan", "variants", name)
        what = "without the shim" if settings is None else \
            " ".join(f"{k}={v}" for k, v in settings.items()) or "defaults"
        rows.append((f"throughput of {name} ({what}) over static, median [95 %]", interval(ratio), "",
                     None))
        rows.append((f"a burst of {name} (s), median; faults in all (s)",
                     f"{number(get(part, 'burst_s', name, 'median'), 3)}; "
                     f"{number(get(part, 'faults_s', name), 3)}", "", None))
    return rows


def steps_rows(part):
    plan = part.get("plan") or {}
    seconds = get(part, "static_seconds", "median"), get(part, "elastic_seconds", "median")
    return [
        ("batches whose outputs are identical", f"{part.get('identical_batches')} of "
         f"{part.get('batches')}", "all", None if part.get("wrong") is None else not part["wrong"]),
        ("a third engine, elastic and idle, beside them",
         "none" if not plan.get("neighbour") else str(plan["neighbour"]).rpartition("/")[2], "", None),
        (f"throughput over static, decode, turns of {plan.get('turn')} steps, median [95 %]",
         interval(part.get("throughput_ratio")), "at least 0.98",
         at_most(0.98, get(part, "throughput_ratio", "median"))),
        ("the same of whole batches, prefill and all", interval(part.get("batch_ratio")),
         "at least 0.98", at_most(0.98, get(part, "batch_ratio", "median"))),
        ("the same of the first turn of each batch, which has the prefill",
         interval(part.get("prefill_ratio")), "", None),
        ("a turn (ms): static, elastic, median",
         ", ".join(number(1000 * s, 2) if s else "?" for s in seconds), "", None)]


TITLES = {
    "memory": "Memory: vLLM alone at utilization 0.9, the shim's defaults",
    "pairs": "Side by side at utilization 0.4, prefix caching on, idle time-out 0.3 s",
    "throughput": "Side by side at utilization 0.4, the shim's defaults",
    "exact_graphs": "Graphs, prefix caching off, contents = \"disposable\"",
    "exact_eager": "Eager, prefix caching off, contents = \"disposable\"",
    "serve": "`kvwrap vllm serve`",
    "variants": "Several engines at once that differ in the shim's settings",
    "steps": "Side by side, a few steps in turn",
    "smoke": "Smoke run",
}


def rows_of(name, part):
    if name == "memory":
        return memory_rows(part)
    if name == "steps":
        return steps_rows(part)
    if name == "variants":
        return variants_rows(part)
    return serve_rows(part) if name == "serve" else pair_rows(part)


def notes_of(part):
    notes = []
    if part.get("error"):
        notes.append(f"FAILED: {part['error']}")
    if not part.get("complete"):
        notes.append("The part did not come to its end.")
    if part.get("cut_short"):
        notes.append("Cut short for want of time.")
    for side in ("static", "elastic"):
        if get(part, side, "warning"):
            notes.append(f"{side}: {part[side]['warning']}")
    notes += [f"shim: {line}" for line in part.get("shim_trouble") or []]
    notes += [f"unknown kernel: {k['name'][:120]} ({k['launches']} launches; {k['words'][:200]})"
              for k in part.get("unknown_kernels") or []]
    return notes


def machine_line(content):
    return ", ".join(f"{k} {v}" for k, v in content.get("machine", {}).items())


def markdown(content):
    lines = ["# vLLM with and without kvshim", "", f"Machine: {machine_line(content)}.", ""]
    for name, part in content["parts"].items():
        lines += [f"## {TITLES.get(name, name)}", "", "| what | measured | at most / at least | holds |",
                  "| --- | --- | --- | --- |"]
        lines += [f"| {what} | {value} | {bound} | {verdict(holds)} |"
                  for what, value, bound, holds in rows_of(name, part)]
        notes = notes_of(part)
        if notes:
            lines += ["", *[f"- `{note}`" for note in notes]]
        lines.append("")
    return "\n".join(lines)


def summary(content):
    lines = ["=" * 100, machine_line(content)]
    for name, part in content["parts"].items():
        lines.append(f"--- {name}")
        lines += [f"  {verdict(holds) or '-':3} {what}: {value}" + (f"  (bound {bound})" if bound else "")
                  for what, value, bound, holds in rows_of(name, part)]
        lines += [f"  !   {note[:400]}" for note in notes_of(part)]
    return "\n".join(lines)
