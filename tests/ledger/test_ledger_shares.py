"""Runs that participants pay for: coins are gathered and returned to the nicoin, shares add up to a million and split later fees."""

from __future__ import annotations

import random

import msgspec
import pytest
from chain_harness import MODEL
from funded_chain import DATA, FUNDED, PLAN, ROUND, SEGMENTS, START, TRAINERS, FundedChain
from governed_chain import ENTRY, FUND, submit

from paceline.base.errors import InvalidTransaction
from paceline.base.integers import PPM, split_proportionally
from paceline.ledger import model_registry, shares, task_pay, training
from paceline.ledger.accounts import HELD_PAY, POOLS, RESERVE, RUN_ESCROW, TRAINING_FUND, get_account, move_coins
from paceline.ledger.channel_records import CHANNELS, SETTLED, Channel
from paceline.ledger.invariants import find_violations
from paceline.ledger.shares import CONTRIBUTIONS, FEES, SHARES, Room
from paceline.ledger.tasks import FINAL, TASKS
from paceline.protocol import funding as f
from paceline.protocol import messages as m
from paceline.protocol import proposals as p

GOAL = 2 * ROUND
FEE = 100_000
PARAMS = msgspec.structs.replace(FUNDED, funding=msgspec.structs.replace(FUNDED.funding, gather_blocks=10))


