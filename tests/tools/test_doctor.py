"""doctor, config and bench: findings, exit codes, and drivers that misbehave."""
import os
import pathlib
import subprocess
import time
import unittest

from program import (CANNOT_WRITE, DONE, FINDINGS, KVSHIM, KVWRAP, LIBRARY, NO_GPU, NO_PROCESS,
                     SANITIZED, SIMULATOR, USAGE, Case)

CRASHING_DRIVER = """
int cuInit(unsigned flags) { (void)flags; __builtin_trap(); }
int cuDriverGetVersion(int* version) { *version = 13000; return 0; }
int cuDeviceGetCount(int* count) { *count = 0; return 0; }
"""
HANGING_DRIVER = """
#include <unistd.h>
int cuInit(unsigned flags) { (void)flags; for (;;) pause(); }
int cuDriverGetVersion(int* version) { *version = 13000; return 0; }
int cuDeviceGetCount(int* count) { *count = 0; return 0; }
"""


class DoctorCase(Case):
    def doctor(self, *arguments, code=DONE, **extra):
        """Findings as (level, subject): text and remedy."""
        document = self.document_of("doctor", *arguments, code=code, **extra)
        return document["findings"]

    def document_of(self, command, *arguments, code, **extra):
        import json
        split = arguments.index("--") if "--" in arguments else len(arguments)
        words = [command, *arguments[:split], "--json", *arguments[split:]]
        extra.setdefault("LD_LIBRARY_PATH", SIMULATOR)
        return json.loads(self.kvshim(*words, code=code, **extra))

    def finding(self, findings, subject, level=None):
        found = [f for f in findings if f["subject"] == subject and level in (None, f["level"])]
        self.assertTrue(found, f"no {level} {subject} in {findings}")
        return found[0]

    def driver(self, source):
        folder = self.folder / "driver"
        folder.mkdir()
        (folder / "driver.c").write_text(source)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", folder / "driver.c"],
                       check=True, timeout=60)
        return folder


