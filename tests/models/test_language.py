"""The first model of the catalogue: text that never breaks a character, states beside logits, and its slow twin."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.utils import logging

from paceline.base.errors import WorkError
from paceline.models.language import LanguageModel, prepare_model


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


def test_states_come_with_the_logits_and_change_none(model):
    tokens = model.encode("States are committed to before anyone knows which are asked for.")
    plain = list(model.iterate_logits(tokens, 3))
    states = []
    traced = list(model.iterate_logits(tokens, 3, states=states))
    assert all(torch.equal(one, other) for one, other in zip(plain, traced, strict=True))
    assert len(states) == len(tokens) - 3
    assert {(tuple(state.shape), state.dtype) for state in states} == {((3, 576), torch.bfloat16)}
    cache, stepwise = model.open_cache(len(tokens) + 1), []
    model.compute_next_logits(tokens, cache, states=stepwise)
    assert torch.equal(stepwise[0], states[-1])
    model.compute_next_logits([7], cache, states=stepwise)
    assert len(stepwise) == 2 and not torch.equal(stepwise[0], stepwise[1])


def test_traced_layers_are_states_after_those_layers(model):
    tokens, states = torch.tensor(model.encode("One, two, three.")), []
    taps = {layer: [] for layer in range(30)}
    last = model._network.compute_hidden(tokens, model.open_cache(len(tokens)), taps)
    list(model.iterate_logits(tokens.tolist(), 0, states=states))
    found = torch.stack(states)
    wanted = [last, taps[model.traced_layers[0]][0], taps[model.traced_layers[1]][0]]
    assert all(torch.equal(found[:, kind], state) for kind, state in enumerate(wanted))
    assert torch.equal(model._network._normalise_last(taps[29][0]), last)


def test_sequences_together_score_as_each_alone(model):
    texts = ["The capital of France", "One two three four five six seven", "Rain"]
    prompts = [model.encode(text) for text in texts]
    alone, caches = [], [model.open_cache(40) for _ in texts]
    for prompt in prompts:
        cache = model.open_cache(40)
        alone.append((model.compute_next_logits(prompt, cache), model.compute_next_logits([28], cache)))
    together = model.compute_next_logits_together(prompts, caches)
    assert [cache.length_tokens for cache in caches] == [len(prompt) for prompt in prompts]
    next_together = model.compute_next_logits_together([[28]] * 3, caches)
    for row, (first, second) in enumerate(alone):
        for wanted, found in ((first, together[row]), (second, next_together[row])):
            best = wanted.topk(5).indices
            assert (wanted.log_softmax(-1) - found.log_softmax(-1))[best].abs().mean() < 0.25


def test_a_batch_of_one_is_the_same_to_the_last_bit(model):
    tokens = model.encode("Nothing is padded.")
    alone = model.compute_next_logits(tokens, model.open_cache(20))
    assert torch.equal(model.compute_next_logits_together([tokens], [model.open_cache(20)])[0], alone)


def test_final_states_lead_to_the_logits(model):
    tokens = model.encode("Embeddings are made of these.")
    states = model.compute_final_states(tokens)
    assert states.shape == (len(tokens), 576)
    wanted = torch.stack(list(model.iterate_logits(tokens, 0)))
    assert torch.equal(model._network.compute_logits(states), wanted)


def test_every_token_has_its_bytes(model):
    assert len(model.token_bytes) == model.vocab_size and model.token_bytes[2] == b""
    assert b"".join(model.token_bytes[token] for token in model.encode("a\u00e9")) == "a\u00e9".encode()
