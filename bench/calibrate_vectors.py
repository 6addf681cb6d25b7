"""How far honest embeddings lie apart in other arithmetic, and how far dishonest ones: behind `verification.vectors`.

Run: python bench/calibrate_vectors.py [--model ID]. Honest: fp32 and eager attention of this package, for Llamas transformers'
own fp32 and bf16, fused and eager. Dishonest: the 4-bit model, and another text in front of the prompt. Distances between
vectors of unit length are printed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from paceline.cli.environment import get_cache_path
from paceline.inference.embed import compute_vector
from paceline.models.catalogue import DEFAULT_MODEL
from paceline.models.language import LanguageModel, prepare_model
from paceline.models.threads import use_one_thread
from paceline.models.variants import load_variant

TEXTS = (
    "Hi", "yes", "??", "The quick brown fox jumps over the lazy dog.", "Decentralised training over slow links.",
    "def f(x):\n    return x*x\n", "Was kostet die Welt?", "A long letter. " * 40, "1 2 3 4 5 6 7 8 9",
    "Paris is the capital of France.", '{"a": [1,2,3]}', "Mary had a little lamb whose fleece was white as snow. " * 8,
)  # fmt: skip


def load_twin(path: Path, dtype: torch.dtype, attention: str) -> LlamaForCausalLM:
    config = json.loads((path / "config.json").read_text("utf-8"))
    del config["model_type"]
    network = LlamaForCausalLM(LlamaConfig(**config, attn_implementation=attention)).to(dtype)
    params = load_file(path / "model.safetensors")
    network.load_state_dict({name: tensor.to(dtype) for name, tensor in params.items()}, strict=False)
    network.tie_weights()
    return network.eval()


@torch.inference_mode()
def embed_by_twin(twin: LlamaForCausalLM, tokens: list[int]) -> np.ndarray:
    mean = twin.model(torch.tensor([tokens])).last_hidden_state[0].float().mean(0).numpy().astype(np.float64)
    return mean / np.linalg.norm(mean)


def read(values: bytes) -> np.ndarray:
    return np.frombuffer(values, "<f4").astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    asked = parser.parse_args()
    use_one_thread()
    path = prepare_model(get_cache_path(), asked.model, progress=print)
    model, cheaper = LanguageModel.load(path), LanguageModel.load(path, quantise=True)
    prompts = [model.encode(text) for text in TEXTS]
    own = [read(compute_vector(model, tokens)) for tokens in prompts]
    runs = {}
    for name in ("fp32", "eager"):
        other = load_variant(path, name)
        runs[f"honest: our own, {name}"] = [read(compute_vector(other, tokens)) for tokens in prompts]
    is_llama = json.loads((path / "config.json").read_text("utf-8"))["model_type"] == "llama"
    twins = (torch.float32, torch.bfloat16) if is_llama else ()
    for dtype, attention in ((dtype, kind) for dtype in twins for kind in ("sdpa", "eager")):
        twin = load_twin(path, dtype, attention)
        runs[f"honest: {dtype}, {attention}"] = [embed_by_twin(twin, tokens) for tokens in prompts]
    runs["4-bit model"] = [read(compute_vector(cheaper, tokens)) for tokens in prompts]
    runs["text in front"] = [read(compute_vector(model, model.encode("Ad: " + text))) for text in TEXTS]
    print(f"distance of {len(TEXTS)} unit vectors{'':<8}{'least':>10}{'median':>10}{'most':>10}")
    for name, vectors in runs.items():
        apart = [float(np.linalg.norm(one - two)) for one, two in zip(own, vectors, strict=True)]
        print(f"  {name:<32}{min(apart):>10.4f}{np.median(apart):>10.4f}{max(apart):>10.4f}")


if __name__ == "__main__":
    main()
