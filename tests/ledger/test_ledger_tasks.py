"""Sessions, receipts, checks, flags, refunds, settlement."""

from __future__ import annotations

import pytest
from chain_harness import FUNDS, Chain

from paceline.base.errors import InvalidTransaction
from paceline.base.keys import AccountKey
from paceline.economy.pay import compute_pay
from paceline.economy.rewards import compute_validation_ppm
from paceline.ledger import clock, nodes, race
from paceline.ledger.accounts import TRAINING_FUND, get_account
from paceline.ledger.check_rates import compute_reputation_rate_ppm
from paceline.ledger.sessions import GRACE_BLOCKS, SESSIONS, compute_task_id
from paceline.ledger.settlement import get_settlement
from paceline.ledger.tasks import CHECKING, DISPUTED, DRAWING, FINAL, GUILTY, REVEALING, TASKS, get_checkers
from paceline.protocol import messages as m

COST = 30 * 1_000_000


@pytest.fixture
def chain():
    found = Chain()
    found.run_race([100] * 5)
    return found


def answer(chain, session_id, index=0, **options):
    executor = chain.first_executor(session_id, index)
    chain.send(executor, m.SubmitReceipts((chain.receipt(session_id, index, executor, **options),)))
    chain.tick()
    task_id = compute_task_id(session_id, index)
    chain.run_until(lambda: TASKS.get(chain.state, task_id).status != DRAWING)
    return task_id, executor


def answer_with_checkers(chain, session_id, least=1):
    """Tasks until one is drawn for enough checkers."""
    for index in range(40):
        task_id, executor = answer(chain, session_id, index)
        if len(TASKS.get(chain.state, task_id).drawn) >= least:
            return task_id, executor
    raise AssertionError("no task drew that many checkers")


def key_of(chain, address):
    return next(key for key in chain.keys if key.address == address)


def find_node(chain, address):
    return nodes.NODES.get(chain.state, address)


def judge(chain, key, task_id, outcome, evidence=(1, 2)):
    """A vote in a dispute, or a commitment that is revealed when it is time."""
    task = TASKS.get(chain.state, task_id)
    message = m.JudgeTask(task_id, m.Verdict(outcome, "test", evidence))
    if task.status == CHECKING:
        chain.send(key, m.CommitVerdict(task_id, message.compute_commitment(key.address)))
        chain.run_until(lambda: TASKS.get(chain.state, task_id).status != CHECKING)
    chain.send(key, message)


def commit(chain, task_id, verdicts):
    """All drawn checkers commit; the messages they may reveal then."""
    messages = {}
    for address, (outcome, evidence) in verdicts.items():
        message = m.JudgeTask(task_id, m.Verdict(outcome, "test", evidence), address.ljust(32, b"s"))
        chain.send(key_of(chain, address), m.CommitVerdict(task_id, message.compute_commitment(address)))
        messages[address] = message
    chain.tick()
    return messages


def refuse(chain, key, message):
    with pytest.raises(InvalidTransaction) as refused:
        chain.send(key, message)
    return refused.value.code


def test_a_receipt_moves_its_cost_and_no_more(chain):
    session_id = chain.open_session(deposit=10**10)
    answer(chain, session_id)
    assert SESSIONS.get(chain.state, session_id).left == 10**10 - COST


def test_invalid_receipts(chain):
    session_id = chain.open_session(deposit=10**10)
    executor = chain.first_executor(session_id, 0)
    other = next(key for key in chain.keys if key.address not in (executor.address, chain.keys[0].address))

    def send(receipt, key=executor):
        return refuse(chain, key, m.SubmitReceipts((receipt,)))

    assert send(chain.receipt(session_id, 0, executor), key=other) == "not-the-executor"
    assert send(chain.receipt(session_id, 0, chain.keys[0]), key=chain.keys[0]) == "not-drawn"
    assert send(chain.receipt(session_id, 0, executor, max_cost=COST - 1)) == "over-maximum"
    assert send(chain.receipt(session_id, 0, executor, total=10**10 + 1)) == "over-total"
    assert send(chain.receipt(session_id, 0, executor, max_cost=10**9, total=10**9 - 1)) == "over-total"
    assert send(chain.receipt(bytes(16), 0, executor)) == "unknown-session"
    assert send(chain.receipt(session_id, chain.params.session_tasks, executor)) == "over-tasks"
    forger = AccountKey.from_secret(b"f" * 32)
    assert send(chain.receipt(session_id, 0, executor, signer=forger)) == "bad-voucher"
    answer(chain, session_id)
    assert send(chain.receipt(session_id, 0, executor)) == "already-paid"
    # An owner that forgets what it has spent.
    second, most = chain.first_executor(session_id, 1), 10**10 + 10**8 - COST
    assert send(chain.receipt(session_id, 1, second, prompt=10_031, max_cost=most, total=most), second) == "over-escrow"


