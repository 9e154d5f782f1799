"""Where a loss of throughput comes from: several engines alive at once, each another variant of
the shim's settings (or without it), given the same bursts in an order that changes every round.

A variant is NAME[:KVSHIM_X=VALUE[,KVSHIM_Y=VALUE]]; one that is named `plain...` runs without the
shim and shows what the comparison itself is worth: its ratio should be 1. Where a burst is slow
shows in the mean times of its steps, 25 at a time (median_step_ms).
"""
import contextlib
import random
import statistics
import time

import prompts
from figures import median_interval, spread
from pair_part import calibrate
from processes import EngineProcess, engines_of
from shim_record import waited_seconds

# What a loss can consist of, each taken away in turn.
USUAL = ("plain2", "default", "no_pool:KVSHIM_MIN_SIZE=1TiB", "no_rows_ahead:KVSHIM_ROWS_AHEAD=false")


def parse(text):
    """(name, environment or None)"""
    name, _, settings = text.partition(":")
    if name.startswith("plain"):
        return name, None
    return name, dict(item.split("=", 1) for item in settings.split(",") if item)


def run(texts, context, rounds=60, burst_seconds=0.9, gap=0.6):
    """Returns the part's figures; never raises for an engine's failure ("error" says it)."""
    variants = [("static", None), *map(parse, texts or USUAL)]
    result = context.partials["variants"] = {
        "plan": {"variants": dict(variants), "rounds": rounds}, "complete": False}
    with engines_of("variants", result, context) as engines:
        start(variants, engines, context)
        compare(engines, context, result, rounds, burst_seconds, gap)
    return result


def start(variants, engines, context):
    util = 0.8 / len(variants)
    for name, shim in variants:
        environment = {**context.settings.shim_environment, **(shim or {})}
        engines[name] = EngineProcess(name, context.settings, context.folder / "variants",
                                      shim is not None, ["--util", f"{util:.3f}", "--prefix"],
                                      environment)
        # One after the other: each looks at what is free when it starts.
        facts = engines[name].wait_ready(context.deadline.wait(240))
        context.say(f"variants: {name} ready in {facts['ready_after']:.0f} s")


def compare(engines, context, result, rounds, burst_seconds, gap):
    static = engines["static"]

    class Plan:  # what calibrate() looks at
        requests, again = 16, 5

    Plan.burst_seconds = burst_seconds
    tokens = calibrate(Plan, static)
    for engine in engines.values():
        engine.burst(prompts.burst(-1, Plan.requests, Plan.again), tokens)
    result["tokens_each"] = tokens
    seconds = result["seconds"] = {name: [] for name in engines}
    steps = result["step_ms"] = {name: [] for name in engines}
    wrong = result["wrong"] = []
    order = random.Random(5)
    before = {name: device_faults(engine) for name, engine in engines.items()}
    for number in range(rounds):
        if context.deadline.left() < 30 + 1.5 * burst_seconds * len(engines):
            context.say(f"variants: no time for more than {number} rounds")
            result["cut_short"] = True
            break
        asked = prompts.burst(number, Plan.requests, Plan.again)
        time.sleep(gap)
        names = list(engines)
        order.shuffle(names)
        digests = {}
        for name in names:
            answer = engines[name].burst(asked, tokens)
            seconds[name].append(round(answer["seconds"], 5))
            digests[name] = answer["digests"]
            steps[name].append(answer.get("step_ms", []))
        wrong += [[number, name] for name in names if digests[name] != digests["static"]]
        if number % 20 == 19:
            evaluate(result)
            context.say(f"variants: {number + 1} rounds, {len(wrong)} wrong, throughput over static "
                        + ", ".join(f"{n} {r['median']:.3f}" for n, r in result["ratios"].items()))
    evaluate(result)
    time.sleep(1.2)  # a status file is written once a second
    result["faults_s"] = {name: device_faults(engine) - before[name]
                          for name, engine in engines.items()}


def evaluate(result):
    """Throughput of each variant over the plain engine's, round by round."""
    static = result["seconds"]["static"]
    result["ratios"] = {
        name: median_interval([a / b for a, b in zip(static, mine)])
        for name, mine in result["seconds"].items() if name != "static"}
    result["median_step_ms"] = {
        name: [round(statistics.median(column), 3) for column in zip(*(b for b in bursts if b))]
        for name, bursts in result["step_ms"].items()}
    result["burst_s"] = {name: spread(mine) for name, mine in result["seconds"].items()}


def device_faults(engine):
    with contextlib.suppress(Exception):
        return sum(waited_seconds(engine.record.device()))
    return 0.0
