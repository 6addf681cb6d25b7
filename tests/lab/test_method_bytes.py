"""The counted bytes of a method are those that the simulator's trainers send."""

from __future__ import annotations

import pytest
import torch
from method_setup import SGD, play

from paceline.base.errors import ConfigError
from paceline.lab.method_bytes import count_method
from paceline.training.methods.presets.registry import build_strategy

NUMBERS, STEPS = 187, 12
CASES = {
    "ddp": {},
    "none": {},
    "diloco": {"inner_steps": 3},
    "opendiloco-fp16": {"inner_steps": 4},
    "opendiloco-int8": {"inner_steps": 4, "chunk": 16},
    "async-diloco": {"inner_steps": 3},
    "sparta": {"share": 0.1},
    "sparta-diloco": {"inner_steps": 6, "share": 0.1},
    "sparseloco": {"inner_steps": 4, "k": 4, "chunk": 64},
    "noloco": {"inner_steps": 3},
    "gossip-ring": {"inner_steps": 3},
}


@pytest.mark.parametrize("trainers", [1, 2, 4])
@pytest.mark.parametrize("name", CASES)
def test_what_is_counted_is_what_the_simulator_counts(name, trainers):
    strategy = build_strategy(name, CASES[name], trainers=trainers, local=SGD)
    meter = play(strategy, trainers=trainers, steps=STEPS, dtype=torch.float32).meters[0]
    found = count_method(name, CASES[name], trainers, NUMBERS)
    sent = sum(STEPS // message.every * message.sent for message in found.messages)
    received = sum(STEPS // message.every * message.received for message in found.messages)
    assert (sent, received) == (sum(meter.sent.values()), sum(meter.received.values()))


def test_fragments_are_sent_one_after_the_other_and_may_be_late():
    found = count_method("streaming-diloco", {"inner_steps": 32, "fragments": 4}, 8, 1_000_000)
    (message,) = found.messages
    assert message.every == 8 and message.delay > 0 and found.inner_steps == 32
    whole = count_method("diloco", {"inner_steps": 32}, 8, 1_000_000)
    assert whole.sent_per_step / found.sent_per_step == pytest.approx(8, rel=0.01)


def test_rounds_of_500_send_a_500th_of_an_all_reduce():
    found = count_method("diloco", {}, 8, 1_000_000)
    assert found.all_reduce == pytest.approx(7e6)
    assert found.all_reduce / found.sent_per_step == pytest.approx(500)


def test_invalid_methods_and_settings_are_named():
    with pytest.raises(ConfigError, match="method demo: its bytes depend on the shapes"):
        count_method("demo", {}, 4, NUMBERS)
    with pytest.raises(ConfigError, match="sailing"):
        count_method("sailing", {}, 4, NUMBERS)
    with pytest.raises(ConfigError, match="inner_step"):
        count_method("diloco", {"inner_step": 3}, 4, NUMBERS)
