"""The summary table, as markdown."""
from figures import quantile

TITLES = {"single": "one model under bursts", "second": "the other one under bursts",
          "alternating": "two models alternating",
          "oversized": "two models at once, beyond the GPU", "squeezed": "two models at once, less and less GPU",
          "light": "light traffic"}
LABELS = {"cold": "kvshim, cold rows", "warm": "kvshim, cold_after = 0", "elastic": "kvshim", "static": "without", "kvcached": "kvcached"}


def number(value, digits=0):
    return "" if value is None else f"{value:.{digits}f}"


def latencies(part, server, what):
    return [row[what] for burst in part["bursts"] if burst["server"] == server
            for row in burst["requests"] if what in row]


def tokens_of(burst):
    return sum(row.get("tokens", 0) for row in burst["requests"])


def rate(part, server):
    """Tokens a second while bursts ran."""
    bursts = [b for b in part["bursts"] if b["server"] == server]
    seconds = sum(b["end"] - b["begin"] for b in bursts)
    tokens = sum(map(tokens_of, bursts))
    return tokens / seconds if seconds else None


def server_row(part, server):
    """Latency and first token in ms, tokens a second, failed requests."""
    ms, first = latencies(part, server, "ms"), latencies(part, server, "first_ms")
    failed = sum("error" in row for b in part["bursts"] if b["server"] == server
                 for row in b["requests"])
    return [number(quantile(ms, 0.5)), number(quantile(ms, 0.99)), number(quantile(first, 0.5)),
            number(quantile(first, 0.99)), number(rate(part, server)), str(len(ms)), str(failed)]


def memory_row(part):
    """Idle and peak MiB without what the ballast holds, and flex."""
    ballast = part.get("ballast_mib", 0)
    idle, peak = part.get("idle_mib"), part.get("peak_mib")
    if idle is None or peak is None:
        return ["", "", ""]
    idle, peak = idle - ballast, peak - ballast
    return [number(idle), number(peak), number(idle / peak if peak else None, 2)]


def table(parts):
    lines = ["| experiment | contestant | model | idle (MiB) | peak (MiB) | flex | latency p50 (ms) "
             "| p99 | first token p50 (ms) | p99 | tokens/s | requests | failed |",
             "|" + " --- |" * 13]
    order = list(TITLES)
    for name in sorted(parts, key=lambda n: (order.index(n.split(".")[0]), n.split(".")[1])):
        part = parts[name]
        head = [TITLES[part["experiment"]], LABELS[part["contestant"]]]
        if part["experiment"] == "alternating" and part["contestant"] == "static":
            head[1] += ", a part of the GPU each"
        if part.get("refused"):
            lines.append("| " + " | ".join([*head, "the second server does not start"]
                                           + [""] * 10) + " |")
            continue
        memory = memory_row(part)
        for server in part["servers"]:
            lines.append("| " + " | ".join([*head, server, *memory,
                                            *server_row(part, server)]) + " |")
            head, memory = ["", ""], ["", "", ""]
    return lines


def pools_mib(parts, server):
    """What a server's pools are on paper, as any elastic run of it says; None: no such run."""
    for part in parts.values():
        mib = part["servers"].get(server, {}).get("shim", {}).get("pools", {}).get("mib")
        if mib:
            return mib
    return None


def alone_without(parts):
    """(server, part) of the static runs of one server."""
    for part in parts.values():
        if part["contestant"] == "static" and len(part["servers"]) == 1:
            (server,) = part["servers"]
            yield server, part


def floors(parts):
    """{server: MiB that its engine takes without its pools, and without what the GPU had in use
    before}; of static runs of one server."""
    found = {}
    for server, part in alone_without(parts):
        pools = pools_mib(parts, server)
        if pools and "base_mib" in part and "after_load_mib" in part:
            found[server] = part["after_load_mib"] - part["base_mib"] - pools
    return found


def compiled_otherwise(parts, both):
    """An engine that compiled its model while it started stays larger than one that found it in
    the compile cache."""
    for server, part in alone_without(parts):
        here, there = (facts["servers"].get(server, {}).get("compiled") for facts in (both, part))
        if None not in (here, there) and here != there:
            yield (f"{server} {'compiled its model' if here else 'found its model compiled'}, and "
                   f"{'found it compiled' if here else 'compiled it'} without kvshim")


