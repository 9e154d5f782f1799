"""`vllm serve` with its OpenAI API, as the experiments' clients use it."""
import concurrent.futures
import contextlib
import hashlib
import http.client
import json
import sys
import time

import prompts
from servers import Server, ServerFailed


class VllmServer(Server):
    kind = "vllm serve"

    def command(self):
        settings = self.settings
        # The console script's first line may name another machine's Python.
        program = [sys.executable, str(settings.vllm)] if settings.site else [str(settings.vllm)]
        return [*program, "serve", str(settings.models[self.name]), "--served-model-name", "m",
                "--host", "127.0.0.1", "--port", str(self.port), "--max-model-len", "2048",
                "--gpu-memory-utilization", str(self.utilization), *settings.vllm_options,
                *self.contestant.options]

    def environment(self):
        return self.settings.engine_environment

    def compiled(self):
        """With an empty compile cache: such an engine stays some 100 MiB larger (measured)."""
        log = self.log_path.read_text(errors="replace")
        if "Directly load the compiled graph" in log:
            return False
        return True if "Compiling a graph for compile range" in log else None

    def is_ready(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        return False

    def burst(self, number, load):
        """`clients` clients, each with one request after the other."""
        begin = time.time()

        def client(which):
            rows, index = [], 0
            while not load.is_over(begin, index):
                # Every second client asks the same again in every burst: its prefix is found in
                # pages that were idle in between.
                key = f"again.{which}.{index}" if which % 2 == 0 else f"b{number}.{which}.{index}"
                row = {"client": which, "round": index}
                try:
                    row.update(self._complete(f"{self.name}.{key}", load.prompt_of(which),
                                              load.tokens, load.timeout))
                except (OSError, http.client.HTTPException, ValueError, ServerFailed) as problem:
                    row["error"] = str(problem)[:200] or type(problem).__name__
                    rows.append(row)
                    break
                rows.append(row)
                index += 1
            return rows

        with concurrent.futures.ThreadPoolExecutor(load.clients) as pool:
            rows = [row for rows in pool.map(client, range(load.clients)) for row in rows]
        self.check_alive()
        return {"begin": begin, "end": time.time(), "requests": rows}

    def probe(self):
        """Alone in its batch, the answer is the same in every run; in a burst it need not be."""
        return self._complete(f"{self.name}.probe", 300, 48, 60)["digest"]

    def _complete(self, key, length, tokens, timeout):
        body = json.dumps({"model": "m", "prompt": prompts.text(key, length), "max_tokens": tokens,
                           "temperature": 0, "ignore_eos": True, "stream": True}).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(connection):
            begin, first, pieces, text = time.monotonic(), None, 0, hashlib.sha256()
            connection.request("POST", "/v1/completions", body,
                               {"Content-Type": "application/json"})
            reply = connection.getresponse()
            if reply.status != 200:
                raise ServerFailed(f"HTTP {reply.status}: {reply.read(200)!r}")
            ended = False
            for line in reply:
                if line.startswith(b"data: [DONE]"):
                    ended = True
                elif line.startswith(b"data: "):
                    first = first or time.monotonic() - begin
                    pieces += 1
                    text.update(json.loads(line[6:])["choices"][0]["text"].encode())
            if not pieces or not ended:
                raise ServerFailed(f"an answer broke off after {pieces} pieces")
            return {"first_ms": 1000 * first, "ms": 1000 * (time.monotonic() - begin),
                    "tokens": tokens, "digest": text.hexdigest()[:16]}
