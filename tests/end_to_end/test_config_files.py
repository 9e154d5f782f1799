"""Files that a configuration names but nobody can use, and amounts that no GPU has."""
import os
import unittest

from harness import Case, ON_GPU

SMALL = ["--layers", 2, "--pool-size", "64MiB", "--bursts", 2, "--requests", 2, "--tokens", 12,
         "--idle", 0.3, "--prefix"]


class Files(Case):
    rule = None  # of one more [[rules]] section

    def environment(self, options, preload=True, **extra):
        env = super().environment(options, preload, **extra)
        if self.rule:
            path = self.folder / "kvshim.toml"
            path.write_text(path.read_text() + f'[[rules]]\naction = "deny"\n{self.rule}\n')
        return env

    def run_same(self, options=None, **extra):
        static = self.static_digests(SMALL)
        run = self.run_engine(SMALL, options, **extra)
        self.assertEqual(run.status, 0, run.log)
        self.assertEqual(run.digests, static)
        return run

    def assert_once(self, run, text):
        self.assertEqual(run.log.count(text), 1, run.log)

    def fifo(self):
        path = self.folder / "fifo"
        if not path.exists():
            os.mkfifo(path)
        return path

    def test_a_configuration_that_is_a_pipe_is_told_and_never_waited_for(self):
        run = self.run_same(KVSHIM_CONFIG=self.fifo(), KVSHIM_STATUS="false",
                            KVSHIM_LOG_FILE=self.folder / "log", KVSHIM_SEGMENT="false")
        self.assert_once(run, f"{self.fifo()}: can't be read (not a regular file)")
        self.assertIn("configuration from defaults", run.log)

    def test_a_log_that_nobody_reads_goes_to_standard_error(self):
        run = self.run_same({"log_file": f'"{self.fifo()}"'})
        self.assert_once(run, f"cannot open log_file {self.fifo()}")
        self.assertIn("pool 1:", run.log)

    def test_profiles_that_are_a_pipe_are_told_and_never_waited_for(self):
        run = self.run_same({"profiles": f'"{self.fifo()}"'})
        self.assert_once(run, f"{self.fifo()}: not a regular file")

    def test_a_log_on_a_full_disk_is_told_once(self):
        run = self.run_same({"log_file": '"/dev/full"'})
        self.assert_once(run, "cannot write to log_file /dev/full")

    def test_a_folder_that_takes_no_status_file_is_told_once(self):
        run = self.run_same({"status_dir": '"/proc"'})
        lines = [l for l in run.log.splitlines() if "option status_dir" in l]
        self.assertEqual(len(lines), 1, run.log)

    def test_patterns_that_could_take_for_ever_are_refused_with_their_place(self):
        for pattern in ("((a{1,200}){1,200}){1,200}", r"(.*)(.*)(.*)(.*)\1\2\3\4zz"):
            with self.subTest(pattern=pattern):
                self.rule = f"call_site = '{pattern}'"
                run = self.run_same()
                lines = [l for l in run.log.splitlines() if "rules.call_site" in l]
                self.assertEqual(len(lines), 1, run.log)
                self.assertRegex(lines[0], r"kvshim\.toml:\d+:\d+: rules\.call_site: .*does not compile")
                self.assertIn("the rule is not used", lines[0])


@unittest.skipIf(ON_GPU, "the simulator's GPU has a known size")
class Amounts(Case):
    def test_a_limit_and_a_reserve_above_the_gpu_are_told_once(self):
        run = self.run_engine(SMALL, {"limit": '"100GiB"', "reserve": '"200GiB"'})
        self.assertEqual(run.status, 0, run.log)
        for text in ("a limit of 100GiB is above the GPU's 2048 MiB and has no effect",
                     "a reserve of 200GiB is above what the process can have and counts as 2048 MiB"):
            self.assertEqual(run.log.count(text), 1, run.log)
        self.assertEqual(run.device["reserve"], 2 << 30)

    def test_a_pool_above_the_limit_is_refused_with_the_limits_name(self):
        run = self.run_engine(SMALL, {"limit": '"100MiB"'})
        self.assertRegex(run.log, r"warning: a pool of \d+ MiB was refused: .* its limit of 100 MiB "
                                  r"\(option limit")
        self.assertNotIn("as without the shim", run.log)


if __name__ == "__main__":
    unittest.main(verbosity=2)
