"""What is going on: one line that changes on a terminal, else a line for each step."""
import sys
import threading
import time


class Progress:
    """Thread-safe. On a terminal `rich` draws the line where it is installed."""

    def __init__(self, quiet_seconds=10.0):
        self._begin, self._lock = time.monotonic(), threading.Lock()
        self._quiet, self._last, self._doing, self._width = quiet_seconds, 0.0, "", 0
        self._status = None
        if sys.stdout.isatty():
            try:
                from rich.console import Console
                self._status = Console().status("starting")
                self._status.start()
            except ImportError:
                pass
        threading.Thread(target=self._tick, daemon=True).start()

    def say(self, text):
        """A line that stays."""
        line = f"[{time.monotonic() - self._begin:6.1f}] {text}"
        with self._lock:
            if self._status:
                self._status.console.print(line, markup=False, highlight=False)
            else:
                self._clear()
                print(line, flush=True)
            self._last = time.monotonic()

    def doing(self, text):
        """What the changing line says; without a terminal it comes now and then."""
        with self._lock:
            self._doing = text

    def _clear(self):
        if self._width:
            sys.stdout.write("\r" + " " * self._width + "\r")
            self._width = 0

    def _tick(self):
        while True:
            time.sleep(0.25)
            with self._lock:
                line = f"[{time.monotonic() - self._begin:6.1f}] {self._doing}"
                if not self._doing:
                    continue
                if self._status:
                    from rich.text import Text  # brackets are no markup here
                    self._status.update(Text(line))
                elif sys.stdout.isatty():
                    self._clear()
                    line = line[:110]
                    sys.stdout.write("\r" + line)
                    sys.stdout.flush()
                    self._width = len(line)
                elif time.monotonic() - self._last >= self._quiet:
                    print(line, flush=True)
                    self._last = time.monotonic()

    def close(self):
        with self._lock:
            self._doing = ""
            self._clear()
            if self._status:
                self._status.stop()
                self._status = None
