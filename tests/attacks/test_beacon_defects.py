"""What an honest network survives: a liar among few signers, long silence, changed keys, leftovers, a change of groups."""

from __future__ import annotations

import msgspec
from beacon_chain import BeaconChain, look_ahead
from chain_harness import PARAMS, make_group_key

from paceline.base.dealing import prove_complaint
from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.ledger import beacon, ceremony, groups, nodes, race
from paceline.protocol import messages as m


def test_value_comes_when_right_partials_are_enough_after_a_liar_is_expelled():
    """5 + 12 + 12 slots have posted, the five lied: 24 right ones are on the ledger, 21 are the threshold."""
    probe = BeaconChain()
    weights = [0] * 4
    for place, weight in enumerate((500, 1_200, 1_200, 1_100)):
        weights[probe.order[place]] = weight
    chain = BeaconChain(weights=weights)
    chain.silence(*chain.keys)
    index = chain.run_to_due()
    chain.block()
    group = groups.get_current(chain.state)
    assert [len(group.get_slots(chain.by_slots(place).address)) for place in range(4)] == [5, 12, 12, 11]
    liar = chain.by_slots(0)
    wrong = chain.make_partials(liar, beacon.HEIGHT, index - 1).partials if index > 1 else (b"\xc0" + bytes(47),) * 5
    chain.send(liar, m.PostPartials(beacon.HEIGHT, index, 1, wrong))
    for place in (1, 2):
        chain.send(chain.by_slots(place), chain.make_partials(chain.by_slots(place), beacon.HEIGHT, index))
    chain.block()
    assert chain.node(chain.order[0]).guilty == 0
    assert chain.read_value(index) is not None


def test_value_that_something_waits_for_comes_however_long_the_group_was_silent():
    """After 512 indices without a signature `get_due` still asks for the value, and the ledger still takes it."""
    chain = BeaconChain()
    chain.run_to_phase(race.CLAIMS)
    chain.silence(*chain.keys)
    chain.run_to_phase(race.SAMPLE)
    index = race.get_race(chain.state).round_index
    view = look_ahead(chain)
    view.height = (index + beacon.KEPT_VALUES) * PARAMS.beacon_interval + 1
    assert index in beacon.get_due(view)
    for key in chain.keys[:3]:
        message = chain.make_partials(key, beacon.HEIGHT, index)
        assert chain.application.deliver(view, chain.sign(key, message, expires_at=view.height + 9)).code == "ok"
    assert beacon.get_value(view, index) is not None


def test_member_cannot_frame_an_honest_dealer_by_changing_its_key_twice_across_an_epoch():
    """Complaints are checked by the key of the ceremony's epoch, however often it changes in the next one."""
    chain = BeaconChain()
    chain.run_to_ceremony(ceremony.DEAL)
    chain.run_until(lambda: chain.running().phase == ceremony.COMPLAIN)
    framer, honest = chain.by_slots(1), chain.by_slots(2)
    view = look_ahead(chain)
    chain_id = chain.application.chain_id
    possession = nodes.compute_possession_context(chain_id, framer.address)
    keys = [make_group_key(AccountKey.from_secret(hash_parts("framer", bytes([index])))) for index in range(2)]
    for epoch, key in enumerate(keys):
        message = m.RegisterGroupKey(key.public_key, key._key.prove_possession(possession))
        view.height = max(view.height, epoch * PARAMS.epoch_blocks + 1)
        nodes.apply_group_key(view, chain_id, framer.address, message, epoch)
    running = chain.running()
    context = groups.compute_context(groups.compute_label(chain_id), running.number, honest.address)
    lie = prove_complaint(keys[0]._key, chain.read_record(honest).ephemeral, context)
    complaint = m.PostComplaint(running.number, honest.address, *lie)
    result = chain.application.deliver(view, chain.sign(framer, complaint, expires_at=view.height + 9))
    assert result.code == "false-proof"
    assert nodes.NODES.get(view, honest.address).guilty == -1


def test_partials_nobody_needs_any_more_leave_the_state():
    """Below the threshold, partials of indices long past and of a Race that failed are dropped."""
    chain = BeaconChain(3)
    chain.run_to_phase(race.SEED)
    chain.silence(*chain.keys)
    chain.send(chain.keys[0], chain.make_partials(chain.keys[0], beacon.RACE, 0))
    chain.block()
    view = look_ahead(chain)
    found = race.get_race(view)
    race.STATE.put(view, b"", msgspec.structs.replace(found, deadline=0))
    for address, _ in list(nodes.NODES.items(view))[:1]:
        nodes.update_node(view, address, weight=10**9)
        race.seeds.CONTRIBUTIONS.delete(view, address)
    view.height = 4 * PARAMS.fallback_blocks
    race.end_block(view, chain.params)
    assert race.get_race(view).phase == race.DONE
    assert not beacon.has_posted(view, beacon.RACE, 0, 1, chain.keys[0].address)


def test_proposer_cannot_choose_between_two_groups_for_a_height_they_share():
    """The proposer of the block that installs a group has seen the old one's signature on the latest due height.

    Left out of that block, it comes too late; the new group must then give the height no other value, or none at all.
    """
    chain = BeaconChain()
    chain.run_to_ceremony(ceremony.DEAL)
    chain.silence(chain.by_slots(3))
    # The last dealer chooses the height: the group comes right after one that the beacon signs.
    wait = PARAMS.beacon_interval - PARAMS.complain_blocks % PARAMS.beacon_interval
    chain.run_until(lambda: (chain.height + 1) % PARAMS.beacon_interval == wait)
    chain.silent = set()
    chain.run_until(lambda: chain.running().phase == ceremony.ADD)
    assert chain.height % PARAMS.beacon_interval == 0
    index = chain.height // PARAMS.beacon_interval
    assert chain.read_value(index) is None
    values = []
    for left_out in (False, True):
        view = look_ahead(chain)
        former = [] if left_out else [chain.make_partials(key, beacon.HEIGHT, index) for key in chain.keys[:3]]
        for key, message in zip(chain.keys, former, strict=False):
            assert chain.application.deliver(view, chain.sign(key, message)).code == "ok"
        ceremony.end_block(view, chain.params, chain.application.chain_id)
        group = groups.get_current(view)
        assert group.number == 2
        view.height += 1
        text = beacon.compute_message(chain.application.chain_id, beacon.HEIGHT, index, group.number)
        for key in chain.keys[:3]:
            partials = chain.group_keys[key.address].sign(view, group, text)
            chain.application.deliver(view, chain.sign(key, m.PostPartials(beacon.HEIGHT, index, 2, partials)))
        values.append(beacon.get_value(view, index))
    assert values[0] is not None
    assert values[1] is None
