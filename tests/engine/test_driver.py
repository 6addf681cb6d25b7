"""The driver plays what engines do to an Application: crashes at every step, replays, evidence, absent validators."""

from __future__ import annotations

import pytest
from chain_harness import PARAMS, Chain
from hypothesis import given
from hypothesis import strategies as st

from paceline.base.errors import InvalidBlock
from paceline.base.hashing import hash_parts
from paceline.engine.driver import ValidatorSet
from paceline.ledger import nodes
from paceline.ledger.accounts import get_account
from paceline.ledger.evidence import MISSED
from paceline.ledger.invariants import find_violations
from paceline.protocol import messages as m
from paceline.protocol.codec import decode_own
from paceline.store.trie import TrieProof, verify_proof


def make_transfers(chain, count):
    return [chain.sign(chain.user, m.Transfer(chain.keys[0].address, 1 + number)) for number in range(count)]


@pytest.mark.parametrize("step", ["prepared", "processed", "finalized", "committed"])
def test_a_crash_at_every_step_loses_and_doubles_nothing(play, step):
    chain = Chain()
    transfers = make_transfers(chain, 3)

    async def scenario(served):
        driver = served.driver()
        await driver.start()
        await driver.run_block()
        await driver.run_block(transfers, stop_after=step)
        await driver.close()
        await served.crash()
        again = served.driver(driver.log)
        again.hashes = driver.hashes
        height = await again.start()
        assert height == (1 if step == "prepared" else 2)
        driven = await again.run_block(transfers if step == "prepared" else ())
        assert driven.height == height + 1
        state = served.application.read()
        assert find_violations(state, PARAMS) == []
        spent = sum(range(1, 4)) + 3 * PARAMS.transfer_fee
        assert 10**13 - balance_of(state, chain.user.address) == spent
        await again.close()

    play(chain.genesis, scenario)


def balance_of(state, address):
    return get_account(state, address).balance


def test_an_application_ahead_of_its_engine_is_refused(play):
    async def scenario(served):
        driver = served.driver()
        await driver.start()
        await driver.run_block()
        await driver.close()
        newer = served.driver([])
        with pytest.raises(InvalidBlock, match="ahead"):
            await newer.start()
        await newer.close()

    play(Chain().genesis, scenario)


def test_a_fresh_application_replays_the_whole_log_to_the_same_hashes(play, tmp_path):
    chain = Chain()
    log, hashes = [], {}

    async def first(served):
        driver = served.driver(log)
        await driver.start()
        for number in range(6):
            await driver.run_block(make_transfers(chain, number))
        hashes.update(driver.hashes)
        await driver.close()

    async def second(served):
        driver = served.driver(log)
        driver.hashes = dict(hashes)
        assert await driver.start() == 6
        assert driver.hashes == hashes
        await driver.close()

    play(chain.genesis, first)
    play(chain.genesis, second)


def test_executing_a_block_twice_before_commit_gives_the_same_hash(play):
    chain = Chain()

    async def scenario(served):
        driver = served.driver()
        await driver.start()
        await driver.run_block(make_transfers(chain, 2), stop_after="finalized")
        (block,) = driver.log
        await driver._execute(block)
        await driver.call("consensus", "commit")
        assert served.store.app_hash == driver.hashes[1]
        await driver.close()

    play(chain.genesis, scenario)


def test_equivocation_costs_voting_power_reputation_and_held_pay_once(play):
    chain = Chain()
    cheater = chain.keys[1]

    async def scenario(served):
        driver = served.driver()
        await driver.start()
        await driver.run_block()
        before = sum(driver.validators.powers.values())
        await driver.run_block(equivocators=[(cheater.public_key, 1), (cheater.public_key, 1)])
        assert cheater.public_key not in driver.validators.powers
        assert sum(driver.validators.powers.values()) < before
        node = nodes.NODES.get(served.application.read(), cheater.address)
        assert (node.voting_power, node.guilty, node.reputation) == (0, 0, 0)
        # The same offence again, and one of somebody unknown: no further update, no halt.
        await driver.run_block(equivocators=[(cheater.public_key, 1), (bytes(32), 1)])
        await driver.close()

    play(chain.genesis, scenario)


