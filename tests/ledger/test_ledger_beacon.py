"""Values of the beacon: who signs what when, what is kept, who is expelled."""

from __future__ import annotations

import pytest
from beacon_ledger import Ledger

from paceline.base.hashing import hash_parts
from paceline.ledger import beacon, groups
from paceline.protocol import messages as m


@pytest.fixture
def ledger():
    found = Ledger()
    found.state.height = 11
    return found


def spoil(message):
    """The same slots with the signature of something else on the first."""
    return m.PostPartials(message.kind, message.number, message.group, (message.partials[1], *message.partials[1:]))


def test_enough_partials_make_the_value_and_anybody_can_check_it(ledger):
    ledger.sign(2, [0, 1])
    assert ledger.value(2) is None
    ledger.sign(2, [2])
    found = ledger.value(2)
    key = groups.get_group_key(ledger.state, 1)
    assert beacon.verify_value(ledger.chain_id, 2, found, key)
    assert (found.group, found.height, found.value) == (1, 11, beacon.compute_value(found.signature))
    assert beacon.derive_at(ledger.state, 2, "test") is not None
    assert not beacon.PARTIALS.items(ledger.state)


@pytest.mark.parametrize("signers", [[0, 1, 2], [4, 3, 2], [1, 3, 4]])
def test_whoever_signs_the_value_is_the_same(ledger, signers):
    ledger.sign(2, signers)
    expected = Ledger()
    expected.state.height = 13
    expected.sign(2, [0, 2, 4])
    assert ledger.value(2).value == expected.value(2).value


def test_invalid_value_does_not_verify(ledger):
    ledger.sign(2, [0, 1, 2])
    found, key = ledger.value(2), groups.get_group_key(ledger.state, 1)
    assert not beacon.verify_value("other-chain", 2, found, key)
    assert not beacon.verify_value(ledger.chain_id, 3, found, key)
    other = beacon.BeaconValue(hash_parts("other"), found.signature, found.group, found.height)
    assert not beacon.verify_value(ledger.chain_id, 2, other, key)
    other = beacon.BeaconValue(found.value, found.signature, 2, found.height)
    assert not beacon.verify_value(ledger.chain_id, 2, other, key)
    bootstrap = ledger.value(0)
    assert not beacon.verify_value(ledger.chain_id, 0, bootstrap, key)


@pytest.mark.parametrize(("height", "index"), [(1, 1), (4, 1), (5, 2), (9, 2), (10, 3)])
def test_a_round_is_the_next_height_that_nobody_can_have_signed(ledger, height, index):
    ledger.state.height = height
    assert beacon.request_round(ledger.state) == index
    assert beacon.list_wanted(ledger.state) == [index]
    message = ledger.partials(0, index)
    # In the block that asks, and up to the height itself, no partial for it is taken.
    for early in (height, index * 5):
        ledger.state.height = early
        ledger.refuse("not-due", ledger.post, 0, message)
    ledger.state.height = index * 5 + 1
    ledger.post(0, message)


def test_what_is_due_is_what_is_waited_for_and_the_latest_few(ledger):
    state = ledger.state
    state.height = 0
    assert beacon.get_due(state) == []
    state.height = 4
    assert beacon.get_due(state) == []
    state.height = 7
    beacon.request_round(state)
    assert beacon.get_due(state) == [1]
    state.height = 34
    assert beacon.get_due(state) == [2, 3, 4, 5, 6]
    ledger.sign(2, [0, 1, 2])
    ledger.sign(5, [0, 1, 2])
    assert beacon.get_due(state) == [3, 4, 6]
    assert not beacon.is_waiting(state)


def test_a_member_that_falls_behind_signs_a_few_heights_at_a_time(ledger):
    for height in range(1, 100, 5):
        ledger.state.height = height
        beacon.request_round(ledger.state)
    ledger.state.height = 200
    assert beacon.get_due(ledger.state) == [*range(1, beacon.MOST_DUE + 1), 37, 38, 39, 40]


