"""Training runs on the ledger: seats, rounds, audits, one agreed state, pay."""

from __future__ import annotations

import pytest
from chain_harness import FUNDS, Chain

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.ledger import clock, training
from paceline.ledger.accounts import RUN_ESCROW, get_account
from paceline.ledger.settlement import get_settlement
from paceline.protocol import messages as m

BUDGET = 6_000
SEGMENTS = 4
STATE = hash_parts("state", b"0")


@pytest.fixture
def chain():
    found = Chain()
    found.run_race([100] * 5)
    return found


def open_run(chain, rounds=2, budget=BUDGET):
    message = m.OpenRun(
        plan=b"plan", data_hash=bytes(32), state_hash=STATE, rounds=rounds, trainers=3, segments=SEGMENTS, budget=budget
    )
    run_id = training.compute_run_id(chain.user.address, chain.send(chain.user, message))
    chain.tick()
    for key in chain.keys[:3]:
        chain.send(key, m.JoinRun(run_id))
    wait(chain, run_id, training.TRAINING)
    return run_id


def get_run(chain, run_id):
    return training.RUNS.get(chain.state, run_id)


def wait(chain, run_id, phase):
    chain.run_until(lambda: get_run(chain, run_id).phase == phase)


def update(run_id, round_index, key):
    states = tuple(hash_parts("border", key.address, bytes([round_index, i])) for i in range(SEGMENTS + 1))
    return m.CommitUpdate(run_id, round_index, hash_parts("update", key.address), states, 5)


def commit_all(chain, run_id, round_index, keys=None):
    for key in keys or chain.keys[:3]:
        chain.send(key, update(run_id, round_index, key))
    wait(chain, run_id, training.AUDITING)


def audit_all(chain, run_id, round_index, rejected=()):
    for trainer, found in training.get_updates(chain.state, run_id, round_index).items():
        outcome = m.REJECTED if trainer in rejected else m.ACCEPTED
        for auditor in found.auditors:
            key = next(key for key in chain.keys if key.address == auditor)
            chain.send(key, m.JudgeUpdate(run_id, round_index, trainer, m.Verdict(outcome, "", ())))
    wait(chain, run_id, training.REPORTING)


def report(chain, run_id, round_index, state, voters):
    for index in voters:
        chain.send(chain.keys[index], m.ReportState(run_id, round_index, state, 1_000 + index))
    chain.tick()


def refuse(chain, key, message):
    with pytest.raises(InvalidTransaction) as refused:
        chain.send(key, message)
    return refused.value.code


def test_rounds_to_the_end_with_pay(chain):
    run_id = open_run(chain)
    for index in range(2):
        commit_all(chain, run_id, index)
        for trainer, found in training.get_updates(chain.state, run_id, index).items():
            assert trainer not in found.auditors
            assert not set(found.auditors) & set(get_run(chain, run_id).joined)
            assert len(found.segments) == chain.params.audit_segments
        audit_all(chain, run_id, index)
        report(chain, run_id, index, hash_parts("state", bytes([index + 1])), range(3))
    run = get_run(chain, run_id)
    assert run.phase == training.ENDED
    assert run.state_hash == hash_parts("state", b"\2")
    assert run.losses == (1_001, 1_001)
    assert get_account(chain.state, RUN_ESCROW).balance == 0
    end = clock.compute_last_height(chain.params, 0)
    chain.run_until(lambda: chain.height >= end, limit=500)
    lines = {line.address: line for line in get_settlement(chain.state, 0)}
    assert all(lines[key.address].tasks == 2 for key in chain.keys[:3])


def test_a_rejected_update_stays_out_and_a_majority_removes_its_trainer(chain):
    run_id = open_run(chain)
    liar = chain.keys[1]
    commit_all(chain, run_id, 0)
    audit_all(chain, run_id, 0, rejected={liar.address})
    found = training.get_updates(chain.state, run_id, 0)
    assert found[liar.address].outcome == m.REJECTED
    assert found[liar.address].pay == 0
    assert liar.address in get_run(chain, run_id).trainers
    voted = {vote.voter for vote in found[liar.address].votes}
    for key in chain.keys:
        if key is not liar and key.address not in voted:
            chain.send(key, m.JudgeUpdate(run_id, 0, liar.address, m.Verdict(m.REJECTED, "", ())))
    chain.tick()
    chain.tick()
    assert liar.address not in get_run(chain, run_id).trainers
    assert get_run(chain, run_id).rejected == (liar.address,)
    assert chain.node(1).guilty == 0
    report(chain, run_id, 0, hash_parts("state", b"1"), [0, 2, 3])
    commit_all(chain, run_id, 1, keys=[chain.keys[0], chain.keys[2]])


