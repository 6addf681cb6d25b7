from __future__ import annotations

import pytest
import torch
from codec_setup import flat, make_values

from paceline.base.errors import ConfigError, WorkError
from paceline.training.codecs.feedback import ErrorFeedback
from paceline.training.codecs.few_bits import Sign, TwoBit
from paceline.training.codecs.quantisers import Int4, Raw
from paceline.training.codecs.top_k import TopK


@pytest.mark.parametrize("codec", [Int4(16), TopK(2, 8, TwoBit()), TopK(2, 8, Sign(), exact_feedback=True)], ids=repr)
def test_sent_and_kept_make_up_the_whole(codec):
    values, residual = make_values(50), make_values(50, key=b"residual")
    before = residual.clone(), values.clone()
    payload, kept = ErrorFeedback(0.5).apply(residual, values, codec, flat(values), b"key")
    total = residual * 0.5 + values
    expected, sent = codec.encode_with_sent(total, flat(values), b"key")
    assert torch.equal(payload, expected) and torch.equal(kept, total - sent)
    assert torch.equal(residual, before[0]) and torch.equal(values, before[1])


def test_nothing_is_kept_of_an_exact_codec():
    values = make_values(50)
    _, kept = ErrorFeedback(0.95).apply(values, values, Raw(), flat(values))
    assert not kept.any()


def test_a_constant_is_sent_in_the_end():
    values, codec = make_values(64, torch.float64), TopK(4, 64)
    residual, received = torch.zeros_like(values), torch.zeros_like(values)
    rounds = 600
    for _ in range(rounds):
        payload, residual = ErrorFeedback(1.0).apply(residual, values, codec, flat(values))
        received += codec.decode(payload, flat(values))
    assert (received / rounds - values).abs().max() < 0.05 * values.abs().max()
    torch.testing.assert_close(received + residual, values * rounds, rtol=0, atol=1e-9)


def test_decay_zero_forgets():
    values = make_values(20)
    payload, _ = ErrorFeedback(0).apply(make_values(20, key=b"old"), values, TopK(1, 4), flat(values))
    assert torch.equal(payload, TopK(1, 4).encode(values, flat(values)))


def test_invalid_sums_are_refused():
    largest = torch.full((3,), 3e38)
    with pytest.raises(WorkError, match="NaN or infinity"):
        ErrorFeedback(1).apply(largest, largest, Raw(), flat(largest))


@pytest.mark.parametrize("decay", [-0.1, 1.1, "1", True, float("nan")])
def test_invalid_decays_are_refused(decay):
    with pytest.raises(ConfigError, match=r"^decay: "):
        ErrorFeedback(decay)
