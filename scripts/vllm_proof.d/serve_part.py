"""The command of the README: `kvwrap vllm serve MODEL`, engine core in a spawned child, over HTTP."""
import concurrent.futures
import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import time
import urllib.request

import prompts
from figures import spread
from processes import MIB, end_group, plain_environment, start_group
from shim_record import ShimRecord

HERE = pathlib.Path(__file__).resolve().parent
PORT = 8077


def command(settings):
    if settings.dry:
        return [sys.executable, str(HERE / "fake_server.py"), str(PORT), str(settings.fake_memory)]
    # The console script of the package, whose first line names another machine's Python.
    return [sys.executable, str(settings.vllm_script), "serve", str(settings.model),
            "--served-model-name", "m", "--port", str(PORT), "--max-model-len", "2048"]


def run(context, idle=2.0, requests=16, tokens=200):
    settings, sampler = context.settings, context.sampler
    folder = context.folder / "serve"
    folder.mkdir(parents=True, exist_ok=True)
    status_folder = folder / "serve.status"
    status_folder.mkdir(mode=0o700, exist_ok=True)
    environment = {**plain_environment(), **settings.engine_environment, **settings.shim_environment,
                   "KVSHIM_LOG_FILE": str(folder / "serve.shim.log"),
                   "KVSHIM_STATUS_DIR": str(status_folder)}
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    result = context.partials["serve"] = {
        "complete": False, "bursts": [], "base_mib": sampler.now() / MIB,
        "command": " ".join([*settings.wrapper, *command(settings)])}
    record = ShimRecord(folder / "serve.shim.log", status_folder)
    begin = time.time()
    with open(folder / "serve.log", "w") as log:
        server = start_group([*settings.wrapper, *command(settings)], env=environment,
                             stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_healthy(server, context.deadline.wait(200))
        result["ready_after"] = time.time() - begin
        time.sleep(idle + 1.5)
        result["after_load_mib"] = sampler.now() / MIB
        result["pools"] = record.pools()
        for number in range(3):
            start = time.time()
            with concurrent.futures.ThreadPoolExecutor(requests) as pool:
                rows = list(pool.map(lambda p: complete(p, tokens),
                                     prompts.burst(2000 + number, requests, 2)))
            end = time.time()
            time.sleep(idle + 1.3)
            result["bursts"].append({
                "begin": start, "end": end, "first_token_ms": spread([1000 * r[0] for r in rows]),
                "tokens": sum(r[1] for r in rows), "peak_mib": sampler.peak(start, end) / MIB,
                "idle_mib": sampler.now() / MIB})
        result["status"] = record.device()
        result["unknown_kernels"] = (record.status() or {}).get("unknown_kernels")
        server.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)
        result["exit"] = server.poll()
        result["complete"] = True
    except (OSError, RuntimeError, ValueError) as problem:
        result["error"] = str(problem)
        context.say(f"serve: FAILED: {problem}")
    finally:
        end_group(server)
        record.close()
        result["shim_trouble"] = record.trouble()[:40]
    return result


def wait_healthy(server, timeout):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with status {server.returncode}")
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=2) as reply:
                if reply.status == 200:
                    return
        time.sleep(0.3)
    raise RuntimeError(f"the server was not ready after {timeout:.0f} s")


def complete(prompt, tokens):
    """One streamed completion: seconds to its first piece, and how many pieces came."""
    body = json.dumps({"model": "m", "prompt": prompt, "max_tokens": tokens, "temperature": 0,
                       "ignore_eos": True, "stream": True}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/v1/completions", body,
                                     {"Content-Type": "application/json"})
    begin, first, pieces = time.monotonic(), None, 0
    with urllib.request.urlopen(request, timeout=60) as reply:
        for line in reply:
            if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                first = first or time.monotonic() - begin
                pieces += 1
    if not pieces:
        raise RuntimeError("a completion came without a token")
    return first, pieces