def test_a_task_without_checkers_or_after_its_checks_is_final(chain):
    session_id = chain.open_session()
    task_id, _ = answer_with_checkers(chain, session_id)
    verdicts = dict.fromkeys(TASKS.get(chain.state, task_id).drawn, (m.ACCEPTED, (1, 2)))
    for address, message in commit(chain, task_id, verdicts).items():
        chain.send(key_of(chain, address), message)
    chain.tick()
    assert TASKS.get(chain.state, task_id).status == FINAL


def test_missed_checks_end_at_the_deadline_and_count_as_missed(chain):
    session_id = chain.open_session()
    task_id, _ = answer_with_checkers(chain, session_id)
    drawn = TASKS.get(chain.state, task_id).drawn
    chain.run_until(lambda: TASKS.get(chain.state, task_id).status == FINAL)
    node = next(chain.node(i) for i, key in enumerate(chain.keys) if key.address == drawn[0])
    assert node.duties > node.fulfilled


def test_a_flag_alone_punishes_nobody(chain):
    session_id = chain.open_session()
    task_id, executor = answer_with_checkers(chain, session_id)
    judge(chain, key_of(chain, TASKS.get(chain.state, task_id).drawn[0]), task_id, m.REJECTED)
    chain.tick()
    chain.run_until(lambda: TASKS.get(chain.state, task_id).status == DISPUTED)
    chain.run_until(lambda: TASKS.get(chain.state, task_id).status == FINAL)
    index = chain.keys.index(executor)
    assert chain.node(index).guilty == -1
    assert not TASKS.get(chain.state, task_id).refunded


def test_invalid_verdict_of_a_node_without_weight_in_a_dispute():
    chain = Chain(count=6, weights=[1_000] * 5 + [0])
    chain.run_race([100] * 5)
    task_id, _ = answer_with_checkers(chain, chain.open_session())
    judge(chain, key_of(chain, TASKS.get(chain.state, task_id).drawn[0]), task_id, m.REJECTED)
    chain.run_until(lambda: TASKS.get(chain.state, task_id).status == DISPUTED)
    assert find_node(chain, chain.keys[5].address).weight == 0
    assert refuse(chain, chain.keys[5], m.JudgeTask(task_id, m.Verdict(m.REJECTED, "test", (1, 2)))) == "not-drawn"


def test_a_majority_convicts_refunds_and_forfeits(chain):
    session_id = chain.open_session()
    task_id, executor = answer_with_checkers(chain, session_id)
    before = get_account(chain.state, chain.user.address).balance
    # An earlier answer of the same node that nobody proved right is refunded too.
    unproven = [t for t, task in TASKS.items(chain.state) if task.executor == executor.address and t != task_id]
    judge(chain, key_of(chain, TASKS.get(chain.state, task_id).drawn[0]), task_id, m.REJECTED)
    chain.run_until(lambda: TASKS.get(chain.state, task_id).status == DISPUTED)
    for key in chain.keys:
        task = TASKS.get(chain.state, task_id)
        if key is not executor and task.status == DISPUTED and key.address not in [v.voter for v in task.votes]:
            judge(chain, key, task_id, m.REJECTED)
    chain.run_until(lambda: TASKS.get(chain.state, task_id).status == GUILTY)
    assert TASKS.get(chain.state, task_id).refunded
    assert get_account(chain.state, chain.user.address).balance == before + COST * (1 + len(unproven))
    index = chain.keys.index(executor)
    assert chain.node(index).guilty == 0
    end = clock.compute_last_height(chain.params, 0)
    chain.run_until(lambda: chain.height >= end, limit=500)
    line = next(line for line in get_settlement(chain.state, 0) if line.address == executor.address)
    assert line.earned == 0
    assert line.forfeited >= COST


