"""Two engines alive side by side, one of them preloaded, given the same bursts in turn.

From one run come: outputs compared bit for bit over release cycles, the hit rate of the prefix
cache, throughput in pairs, and time to first token after idleness.
"""
import contextlib
import time

import prompts
from figures import median_interval, spread
from processes import MIB, EngineProcess, engines_of
from shim_record import waited_between


class PairPlan:
    """What a pair run does. Times in seconds."""

    def __init__(self, name, **changes):
        self.name = name
        self.eager, self.prefix = False, True
        self.util, self.kv_bytes = 0.4, 0
        self.shim = {"KVSHIM_IDLE_TIMEOUT": "0.3s"}
        self.idle, self.gap = 0.3, 0.6     # gap: between pairs, so that the elastic one releases
        self.pairs, self.releases = 100, 100
        self.requests, self.tokens, self.burst_seconds = 16, 0, 0.9
        self.again, self.first_token_repeats = 5, 20
        self.parallel_start = False
        self.reserve = 25                  # left for the end of the part
        self.__dict__.update(changes)


def run(plan, context):
    """Returns the part's figures; never raises for an engine's failure ("error" says it)."""
    result = context.partials[plan.name] = {"plan": dict(plan.__dict__), "complete": False}
    record = None
    with engines_of(plan.name, result, context) as engines:
        try:
            start_engines(plan, context, engines, result)
            run_pairs(plan, context, engines, result)
            if plan.first_token_repeats:
                first_tokens(plan, context, engines, result)
        finally:
            if "elastic" in engines:
                record = engines["elastic"].record
                with contextlib.suppress(Exception):
                    result["status"] = record.fresh_device()
                    result["unknown_kernels"] = (record.status() or {}).get("unknown_kernels")
    if record:
        result["shim_trouble"] = record.trouble()[:40]
        result["release_lines"] = len(record.releases())
    return result


def start_engines(plan, context, engines, result):
    options = ["--util", str(plan.util), *(["--eager"] if plan.eager else []),
               *(["--prefix"] if plan.prefix else []),
               *(["--kv-bytes", str(plan.kv_bytes)] if plan.kv_bytes else [])]
    base = context.sampler.now()
    for name in ("static", "elastic"):
        engines[name] = EngineProcess(
            name, context.settings, context.folder / plan.name, name == "elastic", options,
            {**context.settings.shim_environment, **plan.shim})
    if plan.parallel_start:
        for engine in engines.values():
            engine.start()
    for name, engine in engines.items():
        before = context.sampler.now()
        facts = engine.wait_ready(context.deadline.wait(240))
        time.sleep(0.2 if name == "static" else plan.idle + 1.0)
        used = context.sampler.now() - (base if plan.parallel_start else before)
        result[name] = {**facts, "used_mib": used / MIB}
        context.say(f"{plan.name}: {name} ready in {facts['ready_after']:.0f} s, "
                    f"{used / MIB:.0f} MiB, {facts['num_blocks']} blocks"
                    + (f"; {facts['warning']}" if "warning" in facts else ""))
    result["base_mib"] = base / MIB
    result["pools"] = pools = engines["elastic"].record.pools()
    result["same_blocks"] = result["static"]["num_blocks"] == result["elastic"]["num_blocks"]
    if not pools["count"]:
        context.say(f"{plan.name}: the elastic engine has no pool")
    device = engines["elastic"].record.device()
    if device and not plan.parallel_start:
        pool_bytes = sum(pool["bytes"] for pool in device["pools"])
        result["static_without_pools_mib"] = result["static"]["used_mib"] - pool_bytes / MIB


