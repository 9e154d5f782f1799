"""list, top --once and the commands that steer: answers, exit codes, and that a refusal changes
nothing."""
import calendar
import os
import pwd
import signal
import subprocess
import time
import unittest

from program import (AMBIGUOUS, CANNOT_WRITE, DONE, FINDINGS, FOREIGN_SEGMENT, GIB, GPU, KVSHIM,
                     NO_PERMISSION, NO_PROCESS, NOT_ACKNOWLEDGED, OTHER_GPU, REFUSED, SANITIZED,
                     USAGE, Case)


class Views(Case):
    def test_says_that_nothing_runs(self):
        self.assertIn("no process", self.kvshim("list"))
        self.assertIn("Start one: kvwrap", self.kvshim("top", "--once"))
        self.assertEqual(self.document("top")["gpus"], [])

    def test_lists_processes_with_their_figures(self):
        process = self.member()
        gpu = self.document("list")["gpus"][0]
        self.assertEqual((gpu["uuid"], gpu["total_bytes"], gpu["used_bytes"]), (GPU, 80 * GIB, 20 * GIB))
        found = gpu["processes"][0]
        self.assertEqual(found["pid"], process.pid)
        self.assertEqual(found["resident_bytes"], 4 * GIB)
        self.assertEqual(found["on_gpu_bytes"], 6 * GIB)
        self.assertIsNone(found["limit_bytes"])
        text = self.kvshim("list")
        self.assertRegex(text, rf"{process.pid} engine +2.00G 4.00G 1.00G 5.00G")
        self.assertRegex(self.kvshim("top", "--once", "--width", 80), rf"A +{process.pid} engine")

    def test_knows_two_gpus(self):
        self.member()
        self.member(OTHER_GPU)
        self.assertEqual([gpu["uuid"] for gpu in self.document("top")["gpus"]], [GPU, OTHER_GPU])

    def test_leaves_out_a_killed_process(self):
        process = self.member()
        self.assertIn(process.pid, self.processes())
        process.kill()
        process.wait(timeout=20)
        self.assertEqual(self.processes(), {})

    def test_lists_again_and_again(self):
        self.member(faults=3)
        watch = subprocess.Popen([str(KVSHIM), "list", "--watch", "--interval", "0.1"],
                                 env=self.environment(), stdout=subprocess.PIPE, text=True)
        lines = [watch.stdout.readline() for _ in range(7)]
        watch.terminate()
        watch.communicate(timeout=20)
        self.assertIn(GPU, lines[0])
        self.assertIn(GPU, lines[4])
        # Rates are known from the second list on.
        self.assertRegex(lines[2], r" - +0us +- +- ")
        self.assertRegex(lines[6], r" 0 +0us +0 +0 ")

    def test_ends_when_its_reader_does(self):
        self.member()
        watch = subprocess.Popen([str(KVSHIM), "list", "--watch", "--interval", "0.1"],
                                 env=self.environment(), stdout=subprocess.PIPE, text=True)
        watch.stdout.readline()
        watch.stdout.close()
        self.assertEqual(watch.wait(timeout=20), 0)

    @unittest.skipIf(SANITIZED, "sanitizers take their time")
    def test_answers_within_50_ms(self):
        for _ in range(4):
            self.member()
        times = []
        for _ in range(10):
            start = time.monotonic()
            self.kvshim("top", "--once")
            times.append(time.monotonic() - start)
        # The fastest: others may have the processors.
        self.assertLess(min(times), 0.050, times)

    def test_tells_when_a_process_started(self):
        before = int(time.time())
        process = self.member()
        started = self.processes()[process.pid]["started_at"]
        at = calendar.timegm(time.strptime(started, "%Y-%m-%dT%H:%M:%SZ"))
        # The kernel's ticks are cut, and so is the second.
        self.assertGreaterEqual(at, before - 2)
        self.assertLessEqual(at, time.time() + 1)

    def test_names_are_for_completion(self):
        process = self.member()
        self.assertEqual(set(self.kvshim("list", "--names").split()), {str(process.pid), "engine"})


