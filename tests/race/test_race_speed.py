"""Measuring a Race: figures that fit each other, refusals, and no figure for a device that errs."""

from __future__ import annotations

import pytest
import torch

from paceline.base.errors import ConfigError, WorkError
from paceline.race.plan import PRESETS
from paceline.race.run import Searcher
from paceline.race.speed import SpeedOptions, measure_race


class Clock:
    """A millisecond passes at each reading."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 0.001
        return self.now


def measure(**changes):
    return measure_race(SpeedOptions(**{"preset": "micro", "device": "cpu", "seconds": 0.01, **changes}), Clock())


def test_figures_fit_each_other(monkeypatch):
    monkeypatch.setattr("paceline.race.speed.TURN_SECONDS", 0.003)
    figures = measure(batch=32)
    operations = 2 * PRESETS["micro"].get_shape().products
    assert figures["operations_per_second"] == pytest.approx(figures["nonces_per_second"] * operations)
    share = figures["operations_per_second"] / figures["products_alone_per_second"]
    assert figures["share_of_products_alone"] == pytest.approx(share)
    assert figures["nonces_tried"] % 32 == 0
    # By this clock a turn's check takes one reading, its search at least three.
    assert 0 < figures["check_cost_per_search_cost"] < 1
    assert 0 < figures["hits"] < figures["nonces_tried"]
    assert (figures["preset"], figures["batch"], figures["kernel"]) == ("micro", 32, "multiply_int8")


@pytest.mark.parametrize("change", [{"preset": "huge"}, {"device": "abacus"}, {"device": "cuda:99"}, {"batch": 0}])
def test_invalid_preset_device_or_batch_is_refused(change):
    with pytest.raises(ConfigError):
        measure(**change)


def test_invalid_outputs_of_a_device_give_no_figure(monkeypatch):
    monkeypatch.setattr(Searcher, "compute_outputs", lambda _, nonces: torch.ones(len(nonces), 64, dtype=torch.int8))
    with pytest.raises(WorkError):
        measure()
