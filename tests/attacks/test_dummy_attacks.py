"""Attacks on dummies by the relay that makes them: free answers, users' tasks passed off, dearer dummies, later keys.

Power: with draws at 40 % a relay that calls all its tasks dummies gets back those 40 % and not one more; of the value, never
more than the stated share; of what users asked, nothing. Each test shows what it gets without the defence.
"""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import PARAMS, Chain
from dummy_chain import PROMPTS, USER_PROMPT, DummySession

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.ledger import dummies, nodes
from paceline.ledger.disputes import has_voted
from paceline.ledger.sessions import compute_task_id
from paceline.ledger.tasks import CHECKING, GUILTY, TASKS
from paceline.node.ceremony import CeremonyKey
from paceline.node.dummies.plans import compute_point, make_entry, make_plan
from paceline.protocol import messages as m
from paceline.protocol.dummies import RevealDummies
from paceline.protocol.params import DummyParams

MADE = 20
DRAWN_PPM, SHARE_PPM = 400_000, 900_000
DEFENDED = msgspec.structs.replace(PARAMS, check_blocks=4, dummies=DummyParams(rate_ppm=DRAWN_PPM, share_ppm=SHARE_PPM))


def open_doors(params, **changes):
    """The same network with a defence switched off."""
    return msgspec.structs.replace(params, dummies=msgspec.structs.replace(params.dummies, **changes))


@pytest.fixture(scope="module")
def chain():
    found = Chain(params=DEFENDED)
    found.run_race([100] * 5)
    return found


@pytest.fixture(scope="module")
def greedy(chain):
    """A relay whose every task is its own prompt."""
    session = DummySession(chain)
    session.wait_final([session.answer(index, dummy=True) for index in range(MADE)])
    return session


def count_accepted(session, indices, params, state=None):
    """How many tasks the ledger takes for dummies, one reveal each; and nicoin that came back."""
    state = state or session.chain.state.branch()
    returned, accepted = 0, 0
    for index in indices:
        cost = session.cost([index])
        message = session.reveal([index], payouts=session.payouts(cost, tag=index + 1))
        branch = state.branch()
        try:
            dummies.apply_reveal(branch, params, session.chain.application.chain_id, session.relay.address, message)
        except InvalidTransaction:
            continue
        state.merge(branch)
        accepted, returned = accepted + 1, returned + cost
    return accepted, returned


def test_a_relay_that_calls_everything_a_dummy_gets_no_more_than_the_draw(greedy):
    drawn = greedy.drawn(MADE)
    accepted, _ = count_accepted(greedy, range(MADE), DEFENDED)
    assert accepted == len(drawn)
    # Four deviations of a binomial draw at 40 %.
    assert abs(accepted - MADE * 0.4) < 4 * (MADE * 0.4 * 0.6) ** 0.5
    # The draw off: every answer of the network is free.
    everything, _ = count_accepted(greedy, range(MADE), open_doors(DEFENDED, rate_ppm=10**6, share_ppm=10**6))
    assert everything == MADE


def test_dear_prompts_at_drawn_places_bring_back_no_more_than_the_share(chain):
    params = open_doors(DEFENDED, share_ppm=200_000)
    session = DummySession(chain, nonce=b"d" * 32)
    drawn = session.drawn(10)
    made = [session.answer(index, completion=900 if index in drawn else 1, dummy=index in drawn) for index in range(10)]
    session.wait_final(made)
    relayed = nodes.NODES.get(chain.state, session.relay.address).relayed
    _, returned = count_accepted(session, drawn, params)
    assert returned <= relayed // 5
    # The share off: by value nearly all that the session paid comes back, at a draw of 40 %.
    _, everything = count_accepted(session, drawn, open_doors(params, share_ppm=10**6))
    assert everything > 0.9 * sum(TASKS.get(chain.state, task).cost for task in made)


