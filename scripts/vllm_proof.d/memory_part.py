"""Memory against time: the static engine, then the elastic one, alone on the GPU at full size.

Samples come every 20 ms from a process that is not preloaded. Bytes written are counted from what
was asked: every prompt token that was not found in the prefix cache and every output token but the
last of a request writes one slot in each layer.
"""
import contextlib
import time

import prompts
from figures import spread
from processes import MIB, EngineFailed, EngineProcess
from shim_record import waited_between

GRANULE = 2 * MIB
SLACK = 64 * MIB


class MemoryPlan:
    """What the memory part does. Times in seconds."""

    def __init__(self, **changes):
        self.name = "memory"
        self.util, self.eager, self.prefix = 0.9, False, True
        self.shim, self.idle = {}, 2.0      # the shim's defaults
        self.bursts, self.requests, self.tokens = 3, 32, 400
        self.variants = ("static", "elastic")
        self.floor_mib = None               # measured by the static run when there is one
        self.shares = True                  # fault shares of long decoding and of prefill
        self.wrapped = True                 # started through kvwrap
        self.__dict__.update(changes)


def run(plan, context):
    result = context.partials[plan.name] = {
        "plan": dict(plan.__dict__), "complete": False, "marks": []}
    engines = {}
    try:
        options = ["--util", str(plan.util), *(["--eager"] if plan.eager else []),
                   *(["--prefix"] if plan.prefix else [])]
        wrapper = context.settings.wrapper if plan.wrapped else None
        for name in plan.variants:  # all import at once; each builds its engine in turn
            engines[name] = EngineProcess(
                name, context.settings, context.folder / plan.name, name == "elastic", options,
                {**context.settings.shim_environment, **plan.shim}, wrapper)
        for name in plan.variants:
            one_variant(name, plan, context, engines[name], result)
        compare(plan, context, result)
        result["complete"] = True
    except EngineFailed as problem:
        result["error"] = str(problem)
        context.say(f"{plan.name}: FAILED: {problem}")
    finally:
        elastic = engines.get("elastic")
        if elastic:
            with contextlib.suppress(Exception):
                result.setdefault("status", elastic.record.device())
        for engine in engines.values():
            engine.kill()
        if elastic:
            result["shim_trouble"] = elastic.record.trouble()[:40]
            result["release_ms"] = spread([r["ms"] for r in elastic.record.releases()])
    return result


def one_variant(name, plan, context, engine, result):
    sampler, elastic = context.sampler, name == "elastic"
    figures = result[name] = {"bursts": []}

    def mark(what):
        result["marks"].append([round(time.time(), 3), name, what])

    figures["base_mib"] = sampler.now() / MIB
    mark("start")
    figures.update(engine.wait_ready(context.deadline.wait(240)))
    ready = time.time()
    mark("ready")
    time.sleep(plan.idle + 1.3 if elastic else 0.5)
    figures["after_load_mib"] = sampler.now() / MIB
    figures["peak_start_mib"] = sampler.peak(0, ready) / MIB
    context.say(f"{plan.name}: {name} ready in {figures['ready_after']:.0f} s, "
                f"{figures['after_load_mib']:.0f} MiB, {figures['num_blocks']} blocks")
    if elastic:
        figures["pools"] = engine.record.pools()
        device = engine.record.device()
        figures["pool_mib"] = sum(p["bytes"] for p in device["pools"]) / MIB if device else None
        if not figures["pools"]["count"]:
            context.say(f"{plan.name}: the elastic engine has no pool")
    for number in range(plan.bursts):
        before = sampler.now()
        asked = prompts.burst(1000 + number, plan.requests, 2)
        mark(f"burst {number}")
        answer = engine.burst(asked, plan.tokens)
        mark(f"burst {number} ends")
        time.sleep(plan.idle + 1.3 if elastic else 1.0)
        idle_until = time.time()
        written = (answer["prompt_tokens"] - answer["cached_tokens"] + answer["output_tokens"]
                   - len(asked)) * context.settings.token_bytes
        figures["bursts"].append({
            "begin": answer["begin"], "end": answer["end"], "idle_until": idle_until,
            "seconds": answer["seconds"], "digests": answer["digests"],
            "cached_tokens": answer["cached_tokens"], "written_mib": written / MIB,
            "before_mib": before / MIB,
            "peak_mib": sampler.peak(answer["begin"], answer["end"]) / MIB,
            "idle_mib": sampler.now() / MIB})
    if elastic and plan.shares:
        fault_shares(plan, context, engine, figures, mark)
    if elastic:
        result["status"] = engine.record.fresh_device()
        result["unknown_kernels"] = (engine.record.status() or {}).get("unknown_kernels")
    figures["exit"] = engine.end(20)
    mark("ended")
    time.sleep(0.5)
    figures["after_exit_mib"] = sampler.now() / MIB


def fault_shares(plan, context, engine, figures, mark):
    """Time spent in faults over time spent, for decoding and for prefill, without idleness."""
    work = {"decode": ([prompts.text(f"d{i}", 64) for i in range(plan.requests)], 1000),
            "prefill": ([prompts.text(f"p{i}", 1900) for i in range(3 * plan.requests)], 1)}
    for what, (asked, tokens) in work.items():
        if context.deadline.left() < 40:
            return
        before = engine.record.fresh_device()
        mark(what)
        answer = engine.burst(asked, tokens)
        mark(f"{what} ends")
        after = engine.record.fresh_device()
        if before and after:
            faults, moves = waited_between(before, after)
            figures[f"fault_share_{what}"] = {
                "share": faults / answer["seconds"], "fault_seconds": faults,
                "moves_share": moves / answer["seconds"], "moves_seconds": moves,
                "prefetched_mib": (after.get("prefetched_bytes", 0)
                                   - before.get("prefetched_bytes", 0)) / MIB,
                "faults": after["faults"]["count"] - before["faults"]["count"],
                "seconds": answer["seconds"]}


def compare(plan, context, result):
    """The claims about memory, each with its figure, its bound and whether it holds."""
    elastic, static = result.get("elastic"), result.get("static")
    if not elastic or not elastic.get("pool_mib"):
        return
    floor = plan.floor_mib
    if static:
        floor = static["after_load_mib"] - elastic["pool_mib"]
        result["same_blocks"] = static["num_blocks"] == elastic["num_blocks"]
        result["same_outputs"] = [s["digests"] == e["digests"] for s, e in
                                  zip(static["bursts"], elastic["bursts"])]
        result["static_growth_mib"] = static["bursts"][-1]["idle_mib"] - static["after_load_mib"]
    if floor is None:
        return
    result["floor_mib"] = floor
    result["after_load_over_floor_mib"] = elastic["after_load_mib"] - floor
    status = result["status"]
    row_mib = len(status["pools"]) * GRANULE / MIB if status else 0
    for burst in elastic["bursts"]:
        limit = floor * MIB + SLACK
        burst["over_floor_mib"] = burst["idle_mib"] - floor
        burst["seconds_to_floor"] = seconds_until_below(
            context.sampler.samples(burst["end"], burst["idle_until"]), burst["end"], limit)
        burst["growth_mib"] = burst["peak_mib"] - burst["before_mib"]
        burst["growth_bound_mib"] = 1.25 * burst["written_mib"] + 2 * row_mib + SLACK / MIB


def seconds_until_below(samples, begin, limit):
    """From begin to the first sample after which all are at most limit; None if the last is not."""
    since = None
    for moment, used in samples:
        if used > limit:
            since = None
        elif since is None:
            since = moment
    return None if since is None else since - begin
