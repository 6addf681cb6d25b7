"""Plays one attack against the tests of answers and says how surely it is caught, as numbers and as a chart.

It wires laboratory and shipped calibration together; it knows no arguments and prints nothing. Invariant: an attack is
judged by the calibration that checkers use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go

from paceline.base.errors import ConfigError
from paceline.lab.detection import Power, compute_interval, join_samples, measure_power
from paceline.lab.forgeries import FORGERIES, measure_forgery
from paceline.lab.prompts import EVALUATION, plan_questions
from paceline.lab.samples import ATTACKS, CHEAPER, HONEST, Laboratory, Sample
from paceline.models.language import LanguageModel
from paceline.verification.calibration import HonestScores, get_honest_scores

LENGTHS = (1, 2, 4, 8, 16, 32, 64)
LONG_LENGTHS = (100, 300)
FORGED_ANSWERS = 500
NAMES = (*ATTACKS, *FORGERIES)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Power of the tests against one attack, or the rate of false alarms of an honest engine, by answer length."""

    name: str
    honest: bool
    points: tuple[Power, ...]


def audit_attack(path: Path, attack: str, answers: int, progress: Callable[[str], None]) -> list[Curve]:
    """Curves of an attack, and of every honest engine beside it.

    Errors: ConfigError when the attack has no such name or the model has no calibration.
    """
    if attack in FORGERIES:
        return [measure_forgeries(attack)]
    if attack not in ATTACKS:
        raise ConfigError(f"no attack is called {attack}; there are {', '.join(NAMES)}")
    laboratory = Laboratory(path, [name for name in CHEAPER if attack.removeprefix("draft-") == name])
    scores = get_shipped_scores(laboratory.model)
    questions = plan_questions(laboratory.model, EVALUATION, answers, attacked=answers)
    samples = list(laboratory.sample(questions, progress))
    return build_curves(samples, scores, [attack])


def get_shipped_scores(model: LanguageModel) -> HonestScores:
    """Errors: ConfigError when none ships for the model."""
    scores = get_honest_scores(model.model_id, model.engine)
    if scores is None:
        raise ConfigError(f"no calibration ships for {model.model_id} on {model.engine}")
    return scores


def build_curves(samples: Sequence[Sample], scores: HonestScores, attacks: Sequence[str]) -> list[Curve]:
    """A curve for each attack, then one for each honest engine; long answers where there are samples for ten."""
    curves = []
    for name in (*attacks, *HONEST):
        points = [measure_power(samples, scores, name, tokens) for tokens in LENGTHS]
        for tokens in LONG_LENGTHS:
            joined = join_samples(samples, tokens)
            if len(joined) >= 10:
                points.append(measure_power(joined, scores, name, tokens))
        curves.append(Curve(name=name, honest=name in HONEST, points=tuple(p for p in points if p.answers)))
    return curves


def measure_forgeries(attack: str) -> Curve:
    """The curve of a cheat that an opening proves."""
    points = []
    for tokens in LENGTHS:
        caught = measure_forgery(attack, tokens, FORGED_ANSWERS)
        low, high = compute_interval(caught, FORGED_ANSWERS)
        points.append(
            Power(
                attack=attack,
                tokens=tokens,
                answers=FORGED_ANSWERS,
                caught=caught,
                by_states=caught,
                by_tokens=0,
                low=low,
                high=high,
            )
        )
    return Curve(name=attack, honest=False, points=tuple(points))


def build_chart(curves: Sequence[Curve]) -> str:
    """One HTML page that needs nothing else: share of answers caught over answer length, with 95 % intervals."""
    figure = go.Figure()
    for curve in curves:
        shares = [point.caught / point.answers for point in curve.points]
        figure.add_trace(
            go.Scatter(
                x=[point.tokens for point in curve.points],
                y=shares,
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [point.high - share for point, share in zip(curve.points, shares, strict=True)],
                    "arrayminus": [share - point.low for point, share in zip(curve.points, shares, strict=True)],
                },
                name=f"honest: {curve.name}" if curve.honest else curve.name,
                line={"dash": "dot"} if curve.honest else {},
                mode="lines+markers",
            )
        )
    figure.update_layout(
        title="Answers unlike honest ones, at a false-positive rate of 1 in 1,000 answers",
        xaxis={"title": "tokens of the answer", "type": "log"},
        yaxis={"title": "share of answers, 95 % intervals", "range": [0, 1.02]},
    )
    page: str = figure.to_html(include_plotlyjs=True, full_html=True)
    return page
