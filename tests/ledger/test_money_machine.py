"""All messages in any order against a running network: every coin is in one place after every block, and what is refused moves nothing.

Messages are built from their types alone, beside a few that are meant: votes, trades, proposals, sessions and answers. Each block goes through a
replica; after each all invariants hold, the supply among them.
"""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest
from chain_harness import FUNDS, MODEL, PARAMS
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from message_fuzz import KINDS, Fuzzer
from pool_chain import PoolChain

from paceline.base.errors import InvalidTransaction
from paceline.base.keys import AccountKey
from paceline.base.range_tree import RangeTree
from paceline.economy.supply import TOTAL_SUPPLY
from paceline.ledger import race
from paceline.ledger.accounts import POOLS, compute_supply
from paceline.ledger.channel_records import CHANNELS
from paceline.ledger.invariants import find_violations
from paceline.ledger.sessions import SESSIONS
from paceline.ledger.tasks import TASKS
from paceline.ledger.training import RUNS
from paceline.protocol import funding, pools, proposals
from paceline.protocol import messages as m
from paceline.protocol.assets import DIGITS, QUOTED
from paceline.protocol.prices import VotePrice

COIN = 10**9
BATCH = 100
FREE_TABLES = (b"accounts/", b"admission/")
"""What a refused transaction may change: its fee and sequence, and that it was seen."""
BUSY = msgspec.structs.replace(
    PARAMS,
    epoch_blocks=120,
    duty_limit=10**6,
    vesting_epochs=2,
    blocks_per_day=60,
    governance=msgspec.structs.replace(PARAMS.governance, voting_blocks=20, deposit=COIN),
    pools=msgspec.structs.replace(PARAMS.pools, top_host_weight=50, founders_cliff_days=1, founders_days=4),
)


SENT: Counter[type] = Counter()
"""Messages by kind, of all runs."""
CODES: Counter[str] = Counter()


