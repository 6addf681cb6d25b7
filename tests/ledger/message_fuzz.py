"""Messages of every kind from nothing but their types: each field within its bounds, often at them, often a value that means something."""

from __future__ import annotations

import re
import typing

from msgspec import inspect

from paceline.protocol import messages as m

WORDS = (
    "accepted",
    "rejected",
    "undecided",
    "height",
    "race",
    "busy",
    "late",
    "owner",
    "executor",
    "yes",
    "no",
    "abstain",
    "veto",
    "test-model",
    "node-1",
    "transfer_fee",
    "fund_ppm",
    "check_floor_ppm",
    "governance.deposit",
    "funding.instalment_ppm",
    "apache-2.0",
    "open-session",
    "vote-price",
    "coins",
    "dollars",
    "tUSD",
    "tETH",
    "tBTC",
    "",
)
EDGES = (0, 1, 2, 3, 7, 1_000, 10**6, 10**9, 10**12, 10**18, 2**31, 2**63)
KINDS = {info.cls: info for info in inspect.multi_type_info(typing.get_args(m.Message))}


class Fuzzer:
    """Builds random messages; `known` are bytes that the ledger knows: addresses, ids, digests, keys."""

    def __init__(self, random, known):
        self.random = random
        self.known = known

    def build(self, kind):
        """A message of one kind that its own decoder takes."""
        return self._build(KINDS[kind])

    def _build(self, info):
        builders = {
            inspect.StructType: self._build_struct,
            inspect.UnionType: lambda union: self._build(self.random.choice(union.types)),
            inspect.IntType: self._build_number,
            inspect.BytesType: self._build_bytes,
            inspect.StrType: self._build_word,
            inspect.VarTupleType: self._build_items,
            inspect.TupleType: lambda pair: tuple(self._build(item) for item in pair.item_types),
            inspect.BoolType: lambda _: self.random.random() < 0.5,
            inspect.NoneType: lambda _: None,
        }
        return builders[type(info)](info)

    def _build_struct(self, info):
        return info.cls(**{field.name: self._build(field.type) for field in info.fields})

    def _build_items(self, info):
        least, most = info.min_length or 0, info.max_length
        count = self.random.choice((least, least + 1, least + 2))
        return tuple(self._build(info.item_type) for _ in range(count if most is None else min(count, most)))

    def _build_number(self, info):
        low = info.ge if info.ge is not None else -(2**63)
        high = info.le if info.le is not None else 2**64 - 1
        chosen = self.random.choice((*EDGES, low, high, self.random.randint(0, 400), self.random.randint(low, high)))
        return min(high, max(low, chosen))

    def _build_bytes(self, info):
        least, most = info.min_length or 0, info.max_length if info.max_length is not None else 64
        fitting = [value for value in self.known if least <= len(value) <= most]
        if fitting and self.random.random() < 0.8:
            return self.random.choice(fitting)
        return self.random.randbytes(self.random.choice((least, min(most, least + 5))))

    def _build_word(self, info):
        fitting = [word for word in WORDS if info.pattern is None or re.search(info.pattern, word)]
        fitting = [word for word in fitting if len(word) >= (info.min_length or 0)]
        assert fitting, f"WORDS lacks one for {info.pattern}"
        return self.random.choice(fitting)
