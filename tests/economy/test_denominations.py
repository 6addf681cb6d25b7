"""Amounts as people write them: exact both ways, and refused rather than rounded."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.base.errors import Invalid
from paceline.economy.denominations import (
    DIGITS,
    MAX_DOLLARS,
    format_coins,
    format_dollars,
    parse_coins,
    parse_dollars,
)
from paceline.economy.supply import TOTAL_SUPPLY


@pytest.mark.parametrize(
    ("text", "nicoin"),
    [
        ("1 icon", 10**9),
        ("1.5 icon", 1_500_000_000),
        ("1.5icon", 1_500_000_000),
        ("0.000000001 icon", 1),
        ("1 micoin", 10**6),
        ("20 uicoin", 20_000),
        ("7 nicoin", 7),
        ("0 icon", 0),
        ("007.10 micoin", 7_100_000),
        ("1000000000 icon", TOTAL_SUPPLY),
    ],
)
def test_words_of_the_paper(text, nicoin):
    assert parse_coins(text) == nicoin


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "bad-amount"),
        ("icon", "bad-amount"),
        ("1.5", "bad-amount"),
        ("-1 icon", "bad-amount"),
        ("+1 icon", "bad-amount"),
        ("1. icon", "bad-amount"),
        (".5 icon", "bad-amount"),
        ("1e3 icon", "bad-amount"),
        ("1,5 icon", "bad-amount"),
        ("1  icon", "bad-amount"),
        (" 1 icon", "bad-amount"),
        ("1 icon\n", "bad-amount"),
        ("٣ icon", "bad-amount"),
        ("1" * 65 + " icon", "bad-amount"),
        ("1 bitcoin", "unknown-unit"),
        ("1 Icon", "unknown-unit"),
        ("1 uicon", "unknown-unit"),
        ("1 tUSD", "unknown-unit"),
        ("1.0000000000 icon", "too-fine"),
        ("1.5 nicoin", "too-fine"),
        ("0.0001 uicoin", "too-fine"),
        ("1000000000.000000001 icon", "too-large"),
        ("9" * 59 + " icon", "too-large"),
    ],
)
def test_invalid_amounts_of_coins(text, code):
    with pytest.raises(Invalid) as caught:
        parse_coins(text)
    assert caught.value.code == code


def test_slips_are_told_the_right_word():
    for slip, word in (("uicon", "uicoin"), ("coins", "icon")):
        with pytest.raises(Invalid, match=f"write {word}"):
            parse_coins(f"1 {slip}")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("1 USD", "unknown-unit"),
        ("$1", "bad-amount"),
        ("0.0000001 tUSD", "too-fine"),
        ("1000000000001 tUSD", "too-large"),
    ],
)
def test_invalid_amounts_of_the_test_asset(text, code):
    with pytest.raises(Invalid) as caught:
        parse_dollars(text)
    assert caught.value.code == code


def test_amounts_are_shown_in_the_largest_word_that_they_fill():
    shown = [format_coins(amount) for amount in (0, 1, 999, 1_000, 1_050_000, 10**9, 10**9 + 1, 20 * 10**9)]
    assert shown == [
        "0 icon",
        "1 nicoin",
        "999 nicoin",
        "1 uicoin",
        "1.05 micoin",
        "1 icon",
        "1.000000001 icon",
        "20 icon",
    ]
    assert format_dollars(12_500_000) == "12.5 tUSD" and format_dollars(5_000) == "0.005 tUSD"


@given(st.integers(0, TOTAL_SUPPLY), st.sampled_from(["", *DIGITS]))
def test_what_is_printed_is_read_back(nicoin, word):
    assert parse_coins(format_coins(nicoin, word)) == nicoin


@given(st.integers(0, MAX_DOLLARS))
def test_what_is_printed_of_the_test_asset_is_read_back(dollars):
    assert parse_dollars(format_dollars(dollars)) == dollars


@given(st.text(max_size=80))
def test_any_text_is_an_amount_or_refused(text):
    with contextlib.suppress(Invalid):
        assert 0 <= parse_coins(text) <= TOTAL_SUPPLY
