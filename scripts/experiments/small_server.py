"""The small engine of the tests as a server: lines over loopback (tests/engine/server.h)."""
import contextlib
import socket
import time

from servers import Server, ServerFailed

# Two models that differ in size, as the real ones do.
LAYERS = {"A": 4, "B": 6}


class SmallServer(Server):
    kind = "small engine"

    def command(self):
        plan = self.settings.plan
        return [str(self.settings.engine), "--serve", str(self.port), "--layers",
                str(LAYERS[self.name]), "--utilization", str(self.utilization), "--requests",
                str(plan.clients), "--prompt", str(plan.prompt), "--tokens", str(plan.tokens),
                "--head-size", "256", "--prefix", "--graphs", "--seed", str(ord(self.name))]

    def environment(self):
        return self.settings.engine_environment

    def is_ready(self):
        with contextlib.suppress(OSError):
            return "serving 127.0.0.1:" in self.log_path.read_text()
        return False

    def ask_to_end(self):
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as line:
            line.sendall(b"end\n")
            line.recv(16)

    def burst(self, number, load):
        """Rounds one after the other, each a batch of `clients` requests with one digest."""
        requests, begin, index = [], time.time(), 0
        with socket.create_connection(("127.0.0.1", self.port), timeout=load.timeout) as line:
            while not load.is_over(begin, index):
                requests += self._round(line, number, index, load)
                index += 1
        return {"begin": begin, "end": time.time(), "requests": requests}

    def _round(self, line, number, index, load):
        start = time.monotonic()
        line.sendall(f"burst {number * 1000 + index}\n".encode())
        found = {client: {"client": client, "round": index} for client in range(load.clients)}
        with line.makefile("r", buffering=1) as answers:
            for answer in answers:
                now = 1000 * (time.monotonic() - start)
                words = answer.split()
                if words[0] in ("first", "done"):
                    found[int(words[1])]["first_ms" if words[0] == "first" else "ms"] = now
                    continue
                if words[0] != "burst":
                    raise ServerFailed(f"{self.name}: {answer.strip()}")
                # One digest covers the batch; it stands at each of its requests.
                for request in found.values():
                    request.update(digest=words[3], tokens=int(words[5]) / load.clients)
                return list(found.values())
        self.check_alive()
        raise ServerFailed(f"{self.name}: the line was cut ({self.last_words()})")
