"""How amounts are written for people: icon, micoin, uicoin and nicoin of the coin; tUSD, tETH and tBTC of the test assets.

An icon is one coin; a micoin is a thousandth of it, a uicoin a millionth, a nicoin a billionth and the smallest unit.
Text is exact or refused: no rounding, no sign, no exponent, no digit below the smallest unit. It knows no accounts and
no locale. Invariant: what it prints it reads back as the same number.

Source: seed 001, Appendix J; decision 037 (the paper's spellings).
"""

from __future__ import annotations

import re

from paceline.base.errors import Invalid
from paceline.economy.supply import TOTAL_SUPPLY
from paceline.protocol.assets import DIGITS as ASSET_DIGITS
from paceline.protocol.assets import TUSD

DIGITS = {"icon": 9, "micoin": 6, "uicoin": 3, "nicoin": 0}
"""Digits after the point that each word may have, so that one of it is that power of ten in nicoin. Largest first."""
DOLLARS = TUSD
"""The stable test asset, wherever it is shown."""
MAX_DOLLARS = 10**18
"""Smallest units of a test asset that one balance, or all of them, may hold."""
MAX_TEXT = 64

_FORM = re.compile(r"([0-9]+)(?:\.([0-9]+))? ?([A-Za-z]+)")
_SLIPS = {"uicon": "uicoin", "coin": "icon", "coins": "icon"}


def parse_coins(text: str) -> int:
    """Nicoin of an amount with its word, such as "1.5 icon" or "20 uicoin".

    Errors: Invalid bad-amount, unknown-unit, too-fine, too-large.
    """
    whole, part, word = _split(text, "1.5 icon")
    if word not in DIGITS:
        hint = f": write {_SLIPS[word]}" if word in _SLIPS else ""
        raise Invalid("unknown-unit", f"{word} is none of {', '.join(DIGITS)}{hint}")
    return _join(whole, part, DIGITS[word], word, TOTAL_SUPPLY)


def format_coins(nicoin: int, word: str = "") -> str:
    """The amount in a word; without one in the largest that it fills. Units: nicoin."""
    assert nicoin >= 0
    chosen = word or next((name for name, digits in DIGITS.items() if nicoin >= 10**digits), "icon")
    return f"{_print(nicoin, DIGITS[chosen])} {chosen}"


def parse_dollars(text: str) -> int:
    """Micro-dollars of an amount of the stable test asset, such as "12.50 tUSD".

    Errors: Invalid bad-amount, unknown-unit, too-fine, too-large.
    """
    return parse_asset(text, DOLLARS)


def format_dollars(micro_dollars: int) -> str:
    """The amount of the stable test asset with its name. Units: micro-dollars."""
    return format_asset(DOLLARS, micro_dollars)


def parse_asset(text: str, asset: str) -> int:
    """Smallest units of an amount of this test asset, such as "0.25 tETH".

    Errors: Invalid bad-amount, unknown-unit, too-fine, too-large.
    """
    whole, part, word = _split(text, f"12.5 {asset}")
    if word != asset:
        raise Invalid("unknown-unit", f"{word} is not {asset}, the test asset that is meant")
    return _join(whole, part, ASSET_DIGITS[asset], word, MAX_DOLLARS)


def format_asset(asset: str, units: int) -> str:
    """The amount of a test asset with its name. Units: the smallest of the asset."""
    assert units >= 0
    return f"{_print(units, ASSET_DIGITS[asset])} {asset}"


def _split(text: str, example: str) -> tuple[str, str, str]:
    found = _FORM.fullmatch(text) if len(text) <= MAX_TEXT else None
    if found is None:
        raise Invalid("bad-amount", f"{text[:MAX_TEXT]!r} is no amount: write it as {example!r}")
    return found[1], found[2] or "", found[3]


def _join(whole: str, part: str, digits: int, word: str, most: int) -> int:
    if len(part) > digits:
        raise Invalid("too-fine", f"{len(part)} digits after the point: {word} has at most {digits}")
    amount = int(whole + part.ljust(digits, "0"))
    if amount > most:
        raise Invalid("too-large", f"{whole} {word}: there are {_print(most, digits)} at most")
    return amount


def _print(amount: int, digits: int) -> str:
    whole, part = divmod(amount, 10**digits)
    return f"{whole}.{part:0{digits}}".rstrip("0") if part else str(whole)
