"""Every named variant runs, differs as it should, and states what the served model states."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from paceline.base.errors import ConfigError
from paceline.models.decoder import attend_eager, attend_fused
from paceline.models.language import LanguageModel, prepare_model
from paceline.models.variants import VARIANTS, add_noise, drop_middle_layer, load_variant

PROMPT = [{"role": "user", "content": "Tell me about the sea, the stars, the rain, and why leaves fall in autumn."}]


@pytest.fixture(scope="module")
def model_path():
    cache = Path(os.environ.get("PACELINE_CACHE", Path.home() / ".cache" / "paceline"))
    return prepare_model(cache, progress=lambda line: None)


@pytest.fixture(scope="module")
def distances(model_path):
    """Mean distance of likely logprobs to those of the served model, by variant."""
    torch.set_num_threads(1)
    served = LanguageModel.load(model_path)
    tokens = served.encode_chat(PROMPT)
    wanted = torch.stack(list(served.iterate_logits(tokens, 0))).log_softmax(-1)
    found = {}
    for name in VARIANTS:
        model = load_variant(model_path, name)
        assert (model.model_id, model.content_hash, model.engine) == (
            served.model_id,
            served.content_hash,
            served.engine,
        )
        scores = torch.stack(list(model.iterate_logits(tokens, 0))).log_softmax(-1)
        found[name] = float((scores - wanted)[wanted > -5].abs().mean())
    return found


def test_served_is_the_served_model_to_the_last_bit(distances):
    assert distances["served"] == 0


def test_every_other_variant_computes_other_numbers(distances):
    assert all(distance > 0.01 for name, distance in distances.items() if name != "served")


def test_honest_arithmetic_stays_closer_than_any_cheat(distances):
    honest = max(distance for name, distance in distances.items() if VARIANTS[name].honest)
    assert all(distance > honest for name, distance in distances.items() if not VARIANTS[name].honest)


def test_cruder_numbers_stand_further_away(distances):
    assert distances["int4-g128"] > distances["fp8-weights"] > distances["int8-weights"]
    assert distances["int8-w8a8"] > distances["int8-weights"]


def test_invalid_variant(tmp_path):
    with pytest.raises(ConfigError, match="int4-g128"):
        load_variant(tmp_path, "int3")


def test_noise_is_one_per_cent_and_the_same_each_time():
    params = {"model.layers.0.mlp.up_proj.weight": torch.randn(64, 256), "model.norm.weight": torch.ones(4)}
    one, again = add_noise(params), add_noise(params)
    weight = params["model.layers.0.mlp.up_proj.weight"]
    share = (one["model.layers.0.mlp.up_proj.weight"] / weight - 1).std()
    assert 0.009 < share < 0.011
    assert torch.equal(one["model.layers.0.mlp.up_proj.weight"], again["model.layers.0.mlp.up_proj.weight"])
    assert one["model.norm.weight"] is params["model.norm.weight"]


def test_the_middle_layer_is_the_one_that_falls_silent():
    names = [
        f"model.layers.{layer}.{part}.weight" for layer in range(5) for part in ("self_attn.o_proj", "mlp.down_proj")
    ]
    changed = drop_middle_layer({name: torch.ones(2, 2) for name in names})
    assert [name for name in names if not changed[name].any()] == names[4:6]


@pytest.mark.parametrize(("queries", "mask"), [(1, None), (6, None), (6, "window")])
def test_plain_and_fused_attention_are_one_function(queries, mask):
    generator = torch.Generator().manual_seed(2)
    q = torch.randn(1, 6, queries, 16, generator=generator)
    k, v = (torch.randn(1, 2, 6, 16, generator=generator) for _ in range(2))
    seen = torch.ones(6, 6, dtype=torch.bool).tril().triu(-2) if mask else None
    causal = mask is None and queries > 1
    assert torch.allclose(attend_eager(q, k, v, seen, causal), attend_fused(q, k, v, seen, causal), atol=1e-5)
