"""Marked tasks on the ledger: nobody chooses them, everybody may check them, and all they bring is reputation."""

from __future__ import annotations

import msgspec
import pytest
from marked_chain import WINDOW, MarkedChain
from trap_chain import TrapChain

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.ledger import check_rates, clock, marked, nodes, task_reports, traps
from paceline.ledger.sessions import compute_task_id
from paceline.ledger.settlement import settle_epoch
from paceline.ledger.tasks import DRAWING, FINAL, GUILTY, LIFTED, TASKS, UNSHOWN
from paceline.protocol import messages as m
from paceline.protocol.marked import TEMPERATURES_PPM, TOP_KS, TOP_PS_PPM, derive_request

MODELS = ("one", "two")


@pytest.fixture(scope="module")
def chain():
    return MarkedChain()


@pytest.fixture(scope="module")
def finished(chain):
    """A marked task that honest checkers have passed."""
    task_id = chain.submit(1)
    assert chain.judge(task_id, m.ACCEPTED).status == FINAL
    return task_id


def apply(chain, state, message, *, index=1, params=None):
    epoch = clock.compute_epoch(chain.params, state.height)
    marked.apply_submission(state, params or chain.params, chain.keys[index].address, message, epoch)


def refuse(chain, state, message, **options):
    with pytest.raises(InvalidTransaction) as refused:
        apply(chain, state.branch(), message, **options)
    return refused.value.code


def settle(chain, state):
    settle_epoch(state, chain.params, clock.compute_epoch(chain.params, state.height))


def test_one_chance_leads_to_one_request_and_another_to_another():
    chances = [hash_parts("chance", bytes([number])) for number in range(200)]
    requests = [derive_request(chance, MODELS, 64) for chance in chances]
    assert requests == [derive_request(chance, MODELS, 64) for chance in chances]
    assert len({request.prompt for request in requests}) == len(requests)
    assert {request.model for request in requests} == set(MODELS)
    lengths = {request.max_tokens for request in requests}
    assert (min(lengths), max(lengths)) == (16, 64)
    assert {request.temperature_ppm for request in requests} == set(TEMPERATURES_PPM)
    assert {request.top_k for request in requests} == set(TOP_KS)
    assert {request.top_p_ppm for request in requests} == set(TOP_PS_PPM)


def test_the_shortest_length_is_a_boundary():
    assert derive_request(bytes(32), MODELS, 1).max_tokens == 1


def test_nodes_and_numbers_have_tasks_of_their_own(chain):
    number = chain.next_number(0)
    found = [chain.find_task(index, number) for index in range(5)] + [chain.find_task(0, number + 1)]
    assert len({task.task_id for task in found}) == len({task.seed for task in found}) == 6
    assert len({task.request.compute_hash() for task in found}) == 6


def test_the_ledger_knows_the_request_that_nobody_sent(chain, finished):
    task = TASKS.get(chain.state, finished)
    derived = marked.derive_task(chain.state, chain.params, task.executor, task.index)
    assert (task.prompt_hash, task.seed) == (derived.request.compute_hash(), derived.seed)
    assert (task.is_marked, task.cost, task.owner, task.relay) == (True, 0, b"", b"")


def test_a_final_marked_task_builds_reputation_and_pays_nobody(chain, finished):
    state = chain.state.branch()
    before = dict(nodes.NODES.items(state))
    settle(chain, state)
    for address, node in nodes.NODES.items(state):
        grown = int(address == chain.keys[1].address)
        assert node.reputation == before[address].reputation + grown
        # No fee, no issuance: among nodes that earned nothing else there is nothing to share.
        assert (node.earned, node.dummies) == (before[address].earned, 0)
    assert before[chain.keys[1].address].drawn == before[chain.keys[1].address].held == 0
    assert TASKS.get(state, finished) is None


def test_a_node_grows_as_much_by_two_marked_tasks_as_by_one(chain, finished):
    state = chain.state.branch()
    TASKS.put(state, bytes(32), TASKS.get(state, finished))
    settle(chain, state)
    assert nodes.NODES.get(state, chain.keys[1].address).reputation == chain.node(1).reputation + 1


