"""Chains for the light client: the recorded one, and made ones whose powers, votes and times a test chooses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import httpx
import msgspec
import pytest

from paceline.base.errors import InvalidBlock, TransportError
from paceline.base.keys import AccountKey
from paceline.engine.light import TrustRules, verify_light_block
from paceline.engine.light_blocks import (
    ABSENT,
    FOR_BLOCK,
    BlockId,
    Commit,
    Header,
    LightBlock,
    Validator,
    Vote,
    compute_validators_hash,
)
from paceline.engine.light_rpc import HttpLightProvider
from paceline.engine.light_votes import compute_vote_bytes

VECTORS = Path(__file__).parents[1] / "vectors" / "light" / "powers_move.json"
SECOND = 1_000_000_000
START = 1_800_000_000 * SECOND
RULES = TrustRules(trusting_period_seconds=1000, clock_drift_seconds=10)
NOW = (START + 500 * SECOND) // 1_000_000
NO_BLOCK = BlockId(header_hash=b"", parts_total=0, parts_hash=b"")


def make_key(index: int) -> AccountKey:
    return AccountKey.from_secret(index.to_bytes(32, "big"))


def make_set(powers: Sequence[int], first: int = 1) -> dict[AccountKey, int]:
    """Keys first, first + 1, … with these powers."""
    return {make_key(first + index): power for index, power in enumerate(powers)}


def list_validators(members: dict[AccountKey, int]) -> tuple[Validator, ...]:
    return tuple(Validator(public_key=key.public_key, voting_power=power) for key, power in members.items())


def make_block(height, members, next_members=None, *, kinds=None, chain_id="made", round_number=0, **fields):
    """A block in which every member voted as `kinds` says (default: all for the block), one second per height."""
    kinds = kinds or [FOR_BLOCK] * len(members)
    values = {
        "block_version": 11,
        "app_version": 1,
        "chain_id": chain_id,
        "height": height,
        "unix_nanoseconds": START + height * SECOND,
        "last_block_id": NO_BLOCK,
        "last_commit_hash": b"c" * 32,
        "data_hash": b"d" * 32,
        "validators_hash": compute_validators_hash(list_validators(members)),
        "next_validators_hash": compute_validators_hash(list_validators(next_members or members)),
        "consensus_hash": b"p" * 32,
        "app_hash": b"a" * 32,
        "last_results_hash": b"r" * 32,
        "evidence_hash": b"e" * 32,
        "proposer_address": b"o" * 20,
    }
    header = Header(**{**values, **fields})
    return sign_block(header, members, kinds, round_number)


def sign_block(header, members, kinds, round_number=0):
    """The header with the votes of its members."""
    block_id = BlockId(header_hash=header.compute_hash(), parts_total=1, parts_hash=b"q" * 32)
    commit = Commit(height=header.height, round_number=round_number, block_id=block_id, votes=())
    block = LightBlock(header=header, commit=commit, validators=list_validators(members))
    votes = []
    for index, (key, kind) in enumerate(zip(members, kinds, strict=True)):
        vote = Vote(
            kind=kind,
            address=block.validators[index].address,
            unix_nanoseconds=header.unix_nanoseconds + 1 + index,
            signature=b"",
        )
        votes.append(change(vote, signature=key.sign(compute_vote_bytes(block, vote))))
        if kind == ABSENT:
            votes[-1] = Vote(kind=ABSENT, address=b"", unix_nanoseconds=0, signature=b"")
    return change(block, commit=change(commit, votes=tuple(votes)))


def change(record, **fields):
    return msgspec.structs.replace(record, **fields)


def change_vote(block, index, **fields):
    votes = list(block.commit.votes)
    votes[index] = change(votes[index], **fields)
    return change(block, commit=change(block.commit, votes=tuple(votes)))


def refuses(code):
    return pytest.raises(InvalidBlock, match=f"^{code}: ")


def verify(trusted, block, *, now=NOW, rules=RULES):
    verify_light_block(trusted, block, rules, now)


class MemoryProvider:
    """Hands out prepared blocks and remembers what it was asked."""

    def __init__(self, blocks, name="memory"):
        self.blocks = {block.height: block for block in blocks}
        self.name = name
        self.asked = []

    def get_light_block(self, height):
        self.asked.append(height)
        height = max(self.blocks) if height is None else height
        if height not in self.blocks:
            raise TransportError(f"{self.name} has no height {height}")
        return self.blocks[height]


def load_vectors() -> list[dict]:
    return json.loads(VECTORS.read_text())


def make_http_provider(answers, url="http://node") -> HttpLightProvider:
    """A provider over recorded answers, by height from 1."""

    def answer(request: httpx.Request) -> httpx.Response:
        height = int(request.url.params.get("height", len(answers)))
        if not 1 <= height <= len(answers):
            return httpx.Response(500, json={"jsonrpc": "2.0", "error": {"message": f"no height {height}"}})
        return httpx.Response(200, json={"result": answers[height - 1][request.url.path.strip("/")]})

    return HttpLightProvider(url, httpx.MockTransport(answer))


def load_recorded() -> list[LightBlock]:
    """The recorded blocks, heights 1, 2, …"""
    answers = load_vectors()
    provider = make_http_provider(answers)
    return [provider.get_light_block(height + 1) for height in range(len(answers))]
