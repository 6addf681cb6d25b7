"""The beacon role over a real ledger: what it sends at each height, and that it needs no memory to do so."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from role_setup import CHAIN_ID, KEYS, make_context, make_state

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.ledger import beacon, ceremony, groups, nodes, race, seeds
from paceline.node.ceremony import CeremonyKey
from paceline.node.roles.beacon import BeaconRole
from paceline.protocol.messages import CommitSeed, PostComplaint, PostDealing, PostPartials, RevealSeed
from paceline.protocol.params import TINY

ME = KEYS[1]
EPOCH = 0


class DirectThreads:
    """Runs at once, and notes on which thread it would have been."""

    def __init__(self):
        self.kinds = []

    async def run(self, kind, function, *args):
        self.kinds.append(kind)
        return function(*args)


@pytest.fixture
def state():
    found = make_state(height=1)
    race.begin_epoch(found, TINY, EPOCH)
    return found


def make_role(state, folder, key=ME):
    context = make_context(state, key, folder, threads=DirectThreads())
    return BeaconRole(context, CeremonyKey(key.address, key.secret))


def act(role, state):
    """What the role sends at this height."""
    chain = role._context.chain
    chain.sent.clear()
    role.on_block(state)
    role._context.duties.run_all()
    return list(chain.sent)


def act_all(state, folder, keys=KEYS):
    """What all nodes send, in pairs of sender and message; each comes fresh from a restart."""
    return [(key, message) for key in keys for message in act(make_role(state, folder / key.address.hex(), key), state)]


def apply(state, key, message):
    """As a block would."""
    match message:
        case PostPartials(kind=beacon.HEIGHT):
            beacon.apply_partials(state, TINY, CHAIN_ID, key.address, message, EPOCH)
        case PostPartials():
            race.apply_seed_partials(state, TINY, CHAIN_ID, key.address, message)
        case CommitSeed():
            race.apply_seed_commit(state, key.address, message)
        case RevealSeed():
            race.apply_seed_reveal(state, key.address, message)
        case PostDealing():
            ceremony.apply_dealing(state, CHAIN_ID, key.address, message)
        case PostComplaint():
            ceremony.apply_complaint(state, CHAIN_ID, key.address, message)


def end_block(state):
    race.end_block(state, TINY)
    ceremony.end_block(state, TINY, CHAIN_ID)
    state.height += 1


def begin_ceremony(state, *, until=ceremony.DEAL):
    race.STATE.put(state, b"", race.RaceState(EPOCH, race.DONE, 0))
    ceremony.begin(state, EPOCH)
    while ceremony.get_ceremony(state).phase != until:
        end_block(state)
    return ceremony.get_ceremony(state)


def test_it_commits_reveals_and_signs_the_epoch_each_in_its_phase_and_once(state, tmp_path):
    role = make_role(state, tmp_path)
    [commit] = act(role, state)
    assert isinstance(commit, CommitSeed)
    apply(state, ME, commit)
    assert act(role, state) == []
    race.STATE.put(state, b"", race.RaceState(EPOCH, race.REVEAL, 99))
    # A restarted node knows what it committed.
    reborn = make_role(state, tmp_path / "reborn")
    [reveal] = act(reborn, state)
    assert seeds.hash_contribution(ME.address, EPOCH, reveal.contribution) == commit.digest
    apply(state, ME, reveal)
    assert act(reborn, state) == []
    race.STATE.put(state, b"", race.RaceState(EPOCH, race.SEED, 1))
    seeds.CLOSED.put(state, b"", 1)
    [partials] = act(role, state)
    assert (partials.kind, partials.number, partials.group, len(partials.partials)) == (beacon.RACE, EPOCH, 1, 10)
    apply(state, ME, partials)
    assert act(role, state) == []


def test_contributions_differ_by_node_epoch_and_chain():
    keys = [CeremonyKey(key.address, key.secret) for key in KEYS]
    found = {key.make_contribution(chain, epoch) for key in keys for chain in ("a-1", "a-2") for epoch in (0, 1)}
    assert len(found) == 4 * len(KEYS)


def test_invalid_node_without_weight_commits_nothing_but_still_signs(state, tmp_path):
    nodes.set_weights(state, TINY, {key.address: 1_000 for key in KEYS if key is not ME})
    state.height = 5
    [message] = act(make_role(state, tmp_path), state)
    assert isinstance(message, PostPartials)


def test_a_height_is_signed_once_it_is_committed_and_until_it_has_its_value(state, tmp_path):
    race.STATE.put(state, b"", race.RaceState(EPOCH, race.DONE, 0))
    state.height = 4
    assert act_all(state, tmp_path) == []
    state.height = 5
    sent = act_all(state, tmp_path)
    assert [message.number for _, message in sent] == [1] * 5
    state.height = 6
    for key, message in sent[:3]:
        apply(state, key, message)
    assert beacon.get_value(state, 1) is not None
    assert act_all(state, tmp_path) == []


def test_an_expelled_member_stays_silent(state, tmp_path):
    race.STATE.put(state, b"", race.RaceState(EPOCH, race.DONE, 0))
    state.height = 5
    groups.LIARS.put(state, groups.liar_key(1, ME.address), 3)
    assert act(make_role(state, tmp_path), state) == []


def test_invalid_shares_make_a_node_silent_instead_of_guilty(state, tmp_path):
    race.STATE.put(state, b"", race.RaceState(EPOCH, race.DONE, 0))
    state.height = 5
    # As after a change of the group key: what was encrypted to the former one is unreadable.
    role = BeaconRole(make_context(state, ME, tmp_path), CeremonyKey(ME.address, bytes(32)))
    assert act(role, state) == []


def test_both_groups_sign_what_is_late(state, tmp_path):
    begin_ceremony(state)
    for key, message in act_all(state, tmp_path):
        if isinstance(message, PostDealing):
            apply(state, key, message)
    while ceremony.get_ceremony(state).phase != ceremony.DONE:
        end_block(state)
    since = groups.get_current(state).since
    index = -(-since // 5)
    for waiting in range(index):
        beacon.VALUES.put(state, waiting.to_bytes(8, "big"), beacon.BeaconValue(bytes(32), bytes(48), 1, since))
    beacon.WANTED.put(state, index.to_bytes(8, "big"), since)
    role = make_role(state, tmp_path)

    def signing_groups():
        return [message.group for message in act(role, state) if message.number == index]

    state.height = index * 5 + TINY.fallback_blocks
    assert signing_groups() == [2]
    state.height += 1
    assert signing_groups() == [2, 1]
    # Below the switch the former group is in charge.
    assert groups.list_signers(state, since - 1, late=False)[0].number == 1


def test_a_ceremony_runs_by_what_the_roles_send(state, tmp_path):
    running = begin_ceremony(state)
    sent = [(key, message) for key, message in act_all(state, tmp_path) if isinstance(message, PostDealing)]
    assert {key.address for key, _ in sent} == {address for address, _ in running.members}
    for key, message in sent:
        apply(state, key, message)
    assert not any(isinstance(message, PostDealing) for _, message in act_all(state, tmp_path))
    end_block(state)
    assert ceremony.get_ceremony(state).phase == ceremony.COMPLAIN
    assert not any(isinstance(message, PostComplaint) for _, message in act_all(state, tmp_path))
    while ceremony.get_ceremony(state).phase != ceremony.DONE:
        end_block(state)
    assert groups.get_current(state).number == 2
    group, text = groups.get_current(state), b"message"
    partials = CeremonyKey(ME.address, ME.secret).sign(state, group, text)
    assert len(partials) == 10


def test_dealing_works_beside_other_work_and_a_restarted_dealer_deals_the_same(state, tmp_path):
    begin_ceremony(state)
    role, reborn = make_role(state, tmp_path), make_role(state, tmp_path / "reborn")
    first = [message for message in act(role, state) if isinstance(message, PostDealing)]
    assert role._context.threads.kinds == ["ceremony"]
    assert first == [message for message in act(reborn, state) if isinstance(message, PostDealing)]


def spoil_shares(state, dealer, victim):
    """One wrong share of a dealing on the ledger."""
    running = ceremony.get_ceremony(state)
    slot = groups.compute_slots(running.members, victim).start
    key = groups.dealing_key(running.number, dealer)
    record = groups.DEALINGS.get(state, key)
    shares = list(record.shares)
    shares[slot] = hash_parts("wrong", shares[slot])
    groups.DEALINGS.put(state, key, msgspec.structs.replace(record, shares=tuple(shares)))


def deal_with_two_liars(state, folder):
    begin_ceremony(state)
    for key, message in act_all(state, folder):
        if isinstance(message, PostDealing):
            apply(state, key, message)
    liars = sorted(key.address for key in KEYS if key is not ME)[:2]
    for liar in liars:
        spoil_shares(state, liar, ME.address)
    end_block(state)
    assert ceremony.get_ceremony(state).phase == ceremony.COMPLAIN
    return liars


def get_complaints(messages):
    return [message for message in messages if isinstance(message, PostComplaint)]


def get_complaining(role, state):
    """The work that the role started for its complaints, and nothing else of what it started."""
    role.on_block(state)
    started, role._context.duties.started = role._context.duties.started, {}
    [work] = [work for key, work in started.items() if key[0] == "complain"]
    return work()


def test_every_bad_dealer_is_denounced_once_and_convicted(state, tmp_path):
    liars = deal_with_two_liars(state, tmp_path)
    role = make_role(state, tmp_path)
    complaints = get_complaints(act(role, state))
    assert [message.dealer for message in complaints] == liars
    for message in complaints:
        apply(state, ME, message)
    assert get_complaints(act(role, state)) == []
    assert all(nodes.NODES.get(state, liar).guilty == EPOCH for liar in liars)
    # The dealings of a ceremony are looked at once.
    assert role._context.threads.kinds == ["ceremony"]
    # A restart looks again, and finds nobody left to denounce.
    assert get_complaints(act(make_role(state, tmp_path / "reborn"), state)) == []


def test_invalid_first_complaint_does_not_keep_back_the_second(state, tmp_path):
    """Another victim was quicker with the first dealer: the ledger refuses, the second one is denounced all the same."""
    liars = deal_with_two_liars(state, tmp_path)
    role = make_role(state, tmp_path)
    role._context.chain.refusals = [InvalidTransaction("already-guilty", "out"), None]
    asyncio.run(get_complaining(role, state))
    assert [message.dealer for message in role._context.chain.sent] == liars


def test_a_break_of_the_line_lets_the_role_look_again(state, tmp_path):
    liars = deal_with_two_liars(state, tmp_path)
    role = make_role(state, tmp_path)
    role._context.chain.refusals = [ConnectionError("gone")]
    with pytest.raises(ConnectionError):
        asyncio.run(get_complaining(role, state))
    assert [message.dealer for message in get_complaints(act(role, state))] == liars


def test_invalid_node_outside_the_committee_takes_no_part(state, tmp_path):
    nodes.set_weights(state, TINY, {key.address: 1_000 for key in KEYS if key is not ME})
    begin_ceremony(state)
    assert not any(isinstance(message, PostDealing) for message in act(make_role(state, tmp_path), state))
