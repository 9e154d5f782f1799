"""How much each experiment does: loads, pauses, sizes."""
import dataclasses
import time


@dataclasses.dataclass
class Load:
    """One burst: each client sends one request after the other, for so many rounds or seconds."""
    clients: int
    shortest: int  # characters of a prompt (tokens: the models know bytes only)
    longest: int
    tokens: int
    rounds: int = 0
    seconds: float = 0.0
    timeout: float = 120.0

    def is_over(self, begin, done):
        if self.rounds:
            return done >= self.rounds
        return done > 0 and time.time() - begin >= self.seconds

    def prompt_of(self, client):
        return int(self.shortest + (self.longest - self.shortest) * client
                   / max(1, self.clients - 1))


@dataclasses.dataclass
class Plan:
    bursts: int
    gap: float            # seconds of idleness after each burst
    idle_timeout: float   # of the shim
    utilization: float    # of each server
    clients: int
    tokens: int
    prompt: int           # of the small engine, whose prompts have one length
    rounds: int
    seconds: float
    leave_mib: float      # what the ballast leaves to the pools
    squeeze_mib: tuple    # the same, one after the other (squeezed)
    start_seconds: float  # a server's start, to foretell what still fits
    # Light traffic. The option cold_after shrinks with the hour.
    light_seconds: float
    light_pause: float    # between requests; shorter than idle_timeout
    cold_after: float

    def load(self):
        return Load(self.clients, 64, 480, self.tokens, self.rounds, self.seconds)

    def light_load(self):
        # Of the small engine every burst is a batch of all clients.
        clients = self.clients if self.prompt else 4
        return Load(clients, 1200, 1700, self.tokens, rounds=1)

    def heavy_load(self):
        """Long prompts: the two working sets are larger than what the ballast leaves."""
        return Load(2 * self.clients, 1200, 1700, self.tokens, self.rounds, self.seconds)

    def fixed_load(self):
        """As much work each time, however long it takes."""
        return dataclasses.replace(self.heavy_load(), rounds=self.rounds or 2, seconds=0)


def make_plan(engine, arguments):
    if engine == "small":
        plan = Plan(bursts=3, gap=1.6, idle_timeout=0.5, utilization=0.7, clients=8, tokens=48,
                    prompt=64, rounds=3, seconds=0, leave_mib=16,
                    squeeze_mib=(256, 16), start_seconds=2,
                    light_seconds=60, light_pause=0.2, cold_after=2)
        if arguments.short:
            plan = dataclasses.replace(plan, bursts=2, gap=1.2, rounds=1, tokens=32,
                                       light_seconds=12, cold_after=1)
    else:
        plan = Plan(bursts=3, gap=5, idle_timeout=2, utilization=0.9, clients=16, tokens=128,
                    prompt=0, rounds=0, seconds=4, leave_mib=600,
                    squeeze_mib=(8192, 2048, 1536, 1024, 768, 512, 256),
                    start_seconds=80, light_seconds=180, light_pause=0.25, cold_after=3)
        if arguments.short:
            plan = dataclasses.replace(plan, bursts=1, light_seconds=60)
    chosen = {name: getattr(arguments, name) for name in
              ("bursts", "gap", "utilization", "clients", "tokens", "rounds", "leave_mib")
              if getattr(arguments, name) is not None}
    if arguments.squeeze:
        chosen["squeeze_mib"] = tuple(arguments.squeeze)
    if arguments.light_seconds is not None:
        chosen["light_seconds"] = arguments.light_seconds
    if arguments.burst_seconds is not None:
        chosen.update(seconds=arguments.burst_seconds, rounds=arguments.rounds or 0)
    return dataclasses.replace(plan, **chosen)
