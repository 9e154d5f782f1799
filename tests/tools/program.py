"""Runs kvshim, and processes that a segment knows, in a folder of their own."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

BUILD = pathlib.Path(os.environ.get("KVSHIM_BUILD", "."))
KVSHIM = BUILD / "tools" / "kvshim" / "kvshim"
KVWRAP = BUILD / "tools" / "kvwrap" / "kvwrap"
LIBRARY = BUILD / "preload" / "libkvshim.so"
MEMBER = BUILD / "tests" / "tools" / "kvshim_segment_member"
ENGINE = BUILD / "tests" / "engine" / "kvshim_engine"
SIMULATOR = BUILD / "tests" / "simulator"
SANITIZED = bool(os.environ.get("KVSHIM_TEST_SANITIZED"))
GIB = 1 << 30
MIB = 1 << 20

GPU = "GPU-11111111-2222-3333-4444-555555555555"
OTHER_GPU = "GPU-99999999-2222-3333-4444-555555555555"

# As the manual page has them.
DONE, FINDINGS, USAGE, NO_PROCESS, AMBIGUOUS, REFUSED = range(6)
NOT_ACKNOWLEDGED, NO_PERMISSION, FOREIGN_SEGMENT, NO_GPU, CANNOT_WRITE = range(6, 11)


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="kvshim.tools."))
        self.addCleanup(lambda: shutil.rmtree(self.folder, ignore_errors=True))
        self.segments = self.folder / "segments"
        self.segments.mkdir()

    def environment(self, **extra):
        env = {k: v for k, v in os.environ.items()
               if k != "LD_PRELOAD" and (not k.startswith("KVSHIM_") or k.startswith("KVSHIM_TEST"))}
        env.update(KVSHIM_SEGMENT_DIR=str(self.segments), KVSHIM_STATUS_DIR=str(self.folder),
                   HOME=str(self.folder), LC_ALL="C.UTF-8",
                   PATH=f"{KVSHIM.parent}:{os.environ['PATH']}")
        env.update({k: str(v) for k, v in extra.items()})
        return env

    def kvshim(self, *arguments, code=DONE, **extra):
        """Standard output; the exit code must be `code`, `self.said` is standard error."""
        done = subprocess.run([str(KVSHIM), *map(str, arguments)], env=self.environment(**extra),
                              capture_output=True, text=True, timeout=60, check=False)
        self.said = done.stderr
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def document(self, *arguments, code=DONE, **extra):
        return json.loads(self.kvshim(*arguments, "--json", code=code, **extra))

    def member(self, gpu=GPU, **values):
        """A process with a record; its process id is known when this returns."""
        settings = {"total": 80 * GIB, "pool_bytes": 10 * GIB, "resident": 4 * GIB, "parked": GIB,
                    "other": 2 * GIB, "free": 60 * GIB, "name": "engine"}
        settings.update(values)
        process = subprocess.Popen(
            [str(MEMBER), str(self.segments), gpu, *(f"{k}={v}" for k, v in settings.items())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.end, process)
        self.assertEqual(process.stdout.readline(), "ready\n")
        return process

    @staticmethod
    def end(process):
        process.stdin.close()
        process.wait(timeout=20)
        process.stdout.close()

    def processes(self):
        return {process["pid"]: process
                for gpu in self.document("list")["gpus"] for process in gpu["processes"]}
