"""Ceremonies: a group is made by transactions, and whoever deals wrongly is found out by the ledger itself."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from beacon_ledger import Ledger
from chain_harness import PARAMS

from paceline.base import threshold
from paceline.base.bls import EncryptionKey
from paceline.base.dealing import prove_complaint
from paceline.ledger import beacon, ceremony, groups, nodes
from paceline.protocol import messages as m


@pytest.fixture
def ledger():
    return Ledger()


@pytest.fixture
def dealing(ledger):
    ledger.begin_ceremony()
    return ledger


def go_to_complaints(ledger):
    while ledger.running.phase == ceremony.DEAL:
        ledger.end_block()
    assert ledger.running.phase == ceremony.COMPLAIN


def test_a_whole_ceremony_makes_the_next_group_and_its_members_sign(ledger):
    old_key = groups.get_group_key(ledger.state, 1)
    ledger.replace_group()
    group = groups.get_current(ledger.state)
    assert (group.number, group.slots, group.threshold, group.since) == (2, 50, 26, ledger.state.height)
    assert 3 * group.secrecy_ppm >= 10**6 and 3 * group.liveness_ppm <= 2 * 10**6
    assert groups.get_former(ledger.state).number == 1
    assert groups.get_group_key(ledger.state, 1) == old_key != groups.get_group_key(ledger.state, 2)
    index = group.since // 5 + 1
    ledger.state.height = index * 5 + 1
    ledger.sign(index, [4, 2, 1])
    assert beacon.verify_value(
        ledger.chain_id, index, ledger.value(index), groups.get_group_key(ledger.state, ledger.value(index).group)
    )


def test_only_the_last_two_groups_stay_and_of_older_ones_their_keys(ledger):
    for _ in range(3):
        ledger.replace_group()
    state = ledger.state
    assert [group.number for _, group in groups.GROUPS.items(state)] == [3, 4]
    assert sorted({key[:8] for key, _ in groups.DEALINGS.items(state)}) == [bytes(7) + b"\x03", bytes(7) + b"\x04"]
    assert [len(groups.get_group_key(state, number)) for number in (1, 2, 3, 4)] == [96] * 4
    for table in (ceremony.PARTS, ceremony.GUILTY, ceremony.KEYS, ceremony.SUM):
        assert not table.items(state)


def test_dealings_are_added_up_a_few_a_block(dealing):
    for index in range(5):
        dealing.deal(index)
    added = []
    while dealing.running.phase != ceremony.DONE:
        dealing.end_block()
        added.append(len(dealing.running.added))
    steps = [later - former for former, later in pairwise(added) if later != former]
    assert steps == [dealing.params.dealings_per_block, 1]
    commitments = [found.commitments for _, found in groups.DEALINGS.items(dealing.state, bytes(7) + b"\x02")]
    assert groups.get_current(dealing.state).commitments == threshold.aggregate_commitments(commitments)


def test_the_window_ends_when_all_have_dealt_and_complaints_have_their_full_time(dealing):
    for index in range(5):
        dealing.deal(index)
    dealing.end_block()
    began = dealing.state.height - 1
    assert dealing.running.phase == ceremony.COMPLAIN
    while dealing.running.phase == ceremony.COMPLAIN:
        last = dealing.state.height
        dealing.end_block()
    assert last == began + dealing.params.complain_blocks


def test_a_dealing_in_parts_is_complete_with_its_last_part_in_any_order(dealing):
    [whole] = dealing.make_parts(0)
    cut = len(whole.data) // 2
    first = m.PostDealing(2, 0, 2, whole.data[:cut])
    second = m.PostDealing(2, 1, 2, whole.data[cut:])
    dealing.deal(0, [second])
    assert not groups.DEALINGS.items(dealing.state, bytes(7) + b"\x02")
    # A part may be sent again with other bytes until the whole is right.
    dealing.deal(0, [m.PostDealing(2, 1, 2, second.data[:-1])])
    dealing.refuse("malformed", dealing.deal, 0, [first])
    dealing.deal(0, [second])
    dealing.deal(0, [first])
    assert len(groups.DEALINGS.items(dealing.state, bytes(7) + b"\x02")) == 1
    assert not ceremony.PARTS.items(dealing.state)
    dealing.refuse("already-dealt", dealing.deal, 0, [first])


def test_invalid_dealings(dealing):
    [part] = dealing.make_parts(0)
    replace = msgspec.structs.replace
    dealing.refuse("bad-part", dealing.deal, 0, [replace(part, part=1)])
    dealing.refuse("bad-part", dealing.deal, 0, [replace(part, parts=ceremony.MAX_PARTS + 1)])
    dealing.refuse("wrong-phase", dealing.deal, 0, [replace(part, number=3)])
    dealing.refuse("malformed", dealing.deal, 0, [replace(part, data=b"")])
    dealing.refuse("malformed", dealing.deal, 0, [replace(part, data=part.data + b"\x00")])
    changes = {
        "wrong-threshold": lambda found: replace(found, commitments=found.commitments[:-1]),
        "wrong-slots": lambda found: replace(found, shares=found.shares[:-1]),
        "bad-point": lambda found: replace(found, commitments=(bytes(96), *found.commitments[1:])),
        "bad-ephemeral": lambda found: replace(found, ephemeral=EncryptionKey.from_secret(bytes(32)).public_key),
    }
    for code, change in changes.items():
        dealing.refuse(code, dealing.deal, 0, dealing.change_dealing(0, change))
    infinity = bytes([0xC0]) + bytes(95)
    taken = dealing.change_dealing(0, lambda found: replace(found, commitments=(infinity, *found.commitments[1:])))
    dealing.refuse("bad-point", dealing.deal, 0, taken)
    # Another's dealing is bound to the other: its ephemeral key shows nothing here.
    dealing.refuse("bad-ephemeral", dealing.deal, 1, [part])
    dealing.deal(0, [part])
    go_to_complaints(dealing)
    dealing.refuse("wrong-phase", dealing.deal, 1)


def test_invalid_dealer_without_a_slot():
    ledger = Ledger(count=2, weights=[10**6, 1])
    ceremony.begin(ledger.state, 0)
    ledger.state.height = 6
    ledger.sign(1, [0])
    ledger.end_block()
    ledger.refuse("not-a-member", ledger.deal, 1, ledger.make_parts(0))
    ledger.refuse("wrong-phase", ledger.complain, 1, m.PostComplaint(2, ledger.addresses[0], bytes(48), bytes(64)))
    ledger.deal(0)
    go_to_complaints(ledger)
    ledger.refuse("not-a-member", ledger.complain, 1, m.PostComplaint(2, ledger.addresses[0], bytes(48), bytes(64)))


def test_one_wrong_share_convicts_its_dealer_and_the_group_is_made_by_the_others(dealing):
    dealing.set_node(1, reputation=7)
    for index in (0, 2, 3, 4):
        dealing.deal(index)
    dealing.deal_badly(1, victim=3)
    go_to_complaints(dealing)
    assert [dealing.complaints(index) for index in (0, 1, 2, 4)] == [[]] * 4
    [complaint] = dealing.complaints(3)
    dealing.complain(3, complaint)
    assert (dealing.node(1).guilty, dealing.node(1).reputation) == (0, 0)
    dealing.refuse("already-guilty", dealing.complain, 3, complaint)
    dealing.finish_ceremony()
    group = groups.get_current(dealing.state)
    assert group.number == 2
    assert sorted(key[8:] for key, _ in groups.DEALINGS.items(dealing.state, bytes(7) + b"\x02")) == sorted(
        dealing.addresses[index] for index in (0, 2, 3, 4)
    )
    # The convicted dealer keeps its slots: its shares of the others' dealings are sound.
    index = group.since // 5 + 1
    dealing.state.height = index * 5 + 1
    dealing.sign(index, [1, 3, 0])
    assert dealing.value(index) is not None


def test_without_the_complaint_a_wrong_share_would_be_in_the_group(dealing):
    for index in (0, 2, 3, 4):
        dealing.deal(index)
    dealing.deal_badly(1, victim=3)
    dealing.finish_ceremony()
    group = groups.get_current(dealing.state)
    # The victim sees it and does not sign, instead of signing wrongly and being expelled for it.
    assert dealing.group_keys[dealing.addresses[3]].sign(dealing.state, group, b"message") == ()
    assert len(dealing.group_keys[dealing.addresses[2]].sign(dealing.state, group, b"message")) == 10


def test_invalid_complaints(dealing):
    for index in range(4):
        dealing.deal(index)
    dealing.refuse("wrong-phase", dealing.complain, 0, m.PostComplaint(2, dealing.addresses[1], bytes(48), bytes(64)))
    go_to_complaints(dealing)
    number, dealer = dealing.running.number, dealing.addresses[1]
    record = groups.DEALINGS.get(dealing.state, groups.dealing_key(number, dealer))
    context = groups.compute_context(groups.compute_label(dealing.chain_id), number, dealer)

    def open_point(index):
        key = dealing.group_keys[dealing.addresses[index]]._key
        found = prove_complaint(key, record.ephemeral, context)
        return m.PostComplaint(number, dealer, found.shared_point, found.proof)

    mine, other = open_point(0), open_point(2)
    replace = msgspec.structs.replace
    dealing.refuse("unfounded", dealing.complain, 0, mine)
    dealing.refuse("false-proof", dealing.complain, 0, other)
    dealing.refuse("false-proof", dealing.complain, 0, replace(mine, shared_point=other.shared_point))
    dealing.refuse("false-proof", dealing.complain, 0, replace(mine, proof=bytes(64)))
    dealing.refuse("false-proof", dealing.complain, 0, replace(mine, shared_point=bytes([0xC0]) + bytes(47)))
    dealing.refuse("no-dealing", dealing.complain, 0, replace(mine, dealer=dealing.addresses[4]))
    dealing.refuse("wrong-phase", dealing.complain, 0, replace(mine, number=1))


def test_a_key_changed_during_a_ceremony_convicts_no_honest_dealer(dealing):
    """The shares are encrypted to the keys of the draw, so the ledger must judge complaints by these."""
    state, chain_id = dealing.state, dealing.chain_id
    attacker, victim = dealing.addresses[0], dealing.addresses[1]
    for index in range(5):
        dealing.deal(index)
    go_to_complaints(dealing)
    fresh = EncryptionKey.from_secret(b"f" * 32)
    for epoch in (0, 1):
        proof = fresh.prove_possession(nodes.compute_possession_context(chain_id, attacker))
        nodes.apply_group_key(state, chain_id, attacker, m.RegisterGroupKey(fresh.public_key, proof), epoch)
    # Without the rule the ledger would take this key for the one of the ceremony of epoch 0.
    assert nodes.get_group_key(state, attacker, 0) == fresh.public_key
    record = groups.DEALINGS.get(state, groups.dealing_key(2, victim))
    found = prove_complaint(fresh, record.ephemeral, groups.compute_context(groups.compute_label(chain_id), 2, victim))
    dealing.refuse("false-proof", dealing.complain, 0, m.PostComplaint(2, victim, found.shared_point, found.proof))


def test_a_key_counts_for_ceremonies_of_later_epochs_only(ledger):
    state, address = ledger.state, ledger.addresses[0]
    old, fresh = ledger.group_keys[address].public_key, EncryptionKey.from_secret(b"f" * 32)
    context = nodes.compute_possession_context(ledger.chain_id, address)
    message = m.RegisterGroupKey(fresh.public_key, fresh.prove_possession(context))
    wrong = m.RegisterGroupKey(fresh.public_key, fresh.prove_possession(context + b"x"))
    ledger.refuse("bad-possession", nodes.apply_group_key, state, ledger.chain_id, address, wrong, 3)
    ledger.refuse("bad-possession", nodes.apply_group_key, state, ledger.chain_id, ledger.addresses[1], message, 3)
    stranger = bytes(20)
    ledger.refuse("not-a-node", nodes.apply_group_key, state, ledger.chain_id, stranger, message, 3)
    nodes.apply_group_key(state, ledger.chain_id, address, message, 3)
    assert nodes.get_group_key(state, address, 3) == old
    assert nodes.get_group_key(state, address, 4) == fresh.public_key
    ledger.begin_ceremony(epoch=3)
    assert ceremony.get_member_key(state, address) == old


@pytest.mark.parametrize(("dealers", "made"), [([0, 1, 2], True), ([0, 1], False)])
def test_silent_dealers_lose_a_step_and_sound_ones_must_own_more_than_half(dealing, dealers, made):
    for index in range(5):
        dealing.set_node(index, reputation=2)
    for index in dealers:
        dealing.deal(index)
    dealing.finish_ceremony()
    assert [dealing.node(index).reputation for index in range(5)] == [2 if i in dealers else 1 for i in range(5)]
    assert groups.get_current(dealing.state).number == (2 if made else 1)
    assert dealing.events()[-1] == ("ceremony-done" if made else "ceremony-failed")


def test_exactly_half_is_not_enough():
    ledger = Ledger(count=4)
    ledger.begin_ceremony()
    for index in (0, 1):
        ledger.deal(index)
    ledger.finish_ceremony()
    assert groups.get_current(ledger.state).number == 1
    assert not groups.DEALINGS.items(ledger.state, bytes(7) + b"\x02")
    # It is tried again under the same number.
    ledger.begin_ceremony(epoch=1)
    assert ledger.running.number == 2


def test_a_new_ceremony_takes_the_place_of_one_that_never_ended(dealing):
    dealing.deal(0)
    [part] = dealing.make_parts(1)
    dealing.deal(1, [m.PostDealing(2, 0, 2, part.data[:100])])
    ceremony.begin(dealing.state, 1)
    assert (dealing.running.number, dealing.running.phase) == (2, ceremony.DRAW)
    assert not ceremony.PARTS.items(dealing.state)
    assert not groups.DEALINGS.items(dealing.state, bytes(7) + b"\x02")


def test_a_committee_below_its_bound_starts_no_ceremony(ledger):
    for index in range(5):
        ledger.set_node(index, weight=0)
    ceremony.begin(ledger.state, 0)
    ledger.state.height = 6
    ledger.sign(1, range(3))
    ledger.end_block()
    assert ledger.running.phase == ceremony.DONE
    assert ledger.state.events[-1].kind == "ceremony-failed"
    assert groups.get_current(ledger.state).number == 1


def test_a_group_that_signs_no_more_is_replaced_by_the_heaviest_without_a_value(ledger):
    began = ledger.state.height
    ceremony.begin(ledger.state, 0)
    while ledger.running.phase == ceremony.DRAW:
        last = ledger.state.height
        ledger.end_block()
    assert last == began + 2 * ledger.params.fallback_blocks + 1
    assert ledger.running.phase == ceremony.DEAL
    for index in range(5):
        ledger.deal(index)
    ledger.finish_ceremony()
    assert groups.get_current(ledger.state).number == 2


def test_a_committee_is_never_drawn_without_a_value(ledger):
    # A hundred more nodes of equal weight: the heaviest 64 hold less than two thirds.
    sample = nodes.NODES.get(ledger.state, ledger.addresses[0])
    for number in range(100):
        nodes.NODES.put(ledger.state, number.to_bytes(20, "big"), msgspec.structs.replace(sample, name=f"n{number}"))
    ceremony.begin(ledger.state, 0)
    while ledger.running.phase == ceremony.DRAW:
        ledger.end_block()
    assert ledger.running.phase == ceremony.DONE
    assert "no value" in str(ledger.state.events[-1].attributes["reason"])


def test_slots_follow_the_parameter():
    ledger = Ledger(params=msgspec.structs.replace(PARAMS, slots_per_member=4))
    ledger.begin_ceremony()
    assert (ledger.running.slots, ledger.running.threshold) == (20, 11)
