"""Liars, latecomers and the silent against the beacon's seeds and values: refused with a code, left out, or expelled.

Detection power: a wrong signature that would enter a value is found with certainty, because only one signature
verifies, and its sender is expelled. Silence costs a step of reputation at most, as a crash looks the same.
"""

from __future__ import annotations

import msgspec
import pytest
from beacon_chain import BeaconChain, flip, look_ahead, refuse
from chain_harness import PARAMS

from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.ledger import beacon, ceremony, groups, nodes, race, seeds
from paceline.protocol import messages as m

# Contributions to the seed


def test_withheld_reveal_is_left_out_costs_reputation_and_the_race_goes_on():
    chain = BeaconChain()
    chain.run_to_phase(race.REVEAL)
    withholder = chain.by_slots(2)
    chain.silence(withholder)
    chain.run_until(lambda: all(seeds.CONTRIBUTIONS.get(chain.state, k.address).revealed for k in chain.keys[:1]))
    view = look_ahead(chain)
    for key in chain.keys:
        nodes.update_node(view, key.address, reputation=3)
    seeds.close_reveals(view)
    assert [nodes.NODES.get(view, chain.by_slots(place).address).reputation for place in range(4)] == [3, 3, 2, 3]
    chain.run_to_phase(race.RACING)
    assert race.get_race(chain.state).seed_source == seeds.SIGNED
    assert seeds.CONTRIBUTIONS.get(chain.state, withholder.address) is None
    assert len(seeds.CONTRIBUTIONS.items(chain.state)) == 3
    chain.silent = set()
    chain.run_race([10] * 4)
    assert chain.node(0).weight == 10


def test_invalid_reveal_after_the_window_even_one_height():
    chain = BeaconChain()
    chain.run_to_phase(race.REVEAL)
    late = chain.by_slots(3)
    chain.silence(late)
    reveal = m.RevealSeed(0, chain.group_keys[late.address].make_contribution(chain.application.chain_id, 0))
    deadline = race.get_race(chain.state).deadline
    while chain.height < deadline - 1:
        chain.tick()
    # The last height of the window still takes it.
    assert chain.application.deliver(look_ahead(chain), chain.sign(late, reveal)).code == "ok"
    chain.tick()
    assert chain.phase() == race.SEED
    assert refuse(chain, late, reveal) == "wrong-phase"


def test_invalid_signature_of_the_epoch_before_reveals_closed():
    chain = BeaconChain()
    for phase in (race.COMMIT, race.REVEAL):
        chain.run_to_phase(phase)
        assert refuse(chain, chain.keys[0], chain.make_partials(chain.keys[0], beacon.RACE, 0)) == "wrong-phase"
        assert refuse(chain, chain.keys[0], chain.make_partials(chain.keys[0], beacon.RACE, 1)) == "wrong-epoch"
    chain.run_to_phase(race.SEED)
    chain.send(chain.keys[0], chain.make_partials(chain.keys[0], beacon.RACE, 0))


def test_seed_without_any_signature_rests_on_reveals_of_more_than_two_thirds():
    chain = BeaconChain()
    chain.run_to_phase(race.SEED)
    chain.silence(*chain.keys)
    waits_since = race.get_race(chain.state).deadline
    while chain.height < waits_since + 2 * PARAMS.fallback_blocks:
        chain.tick()
    assert chain.phase() == race.SEED
    chain.tick()
    found = race.get_race(chain.state)
    assert (found.phase, found.seed_source) == (race.RACING, seeds.REVEALS_ONLY)


def test_exactly_two_thirds_of_reveals_give_no_seed_and_the_weights_stay():
    chain = BeaconChain(3, weights=[7, 7, 7])
    chain.run_to_phase(race.REVEAL)
    chain.silence(chain.by_slots(0))
    chain.run_to_phase(race.SEED)
    chain.silence(*chain.keys)
    waits_since = race.get_race(chain.state).deadline
    while chain.height < waits_since + 3 * PARAMS.fallback_blocks:
        chain.tick()
        assert chain.phase() == race.SEED
    chain.tick()
    assert chain.phase() == race.DONE
    assert [chain.node(index).weight for index in range(3)] == [7, 7, 7]
    assert chain.running().phase == ceremony.DRAW


# Partial signatures


def swap(chain, partials):
    return msgspec.structs.replace(chain, partials=partials)


WRONG_PARTIALS = {
    "no-points": lambda chain, liar, i: tuple(flip(p, 47) for p in chain.make_partials(liar, "height", i).partials),
    "infinity": lambda chain, liar, i: (b"\xc0" + bytes(47),) * 10,
    "one-of-ten": lambda chain, liar, i: (
        chain.make_partials(liar, "height", i + 1).partials[:1] + chain.make_partials(liar, "height", i).partials[1:]
    ),
    "another-height": lambda chain, liar, i: chain.make_partials(liar, "height", i - 1).partials,
    "another-kind": lambda chain, liar, i: chain.make_partials(liar, "race", i).partials,
    "another-member": lambda chain, liar, i: chain.make_partials(chain.by_slots(1), "height", i).partials,
    "another-order": lambda chain, liar, i: chain.make_partials(liar, "height", i).partials[::-1],
    "another-group": lambda chain, liar, i: chain.group_keys[liar.address].sign(
        chain.state,
        groups.get_current(chain.state),
        beacon.compute_message(chain.application.chain_id, "height", i, 2),
    ),
    "another-chain": lambda chain, liar, i: chain.group_keys[liar.address].sign(
        chain.state, groups.get_current(chain.state), beacon.compute_message("other-1", "height", i, 1)
    ),
}