class Steering(Case):
    def test_limit_is_acknowledged_and_shown(self):
        process = self.member()
        text = self.kvshim("limit", process.pid, "20GiB")
        self.assertRegex(text, r"limit 20.0 GiB \(was none\); acknowledged after \d+ ms, has 6.00 GiB")
        self.assertEqual(self.processes()[process.pid]["limit_bytes"], 20 * GIB)
        self.assertIn("was 20.0 GiB", self.kvshim("limit", "engine", "50%"))
        self.assertEqual(self.processes()[process.pid]["limit_bytes"], 40 * GIB)
        self.kvshim("limit", "eng", "none")  # a name's beginning will do
        self.assertIsNone(self.processes()[process.pid]["limit_bytes"])

    def test_reserve_priority_and_pause(self):
        process = self.member()
        self.kvshim("reserve", process.pid, "1GiB")
        self.kvshim("priority", process.pid, "-7")
        change = self.document("pause", process.pid)["changes"][0]
        self.assertEqual((change["state"], change["paused"]), ("acknowledged", True))
        found = self.processes()[process.pid]
        self.assertEqual((found["reserve_bytes"], found["priority"], found["paused"]), (GIB, -7, True))
        self.kvshim("resume", process.pid)
        self.assertFalse(self.processes()[process.pid]["paused"])

    def test_release_reaches_one_or_all(self):
        first, second = self.member(), self.member()
        self.kvshim("release", code=AMBIGUOUS)
        self.kvshim("release", "--pid", first.pid)
        self.assertEqual(first.stdout.readline(), "released\n")
        self.assertEqual(self.processes()[second.pid]["releases"], 0)
        self.kvshim("release", "--all")
        self.assertEqual(second.stdout.readline(), "released\n")

    def test_release_needs_no_name_for_the_only_process(self):
        process = self.member()
        self.kvshim("release")
        self.assertEqual(process.stdout.readline(), "released\n")

    def test_tells_honestly_that_nobody_listened(self):
        process = self.member(deaf=1)
        start = time.monotonic()
        text = self.kvshim("limit", process.pid, "20GiB", "--wait", "0.3", code=NOT_ACKNOWLEDGED)
        self.assertGreater(time.monotonic() - start, 0.3)
        self.assertIn("not acknowledged within 0.3 s", text)
        self.assertIsNone(self.processes()[process.pid]["limit_bytes"])  # not in force
        self.assertIn("recorded", self.kvshim("limit", process.pid, "20GiB", "--wait", "0"))

    def test_a_stopped_process_obeys_when_it_goes_on(self):
        process = self.member()
        process.send_signal(signal.SIGSTOP)
        self.kvshim("limit", process.pid, "20GiB", "--wait", "0.2", code=NOT_ACKNOWLEDGED)
        process.send_signal(signal.SIGCONT)
        self.assertIn("acknowledged", self.kvshim("priority", process.pid, "1", "--wait", "20"))
        self.assertEqual(self.processes()[process.pid]["limit_bytes"], 20 * GIB)

    def refused(self, *arguments, code=REFUSED):
        before = self.processes()
        output = self.kvshim(*arguments, code=code)
        said = self.said
        self.assertEqual(output, "")
        self.assertTrue(said.startswith("kvshim: "), said)
        after = self.processes()
        for pid, process in before.items():
            for name in ("limit_bytes", "reserve_bytes", "priority", "paused"):
                self.assertEqual(after[pid][name], process[name])
        return said

    def test_refusals_change_nothing(self):
        process, other = self.member(), self.member()
        self.assertIn("80.0 GiB", self.refused("limit", process.pid, "81GiB"))
        self.assertIn("2.00 GiB of weights", self.refused("limit", process.pid, "1GiB"))
        self.assertIn("at most 100%", self.refused("limit", process.pid, "101%"))
        self.assertIn("20GiB, 50% or none", self.refused("limit", process.pid, "much", code=USAGE))
        self.refused("priority", process.pid, "many", code=USAGE)
        self.assertIn("give the process id", self.refused("pause", "engine", code=AMBIGUOUS))
        self.kvshim("reserve", other.pid, "70GiB")
        self.assertIn("70.0 GiB", self.refused("reserve", process.pid, "11GiB"))
        self.kvshim("limit", process.pid, "10GiB")
        self.assertIn("raise the limit first", self.refused("reserve", process.pid, "11GiB"))

    def test_unknown_processes(self):
        self.assertIn("no process of this user", self.refused("release", "--all", code=NO_PROCESS))
        self.assertIn("there is no process 4194305",
                      self.refused("limit", "4194305", "1GiB", code=NO_PROCESS))
        self.assertIn("is named nobody", self.refused("limit", "nobody", "1GiB", code=NO_PROCESS))
        self.assertIn(f"doctor --pid {os.getpid()}",
                      self.refused("limit", os.getpid(), "1GiB", code=NO_PROCESS))
        error = self.document("limit", "nobody", "1GiB", code=NO_PROCESS)["error"]
        self.assertEqual((error["code"], error["name"]), (NO_PROCESS, "no-process"))

    def test_narrows_to_one_gpu(self):
        process = self.member()
        self.member(OTHER_GPU)
        self.kvshim("limit", process.pid, "20GiB", "--gpu", GPU[:12])
        self.kvshim("limit", process.pid, "21GiB", "--gpu", "0")
        self.assertEqual(self.processes()[process.pid]["limit_bytes"], 21 * GIB)
        self.refused("limit", process.pid, "20GiB", "--gpu", OTHER_GPU, code=NO_PROCESS)
        self.refused("limit", process.pid, "20GiB", "--gpu", "GPU-7777", code=NO_PROCESS)

    def test_steers_a_group(self):
        process = self.member()
        text = self.kvshim("limit", "@*", "50%")
        self.assertIn("group * on GPU-11111111: recorded for its 1 process and those to come", text)
        self.assertEqual(self.document("priority", "@batch", "-3")["changes"][0]["members"], 0)
        groups = {group["name"]: group for group in self.document("list")["gpus"][0]["groups"]}
        self.assertEqual(groups["*"]["limit_bytes"], 40 * GIB)
        self.assertEqual(groups["batch"]["priority"], -3)
        self.assertIn("group *: limit 40.0 GiB", self.kvshim("list"))
        self.assertIn("2.00 GiB", self.refused("limit", "@*", "1GiB"))
        self.assertIn("80.0 GiB", self.refused("reserve", "@*", "81GiB"))
        self.refused("limit", "@", "1GiB", code=USAGE)
        self.assertEqual(self.document("list")["gpus"][0]["groups"][0]["limit_bytes"], 40 * GIB)
        self.assertIsNone(self.processes()[process.pid]["limit_bytes"])  # its own

    def test_a_paused_group_stays_so(self):
        self.member()
        self.kvshim("pause", "@chat")
        self.kvshim("limit", "@batch", "20GiB")
        groups = {group["name"]: group for group in self.document("list")["gpus"][0]["groups"]}
        self.assertEqual(set(groups), {"chat", "batch"})
        self.assertTrue(groups["chat"]["paused"])
        self.assertIn("group chat: limit none, reserve none, priority 0, paused", self.kvshim("list"))
        self.kvshim("resume", "@chat")
        self.assertNotIn("group chat", self.kvshim("list"))

    def test_what_a_group_was_told_outlives_its_members_and_can_be_lifted(self):
        process = self.member()
        self.kvshim("pause", "@chat")
        process.kill()
        process.wait()
        self.refused("pause", "@other", code=NO_PROCESS)
        self.assertIn("0 processes", self.kvshim("resume", "@chat"))
        self.refused("resume", "@chat", code=NO_PROCESS)

    def test_releases_a_group_without_recording_it(self):
        process = self.member()
        self.assertIn("asked its 1 process to release what is idle", self.kvshim("release", "--pid", "@*"))
        self.assertEqual(process.stdout.readline(), "released\n")
        self.assertEqual(self.document("list")["gpus"][0]["groups"], [])

    def test_says_what_frees_a_group(self):
        self.member()
        for number in range(16):
            self.kvshim("limit", f"@g{number}", "20GiB")
        said = self.refused("limit", "@more", "20GiB")
        self.assertIn("all 16 groups are in use", said)
        self.assertIn("kvshim limit @NAME none", said)
        self.kvshim("limit", "@g3", "none")
        self.kvshim("limit", "@more", "20GiB")

    def test_names_small_sizes_and_the_help_of_the_command(self):
        process = self.member()
        self.assertIn("a limit of 20 bytes", self.refused("limit", process.pid, "20"))
        self.assertIn("(see kvshim limit --help)", self.refused("limit", process.pid, code=USAGE))
        error = self.document("metrics", code=USAGE)["error"]
        self.assertEqual((error["code"], error["name"]), (USAGE, "usage"))
        self.assertIn("(see kvshim metrics --help)", error["message"])

    def test_steers_nobody_through_a_dead_record(self):
        process = self.member()
        process.kill()
        process.wait(timeout=20)
        self.refused("limit", process.pid, "20GiB", code=NO_PROCESS)


