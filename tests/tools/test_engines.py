"""The tools beside engines that run under the preload, on the simulator."""
import json
import os
import subprocess
import time
import unittest

from program import (DONE, ENGINE, GIB, LIBRARY, MIB, NO_PROCESS, SANITIZED, SIMULATOR, Case)

RULES = """
idle_timeout = "100ms"
min_size = "16MiB"
arena_size = "64GiB"
log_file = "{folder}/log"
status_dir = "{folder}"
segment_dir = "{segments}"
[[rules]]
action = "allow"
min_size = "32MiB"
"""


class Engines(Case):
    def engine(self, *arguments):
        config = self.folder / "kvshim.toml"
        config.write_text(RULES.format(folder=self.folder, segments=self.segments))
        env = self.environment(
            KVSHIM_CONFIG=config, LD_LIBRARY_PATH=SIMULATOR,
            KVSHIM_SIM_GPU=self.folder / "gpu", KVSHIM_SIM_MEMORY=4 * GIB,
            LD_PRELOAD=":".join(filter(None, [os.environ.get("KVSHIM_TEST_SANITIZER_RUNTIME"),
                                              str(LIBRARY)])))
        for name in ("KVSHIM_SEGMENT_DIR", "KVSHIM_STATUS_DIR"):
            del env[name]
        process = subprocess.Popen([str(ENGINE), *map(str, arguments)], env=env,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.addCleanup(process.communicate, timeout=20)
        self.addCleanup(process.kill)
        return process

    def wait_for(self, condition, seconds=40):
        end = time.monotonic() + seconds
        while True:
            value = condition()
            if value:
                return value
            self.assertLess(time.monotonic(), end, self.kvshim("list"))
            time.sleep(0.05)

    def test_top_and_list_show_what_engines_have(self):
        engines = [self.engine("--layers", 4, "--pool-size", "128MiB", "--bursts", 1, "--idle", 60,
                               "--seed", seed) for seed in (1, 2)]
        pids = {engine.pid for engine in engines}

        def released():
            found = self.processes()
            return found if pids <= set(found) and all(
                found[pid]["releases"] > 0 and found[pid]["faults"]["count"] > 0 for pid in pids) else None

        found = self.wait_for(released)
        for pid in pids:
            process = found[pid]
            self.assertEqual(process["name"], "kvshim_engine")
            self.assertEqual(process["pool_bytes"], 512 * MIB)
            self.assertEqual(process["resident_bytes"] + process["parked_bytes"] + process["absent_bytes"],
                             512 * MIB)
            self.assertGreater(process["absent_bytes"], 256 * MIB)
        screen = self.kvshim("top", "--once", "--width", "80")
        for pid in pids:
            self.assertRegex(screen, rf"(?m)^[AB] +{pid} kvshim_eng")
        self.assertLessEqual(max(map(len, screen.splitlines())), 80)

    def test_an_engine_acknowledges_what_it_is_told(self):
        engine = self.engine("--layers", 2, "--pool-size", "128MiB", "--bursts", 1, "--idle", 60)
        self.wait_for(lambda: self.processes().get(engine.pid))
        self.assertIn("; acknowledged after ", self.kvshim("limit", engine.pid, "50%", "--wait", "20"))
        self.assertEqual(self.processes()[engine.pid]["limit_bytes"], 2 * GIB)
        self.kvshim("pause", engine.pid, "--wait", "20")
        self.assertTrue(self.processes()[engine.pid]["paused"])
        self.kvshim("resume", engine.pid, "--wait", "20")
        self.kvshim("limit", engine.pid, "none", "--wait", "20")
        self.assertIsNone(self.processes()[engine.pid]["limit_bytes"])

    def test_explain_names_pools_and_kernels_with_reasons(self):
        engine = self.engine("--layers", 3, "--pool-size", "64MiB", "--bursts", 1, "--idle", 60,
                             "--unknown")

        def told():
            path = self.folder / f"{engine.pid}.json"
            return path.exists() and "kvshim_engine_mystery" in path.read_text()

        self.wait_for(told)
        text = self.kvshim("explain", engine.pid)
        self.assertRegex(text, r"pools 1 to 3: 3 x 64 MiB because allowed by the rule at .*kvshim.toml:\d+")
        self.assertRegex(text, r"(?s)reshape_and_cache.*guarded write: vllm")
        self.assertRegex(text, r"(?s)kvshim_engine_mystery\n    may write to pool ends: no profile entry")
        self.assertIn("docs/profiles.md", text)
        document = self.document("explain", engine.pid)
        self.assertEqual(len(document["devices"][0]["pools"]), 3)
        by_name = {kernel["name"]: kernel for kernel in document["kernels"]}
        self.assertGreater(by_name["kvshim_engine_mystery"]["unknown_launches"], 0)
        self.assertEqual({kernel["role"] for kernel in document["kernels"]},
                         {"reader", "writer", "zero fill", "unknown"})
        self.assertIn(f"process {engine.pid}: running", self.kvshim("explain", "kvshim_engine"))

    def test_explain_keeps_the_last_words_and_knows_who_never_spoke(self):
        engine = self.engine("--layers", 1, "--pool-size", "64MiB", "--bursts", 1)
        output, _ = engine.communicate(timeout=60)
        self.assertEqual(engine.returncode, 0, output)
        self.assertIn("ended (these are its last words)", self.kvshim("explain", engine.pid))
        words = json.loads((self.folder / f"{engine.pid}.json").read_text())
        words["pid"] = os.getpid()
        earlier = self.folder / f"{os.getpid()}.json"
        earlier.write_text(json.dumps(words))
        self.kvshim("explain", os.getpid(), code=NO_PROCESS)
        self.assertIn("of an earlier process with this number", self.said)
        earlier.unlink()
        self.kvshim("explain", "4194305", code=NO_PROCESS)
        self.kvshim("explain", os.getpid(), code=NO_PROCESS)
        self.assertIn("has no status file", self.said)

    @unittest.skipIf(SANITIZED, "a sanitized library can't be tried in a plain child")
    def test_doctor_sees_that_the_preload_is_active(self):
        engine = self.engine("--layers", 1, "--pool-size", "64MiB", "--bursts", 1, "--idle", 60)
        self.wait_for(lambda: (self.folder / f"{engine.pid}.json").exists())
        text = self.kvshim("doctor", "--pid", engine.pid, LD_LIBRARY_PATH=SIMULATOR)
        self.assertIn("OK    process: active: 1 pools of 64 MiB in all", text)


if __name__ == "__main__":
    unittest.main()
