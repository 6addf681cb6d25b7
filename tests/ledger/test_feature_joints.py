"""Where features meet: dummies, forced errors, reports, channels and convictions in one state, and that state moved."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import make_group_key
from channel_setup import Account
from dummy_chain import DummySession
from trap_chain import TrapChain, make_params

from paceline.engine.solo import Replica
from paceline.ledger.accounts import REPORT_FEES, get_account
from paceline.ledger.application import Application
from paceline.ledger.channel_records import CHANNELS, OPEN
from paceline.ledger.dummies import PROMISES
from paceline.ledger.nodes import NODES
from paceline.ledger.sessions import compute_task_id
from paceline.ledger.tasks import DRAWING, FINAL, GUILTY, LIFTED, OPEN_TASKS, SHOWING, TASKS
from paceline.protocol import messages as m
from paceline.protocol.params import DummyParams
from paceline.protocol.traps import ShowDraws
from paceline.store.snapshots import export_state, import_state
from paceline.store.state import MemoryStateStore

SLOW_SHOW = 100


def make_chain(*, lazy=(), **changes):
    """Forced errors in every answer that is long enough, dummies in many; `changes` in the parameters of tasks."""
    params = make_params()
    dummies = DummyParams(rate_ppm=400_000, share_ppm=1_000_000)
    tasks = msgspec.structs.replace(params.tasks, report_blocks=300, **changes)
    return TrapChain(msgspec.structs.replace(params, epoch_blocks=600, dummies=dummies, tasks=tasks), lazy=lazy)


class TrappedDummies(DummySession):
    """Dummies that their executors answer like anything else: with a forced error where their keys draw one."""

    def answer(self, index, *, completion=20):
        dummy = self.is_drawn(index)
        if dummy:
            self.places[index] = len(self.places)
        prompt = self.plan.hashes[self.places[index]] if dummy else bytes(32)
        chain, executor = self.chain, self.chain.first_executor(self.session_id, index)
        voucher = chain.voucher(self.session_id, index, executor, max_cost=10**9, prompt=prompt)
        receipt = chain.receipt(self.session_id, index, executor, completion=completion)
        chain.send(executor, m.SubmitReceipts((msgspec.structs.replace(receipt, voucher=voucher),)))
        chain.tick()
        task_id = compute_task_id(self.session_id, index)
        chain.run_until(lambda: chain.task(task_id).status != DRAWING)
        return task_id

    def answer_dummy(self, *, checked):
        """Tasks until a dummy has checkers, or until one has none; its index and id."""
        for index in range(len(self.places), 40):
            task_id = self.answer(index)
            if self.is_drawn(index) and bool(self.chain.task(task_id).drawn) == checked:
                return index, task_id
        raise AssertionError("no such dummy")


def find_node(chain, address):
    return NODES.get(chain.state, address)


def test_a_dummy_that_is_a_forced_error_is_revealed_once_it_is_shown_lifted_and_final():
    chain = make_chain()
    session = TrappedDummies(chain)
    index, task_id = session.answer_dummy(checked=True)
    message = session.reveal([index])
    for status in (SHOWING, DRAWING):
        task = chain.check(task_id, until=(status,), shows=status != SHOWING)
        assert chain.refuse(session.relay, message) == "not-final"
    assert task.shown == LIFTED
    final = chain.check(task_id)
    chain.send(session.relay, message)
    chain.tick()
    assert chain.task(task_id).is_dummy and chain.task(task_id).finders == final.finders
    # It paid nobody; who found the error has still found one.
    _, gained, lines = chain.settle()
    assert all(find_node(chain, address).found == 1 for address in final.finders)
    assert find_node(chain, final.executor).guilty == -1
    assert all(lines[a].earned == gained[a] for a in gained)


def test_a_revealed_dummy_is_shown_to_be_a_forced_error_when_it_is_reported():
    chain = make_chain()
    session = TrappedDummies(chain)
    index, task_id = session.answer_dummy(checked=False)
    chain.run_until(lambda: chain.task(task_id).status == FINAL)
    chain.send(session.relay, session.reveal([index]))
    chain.tick()
    before = get_account(chain.state, chain.user.address).balance
    chain.send(chain.user, m.ReportTask(task_id))
    chain.tick()
    fee = chain.params.tasks.report_fee + chain.params.transfer_fee
    assert get_account(chain.state, chain.user.address).balance == before - fee
    final = chain.check(task_id)
    assert (final.status, final.shown, final.cost, final.is_dummy) == (FINAL, LIFTED, 0, True)
    assert not final.refunded and find_node(chain, final.executor).guilty == -1


def make_lifted(chain):
    """A forced error that was found, whose true answer passed too, and that leaves somebody who has not looked yet."""
    for _ in range(60):
        task_id, executor = chain.answer_checked(most=2)
        final = chain.check(task_id)
        if final.shown == LIFTED and len(final.drawn) < len(chain.keys) - 2:
            return task_id, executor
    raise AssertionError("everybody was drawn")


@pytest.mark.parametrize("lies", [False, True])
def test_a_report_on_a_lifted_forced_error_is_about_the_true_answer(lies):
    chain = make_chain()
    task_id, executor = make_lifted(chain)
    first = chain.task(task_id)
    chain.send(chain.user, m.ReportTask(task_id))
    chain.tick()
    chain.run_until(lambda: chain.task(task_id).status != DRAWING)
    again = chain.task(task_id)
    assert again.asked and not set(again.asked) & set(first.drawn)
    assert again.payload_hash == chain.payloads(task_id)[0]
    outcomes = {key.address: (m.REJECTED, (1,)) for key in chain.keys} if lies else {}
    settled = chain.check(task_id, outcomes=outcomes, shows=False)
    assert settled.finders == first.finders and settled.shown == LIFTED
    assert (settled.status, settled.refunded) == ((GUILTY, True) if lies else (FINAL, False))
    assert find_node(chain, executor.address).guilty == (0 if lies else -1)
    assert get_account(chain.state, REPORT_FEES).balance == 0


def answer_by(chain, executor, **options):
    """Tasks until this node has one, with checkers."""
    for _ in range(60):
        task_id, found = chain.answer(**options)
        if found == executor and chain.task(task_id).drawn:
            return task_id
    raise AssertionError("never drawn")


def test_a_conviction_ends_the_open_channel_and_the_task_that_waits_to_be_shown():
    chain = make_chain(show_blocks=SLOW_SHOW)
    account = Account(chain, blocks=400)
    account.serve(3)
    executor = account.executor
    waiting = answer_by(chain, executor)
    chain.check(waiting, until=(SHOWING,), shows=False)
    # Too short for a forced error: a wrong answer is judged at once, and nothing excuses it.
    cheat = answer_by(chain, executor, force=True, completion=4)
    assert account.record.status == OPEN
    showing = ShowDraws((chain.showing(waiting, executor),))
    before = get_account(chain.state, chain.user.address).balance
    left, refunded = account.record.left, chain.task(waiting).cost + chain.task(cheat).cost
    others = sum(
        task.cost for key, task in TASKS.items(chain.state) if task.executor == executor.address and not task.votes
    )
    assert chain.check(cheat).status == GUILTY
    assert account.record is None
    assert (chain.task(waiting).status, chain.task(waiting).refunded) == (GUILTY, True)
    assert OPEN_TASKS.get(chain.state, waiting) is None
    gained = get_account(chain.state, chain.user.address).balance - before
    assert left + refunded <= gained <= left + refunded + others
    assert chain.refuse(executor, showing) == "nothing-to-show"
    assert find_node(chain, executor.address).guilty == 0
    relay = find_node(chain, chain.keys[0].address)
    kept = [task.cost for _, task in TASKS.items(chain.state) if not task.refunded and not task.slots]
    assert relay.relayed == sum(kept)
    _, settled, _ = chain.settle()
    assert settled[executor.address] == 0


def test_a_state_with_channel_promises_and_a_showing_task_moves_and_goes_on(tmp_path):
    chain = make_chain(show_blocks=SLOW_SHOW)
    account = Account(chain)
    account.serve(2)
    session = TrappedDummies(chain)
    index, dummy = session.answer_dummy(checked=True)
    chain.check(dummy, until=(SHOWING,), shows=False)
    assert CHANNELS.items(chain.state) and PROMISES.get(chain.state, session.session_id)
    assert chain.task(dummy).lot_key == make_group_key(chain.find_key(chain.task(dummy).executor)).public_key
    source = chain.replica_store
    export_state(
        tmp_path / "state", chain.height, source.app_hash, list(source.iterate(b"")), source.get_block(chain.height)
    )
    target = MemoryStateStore()
    import_state(tmp_path / "state", target)
    assert (target.height, target.app_hash) == (chain.height, source.app_hash)
    application = Application(chain.genesis, target)
    newcomer = Replica(application, target)
    first = chain.height + 1
    chain.check(dummy)
    chain.send(session.relay, session.reveal([index]))
    chain.send(account.executor, account.claim())
    account.run_to_draw()
    for height in range(first, chain.height + 1):
        newcomer.apply_block(source.get_block(height))
    assert target.app_hash == source.app_hash
    assert TASKS.get(application.read(), dummy).is_dummy
