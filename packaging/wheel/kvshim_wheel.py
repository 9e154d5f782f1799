"""Builds the wheel `kvshim` (PEP 517): the install tree, with its programs as the wheel's scripts.

Programs land beside the environment's python, the library in its lib/, where kvwrap looks
(../lib/libkvshim.so). Nothing of it is Python, and nothing is needed to build it but what
scripts/setup installs.

    pip wheel --no-deps .                                     builds, then packs
    pip wheel --no-deps --config-settings build-folder=build/release .  packs what is built there
"""
import base64
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

SOURCES = pathlib.Path(__file__).resolve().parents[2]
# Libraries that every distribution has (PEP 600's list, without what nothing here uses).
EVERYWHERE = {"libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0",
              "libgcc_s.so.1", "libstdc++.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


def version():
    text = (SOURCES / "CMakeLists.txt").read_text()
    return re.search(r"project\(kvshim VERSION ([\d.]+)", text)[1]


def run(*command):
    print("+", *command, flush=True)
    subprocess.run(list(map(str, command)), check=True, stdout=sys.stderr)


def build(folder):
    run("cmake", "-G", "Ninja", "-S", SOURCES, "-B", folder, "-DCMAKE_BUILD_TYPE=Release",
        "-DKVSHIM_TESTS=OFF")
    run("cmake", "--build", folder)


def is_elf(path):
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def platform_tag(tree):
    """Of what the programs need: manylinux_X_Y where that is glibc alone, else linux."""
    machine, needed, newest = os.uname().machine, set(), (2, 17)
    for file in tree.rglob("*"):
        if file.is_file() and not file.is_symlink() and is_elf(file):
            text = subprocess.run(["readelf", "-dV", "--wide", str(file)], check=True,
                                  capture_output=True, text=True).stdout
            needed |= set(re.findall(r"\(NEEDED\).*\[(.*)\]", text))
            newest = max([newest, *((int(a), int(b)) for a, b in
                                    re.findall(r"\bGLIBC_(\d+)\.(\d+)", text))])
    others = needed - EVERYWHERE
    if others:
        print(f"kvshim_wheel: needs {', '.join(sorted(others))}: for machines like this one only")
        return f"linux_{machine}"
    return f"manylinux_{newest[0]}_{newest[1]}_{machine}"


def metadata():
    readme = (SOURCES / "README.md").read_text()
    return (f"Metadata-Version: 2.1\nName: kvshim\nVersion: {version()}\n"
            "Summary: Elastic GPU memory for unmodified LLM engines\n"
            "Description-Content-Type: text/markdown\n\n" + readme)


class Wheel:
    """A zip file with a record of what is in it."""

    def __init__(self, path):
        self.record = []
        self.file = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)

    def add(self, name, content, mode=0o644):
        info = zipfile.ZipInfo(name, date_time=(2020, 1, 1, 0, 0, 0))  # the same every time
        info.external_attr = (0o100000 | mode) << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        self.file.writestr(info, content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        self.record.append(f"{name},sha256={digest},{len(content)}")

    def close(self, folder):
        self.record.append(f"{folder}/RECORD,,")
        self.file.writestr(f"{folder}/RECORD", "\n".join(self.record) + "\n")
        self.file.close()


def pack(tree, out):
    """The wheel's file name."""
    tag = f"py3-none-{platform_tag(tree)}"
    name, data, info = (f"kvshim-{version()}{end}" for end in
                        (f"-{tag}.whl", ".data", ".dist-info"))
    wheel = Wheel(pathlib.Path(out) / name)
    for file in sorted(tree.rglob("*")):
        if not file.is_file():
            continue
        path = file.relative_to(tree)
        place = (f"{data}/scripts/{path.relative_to('bin')}" if path.parts[0] == "bin"
                 else f"{data}/data/{path}")
        wheel.add(place, file.read_bytes(), file.stat().st_mode & 0o777)
    wheel.add(f"{info}/METADATA", metadata().encode())
    wheel.add(f"{info}/WHEEL", ("Wheel-Version: 1.0\nGenerator: kvshim_wheel\n"
                                f"Root-Is-Purelib: false\nTag: {tag}\n").encode())
    wheel.close(info)
    return name


# -- what PEP 517 asks of a backend ------------------------------------------------------------


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    del metadata_directory
    chosen = (config_settings or {}).get("build-folder")
    with tempfile.TemporaryDirectory(prefix="kvshim.wheel.") as work:
        folder = pathlib.Path(chosen or f"{work}/build")
        if not chosen:
            build(folder)
        tree = pathlib.Path(work) / "tree"
        run("cmake", "--install", folder, "--prefix", tree, "--strip")
        return pack(tree, wheel_directory)


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    """Without it pip would build twice."""
    del config_settings
    info = pathlib.Path(metadata_directory) / f"kvshim-{version()}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(metadata())
    return info.name


def build_sdist(sdist_directory, config_settings=None):
    """Not offered: building needs more than Python's tools."""
    del sdist_directory, config_settings
    raise RuntimeError("kvshim is built from its repository, see docs/building.md")


def get_requires_for_build_wheel(config_settings=None):
    del config_settings
    missing = [tool for tool in ("cmake", "ninja", "readelf") if not shutil.which(tool)]
    if missing:
        raise RuntimeError(f"{', '.join(missing)} not found: run scripts/setup")
    return []
