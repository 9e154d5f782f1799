"""Samples of the GPU memory in use, as another process sees it."""
import statistics
import subprocess
import threading
import time

from processes import end_group, start_group

MIB = 1 << 20


class MemoryWatch:
    """Follows a command that prints "time bytes" lines (memory_watch.py, kvshim_memory_watch)."""

    def __init__(self, command, environment):
        self.process = start_group(command, env=environment, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, text=True)
        self._samples, self._lock = [], threading.Lock()
        threading.Thread(target=self._follow, daemon=True).start()
        end = time.monotonic() + 20
        while not self.samples():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("GPU memory can't be sampled: " + " ".join(map(str, command)))
            time.sleep(0.02)

    def _follow(self):
        for line in self.process.stdout:
            moment, used = line.split()
            with self._lock:
                self._samples.append((float(moment), int(used) / MIB))

    def samples(self, since=0.0, until=float("inf")):
        """[(seconds since the epoch, MiB)]."""
        with self._lock:
            return [sample for sample in self._samples if since <= sample[0] <= until]

    def now(self):
        with self._lock:
            return self._samples[-1][1]

    def level(self, seconds=0.4):
        """The median of the last moments, MiB."""
        recent = self.samples(time.time() - seconds)
        return statistics.median(used for _, used in recent) if recent else self.now()

    def close(self):
        end_group(self.process, 2)


def thinned(samples, period=0.05):
    """At most one sample a period, the largest of it: peaks stay."""
    kept = []
    for moment, used in samples:
        if kept and moment - kept[-1][0] < period:
            kept[-1][1] = max(kept[-1][1], used)
        else:
            kept.append([moment, used])
    return kept