@unittest.skipIf(SANITIZED, "a sanitized library can't be tried in a plain child")
class Machine(DoctorCase):
    def test_is_well_on_the_simulator(self):
        findings = self.doctor()
        self.assertEqual(self.finding(findings, "driver")["level"], "OK")
        self.assertIn("virtual memory management", self.finding(findings, "GPU", "OK")["text"])
        self.assertIn(str(LIBRARY), self.finding(findings, "library", "OK")["text"])
        self.assertIn("defaults", self.finding(findings, "configuration", "OK")["text"])
        text = self.kvshim("doctor", LD_LIBRARY_PATH=SIMULATOR)
        self.assertRegex(text, r"(?m)^OK    driver: ")

    def test_makes_no_context(self):
        trace = self.folder / "trace"
        self.doctor(KVSHIM_SIM_TRACE=trace)
        calls = trace.read_text()
        self.assertIn("cuInit", calls)
        self.assertNotIn("Ctx", calls)
        self.assertNotIn("cuMemCreate", calls)

    def test_fails_without_a_driver(self):
        finding = self.finding(self.doctor(code=FINDINGS, LD_LIBRARY_PATH="/nowhere"), "driver", "FAIL")
        self.assertIn("libcuda.so.1", finding["text"])
        self.assertTrue(finding["remedy"])

    def test_survives_a_driver_that_crashes(self):
        findings = self.doctor(code=FINDINGS, LD_LIBRARY_PATH=self.driver(CRASHING_DRIVER))
        self.assertIn("ends the program that asks it", self.finding(findings, "driver", "FAIL")["text"])

    def test_survives_a_driver_that_hangs(self):
        start = time.monotonic()
        findings = self.doctor(code=FINDINGS, LD_LIBRARY_PATH=self.driver(HANGING_DRIVER))
        self.assertIn("did not answer", self.finding(findings, "driver", "FAIL")["text"])
        self.assertLess(time.monotonic() - start, 40)

    def test_fails_on_a_gpu_without_virtual_memory(self):
        self.finding(self.doctor(code=FINDINGS, KVSHIM_SIM_NO_VMM=1), "GPU", "FAIL")

    def test_names_the_place_of_a_mistake_in_the_configuration(self):
        path = self.folder / "bad.toml"
        path.write_text('idle_timeout = "2s"\nmin_sice = "1GiB"\n')
        finding = self.finding(self.doctor(code=FINDINGS, KVSHIM_CONFIG=path), "configuration", "FAIL")
        self.assertIn(f"{path}:2:1", finding["text"])

    def test_fails_where_the_library_cannot_be_loaded(self):
        broken = self.folder / "libkvshim.so"
        broken.write_bytes(b"\x7fELF and no more")
        self.finding(self.doctor(code=FINDINGS, KVSHIM_LIBRARY=broken), "library", "FAIL")

    def test_warns_of_folders_that_cannot_be_used(self):
        findings = self.doctor(code=FINDINGS, KVSHIM_STATUS_DIR="/tmp",
                               KVSHIM_SEGMENT_DIR=self.folder / "missing")
        self.finding(findings, "runtime folder", "WARN")
        self.finding(findings, "shared memory", "FAIL")

    def test_tells_of_a_damaged_segment(self):
        path = self.segments / f"kvshim-{os.geteuid()}-GPU-11111111-2222-3333-4444-555555555555"
        path.write_bytes(b"\xff" * 400000)
        path.chmod(0o600)
        self.assertIn(str(path), self.finding(self.doctor(), "segment", "WARN")["text"])

    def test_knows_what_keeps_a_command_from_being_elastic(self):
        findings = self.doctor("--", "/bin/true", "vllm", "serve", "model", "--enable-sleep-mode",
                               code=FINDINGS)
        self.assertIn("--enable-sleep-mode", self.finding(findings, "command line", "FAIL")["remedy"])
        findings = self.doctor("--", "/bin/true", "vllm", "--kv-transfer-config", "{}", code=FINDINGS)
        self.assertIn("connector", self.finding(findings, "command line", "FAIL")["text"])
        findings = self.doctor("--", "/bin/true", "vllm", code=FINDINGS,
                               PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True")
        self.assertIn("expandable_segments", self.finding(findings, "command line", "FAIL")["text"])
        self.finding(self.doctor("--", "/bin/true", "vllm", "serve"), "command line", "OK")
        self.finding(self.doctor("--", "no-such-engine", code=FINDINGS), "program", "FAIL")


@unittest.skipIf(SANITIZED, "a sanitized library can't be preloaded into plain programs")
class Processes(DoctorCase):
    def sleeper(self, *prefix, **extra):
        process = subprocess.Popen([*map(str, prefix), "sleep", "60"], env=self.environment(**extra))
        self.addCleanup(process.wait, 20)
        self.addCleanup(process.kill)
        end = time.monotonic() + 20  # until it has become what it is to be
        while time.monotonic() < end:
            if b"sleep\x0060" in pathlib.Path(f"/proc/{process.pid}/cmdline").read_bytes()[:9]:
                return process
            time.sleep(0.01)
        self.fail("it never started")
        return None

    def wait_until_mapped(self, process):
        end = time.monotonic() + 20
        while "libkvshim.so" not in pathlib.Path(f"/proc/{process.pid}/maps").read_text():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)

    def test_tells_a_process_without_the_library(self):
        process = self.sleeper()
        finding = self.finding(self.doctor("--pid", process.pid, code=FINDINGS), "process", "FAIL")
        self.assertIn("runs without kvshim", finding["text"])
        self.assertIn("kvwrap", finding["remedy"])

    def test_tells_a_process_with_the_library(self):
        process = self.sleeper(KVWRAP)
        self.wait_until_mapped(process)
        finding = self.finding(self.doctor("--pid", process.pid), "process", "OK")
        self.assertIn("not used CUDA", finding["text"])

    def test_tells_a_process_where_it_is_turned_off(self):
        process = self.sleeper(KVWRAP, KVSHIM_DISABLE=1)
        self.wait_until_mapped(process)
        self.assertIn("turned off", self.finding(self.doctor("--pid", process.pid), "process")["text"])

    def test_knows_no_process_that_is_not_there(self):
        self.kvshim("doctor", "--pid", "4194305", code=NO_PROCESS, LD_LIBRARY_PATH=SIMULATOR)
        self.kvshim("doctor", "--pid", "one", code=USAGE, LD_LIBRARY_PATH=SIMULATOR)


