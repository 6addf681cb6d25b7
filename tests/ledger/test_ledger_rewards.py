"""What an epoch issues and to whom, and rewards that vest: on the ledger, to the unit, over several epochs."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import PARAMS, Chain, get_wealth

from paceline.base.integers import PPM, mul_div_floor, split_proportionally
from paceline.economy.issuance import BATCH, FIRST_SUBSIDY, Issued
from paceline.economy.spread import measure_spread
from paceline.economy.supply import CORE_RESERVE, compute_floor_issuance
from paceline.ledger import clock, issuance, nodes, vesting
from paceline.ledger.accounts import (
    ACCOUNTS,
    HELD_PAY,
    RESERVE,
    TRAINING_FUND,
    VESTING_PAY,
    Account,
    get_account,
    move_coins,
)
from paceline.ledger.bonds import DEBTS
from paceline.ledger.check_rates import compute_rate_ppm
from paceline.ledger.invariants import find_violations
from paceline.ledger.issuance import ISSUED, get_issued, issue_coins
from paceline.ledger.nodes import NODES, update_node
from paceline.ledger.settlement import KEPT_EPOCHS, get_settlement, settle_epoch
from paceline.ledger.state import State
from paceline.ledger.tasks import FINAL, OPEN_TASKS, TASKS
from paceline.store.state import MemoryStateStore

EPOCHS = 4
WEIGHTS = {b"a" * 20: 3, b"b" * 20: 1}


@pytest.fixture(scope="module")
def played():
    """Five nodes after a Race, each paid for some answers that are final."""
    chain = Chain()
    chain.run_race([100] * 5)
    session_id = chain.open_session()
    for index in range(12):
        task_id, _ = chain.answer(session_id, index)
        chain.run_to(task_id, "final", "checking")
    chain.run_until(lambda: not OPEN_TASKS.items(chain.state))
    return chain


def open_state(reserve=CORE_RESERVE, height=100):
    """A state with a reserve of so many nicoin and nothing else."""
    state = State(MemoryStateStore(), height=height)
    ACCOUNTS.put(state, RESERVE, Account(reserve))
    return state


def daily(**changes):
    """An epoch a day, so that its floor is the paper's figure."""
    return msgspec.structs.replace(PARAMS, epoch_blocks=100, blocks_per_day=100, **changes)


def settle(chain, epoch=0, *, guilty=()):
    """The epoch's end as of now, on a state of its own."""
    state = chain.state
    for address in guilty:
        update_node(state, address, guilty=epoch)
    settle_epoch(state, chain.params, epoch)
    assert find_violations(state, chain.params) == []
    return state, {line.address: line for line in get_settlement(state, epoch)}


# What is issued


def test_the_fund_takes_its_share_of_what_is_issued_and_the_rest_goes_by_weight():
    state, params = open_state(), daily()
    shares, by_floor = issue_coins(state, params, 0, 0, WEIGHTS)
    assert by_floor == shares
    floor = compute_floor_issuance(1, 100, 100, CORE_RESERVE)
    fund = mul_div_floor(floor, params.fund_ppm, PPM)
    assert get_account(state, TRAINING_FUND).balance == fund
    assert shares == split_proportionally(floor - fund, WEIGHTS)
    assert get_issued(state) == Issued(total=floor)


def test_fees_issue_nine_times_as_much_in_the_first_batch():
    state, params = open_state(), daily(fund_ppm=0)
    floor = compute_floor_issuance(1, 100, 100, CORE_RESERVE)
    fees = floor // 3
    assert sum(issue_coins(state, params, 0, fees, WEIGHTS).shares.values()) == 9 * fees
    assert get_issued(state).subsidy == FIRST_SUBSIDY


def test_a_batch_edge_lowers_the_subsidy_of_the_next_epoch():
    state, params = open_state(), daily(fund_ppm=0)
    ISSUED.put(state, b"", Issued(total=BATCH - 9))
    fees = compute_floor_issuance(1, 100, 100, CORE_RESERVE)
    issued = sum(issue_coins(state, params, 0, fees, WEIGHTS).shares.values())
    # One nicoin of fees issues the last nine of the batch, the others at 0.72 / 0.28 each.
    assert issued == 9 + (fees - 1) * 72 // 28
    assert get_issued(state).batch == 2


@pytest.mark.parametrize(("reserve", "total"), [(0, 0), (10**9, CORE_RESERVE)])
def test_an_empty_reserve_or_twelve_full_batches_issue_nothing(reserve, total):
    state = open_state(reserve)
    ISSUED.put(state, b"", Issued(total=total))
    assert issue_coins(state, daily(), 0, 10**9, WEIGHTS).shares == {}
    assert get_account(state, RESERVE).balance == reserve


def test_the_plan_never_promises_more_than_the_reserve_holds():
    state = open_state(1_000)
    assert sum(issue_coins(state, daily(fund_ppm=0), 0, 10**18, WEIGHTS).shares.values()) == 1_000


def test_without_work_nothing_is_issued():
    state = open_state()
    assert issue_coins(state, daily(), 0, 10**9, {}).shares == {}
    assert ISSUED.get(state) is None


def test_the_floor_halves_by_the_first_height_of_the_epoch():
    params, year = daily(fund_ppm=0), 365
    for epoch in (0, year - 1, year, 2 * year):
        state = open_state()
        issued = sum(issue_coins(state, params, epoch, 0, WEIGHTS).shares.values())
        assert issued == compute_floor_issuance(clock.compute_first_height(params, epoch), 100, 100, CORE_RESERVE)