class Output(Case):
    COMMANDS = (["list"], ["list", "--json"], ["metrics"], ["top", "--once"], ["config", "sample"],
                ["completion", "bash"], ["--help"])

    def run_into(self, output, arguments):
        return subprocess.run([str(KVSHIM), *arguments], env=self.environment(), stdout=output,
                              stderr=subprocess.PIPE, text=True, timeout=60, check=False)

    def test_lost_output_is_a_failure(self):
        self.member()
        for arguments in (*self.COMMANDS, ["list", "--watch"]):
            with self.subTest(arguments), open("/dev/full", "w", encoding="ascii") as full:
                done = self.run_into(full, arguments)
                self.assertEqual(done.returncode, CANNOT_WRITE)
                self.assertRegex(done.stderr, r"^kvshim: can't write the output: .+\n$")

    def test_a_reader_that_went_away_is_none(self):
        self.member()
        for arguments in self.COMMANDS:
            with self.subTest(arguments):
                reader, writer = os.pipe()
                os.close(reader)
                done = self.run_into(writer, arguments)
                os.close(writer)
                self.assertEqual((done.returncode, done.stderr), (DONE, ""))

    def test_a_failure_keeps_its_own_code(self):
        with open("/dev/full", "w", encoding="ascii") as full:
            done = self.run_into(full, ["limit", "nobody", "1GiB", "--json"])
        self.assertEqual(done.returncode, NO_PROCESS)