class SharedChain(FundedChain):
    """`user` and `other` pay for a run, three to two."""

    def __init__(self, params=PARAMS):
        super().__init__(params=params)

    def shared(self, **changes):
        fields = {
            "plan": PLAN,
            "data_hash": DATA,
            "state_hash": START,
            "rounds": 2,
            "trainers": TRAINERS,
            "segments": SEGMENTS,
            "micro_units": 10**7,
            "goal": GOAL,
            "fee_ppm": FEE,
        }
        return f.OpenSharedRun(**(fields | changes))

    def gather(self, **changes):
        digest = self.send(self.user, self.shared(**changes))
        self.block()
        return training.compute_run_id(self.user.address, digest)

    def pay_in(self, run_id, key, amount):
        self.send(key, f.FundRun(run_id, amount))
        self.block()

    def begin(self, **changes):
        run_id = self.gather(**changes)
        goal = self.run_of(run_id).funding.goal
        self.pay_in(run_id, self.user, goal - goal // 5 * 2)
        self.pay_in(run_id, self.other, goal // 5 * 2)
        self.join(run_id)
        return run_id

    def shares_of(self, run_id):
        return shares.get_shares(self.state, run_id)


@pytest.fixture
def chain():
    return SharedChain()


@pytest.fixture(scope="module")
def closed():
    chain = SharedChain()
    run_id = chain.begin(rounds=1)
    chain.play_round(run_id)
    return chain, run_id


def test_a_run_begins_with_its_goal_and_its_close_writes_the_table(chain):
    run_id = chain.gather(goal=GOAL + 1)
    assert chain.run_of(run_id).phase == training.GATHERING
    chain.pay_in(run_id, chain.user, GOAL)
    assert chain.run_of(run_id).phase == training.GATHERING
    chain.pay_in(run_id, chain.other, 1)
    assert chain.run_of(run_id).phase == training.JOINING
    chain.join(run_id)
    before = [chain.balance(key.address) for key in (chain.user, chain.other)]
    chain.play_round(run_id)
    assert FEES.get(chain.state, run_id) is None
    chain.play_round(run_id)
    assert chain.run_of(run_id).phase == training.ENDED
    # One nicoin is left, and returns to whom most of it belongs.
    assert [chain.balance(key.address) for key in (chain.user, chain.other)] == [before[0] + 1, before[1]]
    assert sum(chain.shares_of(run_id).values()) == PPM
    assert chain.pools() == (FUND, 0, 0)
    assert FEES.get(chain.state, run_id) == FEE and CONTRIBUTIONS.items(chain.state) == []


def test_what_was_not_spent_returns_in_proportion(closed):
    chain, run_id = closed
    assert chain.shares_of(run_id) == {chain.user.address: 600_000, chain.other.address: 400_000}
    assert chain.balance(RUN_ESCROW) == 0
    assert chain.balance(chain.other.address) == 10**12 - ROUND * 2 // 5 - PARAMS.transfer_fee


def test_without_all_coins_they_return_and_there_is_no_table(chain):
    before = chain.balance(chain.other.address)
    run_id = chain.gather()
    chain.pay_in(run_id, chain.other, GOAL - 1)
    for _ in range(PARAMS.funding.gather_blocks):
        chain.block()
    assert chain.run_of(run_id).phase == training.ENDED
    assert chain.balance(chain.other.address) == before - PARAMS.transfer_fee
    assert FEES.get(chain.state, run_id) is None and SHARES.items(chain.state) == []


def test_a_paused_run_takes_what_it_lacks_and_no_more(chain):
    run_id = chain.begin(goal=ROUND, rounds=3)
    assert chain.refuse(chain.other, f.FundRun(run_id, 1)) == "wrong-phase"
    chain.play_round(run_id)
    assert chain.run_of(run_id).phase == training.PAUSED
    assert chain.refuse(chain.other, f.FundRun(run_id, 2 * ROUND + 1)) == "over-goal"
    chain.pay_in(run_id, chain.other, ROUND)
    chain.play_round(run_id)
    chain.wait(run_id, training.ENDED)
    # 0.6 and 0.4 of the first round, all of the second.
    assert chain.shares_of(run_id) == {chain.user.address: 300_000, chain.other.address: 700_000}


@pytest.mark.parametrize("seed", range(20))
def test_tables_and_returns_add_up_for_any_amounts(closed, seed):
    chain, _ = closed
    state, chance = chain.state, random.Random(seed)
    run_id = bytes([seed]) * 16
    goal = chance.choice([1, 7, 10**3, 10**12])
    people = [bytes([index + 1]) * 20 for index in range(chance.randint(1, 9))]
    amounts = {address: chance.randint(1, goal) for address in people}
    for address, amount in amounts.items():
        move_coins(state, RESERVE, RUN_ESCROW, amount)
        shares.contribute(state, run_id, address, amount, Room(goal, goal))
    rest = chance.choice([0, 1, sum(amounts.values()) - 1, chance.randint(0, sum(amounts.values()))])
    shares.close_run(state, run_id, FEE, rest)
    table = shares.get_shares(state, run_id)
    assert sum(get_account(state, address).balance for address in people) == rest
    spent = sum(amounts.values()) - rest
    assert sum(table.values()) == (PPM if spent else 0)
    for address, ppm in table.items():
        assert abs(ppm * spent - PPM * (amounts[address] - get_account(state, address).balance)) <= spent
    assert [line for line in find_violations(state, PARAMS) if "shares" in line] == []


# Later fees


def enter(chain, state, run_id, name=MODEL):
    entry = msgspec.structs.replace(ENTRY, name=name, run=run_id)
    shares.require_entry(state, entry)
    model_registry.add_entry(state, entry)


def test_a_vote_says_which_model_a_run_made(closed):
    chain, run_id = closed
    named = msgspec.structs.replace(ENTRY, run=run_id)
    assert chain.refuse(chain.user, submit(p.EnterModel(msgspec.structs.replace(ENTRY, run=b"x" * 16)))) == "no-shares"
    assert chain.refuse(chain.user, submit(p.EnterModel(msgspec.structs.replace(ENTRY, run=b"x")))) == "bad-entry"
    chain.decide(p.EnterModel(named))
    chain.end_epoch()
    assert model_registry.get_entry(chain.state, ENTRY.name).run == run_id
    assert chain.refuse(chain.user, submit(p.EnterModel(ENTRY))) == "shares-stand"
    state = chain.state
    FEES.put(state, b"y" * 16, FEE)
    with pytest.raises(InvalidTransaction) as refused:
        shares.require_entry(state, msgspec.structs.replace(ENTRY, run=b"y" * 16))
    assert refused.value.code == "shares-stand"
    FEES.put(state, b"y", FEE)
    with pytest.raises(InvalidTransaction) as refused:
        model_registry.require_entry(msgspec.structs.replace(ENTRY, name="other", run=b"y"))
    assert refused.value.code == "bad-entry"
    shares.require_entry(state, named)


def test_a_part_of_every_later_fee_is_split_and_the_rest_is_shared_as_always():
    chain = SharedChain()
    run_id = chain.begin(rounds=1)
    chain.play_round(run_id)
    chain.decide(p.EnterModel(msgspec.structs.replace(ENTRY, run=run_id, micro_units=10**6)))
    chain.settle()
    session = chain.open_session()
    executor = chain.first_executor(session, 0)
    chain.send(executor, m.SubmitReceipts((chain.receipt(session, 0, executor),)))
    chain.tick()
    state = chain.state
    holders = (chain.user.address, chain.other.address)
    before = {address: get_account(state, address).balance for address in holders}
    [(task_id, task)] = TASKS.items(state)
    assert task.model == MODEL
    TASKS.put(state, task_id, msgspec.structs.replace(task, status=FINAL))
    [(_, paid)] = task_pay.collect_pay(state, PARAMS)
    part = task.cost * FEE // PPM
    fund = task.cost * PARAMS.fund_ppm // PPM
    assert (paid.fund, paid.total) == (fund, task.cost - part)
    shares.pay_owed(state)
    gained = {address: get_account(state, address).balance - had for address, had in before.items()}
    assert gained == split_proportionally(part, shares.get_shares(state, run_id))
    assert get_account(state, HELD_PAY).balance >= paid.total


def test_channels_owe_their_part_too(closed):
    chain, run_id = closed
    state = chain.state
    enter(chain, state, run_id, name="made")
    settled = Channel(
        owner=chain.user.address,
        owner_key=chain.user.public_key,
        relay=chain.keys[0].address,
        model="made",
        token_price=1,
        deposit=1_005,
        left=0,
        status=SETTLED,
        round_index=0,
        expires_at=1,
        executor=chain.keys[1].address,
        held=1_005,
    )
    CHANNELS.put(state, b"c" * 16, settled)
    [(_, pay)] = task_pay.collect_pay(state, PARAMS)
    assert (pay.fund, pay.worker, pay.total) == (201, 704, 905)
    assert shares.take_part(state, "made", 7) == 0
    assert shares.take_part(state, "unknown", 10**9) == 0
    model_registry.add_entry(state, msgspec.structs.replace(ENTRY, name="old"))
    assert shares.take_part(state, "old", 10**9) == 0
    assert [line for line in find_violations(state, PARAMS) if "owed to its shares" in line] != []
    move_coins(state, TRAINING_FUND, HELD_PAY, 100)
    shares.pay_owed(state)
    assert find_violations(state, PARAMS) == []


def test_shares_are_handed_on_and_fees_follow_them(closed):
    chain, run_id = closed
    state, receiver = chain.state, b"r" * 20

    def deliver(key, to, ppm, run=run_id):
        return chain.application.deliver(state, chain.sign(key, f.TransferShares(run, to, ppm))).code

    assert deliver(chain.user, receiver, 600_001) == "over-shares"
    assert deliver(chain.user, POOLS["held pay"], 1) == "pool-address"
    assert deliver(chain.user, receiver, 1, run=b"x" * 16) == "no-shares"
    assert deliver(chain.user, receiver, 600_000) == "ok"
    assert deliver(chain.user, receiver, 1) == "over-shares"
    assert deliver(chain.other, chain.other.address, 400_000) == "ok"
    assert shares.get_shares(state, run_id) == {receiver: 600_000, chain.other.address: 400_000}
    assert find_violations(state, PARAMS) == []


def test_a_table_has_a_bounded_number_of_holders(closed, monkeypatch):
    monkeypatch.setattr(shares, "MOST_HOLDERS", 2)
    chain, run_id = closed
    assert chain.refuse(chain.user, f.TransferShares(run_id, b"r" * 20, 1)) == "too-many-holders"
    chain.application.deliver(chain.state, chain.sign(chain.user, f.TransferShares(run_id, b"r" * 20, 600_000)))


def test_invalid_shared_runs(chain):
    assert chain.refuse(chain.user, chain.shared(goal=ROUND - 1)) == "small-budget"
    run_id = chain.gather()
    least = -(-GOAL // shares.MOST_PARTS)
    assert chain.refuse(chain.other, f.FundRun(run_id, least - 1)) == "small-part"
    assert chain.refuse(chain.other, f.FundRun(run_id, GOAL + 1)) == "over-goal"
    assert chain.refuse(chain.keys[1], f.FundRun(run_id, GOAL)) == "over-balance"
    chain.pay_in(run_id, chain.user, GOAL - 1)
    chain.pay_in(run_id, chain.other, 1)
    assert chain.run_of(run_id).phase == training.JOINING


def test_the_invariants_see_a_table_that_does_not_add_up(closed):
    chain, run_id = closed
    state = chain.state
    SHARES.put(state, run_id + chain.user.address, 1)
    assert [line.split(":")[1] for line in find_violations(state, PARAMS)] == [" its shares add up to 400001"]
