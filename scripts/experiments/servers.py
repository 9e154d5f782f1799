"""Servers that the experiments start: what they have in common, and the ballast."""
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

from processes import end_group, plain_environment, start_group
from shim_record import ShimRecord

HERE = pathlib.Path(__file__).resolve().parent


class ServerFailed(Exception):
    pass


class Refused(ServerFailed):
    """A server that ends by itself while it starts."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """One server under one contestant's conditions. Every wait has an end."""

    kind = "server"

    def __init__(self, name, settings, contestant, utilization, folder):
        self.name, self.settings, self.contestant = name, settings, contestant
        self.utilization = utilization
        self.port = free_port()
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log_path = self.folder / "log"
        self.record, self.process, self.ready_seconds = None, None, None

    @property
    def key(self):
        return (self.contestant.name, self.name, self.utilization)

    def command(self):
        raise NotImplementedError

    def environment(self):
        raise NotImplementedError

    def is_ready(self):
        raise NotImplementedError

    def ask_to_end(self):
        self.process.send_signal(signal.SIGINT)

    def burst(self, number, load):
        """{"begin", "end", "requests": [{"client", "round", "first_ms", "ms", "tokens", ...}]}"""
        raise NotImplementedError

    def probe(self):
        """A digest of what one request alone answers, or None where bursts have digests."""
        return None

    def compiled(self):
        """Whether it compiled its model while it started; None where it can't be told."""
        return None

    def start(self):
        environment = {**plain_environment(), **self.environment(), **self.contestant.environment}
        command = [*self.contestant.wrapper, *self.command()]
        if self.contestant.elastic:
            status = self.folder / "status"
            status.mkdir(mode=0o700, exist_ok=True)
            environment.update(KVSHIM_LOG_FILE=str(self.folder / "shim.log"),
                               KVSHIM_STATUS_DIR=str(status))
            self.record = ShimRecord(self.folder / "shim.log", status)
        self._begin = time.monotonic()
        with open(self.log_path, "w") as log:
            log.write(" ".join(map(str, command)) + "\n")
            log.flush()
            self.process = start_group(command, env=environment, stdin=subprocess.DEVNULL,
                                       stdout=log, stderr=subprocess.STDOUT)

    def wait_ready(self, timeout):
        end = self._begin + timeout
        while not self.is_ready():
            if self.process.poll() is not None:
                raise Refused(f"{self.name} ended with {self.process.returncode} while it started: "
                              f"{self.last_words()}")
            if time.monotonic() > end:
                raise ServerFailed(f"{self.name} was not ready after {timeout:.0f} s: "
                                   f"{self.last_words()}")
            time.sleep(0.1)
        self.ready_seconds = time.monotonic() - self._begin

    def check_alive(self):
        if self.process.poll() is not None:
            raise ServerFailed(f"{self.name} ended with {self.process.returncode}: "
                               f"{self.last_words()}")

    def facts(self):
        """What the shim says about itself in this server; empty without it."""
        if not self.record:
            return {}
        facts = {"pools": self.record.pools(), "trouble": self.record.trouble()[:20],
                 "releases": len(self.record.releases())}
        status = self.record.status()
        if status:
            facts["unknown_kernels"] = len(status.get("unknown_kernels", []))
            if status["devices"]:
                device = dict(status["devices"][0])
                device.pop("pools", None)
                facts["device"] = device
        return facts

    def faults_in_host(self):
        """How many faults found no GPU memory, since the server began."""
        return self.facts().get("device", {}).get("faults", {}).get("in_host_memory", 0)

    def end(self, grace=20, ask=True):
        if self.process and self.process.poll() is None:
            if ask:
                with contextlib.suppress(OSError):
                    self.ask_to_end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace)
        if self.process:
            end_group(self.process)
        if self.record:
            self.record.close()

    def last_words(self):
        """The log's last line that says what went wrong, else its last line."""
        with contextlib.suppress(OSError):
            lines = self.log_path.read_text(errors="replace").strip().splitlines()
            blamed = [line for line in lines if "Error" in line or "Free memory on device" in line]
            return (blamed or lines or ["its log is empty"])[-1].strip()[-300:]
        return "no log"


class Ballast:
    """A process that holds GPU memory until close()."""

    def __init__(self, pools_mib, environment):
        self.process = start_group(
            [sys.executable, str(HERE / "ballast.py"), str(pools_mib)],
            env={**plain_environment(), **environment}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.says = self.process.stdout.readline().strip()
        if not self.says.startswith("holds "):
            end_group(self.process)
            raise ServerFailed(f"the ballast does not hold: {self.says}")
        self.usable_mib = int(self.says.split()[-2])

    def close(self):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        end_group(self.process)


def end_all(servers):
    """All at the same time."""
    for server in servers:
        with contextlib.suppress(OSError):
            server.ask_to_end()
    for server in servers:
        server.end(ask=False)


def write_json(path, content):
    """Whole or not at all."""
    path = pathlib.Path(path)
    after = path.with_suffix(path.suffix + ".next")
    after.write_text(json.dumps(content, indent=1, default=str) + "\n")
    os.replace(after, path)