@pytest.mark.parametrize("wrong", WRONG_PARTIALS.values(), ids=WRONG_PARTIALS)
def test_wrong_partials_expel_the_liar_and_the_value_is_the_one_it_always_was(wrong):
    chain = BeaconChain()
    liar = chain.by_slots(0)
    chain.silence(*chain.keys)
    index = chain.run_to_due()
    chain.block()
    expected = chain.expect_signature(index)
    chain.send(liar, m.PostPartials(beacon.HEIGHT, index, 1, wrong(chain, liar, index)))
    for place in (1, 2):
        chain.send(chain.by_slots(place), chain.make_partials(chain.by_slots(place), beacon.HEIGHT, index))
    chain.block()
    # 30 slots had signed, ten of them wrongly: no value, and the liar is out.
    assert chain.read_value(index) is None
    assert chain.node(chain.order[0]).guilty == 0
    assert chain.node(chain.order[1]).guilty == -1
    assert refuse(chain, liar, chain.make_partials(liar, beacon.HEIGHT, index)) == "not-a-member"
    chain.send(chain.by_slots(3), chain.make_partials(chain.by_slots(3), beacon.HEIGHT, index))
    chain.block()
    found = chain.read_value(index)
    assert found.signature == expected
    key = groups.get_current(chain.state).commitments[0]
    assert beacon.verify_value(chain.application.chain_id, index, found, key)


def test_wrong_partials_for_the_epoch_expel_the_liar_and_the_seed_comes():
    chain = BeaconChain()
    chain.run_to_phase(race.SEED)
    liar = chain.by_slots(0)
    chain.send(liar, m.PostPartials("race", 0, 1, chain.make_partials(liar, "height", 1).partials))
    chain.silence(liar)
    chain.run_to_phase(race.RACING)
    assert race.get_race(chain.state).seed_source == seeds.SIGNED
    assert chain.node(chain.order[0]).guilty == 0


def test_invalid_partials_of_another_group_number_count_or_sender():
    chain = BeaconChain()
    chain.silence(*chain.keys)
    index = chain.run_to_due()
    chain.block()
    right = chain.make_partials(chain.keys[0], beacon.HEIGHT, index)
    for group in (0, 2, 2**32 - 1):
        assert refuse(chain, chain.keys[0], msgspec.structs.replace(right, group=group)) == "wrong-group"
    for partials in (right.partials[1:], right.partials + right.partials[:1]):
        assert refuse(chain, chain.keys[0], swap(right, partials)) == "wrong-partials"
    stranger = AccountKey.from_secret(hash_parts("stranger"))
    assert refuse(chain, stranger, right) == "not-a-node"
    chain.send(chain.keys[0], right)
    chain.block()
    assert refuse(chain, chain.keys[0], right) == "already-posted"


def test_invalid_partials_for_a_height_that_is_not_final():
    chain = BeaconChain()
    chain.silence(*chain.keys)
    chain.run_until(lambda: (chain.height + 1) % PARAMS.beacon_interval == 0)
    # The block under way is the very height: its proposer could still choose what stands in it.
    index = (chain.height + 1) // PARAMS.beacon_interval
    assert refuse(chain, chain.keys[0], chain.make_partials(chain.keys[0], beacon.HEIGHT, index)) == "not-due"
    assert refuse(chain, chain.keys[0], chain.make_partials(chain.keys[0], beacon.HEIGHT, index + 1)) == "not-due"
    assert refuse(chain, chain.keys[0], chain.make_partials(chain.keys[0], beacon.HEIGHT, 0)) == "not-due"
    chain.block()
    chain.send(chain.keys[0], chain.make_partials(chain.keys[0], beacon.HEIGHT, index))


def test_values_wait_while_half_of_the_slots_are_silent_and_come_when_they_sign():
    chain = BeaconChain()
    chain.run_to_phase(race.CLAIMS)
    chain.silence(chain.by_slots(0), chain.by_slots(1))
    chain.run_to_phase(race.SAMPLE)
    waited_for = race.get_race(chain.state).round_index
    for _ in range(40):
        chain.tick()
    # Twenty slots sign and 21 are the threshold.
    assert chain.phase() == race.SAMPLE
    assert chain.read_value(waited_for) is None
    assert beacon.is_waiting(chain.state)
    chain.silence(chain.by_slots(0))
    chain.run_until(lambda: chain.read_value(waited_for) is not None, limit=3)
    chain.run_until(lambda: chain.phase() == race.DONE)
    assert not beacon.is_waiting(chain.state)


def test_former_group_signs_once_the_current_one_has_had_its_time():
    chain = BeaconChain()
    chain.run_to_ceremony(ceremony.DEAL)
    chain.finish_ceremony()
    former = groups.get_former(chain.state)
    assert (former.number, groups.get_current(chain.state).number) == (1, 2)
    chain.silence(*chain.keys)
    index = chain.run_to_due()
    messages = {key: chain.make_partials(key, beacon.HEIGHT, index, group=former) for key in chain.keys}
    while chain.height < index * PARAMS.beacon_interval + PARAMS.fallback_blocks:
        assert refuse(chain, chain.keys[0], messages[chain.keys[0]]) == "too-early"
        chain.block()
    for key in chain.keys[:3]:
        chain.send(key, messages[key])
    chain.block()
    found = chain.read_value(index)
    assert found.group == 1
    assert beacon.verify_value(chain.application.chain_id, index, found, former.commitments[0])
