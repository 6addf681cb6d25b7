"""Values of a settings file are refused by key, with what is given and what is allowed, in no library's words."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from paceline.base.errors import ConfigError
from paceline.base.tables import convert_table

JARGON = re.compile(r"Expected|Object|Invalid enum|`|\$|regex|malformed")


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    share: Annotated[float, Meta(ge=0.0, le=1.0)]
    kind: Literal["good", "bad"] = "good"


class Whole(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern="^[a-z]+$", description="small letters")]
    count: Annotated[int, Meta(gt=0, lt=10)] | None = None
    parts: Annotated[tuple[Part, ...], Meta(max_length=2)] = ()
    sizes: dict[Annotated[str, Meta(pattern="^[a-z]+$")], int] = {}
    flag: bool = False
    factor: float = 1.0
    nodes: list[str] = []


GOOD = {"name": "a", "parts": [{"share": 0.5}, {"share": 1, "kind": "bad"}], "sizes": {"a": 1}}


def test_what_fits_becomes_the_type():
    found = convert_table(GOOD, Whole, "file")
    assert found.parts[1] == Part(share=1.0, kind="bad") and found.count is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"parts": [{"share": 0.5}, {"share": 2.0}]},
            "file: parts 2.share: 2.0 must be a number, at least 0 and at most 1",
        ),
        ({"parts": [{}]}, "file: parts 1.share: it is missing"),
        ({"parts": [{"share": 0, "sort": 1}]}, "file: parts 1.sort: unknown; the keys are share, kind"),
        ({"parts": [{"share": 0, "kind": "guess"}]}, "file: parts 1.kind: 'guess' must be one of bad, good"),
        ({"parts": [{"share": 0}] * 3}, "file: parts: must be a list of 0 to 2"),
        ({"parts": 7}, "file: parts: 7 must be a list of 0 to 2"),
        ({"name": "A"}, "file: name: 'A' must be small letters"),
        ({"count": 10}, "file: count: 10 must be a whole number, above 0 and below 10"),
        ({"count": "x" * 100}, f"file: count: '{'x' * 59}… must be a whole number, above 0 and below 10"),
        ({"sizes": {"a": "b"}}, "file: sizes, each value: must be a whole number"),
        ({"sizes": {"A": 1}}, "file: sizes: a key must be text that matches ^[a-z]+$"),
        ({"flag": 1}, "file: flag: 1 must be true or false"),
        ({"nodes": [True]}, "file: nodes 1: true must be text"),
        ({"factor": float("nan")}, "file: factor: it is no number"),
        ({"parts": [{"share": float("nan")}]}, "file: parts 1.share: nan must be a number, at least 0 and at most 1"),
    ],
)
def test_invalid_values_are_told_in_words(change, told):
    with pytest.raises(ConfigError) as caught:
        convert_table(GOOD | change, Whole, "file")
    assert str(caught.value) == told and not JARGON.search(told.replace("^[a-z]+$", ""))


def test_invalid_whole_and_a_place_without_a_name():
    with pytest.raises(ConfigError, match=r"^file: must be a table$"):
        convert_table([1], Whole, "file")
    with pytest.raises(ConfigError, match=r"^name: 3 must be small letters$"):
        convert_table({"name": 3}, Whole, "")