class Configuration(Case):
    def test_sample_is_a_good_file(self):
        path = self.folder / "sample.toml"
        path.write_text(self.kvshim("config", "sample"))
        self.assertIn("good", self.kvshim("config", "check", path))
        self.assertEqual(self.document("config", "check", path)["problems"], [])

    def test_check_names_every_mistake_by_its_place(self):
        path = self.folder / "bad.toml"
        path.write_text('idle_timeout = "soon"\nhost_budgett = "1GiB"\n')
        text = self.kvshim("config", "check", path, code=FINDINGS)
        self.assertIn(f"{path}:1:", text)
        self.assertIn(f"{path}:2:", text)
        self.kvshim("config", "check", self.folder / "missing.toml", code=CANNOT_WRITE)
        self.assertIn("No such file", self.said)

    def test_check_without_a_file_checks_what_would_be_read(self):
        self.assertEqual(self.document("config", "check")["problems"], [])
        self.assertIn("KVSHIM_MIN_SIZE",
                      self.kvshim("config", "check", code=FINDINGS, KVSHIM_MIN_SIZE="big"))

    def test_show_tells_what_holds(self):
        path = self.folder / "k.toml"
        path.write_text('idle_timeout = "7s"\n')
        text = self.kvshim("config", "show", KVSHIM_CONFIG=path, KVSHIM_MIN_SIZE="1GiB")
        self.assertIn(f"# from {path}", text)
        self.assertIn('idle_timeout = "7s"  # not the default', text)
        self.assertIn('min_size = "1GiB"', text)
        options = self.document("config", "show")["options"]
        self.assertEqual(options["idle_timeout"], {"value": '"2s"', "default": True})

    def test_show_tells_what_holds_in_a_process(self):
        process = subprocess.Popen(["sleep", "60"], env=self.environment(KVSHIM_IDLE_TIMEOUT="9s"))
        self.addCleanup(process.wait, 20)
        self.addCleanup(process.kill)
        end = time.monotonic() + 20
        while b"KVSHIM_IDLE" not in pathlib.Path(f"/proc/{process.pid}/environ").read_bytes():
            self.assertLess(time.monotonic(), end)
        options = self.document("config", "show", "--pid", process.pid)["options"]
        self.assertEqual(options["idle_timeout"]["value"], '"9s"')
        self.kvshim("config", "show", "--pid", "4194305", code=NO_PROCESS)


class Bench(Case):
    def test_measures_and_advises_on_the_simulator(self):
        document = self.document("bench", "--quick", LD_LIBRARY_PATH=SIMULATOR)
        sizes = [handle["bytes"] >> 20 for handle in document["handles"]]
        self.assertEqual(sizes, [2, 8, 32, 64, 256])
        for handle in document["handles"]:
            for name in ("create_us", "map_us", "access_us", "unmap_us", "release_us", "swap_us"):
                self.assertGreater(handle[name], 0)
        self.assertGreater(document["to_host_bytes_per_second"], 1e6)
        self.assertTrue(any("read_ahead_max" in line for line in document["advice"]))
        self.assertIn("1 GiB up", self.kvshim("bench", "--quick", LD_LIBRARY_PATH=SIMULATOR))

    def test_leaves_nothing_behind(self):
        leaks = self.folder / "leaks"
        self.kvshim("bench", "--quick", LD_LIBRARY_PATH=SIMULATOR, KVSHIM_SIM_LEAKS=leaks)
        alive = dict(line.split(maxsplit=1) for line in leaks.read_text().splitlines())
        for name in ("handles", "reservations", "mappings", "allocations"):
            self.assertEqual(alive[name], "0 0", name)

    def test_says_what_is_missing(self):
        self.kvshim("bench", code=NO_GPU, LD_LIBRARY_PATH="/nowhere")
        self.assertIn("libcuda.so.1", self.said)
        self.kvshim("bench", "--gpu", "7", code=NO_GPU, LD_LIBRARY_PATH=SIMULATOR)
        self.kvshim("bench", code=NO_GPU, LD_LIBRARY_PATH=SIMULATOR, KVSHIM_SIM_NO_VMM=1)
        self.kvshim("bench", code=NO_GPU, LD_LIBRARY_PATH=SIMULATOR, KVSHIM_SIM_MEMORY=256 << 20)
        self.assertIn("2 GiB of free GPU memory", self.said)
        self.kvshim("bench", "--gpu", "x", code=USAGE)


if __name__ == "__main__":
    unittest.main()
