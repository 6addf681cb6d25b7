"""What a node answers to anybody who asks for the beacon of a height."""

from __future__ import annotations

import pytest
from role_setup import CHAIN_ID, KEYS, make_state

from paceline.base.errors import InvalidTransaction
from paceline.ledger import beacon, groups
from paceline.ledger.state import State
from paceline.node.ceremony import CeremonyKey
from paceline.node.chains.beacon_answers import MAX_ANSWER_BYTES, BeaconAnswer, BeaconRequest, answer_beacon
from paceline.protocol.codec import decode, encode
from paceline.protocol.messages import PostPartials
from paceline.protocol.params import TINY


@pytest.fixture(scope="module")
def state():
    """A network whose height 10 is signed."""
    found = make_state(height=11)
    group = groups.get_current(found)
    for key in KEYS[:3]:
        text = beacon.compute_message(CHAIN_ID, beacon.HEIGHT, 2, 1)
        partials = CeremonyKey(key.address, key.secret).sign(found, group, text)
        message = PostPartials(beacon.HEIGHT, 2, 1, partials)
        beacon.apply_partials(found, TINY, CHAIN_ID, key.address, message, 0)
    return found


def ask(state, height):
    reply = answer_beacon(state, TINY, encode(BeaconRequest(height)))
    return decode(BeaconAnswer, reply, limit_bytes=MAX_ANSWER_BYTES)


def test_the_answer_is_enough_to_check_the_value(state):
    answer = ask(state, 10)
    assert beacon.verify_value(CHAIN_ID, 2, answer.signed, answer.group_key)
    assert (answer.bounds.members, answer.bounds.slots, answer.bounds.threshold) == (5, 50, 26)


def test_a_group_that_is_gone_leaves_its_key(state):
    branch = state.branch()
    groups.GROUPS.delete(branch, (1).to_bytes(8, "big"))
    answer = ask(branch, 10)
    assert answer.bounds is None
    assert beacon.verify_value(CHAIN_ID, 2, answer.signed, answer.group_key)


@pytest.mark.parametrize("height", [0, 5, 9, 11, 15, 2**48])
def test_invalid_height_has_no_value(state, height):
    with pytest.raises(InvalidTransaction, match="not-signed"):
        ask(state, height)


@pytest.mark.parametrize(
    ("height", "asked", "code"),
    [(2_569, 10, "not-signed"), (2_570, 10, "pruned"), (2_570, 15, "not-signed"), (2_570, 9, "not-signed")],
)
def test_boundary_of_what_is_forgotten(state, height, asked, code):
    """Values stand for 5 heights each: that of height 10 may go once 512 later ones may be there."""
    later = State(state, height=height)
    later.delete(later_key(2))
    later.put(later_key(4), encode(beacon.BeaconValue(b"v" * 32, b"s" * 48, 1, 21)))
    with pytest.raises(InvalidTransaction, match=f"^{code}: ") as caught:
        ask(later, asked)
    assert ("the first height held is 20" in str(caught.value)) == (code == "pruned")


def test_nothing_is_held_any_more(state):
    later = State(state, height=9_999)
    for index in (0, 2):
        later.delete(later_key(index))
    with pytest.raises(InvalidTransaction, match=r"pruned: .* none is held"):
        ask(later, 10)


def later_key(index):
    return b"beacon/value/" + index.to_bytes(8, "big")


def test_invalid_request_bytes(state):
    for body in (b"", b"x", encode(BeaconRequest(10)) + b"\x00", encode((-1,)), bytes(100)):
        with pytest.raises(InvalidTransaction):
            answer_beacon(state, TINY, body)
