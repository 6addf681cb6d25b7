"""Paid reports: a fee that forces a check, comes back when it was right, and pays the checkers when it was not."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import PARAMS, Chain

from paceline.ledger import clock, nodes
from paceline.ledger.accounts import REPORT_FEES, get_account
from paceline.ledger.tasks import CHECKING, DISPUTED, FINAL, GUILTY, TASKS
from paceline.protocol import messages as m

LONG = msgspec.structs.replace(
    PARAMS,
    epoch_blocks=600,
    tasks=msgspec.structs.replace(PARAMS.tasks, report_blocks=100, report_limit=2, recheck_ppm=10_000),
)
FEE = LONG.tasks.report_fee


@pytest.fixture
def chain():
    found = Chain(params=LONG)
    found.run_race([100] * 5)
    return found


def answer(chain, session_id, index):
    """A task from this index on whose first checkers, if any, stay silent, and leave others to draw after them."""
    while True:
        task_id, executor = chain.answer(session_id, index)
        task = chain.run_to(task_id, FINAL)
        if len(task.drawn) < 2:
            return task_id, executor
        index += 1


def report(chain, task_id):
    chain.send(chain.user, m.ReportTask(task_id))
    chain.tick()
    return chain.run_to(task_id, CHECKING)


def check(chain, task_id, outcome):
    """All fresh checkers judge alike."""
    chain.check_alike(task_id, m.Verdict(outcome, "test", (1, 0)))


def test_a_report_draws_fresh_checkers_and_pays_them_when_it_was_wrong(chain):
    task_id, executor = answer(chain, chain.open_session(), 0)
    first = TASKS.get(chain.state, task_id).drawn
    task = report(chain, task_id)
    assert task.status == CHECKING
    assert not {executor.address, task.relay, *first} & set(task.asked)
    before = {address: get_account(chain.state, address).balance for address in task.asked}
    check(chain, task_id, m.ACCEPTED)
    assert TASKS.get(chain.state, task_id).status == FINAL
    each = FEE // len(task.asked)
    assert all(get_account(chain.state, a).balance == balance + each for a, balance in before.items())
    assert get_account(chain.state, REPORT_FEES).balance == 0
    assert chain.refuse(chain.user, m.ReportTask(task_id)) == "already-reported"


def test_a_proven_report_gives_back_fee_and_cost_and_a_share_of_the_forfeit(chain):
    session_id = chain.open_session()
    task_id, executor = answer(chain, session_id, 0)
    # Work of the same node that somebody proved right: what it would have earned with it is the forfeit.
    proven = prove_one_right(chain, session_id, executor)
    before = get_account(chain.state, chain.user.address).balance
    report(chain, task_id)
    check(chain, task_id, m.REJECTED)
    assert TASKS.get(chain.state, task_id).status == DISPUTED
    for key in chain.keys:
        task = TASKS.get(chain.state, task_id)
        if key != executor and key.address not in [vote.voter for vote in task.votes] and task.status == DISPUTED:
            chain.send(key, m.JudgeTask(task_id, m.Verdict(m.REJECTED, "test", (1,))))
    chain.run_until(lambda: TASKS.get(chain.state, task_id).status == GUILTY)
    refunded = sum(task.cost for _, task in TASKS.items(chain.state) if task.refunded)
    assert get_account(chain.state, chain.user.address).balance == before + refunded - LONG.transfer_fee
    assert TASKS.get(chain.state, proven).status == FINAL
    end = clock.compute_last_height(chain.params, 0)
    chain.run_until(lambda: chain.height >= end, limit=600)
    reward = get_account(chain.state, chain.user.address).balance - before - refunded + LONG.transfer_fee
    assert 0 < reward <= LONG.tasks.report_reward


def prove_one_right(chain, session_id, executor):
    for index in range(10, 40):
        if chain.first_executor(session_id, index) != executor:
            continue
        task_id, _ = chain.answer(session_id, index)
        chain.run_to(task_id, CHECKING, FINAL)
        if TASKS.get(chain.state, task_id).asked:
            check(chain, task_id, m.ACCEPTED)
            return task_id
    raise AssertionError("no task of this node was checked")


def test_a_report_that_nobody_checks_costs_nothing(chain):
    task_id, _ = answer(chain, chain.open_session(), 0)
    before = get_account(chain.state, chain.user.address).balance
    report(chain, task_id)
    chain.run_until(lambda: TASKS.get(chain.state, task_id).status == FINAL)
    assert get_account(chain.state, chain.user.address).balance == before - LONG.transfer_fee


def test_invalid_reports(chain):
    session_id = chain.open_session()
    task_ids = [answer(chain, session_id, index)[0] for index in (0, 20, 40)]
    assert chain.refuse(chain.user, m.ReportTask(bytes(32))) == "unknown-task"
    chain.send(chain.user, m.Transfer(chain.keys[1].address, 10**9))
    chain.tick()
    assert chain.refuse(chain.keys[1], m.ReportTask(task_ids[2])) == "not-yours"
    chain.send(chain.user, m.ReportTask(task_ids[1]))
    chain.send(chain.user, m.ReportTask(task_ids[2]))
    assert chain.refuse(chain.user, m.ReportTask(task_ids[2])) == "already-reported"
    assert chain.refuse(chain.user, m.ReportTask(task_ids[0])) == "too-many-reports"


def test_the_time_to_report_ends(chain):
    task_id, _ = answer(chain, chain.open_session(), 0)
    last = TASKS.get(chain.state, task_id).height + LONG.tasks.report_blocks
    chain.run_until(lambda: chain.height == last - 1, limit=LONG.tasks.report_blocks)
    # Refused from the next height on; taken at the last one.
    chain.tick()
    assert chain.refuse(chain.user, m.ReportTask(task_id)) == "too-late"


def test_a_task_under_way_cannot_be_reported(chain):
    session_id = chain.open_session()
    task_id, executor = chain.answer(session_id, 0)
    assert chain.refuse(chain.user, m.ReportTask(task_id)) == "not-final"
    assert nodes.NODES.get(chain.state, executor.address).tasks == 1
