"""Damaged and random messages on tasks: each is refused with a code or executed, and what is refused changes nothing."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import PARAMS, Chain
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.ledger import suspicion
from paceline.ledger.invariants import find_violations
from paceline.ledger.sessions import compute_task_id
from paceline.ledger.suspicion import INQUIRIES, Inquiry
from paceline.ledger.tasks import CHECKING, DISPUTED, FINAL, OPEN_TASKS, REVEALING, TASKS
from paceline.protocol import messages as m

TABLES = (b"sessions/", b"tasks/", b"suspicion/", b"attendance/", b"nodes/")
NUMBERS = st.one_of(st.integers(0, 5), st.integers(0, 2**32 - 1))
DIGESTS = st.binary(min_size=32, max_size=32)
SIGNATURES = st.just(bytes(64))
EVIDENCE = st.lists(st.one_of(st.integers(-5, 5), st.integers(-(2**63), 2**63 - 1)), max_size=3).map(tuple)
VERDICTS = st.builds(m.Verdict, st.sampled_from([m.ACCEPTED, m.REJECTED, m.UNDECIDED]), st.just("x"), EVIDENCE)


@pytest.fixture(scope="module")
def chain():
    """Five tasks in as many states, and an open case against the first node."""
    found = Chain(params=msgspec.structs.replace(PARAMS, epoch_blocks=3_000))
    found.run_race([100] * 5)
    session = found.open_session()
    for index in range(5):
        executor = found.first_executor(session, index)
        found.send(executor, m.SubmitReceipts((found.receipt(session, index, executor),)))
        found.tick()
    found.run_until(lambda: OPEN_TASKS.items(found.state) == [], limit=200)
    return found, session


def prepare(chain, session):
    """A fresh working state with the tasks put into their states; the drawn are everybody."""
    state = chain.state
    everybody = tuple(key.address for key in chain.keys)
    for index, status in enumerate((FINAL, CHECKING, REVEALING, DISPUTED)):
        task_id = compute_task_id(session, index)
        task = TASKS.get(state, task_id)
        blank = m.JudgeTask(task_id, m.Verdict(m.ACCEPTED, "x", (1,)))
        bound = tuple((address, blank.compute_commitment(address)) for address in everybody[:4])
        commitments = bound if status != CHECKING else ()
        changed = msgspec.structs.replace(
            task, status=status, asked=everybody, drawn=everybody, commitments=commitments
        )
        TASKS.put(state, task_id, changed)
    INQUIRIES.put(state, everybody[0], Inquiry(status=suspicion.CONFIRMING, round_index=1, rest=0, drawn=everybody[:3]))
    return state


def messages(chain, session):
    nodes = st.sampled_from([key.address for key in chain.keys] + [b"s" * 20])
    sessions = st.sampled_from([session, session, bytes(16)])
    tasks = st.sampled_from([compute_task_id(session, index) for index in range(6)])
    heights = st.integers(0, chain.height + 3)
    skips = st.lists(st.builds(m.Skip, nodes, st.sampled_from([m.BUSY, m.LATE]), heights, SIGNATURES), max_size=3)

    def sign(voucher, signed):
        if not signed:
            return voucher
        signature = chain.user.sign(voucher.signed_bytes(chain.application.chain_id))
        return msgspec.structs.replace(voucher, signature=signature)

    unsigned = st.builds(
        m.Voucher,
        session=sessions,
        index=NUMBERS,
        executor=nodes,
        prompt_hash=DIGESTS,
        max_cost=st.integers(0, 10**18),
        total=st.integers(0, 10**18),
        skips=skips.map(tuple),
        signature=SIGNATURES,
    )
    vouchers = st.builds(sign, unsigned, st.booleans())
    receipts = st.builds(m.Receipt, vouchers, DIGESTS, NUMBERS, NUMBERS)
    salts = st.sampled_from([bytes(32), b"s" * 32])
    return st.one_of(
        st.builds(m.SubmitReceipts, st.lists(receipts, min_size=1, max_size=2).map(tuple)),
        st.builds(m.ProveVouchers, vouchers, vouchers),
        st.builds(m.CommitVerdict, tasks, DIGESTS),
        st.builds(m.JudgeTask, tasks, VERDICTS, salts),
        st.builds(m.JudgeTask, tasks, st.just(m.Verdict(m.ACCEPTED, "x", (1,))), salts),
        st.builds(m.JudgeNode, nodes, VERDICTS),
        st.builds(m.ReportTask, tasks),
    )


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_message_on_tasks_is_executed_or_refused_with_a_code(chain, data):
    network, session = chain
    state = prepare(network, session)
    before = {key: value for key, value in state.changes.items() if key.startswith(TABLES)}
    message = data.draw(messages(network, session))
    sender = data.draw(st.sampled_from([*network.keys, network.user]))
    result = network.application.deliver(state, network.sign(sender, message))
    assert result.code
    assert find_violations(state, network.params) == []
    if result.code != "ok":
        assert {key: value for key, value in state.changes.items() if key.startswith(TABLES)} == before


def test_each_message_of_the_fuzz_can_also_be_executed(chain):
    network, session = chain
    revealed = m.JudgeTask(compute_task_id(session, 2), m.Verdict(m.ACCEPTED, "x", (1,)))
    task = TASKS.get(network.state, revealed.task)
    voter = next(key for key in network.keys[1:4] if key.address not in (task.executor, *(v.voter for v in task.votes)))
    order = network.order(session, 9)
    late = [network.skip(session, 9, address) for address in order[:1]]
    executor = next(key for key in network.keys if key.address == order[1])
    first, second = (network.voucher(session, 9, key) for key in network.keys[1:3])
    for key, message in (
        (voter, m.CommitVerdict(compute_task_id(session, 1), bytes(32))),
        (voter, revealed),
        (network.keys[1], m.JudgeNode(network.keys[0].address, m.Verdict(m.REJECTED, "x", (1,)))),
        (network.user, m.ReportTask(compute_task_id(session, 0))),
        (executor, m.SubmitReceipts((network.receipt(session, 9, executor, skips=late),))),
        (network.user, m.ProveVouchers(first, second)),
    ):
        state = prepare(network, session)
        assert network.application.deliver(state, network.sign(key, message)).code == "ok"