def test_invalid_errors_that_were_not_shown_build_no_reputation(chain, finished):
    state = chain.state.branch()
    TASKS.put(state, finished, msgspec.structs.replace(TASKS.get(state, finished), unpaid=True))
    settle(chain, state)
    assert nodes.NODES.get(state, chain.keys[1].address).reputation == chain.node(1).reputation


def test_checkers_are_drawn_at_the_rate_of_the_reputation_and_their_work_counts(chain, finished):
    task = TASKS.get(chain.state, finished)
    assert task.executor not in task.drawn
    assert set(task.drawn) <= {key.address for key in chain.keys}
    state = chain.state.branch()
    for reputation in (0, 4, 12, 10_000):
        nodes.update_node(state, task.executor, reputation=reputation)
        rate = check_rates.check_rate_ppm(state, chain.params, task.executor, task)
        assert rate == check_rates.compute_reputation_rate_ppm(reputation, chain.params) > 0
    for checker in task.drawn:
        assert nodes.NODES.get(chain.state, checker).fulfilled >= 1


def test_invalid_numbers(chain, finished):
    number, state = chain.next_number(1), chain.state
    each = chain.params.dummies.marked_per_window
    latest = chain.node(1).marked
    assert refuse(chain, state, chain.submission(latest)) == "already-submitted"
    assert refuse(chain, state, chain.submission(number + each)) == "wrong-window"
    off = msgspec.structs.replace(chain.params.dummies, marked_per_window=0)
    params = msgspec.structs.replace(chain.params, dummies=off)
    assert refuse(chain, state, chain.submission(number), params=params) == "switched-off"
    assert marked.find_next(state, params, chain.keys[1].address) is None
    apply(chain, state.branch(), chain.submission(number))


