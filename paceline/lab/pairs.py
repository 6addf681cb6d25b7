"""Honest executors of every kind against honest checkers of every kind, through the code that nodes run.

An executor decodes real answers and commits to its states; a checker draws, replays and judges them. It knows no cheats and
holds nobody's record. Invariant: whatever condemns an answer here condemns an honest node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import torch

from paceline.base.hashing import hash_parts
from paceline.inference.check import AnswerEvidence, Challenge, Lie, check_transcript
from paceline.inference.claim import build_transcript
from paceline.inference.plan import plan_sampler
from paceline.inference.run import TokenStep, open_state
from paceline.inference.sampler import SamplerState, choose_token, compute_logprob_micronats
from paceline.inference.trace import Trace, derive_draw
from paceline.lab.detection import compute_log_e, has_rare_states, has_rare_tokens
from paceline.lab.engines import Asked, Decodes, decode
from paceline.lab.prompts import Question
from paceline.models.language import LanguageModel
from paceline.protocol.messages import REJECTED
from paceline.protocol.transcripts import FinishReason, GenerationRequest, Transcript
from paceline.verification.answers import Calibration, judge_answer
from paceline.verification.calibration import HonestScores
from paceline.verification.suspicion import SUSPECT_MICRONATS

NUCLEI_PPM = (1_000_000, 950_000, 900_000)
"""Samplers that keep all tokens and samplers that do not, in turn."""


class PairAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence of one answer, and which two met."""

    executor: str
    checker: str
    number: int
    evidence: Mapping[str, int]

    def restore(self) -> AnswerEvidence:
        """As the checker found it."""
        fields = dict(self.evidence)
        return AnswerEvidence(lies=Lie(fields.pop("lies")), **fields)

    @property
    def coin(self) -> bytes:
        """Breaks ties between equal scores."""
        return hash_parts("lab-pair-coin", self.executor.encode(), self.checker.encode(), b"%d" % self.number)


@dataclass(frozen=True, kw_only=True)
class PairReport:
    """One pair as one node's record: answers in their order, all checked. Units: `highest_micronats` of its running sum."""

    executor: str
    checker: str
    answers: int
    unlike: int
    """Answers that only one honest one in a thousand should show."""
    rejected: int
    highest_micronats: int

    @property
    def suspended(self) -> bool:
        """True when an honest node would have been put to an inquiry or lost a task."""
        return self.rejected > 0 or self.highest_micronats >= SUSPECT_MICRONATS


class _Sampler:
    """A sampler's state with the logprobs of what it chose."""

    def __init__(self, state: SamplerState) -> None:
        self._state = state
        self.logprobs: list[int] = []

    def choose(self, logits: torch.Tensor) -> int:
        token_id = choose_token(logits, self._state)
        self._state.push(token_id)
        self.logprobs.append(compute_logprob_micronats(logits, token_id))
        return token_id


def build_request(model: LanguageModel, question: Question) -> GenerationRequest:
    """A question as the network asks it."""
    sampler = plan_sampler(
        temperature_ppm=round(question.heat * 1e6),
        top_p_ppm=NUCLEI_PPM[question.number % len(NUCLEI_PPM)],
        max_tokens=question.limit,
        stop=[],
    )
    return GenerationRequest(
        model_id=model.model_id,
        model_hash=model.content_hash,
        engine=model.engine,
        sampler=sampler,
        seed=question.seed,
        prompt_tokens=question.tokens,
    )


def answer_together(
    model: LanguageModel, engine: Decodes, questions: Sequence[Question]
) -> list[tuple[Transcript, Trace]]:
    """Transcripts and states of questions that run side by side."""
    requests = [build_request(model, question) for question in questions]
    samplers = [_Sampler(open_state(model, request)) for request in requests]
    asked = [
        Asked(prompt=request.prompt_tokens, limit=request.sampler.max_tokens, choose=sampler.choose)
        for request, sampler in zip(requests, samplers, strict=True)
    ]
    made = []
    for request, sampler, answer in zip(requests, samplers, decode(engine, asked, model.eos_token_ids), strict=True):
        trace = Trace.join(list(answer.states))
        steps = _build_steps(model, answer.tokens.tolist(), sampler.logprobs)
        made.append((build_transcript(model, request, steps, trace.compute_root()), trace))
    return made


def check_pair(
    checkers: Mapping[str, LanguageModel], executor: str, question: Question, transcript: Transcript, trace: Trace
) -> Iterator[PairAnswer]:
    """Evidence of one answer by every checker, all of one draw."""
    seed = hash_parts("lab-pair-draw", question.seed, transcript.trace_root)
    draw = derive_draw(seed, len(transcript.output_tokens), trace.states.shape[1])
    challenge = Challenge(draw=draw, opening=trace.open(draw))
    for checker, model in checkers.items():
        evidence = check_transcript(model, transcript, challenge)
        fields = {name: int(getattr(evidence, name)) for name in evidence.__dataclass_fields__}
        yield PairAnswer(executor=executor, checker=checker, number=question.number, evidence=fields)


def report_pairs(answers: Iterable[PairAnswer], calibration: Calibration, scores: HonestScores) -> list[PairReport]:
    """Each pair's answers judged in the order of their numbers."""
    pairs: dict[tuple[str, str], list[PairAnswer]] = {}
    for answer in sorted(answers, key=lambda answer: answer.number):
        pairs.setdefault((answer.executor, answer.checker), []).append(answer)
    return [_report(found, calibration, scores) for _, found in sorted(pairs.items())]


def compute_logs(answers: Iterable[PairAnswer], scores: HonestScores) -> list[int]:
    """What each answer adds to the suspicion of its node. Units: micronats."""
    return [compute_log_e(answer.restore(), scores, answer.coin) for answer in answers]


def _report(answers: Sequence[PairAnswer], calibration: Calibration, scores: HonestScores) -> PairReport:
    unlike = rejected = total = highest = 0
    for answer in answers:
        evidence, coin = answer.restore(), answer.coin
        unlike += has_rare_states(evidence, scores, coin) or has_rare_tokens(evidence, scores, coin)
        rejected += judge_answer(evidence, calibration, scores, coin).outcome == REJECTED
        total += compute_log_e(evidence, scores, coin)
        highest = max(highest, total)
    return PairReport(
        executor=answers[0].executor,
        checker=answers[0].checker,
        answers=len(answers),
        unlike=unlike,
        rejected=rejected,
        highest_micronats=highest,
    )


def _build_steps(model: LanguageModel, tokens: Sequence[int], logprobs: Sequence[int]) -> list[TokenStep]:
    finish: FinishReason = "stop" if tokens[-1] in model.eos_token_ids else "length"
    last = len(tokens) - 1
    return [
        TokenStep(
            token_id=token_id,
            text="",
            logprob_micronats=logprob,
            finish_reason=finish if place == last else None,
        )
        for place, (token_id, logprob) in enumerate(zip(tokens, logprobs, strict=True))
    ]
