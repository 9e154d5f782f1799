"""The experiments with the small engine on the simulator."""
import re
import socket
import subprocess
import sys
import unittest

from experiments_run import BUILD, ROOT, Case

ENGINE = BUILD / "tests/engine/kvshim_engine"


class Server(unittest.TestCase):
    def test_serves_what_it_computes_by_itself(self):
        plain = subprocess.run([ENGINE, "--bursts", "2"], capture_output=True, text=True,
                               timeout=30, check=True).stdout
        expected = re.findall(r"^burst \d digest \w+ tokens \d+ prompt \d+ hits \d+", plain, re.M)
        with subprocess.Popen([ENGINE, "--serve", "0"], stdout=subprocess.PIPE, text=True) as server:
            self.addCleanup(server.kill)
            port = next(re.search(r"serving 127.0.0.1:(\d+)", line)[1] for line in server.stdout
                        if "serving" in line)
            with self.client(port) as line:
                self.assertEqual(self.ask(line, "burst 0")[-1], expected[0])
            with self.client(port) as line:  # a client that left is no reason to end
                answers = self.ask(line, "burst 1")
                self.assertEqual(answers[-1], expected[1])
                self.assertEqual(sorted(answers[:-1]),
                                 sorted(f"{what} {i}" for what in ("first", "done")
                                        for i in range(4)))
                self.assertTrue(self.ask(line, "burst -1")[-1].startswith("error"))
                self.assertTrue(self.ask(line, "dance")[-1].startswith("error"))
                self.assertEqual(self.ask(line, "end"), ["ended"])
            self.assertEqual(server.wait(10), 0)

    def test_a_port_in_use_is_said(self):
        with socket.create_server(("127.0.0.1", 0)) as other:
            done = subprocess.run([ENGINE, "--serve", str(other.getsockname()[1])],
                                  capture_output=True, text=True, timeout=30, check=False)
        self.assertEqual(done.returncode, 4)
        self.assertIn("can't be served: bind: Address already in use", done.stderr)

    @staticmethod
    def client(port):
        return socket.create_connection(("127.0.0.1", int(port)), timeout=30)

    @staticmethod
    def ask(line, request):
        line.sendall(f"{request}\n".encode())
        answers = []
        with line.makefile("r") as heard:
            for answer in heard:
                answers.append(answer.strip())
                if answer.split()[0] in ("burst", "error", "ended"):
                    return answers
        raise AssertionError(f"the line was cut after {answers}")


