"""The parent's side of the processes that a part starts: engines and the memory sampler."""
import contextlib
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import threading
import time

from shim_record import ShimRecord

HERE = pathlib.Path(__file__).resolve().parent
MIB = 1 << 20


class EngineFailed(Exception):
    pass


started = []  # every process group of this program: nothing may outlive it


def start_group(command, **options):
    """A process in a session of its own, so that all it starts can be ended with it."""
    process = subprocess.Popen(command, start_new_session=True, **options)
    started.append(process)
    return process


def end_engines():
    """Ends what a part that failed left behind; the sampler goes on."""
    for process in list(started):
        if "memory_sampler" not in " ".join(map(str, process.args)):
            end_group(process)


def end_all_at_once():
    """For the last moment: no waiting, no grace."""
    for process in list(started):
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)


def plain_environment():
    """This process's environment without any preload or setting of the shim."""
    return {name: value for name, value in os.environ.items()
            if name != "LD_PRELOAD" and not name.startswith("KVSHIM_")}


def end_group(process, grace=5.0):
    """Ends a process of start_group with everything it started."""
    for sign, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, grace)):
        if process.poll() is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # what the leader left behind
    with contextlib.suppress(ValueError):
        started.remove(process)
    return process.returncode


class MemorySampler:
    def __init__(self, path, fake_memory=None):
        self.path, self._offset, self._all = path, 0, []
        self._lock = threading.Lock()
        command = [sys.executable, str(HERE / "memory_sampler.py"), str(path), str(os.getpid())]
        if fake_memory:
            command.append(str(fake_memory))
        self.process = start_group(command, env=plain_environment())
        end = time.monotonic() + 20
        while not self.samples():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the memory sampler does not start")
            time.sleep(0.05)

    def samples(self, since=0.0, until=float("inf")):
        """[(time, bytes)] of the whole lines so far."""
        with self._lock, contextlib.suppress(FileNotFoundError):
            with open(self.path, "rb") as file:
                file.seek(self._offset)
                text = file.read()
            text = text[:text.rfind(b"\n") + 1]
            self._offset += len(text)
            for line in text.splitlines():
                moment, used = line.split()
                self._all.append((float(moment), int(used)))
            return [sample for sample in self._all if since <= sample[0] <= until]
        return []

    def now(self):
        return self.samples()[-1][1]

    def peak(self, since, until):
        return max((b for _, b in self.samples(since, until)), default=0)

    def close(self):
        end_group(self.process, 2)


class EngineProcess:
    """An engine behind two pipes. Every wait has an end; a dead engine raises EngineFailed."""

    def __init__(self, name, settings, folder, elastic, engine_options, shim_environment=None,
                 wrapper=None):
        self.name, self.folder, self.elastic = name, pathlib.Path(folder), elastic
        self.folder.mkdir(parents=True, exist_ok=True)
        self.status_folder = self.folder / f"{name}.status"
        self.shim_log = self.folder / f"{name}.shim.log"
        environment = plain_environment()
        environment.update(settings.engine_environment)
        request_read, self._request_write = os.pipe()
        self._answer_read, answer_write = os.pipe()
        command = [sys.executable, str(HERE / "engine_process.py"), "--requests", str(request_read),
                   "--answers", str(answer_write), "--name", name, "--model", str(settings.model),
                   *engine_options, *settings.engine_options]
        if settings.dry:
            command += ["--fake", "--fake-memory", str(settings.fake_memory)]
            command += ["--fake-elastic"] if elastic else []
        if elastic:
            self.status_folder.mkdir(mode=0o700, exist_ok=True)
            environment.update(KVSHIM_LOG_FILE=str(self.shim_log),
                               KVSHIM_STATUS_DIR=str(self.status_folder))
            environment.update(shim_environment or {})
            if wrapper:
                command = [*wrapper, *command]
            elif settings.library:
                environment["LD_PRELOAD"] = str(settings.library)
        self._buffer, self._starting = b"", None
        self.log_path = self.folder / f"{name}.log"
        with open(self.log_path, "w") as log:
            self.process = start_group(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, pass_fds=(request_read, answer_write))
        os.close(request_read)
        os.close(answer_write)
        self.record = ShimRecord(self.shim_log, self.status_folder) if elastic else None

    def start(self):
        """Builds the engine; until then the process only imports, which needs no GPU."""
        self._ask({"do": "start"})
        self._starting = time.time()

    def wait_ready(self, timeout):
        if self._starting is None:
            self.start()
        facts = self._answer(timeout)
        if self.elastic and not facts.get("library"):
            facts["warning"] = "libkvshim.so is not loaded in the elastic engine"
        facts["ready_after"] = time.time() - self._starting
        return facts

    def burst(self, prompts, tokens, logprobs=True, timeout=120):
        self._ask({"do": "burst", "prompts": prompts, "tokens": tokens, "logprobs": logprobs})
        return self._answer(timeout)

    def submit(self, prompts, tokens, timeout=60):
        self._ask({"do": "submit", "prompts": prompts, "tokens": tokens})
        return self._answer(timeout)

    def step(self, count, timeout=60):
        self._ask({"do": "step", "count": count})
        return self._answer(timeout)

    def _ask(self, request):
        data = (json.dumps(request) + "\n").encode()
        try:
            while data:
                data = data[os.write(self._request_write, data):]
        except OSError as problem:
            raise EngineFailed(f"{self.name}: {problem} ({self.last_words()})") from problem

    def end(self, timeout=30):
        """Asks the engine to end; returns its exit status, or None when it had to be killed."""
        with contextlib.suppress(EngineFailed, OSError):
            self._ask({"do": "end"})
            self._answer(timeout)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)
        status = self.process.poll()
        self.kill()
        return status

    def kill(self):
        end_group(self.process)
        if self.record:
            self.record.close()
        for name in ("_request_write", "_answer_read"):
            descriptor = getattr(self, name)
            setattr(self, name, -1)  # the number can be somebody else's by now
            if descriptor >= 0:
                os.close(descriptor)

    def _answer(self, timeout):
        end = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            left = end - time.monotonic()
            if left <= 0:
                raise EngineFailed(f"{self.name}: no answer in {timeout:.0f} s ({self.last_words()})")
            if select.select([self._answer_read], [], [], left)[0]:
                piece = os.read(self._answer_read, 1 << 16)
                if not piece:
                    raise EngineFailed(f"{self.name}: ended ({self.last_words()})")
                self._buffer += piece
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer = json.loads(line)
        if "error" in answer:
            raise EngineFailed(f"{self.name}: {answer['error']}")
        return answer

    def last_words(self):
        with contextlib.suppress(OSError):
            lines = self.log_path.read_text(errors="replace").strip().splitlines()
            return lines[-1][-300:] if lines else "its log is empty"
        return "no log"


@contextlib.contextmanager
def engines_of(part, result, context):
    """{name: engine} to be filled. They end with the block (result["NAME_exit"]: their exit
    statuses); an engine that fails ends it with result["error"], and only a block that came to its
    end makes the result complete."""
    engines = {}
    try:
        yield engines
        result["complete"] = True
    except EngineFailed as problem:
        result["error"] = str(problem)
        context.say(f"{part}: FAILED: {problem}")
    finally:
        for engine in engines.values():
            result[f"{engine.name}_exit"] = engine.end(15) if result["complete"] else engine.kill()
