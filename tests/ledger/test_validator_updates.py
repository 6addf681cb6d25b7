"""Race weights on the ledger: what is sent to the engine is always a difference it accepts, over random histories."""

from __future__ import annotations

import random

import pytest
from chain_harness import PARAMS, Chain
from pool_chain import PoolChain

from paceline.ledger import nodes

TOTAL = PARAMS.power_total


@pytest.mark.parametrize("seed", range(3))
def test_random_weight_histories_keep_the_engine_and_the_ledger_at_one(seed):
    rng = random.Random(seed)
    for _ in range(60):
        chain = Chain(count=rng.randrange(1, 8))
        chain.block()
        state = chain.state
        engine = dict(nodes.SENT.get(state))
        for _ in range(10):
            weights = {key.address: rng.choice((0, 1, 5, 5, 900, 10**12)) for key in chain.keys if rng.random() < 0.7}
            weights = {address: weight for address, weight in weights.items() if weight}
            if not weights:
                continue
            updates = nodes.set_weights(state, PARAMS, weights)
            assert [key for key, _ in updates] == sorted({key for key, _ in updates})
            for key, power in updates:
                assert power or key in engine
                engine[key] = power
            engine = {key: power for key, power in engine.items() if power}
            assert engine == dict(nodes.SENT.get(state))
            held = [node.voting_power for _, node in nodes.NODES.items(state) if node.voting_power]
            assert sorted(held) == sorted(engine.values())
            assert sum(held) == TOTAL
            assert nodes.get_weights(state) == weights


def test_the_cap_with_three_holders_and_with_four():
    for count, most in ((3, -(-TOTAL // 3)), (4, 300_000_000)):
        chain = Chain(count=count)
        chain.run_race([1_000] + [100] * (count - 1))
        assert max(chain.node(index).voting_power for index in range(count)) == most
        assert chain.node(0).weight == 1_000


def test_an_engine_that_starts_again_is_told_the_same_first_validators():
    chain = PoolChain()
    first = chain.application.get_validators()
    chain.block()
    chain.run_race([100, 60, 40, 20, None])
    assert dict(nodes.SENT.get(chain.state)) != dict(first)
    assert chain.application.get_validators() == first
