"""What the shim says about itself: its log, read as it grows so that lines get times, and status."""
import contextlib
import json
import pathlib
import re
import threading
import time

POOL = re.compile(r"pool (\d+): (\d+) MiB on GPU")
RELEASED = re.compile(r"released (\d+) MiB in (\d+) ms: (\d+) MiB zero, (\d+) MiB parked in host "
                      r"memory, (\d+) MiB dropped( \(interrupted)?")
BROUGHT_BACK = re.compile(r"brought back (\d+) MiB in (\d+) us")
TROUBLE = re.compile(r"kvshim\[\d+\]: (warning|error): ")


def waited_seconds(device):
    """How long guards waited until now: for faults, and for swaps of what moves beside the work."""
    if not device:
        return 0.0, 0.0
    faults = device["faults"]
    moves = faults.get("swaps_of_moves_us", 0)
    return (faults["total_us"] + faults.get("guard_copies_us", 0) - moves) / 1e6, moves / 1e6


def waited_between(before, after):
    return [b - a for a, b in zip(waited_seconds(before), waited_seconds(after))]


class ShimRecord:
    """Lines come within 10 ms of being written; events are queued up to 100 ms before that."""

    def __init__(self, log_path, status_folder):
        self._path, self._folder = pathlib.Path(log_path), pathlib.Path(status_folder)
        self._lines, self._lock, self._stop = [], threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self):
        offset, rest = 0, ""
        while True:
            stopping = self._stop.is_set()
            with contextlib.suppress(FileNotFoundError):
                with open(self._path, errors="replace") as file:
                    file.seek(offset)
                    rest += file.read()
                    offset = file.tell()
            *whole, rest = rest.split("\n")
            with self._lock:
                self._lines += [(time.time(), line) for line in whole]
            if stopping:
                return
            time.sleep(0.01)

    def close(self):
        self._stop.set()
        self._thread.join(2)

    def lines(self, since=0.0, until=float("inf")):
        with self._lock:
            return [(t, line) for t, line in self._lines if since <= t <= until]

    def _matches(self, pattern, since, until=float("inf")):
        found = ((t, pattern.search(line)) for t, line in self.lines(since, until))
        return [(t, m) for t, m in found if m]

    def pools(self):
        """Count, MiB in all, and the time from the first to the last line."""
        found = self._matches(POOL, 0.0)
        return {"count": len(found), "mib": sum(int(m[2]) for _, m in found),
                "span_ms": 1000 * (found[-1][0] - found[0][0]) if found else None}

    def releases(self, since=0.0, until=float("inf")):
        return [{"time": t, "mib": int(m[1]), "ms": int(m[2]), "zero_mib": int(m[3]),
                 "parked_mib": int(m[4]), "dropped_mib": int(m[5]), "interrupted": bool(m[6])}
                for t, m in self._matches(RELEASED, since, until)]

    def brought_back(self, since=0.0, until=float("inf")):
        return [{"time": t, "mib": int(m[1]), "us": int(m[2])}
                for t, m in self._matches(BROUGHT_BACK, since, until)]

    def trouble(self):
        """Warnings and errors, each text once."""
        return list(dict.fromkeys(line for _, line in self.lines() if TROUBLE.search(line)))

    def status(self):
        """The status file with the most pools (engines start helpers), or None."""
        best = None
        for file in self._folder.glob("*.json"):
            with contextlib.suppress(OSError, ValueError):
                status = json.loads(file.read_text())
                size = sum(len(d["pools"]) for d in status["devices"])
                if best is None or size > best[0]:
                    best = (size, status)
        return best[1] if best else None

    def device(self):
        status = self.status()
        return status["devices"][0] if status and status["devices"] else None

    def fresh_device(self, wait=1.4):
        """After the once-a-second writer had its turn."""
        time.sleep(wait)
        return self.device()
