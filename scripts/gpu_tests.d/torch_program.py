"""PyTorch code that knows nothing of kvshim: a tensor over the shim's threshold is filled, written,
read back after an idle time-out, compared, and freed. With --status FOLDER it also demands that the
status file tells of the pool and, after the wait, of little GPU memory.

usage: torch_program.py --plain | --status FOLDER
"""
import json
import os
import pathlib
import sys
import time

import torch

BYTES = 512 << 20


def resident(folder):
    status = json.loads((pathlib.Path(folder) / f"{os.getpid()}.json").read_text())
    device = status["devices"][0]
    assert any(pool["bytes"] >= BYTES for pool in device["pools"]), "no pool in the status file"
    return device["resident"]


def main():
    plain = sys.argv[1] == "--plain"
    folder = None if plain else sys.argv[2]
    loaded = "libkvshim.so" in pathlib.Path("/proc/self/maps").read_text()
    assert loaded != plain, "the shim is loaded or not, against expectation"

    cache = torch.zeros(BYTES, dtype=torch.int8, device="cuda")
    torch.cuda.synchronize()
    if not plain:
        time.sleep(1.3)
        assert resident(folder) <= 64 << 20, f"filling with zeros took {resident(folder)} bytes"
    words = cache.view(torch.int32)
    generator = torch.Generator(device="cuda").manual_seed(1)
    places = torch.randint(0, words.numel(), (5000,), device="cuda", generator=generator)
    values = torch.randint(1, 2**31 - 1, (5000,), device="cuda", generator=generator, dtype=torch.int32)
    expected = torch.zeros(words.numel(), dtype=torch.int32)
    expected[places.cpu()] = values.cpu()
    words[places.cpu().cuda()] = expected[places.cpu()].cuda()  # doubled places agree
    words[1000:2000] = 7
    expected[1000:2000] = 7
    torch.cuda.synchronize()
    for _ in range(2):
        time.sleep(0.5)
        end = time.monotonic() + 15  # idle: released, and the status file tells, at most once a second
        while not plain and resident(folder) > BYTES // 2:
            assert time.monotonic() < end, f"after idleness {resident(folder)} are resident"
            time.sleep(0.2)
        assert torch.equal(words.cpu(), expected), "a copy to the host differs"
        assert int(words.sum(dtype=torch.int64)) == int(expected.sum(dtype=torch.int64)), "the sum differs"
    copy = cache.clone()
    assert torch.equal(copy.view(torch.int32).cpu(), expected), "a clone differs"
    free_before = torch.cuda.mem_get_info()[0]
    del cache, words, copy
    torch.cuda.empty_cache()
    assert torch.cuda.mem_get_info()[0] >= free_before + BYTES - (64 << 20), "freeing gave nothing back"
    print("right:", "plain" if plain else "elastic")


if __name__ == "__main__":
    main()