def test_invalid_partials_are_refused(ledger):
    fine = ledger.partials(0, 2)
    for index in (0, 3):
        ledger.refuse("not-due", ledger.post, 0, ledger.partials(0, index, signed=2))
    ledger.refuse("wrong-group", ledger.post, 0, m.PostPartials(fine.kind, 2, 7, fine.partials))
    ledger.refuse("wrong-partials", ledger.post, 0, m.PostPartials(fine.kind, 2, 1, fine.partials[:-1]))
    ledger.refuse("wrong-partials", ledger.post, 0, m.PostPartials(fine.kind, 2, 1, (*fine.partials, bytes(48))))
    ledger.post(0, fine)
    ledger.refuse("already-posted", ledger.post, 0, fine)
    ledger.sign(2, [1, 2])
    ledger.refuse("already-signed", ledger.post, 3, ledger.partials(3, 2))


def test_invalid_partials_of_a_node_without_a_slot():
    ledger = Ledger(count=2, weights=[10**6, 1])
    ledger.state.height = 11
    assert not groups.get_current(ledger.state).get_slots(ledger.addresses[1])
    stranger = m.PostPartials(beacon.HEIGHT, 2, 1, ledger.partials(0, 2).partials)
    ledger.refuse("not-a-member", ledger.post, 1, stranger)
    ledger.post(0, stranger)
    assert ledger.value(2) is not None


def test_a_liar_is_expelled_and_the_value_is_the_one_it_had_been(ledger):
    honest = Ledger()
    honest.state.height = 11
    honest.sign(2, [1, 2, 3])
    liar = next(i for i in range(5) if 0 in groups.get_current(ledger.state).get_slots(ledger.addresses[i]))
    others = [i for i in range(5) if i != liar]
    ledger.set_node(liar, reputation=3)
    ledger.post(liar, spoil(ledger.partials(liar, 2)))
    ledger.sign(2, others[:2])
    assert ledger.value(2) is None
    assert (ledger.node(liar).guilty, ledger.node(liar).reputation) == (0, 0)
    assert all(ledger.node(i).guilty == -1 for i in others)
    assert ledger.events() == ["beacon-wrong-partial"]
    ledger.refuse("not-a-member", ledger.post, liar, ledger.partials(liar, 2))
    ledger.post(others[2], ledger.partials(others[2], 2))
    assert ledger.value(2).value == honest.value(2).value


def test_enough_right_partials_beside_a_liar_make_the_value_at_once():
    # The first node by address owns 3 of 30 slots and lies; 6 + 21 of the others, of which 16 are enough, come after it.
    plain = Ledger(count=3)
    order = sorted(range(3), key=lambda index: plain.addresses[index])
    weights = [0, 0, 0]
    for index, weight in zip(order, (100, 200, 700), strict=True):
        weights[index] = weight
    ledger = Ledger(count=3, weights=weights)
    ledger.state.height = 11
    group = groups.get_current(ledger.state)
    assert [len(group.get_slots(ledger.addresses[index])) for index in order] == [3, 6, 21]
    ledger.post(order[0], ledger.partials(order[0], 2, signed=1))
    ledger.sign(2, order[1:])
    assert ledger.value(2) is not None
    assert [ledger.node(index).guilty for index in order] == [0, -1, -1]


def test_partials_that_are_no_points_are_lies_too(ledger):
    liar = next(i for i in range(5) if 0 in groups.get_current(ledger.state).get_slots(ledger.addresses[i]))
    ledger.post(liar, m.PostPartials(beacon.HEIGHT, 2, 1, (bytes(48),) * 10))
    ledger.sign(2, [i for i in range(5) if i != liar][:3])
    assert ledger.value(2) is not None
    assert ledger.node(liar).guilty == 0


def go_to(ledger, height):
    while ledger.state.height < height:
        ledger.end_block()


def test_values_and_partials_of_long_past_indices_are_forgotten(ledger, monkeypatch):
    monkeypatch.setattr(beacon, "KEPT_VALUES", 3)
    ledger.sign(2, [0, 1, 2])
    ledger.sign(1, [0, 1])
    go_to(ledger, 20)
    assert ledger.value(0) is None
    assert len(beacon.PARTIALS.items(ledger.state)) == 2
    ledger.refuse("not-due", ledger.post, 2, ledger.partials(2, 1))
    ledger.end_block()
    assert not beacon.PARTIALS.items(ledger.state)
    # Index 2 was complete at height 11: it is there up to the next signed height after 11 + 15.
    go_to(ledger, 30)
    assert ledger.value(2) is not None
    ledger.end_block()
    assert ledger.value(2) is None


