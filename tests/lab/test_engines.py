"""Engines decode side by side what each would decode alone, and differ by their variant only."""

from __future__ import annotations

import math

import pytest
import torch

from paceline.base.errors import ConfigError
from paceline.lab.engines import Asked, Engine, PrefillingEngine, decode, load_engines
from paceline.models.llama import LlamaNetwork, LlamaShape
from paceline.models.variants import VARIANTS

SHAPE = LlamaShape(
    vocab_size=50,
    hidden_size=32,
    head_dim=8,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_hidden_layers=3,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    rope_theta=10_000.0,
)
SIZES = {"q": (32, 32), "k": (16, 32), "v": (16, 32), "o": (32, 32), "gate": (64, 32), "up": (64, 32), "down": (32, 64)}
NO_END = ()


def make_params():
    generator = torch.Generator().manual_seed(5)
    params = {
        "model.embed_tokens.weight": torch.randn(50, 32, generator=generator),
        "model.norm.weight": torch.ones(32),
    }
    for layer in range(3):
        name = f"model.layers.{layer}."
        params |= {
            name + part: torch.ones(32) for part in ("input_layernorm.weight", "post_attention_layernorm.weight")
        }
        for part, size in SIZES.items():
            block = "self_attn" if part in "qkvo" else "mlp"
            params[f"{name}{block}.{part}_proj.weight"] = torch.randn(size, generator=generator) / math.sqrt(size[1])
    return {name: value.bfloat16() for name, value in params.items()}


def make_engine(name):
    variant = VARIANTS[name]
    return Engine(LlamaNetwork(SHAPE, variant.change(make_params()), variant.kernels), (0, 1))


def ask(prompt, limit):
    return Asked(prompt=prompt, limit=limit, choose=lambda logits: int(logits.argmax()))


ASKED = (ask((1, 2, 3), 5), ask((7,), 3), ask((9, 8, 7, 6, 5), 1))


def test_variants_differ_by_what_they_say_and_by_no_more():
    text = [torch.arange(10), torch.arange(20, 30)]
    runs = {name: torch.cat([made.hidden.float() for made in make_engine(name).run(text)]) for name in VARIANTS}
    far = {name: float((run - runs["fp32"]).norm() / runs["fp32"].norm()) for name, run in runs.items()}
    honest = max(far[name] for name, variant in VARIANTS.items() if variant.honest)
    assert 0 < honest < 0.05
    assert far["int4-g128"] > 5 * honest
    assert all(far[name] > honest for name, variant in VARIANTS.items() if not variant.honest)


def test_states_hold_the_last_norm_first_then_the_traced_layers():
    [made] = make_engine("fp32").run([torch.arange(4)])
    assert made.states.shape == (4, 3, 32)
    assert made.states.dtype == torch.bfloat16
    assert torch.equal(made.states[:, 0], made.hidden.bfloat16())


@pytest.mark.parametrize("wrap", [lambda engine: engine, PrefillingEngine])
def test_sequences_side_by_side_are_those_alone_with_and_without_a_cache(wrap):
    together = decode(wrap(make_engine("fp32")), ASKED, NO_END)
    assert [len(answer.tokens) for answer in together] == [5, 3, 1]
    for asked, answer in zip(ASKED, together, strict=True):
        [alone] = decode(make_engine("fp32"), [asked], NO_END)
        assert torch.equal(alone.tokens, answer.tokens)
        assert torch.allclose(alone.states.float(), answer.states.float(), atol=0.05)


def test_an_answer_stops_at_its_end_and_holds_it():
    [whole] = decode(make_engine("fp32"), [ask((1, 2, 3), 8)], NO_END)
    end = int(whole.tokens[2])
    first = whole.tokens.tolist().index(end)
    [cut] = decode(make_engine("fp32"), [ask((1, 2, 3), 8)], [end])
    assert cut.tokens.tolist() == whole.tokens.tolist()[: first + 1]
    assert len(cut.states) == first + 1


def test_invalid_variant_is_refused_by_name(path):
    with pytest.raises(ConfigError, match="no-such"):
        load_engines(path, ["no-such"])


def test_variants_that_change_the_weights_alike_share_them(path):
    engines = load_engines(path, ["served", "eager"])
    served, eager = (engine._network._embedding for engine in engines.values())
    assert served.data_ptr() == eager.data_ptr()
