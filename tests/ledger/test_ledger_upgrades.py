"""Upgrades: who may vote, when a plan stands, when its handler runs, and that nothing else executes its height."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import PARAMS, Chain

from paceline.base.errors import ConfigError, InvalidBlock, InvalidTransaction, UpgradeNeeded
from paceline.base.keys import AccountKey
from paceline.engine.solo import Replica, Sequencer
from paceline.ledger import nodes, upgrades
from paceline.ledger.accounts import get_account, move_coins
from paceline.ledger.application import Application
from paceline.ledger.state import State
from paceline.node.chains.upgrades import build_upgrade_status
from paceline.protocol import messages as m
from paceline.store.state import MemoryStateStore

LEAD = 8
SHORT = msgspec.structs.replace(PARAMS, duty_window_blocks=LEAD)
MARK = b"test/marked-at"


def mark(state):
    """A handler that shows when it ran, and how often."""
    assert state.get(MARK) is None
    state.put(MARK, state.height.to_bytes(8, "big"))


def make_chain(handlers=None, weights=None):
    chain = Chain(params=SHORT, handlers=handlers, weights=weights)
    chain.tick()
    return chain


def plan(chain, name="v2", ahead=LEAD + 1, voters=(0, 1, 2, 3)):
    """Votes of enough nodes in the next block; returns the height. 4 of 5 equal nodes are over two thirds, 3 are not."""
    height = chain.height + ahead
    for index in voters:
        chain.send(chain.keys[index], m.PlanUpgrade(name, height))
    chain.tick()
    return height


def cancel(chain, name, height, voters=(0, 1, 2, 3)):
    for index in voters:
        chain.send(chain.keys[index], m.CancelUpgrade(name, height))
    chain.tick()


def get_plan(chain):
    return upgrades.PLAN.get(chain.state)


def advance(chain, height):
    while chain.height < height:
        chain.tick()


def refuse(chain, code, key, message):
    with pytest.raises(InvalidTransaction) as caught:
        chain.send(key, message)
    assert caught.value.code == code


def restart(chain, handlers):
    """The same stores under other software."""
    store, key = chain.application._store, chain.keys[0]
    chain.application = Application(chain.genesis, store, handlers)
    chain.sequencer = Sequencer(chain.application, store, key)
    other = chain.replica.application._store
    chain.replica = Replica(Application(chain.genesis, other, handlers), other)


def test_over_two_thirds_plan_an_upgrade():
    chain = make_chain()
    height = plan(chain)
    assert get_plan(chain) == upgrades.Plan("v2", height)
    assert upgrades.BALLOTS.items(chain.state) == []


@pytest.mark.parametrize(("weights", "stands"), [([2, 1, 1, 1, 1], False), ([3, 1, 1, 1, 1], True)])
def test_two_thirds_exactly_are_not_enough(weights, stands):
    # Nodes 1 to 3 hold 4 of 6, then 5 of 7.
    chain = make_chain(weights=[1_000 * weight for weight in weights])
    plan(chain, voters=(0, 1, 2))
    assert (get_plan(chain) is not None) is stands


def test_votes_for_different_heights_do_not_add_up():
    chain = make_chain()
    plan(chain, ahead=20, voters=(0, 1))
    plan(chain, ahead=20, voters=(2, 3))
    assert get_plan(chain) is None
    assert len(upgrades.BALLOTS.items(chain.state)) == 4


def test_a_later_vote_replaces_the_former():
    chain = make_chain()
    first = plan(chain, voters=(0, 1))
    wanted = plan(chain, name="v3", ahead=20, voters=(0, 1, 2, 3))
    assert first != wanted
    assert get_plan(chain) == upgrades.Plan("v3", wanted)


def test_weights_decide_as_they_are_not_as_they_were():
    chain = make_chain()
    state = chain.state
    for index in (0, 1, 2):
        upgrades.apply_plan_vote(state, SHORT, chain.keys[index].address, m.PlanUpgrade("v2", state.height + 50))
    upgrades.end_block(state, SHORT)
    assert upgrades.PLAN.get(state) is None
    for index in (3, 4):
        nodes.update_node(state, chain.keys[index].address, weight=1)
    upgrades.end_block(state, SHORT)
    assert upgrades.PLAN.get(state) == upgrades.Plan("v2", state.height + 50)


def test_votes_of_who_lost_all_weight_count_nothing():
    chain = make_chain()
    state = chain.state
    for index in (0, 1, 2, 3):
        upgrades.apply_plan_vote(state, SHORT, chain.keys[index].address, m.PlanUpgrade("v2", state.height + 50))
    for index in (0, 1):
        nodes.update_node(state, chain.keys[index].address, weight=0)
    upgrades.end_block(state, SHORT)
    assert upgrades.PLAN.get(state) is None


def test_agreement_that_comes_too_late_plans_nothing():
    chain = make_chain()
    height = plan(chain, ahead=LEAD + 1, voters=(0, 1, 2))
    state = chain.application.read()
    late = State(state, height=height - LEAD + 1)
    upgrades.BALLOTS.put(late, chain.keys[3].address, upgrades.Ballot(upgrades.Plan("v2", height)))
    upgrades.end_block(late, SHORT)
    assert upgrades.PLAN.get(late) is None
    in_time = State(state, height=height - LEAD)
    upgrades.BALLOTS.put(in_time, chain.keys[3].address, upgrades.Ballot(upgrades.Plan("v2", height)))
    upgrades.end_block(in_time, SHORT)
    assert upgrades.PLAN.get(in_time) is not None


def test_invalid_vote_without_weight():
    chain = make_chain()
    refuse(chain, "not-a-node", chain.user, m.PlanUpgrade("v2", 100))
    state = chain.state
    nodes.update_node(state, chain.keys[4].address, weight=0)
    with pytest.raises(InvalidTransaction) as caught:
        upgrades.apply_plan_vote(state, SHORT, chain.keys[4].address, m.PlanUpgrade("v2", 100))
    assert caught.value.code == "no-vote"


def test_invalid_vote_twice():
    chain = make_chain()
    height = plan(chain, ahead=50, voters=(0,))
    refuse(chain, "already-voted", chain.keys[0], m.PlanUpgrade("v2", height))


def test_invalid_height_too_early_and_the_first_possible():
    chain = make_chain()
    earliest = upgrades.compute_earliest(SHORT, chain.height + 1)
    refuse(chain, "too-early", chain.keys[0], m.PlanUpgrade("v2", earliest - 1))
    chain.send(chain.keys[0], m.PlanUpgrade("v2", earliest))
    chain.tick()


def test_invalid_second_plan():
    chain = make_chain()
    height = plan(chain)
    refuse(chain, "plan-stands", chain.keys[4], m.PlanUpgrade("v3", height + 50))


@pytest.mark.parametrize("name", ["", "Upper", "a b", "x" * 65])
def test_invalid_name(name):
    chain = make_chain()
    refuse(chain, "malformed", chain.keys[0], m.PlanUpgrade(name, 100))


def test_over_two_thirds_take_a_plan_back():
    chain = make_chain()
    height = plan(chain)
    cancel(chain, "v2", height, voters=(0, 1, 2))
    assert get_plan(chain) is not None
    cancel(chain, "v2", height, voters=(4,))
    assert get_plan(chain) is None
    again = plan(chain, ahead=30)
    assert get_plan(chain) == upgrades.Plan("v2", again)


def test_a_plan_can_be_taken_back_in_the_block_before_its_height():
    chain = make_chain()
    height = plan(chain)
    advance(chain, height - 2)
    cancel(chain, "v2", height)
    assert chain.height == height - 1
    advance(chain, height + 2)
    assert upgrades.get_done_height(chain.state, "v2") is None


def test_invalid_cancel_of_what_is_not_planned():
    chain = make_chain()
    refuse(chain, "no-such-plan", chain.keys[0], m.CancelUpgrade("v2", 100))
    height = plan(chain)
    refuse(chain, "no-such-plan", chain.keys[0], m.CancelUpgrade("v2", height + 1))
    refuse(chain, "no-such-plan", chain.keys[0], m.CancelUpgrade("v3", height))
    chain.send(chain.keys[0], m.CancelUpgrade("v2", height))
    chain.tick()
    refuse(chain, "already-voted", chain.keys[0], m.CancelUpgrade("v2", height))


def test_software_with_the_handler_runs_it_once_at_its_height():
    chain = make_chain(handlers={"v2": mark, "never-planned": mark})
    height = plan(chain)
    advance(chain, height - 1)
    assert chain.state.get(MARK) is None
    assert upgrades.get_done_height(chain.state, "v2") is None
    result = chain.tick()
    assert chain.state.get(MARK) == height.to_bytes(8, "big")
    assert upgrades.get_done_height(chain.state, "v2") == height
    assert get_plan(chain) is None
    assert result.events[0].kind == "upgrade-done"
    advance(chain, height + 3)


def test_the_handler_runs_before_everything_else_in_its_block():
    newcomer = AccountKey.from_secret(bytes(32))

    def pay(state):
        # Who is paid by the handler can spend it in the same block.
        move_coins(state, chain.user.address, newcomer.address, 10_000)

    chain = make_chain(handlers={"v2": pay})
    height = plan(chain)
    advance(chain, height - 1)
    chain.send(newcomer, m.Transfer(chain.keys[1].address, 5))
    result = chain.tick()
    assert result.height == height
    assert get_account(chain.state, newcomer.address).balance == 10_000 - 5 - SHORT.transfer_fee


def test_invalid_name_of_a_done_upgrade():
    chain = make_chain(handlers={"v2": mark})
    height = plan(chain)
    advance(chain, height)
    refuse(chain, "already-done", chain.keys[0], m.PlanUpgrade("v2", height + 50))


def test_software_without_the_handler_stops_with_nothing_committed():
    chain = make_chain()
    height = plan(chain)
    advance(chain, height - 1)
    before = chain.application.info()
    with pytest.raises(UpgradeNeeded, match=rf"upgrade v2 begins at height {height} .*install a release"):
        chain.application.finalize_block(height, [])
    assert issubclass(UpgradeNeeded, ConfigError)
    assert chain.application.info() == before
    assert chain.application.prepare_proposal([chain.sign(chain.keys[0], m.PlanUpgrade("v3", 500))], 10_000) == []
    assert chain.application.process_proposal([]) is False
    assert chain.application.can_go_on() is False
    refuse(chain, "upgrade-needed", chain.user, m.Transfer(bytes(20), 1))


def test_the_height_before_is_executed_as_ever():
    chain = make_chain()
    height = plan(chain)
    advance(chain, height - 2)
    assert chain.application.can_go_on()
    assert chain.application.process_proposal([])
    chain.tick()
    assert chain.height == height - 1


def test_replicas_stop_at_one_height_and_go_on_with_equal_hashes_once_they_have_the_handler():
    """Four replicas of one sequencer, two of them upgraded early: the others commit nothing of the height."""
    chain = make_chain()
    stores = [MemoryStateStore() for _ in range(4)]
    tables = [None, None, {"v2": mark}, {"v2": mark}]
    replicas = [
        Replica(Application(chain.genesis, store, table), store) for store, table in zip(stores, tables, strict=True)
    ]
    height = plan(chain)
    advance(chain, height - 1)
    with pytest.raises(UpgradeNeeded):
        chain.sequencer.produce_block(0)
    assert chain.height == height - 1
    restart(chain, {"v2": mark})
    advance(chain, height + 3)
    blocks = chain.sequencer.get_blocks(1, 1_000, 1 << 24)
    for index, replica in enumerate(replicas):
        for data in blocks[: height - 1]:
            replica.apply_block(data)
        if index < 2:
            with pytest.raises(UpgradeNeeded):
                replica.apply_block(blocks[height - 1])
            assert replica.height == height - 1
            upgraded = Replica(Application(chain.genesis, stores[index], {"v2": mark}), stores[index])
        else:
            upgraded = replica
        for data in blocks[height - 1 :]:
            upgraded.apply_block(data)
    assert {store.app_hash for store in stores} == {chain.application.info().app_hash}


def test_two_handlers_of_one_name_give_other_app_hashes():
    """Replicas notice software that calls other rules by the same name."""
    chain = make_chain(handlers={"v2": mark})
    store = MemoryStateStore()
    other = Replica(Application(chain.genesis, store, {"v2": lambda state: state.put(MARK, b"other")}), store)
    height = plan(chain)
    advance(chain, height)
    blocks = chain.sequencer.get_blocks(1, 1_000, 1 << 24)
    for data in blocks[:-1]:
        other.apply_block(data)
    with pytest.raises(InvalidBlock, match="app-hash"):
        other.apply_block(blocks[-1])


def test_old_software_does_not_go_on_from_a_state_behind_the_upgrade():
    chain = make_chain(handlers={"v2": mark})
    height = plan(chain)
    advance(chain, height + 5)
    with pytest.raises(UpgradeNeeded, match=f"v2 begins at height {height}"):
        Application(chain.genesis, chain.application._store).require_handlers()


def test_a_handler_that_breaks_stops_the_node_before_the_commit():
    def broken(_state):
        raise AssertionError("a bug of the release")

    chain = make_chain(handlers={"v2": broken})
    height = plan(chain)
    advance(chain, height - 1)
    with pytest.raises(AssertionError, match="a bug of the release"):
        chain.sequencer.produce_block(0)
    assert chain.height == height - 1
    restart(chain, {"v2": mark})
    advance(chain, height + 1)


def test_the_status_tells_plan_votes_and_what_this_software_has():
    chain = make_chain()
    height = plan(chain, voters=(0, 2))
    status = build_upgrade_status(chain.state, chain.application.has_handler)
    assert [(vote.node, vote.height, vote.cancels, vote.weight_ppm) for vote in status.votes] == [
        ("node-1", height, False, 200_000),
        ("node-3", height, False, 200_000),
    ]
    assert status.plan is None and status.done == []
    chain = make_chain(handlers={"v2": mark})
    height = plan(chain)
    found = build_upgrade_status(chain.state, chain.application.has_handler).plan
    assert found is not None and (found.name, found.height, found.is_known) == ("v2", height, True)
    advance(chain, height)
    status = build_upgrade_status(chain.state, chain.application.has_handler)
    assert status.plan is None
    assert [(line.name, line.height) for line in status.done] == [("v2", height)]
