"""Dishonest dealers and accusers in the ceremony: the ledger opens the very share, and convicts whoever is wrong.

Detection power: a wrong share is found by its recipient with certainty and convicts its dealer; a right one never does,
whatever is claimed. A dealing of another form is refused whole.
"""

from __future__ import annotations

import functools

import msgspec
import pytest
from beacon_chain import BeaconChain, damage_share, flip, look_ahead, refuse
from chain_harness import make_group_key

from paceline.base.dealing import prove_complaint
from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.economy.committee import choose_committee
from paceline.ledger import beacon, ceremony, groups, nodes
from paceline.node.ceremony import get_member_keys
from paceline.protocol import messages as m


@pytest.fixture
def dealing():
    """A chain whose ceremony has just opened for dealings."""
    chain = BeaconChain()
    chain.run_to_ceremony(ceremony.DEAL)
    return chain


@pytest.fixture
def complaining():
    """The same, one phase on; the dealer with the first slots gave one wrong share to the member with the second."""
    chain = BeaconChain()
    chain.run_to_ceremony(ceremony.DEAL)
    liar, victim = chain.by_slots(0), chain.by_slots(1)
    slot = groups.compute_slots(chain.running().members, victim.address)[3]
    chain.send(liar, chain.corrupt_dealing(liar, lambda record: damage_share(record, slot)))
    chain.silence(liar)
    chain.run_until(lambda: chain.running().phase == ceremony.COMPLAIN)
    return chain


def test_one_wrong_share_convicts_its_dealer_and_the_group_does_without(complaining):
    chain = complaining
    liar, victim = chain.by_slots(0), chain.by_slots(1)
    assert [chain.find_complaints(chain.by_slots(place)) for place in (2, 3)] == [[], []]
    (complaint,) = chain.find_complaints(victim)
    chain.send(victim, complaint)
    chain.block()
    assert chain.node(chain.order[0]).guilty == 0
    assert refuse(chain, victim, complaint) == "already-guilty"
    chain.silent = set()
    chain.finish_ceremony()
    group = groups.get_current(chain.state)
    assert group.number == 2
    assert liar.address not in chain.running().added
    assert len(chain.running().added) == 3
    # The convicted dealer still owns slots, and the group signs.
    index = chain.run_to_due()
    chain.run_until(lambda: chain.read_value(index) is not None)
    assert chain.read_value(index).group == 2


def test_defence_off_an_uncontested_wrong_share_enters_the_group_and_its_victim_cannot_sign(complaining):
    """Without the complaint the wrong share is summed up: the victim sees it and signs nothing, rather than wrongly."""
    chain = complaining
    chain.silent = set()
    chain.finish_ceremony()
    assert chain.by_slots(0).address in chain.running().added
    group, victim = groups.get_current(chain.state), chain.by_slots(1)
    assert len(group.get_slots(victim.address)) > 0
    assert chain.make_partials(victim, beacon.HEIGHT, 1).partials == ()


def test_invalid_complaints_about_an_honest_dealer_or_with_a_false_proof(complaining):
    chain = complaining
    running, victim, honest = chain.running(), chain.by_slots(1), chain.by_slots(2)
    (right,) = chain.find_complaints(victim)
    record = chain.read_record(honest)
    label = groups.compute_label(chain.application.chain_id)
    context = groups.compute_context(label, running.number, honest.address)
    unfounded = prove(chain, victim, record, context)
    assert refuse(chain, victim, m.PostComplaint(running.number, honest.address, *unfounded)) == "unfounded"
    for wrong in (
        msgspec.structs.replace(right, proof=flip(right.proof, 40)),
        msgspec.structs.replace(right, shared_point=unfounded.shared_point),
        msgspec.structs.replace(right, shared_point=bytes(48)),
        msgspec.structs.replace(right, dealer=honest.address),
    ):
        assert refuse(chain, victim, wrong) == "false-proof"
    # The victim's proof in another member's mouth.
    assert refuse(chain, chain.by_slots(3), right) == "false-proof"
    assert refuse(chain, victim, msgspec.structs.replace(right, number=3)) == "wrong-phase"
    assert refuse(chain, victim, msgspec.structs.replace(right, dealer=bytes(20))) == "no-dealing"
    chain.finish_ceremony()
    assert refuse(chain, victim, right) == "wrong-phase"
    assert all(chain.node(index).guilty == -1 for index in range(4))