def test_the_former_window_is_the_last_that_is_taken(chain):
    number = chain.next_number(2)
    state, each = chain.state.branch(), chain.params.dummies.marked_per_window
    end = (number // each + 2) * WINDOW
    state.height = end
    assert refuse(chain, state, chain.submission(number), index=2) == "wrong-window"
    state.height = end - 1
    apply(chain, state, chain.submission(number), index=2)


def test_the_last_of_a_window_is_followed_by_the_next_windows(chain):
    address, each = chain.keys[3].address, chain.params.dummies.marked_per_window
    state, first = chain.state.branch(), chain.next_number(3)
    window = state.height // WINDOW
    nodes.update_node(state, address, marked=window * each)
    assert marked.find_next(state, chain.params, address) == window * each + 1
    nodes.update_node(state, address, marked=window * each + 1)
    assert marked.find_next(state, chain.params, address) is None
    state.height += WINDOW
    assert marked.find_next(state, chain.params, address) == (window + 1) * each > first
    assert marked.find_next(state, chain.params, bytes(20)) is None


def test_invalid_answers_longer_than_asked_for(chain):
    number = chain.next_number(2)
    most = chain.find_task(2, number).request.max_tokens
    long = chain.submission(number, completion_tokens=most + 1)
    assert refuse(chain, chain.state, long, index=2) == "over-length"
    apply(chain, chain.state.branch(), chain.submission(number, completion_tokens=most), index=2)


def test_invalid_senders(chain):
    number, state = chain.next_number(2), chain.state.branch()
    assert chain.refuse(chain.user, chain.submission(number)) == "not-a-node"
    with pytest.raises(InvalidTransaction, match="not-a-node"):
        marked.derive_task(state, chain.params, chain.user.address, number)
    guilty = state.branch()
    nodes.update_node(guilty, chain.keys[2].address, guilty=clock.compute_epoch(chain.params, chain.height))
    assert refuse(chain, guilty, chain.submission(number), index=2) == "guilty"
    nodes.update_node(guilty, chain.keys[2].address, guilty=clock.compute_epoch(chain.params, chain.height) - 1)
    apply(chain, guilty, chain.submission(number), index=2)
    weightless = state.branch()
    nodes.update_node(weightless, chain.keys[2].address, weight=0)
    assert refuse(chain, weightless, chain.submission(number), index=2) == "no-weight"
    node = nodes.NODES.get(state, chain.keys[2].address)
    nodes.NODES.put(state, chain.keys[2].address, msgspec.structs.replace(node, serves=()))
    assert refuse(chain, state, chain.submission(number), index=2) == "nothing-served"


def test_who_changed_what_it_serves_after_the_chance_was_asked_for_has_none(chain):
    number, state = chain.next_number(2), chain.state.branch()
    each, interval = chain.params.dummies.marked_per_window, chain.params.beacon_interval
    asked_at = max(1, -(-(number // each * WINDOW) // interval)) * interval
    nodes.update_node(state, chain.keys[2].address, serves_since=asked_at + 1)
    assert refuse(chain, state, chain.submission(number), index=2) == "serves-changed"
    nodes.update_node(state, chain.keys[2].address, serves_since=asked_at)
    apply(chain, state, chain.submission(number), index=2)


def test_before_its_chance_there_is_no_marked_task(chain):
    state, each = chain.state.branch(), chain.params.dummies.marked_per_window
    state.height = (state.height // WINDOW + 1) * WINDOW
    assert refuse(chain, state, chain.submission(state.height // WINDOW * each), index=2) == "not-drawn-yet"


def test_a_rejected_marked_task_costs_what_any_cheat_costs(chain):
    """Held pay of the epoch, reputation and the draw; a user's unproven answer is refunded."""
    session_id = chain.open_session()
    answered, executor = chain.answer(session_id, 0)
    index = next(at for at, key in enumerate(chain.keys) if key.address == executor.address)
    for _ in range(10):
        task_id = chain.submit(index)
        chain.run_until(lambda task_id=task_id: TASKS.get(chain.state, task_id).status != "drawing")
        if TASKS.get(chain.state, task_id).asked:
            break
    assert chain.judge(task_id, m.REJECTED).status == GUILTY
    node = chain.node(index)
    assert (node.reputation, node.guilty) == (0, clock.compute_epoch(chain.params, chain.height))
    assert TASKS.get(chain.state, answered).refunded
    # Nobody paid for it, so nobody can doubt it for a fee, its executor least of all.
    with pytest.raises(InvalidTransaction, match="not-yours"):
        task_reports.apply_report(chain.state.branch(), chain.params, executor.address, m.ReportTask(task_id))


@pytest.mark.parametrize(("shows", "shown", "grown"), [(True, LIFTED, 1), (False, UNSHOWN, 0)])
def test_forced_errors_keep_checkers_awake_in_marked_tasks_too(shows, shown, grown):
    """Its draw not shown, the executor loses what a marked task is worth."""
    chain = TrapChain()
    chain.run_race([100] * 5)
    for index in range(1, 5):
        number = marked.find_next(chain.state, chain.params, chain.keys[index].address)
        task_id = compute_task_id(marked.compute_session(chain.keys[index].address), number)
        drawn = traps.is_drawn(chain.params, 16, chain.lot(chain.keys[index], task_id).point)
        chain.send(chain.keys[index], chain.answer_marked(index, number, completion=16, force=drawn and shows))
        assert drawn
        chain.tick()
        chain.run_until(lambda task_id=task_id: chain.task(task_id).status != DRAWING)
        if chain.task(task_id).drawn:
            break
    assert chain.check(task_id, shows=shows).status == FINAL
    assert chain.task(task_id).shown == shown
    state, _, _ = chain.settle()
    assert nodes.NODES.get(state, chain.keys[index].address).reputation == grown


def test_a_settled_number_does_not_come_back():
    chain = MarkedChain()
    chain.run_until(lambda: chain.height % chain.params.epoch_blocks > chain.params.epoch_blocks - 30, 500)
    number = chain.next_number(1)
    task_id = chain.submit(1, number)
    chain.judge(task_id, m.ACCEPTED)
    chain.run_until(lambda: TASKS.get(chain.state, task_id) is None)
    assert chain.node(1).reputation == 1
    assert chain.refuse(chain.keys[1], chain.submission(number)) == "already-submitted"
