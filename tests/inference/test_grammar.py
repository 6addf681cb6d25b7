"""Grammars: what may come next, where the form may end, and schemas that are refused by name."""

from __future__ import annotations

import json

import pytest

from paceline.base.errors import Invalid, WorkError
from paceline.inference.claim import build_transcript
from paceline.inference.grammar import ENGINE, count_allowed, open_grammar
from paceline.inference.plan import plan_answer, plan_sampler
from paceline.inference.run import generate
from paceline.protocol.transcripts import MAX_GRAMMAR_BYTES, GrammarSpec

SEED = bytes(range(32))
PIECES = ["{", "}", '"a"', ":", "1", "2", " ", "x", '"', "a", "[", "]", ",", '{"a']
JSON_OBJECT = GrammarSpec("json_object", "", ENGINE)


@pytest.fixture
def letters(scripted):
    """Wants to say x for ever, as a model does that knows no JSON."""
    return scripted(PIECES, [8])


def ids(*pieces):
    return tuple(PIECES.index(piece) + 1 for piece in pieces)


def answer(model, grammar, *, max_tokens=12, temperature_ppm=1_000_000):
    sampler = plan_sampler(
        temperature_ppm=temperature_ppm, top_p_ppm=1_000_000, max_tokens=max_tokens, stop=[], grammar=grammar
    )
    request = plan_answer(model, [{"role": "user", "content": "ab"}], sampler=sampler, seed=SEED)
    steps = list(generate(model, request, should_stop=lambda: False))
    return build_transcript(model, request, steps), "".join(step.text for step in steps)


def refuse(model, kind, text):
    with pytest.raises(Invalid) as caught:
        open_grammar(model, GrammarSpec(kind, text, ENGINE))
    assert caught.value.code == "response_format"
    return caught.value.message


def test_a_pattern_allows_its_tokens_and_the_end_only_when_complete(letters):
    grammar = open_grammar(letters, GrammarSpec("regex", "1[12]", ENGINE))
    allowed = []
    for token_id in ids("1", "2"):
        allowed.append(set(grammar.compute_mask().nonzero()[0].tolist()))
        assert grammar.push(token_id)
    assert allowed == [set(ids("1")), set(ids("1", "2"))]
    assert grammar.compute_mask().nonzero()[0].tolist() == [0]


def test_a_token_may_span_several_parts_of_the_form(letters):
    assert count_allowed(letters, JSON_OBJECT, ids('{"a', '"', ":", "1", "}")) == 5


def test_invalid_token_is_found_and_binds_nothing_after(letters):
    assert count_allowed(letters, JSON_OBJECT, ids("{", "x", "}")) == 1
    grammar = open_grammar(letters, JSON_OBJECT)
    assert not grammar.push(ids("x")[0])
    assert grammar.compute_mask() is None
    assert not grammar.push(ids("{")[0])


def test_invalid_end_before_the_form_is_complete(letters):
    assert count_allowed(letters, JSON_OBJECT, (*ids("{"), 0)) == 1
    assert count_allowed(letters, JSON_OBJECT, (*ids("{", "}"), 0)) == 3


def test_an_answer_under_a_schema_is_what_the_schema_says(letters):
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    transcript, text = answer(letters, GrammarSpec("json_schema", json.dumps(schema), ENGINE), max_tokens=14)
    assert transcript.finish_reason == "stop"
    assert json.loads(text) in ({"a": 1}, {"a": 2})


def test_a_limit_may_cut_the_form(letters):
    transcript, text = answer(letters, GrammarSpec("regex", "1{9}", ENGINE), max_tokens=8)
    assert (transcript.finish_reason, text) == ("length", "1" * 8)


def test_greedy_keeps_to_the_form(letters):
    assert answer(letters, GrammarSpec("regex", "2x", ENGINE), temperature_ppm=0)[1] == "2x"


def test_blanks_between_parts_have_an_end(letters):
    assert count_allowed(letters, JSON_OBJECT, ids("{", *[" "] * 16, "}")) == 18
    assert count_allowed(letters, JSON_OBJECT, ids("{", *[" "] * 17, "}")) == 17


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("json_schema", "{", "json_schema"),
        ("json_schema", "[1]", "not a JSON object"),
        ("json_schema", "true", "not a JSON object"),
        ("json_schema", "", "json_schema"),
        ("json_schema", '{"type":"objekt"}', "objekt"),
        ("json_schema", '{"uniqueItems":true}', "uniqueItems"),
        ("json_schema", '{"x-guidance":{"lenient":true},"uniqueItems":true}', "uniqueItems"),
        ("json_schema", '{"$ref":"http://example.com/x.json"}', "http://example.com/x.json"),
        ("json_schema", '{"type":"integer","minimum":5,"maximum":3}', "minimum (5)"),
        ("json_schema", '{"a":' * 9_000, "json_schema"),
        ("json_schema", "[" * 60_000, "json_schema"),
        ("json_object", "{}", "takes no schema"),
        ("regex", "((", "unclosed group"),
        ("regex", r"(a)\1", "backreferences"),
        ("regex", r"(?=a)b", "look-around"),
    ],
)
def test_invalid_grammar_says_what_is_wrong(letters, kind, text, said):
    assert said in refuse(letters, kind, text)


def test_invalid_grammar_stops_a_request_before_any_work(letters):
    with pytest.raises(Invalid, match="response_format"):
        answer(letters, GrammarSpec("regex", "((", ENGINE))
    assert letters.computed == 0
    with pytest.raises(Invalid, match="response_format"):
        answer(letters, GrammarSpec("regex", "é" * (MAX_GRAMMAR_BYTES // 2) + "x", ENGINE))


def test_invalid_grammar_beyond_its_steps_ends_the_work(letters):
    grammar = open_grammar(letters, GrammarSpec("regex", r"(((a{1,900}){1,900}){1,900}){1,900}", ENGINE))

    def go_on():
        for _ in range(20):
            grammar.compute_mask()
            grammar.push(ids("a")[0])

    with pytest.raises(WorkError, match="over its limits"):
        go_on()


def test_invalid_engine_is_no_blame(letters):
    with pytest.raises(WorkError, match="llguidance-0"):
        open_grammar(letters, GrammarSpec("json_object", "", "llguidance-0"))


def test_the_real_model_writes_json(model):
    sampler = plan_sampler(
        temperature_ppm=1_000_000, top_p_ppm=1_000_000, max_tokens=40, stop=[], grammar=GrammarSpec(
            "json_schema",
            '{"type":"object","properties":{"town":{"type":"string","maxLength":20},"founded":{"type":"integer","minimum":0,'
            '"maximum":2000}},"required":["town","founded"],"additionalProperties":false}',
            ENGINE,
        ),
    )  # fmt: skip
    request = plan_answer(model, [{"role": "user", "content": "Name an old town as JSON."}], sampler=sampler, seed=SEED)
    text = "".join(step.text for step in generate(model, request, should_stop=lambda: False))
    found = json.loads(text)
    assert set(found) == {"town", "founded"} and 0 <= found["founded"] <= 2000
