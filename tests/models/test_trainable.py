"""Models to train: sizes, losses, first params that follow from a seed, and what a folder must hold."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_blob
from paceline.base.integers import MAX_UINT64
from paceline.models.trainable import PRESETS, build_initial_params, build_trainable, get_preset_shape
from paceline.models.trainable_llama import TrainableLlama, build_from_params, describe_shape, read_shape

torch.set_num_threads(1)

SMALL = replace(
    get_preset_shape("byte-gpt-0.5m", 40),
    hidden_size=16,
    head_dim=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_hidden_layers=2,
    intermediate_size=24,
    max_position_embeddings=12,
)
TOKENS = torch.arange(3 * 13).reshape(3, 13) % 40


def build_small(shape=SMALL, seed=1):
    return build_from_params(shape, build_initial_params(shape, seed))


def write_folder(folder, shape=SMALL):
    folder.mkdir()
    save_file(build_initial_params(shape, 1), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(describe_shape(shape)))
    return folder


@pytest.mark.parametrize(
    ("preset", "millions"),
    [
        ("byte-gpt-0.5m", 0.47),
        ("byte-gpt-1m", 1.02),
        ("llama-10m", 10.0),
        ("llama-30m", 31.3),
        ("llama-100m", 99.3),
        ("llama-300m", 303.9),
        ("llama-1b", 973.7),
    ],
)
def test_presets_have_the_size_of_their_name(preset, millions):
    with torch.device("meta"):
        module = TrainableLlama(get_preset_shape(preset, 256))
    count = sum(param.numel() for param in module.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.05)
    assert PRESETS[preset].width % PRESETS[preset].heads == PRESETS[preset].heads % PRESETS[preset].groups == 0


def test_a_fresh_model_guesses_and_every_tensor_learns():
    module = build_trainable("byte-gpt-0.5m", vocabulary=256, seed=7)
    loss = module(torch.arange(2 * 65).reshape(2, 65) % 256)
    assert loss.shape == ()
    assert 5.4 < loss.item() < 6.0  # ln 256 is 5.545
    loss.backward()
    assert all(param.grad.abs().sum() > 0 for param in module.parameters())
    assert not [name for name, _ in module.named_parameters() if name.endswith("bias")]


def test_a_small_text_is_learnt():
    module = build_trainable("byte-gpt-0.5m", vocabulary=256, seed=0)
    text = torch.tensor(list(b"the rider turns a long wheel and sings of rain while the hills fall by " * 2)).long()
    batch = torch.stack([text[start : start + 65] for start in (0, 20, 40, 60)])
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    losses = []
    for _ in range(30):
        loss = module(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


def test_first_params_follow_from_the_seed_alone():
    torch.manual_seed(1)
    first = build_trainable("byte-gpt-0.5m", vocabulary=256, seed=3).state_dict()
    expected = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), expected)
    second = build_trainable("byte-gpt-0.5m", vocabulary=256, seed=3).state_dict()
    other = build_trainable("byte-gpt-0.5m", vocabulary=256, seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_first_params_are_the_same_bytes_on_every_machine():
    params = build_initial_params(SMALL, 3)
    digest = hash_blob(b"".join(params[name].numpy().tobytes() for name in sorted(params)))
    assert digest.hex()[:16] == "8783b8eee071615d"


def test_seeds_have_64_bits():
    assert build_small(seed=MAX_UINT64)(TOKENS).isfinite()
    for seed in (-1, MAX_UINT64 + 1):
        with pytest.raises(ConfigError, match="seed is"):
            build_small(seed=seed)


@pytest.mark.parametrize("tied", [True, False])
def test_a_token_sees_only_those_before_it(tied):
    module = build_small(replace(SMALL, tie_word_embeddings=tied))
    assert ("lm_head.weight" in module.state_dict()) is not tied
    changed = TOKENS[:, :12].clone()
    changed[:, 7] = 39
    before, after = module.compute_logits(TOKENS[:, :12]), module.compute_logits(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7], after[:, 7])


def test_sequences_may_be_shorter_than_the_context_but_not_longer():
    module = build_small()
    assert module.context_tokens == 12
    assert module(TOKENS[:, :2]).isfinite()
    assert module(TOKENS).isfinite()
    with pytest.raises(ConfigError, match="sequence_tokens is 13, this model's context holds 12"):
        module(torch.zeros(1, 14, dtype=torch.long))


def test_the_loss_of_double_params_is_double_and_that_of_bfloat16_is_single():
    module = build_small()
    exact = module.double()(TOKENS)
    assert exact.dtype == torch.float64
    rounded = module.bfloat16()(TOKENS)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)


def test_a_vocabulary_of_two_is_the_smallest():
    assert build_trainable("byte-gpt-0.5m", vocabulary=2, seed=0).vocabulary == 2
    with pytest.raises(ConfigError, match="vocabulary is 1"):
        build_trainable("byte-gpt-0.5m", vocabulary=1, seed=0)


def test_invalid_name_is_shown_with_the_presets():
    with pytest.raises(ConfigError, match=r"'gpt-9'.*byte-gpt-0\.5m.*llama-1b"):
        build_trainable("gpt-9", vocabulary=256, seed=0)


def test_a_shape_comes_back_from_its_config():
    assert read_shape(json.loads(json.dumps(describe_shape(SMALL)))) == SMALL


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rope_type"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "factor": 2}}, "holds factor"),
        ({"intermediate_size": None}, "lacks intermediate_size"),
    ],
)
def test_invalid_configs_name_what_is_not_covered(change, words):
    with pytest.raises(ConfigError, match=words):
        read_shape(describe_shape(SMALL) | change)


def test_a_llama_folder_brings_its_params(tmp_path):
    folder = write_folder(tmp_path / "model")
    module = build_trainable(folder, vocabulary=40, seed=99)
    assert isinstance(module, TrainableLlama)
    assert torch.equal(module(TOKENS), build_small(seed=1)(TOKENS))
    with pytest.raises(ConfigError, match=r"vocabulary is 41, the model in .* embeds 40"):
        build_trainable(folder, vocabulary=41, seed=0)


def test_invalid_folders_name_the_file(tmp_path):
    folder = write_folder(tmp_path / "model")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(ConfigError, match=r"model\.safetensors cannot be read"):
        build_trainable(folder, vocabulary=40, seed=0)
    save_file(build_initial_params(replace(SMALL, num_hidden_layers=1), 1), weights)
    with pytest.raises(ConfigError, match=r"do not fit their config\.json"):
        build_trainable(folder, vocabulary=40, seed=0)
    weights.unlink()
    with pytest.raises(ConfigError, match=r"holds no \*\.safetensors"):
        build_trainable(folder, vocabulary=40, seed=0)
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        build_trainable(folder, vocabulary=40, seed=0)
