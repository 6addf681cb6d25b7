"""Evidence adds up over tasks and epochs; at the bound a case is opened, and only a majority finds guilt."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import PARAMS, Chain

from paceline.ledger import nodes, suspicion
from paceline.ledger.accounts import get_account
from paceline.ledger.check_rates import check_rate_ppm, compute_value_rate_ppm
from paceline.ledger.disputes import Vote
from paceline.ledger.suspicion import CONFIRMING, INQUIRIES, VOTING, compute_evidence, get_sum, list_kept
from paceline.ledger.tasks import CHECKING, FINAL, GUILTY, TASKS
from paceline.protocol import messages as m

HIGH, LOW = PARAMS.tasks.evidence_high_micronats, PARAMS.tasks.evidence_low_micronats
BOUND = PARAMS.tasks.suspicion_micronats
LONG = msgspec.structs.replace(PARAMS, epoch_blocks=1_500)


@pytest.fixture
def chain():
    found = Chain(params=LONG)
    found.run_race([100] * 5)
    return found


def play_task(chain, session_id, index, log_e, outcome=m.UNDECIDED):
    """One task of the drawn executor, judged by all its checkers with one number."""
    task_id, executor = chain.answer(session_id, index)
    task = chain.run_to(task_id, CHECKING, FINAL)
    if task.status == CHECKING:
        chain.check_alike(task_id, m.Verdict(outcome, "test", (1, log_e)))
    return task_id, executor


def await_confirmations(chain, suspect):
    chain.run_until(lambda: INQUIRIES.get(chain.state, suspect).status == CONFIRMING)


def open_inquiry(chain, session_id):
    """Tasks with the highest evidence until a node is suspected; its key and its tasks."""
    played = {}
    for index in range(60):
        task_id, executor = play_task(chain, session_id, index, HIGH + 5)
        played.setdefault(executor.address, []).append(task_id)
        if INQUIRIES.get(chain.state, executor.address) is not None:
            await_confirmations(chain, executor.address)
            return executor, played[executor.address]
    raise AssertionError("nobody became suspect")


def judge(chain, suspect, voters, outcome):
    verdict = m.JudgeNode(suspect.address, m.Verdict(outcome, "test", (1, 2)))
    for address in voters:
        chain.send(chain.key_of(address), verdict)
    chain.tick()


def make_task(chain, *numbers, outcomes=None):
    session_id = chain.open_session()
    task_id, _ = play_task(chain, session_id, 0, 0)
    voters = tuple(key.address for key in chain.keys[: len(numbers)])
    outcomes = outcomes or [m.ACCEPTED] * len(numbers)
    votes = tuple(
        Vote(voter, outcome, "", (3, number)) for voter, outcome, number in zip(voters, outcomes, numbers, strict=True)
    )
    return msgspec.structs.replace(TASKS.get(chain.state, task_id), drawn=voters, votes=votes)


def test_the_lower_median_of_clipped_numbers_counts(chain):
    task = make_task(chain, 5, 3_000_000_000, 7)
    assert compute_evidence(task, PARAMS) == 7
    both = msgspec.structs.replace(task, votes=task.votes[:2])
    assert compute_evidence(both, PARAMS) == 5
    alone = msgspec.structs.replace(task, votes=task.votes[1:2])
    assert compute_evidence(alone, PARAMS) == HIGH
    flag = msgspec.structs.replace(task.votes[0], outcome=m.REJECTED)
    assert compute_evidence(msgspec.structs.replace(task, votes=(flag,)), PARAMS) is None
    # Who was not drawn has no say, whatever it votes later.
    assert compute_evidence(msgspec.structs.replace(task, drawn=task.drawn[:1]), PARAMS) == 5


def test_evidence_adds_up_and_is_clipped_on_both_sides(chain):
    session_id = chain.open_session()
    sums = {}
    for index, number in enumerate((HIGH + 1, LOW - 1, 5, -5, 9, 9)):
        task_id, executor = play_task(chain, session_id, index, number)
        if TASKS.get(chain.state, task_id).drawn:
            sums[executor.address] = sums.get(executor.address, 0) + max(LOW, min(HIGH, number))
    assert sums
    assert all(get_sum(chain.state, address) == total for address, total in sums.items())


def test_a_suspected_node_is_checked_always_and_a_majority_convicts_it(chain):
    session_id = chain.open_session()
    suspect, played = open_inquiry(chain, session_id)
    inquiry = INQUIRIES.get(chain.state, suspect.address)
    kept = list_kept(chain.state, suspect.address)
    assert inquiry.rest + sum(found.log_e_micro for _, found in kept) >= BOUND
    nodes_at = chain.state
    nodes.update_node(nodes_at, suspect.address, reputation=1_000, held=10**15)
    assert check_rate_ppm(nodes_at, PARAMS, suspect.address, kept[0][1].task) == 1_000_000
    before = get_account(chain.state, chain.user.address).balance
    judge(chain, suspect, inquiry.drawn[:1], m.REJECTED)
    assert INQUIRIES.get(chain.state, suspect.address).status == CONFIRMING
    judge(chain, suspect, inquiry.drawn[1:2], m.REJECTED)
    assert INQUIRIES.get(chain.state, suspect.address).status == VOTING
    # Two of five equal nodes are no majority; three are.
    rest = [key.address for key in chain.keys if key != suspect and key.address not in inquiry.drawn[:2]]
    judge(chain, suspect, rest[:1], m.REJECTED)
    chain.tick()
    assert INQUIRIES.get(chain.state, suspect.address) is None
    assert nodes.NODES.get(chain.state, suspect.address).guilty == 0
    assert {TASKS.get(chain.state, task_id).status for task_id in played} == {GUILTY}
    assert get_account(chain.state, chain.user.address).balance == before + 30_000_000 * len(played)
    assert (get_sum(chain.state, suspect.address), list_kept(chain.state, suspect.address)) == (0, [])


def test_without_two_confirmations_a_suspect_is_cleared_and_begins_anew(chain):
    session_id = chain.open_session()
    suspect, played = open_inquiry(chain, session_id)
    drawn = INQUIRIES.get(chain.state, suspect.address).drawn
    judge(chain, suspect, drawn[:1], m.REJECTED)
    judge(chain, suspect, drawn[1:], m.ACCEPTED)
    chain.tick()
    assert INQUIRIES.get(chain.state, suspect.address) is None
    assert get_sum(chain.state, suspect.address) == 0
    assert nodes.NODES.get(chain.state, suspect.address).guilty == -1
    assert {TASKS.get(chain.state, task_id).status for task_id in played} == {FINAL}


def test_half_of_all_weight_convicts_nobody(chain):
    session_id = chain.open_session()
    suspect, _ = open_inquiry(chain, session_id)
    drawn = INQUIRIES.get(chain.state, suspect.address).drawn
    judge(chain, suspect, drawn[:2], m.REJECTED)
    chain.run_until(lambda: INQUIRIES.get(chain.state, suspect.address) is None, limit=PARAMS.dispute_blocks + 2)
    assert nodes.NODES.get(chain.state, suspect.address).guilty == -1


def test_invalid_verdicts_on_nodes(chain):
    session_id = chain.open_session()
    verdict = m.Verdict(m.REJECTED, "test", (1, 2))
    assert chain.refuse(chain.keys[1], m.JudgeNode(chain.keys[2].address, verdict)) == "nothing-to-judge"
    suspect, _ = open_inquiry(chain, session_id)
    drawn = INQUIRIES.get(chain.state, suspect.address).drawn
    assert chain.refuse(suspect, m.JudgeNode(suspect.address, verdict)) == "no-vote"
    assert chain.refuse(chain.user, m.JudgeNode(suspect.address, verdict)) == "not-a-node"
    empty = m.JudgeNode(suspect.address, m.Verdict(m.REJECTED, "test", ()))
    assert chain.refuse(chain.key_of(drawn[0]), empty) == "no-numbers"
    judge(chain, suspect, drawn[:1], m.REJECTED)
    assert chain.refuse(chain.key_of(drawn[0]), m.JudgeNode(suspect.address, verdict)) == "already-judged"


def test_only_the_weightiest_tasks_are_kept(chain):
    session_id = chain.open_session()
    few = msgspec.structs.replace(PARAMS, tasks=msgspec.structs.replace(PARAMS.tasks, kept_checks=2))
    task_id, executor = play_task(chain, session_id, 0, 0)
    state, task = chain.state, TASKS.get(chain.state, task_id)
    suspicion.clear(state, executor.address)
    for number in (5, 9, 7, 1):
        vote = Vote(chain.keys[0].address, m.ACCEPTED, "", (number,))
        checked = msgspec.structs.replace(task, drawn=(vote.voter,), votes=(vote,), executor=executor.address)
        suspicion.note_check(state, few, bytes([number]) * 32, checked)
    assert sorted(found.log_e_micro for _, found in list_kept(state, executor.address)) == [7, 9]
    assert get_sum(state, executor.address) == 22


@pytest.mark.parametrize(
    ("cost", "held", "rate"), [(10, 0, 500_000), (10, 10, 500_000), (10, 100, 50_000), (10, 1_000, 5_000)]
)
def test_check_rate_by_value_at_stake(cost, held, rate):
    assert compute_value_rate_ppm(cost, held) == rate
