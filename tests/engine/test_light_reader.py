"""Reads of a state that one does not have: one state an answer, proven, fresh, and waited for no longer than needed."""

from __future__ import annotations

import pytest
from light_chain import NOW, RULES, MemoryProvider, make_block, make_set, refuses

from paceline.base.errors import ConfigError, TransportError
from paceline.base.keys import AccountKey
from paceline.engine.light import LightClient
from paceline.engine.light_query import Evidence
from paceline.engine.light_reader import ATTEMPTS, BLOCKS_AHEAD, Patience, PatientProvider, ReadRules, StateReader
from paceline.engine.light_values import (
    GroupKey,
    ask_account,
    ask_current_group,
    ask_group,
    ask_node,
    ask_value,
    read_address,
)
from paceline.ledger import groups
from paceline.ledger.accounts import ACCOUNTS, Account
from paceline.ledger.nodes import NAMES, NODES, Node
from paceline.ledger.state import Nothing, State
from paceline.store.trie import Trie

FOUR = make_set([10, 10, 10, 10])
HEIGHT = 6
ANNA, BERT, NOBODY = (AccountKey.from_secret(bytes([index]) * 32).address for index in range(3))


def make_node(name, weight, power):
    return Node(name, b"p" * 32, b"c" * 32, b"g" * 48, weight, power, ())


def make_pairs():
    """What the ledger writes for two nodes, an account and two groups."""
    state = State(Nothing(), height=HEIGHT)
    ACCOUNTS.put(state, ANNA, Account(7, 2))
    NODES.put(state, ANNA, make_node("anna", 30, 300))
    NODES.put(state, BERT, make_node("bert", 0, 0))
    NAMES.put(state, b"anna", ANNA)
    NAMES.put(state, b"bert", BERT)
    groups.CURRENT.put(state, b"", 2)
    for number in (1, 2):
        groups.GROUP_KEYS.put(state, number.to_bytes(8, "big"), bytes([number]) * 96)
    return state.changes


PAIRS = make_pairs()
TRIE = Trie().with_changes(PAIRS)


class MemoryState:
    """Answers from one state for every height; `heights` are those it names, one after another."""

    name = "memory"

    def __init__(self, pairs=PAIRS, heights=()):
        self.pairs = pairs
        self.trie = Trie().with_changes(pairs)
        self.heights = list(heights)
        self.asked = []

    def get_evidence(self, key):
        self.asked.append(key)
        height = self.heights.pop(0) if self.heights else HEIGHT
        return Evidence(height, self.pairs.get(key), self.trie.prove(key))


def make_reader(provider, *, max_age_seconds=10_000, now=NOW, trusted=1):
    blocks = [make_block(height, FOUR, app_hash=TRIE.root) for height in range(1, 12)]
    client = LightClient(blocks[trusted - 1], MemoryProvider(blocks), RULES)
    return StateReader(client, provider, ReadRules(max_age_seconds=max_age_seconds, get_unix_milliseconds=lambda: now))


@pytest.mark.parametrize(
    ("question", "found", "rounds"),
    [
        (ask_account(ANNA), Account(7, 2), 1),
        (ask_account(NOBODY), Account(), 1),
        (ask_node(ANNA.hex()), (ANNA, make_node("anna", 30, 300)), 1),
        (ask_node(BERT.hex().upper()), (BERT, make_node("bert", 0, 0)), 1),
        (ask_node(NOBODY.hex()), None, 1),
        (ask_node("anna"), (ANNA, make_node("anna", 30, 300)), 2),
        (ask_node("bert"), (BERT, make_node("bert", 0, 0)), 2),
        (ask_node("carl"), None, 1),
        (ask_current_group, GroupKey(2, b"\x02" * 96), 2),
        (ask_group(1), GroupKey(1, b"\x01" * 96), 1),
        (ask_group(3), None, 1),
        (ask_value(b"accounts/" + ANNA), PAIRS[b"accounts/" + ANNA], 1),
    ],
)
def test_questions_of_the_ledger_are_answered_from_proofs(question, found, rounds):
    reader = make_reader(MemoryState())
    answer = reader.read(question)
    assert (answer.value, answer.height) == (found, HEIGHT)
    assert [verified.block.height for verified in reader.verified] == [HEIGHT + 1] * rounds


