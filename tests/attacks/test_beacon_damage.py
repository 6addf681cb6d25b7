"""Random damage to the messages of seed, beacon and ceremony: refused with a code and no trace, or every invariant holds."""

from __future__ import annotations

import msgspec
import pytest
from beacon_chain import BeaconChain, damage_share, flip_bit, look_ahead, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.ledger import beacon, ceremony, groups, race
from paceline.ledger.admission import signed_bytes
from paceline.ledger.invariants import find_violations
from paceline.protocol import messages as m
from paceline.protocol import transactions as t
from paceline.protocol.codec import encode


@pytest.fixture(scope="module")
def scenes():
    """Chains in the phases that take each kind of message, with a right message for each."""
    reveal, seed, deal, complain = BeaconChain(), BeaconChain(), BeaconChain(), BeaconChain()
    reveal.run_to_phase(race.REVEAL)
    seed.run_to_phase(race.SEED)
    seed.silence(*seed.keys)
    due = BeaconChain()
    due.silence(*due.keys)
    index = due.run_to_due()
    due.block()
    fresh = BeaconChain()
    fresh.tick()
    deal.run_to_ceremony(ceremony.DEAL)
    complain.run_to_ceremony(ceremony.DEAL)
    liar, victim = complain.by_slots(0), complain.by_slots(1)
    complain.send(liar, complain.corrupt_dealing(liar, lambda record: damage_share(record, 12)))
    complain.silence(liar)
    complain.run_until(lambda: complain.running().phase == ceremony.COMPLAIN)
    contribution = reveal.group_keys[reveal.keys[0].address].make_contribution(reveal.application.chain_id, 0)
    return [
        (fresh, 0, m.CommitSeed(0, bytes(32))),
        (reveal, 0, m.RevealSeed(0, contribution)),
        (seed, 0, seed.make_partials(seed.keys[0], beacon.RACE, 0)),
        (due, 0, due.make_partials(due.keys[0], beacon.HEIGHT, index)),
        (deal, deal.order[0], deal.deal(deal.by_slots(0))[0]),
        (complain, complain.order[1], complain.find_complaints(victim)[0]),
    ]


FIELDS = st.one_of(
    st.integers(-1, 2**33),
    st.binary(max_size=100),
    st.sampled_from(["height", "race", ""]),
    st.lists(st.binary(min_size=48, max_size=48), max_size=12).map(tuple),
)


@settings(max_examples=150)
@given(scene=st.integers(0, 5), field=st.integers(0, 5), value=FIELDS, at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_invalid_fields_and_bytes_are_refused_or_leave_every_invariant(scenes, scene, field, value, at, bit):
    """One field replaced, or one bit of one bytes field turned, in a message that would have passed; the signature is right."""
    chain, sender, right = scenes[scene]
    names = right.__struct_fields__
    name = names[field % len(names)]
    old = getattr(right, name)
    if isinstance(old, bytes) and isinstance(value, int) and old:
        value = flip_bit(old, at, bit)
    elif isinstance(old, tuple) and isinstance(value, int):
        value = (flip_bit(old[0], at, bit), *old[1:])
    deliver_and_check(chain, chain.sign(chain.keys[sender], msgspec.structs.replace(right, **{name: value})))


@settings(max_examples=100)
@given(scene=st.integers(0, 5), at=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.integers(0, 3))
def test_invalid_bytes_inside_a_signed_body_are_refused_or_leave_every_invariant(scenes, scene, at, bit, cut):
    chain, sender, right = scenes[scene]
    key = chain.keys[sender]
    envelope = msgspec.msgpack.decode(chain.sign(key, right), type=t.Transaction)
    body = flip_bit(envelope.body, at, bit)
    body = body[: len(body) - cut]
    deliver_and_check(chain, encode(t.Transaction(body, key.public_key, key.sign(signed_bytes(body)))))


def test_undamaged_messages_of_every_scene_pass(scenes):
    for chain, sender, right in scenes:
        assert chain.application.deliver(look_ahead(chain), chain.sign(chain.keys[sender], right)).code == "ok"


def deliver_and_check(chain, data):
    view = look_ahead(chain)
    before = snapshot(view)
    result = chain.application.deliver(view, data)
    if result.code != "ok":
        assert result.message
        assert snapshot(view) == before
        return
    ceremony.end_block(view, chain.params, chain.application.chain_id)
    race.end_block(view, chain.params)
    assert find_violations(view, chain.params) == []
    assert groups.get_current(view).number == groups.get_current(chain.state).number
