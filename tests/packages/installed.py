"""What holds for every installed copy: its kvwrap finds its library, and an engine runs under it."""
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("KVSHIM_BUILD", "."))
HAS_TOOL = os.environ.get("KVSHIM_TEST_HAS_TOOL") == "1"
RULES = """idle_timeout = "100ms"
min_size = "16MiB"
arena_size = "64GiB"
status = false
[[rules]]
action = "allow"
min_size = "16MiB"
"""


def clean_environment(programs):
    """Nothing of the build tree but the simulator; `programs` first on PATH."""
    environment = {k: v for k, v in os.environ.items()
                   if not k.startswith(("KVSHIM_", "LD_", "PYTHON", "PIP_"))}
    environment["PATH"] = f"{programs}:/usr/bin:/bin"
    environment["LD_LIBRARY_PATH"] = str(BUILD / "tests/simulator")
    return environment


class Case(unittest.TestCase):
    def folder(self):
        folder = tempfile.TemporaryDirectory(prefix="kvshim.test.")
        self.addCleanup(folder.cleanup)
        return pathlib.Path(folder.name)

    def run_program(self, command, status=0, **options):
        done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
                              **options)
        self.assertEqual(done.returncode, status, f"{command}\n{done.stdout}")
        return done.stdout

    def check_works(self, programs, library):
        """`programs`: the folder on PATH; `library`: the one that must be preloaded."""
        environment = clean_environment(programs)
        self.assertEqual(self.run_program(["kvwrap", "printenv", "LD_PRELOAD"],
                                          env=environment).strip(), str(library))
        folder = self.folder()
        config = folder / "kvshim.toml"
        config.write_text(f'segment_dir = "{folder}"\n{RULES}')
        engine = [BUILD / "tests/engine/kvshim_engine", "--bursts", "2", "--idle", "0.5"]
        static = self.run_program(engine, env=environment)
        elastic = self.run_program(["kvwrap", "--config", config, *engine], env=environment)
        digests = re.findall(r"digest \w+", static)
        self.assertEqual(len(digests), 3)
        self.assertEqual(re.findall(r"digest \w+", elastic), digests)
        self.assertRegex(elastic, r"pool 4: \d+ MiB")
        self.assertIn("released ", elastic)
        if HAS_TOOL:
            for page in ("man/man1/kvshim.1", "bash-completion/completions/kvshim",
                         "zsh/site-functions/_kvshim", "fish/vendor_completions.d/kvshim.fish"):
                self.assertTrue((pathlib.Path(programs).parent / "share" / page).is_file(), page)
            version = self.run_program(["kvshim", "--version"], env=environment)
            self.assertRegex(version, r"\d+\.\d+\.\d+")