def test_what_something_waits_for_can_be_signed_however_late_and_stays_its_time(ledger, monkeypatch):
    monkeypatch.setattr(beacon, "KEPT_VALUES", 3)
    ledger.state.height = 1
    index = beacon.request_round(ledger.state)
    go_to(ledger, 11)
    ledger.sign(index, [0, 1])
    go_to(ledger, 57)
    assert index in beacon.get_due(ledger.state)
    assert beacon.is_waiting(ledger.state)
    ledger.sign(index, [2])
    assert beacon.get_value(ledger.state, index) is not None
    assert not beacon.is_waiting(ledger.state)
    go_to(ledger, 75)
    assert ledger.value(index) is not None
    ledger.end_block()
    assert ledger.value(index) is None


def test_the_height_decides_which_group_signs_and_the_other_one_waits(ledger):
    state, interval = ledger.state, ledger.params.beacon_interval
    ledger.replace_group()
    first, second = groups.get_former(state), groups.get_current(state)
    assert (first.number, second.number) == (1, 2)
    before, after = (second.since - 1) // interval, -(-second.since // interval)
    state.height = after * interval + 1
    ledger.refuse("too-early", ledger.post, 0, ledger.partials(0, before, group=second))
    ledger.refuse("too-early", ledger.post, 0, ledger.partials(0, after, group=first))
    ledger.sign(before, [0, 1, 2], group=first)
    ledger.sign(after, [0, 1, 2], group=second)
    assert (ledger.value(before).group, ledger.value(after).group) == (1, 2)
    for index in (before, after):
        found = ledger.value(index)
        assert beacon.verify_value(ledger.chain_id, index, found, groups.get_group_key(state, found.group))


def test_a_group_is_in_charge_from_its_first_height_on(ledger):
    state = ledger.state
    assert [group.number for group in groups.list_signers(state, 0, late=True)] == [1]
    ledger.replace_group()
    since = groups.get_current(state).since

    def list_numbers(height, late):
        return [group.number for group in groups.list_signers(state, height, late=late)]

    assert (list_numbers(since - 1, late=False), list_numbers(since, late=False)) == ([1], [2])
    assert (list_numbers(since - 1, late=True), list_numbers(since, late=True)) == ([1, 2], [2, 1])


def test_after_the_stated_wait_the_other_group_may_sign(ledger):
    state, params = ledger.state, ledger.params
    ledger.replace_group()
    first, second = groups.get_former(state), groups.get_current(state)
    index = -(-second.since // params.beacon_interval)
    state.height = index * params.beacon_interval + params.fallback_blocks
    ledger.refuse("too-early", ledger.post, 0, ledger.partials(0, index, group=first))
    state.height += 1
    ledger.sign(index, [0, 1], group=first)
    # Partials of two groups never add up.
    ledger.sign(index, [2], group=second)
    assert ledger.value(index) is None
    ledger.sign(index, [3], group=first)
    assert ledger.value(index).group == 1
    assert not beacon.PARTIALS.items(state)


def test_partials_of_another_kind_height_or_group_never_count(ledger):
    group = groups.get_current(ledger.state)
    liar = next(i for i in range(5) if 0 in group.get_slots(ledger.addresses[i]))
    others = [i for i in range(5) if i != liar]
    ledger.state.height = 101
    for number, kind, signed in ((18, beacon.RACE, 18), (19, beacon.HEIGHT, 18)):
        text = beacon.compute_message(ledger.chain_id, kind, signed, 1)
        replayed = ledger.group_keys[ledger.addresses[liar]].sign(ledger.state, group, text)
        groups.LIARS.delete(ledger.state, groups.liar_key(1, ledger.addresses[liar]))
        ledger.post(liar, m.PostPartials(beacon.HEIGHT, number, 1, replayed))
        ledger.sign(number, others[:3])
        assert beacon.verify_value(ledger.chain_id, number, ledger.value(number), groups.get_group_key(ledger.state, 1))
        assert groups.LIARS.get(ledger.state, groups.liar_key(1, ledger.addresses[liar])) is not None
