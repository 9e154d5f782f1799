"""What goes wrong around the shim leaves the engine right, alive, or honestly dead."""
import concurrent.futures
import copy
import os
import re
import signal
import subprocess
import time
import unittest

from harness import BUILD, ENGINE, KVWRAP, LIBRARY, Case, ON_GPU

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
    CALLS = ["cuMemCreate", "cuMemMap", "cuMemSetAccess", "cuMemUnmap", "cuMemRelease",
             "cuMemAddressReserve", "cuMemHostAlloc", "cuLaunchKernel", "cuStreamCreateWithPriority",
             "cuLibraryLoadData", "cuLibraryGetKernel", "cuMemcpyDtoDAsync_v2", "cuStreamQuery",
             "cuEventCreate", "cuEventRecord", "cuEventQuery", "cuStreamWaitEvent", "cuMemGetInfo_v2",
             "cuMemHostGetDevicePointer_v2", "cuMemsetD8Async", "cuCtxGetCurrent", "cuCtxGetDevice",
             "cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2", "cuCtxSetCurrent",
             "cuThreadExchangeStreamCaptureMode", "cuDeviceGetAttribute", "cuCtxSynchronize",
             "cuMemGetAllocationGranularity", "cuPointerGetAttribute", "cuStreamGetCaptureInfo_v2",
             "cuStreamIsCapturing", "cuFuncGetParamInfo", "cuFuncGetName", "cuKernelGetParamInfo"]
    NUMBERS = [int(n) for n in os.environ.get("KVSHIM_TEST_FAILURES", "1,2,3,5,9,17").split(",")]

    ARGUMENTS = ["--layers", 2, "--pool-size", "64MiB", "--bursts", 2, "--requests", 2,
                 "--tokens", 8, "--idle", 0.12, "--prefix", "--graphs"]
    AT_A_TIME = 2 * (os.cpu_count() or 1)  # engines pause half of their time

    def failing(self, call):
        """The runs in which one of the call's times failed, as long as it came to that."""
        case = copy.copy(self)
        case.folder = self.folder / call
        case.folder.mkdir()
        trace = case.folder / "trace"
        runs = []
        for number in self.NUMBERS:
            run = case.run_engine(self.ARGUMENTS, {"idle_timeout": '"40ms"'}, timeout=60,
                                  KVSHIM_SIM_FAIL=f"{call}:{number}", KVSHIM_SIM_TRACE=trace)
            runs.append((number, run))
            if run.status == 0 and self.calls(trace, call) < number:
                break
        return runs

    @staticmethod
    def calls(trace, call):
        """All variants of a name are counted together, as the simulator does."""
        return sum(int(count) for name, count in map(str.split, trace.read_text().splitlines())
                   if name == call or re.sub(r"(_v\d)?(_pt[sd][sz])?$", "", name) == call)

    def test_each_call_failing_in_turn_is_honest_or_unnoticed(self):
        digests = self.static_digests(self.ARGUMENTS)
        with concurrent.futures.ThreadPoolExecutor(self.AT_A_TIME) as pool:
            for call, runs in zip(self.CALLS, pool.map(self.failing, self.CALLS)):
                for number, run in runs:
                    with self.subTest(call=call, number=number):
                        self.assertGreaterEqual(run.status, 0,
                                                f"killed by a signal\n{run.output}\n{run.log}")
                        if run.status == 0:
                            self.assertEqual(run.digests, digests, run.log)


if __name__ == "__main__":
    unittest.main(verbosity=2)
