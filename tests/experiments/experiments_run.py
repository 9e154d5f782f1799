"""Runs scripts/experiments/run_all and reads what it wrote."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("KVSHIM_BUILD", "."))


class Case(unittest.TestCase):
    def setUp(self):
        self.out = pathlib.Path(tempfile.mkdtemp(prefix="kvshim.test."))
        self.addCleanup(shutil.rmtree, self.out, ignore_errors=True)

    def run_all(self, *options, status=0, **environment):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("KVSHIM_") and k != "OUT"}
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts/experiments/run_all"), "--build", str(BUILD),
             "--out", str(self.out), *options], env={**clean, **environment},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=150, check=False)
        self.assertEqual(done.returncode, status, done.stdout)
        return done.stdout

    def results(self):
        return json.loads((self.out / "experiments.json").read_text())

    def part(self, name):
        return json.loads((self.out / "parts" / f"{name}.json").read_text())
