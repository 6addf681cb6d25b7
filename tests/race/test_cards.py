"""The table of cards, and which devices a Race admits."""

from __future__ import annotations

import pytest

from paceline.base.errors import ConfigError
from paceline.protocol.params import TINY
from paceline.race.cards import PEAK_SHARE, Card, Device, find_card, load_cards, require_admission
from paceline.race.plan import PRESETS
from paceline.race.speed import examine_device

GB = 10**9


def test_the_table_has_the_twelve_cards_of_the_paper_all_of_16_gb_and_more():
    cards = load_cards()
    assert len(cards) == 12
    assert all(card.vram_gb >= 16 for card in cards.values())
    assert {card.architecture for card in cards.values()} == {"Ampere", "Ada Lovelace", "Hopper"}
    assert (cards["H200"].vram_gb, cards["A100"].vram_gb) == (141, 40)


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA A40", "A40"),
        # Others of similar names are none of the twelve.
        ("NVIDIA A10G", None),
        ("NVIDIA L40S", None),
        ("Tesla T4", None),
    ],
)
def test_a_card_is_known_by_what_its_driver_calls_it(driver, name):
    assert find_card(driver) == (load_cards()[name] if name else None)


def test_a_rate_is_estimated_until_it_is_measured():
    card, paper = load_cards()["A100"], PRESETS["paper"]
    assert card.estimate_nonces(paper) == pytest.approx(624e12 * PEAK_SHARE / (8 * 603_979_776))
    known = Card(**{field: getattr(card, field) for field in card.__struct_fields__} | {"measured_nonces": 70_000.0})
    assert known.estimate_nonces(paper) == 70_000
    assert known.estimate_nonces(PRESETS["tiny"]) == card.estimate_nonces(PRESETS["tiny"])


def test_the_weight_of_a_top_host_s_seat_is_that_of_a_thousand_a100():
    """Decision 037: hits of one Race of `tiny`, which lasts 8 seconds and has one hit in 20."""
    hits = 1_000 * load_cards()["A100"].estimate_nonces(PRESETS["tiny"]) * 8 / 20
    assert TINY.pools.top_host_weight == pytest.approx(hits, rel=0.02)


def test_paper_admits_cards_of_16_gb_and_says_why_not_others():
    require_admission("paper", Device(name="NVIDIA L4", memory_bytes=24 * GB))
    require_admission("paper", Device(name="NVIDIA RTX 4060 Ti", memory_bytes=16 * GB))
    with pytest.raises(ConfigError, match="NVIDIA RTX 4070 has 12 GB"):
        require_admission("paper", Device(name="NVIDIA RTX 4070", memory_bytes=12 * GB))
    with pytest.raises(ConfigError, match=r"16 GB and more, and cpu is a processor.*another preset"):
        require_admission("paper", examine_device("cpu"))


@pytest.mark.parametrize("preset", ["consumer", "tiny", "micro"])
def test_other_presets_admit_any_device(preset):
    require_admission(preset, examine_device("cpu"))


def test_invalid_devices_are_named():
    for name in ("gpu", "cuda:99", "meta"):
        with pytest.raises(ConfigError, match=name):
            examine_device(name)