def prove(chain, key, record, context):
    return prove_complaint(chain.group_keys[key.address]._key, record.ephemeral, context)


def replace_first(points):
    return lambda record: msgspec.structs.replace(record, commitments=(points, *record.commitments[1:]))


BAD_DEALINGS = {
    "one commitment less": (
        "wrong-threshold",
        lambda record: msgspec.structs.replace(record, commitments=record.commitments[1:]),
    ),
    "one commitment more": (
        "wrong-threshold",
        lambda record: msgspec.structs.replace(record, commitments=record.commitments + record.commitments[:1]),
    ),
    "one share less": ("wrong-slots", lambda record: msgspec.structs.replace(record, shares=record.shares[1:])),
    "one share more": (
        "wrong-slots",
        lambda record: msgspec.structs.replace(record, shares=record.shares + record.shares[:1]),
    ),
    "no point": ("bad-point", replace_first(bytes(96))),
    "infinity": ("bad-point", replace_first(b"\xc0" + bytes(95))),
    "coordinate above the prime": ("bad-point", replace_first(b"\x9f" + b"\xff" * 95)),
    "uncompressed flag": (
        "bad-point",
        lambda record: replace_first(bytes([record.commitments[0][0] & 0x7F]) + record.commitments[0][1:])(record),
    ),
    "foreign ephemeral key": (
        "bad-ephemeral",
        lambda record: msgspec.structs.replace(
            record, ephemeral=make_group_key(AccountKey.from_secret(bytes(32))).public_key
        ),
    ),
    "damaged proof": (
        "bad-ephemeral",
        lambda record: msgspec.structs.replace(record, ephemeral_proof=flip(record.ephemeral_proof, 50)),
    ),
    "no ephemeral point": ("bad-point", lambda record: msgspec.structs.replace(record, ephemeral=bytes(48))),
}


@pytest.mark.parametrize("bad", BAD_DEALINGS.values(), ids=BAD_DEALINGS)
def test_invalid_dealings_are_refused_whole(dealing, bad):
    code, damage = bad
    dealer = dealing.by_slots(0)
    assert refuse(dealing, dealer, dealing.corrupt_dealing(dealer, damage)) == code
    # A refused dealing does not count as dealt: the right one still passes.
    for part in dealing.deal(dealer):
        dealing.send(dealer, part)


def test_invalid_dealings_by_part_number_sender_and_replay(dealing):
    chain, dealer = dealing, dealing.by_slots(0)
    (right,) = chain.deal(dealer)
    replace = functools.partial(msgspec.structs.replace, right)
    assert refuse(chain, dealer, replace(part=1)) == "bad-part"
    assert refuse(chain, dealer, replace(parts=ceremony.MAX_PARTS + 1)) == "bad-part"
    assert refuse(chain, dealer, replace(number=right.number + 1)) == "wrong-phase"
    assert refuse(chain, dealer, replace(data=right.data[:-1])) == "malformed"
    assert refuse(chain, dealer, replace(data=right.data + b"\x00")) == "malformed"
    assert refuse(chain, dealer, replace(data=b"\x94\xdc\x00" + right.data[2:])) in {"malformed", "non-canonical"}
    # A dealing names its dealer: nobody can deal another's.
    assert refuse(chain, chain.by_slots(1), right) == "bad-ephemeral"
    chain.send(dealer, right)
    chain.block()
    assert refuse(chain, dealer, right) == "already-dealt"