def test_exactly_half_of_the_weight_agrees_on_no_state():
    chain = Chain(count=6)
    chain.run_race([100] * 6)
    run_id = open_run(chain)
    commit_all(chain, run_id, 0)
    audit_all(chain, run_id, 0)
    report(chain, run_id, 0, hash_parts("state", b"1"), [0, 1, 2])
    assert get_run(chain, run_id).phase == training.REPORTING
    report(chain, run_id, 0, hash_parts("state", b"1"), [3])
    assert get_run(chain, run_id).state_hash == hash_parts("state", b"1")


def test_without_agreement_the_round_closes_with_the_old_state(chain):
    run_id = open_run(chain, rounds=1)
    commit_all(chain, run_id, 0)
    audit_all(chain, run_id, 0)
    for index in range(5):
        report(chain, run_id, 0, hash_parts("own-state", bytes([index])), [index])
    wait(chain, run_id, training.ENDED)
    assert get_run(chain, run_id).state_hash == STATE


def test_a_dead_trainer_is_left_out_after_the_deadline(chain):
    run_id = open_run(chain)
    chain.send(chain.keys[0], update(run_id, 0, chain.keys[0]))
    wait(chain, run_id, training.AUDITING)
    audit_all(chain, run_id, 0)
    assert list(training.get_updates(chain.state, run_id, 0)) == [chain.keys[0].address]


def test_nobody_joins_and_the_budget_returns(chain):
    before = get_account(chain.state, chain.user.address).balance
    message = m.OpenRun(
        plan=b"", data_hash=bytes(32), state_hash=STATE, rounds=1, trainers=1, segments=1, budget=BUDGET
    )
    run_id = training.compute_run_id(chain.user.address, chain.send(chain.user, message))
    chain.tick()
    wait(chain, run_id, training.ENDED)
    assert get_account(chain.state, chain.user.address).balance == before - chain.params.transfer_fee


def test_a_block_looks_at_running_runs_only_and_ended_ones_are_forgotten(chain, monkeypatch):
    monkeypatch.setattr(training, "MOST_FORGOTTEN", 2)
    ended = [open_run(chain) for _ in range(3)]
    chain.run_until(lambda: not training.list_running(chain.state))
    running = open_run(chain)
    assert [run_id for run_id, _ in training.list_running(chain.state)] == [running]
    state = chain.state.branch()
    last = chain.height + training.KEPT_EPOCHS * chain.params.epoch_blocks
    for height, left in ((chain.height, 4), (last, 2), (last + 1, 1)):
        state.height = height
        training.forget_ended(state, chain.params)
        assert len(training.RUNS.items(state)) == left
    assert training.RUNS.items(state) == training.list_running(state)
    # One whose last update is still in dispute is not forgotten.
    state = chain.state.branch()
    state.height = last
    update = training.Update(update_hash=bytes(32), state_hashes=(), previous_state=b"", loss_micronats=0)
    for run_id in ended:
        training.UPDATES.put(state, training.update_key(run_id, 0, b"t" * 20), update)
    training.forget_ended(state, chain.params)
    assert len(training.RUNS.items(state)) == 4


def test_invalid_runs_joins_and_updates(chain):
    bad = m.OpenRun(plan=b"", data_hash=bytes(32), state_hash=STATE, rounds=2, trainers=3, segments=4, budget=5)
    assert refuse(chain, chain.user, bad) == "small-budget"
    rich = m.OpenRun(plan=b"", data_hash=bytes(32), state_hash=STATE, rounds=2, trainers=3, segments=4, budget=FUNDS)
    assert refuse(chain, chain.user, rich) == "over-balance"
    assert refuse(chain, chain.keys[0], m.JoinRun(bytes(16))) == "unknown-run"
    run_id = open_run(chain)
    assert refuse(chain, chain.keys[3], m.JoinRun(run_id)) == "wrong-phase"
    assert refuse(chain, chain.keys[3], update(run_id, 0, chain.keys[3])) == "not-a-trainer"
    assert refuse(chain, chain.keys[0], update(run_id, 1, chain.keys[0])) == "wrong-phase"
    short = m.CommitUpdate(run_id, 0, bytes(32), (bytes(32), bytes(32)), 5)
    assert refuse(chain, chain.keys[0], short) == "wrong-segments"
    chain.send(chain.keys[0], update(run_id, 0, chain.keys[0]))
    assert refuse(chain, chain.keys[0], update(run_id, 0, chain.keys[0])) == "already-committed"


def test_invalid_verdicts_on_updates(chain):
    run_id = open_run(chain)
    commit_all(chain, run_id, 0)
    trainer = chain.keys[0].address
    auditors = training.get_updates(chain.state, run_id, 0)[trainer].auditors
    verdict = m.JudgeUpdate(run_id, 0, trainer, m.Verdict(m.ACCEPTED, "", ()))
    assert refuse(chain, chain.keys[0], verdict) == "no-vote"
    assert refuse(chain, chain.keys[1], verdict) == "not-drawn"
    key = next(key for key in chain.keys if key.address == auditors[0])
    chain.send(key, verdict)
    assert refuse(chain, key, verdict) == "no-vote"
