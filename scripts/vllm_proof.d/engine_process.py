"""One engine in a process of its own, asked over two pipes with a line of JSON for each request.

The pipes are not stdin and stdout: engines print there.
"""
import argparse
import json
import os
import sys
import time
import traceback


def parse_options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, required=True, help="file descriptor to read from")
    parser.add_argument("--answers", type=int, required=True, help="file descriptor to write to")
    parser.add_argument("--name", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--util", type=float, required=True)
    parser.add_argument("--len", type=int, default=2048)
    parser.add_argument("--kv-bytes", type=int, default=0, help="size of the KV cache; 0: from --util")
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--prefix", action="store_true")
    parser.add_argument("--attention-backend", default="")
    parser.add_argument("--fake", action="store_true")
    parser.add_argument("--fake-elastic", action="store_true")
    parser.add_argument("--fake-memory", default="")
    return parser.parse_args()


def preloaded_library():
    """The library that is really mapped, whatever the environment says."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            if "libkvshim.so" in line:
                return line.split()[-1]
    return None


def main():
    options = parse_options()
    requests = os.fdopen(options.requests, "r")
    answers = os.fdopen(options.answers, "w", buffering=1)

    def answer(value):
        answers.write(json.dumps(value) + "\n")

    try:
        engine = None
        if options.fake:
            from fake_engine import FakeEngine as Engine
        else:
            from vllm_engine import VllmEngine as Engine
            import vllm  # noqa: F401  the slow part of a start that needs no GPU: before "start"
            from vllm import LLM  # noqa: F401
        for line in requests:
            request = json.loads(line)
            if request["do"] == "start":
                begin = time.monotonic()
                engine = Engine(options)
                answer({"ready": True, "pid": os.getpid(), "seconds": time.monotonic() - begin,
                        "library": preloaded_library(), **engine.facts()})
            elif request["do"] == "burst":
                answer(engine.burst(request["prompts"], request["tokens"], request["logprobs"]))
            elif request["do"] == "submit":
                answer(engine.submit(request["prompts"], request["tokens"]))
            elif request["do"] == "step":
                answer(engine.step(request["count"]))
            elif request["do"] == "end":
                break
        if engine:
            engine.close()
        answer({"ended": True})
    except BaseException:
        text = traceback.format_exc()
        print(text, file=sys.stderr, flush=True)
        answer({"error": text.strip().splitlines()[-1]})
        raise


if __name__ == "__main__":
    main()
