"""Throughput in turns of a few steps each: what machines whose speed changes can't hide.

A machine that is shared can be a quarter slower for a second and say nothing of it; bursts of a
second in turn then need thousands of pairs to show a hundredth. Two turns of some 30 ms after each
other mostly meet the same machine. Both engines work on the same batch, the same steps of it.
"""
import copy
import pathlib

import prompts
from figures import median_interval, spread
from processes import EngineProcess, engines_of


class StepsPlan:
    """What a run does. The neighbour: the folder of a model that a third engine, an elastic one,
    serves once and then keeps idle beside the two; None: there is none."""

    def __init__(self, **changes):
        self.util, self.requests, self.tokens, self.turn = 0.4, 16, 400, 8
        self.batches, self.neighbour = 40, None
        self.__dict__.update(changes)


def run(plan, context):
    """Returns the part's figures; never raises for an engine's failure ("error" says it)."""
    result = context.partials["steps"] = {"plan": dict(plan.__dict__), "complete": False}
    with engines_of("steps", result, context) as engines:
        start(plan, context, engines, result)
        take_turns(plan, context, engines, result)
    return result


def start(plan, context, engines, result):
    wanted = [("static", False, context.settings), ("elastic", True, context.settings)]
    if plan.neighbour:
        other = copy.copy(context.settings)
        other.model = pathlib.Path(plan.neighbour)
        wanted.append(("neighbour", True, other))
    for name, elastic, settings in wanted:
        engines[name] = EngineProcess(name, settings, context.folder / "steps", elastic,
                                      ["--util", str(plan.util), "--prefix"],
                                      context.settings.shim_environment)
        facts = engines[name].wait_ready(context.deadline.wait(240))
        context.say(f"steps: {name} ready in {facts['ready_after']:.0f} s"
                    + (f"; {facts['warning']}" if "warning" in facts else ""))
    for engine in engines.values():
        engine.burst(prompts.burst(-1, plan.requests, 5), 64)
    result["pools"] = engines["elastic"].record.pools()


def take_turns(plan, context, engines, result):
    pairs, prefill, whole, wrong = [], [], [], []
    result.update(pairs=pairs, prefill=prefill, whole=whole, wrong=wrong, identical_batches=0)
    engine_of = {name: engines[name] for name in ("static", "elastic")}
    for number in range(plan.batches):
        if context.deadline.left() < 30:
            context.say(f"steps: no time for more than {number} batches")
            result["cut_short"] = True
            break
        asked = prompts.burst(number, plan.requests, 5)
        for engine in engine_of.values():
            engine.submit(asked, plan.tokens)
        first, ended, sums = True, False, [0.0, 0.0]
        while not ended:
            order = ("static", "elastic") if len(pairs) % 2 else ("elastic", "static")
            answers = {name: engine_of[name].step(plan.turn) for name in order}
            seconds = [round(answers[name]["seconds"], 6) for name in ("static", "elastic")]
            sums = [one + more for one, more in zip(sums, seconds)]
            same_steps = answers["static"]["steps"] == answers["elastic"]["steps"] == plan.turn
            if first:
                prefill.append(seconds)
            elif same_steps and not any(answer["ended"] for answer in answers.values()):
                pairs.append(seconds)
            first = False
            # A step that schedules ahead may come back empty: one of them can take a step more.
            for name in engine_of:
                while not answers[name]["ended"] and any(a["ended"] for a in answers.values()):
                    answers[name] = engine_of[name].step(plan.turn)
                    sums[name == "elastic"] += answers[name]["seconds"]
            ended = answers["static"]["ended"]
        whole.append([round(seconds, 6) for seconds in sums])
        if answers["static"]["digests"] == answers["elastic"]["digests"]:
            result["identical_batches"] += 1
        else:
            wrong.append(number)
        if number % 10 == 9:
            evaluate(result)
            context.say(f"steps: {number + 1} batches, {len(wrong)} wrong, {len(pairs)} pairs, "
                        f"throughput {result['throughput_ratio']['median']:.4f}")
    evaluate(result)
    result["batches"] = result["identical_batches"] + len(wrong)


def evaluate(result):
    pairs = result["pairs"]
    result["throughput_ratio"] = median_interval([s / e for s, e in pairs], rounds=1000)
    # Prefill, decode and all turns in which one of them ended.
    result["batch_ratio"] = median_interval([s / e for s, e in result["whole"]])
    result["prefill_ratio"] = median_interval([s / e for s, e in result["prefill"]])
    result["static_seconds"] = spread([s for s, _ in pairs])
    result["elastic_seconds"] = spread([e for _, e in pairs])
