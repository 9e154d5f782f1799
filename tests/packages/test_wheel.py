"""The wheel: built by pip from the source tree, installed into a fresh environment."""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from installed import BUILD, HAS_TOOL, ROOT, Case


class Wheel(Case):
    """One environment for all: making it takes the longest."""

    @classmethod
    def setUpClass(cls):
        cls.work = pathlib.Path(tempfile.mkdtemp(prefix="kvshim.test."))
        cls.addClassCleanup(shutil.rmtree, cls.work, ignore_errors=True)
        cls.venv = cls.work / "environment"
        cls.call(sys.executable, "-m", "venv", cls.venv)
        cls.call(*cls.pip("wheel"), "--no-deps", "--config-settings", f"build-folder={BUILD}", "-w",
                 cls.work / "wheels", ROOT)
        cls.wheel, = (cls.work / "wheels").glob("*.whl")

    @classmethod
    def call(cls, *command):
        done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=150, check=False)
        if done.returncode != 0:
            raise AssertionError(f"{command}\n{done.stdout}")

    @classmethod
    def pip(cls, verb):
        return [cls.venv / "bin/python", "-m", "pip", verb, "-q", "--isolated",
                "--disable-pip-version-check", "--no-index"]

    def test_works_and_goes_away(self):
        before = {path for path in self.venv.rglob("*") if "__pycache__" not in path.parts}
        self.call(*self.pip("install"), self.wheel)
        self.check_works(self.venv / "bin", self.venv / "lib/libkvshim.so")
        self.assertTrue((self.venv / "share/kvshim/kvshim.sample.toml").is_file())
        # Units name /usr; they are the system package's.
        self.assertFalse((self.venv / "lib/systemd").exists())
        if HAS_TOOL:
            self.assertTrue((self.venv / "bin/kvshim").is_file())
        self.call(self.venv / "bin/python", "-m", "pip", "uninstall", "-q", "-y", "kvshim")
        after = {path for path in self.venv.rglob("*") if "__pycache__" not in path.parts}
        self.assertEqual({path for path in after - before if path.is_file()}, set())

    def test_says_what_it_runs_on(self):
        tag = re.search(r"-py3-none-(\w+)\.whl$", self.wheel.name)
        self.assertTrue(tag, self.wheel.name)
        glibc = re.match(r"manylinux_2_(\d+)_", tag[1])
        self.assertTrue(glibc, f"{tag[1]}: needs more than every distribution has")
        self.assertLessEqual(int(glibc[1]), 35)  # Ubuntu 22.04


if __name__ == "__main__":
    unittest.main()
