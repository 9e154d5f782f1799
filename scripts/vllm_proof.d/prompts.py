"""Prompts that are the same in every run: a byte tokenizer makes each character a token."""
import random

WORDS = ("ash birch cedar elm fir hazel holly larch linden maple oak pine poplar rowan spruce "
         "willow yew alder aspen beech").split()


def text(key, length):
    """`length` characters that differ from every other key's from the first block on."""
    source = random.Random(key)
    words = [f"{key}:"]
    size = len(words[0])
    while size < length:
        words.append(source.choice(WORDS))
        size += len(words[-1]) + 1
    return " ".join(words)[:length]


def burst(number, count, again, shortest=64, longest=480):
    """One burst's prompts. Every second one comes again `again` bursts later, so that a prefix
    cache finds pages that were idle (and parked) in between; the others come once."""
    step = (longest - shortest) / max(1, count - 1)
    lengths = [int(shortest + i * step) for i in range(count)]
    return [text(f"r{number % again}.{i}" if i % 2 == 0 else f"u{number}.{i}", length)
            for i, length in enumerate(lengths)]
