from __future__ import annotations

import pytest
import torch

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_blob
from paceline.models.byte_gpt import (
    PRESETS,
    ByteGpt,
    ByteGptConfig,
    build_initial_params,
    build_model,
    get_config,
    sample_text,
)

SEED = b"\3" * 32


def load_tiny(seed: bytes = SEED) -> ByteGpt:
    model = build_model("tiny")
    model.load_state_dict(build_initial_params("tiny", seed))
    return model


def test_tiny_has_the_announced_size():
    count = sum(param.numel() for param in build_model("tiny").parameters())
    assert count == 434_816
    assert PRESETS["tiny"].width % PRESETS["tiny"].heads == 0


def test_forward_returns_a_scalar_loss_near_that_of_a_guess():
    tokens = torch.arange(2 * 65).reshape(2, 65) % 256
    loss = load_tiny()(tokens)
    assert loss.shape == ()
    assert 5.3 < loss.item() < 5.8  # ln 256 is 5.545


def test_a_byte_sees_only_those_before_it():
    model, tokens = load_tiny(), torch.arange(64).reshape(1, 64)
    changed = tokens.clone()
    changed[0, 40] = 200
    before, after = model.compute_logits(tokens), model.compute_logits(changed)
    assert torch.equal(before[0, :40], after[0, :40])
    assert not torch.equal(before[0, 40], after[0, 40])


def test_shorter_text_than_the_context_is_fine():
    assert load_tiny().compute_logits(torch.zeros(1, 1, dtype=torch.long)).shape == (1, 1, 256)


def test_initial_params_follow_from_the_seed_alone():
    torch.manual_seed(1)
    first = build_initial_params("tiny", SEED)
    torch.manual_seed(2)
    second = build_initial_params("tiny", SEED)
    assert list(first) == sorted(first)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = build_initial_params("tiny", b"\4" * 32)
    assert not torch.equal(first["token_embedding.weight"], other["token_embedding.weight"])


def test_initial_params_are_the_same_bytes_on_every_machine():
    params = build_initial_params("tiny", SEED)
    digest = hash_blob(b"".join(params[name].numpy().tobytes() for name in params))
    assert digest.hex()[:16] == "a9f0d38e60ef3d3b"


def test_building_a_model_leaves_the_generator_of_torch_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build_model("tiny")
    assert torch.equal(torch.rand(1), expected)


def test_no_tensor_is_a_bias():
    assert not [name for name, _ in build_model("tiny").named_parameters() if name.endswith("bias")]


def test_every_tensor_receives_a_gradient():
    model = load_tiny()
    model(torch.arange(2 * 65).reshape(2, 65) % 256).backward()
    assert all(param.grad is not None and param.grad.abs().sum() > 0 for param in model.parameters())


def test_sample_has_the_length_and_follows_from_its_seed():
    model = load_tiny()
    text = sample_text(model, b"To be", length=80, seed=b"s")
    assert text == sample_text(model, b"To be", length=80, seed=b"s")
    assert text != sample_text(model, b"To be", length=80, seed=b"t")
    assert 0 < len(text) <= 80
    assert sample_text(model, b"", length=0, seed=b"s") == ""


def test_invalid_preset_is_named_with_the_choices():
    with pytest.raises(ConfigError, match=r"'huge'.*tiny"):
        get_config("huge")


def test_other_sizes_work():
    model = ByteGpt(ByteGptConfig(layers=1, width=8, heads=2, context=4))
    assert model(torch.zeros(1, 5, dtype=torch.long)).shape == ()
