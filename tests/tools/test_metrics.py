"""metrics: the text by the parser of Prometheus' own client, names by its conventions; the server
and the file."""
import re
import shutil
import subprocess
import time
import unittest
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from program import CANNOT_WRITE, GIB, GPU, KVSHIM, USAGE, Case

BASE_UNITS = ("_bytes", "_seconds", "_info", "_total")
UNITLESS = {"kvshim_unreadable_segments", "kvshim_process_priority", "kvshim_process_paused",
            "kvshim_process_in_need", "kvshim_process_releases", "kvshim_process_needs_answered",
            "kvshim_process_needs_unanswered"}


class Text(Case):
    def families(self):
        text = self.kvshim("metrics")
        return text, {family.name: family for family in text_string_to_metric_families(text)}

    def value(self, families, family, sample=None, **labels):
        for one in families[family].samples:
            if one.name == (sample or family) and labels.items() <= one.labels.items():
                return one.value
        self.fail(f"no {family} with {labels}")
        return None

    def test_keeps_the_conventions(self):
        self.member(faults=12, p99=3000)
        text, families = self.families()
        for name in re.findall(r"(?m)^# TYPE (\S+)", text):
            self.assertEqual(len(re.findall(rf"(?m)^# HELP {name} .+\.$", text)), 1, name)
            self.assertEqual(text.count(f"# TYPE {name} "), 1, name)
            self.assertRegex(name, r"^kvshim_[a-z_]+$")
        seen = set()
        for family in families.values():
            # The client names counters without their ending.
            self.assertTrue(family.name in UNITLESS or family.name.endswith(BASE_UNITS), family.name)
            self.assertEqual(family.type == "counter", f"# TYPE {family.name}_total counter" in text)
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                self.assertNotIn(key, seen, "twice")
                seen.add(key)
                for label in sample.labels:
                    self.assertRegex(label, r"^[a-z][a-z0-9_]*$")
        for name in re.findall(r"(?m)^# TYPE (\S+)_total (\S+)", text):
            self.assertEqual(name[1], "counter")

    def test_satisfies_promtool_where_it_is_installed(self):
        if shutil.which("promtool") is None:
            self.skipTest("no promtool; the other tests check the same with the client's parser")
        self.member()
        done = subprocess.run(["promtool", "check", "metrics"], input=self.kvshim("metrics"),
                              capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_tells_the_figures(self):
        process = self.member(faults=12, p99=3000, idle_ms=1500, given=3 * GIB, got=GIB, answered=4,
                              unanswered=2)
        self.kvshim("limit", process.pid, "20GiB")
        _, families = self.families()
        labels = {"gpu": GPU, "pid": str(process.pid), "process": "engine"}
        self.assertEqual(self.value(families, "kvshim_gpu_memory_size_bytes", gpu=GPU), 80 * GIB)
        for kind, bytes_ in (("kv", 4 * GIB), ("other", 2 * GIB), ("cache", 0)):
            self.assertEqual(self.value(families, "kvshim_process_gpu_memory_bytes", kind=kind, **labels),
                             bytes_)
        states = [self.value(families, "kvshim_process_pool_bytes", state=state, **labels)
                  for state in ("resident", "parked", "absent")]
        self.assertEqual(states, [4 * GIB, GIB, 5 * GIB])
        self.assertEqual(self.value(families, "kvshim_process_limit_bytes", **labels), 20 * GIB)
        self.assertEqual(self.value(families, "kvshim_process_idle_seconds", **labels), 1.5)
        for name, value in (("given_bytes", 3 * GIB), ("got_bytes", GIB), ("needs_answered", 4),
                            ("needs_unanswered", 2)):
            family = f"kvshim_process_{name}"
            self.assertEqual(self.value(families, family, family + "_total", **labels), value)
        faults = "kvshim_process_fault_duration_seconds"
        self.assertEqual(families[faults].type, "summary")
        self.assertEqual(self.value(families, faults, faults + "_count", **labels), 12)
        self.assertEqual(self.value(families, faults, quantile="0.99", **labels), 0.003)

    def test_names_of_processes_cannot_break_the_text(self):
        self.member(name='a"b\\c')
        _, families = self.families()
        self.assertEqual(families["kvshim_process_idle_seconds"].samples[0].labels["process"], 'a"b\\c')

    def test_is_whole_without_any_process(self):
        _, families = self.families()
        self.assertEqual(families["kvshim_unreadable_segments"].samples[0].value, 0)


class Outlets(Case):
    def serve(self, address):
        process = subprocess.Popen([str(KVSHIM), "metrics", "--listen", address],
                                   env=self.environment(), stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.communicate, timeout=20)
        self.addCleanup(process.terminate)
        lines = [process.stderr.readline()]
        while "serving" not in lines[-1]:
            self.assertTrue(lines[-1], lines)
            lines.append(process.stderr.readline())
        return re.search(r"http://\S+", lines[-1]).group(), lines

    def test_serves_on_loopback(self):
        self.member()
        for address in (":0", "127.0.0.1:0", "localhost:0", "0"):
            url, lines = self.serve(address)
            self.assertRegex(url, r"^http://127\.0\.0\.1:\d+/metrics$")
            self.assertEqual(len(lines), 1)
            with urllib.request.urlopen(url, timeout=20) as answer:
                self.assertIn("text/plain; version=0.0.4", answer.headers["Content-Type"])
                self.assertIn(f'kvshim_gpu_memory_size_bytes{{gpu="{GPU}"', answer.read().decode())

    def test_serves_news_at_each_request(self):
        url, _ = self.serve(":0")
        self.assertNotIn(GPU, urllib.request.urlopen(url, timeout=20).read().decode())
        self.member()
        self.assertIn(GPU, urllib.request.urlopen(url, timeout=20).read().decode())

    def test_refuses_everything_else(self):
        url, _ = self.serve(":0")
        for request in (url.replace("metrics", "other"),
                        urllib.request.Request(url, data=b"x", method="POST")):
            with self.assertRaises(urllib.error.HTTPError):
                urllib.request.urlopen(request, timeout=20)

    def test_warns_when_others_can_reach_it(self):
        _, lines = self.serve("0.0.0.0:0")
        self.assertIn("others can reach", lines[0])

    def test_says_that_an_address_is_taken(self):
        url, _ = self.serve(":0")
        port = re.search(r":(\d+)/", url).group(1)
        self.kvshim("metrics", "--listen", f":{port}", code=CANNOT_WRITE)
        self.assertIn("in use", self.said)
        self.kvshim("metrics", "--listen", "here", code=USAGE)
        self.kvshim("metrics", "--listen", ":70000", code=USAGE)

    def test_writes_a_file_whole(self):
        self.member()
        path = self.folder / "kvshim.prom"
        path.write_text("old")
        self.kvshim("metrics", "--textfile", path)
        self.assertIn(GPU, path.read_text())
        self.assertEqual(path.stat().st_mode & 0o777, 0o644)
        self.assertEqual([p.name for p in self.folder.glob("*.next")], [])
        self.kvshim("metrics", "--textfile", "/nowhere/kvshim.prom", code=CANNOT_WRITE)
        self.assertIn("/nowhere", self.said)

    def test_writes_a_file_again_and_again(self):
        path = self.folder / "kvshim.prom"
        process = subprocess.Popen([str(KVSHIM), "metrics", "--textfile", str(path), "--interval", "0.1"],
                                   env=self.environment())
        self.addCleanup(process.wait, 20)
        self.addCleanup(process.kill)
        member = self.member()
        end = time.monotonic() + 20
        while not (path.exists() and f'pid="{member.pid}"' in path.read_text()):
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)


if __name__ == "__main__":
    unittest.main()
