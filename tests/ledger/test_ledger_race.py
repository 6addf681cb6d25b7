"""The Race on the ledger: phases, verdicts by previous weights, votes."""

from __future__ import annotations

import pytest
from chain_harness import Chain

from paceline.base.errors import InvalidTransaction
from paceline.base.range_tree import RangeTree
from paceline.ledger import nodes, race
from paceline.protocol import messages as m


def refuse(chain, key, message):
    with pytest.raises(InvalidTransaction) as refused:
        chain.send(key, message)
    return refused.value.code


def test_hits_become_weight_and_power():
    chain = Chain()
    chain.run_race([100, 200, 100, 100, 100])
    assert [chain.node(index).weight for index in range(5)] == [100, 200, 100, 100, 100]
    assert sum(chain.node(index).voting_power for index in range(5)) == chain.params.power_total
    # 2/6 of the weight, cut to the cap.
    assert chain.node(1).voting_power == 300_000_000


def test_a_rejected_claim_gets_no_weight_and_its_node_is_guilty():
    chain = Chain()
    chain.run_race([100] * 5, rejected=[4])
    assert chain.node(4).weight == 0
    assert chain.node(4).voting_power == 0
    assert chain.node(4).guilty == 0
    assert chain.node(3).guilty == -1


def test_withheld_openings_cost_the_claim_but_are_no_guilt():
    chain = Chain()
    chain.run_race([100] * 5, silent_openings=[2])
    assert chain.node(2).weight == 0
    assert chain.node(2).guilty == -1


def test_nobody_races_and_the_weights_stay():
    chain = Chain(weights=[5, 6, 7, 8, 9])
    chain.run_race([None] * 5)
    assert [chain.node(index).weight for index in range(5)] == [5, 6, 7, 8, 9]


def test_all_rejected_and_the_weights_stay():
    chain = Chain(weights=[5, 6, 7, 8, 9])
    chain.run_race([50] * 5, rejected=range(5))
    assert [chain.node(index).weight for index in range(5)] == [5, 6, 7, 8, 9]


def test_invalid_claim_one_height_early_and_one_late():
    chain = Chain()
    chain.run_until(lambda: chain.phase() == race.RACING)
    closes = race.get_race(chain.state).deadline
    claim = m.CommitRace(0, bytes(32), 5)
    while chain.height < closes - 1:
        assert refuse(chain, chain.keys[0], claim) == "wrong-phase"
        chain.tick()
    assert refuse(chain, chain.keys[0], claim) == "wrong-phase"
    chain.tick()
    chain.send(chain.keys[0], claim)
    chain.tick()
    chain.run_until(lambda: chain.phase() != race.CLAIMS)
    assert refuse(chain, chain.keys[1], claim) == "wrong-phase"


def test_invalid_claims_wrong_race_empty_and_of_strangers():
    chain = Chain()
    chain.run_until(lambda: chain.phase() == race.CLAIMS)
    assert refuse(chain, chain.keys[0], m.CommitRace(0, bytes(32), 0)) == "bad-count"
    assert refuse(chain, chain.keys[0], m.CommitRace(0, bytes(32), 2**31 + 1)) == "bad-count"
    assert refuse(chain, chain.keys[0], m.CommitRace(1, bytes(32), 5)) == "wrong-race"
    assert refuse(chain, chain.user, m.CommitRace(0, bytes(32), 5)) == "not-a-node"
    chain.send(chain.keys[0], m.CommitRace(0, bytes(32), 2**31))


def test_invalid_openings_of_other_positions_or_another_tree():
    chain = Chain()
    chain.run_until(lambda: chain.phase() == race.CLAIMS)
    tree, other = RangeTree(range(500)), RangeTree(range(1, 501))
    chain.send(chain.keys[0], m.CommitRace(0, tree.root, tree.count))
    chain.run_until(lambda: chain.phase() == race.OPENINGS)
    right = chain.open_race(0, tree)
    assert refuse(chain, chain.keys[0], m.OpenRace(0, right.openings[1:])) == "wrong-sample"
    assert refuse(chain, chain.keys[0], chain.open_race(0, other)) == "wrong-path"
    assert refuse(chain, chain.keys[1], right) == "no-claim"
    chain.send(chain.keys[0], right)
    assert refuse(chain, chain.keys[0], right) == "already-opened"


def test_invalid_openings_of_a_claim_that_nobody_can_check():
    chain = Chain(weights=[1_000, 0, 0, 0, 0])
    chain.run_until(lambda: chain.phase() == race.CLAIMS)
    tree = RangeTree(range(500))
    chain.send(chain.keys[0], m.CommitRace(0, tree.root, tree.count))
    chain.run_until(lambda: chain.phase() == race.OPENINGS)
    record = race.CLAIMS_TABLE.get(chain.state, chain.keys[0].address)
    assert (record.outcome, record.checkers) == (m.UNDECIDED, ())
    opening = m.Opening(0, 0, ())
    assert refuse(chain, chain.keys[0], m.OpenRace(0, (opening,))) == "nothing-to-open"


def test_power_moves_to_gainers_by_a_quarter_at_most():
    chain = Chain(weights=[1_000, 1_000, 1_000, 1_000, 1_000])
    chain.run_race([1, 1, 1, 1_000, 1_000])
    before = chain.params.power_total // 5
    gained = sum(max(0, chain.node(index).voting_power - before) for index in range(5))
    assert gained <= chain.params.power_total // 4 + 5
    # Draws and pay follow the weight itself, untouched.
    assert nodes.get_weights(chain.state)[chain.keys[3].address] == 1_000
