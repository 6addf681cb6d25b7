"""The second family: its slow twin, windows that slide, and text without a byte alphabet."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.gemma3.configuration_gemma3 import Gemma3TextConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3ForCausalLM

from paceline.base.errors import ConfigError
from paceline.models.families import build_network, select_config
from paceline.models.gemma3 import get_gemma3_shape
from paceline.models.language import LanguageModel, prepare_model
from paceline.models.variants import load_variant

SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 6,
    "max_position_embeddings": 64,
    "sliding_window": 8,
}


@pytest.fixture(scope="module")
def model_path():
    cache = Path(os.environ.get("PACELINE_CACHE", Path.home() / ".cache" / "paceline"))
    return prepare_model(cache, "gemma-3-270m", progress=lambda line: None)


@pytest.fixture(scope="module")
def model(model_path):
    torch.set_num_threads(1)
    return LanguageModel.load(model_path)


@pytest.fixture(scope="module")
def small():
    """A small Gemma 3 of random numbers as transformers builds it, and ours of the same parameters, both in fp32."""
    torch.manual_seed(5)
    twin = Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, tensor in twin.named_parameters():
            tensor.normal_(std=0.3 if "norm" in name else 0.15)
    params = {name: tensor for name, tensor in twin.state_dict().items() if name != "lm_head.weight"}
    return twin, build_network(select_config(twin.config.to_dict()), params, context_tokens=64)


def test_a_small_one_is_transformers_own_beyond_the_window(small):
    twin, network = small
    tokens = torch.randint(0, 97, (40,), generator=torch.Generator().manual_seed(6))
    with torch.inference_mode():
        wanted = twin(tokens[None]).logits[0]
    found = network.compute_logits(network.compute_hidden(tokens, network.open_cache(40)))
    assert (wanted - found).abs().max() < 1e-3 * wanted.abs().max()
    assert twin.config.layer_types.count("full_attention") == 1


def test_steps_and_batches_agree_with_one_prefill_beyond_the_window(small):
    _, network = small
    tokens = torch.randint(0, 97, (30,), generator=torch.Generator().manual_seed(7))
    wanted = network.compute_hidden(tokens, network.open_cache(30))
    caches = [network.open_cache(30), network.open_cache(30)]
    network.compute_hidden_together([tokens[:20], tokens[:3]], caches)
    for step in range(10):
        rows = network.compute_hidden_together([tokens[20 + step][None], tokens[3 + step][None]], caches)
        for row, position in ((0, 20 + step), (1, 3 + step)):
            assert torch.allclose(rows[row], wanted[position], atol=1e-3)


def test_a_window_forgets_what_lies_before_it(small):
    _, network = small
    one_window = [kind for kind in network.shape.layer_types if kind == "sliding_attention"]
    assert len(one_window) == 5
    tokens = torch.arange(20)
    cache = network.open_cache(21)
    network.compute_hidden(tokens, cache)
    cache.keys[0, :, :10] = 1e3  # the first layer sees positions 13 to 20 from position 20
    last = network.compute_hidden(torch.tensor([50]), cache)
    clean = network.open_cache(21)
    network.compute_hidden(tokens, clean)
    assert torch.equal(last, network.compute_hidden(torch.tensor([50]), clean))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_activation", "silu"),
        ("final_logit_softcapping", 30.0),
        ("query_pre_attn_scalar", 32),
        ("use_bidirectional_attention", True),
    ],
)
def test_invalid_what_the_forward_pass_does_not_cover(name, value):
    config = Gemma3TextConfig(**SIZES).to_dict()
    get_gemma3_shape(config)
    with pytest.raises(ConfigError, match=name):
        get_gemma3_shape(config | {name: value})


def test_invalid_scaled_rotary_embedding():
    config = Gemma3TextConfig(**SIZES).to_dict()
    config["rope_parameters"]["full_attention"]["rope_type"] = "linear"
    with pytest.raises(ConfigError, match="full_attention"):
        get_gemma3_shape(config)


@pytest.mark.long
def test_the_model_says_what_it_is(model, model_path):
    assert (model.model_id, model.vocab_size, model.context_tokens) == ("gemma-3-270m", 262_144, 8_192)
    assert (model.eos_token_ids, model.traced_layers, model.traced_width) == ((1, 106), (5, 11), 640)
    assert not model.entry.chats and "Gemma" in model.entry.licence
    shapes = json.loads((model_path / "config.json").read_text())
    assert [kind for kind in shapes["layer_types"] if kind == "full_attention"] == ["full_attention"] * 3


@pytest.mark.long
def test_a_conversation_becomes_a_text_to_continue(model):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye"},
    ]
    expected = "<bos>Be brief.\n\nUser: Hi\nAssistant: Hello.\nUser: Bye\nAssistant:"
    assert model.encode_chat(messages) == model.encode(expected)
    assert model.encode_chat(messages)[0] == 2


@pytest.mark.long
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_survives_the_tokens(model, text):
    assert model.decode(model.encode(text.replace("\u2581", " "))) == text.replace("\u2581", " ")


@pytest.mark.long
@given(text=st.text(st.sampled_from("aé漢👩‍👧🏽\U00012000 \n"), min_size=1, max_size=20))
def test_pieces_never_split_a_character(model, text):
    detokeniser = model.open_detokeniser()
    pieces = [detokeniser.push(token) for token in model.encode(text)]
    assert "".join(pieces) == text
    assert not any("�" in piece for piece in pieces)


@pytest.mark.long
def test_the_served_one_continues_sensibly_and_agrees_with_itself(model):
    tokens = model.encode_chat([{"role": "user", "content": "What is the capital of France?"}])
    cache = model.open_cache(len(tokens) + 8)
    logits, answer = model.compute_next_logits(tokens, cache), []
    for _ in range(8):
        answer.append(int(logits.argmax()))
        logits = model.compute_next_logits([answer[-1]], cache)
    assert "Paris" in model.decode(answer)
    replayed = list(model.iterate_logits([*tokens, *answer], len(tokens) - 1))
    assert (logits.log_softmax(-1) - replayed[-1].log_softmax(-1))[logits.topk(5).indices].abs().mean() < 0.25


@pytest.mark.long
def test_the_served_one_agrees_with_transformers_beyond_its_window(model, model_path):
    twin = Gemma3ForCausalLM.from_pretrained(model_path, dtype=torch.bfloat16).eval()
    tokens = model.encode("<bos>" + "The quick brown fox jumps over the lazy dog, then it goes home to sleep. " * 40)[
        :600
    ]
    with torch.inference_mode():
        wanted = twin(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
    found = torch.stack(list(model.iterate_logits(tokens, 0))).log_softmax(-1)
    assert (wanted - found)[wanted > -5].abs().mean() < 0.1
    assert (wanted.argmax(-1) == found.argmax(-1)).float().mean() > 0.95


@pytest.mark.long
def test_variants_run_on_this_family_too(model, model_path):
    tokens = model.encode("<bos>The sea is")
    served = model.compute_next_logits(tokens, model.open_cache(20)).log_softmax(-1)
    other = load_variant(model_path, "int8-w8a8")
    moved = other.compute_next_logits(tokens, other.open_cache(20)).log_softmax(-1)
    difference = (served - moved)[served.topk(20).indices].abs().mean()
    assert 0.005 < difference < 3 and other.content_hash == model.content_hash