def test_a_users_task_at_a_drawn_place_is_never_passed_off_as_a_dummy(chain):
    session = DummySession(chain, nonce=b"u" * 32)
    index = session.drawn(20)[0]
    session.wait_final([session.answer(at, dummy=False) for at in range(index + 1)])
    # Once the request is there, the relay makes the plan that it wishes it had promised.
    late = make_plan((USER_PROMPT, *PROMPTS[1:]), b"l" * 32)
    promised, session.plan = session.plan, late
    assert late.compute_root() != promised.compute_root()
    assert count_accepted(session, [index], DEFENDED)[0] == 0
    # The defence off: a root that may be named after the session is drawn.
    state = chain.state.branch()
    promise = dummies.PROMISES.get(state, session.session_id)
    late_promise = msgspec.structs.replace(promise, root=late.compute_root())
    dummies.PROMISES.put(state, session.session_id, late_promise)
    assert count_accepted(session, [index], DEFENDED, state)[0] == 1


def test_a_key_tried_until_it_draws_the_place_is_not_believed(greedy):
    chain_id = greedy.chain.application.chain_id
    index = next(index for index in range(MADE) if index not in greedy.drawn(MADE))

    def draws(key):
        point = compute_point(key, chain_id, greedy.session_id, greedy.session, index)
        return dummies.is_drawn(point, DEFENDED)

    tried = (CeremonyKey(greedy.relay.address, hash_parts("tried", bytes([n]))) for n in range(100))
    better = next(key for key in tried if draws(key))
    entry = make_entry(
        greedy.plan, better, chain_id, greedy.session_id, seed=greedy.session.seed, index=index, place=index
    )
    message = greedy.reveal([index], entries=(entry,))

    def apply(state):
        dummies.apply_reveal(state, DEFENDED, chain_id, greedy.relay.address, message)

    with pytest.raises(InvalidTransaction, match="not-drawn"):
        apply(greedy.chain.state.branch())
    # The defence off: the key that the node has registered since.
    state = greedy.chain.state.branch()
    promise = dummies.PROMISES.get(state, greedy.session_id)
    dummies.PROMISES.put(state, greedy.session_id, msgspec.structs.replace(promise, draw_key=better.public_key))
    apply(state)
    assert TASKS.get(state, compute_task_id(greedy.session_id, index)).is_dummy


def test_a_message_of_the_ledger_names_no_dummy_before_the_reveal(greedy):
    """What the ledger holds of a dummy and of a user's task has the same fields, and none says which it is."""
    tasks = [TASKS.get(greedy.chain.state, compute_task_id(greedy.session_id, index)) for index in range(MADE)]
    assert {(task.owner, task.relay, task.is_dummy) for task in tasks} == {
        (greedy.chain.user.address, greedy.relay.address, False)
    }


def judge_all(chain, task_id, outcome):
    """Drawn checkers commit and reveal; then everybody with weight votes the same way."""
    for _ in range(60):
        task = TASKS.get(chain.state, task_id)
        message = m.JudgeTask(task_id, m.Verdict(outcome, "test", ()))
        for key in chain.keys:
            if task.status == CHECKING and key.address in task.asked:
                if not any(key.address == address for address, _ in task.commitments):
                    chain.send(key, m.CommitVerdict(task_id, message.compute_commitment(key.address)))
            elif task.status in ("revealing", "disputed") and not has_voted(task.votes, key.address):
                may = key.address != task.executor and (task.status == "disputed" or key.address in task.asked)
                if may:
                    chain.send(key, message)
        chain.tick()
        if TASKS.get(chain.state, task_id).status == GUILTY:
            return
    raise AssertionError("no verdict")


def test_a_cheat_in_a_dummy_costs_what_any_cheat_costs():
    chain = Chain(params=DEFENDED)
    chain.run_race([100] * 5)
    session = DummySession(chain)
    for index in range(12):
        task_id = session.answer(index)
        chain.run_until(lambda task_id=task_id: TASKS.get(chain.state, task_id).status != "drawing")
        task = TASKS.get(chain.state, task_id)
        if index in session.places and task.drawn:
            break
    else:
        raise AssertionError("no dummy had checkers")
    judge_all(chain, task_id, m.REJECTED)
    executor = nodes.NODES.get(chain.state, task.executor)
    assert (executor.guilty, executor.reputation) == (0, 0)
    # It was paid back by the verdict; a reveal has nothing more to undo.
    message = RevealDummies(session.session_id, (session.entry(index),), session.payouts(task.cost))
    with pytest.raises(InvalidTransaction, match="not-final"):
        chain.send(session.relay, message)
