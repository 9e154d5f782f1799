"""The experiments' way of running `vllm serve` on a GPU, with fakes of both: the command lines, the
API's answers, NVML, and what is written when time is up."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest

from experiments_run import BUILD, ROOT, Case

SITE = pathlib.Path(__file__).resolve().parent / "fake_site"
NVML = os.environ.get("KVSHIM_TEST_FAKE_NVML", ".")
LITTLE = ("--bursts", "2", "--rounds", "2", "--clients", "4", "--tokens", "20", "--gap", "0.8")


class RealServer(Case):
    def setUp(self):
        super().setUp()
        self.gpu = pathlib.Path(tempfile.mkdtemp(prefix="kvshim.test."))
        self.addCleanup(shutil.rmtree, self.gpu, ignore_errors=True)
        self.site = self.gpu / "site"
        shutil.copytree(SITE, self.site)

    def options(self, *more):
        return ("--gpu", "--site", str(self.site), "--model-a", "/m/a", "--model-b", "/m/b",
                "--cache-folder", str(self.gpu / "cache"), *LITTLE, *more)

    def surroundings(self):
        return {"FAKE_GPU": str(self.gpu),
                "LD_LIBRARY_PATH": f"{NVML}:{BUILD / 'tests/simulator'}"}

    def runs(self):
        """How the servers were run, by model and contestant."""
        facts = [json.loads(file.read_text()) for file in self.gpu.glob("*.facts")]
        return sorted((f["model"], f["preloaded"], bool(f["kvcached"]), f["gpu_memory_utilization"])
                      for f in facts)

    def test_each_contestant_gets_its_servers(self):
        (self.site / "kvcached").mkdir()
        (self.site / "kvcached" / "__init__.py").touch()
        names = ("single.static", "second.static", "single.elastic", "alternating.elastic",
                 "oversized.elastic", "single.kvcached")
        self.run_all(*self.options("--parts", ",".join(names), "--deadline", "900", "--pack"),
                     **self.surroundings())
        results = self.results()
        parts = results["parts"]
        # One server A serves all elastic parts.
        self.assertEqual(self.runs(), sorted([
            ("/m/a", False, False, 0.9), ("/m/b", False, False, 0.9), ("/m/a", True, False, 0.9),
            ("/m/b", True, False, 0.9), ("/m/a", False, True, 0.9)]))
        self.assertEqual(parts["single.static"]["idle_mib"], 478 + 4100)
        self.assertEqual(parts["single.elastic"]["idle_mib"], 478 + 100)
        self.assertEqual(parts["single.elastic"]["peak_mib"], 478 + 400)
        self.assertEqual(parts["alternating.elastic"]["peak_mib"], 478 + 500)
        # At once, both have their bursts' memory.
        self.assertEqual(parts["oversized.elastic"]["peak_mib"], 478 + 800)
        self.assertEqual(parts["single.kvcached"]["idle_mib"], 478 + 4100)
        for name in names:
            with self.subTest(part=name):
                self.assertEqual(parts[name]["failed_requests"], 0)
                for burst in parts[name]["bursts"]:
                    self.assertEqual(len(burst["requests"]),
                                     16 if name == "oversized.elastic" else 8)
                    for row in burst["requests"]:
                        self.assertGreater(row["ms"], row["first_ms"])
        self.assertEqual(results["comparison"]["single.elastic"],
                         {"answers": 16, "same": 16, "probes": 2, "same_probes": 2})
        # The fake NVML does not see the ballast; the simulated driver does, and says what is left.
        self.assertEqual(parts["oversized.elastic"]["usable_mib"], 600)
        self.assertIs(parts["single.static"]["servers"]["A"]["compiled"], True)
        self.assertIs(parts["alternating.elastic"]["servers"]["A"]["compiled"], False)
        self.assertIn("A found its model compiled, and compiled it without kvshim.",
                      (self.out / "summary.md").read_text())
        # Packed: few files, and the parts among them.
        self.assertFalse((self.out / "parts").exists())
        with tarfile.open(self.out / "details.tar.xz") as packed:
            inside = packed.getnames()
        for name in names:
            self.assertIn(f"./parts/{name}.json", inside)
        self.assertIn("./servers/3.A.elastic/log", inside)
        # What is packed is still known as finished.
        self.assertIn("single.elastic: finished before, skipped",
                      self.run_all(*self.options("--parts", "single.elastic", "--resume"),
                                   **self.surroundings()))

    def test_a_packed_vllm_is_unpacked_and_missing_models_are_written(self):
        packed, there = self.gpu / "vllm.tar.xz", self.gpu / "there"
        with tarfile.open(packed, "w:xz") as archive:
            archive.add(self.site, "site")
        maker = self.gpu / "make_model.py"
        maker.write_text("import pathlib, sys\n"
                         "folder = pathlib.Path(sys.argv[1])\n"
                         "folder.mkdir(parents=True)\n"
                         "(folder / 'config.json').write_text(' '.join(sys.argv[2:]))\n")
        models = {name: self.gpu / "models" / name for name in "ab"}
        self.run_all("--gpu", "--archive", str(packed), "--site", str(there / "site"),
                     "--make-model", str(maker), "--model-a", str(models["a"]), "--model-b",
                     str(models["b"]), "--cache-folder", str(self.gpu / "cache"), *LITTLE,
                     "--parts", "single.static", "--tutorial-flags", **self.surroundings())
        self.assertEqual((models["a"] / "config.json").read_text(),
                         "--shape qwen2.5-0.5b --weights")
        self.assertEqual((models["b"] / "config.json").read_text(),
                         "--shape qwen2.5-1.5b --weights")
        facts, = [json.loads(file.read_text()) for file in self.gpu.glob("*.facts")]
        self.assertTrue(facts["enforce_eager"] and facts["no_enable_prefix_caching"])

    def test_the_same_work_with_less_and_less_gpu(self):
        said = self.run_all(*self.options("--parts", "squeezed.elastic", "--squeeze", "4096,600"),
                            **self.surroundings())
        steps = self.part("squeezed.elastic")["steps"]
        self.assertEqual([step["usable_mib"] for step in steps], [4096, 600])
        self.assertEqual(len(self.part("squeezed.elastic")["bursts"]), 2 * 3)  # one isn't measured
        for step in steps:
            self.assertEqual(step["tokens"]["A"], step["tokens"]["B"])
            self.assertEqual(step["tokens"]["A"], steps[0]["tokens"]["A"])
            self.assertGreater(step["tokens"]["A"], 0)
        # Where a look came late, on a busy machine, nothing is said.
        counted = [step["pcie_mib"] for step in steps if step["pcie_mib"]]
        self.assertTrue(counted)
        for to_gpu, from_gpu in counted:
            self.assertGreater(from_gpu, 0)
            self.assertEqual(to_gpu, 3 * from_gpu)
        self.assertRegex(said, r"\| 600 \| \d+ \| \d+ \| [0-9.]+ \|.*\| 0 \|")

    def test_a_ballast_leaves_to_pools_what_it_says_on_a_gpu_of_any_size(self):
        for gib in (60, 140):
            done = subprocess.run(
                [sys.executable, str(ROOT / "scripts/experiments/ballast.py"), "600"],
                env={**os.environ, **self.surroundings(), "KVSHIM_SIM_MEMORY": str(gib << 30)},
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True)
            held, usable = map(int, re.fullmatch(
                r"holds (\d+) MiB, pools may take (\d+) MiB\n", done.stdout).groups())
            self.assertIn(usable, (600, 601))
            left_alone = gib * 1024 - held - usable  # and what contexts take
            self.assertGreaterEqual(left_alone, int(gib * 10.24))
            self.assertLess(left_alone, int(gib * 10.24) + 400)

    def test_without_kvcached_a_line_says_so(self):
        said = self.run_all(*self.options("--parts", "oversized.static"), **self.surroundings())
        self.assertIn("kvcached was not there: no third contestant", said)
        self.assertIn("Free memory on device", self.part("oversized.static")["refused"])

    def test_a_server_that_dies_costs_its_part_only(self):
        vllm = self.site / "bin" / "vllm"
        vllm.write_text(vllm.read_text().replace(
            "        with memory:\n", "        if elastic: os._exit(7)\n        with memory:\n"))
        said = self.run_all(*self.options("--parts", "single.elastic,single.static"), status=1,
                            **self.surroundings())
        self.assertIn("not complete: single.elastic", said)
        self.assertIn("ended with 7", self.part("single.elastic")["error"])
        self.assertTrue(self.part("single.static")["complete"])

    def test_when_it_is_stopped_it_writes_what_there_is_and_leaves_nothing_behind(self):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("KVSHIM_")}
        options = self.options("--parts", "single.elastic,single.static", "--gap", "600")
        with subprocess.Popen(
                [sys.executable, str(ROOT / "scripts/experiments/run_all"), "--build", str(BUILD),
                 "--out", str(self.out), *options, "--deadline", "9000"],
                env={**clean, **self.surroundings()}, stdout=subprocess.PIPE, text=True) as run:
            self.addCleanup(run.kill)
            for line in run.stdout:
                if "is ready" in line:
                    break
            run.send_signal(signal.SIGTERM)
            self.assertEqual(run.wait(30), 3)
        part = self.part("single.elastic")
        self.assertEqual((part["complete"], part["error"]), (False, "stopped"))
        self.assertIn("NOT COMPLETE", (self.out / "summary.md").read_text())
        server = next(file for file in self.gpu.iterdir() if file.suffix == ".facts").stem
        end = time.monotonic() + 10
        while pathlib.Path(f"/proc/{server}").exists():
            self.assertLess(time.monotonic(), end, "the server outlives the run")
            time.sleep(0.05)

    def test_nvml_is_asked_without_pynvml_too(self):
        (self.gpu / str(os.getpid())).write_text("22")
        with subprocess.Popen(
                [sys.executable, str(ROOT / "scripts/experiments/memory_watch.py"), "10",
                 "--ctypes"], env={**os.environ, **self.surroundings()}, stdout=subprocess.PIPE,
                text=True) as watch:
            self.addCleanup(watch.kill)
            self.assertEqual(int(watch.stdout.readline().split()[1]), 500 << 20)
            watch.terminate()


if __name__ == "__main__":
    unittest.main()