def test_parts_in_any_order_make_a_dealing_and_a_missing_one_makes_none(dealing):
    chain = dealing
    whole, partly = chain.by_slots(0), chain.by_slots(1)
    for dealer, parts in ((whole, (1, 0)), (partly, (0,))):
        (right,) = chain.deal(dealer)
        data = (right.data[:1_000], right.data[1_000:])
        for part in parts:
            chain.send(dealer, m.PostDealing(right.number, part, 2, data[part]))
    chain.silence(whole, partly)
    chain.run_until(lambda: chain.running().phase == ceremony.COMPLAIN)
    chain.silent = set()
    chain.finish_ceremony()
    assert whole.address in chain.running().added
    assert partly.address not in chain.running().added
    assert list(ceremony.PARTS.scan(chain.state)) == []


def test_silent_dealer_is_left_out_and_loses_a_step_of_reputation(dealing):
    chain, silent = dealing, dealing.by_slots(3)
    chain.silence(silent)
    chain.run_until(lambda: chain.running().phase == ceremony.COMPLAIN)
    view = look_ahead(chain)
    nodes.update_node(view, silent.address, reputation=2)
    while ceremony.get_ceremony(view).phase == ceremony.COMPLAIN:
        ceremony.end_block(view, chain.params, chain.application.chain_id)
        view.height += 1
    assert nodes.NODES.get(view, silent.address).reputation == 1
    assert nodes.NODES.get(view, silent.address).guilty == -1
    chain.finish_ceremony()
    assert groups.get_current(chain.state).number == 2
    assert silent.address not in chain.running().added


def test_exactly_half_of_the_slots_dealt_soundly_makes_no_group(dealing):
    chain = dealing
    chain.silence(chain.by_slots(0), chain.by_slots(1))
    chain.run_until(lambda: chain.running().phase == ceremony.COMPLAIN)
    chain.silence(chain.by_slots(0))
    chain.finish_ceremony()
    assert groups.get_current(chain.state).number == 1


def test_group_key_changed_in_this_epoch_serves_the_next_one_only(dealing):
    chain, member = dealing, dealing.by_slots(1)
    before = get_member_keys(chain.state, chain.running())
    fresh = make_group_key(AccountKey.from_secret(hash_parts("fresh")))
    possession = fresh._key.prove_possession(
        nodes.compute_possession_context(chain.application.chain_id, member.address)
    )
    chain.send(member, m.RegisterGroupKey(fresh.public_key, possession), sequence=0)
    chain.block()
    assert get_member_keys(chain.state, chain.running()) == before
    assert nodes.get_group_key(chain.state, member.address, 1) == fresh.public_key
    assert refuse_ordered(chain, member, m.RegisterGroupKey(fresh.public_key, flip(possession, 40))) == "bad-possession"
    assert (
        refuse_ordered(chain, chain.by_slots(0), m.RegisterGroupKey(fresh.public_key, possession)) == "bad-possession"
    )
    chain.finish_ceremony()
    index = chain.run_to_due()
    chain.run_until(lambda: chain.read_value(index) is not None)


def refuse_ordered(chain, key, message):
    return chain.application.deliver(look_ahead(chain), chain.sign(key, message)).code


def test_committee_below_its_bound_starts_no_ceremony(monkeypatch):
    """No single node holds two thirds, and 16 drawn slots are too few: a third of weight would draw nine of them often."""
    small = functools.partial(choose_committee, largest=1, drawn_slots=16, drawn_threshold=9)
    monkeypatch.setattr(ceremony, "choose_committee", small)
    chain = BeaconChain()
    chain.run_to_ceremony(ceremony.DONE)
    assert chain.running().members == ()
    assert groups.get_current(chain.state).number == 1
    assert refuse(chain, chain.keys[0], m.PostDealing(2, 0, 1, b"")) == "wrong-phase"
    index = chain.run_to_due()
    chain.run_until(lambda: chain.read_value(index) is not None)