def test_who_accepted_what_a_majority_rejects_has_missed_its_duty(chain):
    session_id = chain.open_session()
    task_id, executor = answer_with_checkers(chain, session_id, least=2)
    drawn = TASKS.get(chain.state, task_id).drawn
    verdicts = dict.fromkeys(drawn[1:], (m.ACCEPTED, (1,))) | {drawn[0]: (m.REJECTED, (1,))}
    messages = commit(chain, task_id, verdicts)
    for address, message in messages.items():
        chain.send(key_of(chain, address), message)
    chain.tick()
    before = {address: find_node(chain, address).fulfilled for address in drawn}
    chain.run_until(lambda: TASKS.get(chain.state, task_id).status == DISPUTED)
    for key in chain.keys:
        if key != executor and key.address not in drawn:
            judge(chain, key, task_id, m.REJECTED)
    chain.run_until(lambda: TASKS.get(chain.state, task_id).status in (GUILTY, FINAL))
    guilty = TASKS.get(chain.state, task_id).status == GUILTY
    # Three of five equal nodes are needed; with two drawn of whom one accepted, the flag and two more are.
    assert guilty == (len(drawn) == 2)
    lost = {address: before[address] - find_node(chain, address).fulfilled for address in drawn}
    assert lost == {address: int(guilty and address != drawn[0]) for address in drawn}


def test_more_than_half_for_the_accused_ends_the_dispute(chain):
    session_id = chain.open_session()
    task_id, executor = answer_with_checkers(chain, session_id)
    flagger = key_of(chain, TASKS.get(chain.state, task_id).drawn[0])
    judge(chain, flagger, task_id, m.REJECTED)
    chain.run_until(lambda: TASKS.get(chain.state, task_id).status == DISPUTED)
    for key in chain.keys:
        if key not in (executor, flagger):
            judge(chain, key, task_id, m.ACCEPTED)
    chain.tick()
    chain.tick()
    assert TASKS.get(chain.state, task_id).status == FINAL
    assert chain.node(chain.keys.index(executor)).guilty == -1


def test_invalid_commitments_and_verdicts_on_tasks(chain):
    session_id = chain.open_session()
    task_id, executor = answer_with_checkers(chain, session_id)
    task = TASKS.get(chain.state, task_id)
    assert task.status == CHECKING
    checker = key_of(chain, task.drawn[0])
    verdict = m.JudgeTask(task_id, m.Verdict(m.ACCEPTED, "", (7,)), b"s" * 32)
    empty = m.JudgeTask(task_id, m.Verdict(m.ACCEPTED, "", ()), b"s" * 32)
    idle = [key for key in chain.keys if key.address not in (*task.drawn, executor.address, chain.keys[0].address)]
    commitment = m.CommitVerdict(task_id, empty.compute_commitment(checker.address))
    for key in (executor, chain.keys[0], *idle):
        assert refuse(chain, key, commitment) == "not-drawn"
    assert refuse(chain, checker, m.CommitVerdict(bytes(32), bytes(32))) == "nothing-to-judge"
    assert refuse(chain, checker, verdict) == "nothing-to-judge"
    chain.send(checker, commitment)
    assert refuse(chain, checker, commitment) == "already-committed"
    chain.run_until(lambda: TASKS.get(chain.state, task_id).status == REVEALING)
    assert refuse(chain, checker, commitment) == "nothing-to-judge"
    assert refuse(chain, executor, verdict) == "no-vote"
    assert refuse(chain, chain.keys[0], verdict) == "no-vote"
    for key in idle:
        assert refuse(chain, key, verdict) == "not-drawn"
    assert refuse(chain, checker, verdict) == "not-committed"
    assert refuse(chain, checker, empty) == "no-numbers"
    assert refuse(chain, checker, m.JudgeTask(bytes(32), m.Verdict(m.ACCEPTED, "", ()))) == "nothing-to-judge"


def test_a_verdict_is_revealed_once_and_as_committed(chain):
    session_id = chain.open_session()
    task_id, _ = answer_with_checkers(chain, session_id, least=2)
    drawn = TASKS.get(chain.state, task_id).drawn
    messages = commit(chain, task_id, dict.fromkeys(drawn, (m.ACCEPTED, (1,))))
    first, second = (key_of(chain, address) for address in drawn[:2])
    # Another's verdict with its salt fits nobody else's commitment.
    assert refuse(chain, second, messages[first.address]) == "not-committed"
    chain.send(first, messages[first.address])
    assert refuse(chain, first, messages[first.address]) == "already-judged"


