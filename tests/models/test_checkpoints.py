"""Checkpoints: whole or not there, equal after loading, and the same numbers in transformers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from full_disk import files_end_at
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.gpt2.configuration_gpt2 import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel
from transformers.utils import logging

from paceline.base.errors import ConfigError, WorkError
from paceline.models.checkpoints import load_checkpoint, save_checkpoint
from paceline.models.trainable import build_initial_params, build_trainable, get_preset_shape
from paceline.models.trainable_folder import TransformersModel
from paceline.models.trainable_llama import TrainableLlama, build_from_params
from paceline.training.datasets.tokenise import ByteTokeniser

torch.set_num_threads(1)

TOKENS = torch.arange(3 * 17).reshape(3, 17) * 7 % 256


@pytest.fixture(autouse=True)
def quiet():
    logging.disable_progress_bar()


@pytest.fixture
def model():
    return build_trainable("byte-gpt-0.5m", vocabulary=256, seed=5)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_comes_back_as_it_was(model, tmp_path):
    words = ByteTokeniser().json
    save_checkpoint(model, tmp_path / "runs" / "a", extra={"step": 7, "loss": [1.5]}, tokenizer=words)
    found = load_checkpoint(tmp_path / "runs" / "a")
    assert found.extra == {"step": 7, "loss": [1.5]}
    assert found.tokenizer == words
    assert isinstance(found.module, TrainableLlama)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in found.module.state_dict().items())
    assert names_in(tmp_path / "runs") == ["a", "a.lock"]


def test_double_params_stay_double(model, tmp_path):
    save_checkpoint(model.double(), tmp_path / "a", extra={})
    assert load_checkpoint(tmp_path / "a").module(TOKENS) == model(TOKENS)
    assert load_checkpoint(tmp_path / "a").tokenizer is None


def test_params_that_are_parts_of_one_vector_are_saved(model, tmp_path):
    flat = torch.cat([param.detach().flatten() for param in model.parameters()])
    parts = flat.split([param.numel() for param in model.parameters()])
    for param, part in zip(model.parameters(), parts, strict=True):
        param.data = part.view(param.shape)
    save_checkpoint(model, tmp_path / "a", extra={})
    assert torch.equal(load_checkpoint(tmp_path / "a").module(TOKENS), model(TOKENS))


@pytest.mark.parametrize(("tied", "groups"), [(True, 4), (False, 2)])
def test_transformers_loads_it_with_the_same_loss(tmp_path, tied, groups):
    shape = replace(
        get_preset_shape("byte-gpt-0.5m", 256),
        num_attention_heads=4,
        head_dim=24,
        num_key_value_heads=groups,
        tie_word_embeddings=tied,
    )
    ours = build_from_params(shape, build_initial_params(shape, 2))
    save_checkpoint(ours, tmp_path / "a", extra={}, tokenizer=ByteTokeniser().json)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "a", local_files_only=True)
    logits = theirs(input_ids=TOKENS[:, :-1]).logits
    loss = functional.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten())
    assert loss.item() == pytest.approx(ours(TOKENS).item(), abs=1e-5)
    loss.backward()
    ours(TOKENS).backward()
    for (name, param), (other, twin) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == other
        torch.testing.assert_close(param.grad, twin.grad, atol=1e-5, rtol=1e-4)
    words = AutoTokenizer.from_pretrained(tmp_path / "a", local_files_only=True)
    assert words.encode("wörld\n\n") == list("wörld\n\n".encode())


def test_another_family_is_wrapped_trained_without_dropout_and_saved(tmp_path):
    torch.manual_seed(4)
    config = GPT2Config(vocab_size=300, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    assert config.attn_pdrop > 0
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    module = build_trainable(tmp_path / "gpt2", vocabulary=256, seed=0)
    assert isinstance(module, TransformersModel)
    assert (module.vocabulary, module.context_tokens) == (300, 32)
    module.train()
    loss = module(TOKENS)
    assert loss.shape == ()
    assert torch.equal(loss, module(TOKENS))
    loss.backward()
    assert all(param.grad.abs().sum() > 0 for param in module.parameters())
    save_checkpoint(module, tmp_path / "a", extra={"step": 1})
    assert torch.equal(load_checkpoint(tmp_path / "a").module(TOKENS), loss)


def test_invalid_folder_of_transformers_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonesuch"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="transformers loads no causal language model"):
        build_trainable(tmp_path, vocabulary=256, seed=0)


def test_a_full_disk_leaves_the_former_checkpoint(model, tmp_path):
    save_checkpoint(model, tmp_path / "a", extra={"step": 1})
    with files_end_at(500_000), pytest.raises(WorkError, match="was not written"):
        save_checkpoint(model, tmp_path / "a", extra={"step": 2})
    assert load_checkpoint(tmp_path / "a").extra == {"step": 1}
    assert names_in(tmp_path) == ["a", "a.lock"]
    with files_end_at(2_000_000):
        save_checkpoint(model, tmp_path / "a", extra={"step": 2})
    assert load_checkpoint(tmp_path / "a").extra == {"step": 2}


def test_a_kill_while_writing_leaves_the_former_checkpoint(model, tmp_path):
    save_checkpoint(model, tmp_path / "a", extra={"step": 1})
    half = tmp_path / "a.building.dead"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    assert load_checkpoint(tmp_path / "a").extra == {"step": 1}
    save_checkpoint(model, tmp_path / "a", extra={"step": 2})
    assert names_in(tmp_path) == ["a", "a.lock"]


def test_a_kill_between_the_two_renames_is_made_good(model, tmp_path):
    save_checkpoint(model, tmp_path / "a", extra={"step": 1})
    (tmp_path / "a").rename(tmp_path / "a.former")
    assert load_checkpoint(tmp_path / "a").extra == {"step": 1}
    (tmp_path / "a").rename(tmp_path / "a.former")
    save_checkpoint(model, tmp_path / "a", extra={"step": 2})
    save_checkpoint(model, tmp_path / "a.former", extra={"step": 0})
    save_checkpoint(model, tmp_path / "a", extra={"step": 3})
    assert load_checkpoint(tmp_path / "a").extra == {"step": 3}
    assert "a.former" not in names_in(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_invalid_files_are_noticed_by_their_hash(model, tmp_path, name):
    save_checkpoint(model, tmp_path / "a", extra={})
    place = tmp_path / "a" / name
    data = bytearray(place.read_bytes())
    data[-2] ^= 1
    place.write_bytes(data)
    with pytest.raises(WorkError, match=f"{name} is missing or damaged"):
        load_checkpoint(tmp_path / "a")
    place.unlink()
    with pytest.raises(WorkError, match=f"{name} is missing or damaged"):
        load_checkpoint(tmp_path / "a")


def test_invalid_places(model, tmp_path):
    with pytest.raises(ConfigError, match="is no checkpoint"):
        load_checkpoint(tmp_path / "none")
    (tmp_path / "papers").mkdir()
    save_checkpoint(model, tmp_path / "papers", extra={})
    (tmp_path / "papers" / "checkpoint.json").write_text("{}")
    with pytest.raises(WorkError, match=r"checkpoint\.json is damaged"):
        load_checkpoint(tmp_path / "papers")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="holds something that is no checkpoint"):
        save_checkpoint(model, tmp_path / "mine", extra={})
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_invalid_notes_and_modules(model, tmp_path):
    for extra in ({"loss": float("nan")}, {"model": model}):
        with pytest.raises(WorkError, match="extra cannot be written as JSON"):
            save_checkpoint(model, tmp_path / "a", extra=extra)
    with pytest.raises(ConfigError, match="model is a Linear"):
        save_checkpoint(torch.nn.Linear(2, 2), tmp_path / "a", extra={})
    assert not (tmp_path / "a").exists()
