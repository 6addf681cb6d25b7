"""Time of every codec on one core, beside a plain copy of the same vector.

On a CPU it counts seconds of processor time of the one thread, kernel included: waiting for a core that others use does
not count, their use of the caches still shows. On an accelerator it counts seconds that passed.

Run: python bench/training_codecs.py [--params 100e6] [--repeats N] [--only NAME] [--device cuda]. Prints a table; medians.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch

from paceline.training.codecs.codec import Layout
from paceline.training.codecs.feedback import ErrorFeedback
from paceline.training.codecs.masks import RandomMask
from paceline.training.codecs.registry import build_codec

CODECS: dict[str, dict[str, Any]] = {
    "raw": {"name": "raw"},
    "fp16": {"name": "half"},
    "bf16": {"name": "half", "kind": "bf16"},
    "int8": {"name": "int8"},
    "int4": {"name": "int4"},
    "E3M0 (Streaming DiLoCo)": {"name": "float4"},
    "2 bit": {"name": "two_bit"},
    "1 bit": {"name": "sign"},
    "1 bit, mean of 4096": {"name": "sign", "chunk": 4096},
    "SparseLoCo: 64 of 4096, 2 bit": {"name": "top_k", "k": 64, "values": {"name": "two_bit"}},
    "DeMo: DCT 64, 32 of 4096, raw": {"name": "dct", "codec": {"name": "top_k", "k": 32, "exact_feedback": True}},
    "DisTrO: DCT 64, 32 of 4096, 1 bit": {
        "name": "dct",
        "codec": {"name": "top_k", "k": 32, "values": {"name": "sign"}, "exact_feedback": True},
    },
    "DisTrO: DCT 64, 4 of 4096, 1 bit": {
        "name": "dct",
        "codec": {"name": "top_k", "k": 4, "values": {"name": "sign"}, "exact_feedback": True},
    },
    "PowerSGD, rank 4": {"name": "power_sgd", "rank": 4},
}
WITH_FEEDBACK = ("SparseLoCo: 64 of 4096, 2 bit", "DisTrO: DCT 64, 32 of 4096, 1 bit")
MASKS = {"SPARTA: mask of 0.5 %": 0.005, "SPARTA: mask of 10 %": 0.1}
_WIDTH = 1024
_LAYER = ((_WIDTH, _WIDTH),) * 4 + ((4 * _WIDTH, _WIDTH), (_WIDTH, 4 * _WIDTH), (_WIDTH,), (_WIDTH,))


def make_layout(params: int) -> Layout:
    """Layers of a decoder of width 1024 until the numbers are used up; the rest is an embedding."""
    layer = Layout(_LAYER).size
    layers, rest = divmod(params, layer)
    return Layout(_LAYER * layers + ((rest // _WIDTH, _WIDTH), (rest % _WIDTH,)))


def measure(action: Callable[[], object], repeats: int, device: str) -> float:
    """Median seconds after one warm-up."""
    seconds = []
    clock = time.process_time if device == "cpu" else time.perf_counter
    for _ in range(repeats + 1):
        begin = clock()
        action()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(clock() - begin)
    return median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=float, default=100e6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--device", default="cpu")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    layout = make_layout(int(settings.params))
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(layout.size, generator=generator) * 0.01).to(settings.device)
    target = torch.empty_like(values).copy_(values)

    def take(action: Callable[[], object]) -> float:
        return measure(action, settings.repeats, settings.device)

    print(f"{layout.size:,} fp32 numbers on {settings.device}, one thread, median of {settings.repeats}; seconds")
    print("| codec | encode | decode | both | bytes a number |\n|---|---|---|---|---|")
    print(f"| copy into a vector at hand | – | – | {take(partial(target.copy_, values)):.3f} | 4 |")
    print(f"| copy into a new vector (torch.clone) | – | – | {take(values.clone):.3f} | 4 |")
    for name, table in CODECS.items():
        if settings.only not in name:
            continue
        codec = build_codec(table)
        payload = codec.encode(values, layout, b"bench")
        encode = take(partial(codec.encode, values, layout, b"bench"))
        decode = take(partial(codec.decode, payload, layout, b"bench"))
        rate = payload.numel() / layout.size
        print(f"| {name} | {encode:.3f} | {decode:.3f} | {encode + decode:.3f} | {rate:.5f} |", flush=True)
        if name in WITH_FEEDBACK:
            apply = partial(ErrorFeedback(0.95).apply, target, values, codec, layout, b"bench")
            encode = take(apply)
            print(f"| … with error feedback | {encode:.3f} | {decode:.3f} | {encode + decode:.3f} | {rate:.5f} |")
    for name, share in MASKS.items():
        if settings.only in name:
            seconds = take(partial(RandomMask(share).draw, layout.size, b"bench", settings.device))
            print(f"| {name} | – | – | {seconds:.3f} | 0 |")


if __name__ == "__main__":
    main()
