"""Several engines where something around them is not as it should be."""
import os
import subprocess
import unittest

from harness import ENGINE, LIBRARY, ON_GPU
from servers import SHAPE, Servers
from test_neighbours import REQUESTS

# The time of day jumps a day back or forth with every question.
JUMPING_CLOCK = """
#define _GNU_SOURCE
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static atomic_long turn;
static long jump(void) { return (atomic_fetch_add(&turn, 1) % 7 - 3) * 86400; }
int clock_gettime(clockid_t clock, struct timespec* now) {
  const int result = (int)syscall(SYS_clock_gettime, clock, now);
  if (clock == CLOCK_REALTIME && result == 0) now->tv_sec += jump();
  return result;
}
time_t time(time_t* now) {
  struct timespec t;
  syscall(SYS_clock_gettime, CLOCK_REALTIME, &t);
  const time_t seconds = t.tv_sec + jump();
  if (now) *now = seconds;
  return seconds;
}
int gettimeofday(struct timeval* now, void* zone) {
  (void)zone;
  struct timespec t;
  syscall(SYS_clock_gettime, CLOCK_REALTIME, &t);
  now->tv_sec = t.tv_sec + jump();
  now->tv_usec = t.tv_nsec / 1000;
  return 0;
}
"""


@unittest.skipIf(ON_GPU, "GPUs of these sizes are simulated")
class BadDays(Servers):
    def test_folders_that_cannot_be_written_cost_only_neighbours_and_a_line(self):
        expected = self.alone([0, 1], REQUESTS)
        engine = self.server(REQUESTS, {"status_dir": '"/proc/kvshim"', "segment_dir": '"/proc"',
                                        "idle_timeout": '"100ms"'})
        self.assertEqual([engine.burst(0), engine.burst(1)], expected, self.all_logs())
        self.eventually(lambda: "neighbours and tools can't see this process" in
                        engine.log.read_text(), 20)
        log = engine.log.read_text()
        self.assertEqual(log.count("no status file: /proc/kvshim"), 1, log)
        self.assertEqual(log.count("neighbours and tools can't see this process"), 1, log)

    @unittest.skipIf("KVSHIM_TEST_SANITIZED" in os.environ, "the sanitizers have clocks of their own")
    def test_a_clock_that_jumps_changes_nothing(self):
        expected = self.alone(range(3), REQUESTS)
        source, library = self.folder / "clock.c", self.folder / "clock.so"
        source.write_text(JUMPING_CLOCK)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
        preloads = ":".join(filter(None, [os.environ.get("KVSHIM_TEST_SANITIZER_RUNTIME"),
                                          str(library), str(LIBRARY)]))
        engines = [self.server(REQUESTS, {"idle_timeout": '"1s"'},
                               command=["env", f"LD_PRELOAD={preloads}", str(ENGINE)])
                   for _ in range(2)]
        for number in range(3):
            for engine in engines:
                engine.ask(number)
            self.assertEqual([e.digest() for e in engines], [expected[number]] * 2, self.all_logs())
        for engine in engines:  # in its own time: neither at once nor in a day
            self.shows(engine, lambda p: p["resident_bytes"] == 0 and p["idle_seconds"] >= 0.9)

    def test_strangers_share_a_gpu_as_without_kvshim(self):
        # As two users: no segment in common.
        expected = self.alone(range(2), REQUESTS)
        other = self.folder / "other"
        other.mkdir()
        one = self.server(REQUESTS)
        two = self.server(REQUESTS, {"segment_dir": f'"{other}"'})
        for number in range(2):
            for engine in (one, two):
                engine.ask(number)
            self.assertEqual([one.digest(), two.digest()], [expected[number]] * 2, self.all_logs())
        self.assertEqual(set(self.processes()), {one.pid})
        reports = [self.wait_for_report(e.pid, lambda d: d["faults"]["count"] > 0) for e in (one, two)]
        self.assertEqual([r["devices"][0]["given_bytes"] for r in reports], [0, 0])

    def test_a_gpu_that_disappears_ends_its_engine_honestly_and_no_other(self):
        lost = 214  # uncorrectable: what a lost GPU's driver says to everything
        calls = ("cuMemCreate", "cuMemMap", "cuMemSetAccess", "cuMemUnmap", "cuMemRelease",
                 "cuLaunchKernel", "cuMemcpyDtoDAsync_v2", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoH_v2",
                 "cuStreamQuery", "cuStreamSynchronize", "cuEventRecord", "cuEventQuery",
                 "cuMemGetInfo_v2", "cuMemHostAlloc", "cuCtxSynchronize", "cuMemAlloc_v2")
        expected = self.alone([0, 1], REQUESTS)
        survivor = self.server(REQUESTS)
        self.assertEqual(survivor.burst(0), expected[0])
        for after in (60, 400):
            with self.subTest(after=after):
                victim = self.start(
                    [*SHAPE, *REQUESTS, "--bursts", 4], {"idle_timeout": '"100ms"'},
                    KVSHIM_SIM_GPU=self.gpu, KVSHIM_SIM_MEMORY=self.MEMORY,
                    KVSHIM_SIM_FAIL=",".join(f"{call}:{after}+={lost}" for call in calls))
                run = self.finish(victim, 60)
                # Builds that check the invariants stop where a mapping is lost.
                stopped = run.status == -6 and run.logged("invariant broken .* lost their mapping")
                if not stopped:
                    self.assertGreater(run.status, 0, run.output + run.log)
                self.assertNotIn(victim.pid, self.processes())
        self.assertEqual(survivor.burst(1), expected[1], self.all_logs())


@unittest.skipIf(ON_GPU, "MPS is played by the simulator")
class Mps(Servers):
    def test_nothing_is_made_present_on_a_profiles_word_alone(self):
        expected = self.alone([0])
        plain, under = self.server(), self.server(KVSHIM_SIM_MPS=1)
        for engine in (plain, under):
            self.assertEqual(engine.burst(0), expected[0])
        self.wait_for_report(plain.pid, lambda d: d["faults"]["granules_ahead"] > 0)
        self.wait_for_report(under.pid, lambda d: d["faults"]["count"] > 0)
        self.assertEqual(self.report(under.pid)["devices"][0]["faults"]["granules_ahead"], 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
