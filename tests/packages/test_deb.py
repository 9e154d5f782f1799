"""The .deb: made by cpack from the build folder, unpacked and installed into roots of its own."""
import pathlib
import re
import shutil
import subprocess
import unittest

from installed import BUILD, Case, clean_environment


class Deb(Case):
    @classmethod
    def setUpClass(cls):
        cls.work = pathlib.Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True,
                                               check=True).stdout.strip())
        cls.addClassCleanup(shutil.rmtree, cls.work, ignore_errors=True)
        subprocess.run(["cpack", "-G", "DEB", "-B", str(cls.work)], cwd=BUILD, check=True,
                       stdout=subprocess.DEVNULL, timeout=120)
        cls.package, = cls.work.glob("*.deb")

    def field(self, name):
        return self.run_program(["dpkg-deb", "--field", self.package, name]).strip()

    def test_needs_only_what_its_programs_are_linked_to(self):
        self.assertEqual(self.field("Package"), "kvshim")
        architecture = self.run_program(["dpkg", "--print-architecture"]).strip()
        self.assertEqual(self.field("Architecture"), architecture)
        depends = [word.strip() for word in self.field("Depends").split(",")]
        libc = [word for word in depends if word.startswith("libc6 ")]
        self.assertEqual(len(libc), 1, depends)
        # Ubuntu 22.04 has glibc 2.35.
        needed = tuple(map(int, re.search(r">= (\d+)\.(\d+)", libc[0]).groups()))
        self.assertLessEqual(needed, (2, 35))
        for word in depends:
            self.assertNotRegex(word, r"^(libstdc\+\+6|libcuda|libspdlog|libfmt|libunwind)")

    def test_works_where_it_is_unpacked(self):
        root = self.folder()
        self.run_program(["dpkg-deb", "--extract", self.package, root])
        for file in ("lib/systemd/system/kvshim-vllm@.service", "lib/sysusers.d/kvshim.conf",
                     "share/kvshim/kvshim.sample.toml", "share/doc/kvshim/docs/config.md",
                     "share/doc/kvshim/packaging/container/Containerfile"):
            self.assertTrue((root / "usr" / file).is_file(), file)
        outside = [path for path in root.iterdir() if path.name != "usr"]
        self.assertEqual(outside, [])
        self.check_works(root / "usr/bin", root / "usr/lib/libkvshim.so")

    def test_dpkg_installs_and_removes_it(self):
        root = self.folder()
        base = root / "var/lib/dpkg"
        for folder in ("info", "updates"):
            (base / folder).mkdir(parents=True)
        (base / "status").touch()
        # Its needs are this machine's, which the empty root does not have.
        dpkg = ["unshare", "--map-root-user", "dpkg", f"--root={root}", "--force-depends",
                "--force-script-chrootless", "--log=/dev/null"]
        if subprocess.run(dpkg[:2] + ["true"], check=False, capture_output=True).returncode != 0:
            self.skipTest("this user may have no user namespaces")
        environment = {**clean_environment("/usr/sbin:/sbin"), "DPKG_MAINTSCRIPT_DEBUG": ""}
        self.run_program([*dpkg, "--install", self.package], env=environment)
        self.assertIn("install ok installed", (base / "status").read_text())
        self.assertTrue((root / "usr/bin/kvwrap").is_file())
        self.run_program([*dpkg, "--purge", "kvshim"], env=environment)
        left = [path for path in root.rglob("*") if not path.is_relative_to(root / "var")]
        self.assertEqual(left, [])


if __name__ == "__main__":
    unittest.main()
