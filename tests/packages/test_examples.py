"""The unit and the container example: what checks them where there is no systemd and no engine."""
import re
import shutil
import subprocess
import unittest

from installed import ROOT, Case

UNIT = ROOT / "packaging/systemd/kvshim-vllm@.service"
COMPOSE = ROOT / "packaging/container/compose.yaml"
CONTAINERFILE = ROOT / "packaging/container/Containerfile"


def options_in(text):
    """KVSHIM_NAME=value of a unit or a Containerfile, KVSHIM_NAME: value of a compose file."""
    return dict(re.findall(r"\b(KVSHIM_[A-Z_]+)(?:=|: )(\S+)", text))


class Examples(Case):
    def test_options_are_known(self):
        table = (ROOT / "config/options.def").read_text()
        known = {f"KVSHIM_{name.upper()}"
                 for name in re.findall(r"^KVSHIM_OPTION\([^,]+, *(\w+),", table, re.M)}
        for page in (UNIT, COMPOSE, CONTAINERFILE):
            options = options_in(page.read_text())
            with self.subTest(page=page.name):
                self.assertEqual(options["KVSHIM_SEGMENT_DIR"], "/run/kvshim")
                self.assertEqual(set(options) - known, set())

    def test_the_unit_verifies(self):
        if not shutil.which("systemd-analyze"):
            self.skipTest("no systemd-analyze")
        root = self.folder()
        for program in ("usr/bin/kvwrap", "usr/lib/systemd/system/kvshim-vllm@.service"):
            (root / program).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("/bin/true", root / "usr/bin/kvwrap")
        unit = root / "usr/lib/systemd/system/kvshim-vllm@.service"
        shutil.copy(UNIT, unit)
        # Of this tree alone: other units are not there, and are no mistake of ours.
        for name in ("network-online.target", "sysinit.target", "basic.target", "shutdown.target",
                     "multi-user.target"):
            (unit.parent / name).write_text("[Unit]\nDescription=x\nDefaultDependencies=no\n")
        done = subprocess.run(["systemd-analyze", f"--root={root}", "--man=no", "verify",
                               "kvshim-vllm@small.service"], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
        about_it = [line for line in done.stdout.splitlines() if "kvshim" in line]
        self.assertEqual((done.returncode, about_it), (0, []), done.stdout)

    def test_the_compose_file_is_one_volume_for_both(self):
        try:
            import yaml
        except ImportError:
            self.skipTest("no python3-yaml")
        compose = yaml.safe_load(COMPOSE.read_text())
        services = compose["services"]
        self.assertEqual(len(services), 2)
        self.assertIn("segment", compose["volumes"])
        ports = set()
        for service in services.values():
            self.assertIn("segment:/run/kvshim", service["volumes"])
            self.assertEqual(service["environment"]["KVSHIM_SEGMENT_DIR"], "/run/kvshim")
            port = service["command"][service["command"].index("--port") + 1]
            self.assertEqual(service["ports"], [f"{port}:{port}"])
            ports.add(port)
        self.assertEqual(len(ports), 2)

    def test_the_image_starts_servers_under_kvwrap(self):
        text = CONTAINERFILE.read_text()
        self.assertIn('ENTRYPOINT ["kvwrap", "vllm", "serve"]', text)
        # Its instructions as they would run, but for the image that they start from.
        copied = re.search(r"^COPY (\S+) (\S+)$", text, re.M)
        installed = re.search(r"pip install [^&]*?(\S+\.whl)", text)
        self.assertEqual(copied[2] + copied[1], installed[1])


if __name__ == "__main__":
    unittest.main()
