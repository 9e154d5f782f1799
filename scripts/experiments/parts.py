"""The experiments, each a function of a run; a part is an experiment with a contestant."""
import concurrent.futures
import contextlib
import statistics
import time

from memory import thinned
from pcie import PcieWatch
from servers import Ballast, Refused
from summary import tokens_of

EXPERIMENTS = {
    "single": "one model under bursts",
    "second": "the other model under bursts",
    "alternating": "two models alternating on one GPU",
    "oversized": "two models at once, together larger than the GPU",
    "squeezed": "the same, with less and less of the GPU left to them",
    "light": "one model under light traffic, never idle for long",
}
# (1), (2), (3), (4) of the tutorial; others can be asked for.
DEFAULT_PARTS = ("single.static", "single.elastic", "alternating.elastic", "oversized.elastic")
CHEAP_PARTS = ("alternating.static", "oversized.static")  # where a server starts at once
KVCACHED_PARTS = ("single.kvcached", "alternating.kvcached")


class PartRun:
    """A part while it runs: its servers, its marks on the memory curve, its figures."""

    def __init__(self, name, context):
        self.name, self.context = name, context
        self.experiment, contestant = name.split(".")
        self.contestant = context.settings.contestants[contestant]
        self.plan = context.settings.plan
        self.rounds = self.plan.bursts
        self.begin = time.time()
        self.idle = []  # MiB at the end of each pause
        self.servers = []
        self.faults_in_host = {}  # of a server that an earlier part started, until now
        self.content = {"name": name, "experiment": self.experiment, "contestant": contestant,
                        "complete": False, "begin": self.begin, "base_mib": context.base_mib,
                        "bursts": [], "probes": {}, "servers": {}}

    def served_in_host(self):
        """Faults of all servers that found no GPU memory, since they began."""
        return sum(server.faults_in_host() for server in self.servers)

    # -- steps ---------------------------------------------------------------------------------

    def start(self):
        shares = shares_of(self.name, self.context.settings)
        self.context.say(f"{self.name}: {' and '.join(shares)} begin")
        self.servers = self.context.servers.want(self.contestant, shares)
        self.content["ready"] = time.time()
        self.pause("after load", self.plan.gap)
        self.content["after_load_mib"] = self.idle.pop()
        for server in self.servers:
            self.content["servers"][server.name] = {
                "ready_seconds": server.ready_seconds, "utilization": server.utilization,
                "compiled": server.compiled()}
            self.faults_in_host[server.name] = server.faults_in_host()

    def pause(self, what, seconds):
        """Until the shim had its time to give back; the level at the end is what idleness costs."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.context.doing(f"{self.name}: {what}, idle for {left:.0f} s more, "
                               f"{self.context.memory.now():.0f} MiB")
            self.context.check_time()
            time.sleep(min(0.2, left))
        self.idle.append(self.context.memory.level())

    def burst(self, servers, number, load):
        """All of `servers` at once."""
        self.context.check_time()
        names = "+".join(server.name for server in servers)
        self.context.doing(f"{self.name}: burst {number + 1} of {self.rounds} on {names}")
        with concurrent.futures.ThreadPoolExecutor(len(servers)) as pool:
            running = [(server, pool.submit(server.burst, number, load)) for server in servers]
            for server, result in running:
                self.content["bursts"].append(
                    {"server": server.name, "number": number, **result.result()})
        last = self.content["bursts"][-len(servers):]
        failed = sum("error" in row for burst in last for row in burst["requests"])
        took = max(b["end"] for b in last) - min(b["begin"] for b in last)
        self.context.say(
            f"{self.name}: burst {number + 1} of {self.rounds} on {names}: "
            f"{sum(len(b['requests']) for b in last)} requests in {took:.1f} s, "
            f"{f'{failed} FAILED, ' if failed else ''}{self.context.memory.now():.0f} MiB")
        for server in servers:
            probe = server.probe()
            if probe:
                self.content["probes"].setdefault(server.name, []).append(probe)

    def finish(self):
        end = time.time()
        for server in self.servers:
            before = self.faults_in_host.get(server.name, 0)
            self.content["servers"].setdefault(server.name, {}).update(
                shim=server.facts(), faults_in_host=server.faults_in_host() - before)
        samples = self.context.memory.samples(self.begin, end)
        content = self.content
        content["idle_mib"] = statistics.median(self.idle) if self.idle else None
        content["idle_all_mib"] = self.idle
        content["peak_mib"] = max((max((used for moment, used in samples
                                        if b["begin"] <= moment <= b["end"]), default=0)
                                   for b in content["bursts"]), default=None)
        content["samples"] = [[round(moment - self.begin, 3), round(used, 1)]
                              for moment, used in thinned(samples)]
        content["end"] = end
        content["failed_requests"] = sum("error" in row for burst in content["bursts"]
                                         for row in burst["requests"])
        return content


def shares_of(name, settings):
    """{server: share of the GPU's memory that it is told to use}."""
    full = settings.plan.utilization
    if name.startswith(("single.", "light.")):
        return {"A": full}
    if name.startswith("second."):
        return {"B": full}
    if name == "alternating.static":
        # Two static pools fit only side by side. vLLM's share is what a server itself takes, the
        # small engine's is what the whole GPU is filled to.
        return {"A": full / 2, "B": full / 2} if settings.kind == "vllm" else {"A": full / 3,
                                                                              "B": full * 2 / 3}
    return {"A": full, "B": full}


def single(run):
    run.start()
    for number in range(run.plan.bursts):
        run.burst(run.servers, number, run.plan.load())
        run.pause(f"after burst {number + 1}", run.plan.gap)


def alternating(run):
    run.start()
    for number in range(run.plan.bursts):
        for server in run.servers:
            run.burst([server], number, run.plan.load())
            run.pause(f"after burst {number + 1} on {server.name}", run.plan.gap)


def oversized(run):
    try:
        run.start()
    except Refused as refusal:
        if run.contestant.elastic:
            raise
        run.content["refused"] = str(refusal)  # what the engine says without elasticity
        return
    small = run.context.settings.kind == "small"
    load = run.plan.load() if small else run.plan.heavy_load()
    environment = run.context.settings.driver_environment
    before = run.context.memory.level()
    ballast = Ballast(run.plan.leave_mib, environment)
    run.context.say(f"{run.name}: ballast {ballast.says}")
    try:
        run.pause("the ballast is there", 0.6)
        run.idle.pop()
        # With what its context takes.
        run.content.update(ballast_mib=run.context.memory.level() - before,
                           usable_mib=ballast.usable_mib)
        for number in range(run.plan.bursts):
            run.burst(run.servers, number, load)
            run.pause(f"after burst {number + 1}", run.plan.gap)
    finally:
        ballast.close()


def squeezed(run):
    """The same work, once for each size of the GPU: how much longer it takes, and what crosses
    PCIe meanwhile."""
    run.start()
    run.content["steps"] = []
    run.rounds = 1 + len(run.plan.squeeze_mib)
    environment = run.context.settings.driver_environment
    try:
        # Half of the prompts come again: this one computes them, so that each measured one finds them.
        run.burst(run.servers, 0, run.plan.fixed_load())
        run.pause("after the burst that isn't measured", run.plan.gap)
        with contextlib.closing(PcieWatch(environment)) as pcie:
            for number, leave in enumerate(run.plan.squeeze_mib, 1):
                squeezed_step(run, number, leave, pcie)
    finally:
        run.idle = []  # with ballasts of several sizes they say nothing


def squeezed_step(run, number, leave, pcie):
    plan = run.plan
    with contextlib.closing(Ballast(leave, run.context.settings.driver_environment)) as ballast:
        run.pause("the ballast is there", 0.6)
        before, host = pcie.read(), run.served_in_host()
        run.burst(run.servers, number, plan.fixed_load())
        after = pcie.read()
        bursts = run.content["bursts"][-len(run.servers):]
        begin = min(burst["begin"] for burst in bursts)
        run.content["steps"].append({
            "usable_mib": ballast.usable_mib,
            "seconds": {b["server"]: b["end"] - begin for b in bursts},
            "tokens": {b["server"]: tokens_of(b) for b in bursts},
            "pcie_mib": [b - a for a, b in zip(before, after)] if before and after else None,
            "faults_in_host": run.served_in_host() - host})
        run.pause(f"after burst {number + 1}", plan.gap)


def light(run):
    """An hour of light traffic in minutes: requests in turn, whose pauses are no idleness."""
    run.start()
    plan, context = run.plan, run.context
    begin, number = time.monotonic(), 0
    levels = []
    while (left := plan.light_seconds - (time.monotonic() - begin)) > 0:
        context.check_time()
        context.doing(f"{run.name}: request {number + 1}, {left:.0f} s more, "
                      f"{context.memory.now():.0f} MiB")
        server = run.servers[0]
        run.content["bursts"].append({"server": server.name, "number": number,
                                      **server.burst(number, plan.light_load())})
        time.sleep(plan.light_pause)
        levels.append(context.memory.level())
        number += 1
    context.say(f"{run.name}: {number} requests, {levels[-1]:.0f} MiB in the end")
    run.content["levels_mib"] = levels
    run.idle = levels[-max(1, len(levels) // 4):]  # what it settles at


STEPS = {"single": single, "second": single, "light": light, "alternating": alternating,
         "oversized": oversized, "squeezed": squeezed}


def seconds_of(name, plan, servers_to_start):
    """A guess of how long a part takes, to leave out what can't end in time."""
    if name.startswith("light."):
        return servers_to_start * plan.start_seconds + plan.light_seconds + plan.gap + 2
    burst = plan.seconds or 0.4 * plan.rounds
    if name.startswith("squeezed."):
        steps, burst = 1 + len(plan.squeeze_mib), 2 * burst + 1
    else:
        steps = plan.bursts * (2 if name.startswith("alternating") else 1)
    return servers_to_start * plan.start_seconds + steps * (burst + plan.gap) + plan.gap + 2


def run_part(name, context):
    run = PartRun(name, context)
    context.current = run
    STEPS[run.experiment](run)
    content = run.finish()
    content["complete"] = True
    context.current = None
    return content
