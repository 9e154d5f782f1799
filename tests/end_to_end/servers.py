"""Several small engines that serve bursts on one simulated GPU."""
import json
import os
import socket
import subprocess
import time

from harness import BUILD, Case

TOOL = BUILD / "tools" / "kvshim" / "kvshim"
MIB = 1 << 20
# Half a MiB of keys and values for each token; the floor of 512 MiB leaves the rest.
SHAPE = ["--layers", 4, "--pool-size", "208MiB", "--head-size", 4096, "--heads", 8,
         "--prompt", 40, "--tokens", 8]


class Server:
    """One engine and a connection to it."""

    def __init__(self, process):
        self.process, self.pid = process, process.pid
        line = process.stdout.readline()
        while line and not line.startswith("serving"):
            line = process.stdout.readline()
        if not line:
            raise RuntimeError(process.communicate()[1])
        self.socket = socket.create_connection(("127.0.0.1", int(line.rsplit(":", 1)[1])), 600)
        self.lines = self.socket.makefile("rw")

    def ask(self, number):
        self.lines.write(f"burst {number}\n")
        self.lines.flush()

    def digest(self):
        """Of the burst that was asked for; None: the engine has gone."""
        for line in self.lines:
            if line.startswith("burst "):
                return line.split()[3]
            if line.startswith("error"):
                raise RuntimeError(line)
        return None

    def burst(self, number):
        self.ask(number)
        return self.digest()

    def close(self):
        self.socket.close()
        self.process.kill()
        errors = self.process.communicate()[1]
        assert "WARNING: ThreadSanitizer" not in errors, errors[:20000]


class Servers(Case):
    """All engines of a test share one GPU and one segment."""
    MEMORY = 1200 * MIB

    def setUp(self):
        super().setUp()
        self.gpu = f"neighbours-{os.getpid()}-{self.folder.name}"
        self.addCleanup(lambda: os.path.exists(self.gpu_file) and os.unlink(self.gpu_file))
        self.gpu_file = f"/dev/shm/kvshim-simulated-gpu-{self.gpu}"
        self.logs = 0

    def server(self, arguments=(), options=None, preload=True, command=None, **extra):
        extra.setdefault("KVSHIM_SIM_GPU", self.gpu)
        extra.setdefault("KVSHIM_SIM_MEMORY", self.MEMORY)
        extra.setdefault("KVSHIM_LOG_FILE", self.folder / f"log.{self.logs}")
        log = self.folder / f"log.{self.logs}"
        self.logs += 1
        started = Server(self.start([*SHAPE, *arguments, "--serve", 0],
                                    {"idle_timeout": '"60s"', **(options or {})}, preload, command,
                                    **extra))
        started.log = log
        self.addCleanup(started.close)
        return started

    def alone(self, bursts, arguments=()):
        """Digests of a static engine that has a GPU to itself."""
        extra = {"KVSHIM_SIM_GPU": "", "KVSHIM_SIM_MEMORY": 4 << 30}
        engine = self.server(arguments, preload=False, **extra)
        digests = [engine.burst(n) for n in bursts]
        engine.close()
        return digests

    def tool(self, *words, status=0):
        done = subprocess.run([str(TOOL), *map(str, words)], capture_output=True, text=True,
                              timeout=60, check=False,
                              env={**os.environ, "KVSHIM_SEGMENT_DIR": str(self.folder)})
        self.assertEqual(done.returncode, status, done.stdout + done.stderr + self.all_logs())
        return done.stdout

    def processes(self):
        gpus = json.loads(self.tool("list", "--json"))["gpus"]
        return {p["pid"]: p for gpu in gpus for p in gpu["processes"]}

    def all_logs(self):
        return "".join(f"\n{path.name}:\n{path.read_text()[-3000:]}"
                       for path in sorted(self.folder.glob("log*")))

    def eventually(self, condition, seconds=20, what=""):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            time.sleep(0.02)
        self.fail(f"never came true: {what}\n{self.all_logs()}")

    def shows(self, server, condition, seconds=20):
        return self.eventually(
            lambda: server.pid in (found := self.processes()) and condition(found[server.pid]),
            seconds)
