"""Checking a claimed answer: one prefill with the claimed tokens forced, every sampling decision replayed.

It returns evidence in integers and judges nothing. Three measurements see different cheats: the sketch of committed states
betrays the smallest change of the model, the logprobs another model or prompt, margins and support gaps another seed, sampler
or text, also when states and logprobs were made up by an honest model afterwards. One forward pass serves them all.
Invariant: evidence adds up, so many short answers of one executor weigh as much as one long answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntFlag
from functools import partial

import torch

from paceline.base.integers import PPM
from paceline.inference.backend import get_replayable_engines
from paceline.inference.grammar import count_allowed
from paceline.inference.run import check_serves, compute_token_limit, derive_text, open_state
from paceline.inference.sampler import compute_logprob_micronats, replay_token
from paceline.inference.trace import Trace, TraceDraw, compute_distances, verify_opening
from paceline.models.language import LanguageModel
from paceline.protocol.traces import Opening
from paceline.protocol.transcripts import Transcript, check_shape, compute_text_hash

# One token never decides alone: a rare honest outlier must not outweigh a whole answer.
DEVIATION_CAP_MICRONATS = PPM
MARGIN_CAP_MICRONATS = PPM // 2
SUPPORT_CAP_MICRONATS = PPM // 2
# A model may score a token as impossible, which no integer holds.
HIGHEST_MARGIN_NATS = 100.0
# Differences of a nearly certain token say nothing, yet dividing by its spread would make them shout.
LEAST_SPREAD = 1e-3


class Lie(IntFlag):
    """Statements of a transcript that its own tokens refute, without any model."""

    NONE = 0
    TOKEN_OUTSIDE_VOCABULARY = 1
    OVER_CONTEXT = 2
    END_IGNORED = 4
    STOP_STRING_IGNORED = 8
    STOP_UNFOUNDED = 16
    LENGTH_UNFOUNDED = 32
    TEXT_DIFFERS = 64
    STATES_FORGED = 128
    GRAMMAR_IGNORED = 256


@dataclass(frozen=True, kw_only=True)
class TokenEvidence:
    """One token compared. Units: micronats; `spread_micro` and `expected_mismatch_micro` in millionths.

    `spread_micro`: how strongly noise in the logits moves this token's logprob (near 0 for a certain token, at most about 1.4);
    `support_micronats`: how far the token lies outside the checker's set; `expected_mismatch_micro`: how likely a token drawn
    without the seed differs from the right one.
    """

    deviation_micronats: int
    spread_micro: int
    margin_micronats: int
    support_micronats: int
    expected_mismatch_micro: int


_OF_ONE_ANSWER = ("lies", "traced", "distance_micronats", "layer")


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """What was drawn after an executor committed to its states, and what it opened."""

    draw: TraceDraw
    opening: Opening


@dataclass(frozen=True, kw_only=True)
class AnswerEvidence:
    """Sums over the tokens of one answer, or of several. Units: as in `TokenEvidence`, each token's share capped.

    `traced`: tokens whose states were compared; `distance_micronats`: see `inference.trace.compute_distances`;
    `layer`: which kind of state. Answers of different draws have no distance together, so sums have none.
    """

    tokens: int
    deviation_micronats: int
    spread_micro: int
    mismatches: int
    margin_micronats: int
    support_micronats: int
    expected_mismatch_micro: int
    lies: Lie
    traced: int = 0
    distance_micronats: int = 0
    layer: int = 0

    def __add__(self, other: AnswerEvidence) -> AnswerEvidence:
        """Evidence of both answers together."""
        sums = {
            field.name: getattr(self, field.name) + getattr(other, field.name)
            for field in fields(self)
            if field.name not in _OF_ONE_ANSWER
        }
        return AnswerEvidence(**sums, lies=self.lies | other.lies)


def check_transcript(
    model: LanguageModel, transcript: Transcript, challenge: Challenge | None = None
) -> AnswerEvidence:
    """Evidence for or against a claimed answer; without a challenge its committed states are not looked at.

    Errors: WorkError when this node cannot re-run the request (another model or grammar engine, a grammar over its limits);
    InvalidClaim when the shape is wrong; Invalid when the grammar is.
    """
    check_shape(transcript)
    check_serves(model, transcript.request, get_replayable_engines(model))
    lies = find_lies(model, transcript)
    # Tokens that the model does not have, or positions beyond its context, cannot be re-run; the lie says enough.
    if lies & (Lie.TOKEN_OUTSIDE_VOCABULARY | Lie.OVER_CONTEXT) or not transcript.output_tokens:
        return sum_evidence([], lies)
    if challenge is None:
        return sum_evidence(list(compare_tokens(model, transcript)), lies)
    if not _verify_challenge(model, transcript, challenge):
        # The proof is exact: no forward pass could add to it.
        return sum_evidence([], lies | Lie.STATES_FORGED)
    states: list[torch.Tensor] = []
    tokens = list(compare_tokens(model, transcript, states=states))
    distances = compute_distances(challenge.opening.sketch, Trace.join(states).open_sketch(challenge.draw))
    return replace(
        sum_evidence(tokens, lies),
        traced=len(distances),
        distance_micronats=sum(distances),
        layer=challenge.draw.layer,
    )


def sum_evidence(tokens: Sequence[TokenEvidence], lies: Lie) -> AnswerEvidence:
    """Evidence of an answer from that of its tokens."""
    return AnswerEvidence(
        tokens=len(tokens),
        deviation_micronats=sum(min(token.deviation_micronats, DEVIATION_CAP_MICRONATS) for token in tokens),
        spread_micro=sum(token.spread_micro for token in tokens),
        mismatches=sum(token.margin_micronats > 0 or token.support_micronats > 0 for token in tokens),
        margin_micronats=sum(min(token.margin_micronats, MARGIN_CAP_MICRONATS) for token in tokens),
        support_micronats=sum(min(token.support_micronats, SUPPORT_CAP_MICRONATS) for token in tokens),
        expected_mismatch_micro=sum(token.expected_mismatch_micro for token in tokens),
        lies=lies,
    )


def find_lies(model: LanguageModel, transcript: Transcript) -> Lie:
    """Contradictions between the tokens of a transcript and what it states about them."""
    request, tokens, finish = transcript.request, transcript.output_tokens, transcript.finish_reason
    limit = compute_token_limit(model, request)
    if any(token >= model.vocab_size for token in tokens):
        return Lie.TOKEN_OUTSIDE_VOCABULARY
    if len(tokens) > limit:
        return Lie.OVER_CONTEXT
    derived = derive_text(model, request.sampler.stop, tokens)
    last = len(tokens) - 1
    ended_at = next((index for index, token in enumerate(tokens) if token in model.eos_token_ids), None)
    lies = Lie.NONE
    if ended_at is not None and (ended_at < last or finish != "stop"):
        lies |= Lie.END_IGNORED
    if derived.stopped_at is not None and (derived.stopped_at < last or finish != "stop"):
        lies |= Lie.STOP_STRING_IGNORED
    if finish == "stop" and ended_at is None and derived.stopped_at is None:
        lies |= Lie.STOP_UNFOUNDED
    if finish == "length" and len(tokens) < limit:
        lies |= Lie.LENGTH_UNFOUNDED
    if transcript.text_hash != compute_text_hash(derived.text):
        lies |= Lie.TEXT_DIFFERS
    grammar = request.sampler.grammar
    if grammar is not None and count_allowed(model, grammar, tokens) < len(tokens):
        lies |= Lie.GRAMMAR_IGNORED
    return lies


def compare_tokens(
    model: LanguageModel, transcript: Transcript, *, states: list[torch.Tensor] | None = None
) -> Iterator[TokenEvidence]:
    """Every output token against this node's own logits, uncapped; `states` gains this node's own. Calibration reads these too."""
    request, tokens = transcript.request, transcript.output_tokens
    if not tokens:
        return
    # The last token is never fed: what would follow it is not part of the answer.
    forced = (*request.prompt_tokens, *tokens[:-1])
    iterate = model.iterate_logits if states is None else partial(model.iterate_logits, states=states)
    all_logits = iterate(forced, len(request.prompt_tokens) - 1)
    state = open_state(model, request)
    for logits, token_id, claimed in zip(all_logits, tokens, transcript.logprobs_micronats, strict=True):
        replay = replay_token(logits, state, token_id)
        state.push(token_id)
        weights = logits.softmax(-1)
        chosen, together = float(weights[token_id]), float(weights.square().sum())
        # Standard deviation of logit[chosen] - E[logit] when every logit carries noise of standard deviation one.
        spread = max(0.0, (1.0 - chosen) ** 2 + together - chosen**2) ** 0.5
        yield TokenEvidence(
            deviation_micronats=abs(claimed - compute_logprob_micronats(logits, token_id)),
            spread_micro=round(max(spread, LEAST_SPREAD) * PPM),
            margin_micronats=round(min(replay.margin, HIGHEST_MARGIN_NATS) * PPM),
            support_micronats=round(min(replay.support_gap, HIGHEST_MARGIN_NATS) * PPM),
            expected_mismatch_micro=round(replay.expected_mismatch * PPM),
        )


def _verify_challenge(model: LanguageModel, transcript: Transcript, challenge: Challenge) -> bool:
    return verify_opening(
        challenge.opening,
        transcript.trace_root,
        challenge.draw,
        tokens=len(transcript.output_tokens),
        layers=model.traced_states,
        width=model.traced_width,
    )
