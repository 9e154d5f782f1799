"""scripts/vllm_proof with engines that are none: what it reports, and that it says what is wrong."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

PROOF = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "vllm_proof"


class Proof(unittest.TestCase):
    def run_parts(self, *options, **environment):
        with tempfile.TemporaryDirectory() as out:
            done = subprocess.run(
                [sys.executable, str(PROOF), "--dry", "--out", out, "--deadline", "100", *options],
                env={**os.environ, **environment}, capture_output=True, text=True, timeout=120,
                check=False)
            content = json.loads((pathlib.Path(out) / "proof.json").read_text())
            return done, content["parts"], (pathlib.Path(out) / "proof.md").read_text()

    def test_turns_of_steps_compare_two_engines(self):
        done, parts, page = self.run_parts("--parts", "steps", "--batches", "2")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        part = parts["steps"]
        self.assertEqual((part["identical_batches"], part["wrong"]), (2, []))
        # 401 steps of a batch in turns of 8: the first holds the prefill, the last is short.
        self.assertEqual((len(part["pairs"]), len(part["prefill"])), (2 * 49, 2))
        self.assertIn("2 of 2", page)

    def test_an_idle_neighbour_is_started(self):
        done, parts, page = self.run_parts("--parts", "steps", "--batches", "1", "--neighbour", "other")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("neighbour ready", done.stdout)
        self.assertIn("| other |", page)

    def test_other_outputs_end_it_with_1(self):
        for part in ("steps", "smoke"):
            with self.subTest(part=part):
                done, parts, page = self.run_parts("--parts", part, "--batches", "1", FAKE_WRONG="1")
                self.assertEqual(done.returncode, 1, done.stdout)
                self.assertTrue(parts[part]["wrong"])
                self.assertIn("NO", page)

    def test_an_engine_that_fails_ends_it_with_1(self):
        done, parts, _ = self.run_parts("--parts", "steps", FAKE_FAIL="elastic")
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("told to fail", parts["steps"]["error"])


if __name__ == "__main__":
    unittest.main()
