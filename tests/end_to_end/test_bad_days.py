"""What goes wrong around the shim leaves the engine right, alive, or honestly dead."""
import concurrent.futures
import copy
import json
import os
import re
import signal
import subprocess
import time
import unittest

from harness import ENGINE, KVWRAP, TOOL, Case, ON_GPU

SMALL = ["--layers", 2, "--pool-size", "64MiB", "--bursts", 2, "--requests", 2, "--tokens", 12,
         "--idle", 0.3, "--prefix"]


class Off(Case):
    def test_the_switch_turns_everything_off(self):
        run = self.run_engine(SMALL, KVSHIM_DISABLE=1)
        self.assertEqual(run.status, 0)
        self.assertEqual(run.log, "")
        self.assertIsNone(run.report)

    def test_an_unrecognised_allocation_is_left_alone(self):
        static = self.static_digests(SMALL)
        run = self.run_engine(SMALL, {"min_size": '"1GiB"'})
        self.assertEqual(run.digests, static)
        self.assertIsNone(run.report)  # no pool, no thread, no file

    def test_a_denied_allocation_is_left_alone(self):
        run = self.run_engine(SMALL, KVSHIM_ENABLED="false")
        self.assertEqual(run.status, 0)
        self.assertIsNone(run.report)


class Configuration(Case):
    def test_mistakes_are_one_line_each_and_the_engine_runs(self):
        static = self.static_digests(SMALL)
        for mistake, told in ((("idle_timout", '"1s"'), "idle_timeout"),
                              (("restore_time", "true"), "restore_time"),
                              (("read_ahead_max", '"0"'), "read_ahead_max"),
                              (("host_budget", '"16EiB"'), "host_budget")):
            with self.subTest(mistake=mistake):
                run = self.run_engine(SMALL, dict([mistake]))
                self.assertEqual(run.status, 0, run.log)
                self.assertEqual(run.digests, static)
                lines = [l for l in run.log.splitlines() if told in l and "kvshim.toml:" in l]
                self.assertEqual(len(lines), 1, run.log)

    def test_a_syntax_error_is_told_with_its_place(self):
        env = self.environment({})
        path = self.folder / "kvshim.toml"
        path.write_text("idle_timeout = = 3\n")
        done = subprocess.run([str(ENGINE), *map(str, SMALL)], env=env, capture_output=True,
                              text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stderr, r"kvshim\.toml:1:\d+")


