"""Nodes come and go: registration with a sponsored deposit, the first Race, leaving, and every refusal."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import FUNDS, MODEL, Chain, make_group_key

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.ledger import evidence, groups, nodes, race, registration, vesting
from paceline.ledger.accounts import NODE_DEPOSITS, RESERVE, get_account
from paceline.ledger.evidence import BlockEvidence, Misbehaviour, compute_consensus_address
from paceline.ledger.invariants import find_violations
from paceline.ledger.registration import LONGEST_EXPIRY
from paceline.node.membership.registration import Description, NodeKeys, make_registration
from paceline.protocol import messages as m

SMALL_ORDER = bytes.fromhex("0100000000000000000000000000000000000000000000000000000000000000")


def make_keys(name):
    account = AccountKey.from_secret(hash_parts("new-node", name.encode()))
    consensus = AccountKey.from_secret(hash_parts("new-consensus", name.encode()))
    return NodeKeys(account, consensus, make_group_key(account))


def make(chain, name="newcomer", keys=None, chain_id=None, expires_at=None, **described):
    description = Description(
        **({"name": name, "url": "http://10.0.0.9:8100", "link": "", "serves": (MODEL,)} | described)
    )
    until = chain.height + 100 if expires_at is None else expires_at
    return make_registration(keys or make_keys(name), description, chain_id or chain.application.chain_id, until)


def refuse(chain, registration, sponsor=None):
    before = chain.height, chain.application.info().app_hash
    with pytest.raises(InvalidTransaction) as refused:
        chain.send(sponsor or chain.user, m.RegisterNode(registration))
    assert before == (chain.height, chain.application.info().app_hash)
    return refused.value.code


def join(chain, name="newcomer"):
    """Register a node and let the harness do its duties from now on."""
    keys = make_keys(name)
    chain.send(chain.user, m.RegisterNode(make(chain, name, keys)))
    chain.block()
    chain.keys.append(keys.account)
    chain.group_keys[keys.account.address] = keys.ceremony
    return len(chain.keys) - 1


def finish_epoch(chain):
    last = (chain.height // chain.params.epoch_blocks + 1) * chain.params.epoch_blocks
    chain.run_until(lambda: chain.height >= last, limit=chain.params.epoch_blocks + 1)


@pytest.fixture
def chain():
    started = Chain()
    started.block()
    return started


def test_a_sponsor_pays_and_the_node_is_there_without_weight(chain):
    index = join(chain)
    node = chain.node(index)
    assert (node.name, node.weight, node.voting_power, node.since) == ("newcomer", 0, 0, 0)
    assert (node.sponsor, node.deposit) == (chain.user.address, chain.params.node_deposit)
    paid = chain.params.node_deposit + chain.params.transfer_fee
    assert get_account(chain.state, chain.user.address).balance == FUNDS - paid
    assert get_account(chain.state, NODE_DEPOSITS).balance == chain.params.node_deposit


def test_it_may_not_claim_in_the_race_it_was_born_in_but_gets_weight_in_the_next(chain):
    index = join(chain)
    chain.run_until(lambda: chain.phase() == race.CLAIMS)
    with pytest.raises(InvalidTransaction) as refused:
        chain.send(chain.keys[index], m.CommitRace(race.get_race(chain.state).number, bytes(32), 1))
    assert refused.value.code == "too-new"
    chain.run_until(lambda: chain.phase() == race.DONE)
    finish_epoch(chain)
    chain.run_race([100] * 6)
    assert chain.node(index).weight == 100
    # Equal hits; but everybody together gains at most a quarter of all power in one epoch.
    assert 0 < chain.node(index).voting_power <= 250_000_000
    sent = dict(nodes.SENT.get(chain.state))
    assert sent[make_keys("newcomer").consensus.public_key] == chain.node(index).voting_power


def test_it_comes_into_the_committee_of_the_ceremony_after(chain):
    index = join(chain)
    finish_epoch(chain)
    chain.run_race([100] * 6)
    finish_epoch(chain)
    chain.run_race([100] * 6)
    assert groups.get_current(chain.state).get_slots(chain.keys[index].address)


def test_invalid_without_the_nodes_own_signature(chain):
    registration = make(chain)
    stolen = msgspec.structs.replace(registration, url="http://evil:1")
    assert refuse(chain, stolen) == "bad-consent"


def test_invalid_from_another_chain(chain):
    assert refuse(chain, make(chain, chain_id="other-1")) == "bad-consent"


def test_invalid_expired_by_one_and_valid_at_the_edge(chain):
    assert refuse(chain, make(chain, expires_at=chain.height)) == "expired"
    chain.send(chain.user, m.RegisterNode(make(chain, expires_at=chain.height + 1)))


def test_invalid_too_far_ahead(chain):
    assert refuse(chain, make(chain, expires_at=chain.height + 2 + LONGEST_EXPIRY)) == "far-expiry"


def test_invalid_twice_or_with_a_name_that_is_taken(chain):
    join(chain)
    assert refuse(chain, make(chain)) == "already-registered"
    assert refuse(chain, make(chain, "node-1", make_keys("other"))) == "name-taken"
    assert refuse(chain, make(chain, "newcomer", make_keys("other"))) == "name-taken"


def test_invalid_consensus_key_of_another_node(chain):
    victim, thief = make_keys("victim"), make_keys("thief")
    stolen = NodeKeys(thief.account, victim.consensus, thief.ceremony)
    # A thief who knows only the public half cannot sign for itself with it.
    copied = msgspec.structs.replace(
        make(chain, "thief", thief), consensus_key=victim.consensus.public_key, signature=bytes(64)
    )
    signed = msgspec.structs.replace(
        copied, signature=thief.account.sign(copied.signed_bytes(chain.application.chain_id))
    )
    assert refuse(chain, signed) == "bad-consensus-key"
    join(chain, "victim")
    assert refuse(chain, make(chain, "thief", stolen)) == "consensus-key-taken"


def test_invalid_small_order_consensus_key_that_every_message_would_fit(chain):
    keys = make_keys("thief")
    forged = msgspec.structs.replace(
        make(chain, "thief", keys), consensus_key=SMALL_ORDER, consensus_proof=SMALL_ORDER + bytes(32)
    )
    signed = msgspec.structs.replace(
        forged, signature=keys.account.sign(forged.signed_bytes(chain.application.chain_id))
    )
    assert refuse(chain, signed) == "bad-consensus-key"


def test_invalid_group_key_of_another_node(chain):
    keys, other = make_keys("thief"), make_keys("other")
    forged = msgspec.structs.replace(
        make(chain, "thief", keys),
        group_key=other.ceremony.public_key,
        possession=other.ceremony.prove_possession(chain.application.chain_id),
    )
    signed = msgspec.structs.replace(
        forged, signature=keys.account.sign(forged.signed_bytes(chain.application.chain_id))
    )
    assert refuse(chain, signed) == "bad-possession"


def test_invalid_sponsor_one_nicoin_short(chain):
    poor = AccountKey.from_secret(hash_parts("poor"))
    price = chain.params.node_deposit + chain.params.transfer_fee
    chain.send(chain.user, m.Transfer(poor.address, price - 1))
    chain.block()
    assert refuse(chain, make(chain), poor) == "over-balance"
    chain.send(chain.user, m.Transfer(poor.address, 1))
    chain.block()
    chain.send(poor, m.RegisterNode(make(chain)))


def test_a_node_moves(chain):
    index = join(chain)
    moved = m.DescribeNode("https://new.example:8100", "", (MODEL, "second"))
    chain.send(chain.keys[index], moved)
    chain.block()
    assert (chain.node(index).url, chain.node(index).serves) == (moved.url, moved.serves)
    assert nodes.DESCRIBED.get(chain.state) == chain.height
    with pytest.raises(InvalidTransaction) as refused:
        chain.send(chain.keys[index], moved)
    assert refused.value.code == "unchanged"


def test_invalid_description_of_a_stranger(chain):
    with pytest.raises(InvalidTransaction) as refused:
        chain.send(chain.user, m.DescribeNode("", "", ()))
    assert refused.value.code == "not-a-node"


def leave(chain, sender, address):
    chain.send(sender, m.LeaveNetwork(address))
    chain.block()


def refuse_leave(chain, sender, address):
    with pytest.raises(InvalidTransaction) as refused:
        chain.send(sender, m.LeaveNetwork(address))
    return refused.value.code


def test_a_node_leaves_and_its_sponsor_gets_the_deposit_back(chain):
    index = join(chain)
    address = chain.keys[index].address
    chain.send(chain.user, m.Transfer(address, 10**6))
    chain.block()
    leave(chain, chain.keys[index], address)
    assert refuse_leave(chain, chain.keys[index], address) == "already-leaving"
    before = get_account(chain.state, chain.user.address).balance
    for _ in range(3):
        assert nodes.NODES.get(chain.state, address) is not None
        finish_epoch(chain)
        chain.tick()
    assert nodes.NODES.get(chain.state, address) is None
    assert get_account(chain.state, NODE_DEPOSITS).balance == 0
    assert get_account(chain.state, chain.user.address).balance == before + chain.params.node_deposit
    # The name is free again, and the same keys may come back.
    chain.keys.pop()
    join(chain)


def test_who_comes_back_still_has_what_vests(chain):
    keys = make_keys("newcomer")
    chain.send(chain.user, m.RegisterNode(make(chain, keys=keys)))
    chain.block()
    state, address = chain.state, keys.account.address
    vesting.hold_reward(state, chain.params, RESERVE, address, 4_000, 0)
    nodes.update_node(state, address, leaves=2)
    for epoch in (1, 2):
        vesting.free_rewards(state, epoch)
    registration.remove_left(state, 2)
    assert nodes.NODES.get(state, address) is None
    assert vesting.get_vesting(state, address) == 2_000
    again = make(chain, keys=keys)
    registration.apply_registration(state, chain.params, chain.application.chain_id, chain.user.address, again, 3)
    assert nodes.NODES.get(state, address).vesting == 2_000
    assert find_violations(state, chain.params) == []


@pytest.mark.long
def test_a_leaving_node_races_no_more_and_stays_as_long_as_its_group_may_sign(chain):
    index = join(chain)
    address = chain.keys[index].address
    chain.send(chain.user, m.Transfer(address, 10**6))
    finish_epoch(chain)
    chain.run_race([100] * 6)
    leave(chain, chain.keys[index], address)
    leaves = chain.node(index).leaves
    finish_epoch(chain)
    chain.run_until(lambda: chain.phase() == race.CLAIMS)
    with pytest.raises(InvalidTransaction) as refused:
        chain.send(chain.keys[index], m.CommitRace(race.get_race(chain.state).number, bytes(32), 1))
    assert refused.value.code == "leaving"
    chain.run_race([100] * 5)
    assert (chain.node(index).weight, chain.node(index).voting_power) == (0, 0)
    while nodes.NODES.get(chain.state, address) is not None:
        epoch = chain.height // chain.params.epoch_blocks
        assert epoch <= leaves + 3
        finish_epoch(chain)
        chain.run_race([100] * 5)
    assert not any(group.get_slots(address) for _, group in groups.GROUPS.items(chain.state))


def test_a_sponsor_ends_what_never_raced_but_not_before_its_first_race_and_nobody_else_does(chain):
    index = join(chain)
    address = chain.keys[index].address
    assert refuse_leave(chain, chain.user, address) == "has-weight"
    chain.send(chain.user, m.Transfer(chain.keys[0].address, 10**6))
    chain.block()
    assert refuse_leave(chain, chain.keys[0], address) == "not-yours"
    for _ in range(2):
        finish_epoch(chain)
        chain.run_race([100] * 5)
    leave(chain, chain.user, address)
    assert chain.node(index).leaves >= 0


def test_evidence_against_a_node_that_left_harms_nobody(chain):
    state = chain.application.read()
    evidence.register_owner(state, b"k" * 32, b"gone" * 5)
    proof = Misbehaviour(compute_consensus_address(b"k" * 32), 1)
    assert evidence.apply_evidence(state, BlockEvidence(misbehaviours=(proof,)), 0) == []
