"""Embeddings: unit length, checked by making them again, and told from those of other prompts and models."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from paceline.base.errors import Invalid, InvalidClaim, WorkError
from paceline.inference.embed import check_vector, claim_vector, compute_vector, plan_vector
from paceline.models.language import LanguageModel
from paceline.protocol.answers import EmbedRequest, Payload, TextPrompt, TokenPrompt
from paceline.protocol.messages import ACCEPTED, REJECTED, UNDECIDED
from paceline.protocol.transcripts import MAX_TRANSCRIPT_BYTES, decode_vector_claim, encode_vector_claim
from paceline.verification.payloads import Expected, judge_payload
from paceline.verification.vectors import TOLERANCE_MICRO, judge_vector

TEXTS = ("Hi", "Paris is the capital of France.", "A ferry crosses the river twice a day, in summer three times.")


class DrawnModel:
    """States that are drawn by token; three values each."""

    model_id = "drawn"
    content_hash = bytes(32)
    engine = "drawn-1"
    vocab_size = 10
    context_tokens = 6

    def encode(self, text):
        return [ord(character) % 10 for character in text]

    def compute_final_states(self, token_ids):
        return torch.tensor([[token + 1.0, 2.0, -1.0] for token in token_ids]).bfloat16()


DRAWN = DrawnModel()


def claim(prompt=(1, 2), **changes):
    values = compute_vector(DRAWN, prompt)
    return msgspec.structs.replace(decode_vector_claim(claim_vector(DRAWN, prompt, values)), **changes)


def pack(*values):
    return np.array(values, "<f4").tobytes()


def expect(request, tokens, **changes):
    fields = {
        "draw_seed": bytes(32),
        "task_id": bytes(32),
        "session_seed": bytes(32),
        "owner": bytes(20),
        "prompt_hash": request.compute_hash(),
        "prompt_tokens": tokens,
        "completion_tokens": 0,
    }
    return Expected(**(fields | changes))


def test_the_vector_is_the_mean_of_the_states_at_unit_length():
    vector = np.frombuffer(compute_vector(DRAWN, (1, 3)), "<f4")
    assert vector == pytest.approx(np.array([3, 2, -1]) / 14**0.5, abs=1e-6)


def test_an_honest_claim_shows_no_distance():
    evidence = check_vector(DRAWN, claim())
    assert (evidence.tokens, evidence.distance_micro) == (2, 0)


def test_prompts_are_texts_or_tokens_up_to_the_context():
    assert plan_vector(DRAWN, TextPrompt("12")).prompt_tokens == (9, 0)
    assert plan_vector(DRAWN, TokenPrompt((3,) * 6)).prompt_tokens == (3,) * 6


@pytest.mark.parametrize("prompt", [TokenPrompt((3,) * 7), TokenPrompt((10,)), TokenPrompt(()), TextPrompt("")])
def test_invalid_prompt_is_named(prompt):
    with pytest.raises(Invalid) as caught:
        plan_vector(DRAWN, prompt)
    assert caught.value.code == "prompt"


@pytest.mark.parametrize(
    ("values", "code"),
    [
        (pack(1.0), "wrong-size"),
        (pack(0.6, 0.8, 0.0, 0.0), "wrong-size"),
        (pack(float("nan"), 0, 0), "not-a-number"),
        (pack(float("inf"), 0, 0), "not-a-number"),
        (pack(0, 0, 0), "not-unit-length"),
        (pack(1.001, 0, 0), "not-unit-length"),
    ],
)
def test_invalid_vector_is_told_without_a_limit(values, code):
    with pytest.raises(InvalidClaim) as caught:
        check_vector(DRAWN, claim(values=values))
    assert caught.value.code == code


def test_invalid_bytes_of_a_claim():
    honest = encode_vector_claim(claim())
    for data, code in (
        (encode_vector_claim(claim(values=bytes(5))), "uneven-vector"),
        (encode_vector_claim(claim(values=b"")), "malformed"),
        (honest[:-1], "malformed"),
        (bytes(MAX_TRANSCRIPT_BYTES + 1), "too-large"),
    ):
        with pytest.raises(InvalidClaim) as caught:
            decode_vector_claim(data)
        assert caught.value.code == code


def test_invalid_model_is_no_blame():
    with pytest.raises(WorkError):
        check_vector(DRAWN, claim(engine="other-1"))


def test_the_limit_is_the_last_accepted_distance():
    evidence = check_vector(DRAWN, claim())
    for distance, outcome in ((TOLERANCE_MICRO, ACCEPTED), (TOLERANCE_MICRO + 1, REJECTED)):
        verdict = judge_vector(type(evidence)(tokens=2, distance_micro=distance))
        assert (verdict.outcome, verdict.evidence) == (outcome, (2, distance, TOLERANCE_MICRO, 0))


def test_a_payload_is_bound_to_the_request_and_the_receipt(monkeypatch):
    monkeypatch.setattr("paceline.verification.payloads.get_tolerance_micro", lambda *_: TOLERANCE_MICRO)
    request = EmbedRequest("drawn", TokenPrompt((1, 2)))
    payload = Payload(request, encode_vector_claim(claim()))
    assert judge_payload(DRAWN, payload, expect(request, 2)).outcome == ACCEPTED
    for other, expected in (
        (payload, expect(request, 3)),
        (payload, expect(request, 2, completion_tokens=1)),
        (payload, expect(request, 2, prompt_hash=bytes(32))),
        (Payload(request, encode_vector_claim(claim((1, 3)))), expect(request, 2)),
        (Payload(request, encode_vector_claim(claim(values=compute_vector(DRAWN, (1, 9))))), expect(request, 2)),
    ):
        assert judge_payload(DRAWN, other, expected).outcome == REJECTED
    elsewhere = Payload(request, encode_vector_claim(claim(engine="other-1")))
    assert judge_payload(DRAWN, elsewhere, expect(request, 2)).outcome == UNDECIDED


def test_the_4_bit_model_and_another_prompt_lie_far_beyond_the_limit(model, model_path):
    cheaper = LanguageModel.load(model_path, quantise=True)
    for text in TEXTS:
        tokens = model.encode(text)
        for cheat in (compute_vector(cheaper, tokens), compute_vector(model, model.encode("Ad: " + text))):
            forged = decode_vector_claim(claim_vector(model, tokens, cheat))
            assert check_vector(model, forged).distance_micro > 1.5 * TOLERANCE_MICRO
            assert judge_vector(check_vector(model, forged)).outcome == REJECTED
        honest = decode_vector_claim(claim_vector(model, tokens, compute_vector(model, tokens)))
        assert check_vector(model, honest).distance_micro < TOLERANCE_MICRO // 2
