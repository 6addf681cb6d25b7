"""A node's part in the beacon: it commits once, reveals when asked, and finds its place again after a restart."""

from __future__ import annotations

import asyncio

import pytest
from role_setup import GENESIS, KEYS, make_context, make_state

from paceline.base.errors import InvalidTransaction
from paceline.base.keys import AccountKey
from paceline.ledger import beacon, nodes, race
from paceline.node.roles import beacon as beacon_role
from paceline.node.roles.beacon import BeaconRole, _build_links
from paceline.protocol.messages import CommitChain, RevealLink
from paceline.protocol.params import TINY

ME = KEYS[1]
EPOCH = 0


@pytest.fixture
def state():
    state = make_state(height=1)
    race.begin_epoch(state, GENESIS.params, EPOCH)
    return state


def make_role(state, folder, key: AccountKey = ME) -> BeaconRole:
    beacon_role._build_links.cache_clear()
    return BeaconRole(make_context(state, key, folder))


def act(role: BeaconRole, state):
    """What the role sends at this height."""
    role.on_block(state)
    role._context.duties.run_all()
    sent, role._context.chain.sent = role._context.chain.sent, []
    return sent


def commit(state, role) -> CommitChain:
    [message] = act(role, state)
    assert isinstance(message, CommitChain)
    beacon.apply_commit(state, TINY, role._context.address, message, EPOCH)
    return message


def open_round(state) -> beacon.OpenRound:
    opened = beacon.OpenRound(beacon.get_next_index(state), state.height + TINY.reveal_blocks)
    beacon.OPEN.put(state, b"", opened)
    beacon.NEXT.put(state, b"", opened.index + 1)
    return opened


def test_a_node_commits_once_and_reveals_link_after_link(state, tmp_path):
    role = make_role(state, tmp_path)
    commit(state, role)
    assert act(role, state) == []
    for _ in range(3):
        opened = open_round(state)
        [message] = act(role, state)
        assert isinstance(message, RevealLink)
        beacon.apply_reveal(state, ME.address, message)
        assert message.round_index == opened.index
        assert act(role, state) == []
        beacon.REVEALS.delete(state, ME.address)
        beacon.OPEN.delete(state, b"")


def test_a_restarted_node_finds_its_link(state, tmp_path):
    commit(state, make_role(state, tmp_path))
    for number in range(5):
        open_round(state)
        reborn = make_role(state, tmp_path / str(number))
        [message] = act(reborn, state)
        beacon.apply_reveal(state, ME.address, message)
        beacon.REVEALS.delete(state, ME.address)
        beacon.OPEN.delete(state, b"")


def test_the_last_link_can_be_revealed_and_a_new_chain_follows(state, tmp_path):
    role = make_role(state, tmp_path)
    commit(state, role)
    chain = beacon.CHAINS.get(state, ME.address)
    links = _build_links(ME.secret, EPOCH, 0, TINY.chain_links)
    assert len(links) == TINY.chain_links + 1
    beacon.CHAINS.put(state, ME.address, beacon.Chain(EPOCH, links[-2], 1, 0, chain.joins_at))
    open_round(state)
    [message] = act(role, state)
    assert message.link == links[-1]
    beacon.apply_reveal(state, ME.address, message)
    beacon.REVEALS.delete(state, ME.address)
    beacon.OPEN.delete(state, b"")
    fresh = commit(state, role)
    assert fresh.tip not in links


def test_a_node_that_was_left_out_commits_a_chain_it_never_used(state, tmp_path):
    role = make_role(state, tmp_path)
    former = commit(state, role)
    chain = beacon.CHAINS.get(state, ME.address)
    until = state.height + 5
    beacon.CHAINS.put(state, ME.address, beacon.Chain(EPOCH, chain.link, chain.left, until, chain.joins_at))
    assert act(role, state) == []
    state.height = until - 1
    assert act(role, state) == []
    state.height = until
    again = commit(state, make_role(state, tmp_path / "reborn"))
    assert again.tip != former.tip
    open_round(state)
    [message] = act(role, state)
    assert isinstance(message, RevealLink)


def test_invalid_link_of_somebody_else_is_never_revealed(state, tmp_path):
    role = make_role(state, tmp_path)
    stranger = _build_links(KEYS[2].secret, EPOCH, 0, TINY.chain_links)
    assert role._find_link(EPOCH, stranger[0]) is None
    own = _build_links(ME.secret, EPOCH, 0, TINY.chain_links)
    assert role._find_link(EPOCH, own[0]) == own[1]
    assert role._find_link(EPOCH + 1, own[0]) is None


def test_invalid_node_without_weight_stays_silent(state, tmp_path):
    nodes.set_weights(state, TINY, {key.address: 1_000 for key in KEYS if key is not ME})
    assert act(make_role(state, tmp_path), state) == []


def test_before_a_race_nobody_commits(tmp_path):
    state = make_state(height=1)
    assert act(make_role(state, tmp_path), state) == []


def test_invalid_reveal_of_a_wrong_link_is_refused_by_the_ledger(state, tmp_path):
    commit(state, make_role(state, tmp_path))
    opened = open_round(state)
    with pytest.raises(InvalidTransaction, match="wrong-link"):
        beacon.apply_reveal(state, ME.address, RevealLink(opened.index, bytes(32)))


def test_duties_are_started_once_per_round(state, tmp_path):
    role = make_role(state, tmp_path)
    role.on_block(state)
    role.on_block(state)
    assert list(role._context.duties.started) == [("commit", EPOCH)]
    asyncio.run(next(iter(role._context.duties.started.values()))())
