"""Honest pairs go through the shipped check; a record that condemns is reported as suspended."""

from __future__ import annotations

import msgspec
import pytest

from paceline.inference.check import Lie
from paceline.lab.engines import load_engines
from paceline.lab.pairs import PairAnswer, PairReport, answer_together, check_pair, compute_logs, report_pairs
from paceline.lab.prompts import EVALUATION, plan_questions
from paceline.models.catalogue import DEFAULT_MODEL, ENGINE
from paceline.models.variants import load_variant
from paceline.verification.answers import CALIBRATION
from paceline.verification.calibration import get_honest_scores
from paceline.verification.suspicion import SUSPECT_MICRONATS


@pytest.fixture(scope="module")
def scores():
    return get_honest_scores(DEFAULT_MODEL, ENGINE)


@pytest.fixture(scope="module")
def answers(path):
    checkers = {"served": load_variant(path, "served"), "eager": load_variant(path, "eager")}
    engine = load_engines(path, ["fp32"])["fp32"]
    questions = plan_questions(checkers["served"], EVALUATION, 3, longest=8, first=900_005, varied=True)
    made = answer_together(checkers["served"], engine, questions)
    return [
        answer
        for question, (transcript, trace) in zip(questions, made, strict=True)
        for answer in check_pair(checkers, "fp32", question, transcript, trace)
    ]


def change(answer, **fields):
    return msgspec.structs.replace(answer, evidence={**answer.evidence, **fields})


def test_honest_answers_are_checked_by_tokens_and_states_and_suspend_nobody(answers, scores):
    assert len(answers) == 6
    assert all(answer.evidence["traced"] == answer.evidence["tokens"] > 0 for answer in answers)
    reports = report_pairs(answers, CALIBRATION, scores)
    assert [(report.executor, report.checker, report.answers) for report in reports] == [
        ("fp32", "eager", 3),
        ("fp32", "served", 3),
    ]
    assert not any(report.suspended or report.rejected for report in reports)


def test_invalid_answers_would_be_reported_as_a_suspension(answers, scores):
    lying = change(answers[0], lies=int(Lie.STATES_FORGED))
    far = [
        msgspec.structs.replace(
            change(answers[0], distance_micronats=9 * 10**6 * answers[0].evidence["traced"]), number=n
        )
        for n in range(60)
    ]
    [report] = report_pairs([lying], CALIBRATION, scores)
    assert report.rejected == 1 and report.suspended
    [report] = report_pairs(far, CALIBRATION, scores)
    assert report.unlike == 60 and report.suspended
    assert min(compute_logs(far, scores)) > 0


def test_the_bound_itself_suspends():
    report = PairReport(executor="e", checker="c", answers=1, unlike=0, rejected=0, highest_micronats=SUSPECT_MICRONATS)
    assert report.suspended
    assert not PairReport(
        executor="e", checker="c", answers=1, unlike=0, rejected=0, highest_micronats=SUSPECT_MICRONATS - 1
    ).suspended


def test_an_answer_survives_the_file(answers):
    again = msgspec.json.decode(msgspec.json.encode(answers[0]), type=PairAnswer)
    assert again == answers[0]
    assert again.restore() == answers[0].restore()