def test_fees_of_drawn_work_issue_and_pay_of_a_run_does_not(played, monkeypatch):
    seen = []
    monkeypatch.setattr(issuance, "compute_issuance", lambda issued, epoch: (seen.append(epoch), (0, issued))[1])
    fees = [(task.executor, task.cost) for task in final_tasks(played) if not task.refunded]
    expected = measure_spread(fees, nodes.get_weights(played.state)).counted
    settle(played)
    assert 0 < expected <= sum(fee for _, fee in fees)
    assert [epoch.fees for epoch in seen] == [expected]


def final_tasks(chain):
    return [task for _, task in TASKS.items(chain.state) if task.status == FINAL]


# Rewards that vest


def test_a_reward_comes_free_in_equal_parts_over_four_epochs(played):
    state, lines = settle(played)
    address, line = max(lines.items(), key=lambda item: item[1].earned)
    assert line.earned > 0
    assert (line.vesting, NODES.get(state, address).vesting) == (line.earned, line.earned)
    had = get_account(state, address).balance
    for epoch in range(1, EPOCHS + 1):
        settle_epoch(state, played.params, epoch)
        assert find_violations(state, played.params) == []
        free = line.earned // EPOCHS * epoch if epoch < EPOCHS else line.earned
        assert get_account(state, address).balance - had == free
        assert NODES.get(state, address).vesting == line.earned - free
    assert get_account(state, VESTING_PAY).balance == 0


def test_without_periods_a_reward_is_free_at_once(played, monkeypatch):
    monkeypatch.setattr(played, "params", msgspec.structs.replace(played.params, vesting_epochs=0))
    before = {key.address: get_account(played.state, key.address).balance for key in played.keys}
    state, lines = settle(played)
    assert {a: get_account(state, a).balance - before[a] for a in before} == {
        a: line.earned for a, line in lines.items()
    }
    assert get_account(state, VESTING_PAY).balance == 0


def test_who_is_found_guilty_loses_what_vests_and_what_would_come_free_with_it(played):
    state, lines = settle(played)
    address, line = max(lines.items(), key=lambda item: item[1].earned)
    had, reserve = get_wealth(state, address) - line.earned, get_account(state, RESERVE).balance
    update_node(state, address, guilty=1)
    settle_epoch(state, played.params, 1)
    assert find_violations(state, played.params) == []
    found = next(found for found in get_settlement(state, 1) if found.address == address)
    assert (found.reward.lost_vesting, found.forfeited, found.vesting) == (line.earned, line.earned, 0)
    assert get_wealth(state, address) == had
    assert get_account(state, RESERVE).balance >= reserve + line.earned


def test_what_vests_counts_as_what_a_cheat_would_lose(played):
    state, cost = played.state, 10**9
    address = played.keys[0].address
    update_node(state, address, reputation=10_000, held=cost)
    assert compute_rate_ppm(state, played.params, address, cost) == PPM // 2
    update_node(state, address, vesting=9 * cost)
    assert compute_rate_ppm(state, played.params, address, cost) == PPM // 20


def test_a_debt_is_taken_out_of_what_comes_free(played):
    state = played.state
    address = played.keys[1].address
    DEBTS.put(state, address, 10**15)
    settle_epoch(state, played.params, 0)
    vested = NODES.get(state, address).vesting
    assert vested > 0
    assert DEBTS.get(state, address) == 10**15
    settle_epoch(state, played.params, 1)
    assert DEBTS.get(state, address) == 10**15 - vested // EPOCHS
    assert find_violations(state, played.params) == []


def test_who_left_still_gets_what_vests(played):
    state, lines = settle(played)
    address = max(lines, key=lambda key: lines[key].earned)
    before = get_account(state, address).balance
    node = NODES.get(state, address)
    NODES.delete(state, address)
    assert vesting.free_rewards(state, 1)[address] == lines[address].earned // EPOCHS
    NODES.put(state, address, node)
    assert get_account(state, address).balance == before + lines[address].earned // EPOCHS


def test_the_invariants_see_a_record_that_does_not_fit(played):
    state = played.state
    move_coins(state, RESERVE, VESTING_PAY, 5)
    assert any("vesting pay" in line for line in find_violations(state, played.params))
    update_node(state, played.keys[0].address, vesting=7)
    assert any("7 vesting" in line for line in find_violations(state, played.params))


def test_settlements_of_old_epochs_go(played):
    state = played.state
    for epoch in range(KEPT_EPOCHS + 1):
        settle_epoch(state, played.params, epoch)
    assert get_settlement(state, 0) is None
    assert get_settlement(state, 1) is not None


def test_a_line_says_how_its_reward_came_about(played):
    state, lines = settle(played)
    for line in lines.values():
        reward = line.reward
        released = mul_div_floor(reward.due, reward.criteria.share_ppm, PPM)
        issued = mul_div_floor(mul_div_floor(reward.share, reward.part_ppm, PPM), reward.criteria.share_ppm, PPM)
        assert line.earned == released + issued
    assert sum(line.reward.share for line in lines.values()) > 0
    assert get_account(state, HELD_PAY).balance == 0
    assert sum(nodes.get_weights(state).values()) == 500
