"""Runs the small engine with and without the preload and compares what it prints.

The same tests run on the simulator (the build tree's libcuda.so.1) and, with
KVSHIM_TESTS_ON_GPU=1, on a real driver.
"""
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import unittest

BUILD = pathlib.Path(os.environ.get("KVSHIM_BUILD", "."))
ON_GPU = os.environ.get("KVSHIM_TESTS_ON_GPU") == "1"
LIBRARY = BUILD / "preload" / "libkvshim.so"
KVWRAP = BUILD / "tools" / "kvwrap" / "kvwrap"
TOOL = BUILD / "tools" / "kvshim" / "kvshim"
ENGINE = BUILD / "tests" / "engine" / "kvshim_engine"
SIMULATOR = BUILD / "tests" / "simulator"
TIMEOUT = 60

RULES = """
[[rules]]
action = "allow"
min_size = "32MiB"
"""


class Result:
    def __init__(self, status, output, log, report):
        self.status, self.output, self.log, self.report = status, output, log, report

    @property
    def digests(self):
        return re.findall(r"^(?:burst \d+ )?digest (\w+)", self.output, re.M)

    @property
    def device(self):
        return self.report["devices"][0]

    def logged(self, text):
        return re.search(text, self.log) is not None


class Case(unittest.TestCase):
    """A folder of its own for configuration, log and status file."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="kvshim.test."))
        self.addCleanup(lambda: subprocess.run(["rm", "-rf", self.folder], check=False))

    def environment(self, options, preload=True, **extra):
        env = {k: v for k, v in os.environ.items()
               if k != "LD_PRELOAD" and (not k.startswith("KVSHIM_") or k.startswith("KVSHIM_TEST"))}
        if not ON_GPU:
            env["LD_LIBRARY_PATH"] = str(SIMULATOR)
            env.setdefault("KVSHIM_SIM_MEMORY", str(2 << 30))
        config = self.folder / "kvshim.toml"
        lines = {"idle_timeout": '"100ms"', "min_size": '"16MiB"', "log_level": '"debug"',
                 "arena_size": '"64GiB"', "log_file": f'"{self.folder}/log"',
                 "status_dir": f'"{self.folder}"', "segment_dir": f'"{self.folder}"'}
        lines.update(options or {})
        # Another engine of the same test may be reading it just now.
        written = self.folder / "next.toml"
        written.write_text("".join(f"{k} = {v}\n" for k, v in lines.items()) + RULES)
        written.rename(config)
        env["KVSHIM_CONFIG"] = str(config)
        env.update({k: str(v) for k, v in extra.items()})
        if preload:
            env["LD_PRELOAD"] = ":".join(filter(None, [
                os.environ.get("KVSHIM_TEST_SANITIZER_RUNTIME"), str(LIBRARY)]))
        return env

    def start(self, arguments, options=None, preload=True, command=None, **extra):
        return subprocess.Popen([*(command or [str(ENGINE)]), *map(str, arguments)],
                                env=self.environment(options, preload, **extra),
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(self, process, timeout=TIMEOUT):
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            output, errors = process.communicate()
            self.fail(f"hung: {process.args}\n{output}\n{errors}\n{self.log()}")
        self.assertNotIn("WARNING: ThreadSanitizer", errors)
        return Result(process.returncode, output, self.log() + errors, self.report(process.pid))

    def run_engine(self, arguments, options=None, preload=True, timeout=TIMEOUT, **extra):
        log = self.folder / "log"
        if log.exists():
            log.unlink()
        return self.finish(self.start(arguments, options, preload, **extra), timeout)

    def log(self):
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    def report(self, pid):
        path = self.folder / f"{pid}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def wait_for_report(self, pid, condition, seconds=10):
        """The status file is written at most once a second."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                report = self.report(pid)
                if report and condition(report["devices"][0]):
                    return report
            except (ValueError, IndexError):
                pass
            time.sleep(0.05)
        self.fail(f"never came true: {self.report(pid)}\n{self.log()}")

    statics = {}  # digests that engines of these arguments printed without the shim

    def static_digests(self, arguments, **extra):
        """They do not depend on pauses, and without the shim nothing happens in those."""
        key = (*map(str, arguments), *sorted(extra.items()))
        if key not in self.statics:
            static = self.run_engine([*arguments, "--idle", 0], preload=False, **extra)
            self.assertEqual(static.status, 0, static.output + static.log)
            self.assertTrue(static.digests)
            self.statics[key] = static.digests
        return self.statics[key]

    def assert_same(self, arguments, options=None, **extra):
        """Static and elastic runs print the same digests; returns the elastic run."""
        digests = self.static_digests(arguments, **extra)
        elastic = self.run_engine(arguments, options, **extra)
        self.assertEqual(elastic.status, 0, elastic.output + elastic.log)
        self.assertEqual(digests, elastic.digests, elastic.log)
        return elastic