def run_pairs(plan, context, engines, result):
    tokens = plan.tokens or calibrate(plan, engines["static"])
    if not plan.tokens:
        engines["elastic"].burst(prompts.burst(-1, plan.requests, plan.again), tokens)
    result["tokens_each"] = tokens
    record = engines["elastic"].record
    pairs, wrong, cached, prompt_tokens = [], [], 0, 0
    releases_before = len(record.releases())
    device_before = record.device()
    begin = time.time()
    result.update(pairs=pairs, wrong=wrong)
    while (len(pairs) < plan.pairs or len(record.releases()) - releases_before < plan.releases) \
            and len(pairs) < 2 * plan.pairs:
        if context.deadline.left() < plan.reserve + 1.2 * plan.first_token_repeats:
            context.say(f"{plan.name}: no time for more than {len(pairs)} pairs")
            result["cut_short"] = True
            break
        number = len(pairs)
        asked = prompts.burst(number, plan.requests, plan.again)
        time.sleep(plan.gap)
        released = len(record.releases())
        answers = {}
        for name in (("static", "elastic"), ("elastic", "static"))[number % 2]:
            answers[name] = engines[name].burst(asked, tokens)
        static, elastic = answers["static"], answers["elastic"]
        same = static["digests"] == elastic["digests"]
        pairs.append([round(static["seconds"], 5), round(elastic["seconds"], 5), int(same),
                      released])
        if not same:
            wrong.append({"pair": number, "requests": [
                i for i, (a, b) in enumerate(zip(static["digests"], elastic["digests"])) if a != b]})
            if len(wrong) <= 3:
                context.say(f"{plan.name}: pair {number}: outputs differ in {wrong[-1]['requests']}")
        cached += elastic["cached_tokens"]
        prompt_tokens += elastic["prompt_tokens"]
        result["hit_rate"] = cached / prompt_tokens
        result["same_cached_tokens"] = (result.get("same_cached_tokens", True)
                                        and static["cached_tokens"] == elastic["cached_tokens"])
        result["releases_during_pairs"] = len(record.releases()) - releases_before
        if number % 20 == 19:
            evaluate(result)
            context.say(f"{plan.name}: {number + 1} pairs, {len(wrong)} wrong, "
                        f"{result['releases_during_pairs']} releases, throughput "
                        f"{result['throughput_ratio']['median']:.3f}")
    evaluate(result)
    result["wall_seconds"] = time.time() - begin
    device = record.fresh_device()
    if device and pairs:
        busy = sum(p[1] for p in pairs)
        faults, moves = waited_between(device_before, device)
        result["fault_share"], result["moves_share"] = faults / busy, moves / busy
    result["release_ms"] = spread([r["ms"] for r in record.releases(begin)])
    result["release_mib"] = spread([r["mib"] for r in record.releases(begin)])
    result["brought_back_mib"] = spread([r["mib"] for r in record.brought_back(begin)])
    result["brought_back_us"] = spread([r["us"] for r in record.brought_back(begin)])


def evaluate(result):
    """The figures that follow from the pairs so far."""
    pairs = result["pairs"]
    result["identical_pairs"] = sum(p[2] for p in pairs)
    result["throughput_ratio"] = median_interval([s / e for s, e, *_ in pairs])
    for number, name in enumerate(("static", "elastic")):
        result[f"throughput_ratio_{name}_first"] = median_interval(
            [s / e for s, e, *_ in pairs[number::2]])
    result["static_seconds"] = spread([p[0] for p in pairs])
    result["elastic_seconds"] = spread([p[1] for p in pairs])


def calibrate(plan, engine):
    """Tokens a request so that a burst takes about plan.burst_seconds; the first run warms up."""
    asked = prompts.burst(-1, plan.requests, plan.again)
    engine.burst(asked, 32)
    seconds = min(engine.burst(asked, 128)["seconds"] for _ in range(2))
    return max(32, min(1024, int(128 * plan.burst_seconds / seconds)))


def first_tokens(plan, context, engines, result):
    """Requests for one token after idleness longer than the time-out, static and elastic in turn."""
    record = engines["elastic"].record
    rows = []
    result["first_token"] = {"rows": rows}
    for number in range(plan.first_token_repeats + 2):
        if context.deadline.left() < plan.reserve:
            break
        asked = [prompts.text(f"ttft{number}", 256)]
        time.sleep(plan.gap + 0.2)
        times = {}
        for name in (("static", "elastic"), ("elastic", "static"))[number % 2]:
            answer = engines[name].burst(asked, 1)
            times[name] = answer["seconds"]
            if name == "elastic":
                begin = answer["begin"]
        time.sleep(0.15)
        back = sum(b["mib"] for b in record.brought_back(begin, time.time()))
        if number >= 2:  # the first ones warm this shape up
            rows.append([round(times["static"], 5), round(times["elastic"], 5), back])
    later = [1000 * (e - s) for s, e, _ in rows]
    result["first_token"].update(
        static_ms=spread([1000 * r[0] for r in rows]), elastic_ms=spread([1000 * r[1] for r in rows]),
        later_ms=median_interval(later), brought_back_mib=spread([r[2] for r in rows]),
        over_bound_ms=spread([d - 10 - r[2] * MIB / 40e6 for d, r in zip(later, rows)]))
