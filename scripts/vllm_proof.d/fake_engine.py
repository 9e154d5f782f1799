"""An engine without a GPU, to rehearse the orchestration: the answers have the shape of real ones.

Its "GPU memory" is one file per process in a shared folder, which the sampler adds up. The elastic
one grows with what is written, shrinks after its idle time-out, and writes the shim's log lines and
status file as the real shim does.
"""
import hashlib
import json
import os
import pathlib
import threading
import time

MIB = 1 << 20
WEIGHTS_MIB = 4500
POOLS = 24


class FakeEngine:
    def __init__(self, options):
        self.elastic = options.fake_elastic
        self.folder = pathlib.Path(options.fake_memory)
        self.pool_mib = int(81559 * options.util - WEIGHTS_MIB) // POOLS // 2 * 2
        if options.kv_bytes:
            self.pool_mib = options.kv_bytes // POOLS // MIB // 2 * 2
        self.token_bytes = 12288
        self.resident = 0
        self.parked = 0
        self.releases = 0
        self.faults = 0
        self.fault_us = 0
        self.seen = set()
        self.last_work = time.monotonic()
        self.lock = threading.Lock()
        time.sleep(0.3)
        if os.environ.get("FAKE_FAIL") == options.name:
            raise RuntimeError("the fake engine was told to fail")
        self.timeout = float(os.environ.get("KVSHIM_IDLE_TIMEOUT", "2s").rstrip("s"))
        if self.elastic:
            for i in range(POOLS):
                self.log(f"pool {i}: {self.pool_mib} MiB on GPU 0 because a fake says so; "
                         f"{self.pool_mib} MiB of addresses, 2 to 32 MiB pages, host budget 32768 MiB")
            threading.Thread(target=self.release_when_idle, daemon=True).start()
        self.show_memory()

    def facts(self):
        return {"num_blocks": self.pool_mib * MIB * POOLS // (16 * self.token_bytes), "block_size": 16}

    def log(self, text):
        file = os.environ.get("KVSHIM_LOG_FILE")
        if file:
            with open(file, "a") as f:
                f.write(f"kvshim[{os.getpid()}]: info: {text}\n")

    def show_memory(self):
        used = WEIGHTS_MIB + (self.resident if self.elastic else self.pool_mib * POOLS)
        path = self.folder / f"{os.getpid()}.next"
        path.write_text(str(used))
        path.rename(self.folder / str(os.getpid()))
        status = os.environ.get("KVSHIM_STATUS_DIR")
        if self.elastic and status:
            pools = [{"id": i, "bytes": self.pool_mib * MIB, "resident": self.resident * MIB // POOLS,
                      "parked": self.parked * MIB // POOLS, "absent": 0, "pinned": False, "group": "g",
                      "reason": "fake"} for i in range(POOLS)]
            text = json.dumps({"version": "fake", "pid": os.getpid(), "config": "defaults",
                               "managed_bytes": 0, "devices": [{
                                   "device": 0, "pools": pools, "resident": self.resident * MIB,
                                   "parked": self.parked * MIB, "absent": 0, "zero_handles": 0,
                                   "host_bytes": self.parked * MIB, "host_budget": 32 << 30,
                                   "faults": {"count": self.faults, "total_us": self.fault_us,
                                              "p50_us": 4000, "p99_us": 6000, "max_us": 7000,
                                              "granules": 0, "in_host_memory": 0, "failed": 0},
                                   "releases": self.releases, "released_zero_bytes": 0,
                                   "parked_bytes_total": self.parked * MIB, "dropped_bytes": 0,
                                   "promotions": 0, "promoted_bytes": 0, "dropped_fills": 48,
                                   "dropped_fill_bytes": self.pool_mib * MIB * POOLS}],
                               "unknown_kernels": []})
            file = pathlib.Path(status) / f"{os.getpid()}.json"
            file.with_suffix(".next").write_text(text)
            file.with_suffix(".next").rename(file)

    def release_when_idle(self):
        while True:
            time.sleep(0.01)
            with self.lock:
                if self.resident and time.monotonic() - self.last_work > self.timeout:
                    self.log(f"released {self.resident} MiB in 20 ms: 0 MiB zero, {self.resident} MiB "
                             "parked in host memory, 0 MiB dropped")
                    self.parked += self.resident
                    self.resident = 0
                    self.releases += 1
                    self.show_memory()

    def burst(self, prompts, tokens, logprobs):
        begin = time.time()
        cached = 0
        with self.lock:
            for prompt in prompts:
                if prompt in self.seen:
                    cached += len(prompt) // 16 * 16
                self.seen.add(prompt)
            written = sum(map(len, prompts)) - cached + len(prompts) * (tokens - 1)
            self.last_work = time.monotonic() + 60
            if self.elastic:
                if self.parked and not self.resident:
                    self.log("brought back 64 MiB in 1500 us before the first work")
                self.resident += written * self.token_bytes // MIB + 60
                self.faults += 3
                self.fault_us += 9000
            self.show_memory()
        time.sleep(0.0002 * tokens)
        with self.lock:
            self.last_work = time.monotonic()
        digests = [hashlib.sha256(f"{p} {tokens}".encode()).hexdigest()[:8] for p in prompts]
        if os.environ.get("FAKE_WRONG") and self.elastic:
            digests[0] = "wrong"
        end = time.time()
        return {"begin": begin, "end": end, "seconds": end - begin, "digests": digests,
                "prompt_tokens": sum(map(len, prompts)), "output_tokens": tokens * len(prompts),
                "cached_tokens": cached}

    def submit(self, prompts, tokens):
        self.submitted = self.burst(prompts, tokens, True)["digests"]
        self.steps_left = tokens + 1
        return {"submitted": len(prompts)}

    def step(self, count):
        steps = min(count, self.steps_left)
        self.steps_left -= steps
        time.sleep(0.0001 * steps)
        ended = self.steps_left == 0
        return {"seconds": 0.0001 * steps, "steps": steps, "ended": ended,
                "digests": self.submitted if ended else None}

    def close(self):
        (self.folder / str(os.getpid())).unlink(missing_ok=True)