class Money(RuleBasedStateMachine):
    """Five nodes, a user and a stranger."""

    @initialize()
    def start(self):
        self.chain = PoolChain(params=BUSY)
        self.stranger = AccountKey.from_secret(b"s" * 32)
        for key in (*self.chain.keys, self.stranger):
            self.chain.send(self.chain.user, m.Transfer(key.address, 100 * COIN))
        self.chain.run_race([100] * 5)
        self.sessions = [self.chain.open_session(deposit=10**10)]
        self.answered = 0
        self.end_block()

    def give(self, key, message):
        """One message at the door; its code."""
        kind = type(message)
        SENT[kind] += 1
        code = "ok"
        try:
            self.chain.send(key, message)
        except InvalidTransaction as refused:
            code = refused.code
        CODES[code] += 1
        return code

    def end_block(self):
        """Order what waits, replay it, count every coin; then the duties, before anything thrown can take their place."""
        data, result = self.chain.sequencer.produce_block(0)
        self.chain.replica.apply_block(data)
        state = self.chain.state
        assert find_violations(state, self.chain.application.params) == []
        assert compute_supply(state) == TOTAL_SUPPLY
        self.chain._do_beacon()
        return result

    def list_known(self):
        chain, state = self.chain, self.chain.state
        people = [key.address for key in (*chain.keys, chain.user, self.stranger)]
        found = [*people, *POOLS.values(), bytes(20), bytes(32)]
        found += [key for table in (RUNS, SESSIONS, TASKS, CHANNELS) for key, _ in table.items(state)][:40]
        return found + [key.public_key for key in chain.keys]

    @rule(seed=st.integers(0, 2**32 - 1))
    def throw_anything(self, seed):
        chance = random.Random(seed)
        fuzzer, people = Fuzzer(chance, self.list_known()), (*self.chain.keys, self.chain.user, self.stranger)
        for _ in range(BATCH):
            kind = chance.choice(list(KINDS))
            self.give(chance.choice(people), fuzzer.build(kind))
        self.end_block()

    @rule(seed=st.integers(0, 2**32 - 1))
    def refuse_without_a_trace(self, seed):
        """The same beside the mempool: what is refused changes nothing but fee, sequence and memory of itself."""
        chance = random.Random(seed)
        fuzzer, people = Fuzzer(chance, self.list_known()), (*self.chain.keys, self.chain.user, self.stranger)
        for _ in range(BATCH // 4):
            branch = self.chain.state
            message = fuzzer.build(chance.choice(list(KINDS)))
            result = self.chain.application.deliver(branch, self.chain.sign(chance.choice(people), message))
            SENT[type(message)] += 1
            CODES[result.code] += 1
            assert result.code == "ok" or all(key.startswith(FREE_TABLES) for key in branch.changes)
            assert compute_supply(branch) == TOTAL_SUPPLY

    @rule(node=st.integers(0, 4), price=st.sampled_from([0, 1, 10**6, 3 * 10**6, 10**12, 10**18]))
    def vote_on_the_price(self, node, price):
        assert (self.give(self.chain.keys[node], VotePrice(price)) == "bad-price") == (price in {0, 10**18})

    @rule(node=st.integers(0, 4), choice=st.sampled_from(["yes", "yes", "no", "veto"]), number=st.integers(1, 8))
    def vote_on_a_proposal(self, node, choice, number):
        self.give(self.chain.keys[node], proposals.VoteProposal(number, choice))

    @rule(
        action=st.sampled_from(
            [
                proposals.PayGrant(b"g" * 20, 10**6),
                proposals.ChangeParameter("transfer_fee", 2_000),
                proposals.ChangeParameter("reduction_ppm", 300_000),
                proposals.ApproveMethod(b"c" * 32, "here"),
                proposals.Statement(),
            ]
        )
    )
    def propose(self, action):
        self.give(self.chain.user, proposals.SubmitProposal("title", "why", action))

    @rule(
        node=st.integers(0, 4),
        asset=st.sampled_from(QUOTED),
        quote=st.sampled_from([0, 10**6, 3 * 10**9, 10**13, 10**18]),
    )
    def vote_on_a_quote(self, node, asset, quote):
        assert (self.give(self.chain.keys[node], pools.VoteQuote(asset, quote)) == "bad-quote") == (
            quote in {0, 10**18}
        )

    @rule(who=st.integers(-1, 4), coins=st.integers(1, 50 * COIN), buys=st.booleans(), asset=st.sampled_from([*DIGITS]))
    def trade(self, who, coins, buys, asset):
        key = self.chain.user if who < 0 else self.chain.keys[who]
        self.give(key, pools.BuyCoins(coins, 10**18, asset) if buys else pools.RedeemCoins(coins, 1, asset))

    @rule(amount=st.sampled_from([0, 1, COIN, FUNDS, 10**18]), to=st.integers(0, 4))
    def pay(self, amount, to):
        self.give(self.chain.user, m.Transfer(self.chain.keys[to].address, amount))

    @rule(relay=st.integers(0, 4), deposit=st.sampled_from([1, 10**8, 10**10, 10**18]))
    def open_session(self, relay, deposit):
        self.give(self.chain.user, m.OpenSession(self.chain.keys[relay].address, MODEL, deposit))

    @rule(goal=st.sampled_from([10**6, 10**9, 10**12]), amount=st.sampled_from([1, 10**6, 10**9]))
    def share_a_run(self, goal, amount):
        """A run of participants, and coins for every run that takes some."""
        shape = {"rounds": 1, "trainers": 1, "segments": 1, "micro_units": 1, "goal": goal, "fee_ppm": 10**5}
        self.give(self.chain.user, funding.OpenSharedRun(b"plan", bytes(32), bytes(32), **shape))
        for run_id, _ in RUNS.items(self.chain.state)[:4]:
            self.give(self.chain.user, funding.FundRun(run_id, amount))
            self.give(self.chain.keys[0], m.JoinRun(run_id))

    @rule(dear=st.booleans())
    def answer(self, dear):
        """A receipt of the node that is drawn, in the first session, while that lives."""
        session = SESSIONS.get(self.chain.state, self.sessions[0])
        if session is None or not session.seed:
            return
        index, self.answered = self.answered, self.answered + 1
        order = self.chain.order(self.sessions[0], index)
        if not order or order[0] not in [key.address for key in self.chain.keys]:
            # By now nobody serves the model, or somebody who joined meanwhile does.
            return
        executor = self.chain.key_of(order[0])
        tokens = 10**7 if dear else 20
        self.give(
            executor, m.SubmitReceipts((self.chain.receipt(self.sessions[0], index, executor, completion=tokens),))
        )

    @rule(outcome=st.sampled_from([m.ACCEPTED, m.REJECTED, m.UNDECIDED]))
    def judge(self, outcome):
        """Everybody says the same about every task that waits for it."""
        for task_id, task in TASKS.items(self.chain.state)[:6]:
            message = m.JudgeTask(task_id, m.Verdict(outcome, "test", (1, 0)))
            for key in self.chain.keys:
                if key.address in task.asked and not task.votes:
                    self.give(key, m.CommitVerdict(task_id, message.compute_commitment(key.address)))
                self.give(key, message)
        self.end_block()

    @rule(rejected=st.sampled_from([(), (4,)]))
    def race_on(self, rejected):
        """One step of a Race: claims, openings or checks, whatever is due."""
        chain, phase = self.chain, self.chain.phase()
        try:
            if phase == race.CLAIMS:
                chain.claim_all({index: chain_tree(50 + index) for index in range(5)})
            elif phase == race.OPENINGS:
                for index in range(5):
                    chain.send(chain.keys[index], chain.open_race(index, chain_tree(50 + index)))
            elif phase in {race.CHECKS, race.VERDICTS}:
                chain.act_on_claims(rejected=rejected)
        except (InvalidTransaction, AttributeError, IndexError):
            # Somebody has acted before, or has no claim in this Race.
            pass
        self.end_block()

    @rule(blocks=st.integers(1, 40))
    def wait(self, blocks):
        for _ in range(blocks):
            self.end_block()


def chain_tree(count):
    return RangeTree(range(0, 7 * count, 7))


def run_machine(examples, steps):
    SENT.clear()
    CODES.clear()
    run_state_machine_as_test(
        Money,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return sum(SENT.values())


@pytest.mark.timeout(600)
def test_a_few_thousand_messages_in_any_order_keep_every_coin():
    assert run_machine(20, 25) > 2_000
    assert set(KINDS) <= set(SENT)
    assert len(CODES) > 40


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_a_hundred_thousand_messages_in_any_order_keep_every_coin():
    assert run_machine(420, 60) >= 100_000
    assert len(CODES) > 70