def test_invalid_state_under_another_header():
    wrong = MemoryState({**PAIRS, b"more": b"x"})
    with refuses("state-proof"):
        make_reader(wrong).read(ask_account(ANNA))


def test_invalid_value_in_the_second_round():
    class Liar(MemoryState):
        def get_evidence(self, key):
            found = super().get_evidence(key)
            return found if key.startswith(b"groups/current") else found._replace(value=found.value[:-1] + b"!")

    with refuses("state-proof"):
        make_reader(Liar()).read(ask_current_group)


def test_an_answer_is_of_one_height_although_blocks_come_in_between():
    provider = MemoryState(heights=[5, 5, 6])
    assert make_reader(provider).read(ask_current_group).height == 6
    assert len(provider.asked) == 5


def test_boundary_of_a_provider_that_moves_on_all_the_time():
    moving = [5, *[5, 6] * (ATTEMPTS - 1)]
    assert make_reader(MemoryState(heights=[*moving, 6, 6])).read(ask_current_group).height == 6
    with pytest.raises(TransportError, match="moves on while it is asked for 2 values"):
        make_reader(MemoryState(heights=[*moving, 5, 6])).read(ask_current_group)


def test_boundary_of_the_age_of_a_state():
    """The header after the state tells its time."""
    after = make_block(HEIGHT + 1, FOUR).header.unix_nanoseconds // 1_000_000
    assert make_reader(MemoryState(), max_age_seconds=3, now=after + 3_000).read(ask_account(ANNA)).value.balance == 7
    with refuses("stale-state"):
        make_reader(MemoryState(), max_age_seconds=3, now=after + 3_001).read(ask_account(ANNA))


def test_boundary_of_a_state_before_the_trusted_header():
    """A node that has just got the trusted block still has the state before it."""
    assert make_reader(MemoryState(), trusted=HEIGHT + 1).read(ask_account(ANNA)).height == HEIGHT
    with refuses("stale-state"):
        make_reader(MemoryState(), trusted=HEIGHT + 2).read(ask_account(ANNA))


def test_invalid_records_of_other_rules():
    key = b"accounts/" + ANNA
    pairs = {key: b"\x94\x07\x02\x01\x01"}
    blocks = [make_block(height, FOUR, app_hash=Trie().with_changes(pairs).root) for height in range(1, 9)]
    rules = ReadRules(max_age_seconds=10_000, get_unix_milliseconds=lambda: NOW)
    reader = StateReader(LightClient(blocks[0], MemoryProvider(blocks), RULES), MemoryState(pairs), rules)
    with pytest.raises(ConfigError, match="cannot read the network's records"):
        reader.read(ask_account(ANNA))


@pytest.mark.parametrize("text", ["", "anna", "00" * 19, "00" * 21, "0x" + "00" * 19, " " * 38 + "00", "0g" * 20])
def test_what_spells_no_address(text):
    assert read_address(text) is None


class Growing(MemoryProvider):
    """Gets a block more with every pause."""

    def __init__(self, latest):
        super().__init__([make_block(height, FOUR) for height in range(2, latest + 1)])
        self.pauses = 0

    def pause(self):
        self.pauses += 1
        height = max(self.blocks) + 1
        self.blocks[height] = make_block(height, FOUR)


@pytest.mark.parametrize(("height", "pauses"), [(None, 0), (5, 0), (6, 1), (5 + BLOCKS_AHEAD, BLOCKS_AHEAD)])
def test_a_block_that_is_about_to_come_is_waited_for(height, pauses):
    inner = Growing(5)
    patient = PatientProvider(inner, Patience(attempts=BLOCKS_AHEAD, pause=inner.pause))
    assert patient.get_light_block(height).height == (height or 5)
    assert (inner.pauses, patient.name) == (pauses, "memory")


@pytest.mark.parametrize("height", [1, 5 + BLOCKS_AHEAD + 1, 10**9])
def test_invalid_height_is_not_waited_for(height):
    inner = Growing(5)
    with pytest.raises(TransportError, match=f"no height {height}"):
        PatientProvider(inner, Patience(attempts=9, pause=inner.pause)).get_light_block(height)
    assert inner.pauses == 0


def test_patience_ends():
    inner = Growing(5)
    pauses = []
    with pytest.raises(TransportError, match="no height 6"):
        PatientProvider(inner, Patience(attempts=4, pause=lambda: pauses.append(1))).get_light_block(6)
    assert len(pauses) == 4
