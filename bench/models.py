"""Figures of every model of the catalogue: load time, memory, tokens a second, eight sequences at once, and their noise.

    python bench/models.py --cache ~/.cache/paceline [--model ID] [--tokens 24] [--twin]

Each measurement runs in a process of its own. Memory is what the process holds after an answer, mapped weights included
(resident set). `--twin` adds transformers' own forward pass on the same weights.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from paceline.models.catalogue import load_catalogue
from paceline.models.language import LanguageModel, prepare_model
from paceline.models.variants import load_variant

PARALLEL = 8
PROMPT = "Explain in a few sentences how rain forms, why the sea is salty, and what the moon has to do with the tides."


def measure_one(path: Path, tokens: int, precision: str) -> dict[str, float]:
    torch.set_num_threads(1)
    started, began = time.perf_counter(), time.process_time()
    model = load_variant(path, "fp32" if precision == "fp32" else "served")
    figures = {"load_s": time.perf_counter() - started, "load_cpu_s": time.process_time() - began}
    prompt = model.encode_chat([{"role": "user", "content": PROMPT}])
    cache = model.open_cache(len(prompt) + tokens)
    figures |= {"prompt_tokens": len(prompt), "prefill_cpu_s": clock(lambda: model.compute_next_logits(prompt, cache))}
    figures["tokens_per_cpu_s"] = tokens / clock(lambda: [model.compute_next_logits([7], cache) for _ in range(tokens)])
    figures["memory_bytes"] = psutil.Process().memory_info().rss
    return figures


def measure_parallel(path: Path, tokens: int, precision: str) -> dict[str, float]:
    del precision
    torch.set_num_threads(1)
    model = LanguageModel.load(path)
    prompts = [model.encode_chat([{"role": "user", "content": f"{PROMPT} Answer {n}."}]) for n in range(PARALLEL)]
    caches = [model.open_cache(len(prompt) + tokens) for prompt in prompts]
    alone = [model.open_cache(len(prompt) + tokens) for prompt in prompts]
    together = model.compute_next_logits_together(prompts, caches)
    singles = torch.stack(
        [model.compute_next_logits(prompt, cache) for prompt, cache in zip(prompts, alone, strict=True)]
    )
    noise, same = [compare(together, singles)], []
    spent = 0.0
    for _ in range(tokens):
        chosen = [[int(row.argmax())] for row in singles]
        began = time.process_time()
        together = model.compute_next_logits_together(chosen, caches)
        spent += time.process_time() - began
        singles = torch.stack([model.compute_next_logits(ids, cache) for ids, cache in zip(chosen, alone, strict=True)])
        noise.append(compare(together, singles))
        same.append(float((together.argmax(-1) == singles.argmax(-1)).float().mean()))
    return {
        "together_tokens_per_cpu_s": PARALLEL * tokens / spent,
        "together_logprob_distance": sum(noise) / len(noise),
        "together_largest": max(noise),
        "together_same_choice": sum(same) / len(same),
    }


def measure_twin(path: Path, tokens: int, precision: str) -> dict[str, float]:
    del precision
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - seconds

    torch.set_num_threads(1)
    twin = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
    with torch.inference_mode():
        reply = twin(torch.arange(5, 45)[None], use_cache=True)

        def step() -> None:
            for _ in range(tokens):
                twin(torch.tensor([[7]]), past_key_values=reply.past_key_values, use_cache=True)

        return {"twin_tokens_per_cpu_s": tokens / clock(step), "twin_memory_bytes": psutil.Process().memory_info().rss}


def compare(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Mean distance of logprobs above -5."""
    found, wanted = found.log_softmax(-1), wanted.log_softmax(-1)
    return float((found - wanted)[wanted > -5].abs().mean())


def clock(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


MEASUREMENTS = {"one": measure_one, "parallel": measure_parallel, "twin": measure_twin}


def measure_elsewhere(kind: str, path: Path, tokens: int, precision: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--cache", str(path), "--tokens", str(tokens)]
    command += ["--only", kind, "--precision", precision]
    found = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    figures: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--model", action="append")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--twin", action="store_true")
    parser.add_argument("--only", choices=sorted(MEASUREMENTS))
    parser.add_argument("--precision", default="bf16")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(MEASUREMENTS[args.only](args.cache, args.tokens, args.precision)))
        return
    kinds = [("one", "bf16"), ("one", "fp32"), ("parallel", "bf16"), *([("twin", "bf16")] if args.twin else [])]
    for model_id in args.model or load_catalogue():
        path = prepare_model(args.cache, model_id, progress=print)
        for kind, precision in kinds:
            figures = measure_elsewhere(kind, path, args.tokens, precision)
            cells = "  ".join(
                f"{name} {value:,.4g}" if value < 1e6 else f"{name} {value:,.0f}" for name, value in figures.items()
            )
            print(f"{model_id} {precision}: {cells}", flush=True)


if __name__ == "__main__":
    main()
