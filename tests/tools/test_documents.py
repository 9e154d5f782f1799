"""The manual pages and completions: complete, readable, and they complete."""
import re
import shutil
import subprocess
import unittest

from program import BUILD, KVWRAP, Case

WRITTEN = BUILD / "tools" / "kvshim" / "documents"
SOURCE = __import__("pathlib").Path(__file__).resolve().parents[2]
COMMANDS = ["top", "list", "limit", "reserve", "priority", "release", "pause", "resume", "explain",
            "doctor", "config", "metrics", "bench", "completion"]


class Manual(Case):
    def page(self, path):
        """As plain text; man's complaints are errors."""
        done = subprocess.run(["man", "--warnings", "-l", str(path)], capture_output=True, text=True,
                              timeout=60, check=False, env=self.environment(MANWIDTH=100, MANPAGER="cat",
                                                                          MAN_KEEP_FORMATTING=""))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return re.sub(r"\s+", " ", re.sub(r".\x08", "", done.stdout).replace("‐ ", ""))

    @unittest.skipUnless(shutil.which("man"), "no man")
    def test_formats_without_a_complaint(self):
        text = self.page(WRITTEN / "kvshim.1")
        for command in COMMANDS:
            self.assertIn(f"kvshim {command}", text)
        self.assertIn("kvwrap(1)", text)
        text = self.page(SOURCE / "docs" / "man" / "kvwrap.1")
        self.assertIn("kvshim(1)", text)

    def test_tells_every_option_of_the_help(self):
        page = (WRITTEN / "kvshim.1").read_text().replace("\\", "")
        for command in COMMANDS:
            parts = [["config", "check"], ["config", "show"]] if command == "config" else [[command]]
            for words in parts:
                options = re.findall(r"--[a-z-]+", self.kvshim(*words, "--help"))
                section = page.partition(f".SS fBkvshim {' '.join(words)}fR")[2].partition(".SS ")[0]
                self.assertTrue(section, words)
                for option in set(options) - {"--help", "--pid PID"}:
                    self.assertIn(option, page)

    def test_tells_every_exit_code_of_the_help(self):
        page = (WRITTEN / "kvshim.1").read_text().replace("\\", "")
        codes = re.findall(r"(?m)^  (\d+) +(.+)$", self.kvshim("--help").partition("Exit codes:")[2])
        self.assertGreater(len(codes), 10)
        for code, meaning in codes:
            self.assertIn(f".B {code}\n{meaning}\n", page)

    def test_the_page_has_the_same_exit_codes(self):
        codes = re.findall(r"(?m)^  (\d+) +(.+)$", self.kvshim("--help").partition("Exit codes:")[2])
        page = (SOURCE / "docs" / "cli.md").read_text().partition("## Exit codes")[2]
        self.assertEqual(re.findall(r"(?m)^\| (\d+) \| (.+) \|$", page), codes)

    def test_tells_every_option_of_kvwrap(self):
        page = (SOURCE / "docs" / "man" / "kvwrap.1").read_text().replace("\\-", "-")
        text = subprocess.run([str(KVWRAP), "--help"], capture_output=True, text=True, timeout=60,
                              check=True).stdout
        options = set(re.findall(r"(?m)^  (?:-h,)?(--[a-z-]+)", text))
        self.assertGreater(len(options), 4)
        self.assertEqual(options, set(re.findall(r"\\fB(?:-h\\fR, \\fB)?(--[a-z-]+)\\fR", page)))
        for code in re.findall(r"(\d+):", text):
            self.assertIn(f".B {code}\n", page)


class Completion(Case):
    def bash(self, line):
        """What bash offers at the end of the line."""
        words = line.split(" ")
        script = (f'source "{WRITTEN}/kvshim.bash"\nCOMP_WORDS=({" ".join(map(self.quoted, words))})\n'
                  f"COMP_CWORD={len(words) - 1}\n_kvshim\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n")
        done = subprocess.run(["bash", "-u", "-c", script], capture_output=True, text=True, timeout=60,
                              check=False, env=self.environment())
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout.split()

    @staticmethod
    def quoted(word):
        return "'" + word + "'"

    def test_is_what_the_program_prints(self):
        for shell, name in (("bash", "kvshim.bash"), ("zsh", "_kvshim"), ("fish", "kvshim.fish")):
            self.assertEqual(self.kvshim("completion", shell), (WRITTEN / name).read_text())

    def test_bash_offers_commands_options_and_values(self):
        self.assertEqual(sorted(self.bash("kvshim ")), sorted(COMMANDS))
        self.assertEqual(self.bash("kvshim re"), ["reserve", "release", "resume"])
        self.assertEqual(self.bash("kvshim top --o"), ["--once"])
        self.assertIn("faults", self.bash("kvshim top --once --sort "))
        self.assertEqual(self.bash("kvshim config "), ["check", "sample", "show"])
        self.assertEqual(self.bash("kvshim config show --p"), ["--pid"])
        self.assertEqual(self.bash("kvshim completion z"), ["zsh"])
        self.assertEqual(self.bash("kvshim --v"), ["--version"])

    def test_bash_offers_running_processes(self):
        process = self.member()
        self.assertEqual(set(self.bash("kvshim limit ")), {"engine", str(process.pid)})
        self.assertEqual(self.bash("kvshim release --pid eng"), ["engine"])
        self.assertEqual(self.bash(f"kvshim limit --wait 3 --json {process.pid} "), [])
        # A process may be called like a command.
        self.assertEqual(self.bash("kvshim explain e"), ["engine"])

    def test_bash_offers_files(self):
        (self.folder / "a.toml").write_text("")
        self.assertEqual(self.bash(f"kvshim config check {self.folder}/a"), [f"{self.folder}/a.toml"])

    @unittest.skipUnless(shutil.which("zsh"), "no zsh")
    def test_zsh_loads_it(self):
        script = (f"autoload -Uz compinit && compinit -D -u; source {WRITTEN}/_kvshim; "
                  "print ${_comps[kvshim]}")
        done = subprocess.run(["zsh", "-f", "-c", script], capture_output=True, text=True, timeout=60,
                              check=False, env=self.environment())
        self.assertEqual((done.stdout, done.stderr), ("_kvshim\n", ""))

    @unittest.skipUnless(shutil.which("fish"), "no fish")
    def test_fish_offers_commands_and_options(self):
        def offered(line):
            script = f"source {WRITTEN}/kvshim.fish; complete -C '{line}'"
            done = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True,
                                  timeout=60, check=True, env=self.environment())
            return {word.split("\t")[0] for word in done.stdout.splitlines()}
        self.assertTrue(set(COMMANDS) <= offered("kvshim "))
        self.assertIn("--once", offered("kvshim top --"))
        self.assertEqual(offered("kvshim config sh"), {"show"})
        self.assertIn("faults", offered("kvshim top --sort "))


if __name__ == "__main__":
    unittest.main()
