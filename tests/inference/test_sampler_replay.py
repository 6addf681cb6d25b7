"""What generate chose replays without a margin, whatever the sampler; each operator left out or done otherwise is seen."""

from __future__ import annotations

import json
from functools import reduce
from operator import add

import msgspec
import pytest
from babble import ALPHABET, BabbleModel
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.inference.check import Lie, check_transcript
from paceline.inference.claim import build_transcript
from paceline.inference.grammar import ENGINE
from paceline.inference.plan import plan_answer, plan_sampler
from paceline.inference.run import generate
from paceline.protocol.messages import REJECTED
from paceline.protocol.transcripts import GrammarSpec
from paceline.verification.answers import judge_answer

SEED = bytes(range(32))
MODEL = BabbleModel()
TOKENS = 240
WORD = GrammarSpec("regex", "([a-e]{2,9} )+", ENGINE)
COUNTS = GrammarSpec("json_schema", json.dumps({"type": "array", "items": {"enum": list(range(90))}}), ENGINE)
GRAMMARS = (None, GrammarSpec("json_object", "", ENGINE), COUNTS, WORD)


def plan(*, seed=SEED, model=MODEL, **options):
    neutral = {"temperature_ppm": 1_000_000, "top_p_ppm": 1_000_000, "max_tokens": TOKENS, "stop": ()}
    return plan_answer(
        model, [{"role": "user", "content": "go"}], sampler=plan_sampler(**(neutral | options)), seed=seed
    )


def answer(request, model=MODEL):
    return build_transcript(model, request, list(generate(model, request, should_stop=lambda: False)))


def penalties():
    return st.integers(-2_000_000, 2_000_000)


specs = st.fixed_dictionaries(
    {
        "temperature_ppm": st.sampled_from([0, 1, 300_000, 900_000, 1_000_000, 2_000_000]),
        "top_k": st.sampled_from([0, 1, 2, 7, 40, 2**20]),
        "top_p_ppm": st.sampled_from([1, 300_000, 900_000, 999_999, 1_000_000]),
        "presence_ppm": penalties(),
        "frequency_ppm": penalties(),
        "bias": st.dictionaries(st.integers(0, MODEL.vocab_size - 1), st.integers(-100_000, 100_000), max_size=5).map(
            lambda chosen: tuple(chosen.items())
        ),
        "grammar": st.sampled_from(GRAMMARS),
        "stop": st.sampled_from([(), ("a",), ("}{", "zz")]),
    }
)


@settings(max_examples=60, deadline=None)
@given(options=specs, seed=st.binary(min_size=32, max_size=32))
def test_replay_accepts_what_generate_chose(options, seed):
    transcript = answer(plan(seed=seed, **(options | {"max_tokens": 24})))
    evidence = check_transcript(MODEL, transcript)
    assert evidence.lies is Lie.NONE
    assert (evidence.margin_micronats, evidence.support_micronats, evidence.mismatches) == (0, 0, 0)
    assert evidence.tokens == len(transcript.output_tokens)


BIAS = ((ALPHABET.index("q") + 1, 3_000), (ALPHABET.index("e") + 1, -100_000))
# What was sold, and what the cheater did instead.
CHEATS = {
    "bias ignored": ({"bias": BIAS}, {}),
    "presence penalty ignored": ({"presence_ppm": 1_000_000}, {}),
    "frequency penalty ignored": ({"frequency_ppm": 1_000_000}, {}),
    "half the frequency penalty": ({"frequency_ppm": 1_000_000}, {"frequency_ppm": 500_000}),
    "penalty nobody asked for": ({}, {"frequency_ppm": 500_000}),
    "top-k ignored": ({"top_k": 5}, {}),
    "smaller top-k": ({"top_k": 20}, {"top_k": 5}),
    "top-p ignored": ({"top_p_ppm": 800_000}, {}),
    "smaller top-p": ({"top_p_ppm": 950_000}, {"top_p_ppm": 700_000}),
    "cooler": ({}, {"temperature_ppm": 900_000}),
    "greedy": ({}, {"temperature_ppm": 0}),
    "sampled for greedy": ({"temperature_ppm": 0}, {"temperature_ppm": 300_000}),
    "own seed": ({}, {"seed": bytes(32)}),
    "grammar ignored": ({"grammar": WORD}, {}),
    "other grammar": ({"grammar": WORD}, {"grammar": GrammarSpec("regex", "([a-c]{2,9} )+", ENGINE)}),
}

# A temperature that is a little off needs about a thousand tokens; everything else shows in one answer.
ANSWERS = {"cooler": 6}


@pytest.mark.parametrize("name", CHEATS)
def test_a_wrong_operator_is_rejected_and_the_right_one_accepted(name):
    sold, done = CHEATS[name]
    honest, cheated = [], []
    for number in range(1, 1 + ANSWERS.get(name, 1)):
        agreed = {"seed": bytes([number]) * 32, **sold}
        request = plan(**agreed)
        honest.append(check_transcript(MODEL, answer(request)))
        served = answer(plan(**{"seed": agreed["seed"], **done}))
        forged = msgspec.structs.replace(served, request=request)
        cheated.append(check_transcript(MODEL, forged))
    assert judge_answer(reduce(add, honest)).outcome != REJECTED
    evidence = reduce(add, cheated)
    assert evidence.deviation_micronats == 0
    assert judge_answer(evidence).outcome == REJECTED, evidence


def test_a_forbidden_token_is_a_lie_without_any_model():
    forged = msgspec.structs.replace(answer(plan()), request=plan(grammar=WORD))
    assert check_transcript(MODEL, forged).lies & Lie.GRAMMAR_IGNORED
    assert not check_transcript(MODEL, answer(plan(grammar=WORD))).lies


def test_the_end_is_scored_like_any_token():
    talker, ender = BabbleModel(end=-40.0), BabbleModel(end=3.0)
    honest = answer(plan(model=ender), ender)
    assert honest.finish_reason == "stop"
    assert check_transcript(ender, honest).margin_micronats == 0
    # An answer that ends where the model would not: the end itself is what gives it away.
    cut = msgspec.structs.replace(honest, request=plan(model=talker))
    evidence = check_transcript(talker, cut)
    assert evidence.mismatches >= 1
    assert evidence.margin_micronats >= 500_000


def test_penalties_count_the_answers_own_tokens_only():
    loud = plan(presence_ppm=2_000_000, max_tokens=1)
    assert answer(loud).output_tokens == answer(plan(max_tokens=1)).output_tokens