class Experiments(Case):
    """One run of everything, looked at from all sides: it takes half a minute."""

    def test_all_of_it(self):
        said = self.run_all("--simulator", "--short", "--deadline", "110")
        parts = self.results()["parts"]
        self.assertEqual(set(parts), {"single.static", "single.elastic", "alternating.static",
                                      "alternating.elastic", "oversized.static",
                                      "oversized.elastic"})
        for name, part in parts.items():
            with self.subTest(part=name):
                self.assertTrue(part["complete"])
                self.assertEqual(part, self.part(name))
        self.memory(parts)
        self.answers(parts)
        self.oversized(parts)
        self.pages(said, parts)
        self.resume()

    def memory(self, parts):
        for experiment in ("single", "alternating"):
            elastic, static = (parts[f"{experiment}.{which}"] for which in ("elastic", "static"))
            with self.subTest(experiment=experiment):
                self.assertLess(elastic["idle_mib"], 0.3 * static["idle_mib"])
                self.assertLess(elastic["after_load_mib"], 0.3 * static["after_load_mib"])
                self.assertGreater(elastic["peak_mib"], elastic["idle_mib"])
                self.assertGreater(len(elastic["samples"]), 20)
                for server in elastic["servers"].values():
                    self.assertGreater(server["shim"]["pools"]["count"], 3)
                    self.assertGreater(server["shim"]["releases"], 0)

    def answers(self, parts):
        comparison = self.results()["comparison"]
        bursts = {name: len(part["bursts"]) for name, part in parts.items()}
        self.assertEqual((bursts["single.elastic"], bursts["alternating.elastic"],
                          bursts["oversized.elastic"]), (2, 4, 4))
        for name, found in comparison.items():
            with self.subTest(part=name):
                self.assertEqual(found["answers"], 8 * bursts[name])
                self.assertEqual(found["same"], found["answers"])
        for name, part in parts.items():
            for burst in part["bursts"]:
                for row in burst["requests"]:
                    self.assertGreater(row["first_ms"], 0)
                    self.assertGreaterEqual(row["ms"], row["first_ms"])

    def oversized(self, parts):
        self.assertIn("Free memory on device", parts["oversized.static"]["refused"])
        elastic = parts["oversized.elastic"]
        self.assertLess(elastic["usable_mib"], 40)
        self.assertGreater(sum(server["faults_in_host"] for server in elastic["servers"].values()),
                           0)
        self.assertEqual(sum(server["faults_in_host"] for server
                             in parts["alternating.elastic"]["servers"].values()), 0)
        # Its pools keep off the last 512 MiB, each process by what it saw free a moment before: two
        # that take memory at once can be some granules too low.
        self.assertLessEqual(elastic["peak_mib"], 1536 + 32)

    def pages(self, said, parts):
        page = (self.out / "summary.md").read_text()
        self.assertIn(page, said)
        self.assertIn("kvcached needs vLLM", page)
        idle = parts["single.elastic"]["idle_mib"] / parts["single.elastic"]["peak_mib"]
        self.assertRegex(page, rf"under bursts \| kvshim \| A \| \d+ \| \d+ \| {idle:.2f} \|")
        if "no plots" not in said:
            for name in ("memory.png", "latency.png"):
                self.assertEqual((self.out / name).read_bytes()[:4], b"\x89PNG")

    def resume(self):
        before = self.part("single.elastic")
        (self.out / "parts" / "single.static.json").write_text("{ torn")
        (self.out / "experiments.json").unlink()
        chosen = ("--parts", "single.static,single.elastic", "--simulator", "--short", "--resume",
                  "--deadline", "60")
        said = self.run_all(*chosen)
        self.assertIn("single.elastic: finished before, skipped", said)
        self.assertIn("single.static: burst 2 of 2", said)
        self.assertEqual(self.part("single.elastic"), before)
        # What was measured under other settings is not taken for finished.
        self.assertNotIn("skipped", self.run_all(*chosen[2:], "--parts", "single.elastic",
                                                 "--gap", "1.1"))

    def test_light_traffic(self):
        """Requests in turn, whose pauses are no idleness: only cold rows go."""
        names = ("light.static", "light.warm", "light.cold")
        self.run_all("--simulator", "--short", "--parts", ",".join(names), "--light-seconds", "6",
                     "--deadline", "100")
        parts = self.results()["parts"]
        self.assertEqual(set(parts), set(names))
        for name, part in parts.items():
            with self.subTest(part=name):
                self.assertTrue(part["complete"])
                self.assertEqual(part, self.part(name))
                self.assertEqual(part["failed_requests"], 0)
                self.assertGreater(len(part["bursts"]), 3)
                self.assertEqual(len(part["levels_mib"]), len(part["bursts"]))
                self.assertIn(part["levels_mib"][-1], part["idle_all_mib"])
        device = {}
        for name in names[1:]:
            with self.subTest(part=name):
                part = parts[name]
                self.assertLess(part["idle_mib"], 0.4 * parts["light.static"]["idle_mib"])
                device[name] = part["servers"]["A"]["shim"]["device"]
                self.assertEqual(device[name]["releases"], 0, "it was idle")
                found = self.results()["comparison"][name]
                self.assertGreater(found["answers"], 0)
                self.assertEqual(found["same"], found["answers"])
        self.assertEqual(device["light.warm"]["cold_bytes_total"]
                         + device["light.warm"]["moved_away_bytes"], 0)
        # In pauses, or beside work.
        self.assertGreater(device["light.cold"]["cold_bytes_total"]
                           + device["light.cold"]["moved_away_bytes"], 0)
        page = (self.out / "summary.md").read_text()
        self.assertRegex(page, r"light traffic \| kvshim, cold rows \| A \|")

    def test_what_does_not_fit_in_time_is_left_out(self):
        said = self.run_all("--simulator", "--short", "--parts", "single.elastic", "--deadline",
                            "14", status=1)
        self.assertIn("single.elastic: skipped", said)
        self.assertIn("not complete: single.elastic", said)
        self.assertIn("not measured", (self.out / "summary.md").read_text())


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests" / "experiments"))
    unittest.main()