class Explain(Case):
    def explain(self, text, code=NO_PROCESS):
        (self.folder / f"{os.getpid()}.json").write_text(text)
        return self.kvshim("explain", os.getpid(), code=code)

    def test_knows_a_file_that_is_none_of_kvshim(self):
        for text in ('{"devices": 7, "version": [], "pid": "x"}', '{"devices": [], "pid": 7}', "[]"):
            self.assertEqual(self.explain(text), "")
            self.assertIn("not a status file of kvshim", self.said)

    def test_tells_when_the_process_started(self):
        with open("/proc/self/stat", encoding="utf-8") as stat:
            ticks = stat.read().rpartition(")")[2].split()[19]
        text = self.explain(f'{{"devices": [], "version": "9", "pid": {os.getpid()}, '
                            f'"start_time": {ticks}}}', DONE)
        self.assertRegex(text, r"^process \d+: running, started \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, kvshim 9,")
        self.assertRegex(self.document("explain", os.getpid())["started_at"], r"^\d{4}-.*Z$")


class Configuration(Case):
    def test_a_file_that_was_named_here_is_not_the_variables(self):
        folder = self.folder / "a.toml"
        folder.mkdir()
        text = self.kvshim("config", "check", folder, code=FINDINGS)
        self.assertIn("can't be read", text)
        self.assertNotIn("KVSHIM_CONFIG", text)


class Segments(Case):
    def spoil(self, text):
        path = self.segments / f"kvshim-{os.geteuid()}-{GPU}"
        path.write_bytes(text)
        path.chmod(0o600)
        return path

    def test_a_damaged_segment_is_named_and_left_alone(self):
        for text in (b"", b"\0" * 400000, b"\xff" * 400000, os.urandom(400000)):
            path = self.spoil(text)
            self.assertIn("no process", self.kvshim("list", code=FOREIGN_SEGMENT))
            self.assertIn(str(path), self.said)
            self.assertIn(str(path),
                          self.kvshim("top", "--once", "--width", "500", code=FOREIGN_SEGMENT))
            self.assertEqual(self.document("top", code=FOREIGN_SEGMENT)["gpus"], [])
            self.kvshim("limit", "1", "1GiB", code=FOREIGN_SEGMENT)
            self.assertIn(str(path), self.said)
            self.assertEqual(path.read_bytes(), text)

    def test_a_damaged_segment_does_not_hide_the_others(self):
        self.spoil(b"\xff" * 400000)
        process = self.member(OTHER_GPU)
        self.assertEqual(self.document("list")["problems"][0].count(GPU), 1)
        self.kvshim("limit", process.pid, "20GiB")

    @unittest.skipUnless(os.geteuid() == 0, "needs another user")
    def test_processes_of_another_user_are_theirs(self):
        process = self.member()
        nobody = pwd.getpwnam("nobody").pw_uid
        for parent in (self.folder, self.segments):
            parent.chmod(0o755)
        done = subprocess.run([str(KVSHIM), "limit", str(process.pid), "20GiB"], user=nobody,
                              env=self.environment(), capture_output=True, text=True, timeout=60,
                              check=False)
        self.assertEqual(done.returncode, NO_PERMISSION, done.stderr)
        self.assertIn("belongs to user 0", done.stderr)


if __name__ == "__main__":
    unittest.main()
