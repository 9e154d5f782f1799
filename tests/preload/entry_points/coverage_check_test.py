#!/usr/bin/env python3
"""The coverage check must fail when a function is in no table (a newer cuda.h)."""

import pathlib
import subprocess
import sys
import tempfile

generator, declarations = sys.argv[1:]
text = pathlib.Path(declarations).read_text()

NEW = {
    # name: (declaration, what the check must say)
    "cuMemFrobnicate_v7": ("CUdeviceptr p", "may allocate"),
    "cuLaunchElsewhere": ("int p", "may allocate"),
    "cuHarmlessLooking": ("CUdeviceptr where", "may allocate"),
    "cuNobodyKnows": ("int p", "matches no pattern"),
}
failures = 0
for name, (parameters, wanted) in NEW.items():
    with tempfile.NamedTemporaryFile("w", suffix=".i") as changed:
        changed.write(text + f"\nCUresult {name}({parameters});\n")
        changed.flush()
        done = subprocess.run([sys.executable, generator, "check", "--declarations", changed.name],
                              capture_output=True, text=True, check=False)
    if done.returncode == 0 or name not in done.stderr or wanted not in done.stderr:
        print(f"{name}: not found: {done.returncode} {done.stderr}")
        failures += 1
sys.exit(1 if failures else 0)