def test_who_shows_no_numbers_or_nothing_has_missed_its_duty(chain):
    session_id = chain.open_session()
    task_id, _ = answer_with_checkers(chain, session_id, least=2)
    drawn = TASKS.get(chain.state, task_id).drawn
    missed = [find_node(chain, a).duties - find_node(chain, a).fulfilled for a in drawn]
    messages = commit(chain, task_id, dict.fromkeys(drawn, (m.UNDECIDED, ())))
    chain.send(key_of(chain, drawn[0]), messages[drawn[0]])
    chain.run_until(lambda: TASKS.get(chain.state, task_id).status == FINAL)
    assert [find_node(chain, a).duties - find_node(chain, a).fulfilled for a in drawn] == missed
    assert get_checkers(TASKS.get(chain.state, task_id)) == []


def test_what_a_session_does_not_spend_returns(chain):
    session_id = chain.open_session(deposit=10**10)
    answer(chain, session_id)
    before = get_account(chain.state, chain.user.address).balance
    chain.send(chain.user, m.CloseSession(session_id))
    chain.tick()
    fee = chain.params.transfer_fee
    chain.run_until(lambda: SESSIONS.get(chain.state, session_id) is None, limit=GRACE_BLOCKS + 5)
    # The first few indices of a drawn session are paid for, used or not.
    charged = (chain.params.tasks.least_indices - 1) * chain.params.tasks.unused_tokens * chain.params.unit_price
    assert get_account(chain.state, chain.user.address).balance == before + 10**10 - COST - charged - fee


def test_invalid_sessions(chain):
    unknown = b"u" * 20
    assert refuse(chain, chain.user, m.OpenSession(unknown, "test-model", 10**9)) == "unknown-relay"
    assert refuse(chain, chain.user, m.OpenSession(chain.keys[0].address, "other", 10**9)) == "unknown-model"
    assert refuse(chain, chain.user, m.OpenSession(chain.keys[0].address, "test-model", 5)) == "small-deposit"
    assert refuse(chain, chain.user, m.OpenSession(chain.keys[0].address, "test-model", FUNDS)) == "over-balance"
    session_id = chain.open_session()
    assert refuse(chain, chain.keys[1], m.CloseSession(session_id)) in ("over-balance", "unknown-session")


def test_settlement_pays_honest_work_and_the_fund(chain):
    session_id = chain.open_session()
    workers = {answer(chain, session_id, index)[1].address for index in range(6)}
    end = clock.compute_last_height(chain.params, 0)
    chain.run_until(lambda: chain.height >= end, limit=500)
    lines = {line.address: line for line in get_settlement(chain.state, 0)}
    assert all(lines[address].earned > 0 for address in workers)
    assert get_account(chain.state, TRAINING_FUND).balance > 6 * COST // 5
    assert TASKS.items(chain.state) == []
    chain.tick()
    assert chain.phase() == race.COMMIT


def test_without_work_nothing_is_issued():
    chain = Chain()
    chain.run_race([100] * 5)
    end = clock.compute_last_height(chain.params, 0)
    chain.run_until(lambda: chain.height >= end, limit=500)
    assert all(line.earned == 0 for line in get_settlement(chain.state, 0))
    assert get_account(chain.state, TRAINING_FUND).balance == 0


@pytest.mark.parametrize(("checkers", "worker"), [(0, 800), (1, 400), (2, 400), (5, 400)])
def test_pay_of_a_fee_of_a_thousand(checkers, worker):
    pay = compute_pay(1_000, [bytes([index]) * 20 for index in range(checkers)], 200_000)
    assert (pay.fund, pay.worker) == (200, worker)
    assert pay.fund + pay.worker + sum(amount for _, amount in pay.checkers) == 1_000


def test_check_rate_falls_with_reputation_to_its_floor(chain):
    rates = [compute_reputation_rate_ppm(reputation, chain.params) for reputation in (0, 4, 8, 400)]
    assert rates == [1_000_000, 505_000, 257_500, 10_000]


def test_one_missed_duty_is_forgiven():
    assert [compute_validation_ppm(done, 4) for done in (4, 3, 1, 0)] == [1_000_000, 1_000_000, 500_000, 250_000]
    assert compute_validation_ppm(0, 0) == 1_000_000