def together(parts):
    """How two idle servers compare with their engines without pools, and how each one under load
    compares with itself alone on the GPU."""
    both = parts.get("alternating.elastic")
    if not both or not both.get("bursts"):
        return
    known = floors(parts)
    if both.get("idle_mib") is not None and all(server in known for server in both["servers"]):
        least = both["base_mib"] + sum(known[server] for server in both["servers"])
        yield (f"- Idle together: {both['idle_mib']:.0f} MiB; the engines without their pools: "
               f"{least:.0f} MiB with the {both['base_mib']:.0f} MiB in use before "
               f"({', '.join(f'{server} {known[server]:.0f}' for server in both['servers'])}): "
               f"{both['idle_mib'] - least:.0f} MiB over.")
    for difference in compiled_otherwise(parts, both):
        yield f"- Not the same start, so that memory differs by some 100 MiB: {difference}."
    for server, name in (("A", "single.elastic"), ("B", "second.elastic")):
        alone = parts.get(name, {})
        if server in both["servers"] and alone.get("bursts"):
            ratio = rate(both, server) / rate(alone, server)
            yield (f"- {server} under load beside the other, which is idle: {ratio:.2f} of its tokens "
                   "a second when it has the GPU to itself (bursts minutes apart; "
                   "`vllm_proof --parts steps --neighbour` compares them in turns).")


def alone(parts):
    """The request that runs alone after each burst: one answer, whatever experiment it is in."""
    answers = {}
    for part in parts.values():
        for server, digests in part.get("probes", {}).items():
            answers.setdefault(server, []).extend(digests)
    for server, digests in sorted(answers.items()):
        most = max(map(digests.count, set(digests)))
        yield (f"- {server}: the request that ran alone after each burst had the same answer {most} of "
               f"{len(digests)} times, in all experiments together.")


def remarks(content):
    parts = content["parts"]
    lines = [*together(parts), *alone(parts)]
    for name, found in content.get("comparison", {}).items():
        if found["answers"]:
            lines.append(f"- {name}: {found['same']} of {found['answers']} answers in bursts are "
                         "those of the run without"
                         + (f", {found['same_probes']} of {found['probes']} of requests alone"
                            if found["probes"] else "") + ".")
    for name, part in parts.items():
        if part.get("refused"):
            lines.append(f"- {name}: {part['refused']}")
        if part.get("error"):
            lines.append(f"- {name}: NOT COMPLETE: {part['error']}")
        if "ballast_mib" in part:
            lines.append(f"- {name}: a ballast of {part['ballast_mib']:.0f} MiB (not in the table) "
                         f"left {part['usable_mib']:.0f} MiB that pools may take; "
                         f"{faults_in_host(part)} faults were served in host memory.")
        for server, facts in part["servers"].items():
            trouble = facts.get("shim", {}).get("trouble")
            if trouble:
                lines.append(f"- {name}, {server}: the shim says: {trouble[0][:200]}"
                             + (f" (and {len(trouble) - 1} more)" if len(trouble) > 1 else ""))
    for name, why in content.get("skipped", {}).items():
        lines.append(f"- {name}: not measured: {why}")
    note = content["machine"].get("kvcached_note")
    if note:
        lines.append(f"- {note}: no third contestant.")
    return lines


def squeezed(parts):
    """The same work, for each size of the GPU."""
    part = parts.get("squeezed.elastic", {})
    steps = part.get("steps")
    if not steps:
        return []
    servers = list(steps[0]["tokens"])
    lines = ["", "The same work with less and less GPU for the pools of both:", "",
             "| pools may take (MiB) | " + " | ".join(f"{s} tokens/s" for s in servers)
             + " | seconds | GiB to the GPU | GiB from it | ms more for each GiB | faults served in "
             "host memory |", "|" + " --- |" * (6 + len(servers))]
    first = steps[0]
    for step in steps:
        longest = max(step["seconds"].values())
        gib = [mib / 1024 for mib in step["pcie_mib"]] if step["pcie_mib"] else [None, None]
        more = None
        if step is not first and step["pcie_mib"] and first["pcie_mib"]:
            more_gib = (sum(step["pcie_mib"]) - sum(first["pcie_mib"])) / 1024
            if more_gib > 1:
                more = (longest - max(first["seconds"].values())) / more_gib * 1000
        rates = [number(step["tokens"][s] / step["seconds"][s]) for s in servers]
        lines.append("| " + " | ".join([number(step["usable_mib"]), *rates, number(longest, 1),
                                        number(gib[0], 1), number(gib[1], 1), number(more, 1),
                                        str(step["faults_in_host"])]) + " |")
    return lines


def faults_in_host(part):
    return sum(facts.get("faults_in_host", 0) for facts in part["servers"].values())


def markdown(content):
    facts = content["machine"]
    lines = ["# Experiments", "",
             f"{facts.get('gpu', '')}; {facts['engine']}; {facts['time']}"
             + (f"; vLLM {facts['vllm']}" if "vllm" in facts else "")
             + (f"; {' '.join(facts['vllm_options'])}" if facts.get("vllm_options") else "") + ".",
             "", *table(content["parts"]), "",
             "Memory is the whole GPU's, as another process sees it; idle: the median of the levels "
             "at the end of the pauses; flex: idle / peak; latency and first token as the clients "
             "see them.", "", *remarks(content), *squeezed(content["parts"])]
    return "\n".join(lines) + "\n"
