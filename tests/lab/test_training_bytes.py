"""Every preset sends and receives what its formula says, to the byte: 187 numbers of four bytes, which no fleet shares
evenly. The formulas are written here and know nothing of the package."""

from __future__ import annotations

from math import ceil

import pytest
import torch
from method_setup import SGD, change, make_run, play

from paceline.lab.training.fleet import make_fleet
from paceline.training.methods.presets.registry import PRESETS, build_strategy

P = 187
FRAGMENTS = (13 + 42 + 42, 42 + 42 + 6)
"""Layers 0 and 2 with the 13 numbers before them, layers 1 and 3 with the 6 after them."""
ROUNDS = 2
FLEETS = (2, 3, 8)


def cut(size, trainers):
    return [size // trainers + (place < size % trainers) for place in range(trainers)]


def reduce_bytes(size, trainers, count):
    """A shard to each other, then the sum of one's own to each other: the ring's 2 (N - 1) / N, sent and received."""
    parts = [count(part) for part in cut(size, trainers)]
    return [(sum(parts) - own + own * (trainers - 1),) * 2 for own in parts]


def gather_bytes(size, trainers):
    return [(size * (trainers - 1),) * 2] * trainers


def add_up(*lists):
    return [tuple(map(sum, zip(*pairs, strict=True))) for pairs in zip(*lists, strict=True)]


def raw(size):
    return 4 * size


def half(size):
    return 2 * size


def int8_by_16(size):
    return size + 4 * ceil(size / 16)


def float4_by_16(size):
    return ceil(size / 2) + 4 * ceil(size / 16)


def reduce_raw(trainers):
    return reduce_bytes(P, trainers, raw)


def reduce_share(trainers):
    return reduce_bytes(round(0.1 * P), trainers, raw)


def stream(trainers):
    return add_up(*(reduce_bytes(size, trainers, float4_by_16) for size in FRAGMENTS))


# Two of nine waves of each 3 x 3 block, four bits an index: 144 numbers in such blocks, 42 in rows of three, 1 alone.
# Rows of three fill chunks of nine too: 4 * 2 and 1 of the 6 that remain; of the one alone, itself.
WAVES = (16 * 2, 4 * 2 + 1, 1)
DEMO = sum(ceil(count * 4 / 8) + 4 * count for count in WAVES)
DISTRO = sum(ceil(count * 4 / 8) + ceil(count / 8) for count in WAVES)
# Four of each 64, of the 59 that remain 4 * 59 // 64 = 3; six bits an index, two bits a value, two magnitudes.
SPARSE_COUNT = 4 + 4 + 3
SPARSE = ceil(SPARSE_COUNT * 6 / 8) + 8 + ceil(SPARSE_COUNT * 2 / 8)

SHORT = {"inner_steps": 2}
CASES = {
    "ddp": ({}, 1, reduce_raw),
    "none": ({}, 1, lambda trainers: [(0, 0)] * trainers),
    "fedavg": (SHORT, 2, reduce_raw),
    "localsgd": (SHORT, 2, reduce_raw),
    "fedadam": (SHORT, 2, reduce_raw),
    "fedyogi": (SHORT, 2, reduce_raw),
    "fedadagrad": (SHORT, 2, reduce_raw),
    "diloco": (SHORT, 2, reduce_raw),
    "opendiloco-fp16": (SHORT, 2, lambda trainers: reduce_bytes(P, trainers, half)),
    "opendiloco-int8": (SHORT | {"chunk": 16}, 2, lambda trainers: reduce_bytes(P, trainers, int8_by_16)),
    "overlapped-diloco": (SHORT, 2, reduce_raw),
    "streaming-diloco": ({"inner_steps": 4, "fragments": 2, "chunk": 16}, 4, stream),
    "async-diloco": (SHORT, 2, lambda trainers: [(raw(P), raw(P))] * trainers),
    "decoupled-diloco": (SHORT | {"quorum_share": 1.0}, 2, lambda trainers: [(raw(P), raw(P))] * trainers),
    "demo": ({"k": 2, "block": 3}, 1, lambda trainers: gather_bytes(DEMO, trainers)),
    "distro": ({"k": 2, "block": 3}, 1, lambda trainers: gather_bytes(DISTRO, trainers)),
    "sparta": ({"share": 0.1}, 1, reduce_share),
    "sparta-diloco": (
        SHORT | {"share": 0.1},
        2,
        lambda trainers: add_up(reduce_share(trainers), reduce_share(trainers), reduce_raw(trainers)),
    ),
    "sparseloco": (SHORT | {"k": 4, "chunk": 64}, 2, lambda trainers: gather_bytes(SPARSE, trainers)),
    "gossip-ring": (SHORT, 2, lambda trainers: [(min(2, trainers - 1) * raw(P),) * 2] * trainers),
}
"""Settings, inner steps of a round, bytes (sent, received) of each trainer in a round."""

DRAWN = {"noloco": SHORT, "gossip-expander": SHORT, "gossip-small-world": SHORT}
"""Who sends to whom is drawn; their formulas stand in tests of their own."""


def measure(name, settings, trainers, steps, **plan):
    strategy = build_strategy(name, settings, trainers=trainers, local=SGD)
    return play(strategy, trainers=trainers, steps=steps, dtype=torch.float32, **plan).meters


def list_bytes(meters):
    return [(sum(meter.sent.values()), sum(meter.received.values())) for meter in meters]


def test_every_published_preset_has_a_formula():
    assert len(CASES | DRAWN) == 23
    assert set(CASES | DRAWN) <= set(PRESETS)


@pytest.mark.parametrize("trainers", FLEETS)
@pytest.mark.parametrize("name", CASES)
def test_bytes_are_the_formula(name, trainers):
    settings, round_steps, formula = CASES[name]
    meters = measure(name, settings, trainers, ROUNDS * round_steps)
    expected = [(ROUNDS * sent, ROUNDS * received) for sent, received in formula(trainers)]
    assert list_bytes(meters) == expected


@pytest.mark.parametrize("trainers", FLEETS)
def test_noloco_sends_two_vectors_to_one_partner_or_none(trainers):
    found = list_bytes(measure("noloco", SHORT, trainers, 2))
    assert sorted(found) == [(0, 0)] * (trainers % 2) + [(2 * raw(P),) * 2] * (trainers - trainers % 2)


@pytest.mark.parametrize("trainers", FLEETS)
@pytest.mark.parametrize("name", ["gossip-expander", "gossip-small-world"])
def test_gossip_sends_a_vector_along_each_of_its_links(name, trainers):
    exchange = build_strategy(name, SHORT, trainers=trainers).rules[0].exchange
    heard = [set(exchange.get_sources(trainer, range(trainers), b"")) - {trainer} for trainer in range(trainers)]
    found = list_bytes(measure(name, SHORT, trainers, 2))
    assert found == [(len(sources) * raw(P),) * 2 for sources in heard]
    assert all(trainer in heard[other] for trainer in range(trainers) for other in heard[trainer])
    assert sum(map(len, heard)) <= trainers * 4


@pytest.mark.parametrize("name", CASES | DRAWN)
def test_what_some_send_others_receive(name):
    settings, round_steps = CASES[name][:2] if name in CASES else (SHORT, 2)
    found = list_bytes(measure(name, settings, 5, ROUNDS * round_steps))
    assert sum(sent for sent, _ in found) == sum(received for _, received in found)


def test_a_single_trainer_talks_to_a_synchroniser_only():
    for name, (settings, round_steps, _) in CASES.items():
        found = list_bytes(measure(name, settings, 1, round_steps))
        assert found == [(raw(P), raw(P))] if name in {"async-diloco", "decoupled-diloco"} else [(0, 0)]


def test_a_relay_uploads_once():
    settings = SHORT | {"k": 4, "chunk": 64, "exchange": {"name": "all_gather", "relay": True}}
    assert list_bytes(measure("sparseloco", settings, 5, 2)) == [(SPARSE, 4 * SPARSE)] * 5


@pytest.mark.parametrize(("name", "settings"), [("diloco", {}), ("sparseloco", {"k": 4, "chunk": 64})])
def test_a_lost_message_was_sent_and_not_received(name, settings):
    trainers = 3
    fleet = change(make_fleet(trainers), 1, lost_share=0.999)
    found = list_bytes(measure(name, SHORT | settings, trainers, 2, fleet=fleet))
    if name == "sparseloco":
        assert found == [(2 * SPARSE, SPARSE), (2 * SPARSE, 2 * SPARSE), (2 * SPARSE, SPARSE)]
        return
    parts = [raw(part) for part in cut(P, trainers)]
    whole = reduce_raw(trainers)
    missing = [parts[0], 0, parts[2]]
    assert found == [(sent, received - less) for (sent, received), less in zip(whole, missing, strict=True)]


def test_a_withdrawn_update_is_not_sent():
    fleet = change(make_fleet(3), 1, lie="nan")
    found = list_bytes(measure("sparseloco", SHORT | {"k": 4, "chunk": 64}, 3, 2, fleet=fleet))
    assert found == [(2 * SPARSE, SPARSE), (0, 2 * SPARSE), (2 * SPARSE, SPARSE)]


def test_a_joiner_downloads_parameters_and_outer_state():
    fleet = change(make_fleet(4), 3, joins_at=3.0)
    run, _ = make_run(
        build_strategy("diloco", {"inner_steps": 4}, trainers=4, local=SGD), fleet=fleet, steps=8, dtype=torch.float32
    )
    assert run.play()
    assert sum(meter.sent["state"] for meter in run.meters) == 2 * raw(P)
    assert run.meters[3].received["state"] == 2 * raw(P)
