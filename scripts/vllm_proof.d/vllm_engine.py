"""vLLM's offline engine, unmodified, as the proof drives it."""
import contextlib
import hashlib
import struct
import time


class VllmEngine:
    def __init__(self, options):
        from vllm import LLM
        chosen = {"kv_cache_memory_bytes": options.kv_bytes} if options.kv_bytes else {}
        if options.attention_backend:
            chosen["attention_backend"] = options.attention_backend
        self.llm = LLM(model=options.model, gpu_memory_utilization=options.util, **chosen,
                       max_model_len=options.len, enforce_eager=options.eager,
                       enable_prefix_caching=options.prefix, seed=0, disable_log_stats=True)

    def facts(self):
        cache = self.llm.llm_engine.vllm_config.cache_config
        return {"num_blocks": cache.num_gpu_blocks, "block_size": cache.block_size}

    def burst(self, prompts, tokens, logprobs):
        from vllm import SamplingParams
        sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, seed=0,
                                  logprobs=1 if logprobs else None)
        begin = time.time()
        start = time.monotonic()
        with timed_steps(self.llm.llm_engine) as ended:
            outputs = self.llm.generate(prompts, sampling, use_tqdm=False)
        seconds = time.monotonic() - start
        end = time.time()
        return {"begin": begin, "end": end, "seconds": seconds, "step_ms": mean_steps(start, ended),
                "digests": [digest(o.outputs[0]) for o in outputs],
                "prompt_tokens": sum(len(o.prompt_token_ids) for o in outputs),
                "output_tokens": sum(len(o.outputs[0].token_ids) for o in outputs),
                "cached_tokens": sum(o.num_cached_tokens or 0 for o in outputs)}

    def submit(self, prompts, tokens):
        """Requests that step() works on; those before must have ended."""
        from vllm import SamplingParams
        sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, seed=0,
                                  logprobs=1)
        self.batch = getattr(self, "batch", 0) + 1
        self.finished = {}
        self.names = [f"{self.batch}.{number}" for number in range(len(prompts))]
        for name, prompt in zip(self.names, prompts):
            self.llm.llm_engine.add_request(name, prompt, sampling)
        return {"submitted": len(prompts)}

    def step(self, count):
        """At most `count` steps of the engine; the digests once all requests have ended."""
        engine = self.llm.llm_engine
        steps, start = 0, time.monotonic()
        while steps < count and engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    self.finished[output.request_id] = digest(output.outputs[0])
            steps += 1
        seconds = time.monotonic() - start
        ended = not engine.has_unfinished_requests()
        return {"seconds": seconds, "steps": steps, "ended": ended,
                "digests": [self.finished.get(name) for name in self.names] if ended else None}

    def close(self):
        pass


STEPS_A_MEAN = 25


@contextlib.contextmanager
def timed_steps(engine):
    """When each of the engine's steps ended (time.monotonic())."""
    ended, step = [], engine.step

    def timed():
        outputs = step()
        ended.append(time.monotonic())
        return outputs

    engine.step = timed
    try:
        yield ended
    finally:
        del engine.step


def mean_steps(start, ended):
    """How long a step took (ms), the mean of each STEPS_A_MEAN of them in turn."""
    times = [start, *ended]
    marks = times[::STEPS_A_MEAN]
    return [round((b - a) * 1000 / STEPS_A_MEAN, 3) for a, b in zip(marks, marks[1:])]


def digest(output):
    """Of the tokens and the exact bits of every log-probability, in order."""
    sha = hashlib.sha256(struct.pack(f"<{len(output.token_ids)}q", *output.token_ids))
    for position in output.logprobs or []:
        for token in sorted(position):
            sha.update(struct.pack("<qd", token, position[token].logprob))
    return sha.hexdigest()[:16]