class Wrapper(Case):
    def test_runs_the_engine_elastically(self):
        static = self.static_digests(SMALL)
        env = self.environment({}, preload=False)
        done = subprocess.run([str(KVWRAP), str(ENGINE), *map(str, SMALL)], env=env,
                              capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(static[-1], done.stdout)
        self.assertIn("pool 1:", self.log())

    def test_gives_the_commands_exit_code_and_signal(self):
        env = self.environment({}, preload=False)
        done = subprocess.run([str(KVWRAP), "sh", "-c", "exit 7"], env=env, timeout=30, check=False)
        self.assertEqual(done.returncode, 7)
        done = subprocess.run([str(KVWRAP), "sh", "-c", "kill -TERM $$"], env=env, timeout=30,
                              check=False)
        self.assertEqual(done.returncode, -signal.SIGTERM)


class Processes(Case):
    def test_without_cuda_there_is_no_thread_and_no_file(self):
        env = self.environment({})
        script = "import os; print(len(os.listdir('/proc/self/task'))); " \
                 "print(sorted(os.readlink('/proc/self/fd/' + f) for f in os.listdir('/proc/self/fd')" \
                 " if os.path.exists('/proc/self/fd/' + f)))"
        outputs = []
        for preload in (True, False):
            if not preload:
                env.pop("LD_PRELOAD")
            done = subprocess.run(["python3", "-c", script], env=env, capture_output=True, text=True,
                                  timeout=30, check=True, stdin=subprocess.DEVNULL)
            outputs.append(done.stdout.splitlines()[0])
        self.assertEqual(outputs[0], outputs[1])
        self.assertEqual([p.name for p in self.folder.iterdir()], ["kvshim.toml"])

    def test_a_stopped_engine_goes_on_where_it_was(self):
        static = self.static_digests([*SMALL, "--bursts", 4])
        engine = self.start([*SMALL, "--bursts", 4])
        for _ in range(6):
            time.sleep(0.08)
            engine.send_signal(signal.SIGSTOP)
            time.sleep(0.15)
            engine.send_signal(signal.SIGCONT)
        run = self.finish(engine)
        self.assertEqual(run.status, 0, run.log)
        self.assertEqual(run.digests, static)

    def test_a_killed_engine_leaves_nothing_behind(self):
        extra = {} if ON_GPU else {"KVSHIM_SIM_GPU": f"kill-{self.folder.name}"}
        static = self.static_digests(SMALL)
        for delay in (0.05, 0.15, 0.3):
            engine = self.start(SMALL, **extra)
            time.sleep(delay)
            engine.kill()
            engine.communicate()
        run = self.finish(self.start(SMALL, **extra))
        self.assertEqual(run.status, 0, run.log)
        self.assertEqual(run.digests, static)


@unittest.skipIf(ON_GPU, "failure injection is the simulator's")
class Failures(Case):
    # Of each entry point's calls; scripts/soak has more.
    NUMBERS = [int(n) for n in os.environ.get("KVSHIM_TEST_FAILURES", "1,2,3,5,9").split(",")]

    ARGUMENTS = ["--layers", 2, "--pool-size", "64MiB", "--bursts", 2, "--requests", 2,
                 "--tokens", 8, "--idle", 0.12, "--prefix", "--graphs"]
    AT_A_TIME = 2 * (os.cpu_count() or 1)  # engines pause half of their time

    OPTIONS = {"idle_timeout": '"40ms"'}
    # What the driver didn't take back stays.
    KEEPS = re.compile("cuMemUnmap|cuMemRelease|cuMemAddressFree")

    def failing(self, call, times):
        """The runs in which one of the call's times failed, of those that there are."""
        case = copy.copy(self)
        case.folder = self.folder / call
        case.folder.mkdir()
        leaks = case.folder / "leaks"
        runs = []
        for number in [n for n in self.NUMBERS if n <= times]:
            run = case.run_engine(self.ARGUMENTS, self.OPTIONS, timeout=60,
                                  KVSHIM_SIM_FAIL=f"{call}:{number}", KVSHIM_SIM_LEAKS=leaks)
            runs.append((number, run, self.left(leaks) if run.status == 0 else None))
        return runs

    def calls(self):
        """How often each entry point is called by the engine, or by kvshim for it."""
        trace, leaks = self.folder / "trace", self.folder / "leaks"
        run = self.run_engine(self.ARGUMENTS, self.OPTIONS, KVSHIM_SIM_TRACE=trace,
                              KVSHIM_SIM_LEAKS=leaks)
        self.assertEqual(run.status, 0, run.output + run.log)
        self.assertEqual(self.left(leaks), [], run.log)
        return {name: int(count) for name, count in map(str.split, trace.read_text().splitlines())}

    NOTHING = re.compile(r"\w+ 0 0|gpu_bytes 1 0|reservations 1 \d+")  # the arena's addresses

    def left(self, leaks):
        """What is alive in the driver when the process ends."""
        return [line for line in leaks.read_text().splitlines() if not self.NOTHING.fullmatch(line)]

    def test_each_call_failing_in_turn_is_honest_or_unnoticed(self):
        digests = self.static_digests(self.ARGUMENTS)
        calls = self.calls()
        self.assertGreater(len(calls), 60, "the run has become a smaller one")
        with concurrent.futures.ThreadPoolExecutor(self.AT_A_TIME) as pool:
            for call, runs in zip(calls, pool.map(self.failing, calls, calls.values())):
                for number, run, left in runs:
                    with self.subTest(call=call, number=number):
                        self.assertGreaterEqual(run.status, 0,
                                                f"killed by a signal\n{run.output}\n{run.log}")
                        if run.status != 0:
                            continue
                        self.assertEqual(run.digests, digests, run.log)
                        if not self.KEEPS.match(call):
                            self.assertEqual(left, [], run.log)


# Makes a pool, writes it, and is gone without a word to anybody.
ENDS_AT_ONCE = """
import ctypes, os, sys, time
cuda = ctypes.CDLL("libcuda.so.1")
context, pool = ctypes.c_void_p(), ctypes.c_ulonglong()
mib = 1 << 20
assert cuda.cuInit(0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cuda.cuCtxSetCurrent(context) == 0
assert cuda.cuMemAlloc_v2(ctypes.byref(pool), ctypes.c_size_t(64 * mib)) == 0
print("ready", flush=True)
sys.stdin.readline()
assert cuda.cuMemsetD8Async(pool, 7, ctypes.c_size_t(48 * mib), None) == 0
time.sleep(float(sys.argv[1]))
os._exit(7)
"""


@unittest.skipIf("KVSHIM_TEST_SANITIZED" in os.environ, "its engine is Python's")
class EndsAtOnce(Case):
    def members(self):
        done = subprocess.run([str(TOOL), "list", "--json"], capture_output=True, text=True,
                              timeout=60, check=True,
                              env={**os.environ, "KVSHIM_SEGMENT_DIR": str(self.folder)})
        return {p["pid"] for gpu in json.loads(done.stdout)["gpus"] for p in gpu["processes"]}

    def test_exit_without_handlers_keeps_its_code_and_leaves_no_member(self):
        # With a guard under way, while the pool is being released, and idle.
        for seconds in (0, 0.11, 0.5):
            with self.subTest(seconds=seconds):
                engine = subprocess.Popen(["python3", "-c", ENDS_AT_ONCE, str(seconds)],
                                          env=self.environment({}), text=True,
                                          stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                self.assertEqual(engine.stdout.readline(), "ready\n")
                end = time.monotonic() + 20
                while engine.pid not in self.members() and time.monotonic() < end:
                    time.sleep(0.02)
                self.assertIn(engine.pid, self.members(), "no pool, or no member")
                engine.communicate("\n", timeout=20)
                self.assertEqual(engine.returncode, 7, self.log())
                self.assertNotIn(engine.pid, self.members())
        run = self.run_engine(SMALL)  # who comes next works as ever
        self.assertEqual((run.status, run.digests), (0, self.static_digests(SMALL)), run.log)


if __name__ == "__main__":
    unittest.main(verbosity=2)
