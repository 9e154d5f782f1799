"""What crosses the GPU's PCIe, followed by a process of its own (pcie_watch.py)."""
import pathlib
import subprocess
import sys

from processes import end_group, plain_environment, start_group

HERE = pathlib.Path(__file__).resolve().parent
MIB = 1 << 20


class PcieWatch:
    """Sums since the start, from the process; None where nobody counts. For one thread."""

    # The counters go round in 67 ms at the full speed of the bus: who looks later may have missed it.
    LATE_MS = 60

    def __init__(self, environment):
        self._process = start_group([sys.executable, str(HERE / "pcie_watch.py")],
                                    env={**plain_environment(), **environment},
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._counts = self._process.stdout.readline() == "counts\n"

    def read(self):
        """[to the GPU, from the GPU] in MiB; None, too, if a look came too late since the last one."""
        if not self._counts:
            return None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            *sums, latest = [int(word) for word in self._process.stdout.readline().split()]
            return [each / MIB for each in sums] if latest <= self.LATE_MS else None
        except (OSError, ValueError):
            return None

    def close(self):
        end_group(self._process, 2)
