"""kvshim top in a terminal: drawn, resized, steered with keys, left in order."""
import errno
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
import unittest

import pyte

from program import GIB, KVSHIM, USAGE, Case


class Screen:
    """A program in a pseudo-terminal, and the screen that its output gives."""

    def __init__(self, arguments, environment, columns=80, lines=24):
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.output = b""
        self.master, slave = pty.openpty()
        self.resize(columns, lines, tell=False)
        self.process = subprocess.Popen(arguments, env=environment, stdin=slave, stdout=slave,
                                        stderr=slave, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)

    def resize(self, columns, lines, tell=True):
        self.screen.resize(lines, columns)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        if tell:
            self.process.send_signal(signal.SIGWINCH)

    def read(self, seconds):
        if not select.select([self.master], [], [], seconds)[0]:
            return
        try:
            data = os.read(self.master, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # the other end is closed
                raise
            data = b""
            time.sleep(0.01)
        self.output += data
        self.stream.feed(data)

    def text(self):
        return "\n".join(line.rstrip() for line in self.screen.display)

    def press(self, keys):
        os.write(self.master, keys.encode())


class Top(Case):
    def top(self, *arguments, columns=80, lines=24, **extra):
        extra.setdefault("TERM", "xterm-256color")
        screen = Screen([str(KVSHIM), "top", "--interval", "0.1", *arguments],
                        self.environment(**extra), columns, lines)
        self.addCleanup(os.close, screen.master)
        self.addCleanup(screen.process.wait, 20)
        self.addCleanup(screen.process.kill)
        return screen

    def wait_for(self, screen, pattern, seconds=20):
        end = time.monotonic() + seconds
        while not re.search(pattern, screen.text()):
            if time.monotonic() > end:
                self.fail(f"never showed {pattern!r}:\n{screen.text()}")
            screen.read(0.1)

    def leave(self, screen, keys="q"):
        screen.press(keys)
        end = time.monotonic() + 20
        while screen.process.poll() is None:
            self.assertLess(time.monotonic(), end, screen.text())
            screen.read(0.05)
        screen.read(0.2)
        return screen.process.returncode

    def test_fits_80_by_24_and_leaves_the_terminal_in_order(self):
        process = self.member()
        screen = self.top()
        self.wait_for(screen, rf"(?m)^A +{process.pid} engine +2.00G 4.00G .* 0.0s|busy$")
        self.wait_for(screen, r"(?m)^q quit  h help .*$")
        self.assertIn("100% |", screen.text())
        self.assertEqual(self.leave(screen), 0)
        self.assertIn(b"\x1b[?1049l", screen.output)  # the screen from before comes back

    def test_follows_the_size_of_the_terminal(self):
        self.member()
        screen = self.top(columns=120, lines=30)
        self.wait_for(screen, r"PRIO")
        screen.resize(60, 12)
        self.wait_for(screen, r"(?m)^kvshim .{30,50}\d\d:\d\d:\d\d$")
        self.wait_for(screen, r"q quit")
        self.assertNotIn("PRIO", screen.text())
        screen.resize(20, 5)
        self.wait_for(screen, r"(?m)^q quit  h help  s so$")
        self.assertEqual(self.leave(screen), 0)

    def test_steers_with_keys(self):
        process = self.member()
        screen = self.top()
        self.wait_for(screen, str(process.pid))
        screen.press("l")
        self.wait_for(screen, rf"limit of {process.pid} ")
        screen.press("20GiB\n")
        self.wait_for(screen, r"limit 20.0 GiB \(was none\); acknowledged")
        self.assertEqual(self.processes()[process.pid]["limit_bytes"], 20 * GIB)
        self.wait_for(screen, r"20.0G")
        screen.press("l1GiB\n")
        self.wait_for(screen, r"is below what")
        screen.press("p")
        self.wait_for(screen, r" pause$|pause\n")
        self.assertTrue(self.processes()[process.pid]["paused"])
        screen.press("r")
        self.wait_for(screen, r"asked to release what is idle")
        self.assertEqual(process.stdout.readline(), "released\n")
        self.assertEqual(self.leave(screen), 0)

    def test_shows_help_and_sorts(self):
        self.member()
        screen = self.top()
        self.wait_for(screen, "engine")
        screen.press("?")
        self.wait_for(screen, "this help")
        screen.press("?")
        self.wait_for(screen, "engine")
        screen.press("\x1b[B")  # arrow down: selects
        self.wait_for(screen, "engine")
        self.assertEqual(self.leave(screen), 0)

    def test_shows_processes_come_and_go(self):
        screen = self.top()
        self.wait_for(screen, "No process of this user")
        process = self.member()
        self.wait_for(screen, str(process.pid))
        process.kill()
        process.wait(timeout=20)
        self.wait_for(screen, "No process of this user")
        self.assertEqual(self.leave(screen), 0)

    def test_uses_plain_characters_where_the_locale_has_no_others(self):
        self.member()
        screen = self.top(LC_ALL="C")
        self.wait_for(screen, r"100% \|")
        self.assertEqual(self.leave(screen), 0)
        self.assertTrue(screen.output.isascii())

    def test_ends_with_the_terminal(self):
        self.member()
        screen = self.top()
        self.wait_for(screen, "engine")
        screen.process.send_signal(signal.SIGHUP)
        self.assertNotEqual(screen.process.wait(timeout=20), 0)

    def test_knows_when_it_does_not_know_the_terminal(self):
        screen = self.top(TERM="no-such-terminal")
        self.wait_for(screen, r"'no-such-terminal' \(TERM\) is not known here")
        self.assertEqual(screen.process.wait(timeout=20), USAGE)

    def test_prints_one_screen_where_there_is_no_terminal(self):
        process = self.member()
        self.assertIn(str(process.pid), self.kvshim("top"))


if __name__ == "__main__":
    unittest.main()