def test_the_last_validator_is_not_removed(play):
    chain = Chain(1)

    async def scenario(served):
        driver = served.driver()
        await driver.start()
        await driver.run_block(equivocators=[(chain.keys[0].public_key, 1)])
        assert list(driver.validators.powers) == [chain.keys[0].public_key]
        await driver.run_block()
        await driver.close()

    play(chain.genesis, scenario)


def test_absent_validators_are_counted(play):
    chain = Chain()
    sleeper = chain.keys[2]

    async def scenario(served):
        driver = served.driver()
        await driver.start()
        for _ in range(3):
            await driver.run_block(absent=[sleeper.public_key])
        state = served.application.read()
        assert MISSED.get(state, sleeper.address) == 3
        assert MISSED.get(state, chain.keys[0].address) is None
        await driver.close()

    play(chain.genesis, scenario)


def test_a_proposal_holds_duties_first_and_fits(play):
    chain = Chain()
    transfers = make_transfers(chain, 20)
    duty = chain.sign(chain.keys[0], m.JoinRun(hash_parts("run")[:16]))

    async def scenario(served):
        driver = served.driver()
        await driver.start()
        chosen = await driver.propose([*transfers, duty, transfers[0]])
        assert chosen == [duty, *transfers]
        size = len(duty) + 3 * len(transfers[0]) + 4 * 8
        assert await driver.propose([*transfers, duty], max_bytes=size) == [duty, *transfers[:3]]
        assert await driver.propose([*transfers, duty], max_bytes=size - 1) == [duty, *transfers[:2]]
        assert not await driver.judge([duty, duty])
        await driver.close()

    play(chain.genesis, scenario)


def test_a_transaction_let_in_is_tried_again_after_a_block(play):
    chain = Chain()
    ordered = [chain.sign(chain.user, m.Transfer(chain.keys[0].address, 1), sequence=number) for number in range(3)]

    async def scenario(served):
        driver = served.driver()
        await driver.start()
        assert await driver.check([ordered[0], ordered[2], ordered[1]]) == ["ok", "wrong-sequence", "ok"]
        await driver.run_block([ordered[0]])
        assert await driver.check([ordered[1], ordered[0]], again=True) == ["ok", "wrong-sequence"]
        await driver.close()

    play(chain.genesis, scenario)


def test_a_value_is_proven_under_the_app_hash(play):
    chain = Chain()

    async def scenario(served):
        driver = served.driver()
        await driver.start()
        await driver.run_block()
        key = b"accounts/by-address/" + chain.user.address
        key = next(k for k, _ in served.store.iterate(b"") if k.endswith(chain.user.address))
        answer = await driver.query(key)
        proof = TrieProof(*decode_own(tuple, answer.proof_ops.ops[0].data))
        assert answer.value and verify_proof(served.store.app_hash, key, answer.value, proof)
        await driver.close()

    play(chain.genesis, scenario)


@pytest.mark.parametrize(
    ("updates", "code"),
    [
        ([(b"a", 1), (b"a", 2)], "duplicate-update"),
        ([(b"a", -1)], "negative-power"),
        ([(b"x", 0)], "unknown-removal"),
        ([(b"a", 0), (b"b", 0)], "empty-set"),
        ([(b"a", 2**60)], "too-much-power"),
    ],
)
def test_invalid_updates_that_would_halt_a_chain_raise(updates, code):
    validators = ValidatorSet([(b"a", 10), (b"b", 10)])
    with pytest.raises(InvalidBlock, match=code):
        validators.apply(updates)
    assert validators.powers == {b"a": 10, b"b": 10}


@given(powers=st.dictionaries(st.binary(min_size=1, max_size=2), st.integers(1, 2**40), min_size=1))
def test_valid_updates_lead_to_the_desired_set(powers):
    validators = ValidatorSet([(b"first", 1)])
    validators.apply([*sorted(powers.items()), (b"first", 0)])
    assert validators.powers == powers
