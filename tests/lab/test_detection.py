"""The laboratory's arithmetic: intervals, cuts, curves from samples whose truth is known, files, the chart, the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from paceline.cli.main import app
from paceline.lab.audit import build_chart, build_curves, measure_forgeries
from paceline.lab.detection import (
    build_honest_scores,
    collect_logs,
    compute_interval,
    count_crossings,
    cut_all,
    join_samples,
    measure_power,
    simulate_patience,
)
from paceline.lab.samples import HONEST, Sample, load_samples, save_samples


def make_sample(number, *, attacked):
    chance = np.random.default_rng(number)
    names = [*HONEST, *(("far", "near") if attacked else ())]
    shift = {"far": 3.0, "near": 0.0}
    return Sample(
        number=number,
        heat=1.0,
        expected=np.full(64, 0.7, np.float32),
        distances={
            n: (2 + shift.get(n, 0.0) + 0.3 * chance.standard_normal((64, 3))).astype(np.float32) for n in names
        },
        margins={n: (chance.exponential(0.1, 64) * (chance.random(64) < 0.03)).astype(np.float32) for n in names},
    )


@pytest.fixture(scope="module")
def samples():
    return [make_sample(number, attacked=number < 20) for number in range(60)]


@pytest.fixture(scope="module")
def scores(samples):
    return build_honest_scores(samples[20:], "m", "e")


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"), [(0, 10, 0, 0.3085), (10, 10, 0.6915, 1), (5, 10, 0.1871, 0.8129)]
)
def test_intervals_are_exact(hits, count, low, high):
    assert compute_interval(hits, count) == pytest.approx((low, high), abs=1e-4)


def test_cuts_cover_every_token_once(samples):
    cuts = list(cut_all(samples[:1], ["far"], 16, 0))
    assert [cut.tokens for cut in cuts] == [16] * 4
    whole = next(cut_all(samples[:1], ["far"], 64, 0))
    assert sum(cut.distance_micronats for cut in cuts) == pytest.approx(whole.distance_micronats, rel=1e-6)


def test_a_far_engine_is_caught_and_an_equal_one_is_not(samples, scores):
    far, near = (measure_power(samples[:20], scores, name, 4) for name in ("far", "near"))
    assert far.caught == far.answers == 320
    assert near.caught <= 3
    assert far.low > 0.98


def test_lengths_without_enough_answers_are_left_out(scores):
    assert [tail.tokens for tail in scores.pairs[0].tokens] == [1, 2, 3]


def test_long_answers_are_joined(samples):
    joined = join_samples(samples[:20], 100)
    assert [len(item.expected) for item in joined] == [128] * 10


def test_patience_ends_for_cheats_and_not_for_honest_nodes(samples, scores):
    cheat = simulate_patience(samples[:20], scores, "far", share=0.3, longest=3, runs=20)
    assert cheat.never == 0
    assert cheat.median < 300
    assert count_crossings(collect_logs(samples[:20], scores, HONEST, 3), runs=50, audits=500) == 0


def test_samples_survive_the_disk(samples, tmp_path):
    save_samples(tmp_path / "s.npz", samples[:2])
    again = load_samples(tmp_path / "s.npz")
    assert [item.number for item in again] == [0, 1]
    assert np.array_equal(again[0].distances["far"], samples[0].distances["far"])
    assert np.array_equal(again[1].margins["decode"], samples[1].margins["decode"])


def test_the_chart_needs_nothing_else(samples, scores):
    curves = [*build_curves(samples[:20], scores, ["far"]), measure_forgeries("garbage-root")]
    page = build_chart(curves)
    assert "honest: decode" in page
    assert "src=" not in page.split("<script", 1)[1].split(">", 1)[0]


def test_the_command_prints_a_curve(tmp_path):
    html = tmp_path / "chart.html"
    arguments = ["audit", "inference", "--attack", "garbage-root", "--json", "--html", str(html)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    [curve] = json.loads(result.stdout)
    assert all(point["caught"] == point["answers"] for point in curve["points"])
    assert html.stat().st_size > 100_000
