"""Generation with a scripted model: ends, stop strings across token borders, cancelling, and what the claim says."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.base.errors import Invalid, InvalidClaim, WorkError
from paceline.inference.claim import build_transcript
from paceline.inference.grammar import ENGINE
from paceline.inference.plan import plan_answer, plan_sampler
from paceline.inference.run import derive_text, generate
from paceline.protocol.answers import ChatPrompt, TextPrompt, TokenPrompt, Turn
from paceline.protocol.transcripts import (
    MAX_BIAS_ENTRIES,
    MAX_BIAS_MILLINATS,
    MAX_CHOICES,
    MAX_GRAMMAR_BYTES,
    MAX_PENALTY_PPM,
    MAX_STOP_BYTES,
    MAX_TOKENS,
    MAX_TOP_K,
    GrammarSpec,
    compute_text_hash,
)

SEED = bytes(range(32))


def plan(model, *, stop=(), max_tokens=8, content="ab"):
    sampler = plan_sampler(temperature_ppm=0, top_p_ppm=1_000_000, max_tokens=max_tokens, stop=stop)
    return plan_answer(model, [{"role": "user", "content": content}], sampler=sampler, seed=SEED)


def run(model, request, should_stop=lambda: False):
    steps = list(generate(model, request, should_stop=should_stop))
    assert all(step.finish_reason is None for step in steps[:-1])
    return steps, "".join(step.text for step in steps), steps[-1].finish_reason


def test_an_end_token_stops(scripted):
    steps, text, finish = run(*_with(scripted(["he", "llo"], [1, 2, 0])))
    assert (len(steps), text, finish) == (3, "hello", "stop")


def test_the_limit_ends_by_length(scripted):
    model = scripted(["x"], [1])
    steps, text, finish = run(model, plan(model, max_tokens=3))
    assert (len(steps), text, finish) == (3, "xxx", "length")
    # The last token is never fed back: nothing would use what follows it.
    assert model.computed == 3


def test_one_token_is_the_least_answer(scripted):
    model = scripted(["x"], [1])
    assert run(model, plan(model, max_tokens=1))[2] == "length"


def test_an_end_at_the_limit_is_a_stop(scripted):
    model = scripted(["x"], [1, 0])
    assert run(model, plan(model, max_tokens=2))[2] == "stop"


def test_a_full_context_ends_by_length(scripted):
    model = scripted(["x"], [1])
    steps, _, finish = run(model, plan(model, max_tokens=100, content="x" * 14))
    assert (len(steps), finish) == (2, "length")


def test_a_stop_string_across_tokens_is_cut_and_never_shown(scripted):
    model = scripted(["one E", "N", "D two"], [1, 2, 3])
    steps, text, finish = run(model, plan(model, stop=["END"]))
    assert [step.text for step in steps] == ["one ", "", ""]
    assert (text, finish) == ("one ", "stop")


def test_what_only_looked_like_a_stop_string_is_shown_later(scripted):
    model = scripted(["EN", "x"], [1, 2, 0])
    steps, text, _ = run(model, plan(model, stop=["END"]))
    assert ([step.text for step in steps], text) == (["", "ENx", ""], "ENx")


def test_held_text_is_shown_when_the_limit_comes_first(scripted):
    model = scripted(["EN"], [1])
    assert run(model, plan(model, stop=["END"], max_tokens=1))[1:] == ("EN", "length")


def test_the_earliest_of_several_stop_strings_cuts(scripted):
    model = scripted(["abcde"], [1])
    assert run(model, plan(model, stop=["d", "bc"]))[1:] == ("a", "stop")


def test_a_character_of_several_tokens_comes_whole(scripted):
    first, second = "é".encode()[:1], "é".encode()[1:]
    steps, text, _ = run(*_with(scripted([first, second], [1, 2, 0])))
    assert ([step.text for step in steps], text) == (["", "é", ""], "é")


def test_cancelling_ends_after_the_token_at_hand(scripted):
    model = scripted(["x"], [1])
    answers = iter([False, True])
    steps, _, finish = run(model, plan(model), should_stop=lambda: next(answers))
    assert (len(steps), finish, model.computed) == (2, "cancelled", 2)


def test_a_closed_stream_is_claimed_as_cancelled(scripted):
    model = scripted(["x"], [1])
    request = plan(model)
    stream = generate(model, request, should_stop=lambda: False)
    transcript = build_transcript(model, request, [next(stream)])
    stream.close()
    assert (transcript.finish_reason, len(transcript.output_tokens)) == ("cancelled", 1)


def test_nothing_generated_is_claimed_as_cancelled(scripted):
    model = scripted(["x"], [1])
    assert build_transcript(model, plan(model), []).finish_reason == "cancelled"


def test_invalid_steps_after_the_end(scripted):
    model = scripted(["x"], [1])
    request = plan(model, max_tokens=1)
    steps, _, _ = run(model, request)
    with pytest.raises(WorkError, match="mixed"):
        build_transcript(model, request, steps + steps)


@pytest.mark.parametrize("change", [{"model_id": "other"}, {"model_hash": b"1" * 32}, {"engine": "other-1"}])
def test_invalid_request_for_another_model(scripted, change):
    model = scripted(["x"], [1])
    with pytest.raises(WorkError, match="this node has"):
        run(model, msgspec.structs.replace(plan(model), **change))


@pytest.mark.parametrize("prompt", [(1,) * 16, (2,)])
def test_invalid_prompt_that_does_not_fit(scripted, prompt):
    model = scripted(["x"], [1])
    with pytest.raises(WorkError, match="does not fit"):
        run(model, msgspec.structs.replace(plan(model), prompt_tokens=prompt))


@given(
    pieces=st.lists(st.text("abE", min_size=1, max_size=3), min_size=1, max_size=8),
    stop=st.lists(st.text("abE", min_size=1, max_size=3), max_size=3),
)
def test_streamed_text_is_the_derived_text(scripted, pieces, stop):
    model = scripted(pieces, [*range(1, len(pieces) + 1), 0])
    request = plan(model, stop=stop, max_tokens=12)
    steps, text, finish = run(model, request)
    tokens = [step.token_id for step in steps]
    whole = "".join(pieces)
    found = [index for string in stop if (index := whole.find(string)) >= 0]
    assert text == derive_text(model, stop, tokens).text
    assert compute_text_hash(text) == build_transcript(model, request, steps).text_hash
    assert not any(string in text for string in stop)
    assert finish == "stop"
    # A later token may complete an earlier beginning, so the cut is at the first string that became complete.
    assert whole.startswith(text)
    assert found or text == whole


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("temperature", {"temperature_ppm": -1}),
        ("temperature", {"temperature_ppm": 2_000_001}),
        ("top_p", {"top_p_ppm": 0}),
        ("top_p", {"top_p_ppm": 1_000_001}),
        ("max_tokens", {"max_tokens": 0}),
        ("max_tokens", {"max_tokens": MAX_TOKENS + 1}),
        ("top_k", {"top_k": -1}),
        ("top_k", {"top_k": MAX_TOP_K + 1}),
        ("presence_penalty", {"presence_ppm": MAX_PENALTY_PPM + 1}),
        ("frequency_penalty", {"frequency_ppm": -MAX_PENALTY_PPM - 1}),
        ("logit_bias", {"bias": [(1, MAX_BIAS_MILLINATS + 1)]}),
        ("logit_bias", {"bias": [(-1, 0)]}),
        ("logit_bias", {"bias": [(1, 0), (1, 1)]}),
        ("logit_bias", {"bias": [(token, 0) for token in range(MAX_BIAS_ENTRIES + 1)]}),
        ("response_format", {"grammar": GrammarSpec("regex", "x" * (MAX_GRAMMAR_BYTES + 1), ENGINE)}),
        ("stop", {"stop": [""]}),
        ("stop", {"stop": ["x"] * 5}),
        ("stop", {"stop": ["é" * (MAX_STOP_BYTES // 2) + "x"]}),
    ],
)
def test_invalid_sampler_option_names_its_field(field, change):
    options = {"temperature_ppm": 0, "top_p_ppm": 1, "max_tokens": 1, "stop": []}
    with pytest.raises(Invalid) as caught:
        plan_sampler(**(options | change))
    assert caught.value.code == field


def test_sampler_options_at_their_bounds():
    plan_sampler(temperature_ppm=2_000_000, top_p_ppm=1_000_000, max_tokens=MAX_TOKENS, stop=["x" * MAX_STOP_BYTES] * 4)
    plan_sampler(temperature_ppm=0, top_p_ppm=1, max_tokens=1, stop=["x"])


def test_invalid_conversation(scripted):
    model = scripted(["x"], [1])
    sampler = plan(model).sampler
    for messages in ([], [{"role": "user", "content": "x" * 16}]):
        with pytest.raises(Invalid) as caught:
            plan_answer(model, messages, sampler=sampler, seed=SEED)
        assert caught.value.code == "messages"
    assert len(plan(model, content="x" * 15).prompt_tokens) == 15


def test_invalid_transcript_longer_than_asked(scripted):
    model = scripted(["x"], [1])
    steps, _, _ = run(model, plan(model, max_tokens=3))
    with pytest.raises(InvalidClaim, match="over-max-tokens"):
        build_transcript(model, plan(model, max_tokens=2), steps)


def _with(model):
    return model, plan(model)


def test_the_bounds_of_sampler_options_are_allowed():
    spec = plan_sampler(
        temperature_ppm=2_000_000,
        top_k=MAX_TOP_K,
        top_p_ppm=1_000_000,
        presence_ppm=MAX_PENALTY_PPM,
        frequency_ppm=-MAX_PENALTY_PPM,
        bias=[(3, MAX_BIAS_MILLINATS), (1, -MAX_BIAS_MILLINATS)],
        max_tokens=MAX_TOKENS,
        stop=["x" * MAX_STOP_BYTES] * 4,
    )
    assert spec.bias == ((1, -MAX_BIAS_MILLINATS), (3, MAX_BIAS_MILLINATS))


def plan_prompt(model, prompt, choice=0, bias=()):
    sampler = plan_sampler(temperature_ppm=0, top_p_ppm=1, max_tokens=1, stop=[], bias=bias)
    return plan_answer(model, prompt, sampler=sampler, seed=SEED, choice=choice)


def test_prompts_of_every_kind_become_tokens(scripted):
    model = scripted(["x", "yy"], [1])
    assert plan_prompt(model, TextPrompt("xyy")).prompt_tokens == (1, 2)
    assert plan_prompt(model, TokenPrompt((2, 0))).prompt_tokens == (2, 0)
    turns = ChatPrompt((Turn("user", "abc"),))
    assert plan_prompt(model, turns) == plan_prompt(model, [{"role": "user", "content": "abc"}])
    assert plan_prompt(model, turns, choice=MAX_CHOICES - 1).choice == MAX_CHOICES - 1
    assert plan_prompt(model, TokenPrompt((1,) * 15)).prompt_tokens == (1,) * 15


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("prompt", {"prompt": TextPrompt("")}),
        ("prompt", {"prompt": TokenPrompt(())}),
        ("prompt", {"prompt": TokenPrompt((3,))}),
        ("prompt", {"prompt": TokenPrompt((1,) * 16)}),
        ("prompt", {"prompt": TextPrompt("x" * 16)}),
        ("messages", {"prompt": ChatPrompt((Turn("user", "x" * 16),))}),
        ("n", {"prompt": TextPrompt("x"), "choice": MAX_CHOICES}),
        ("logit_bias", {"prompt": TextPrompt("x"), "bias": [(3, 0)]}),
    ],
)
def test_invalid_prompt_or_choice_names_its_field(scripted, field, arguments):
    with pytest.raises(Invalid) as caught:
        plan_prompt(scripted(["x", "yy"], [1]), **arguments)
    assert caught.value.code == field


def test_top_logprobs_come_with_each_step(scripted):
    model = scripted(["x", "y"], [2, 0])
    steps = list(generate(model, plan(model), should_stop=lambda: False, top_logprobs=2))
    assert [[token for token, _ in step.top] for step in steps] == [[2, 0], [0, 1]]
    assert all(step.top[0][1] == step.logprob_micronats for step in steps)
    assert all(step.top == () for step in generate(model, plan(model), should_stop=lambda: False))
