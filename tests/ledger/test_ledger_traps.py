"""Forced errors on the ledger: what an executor must show, who is fooled, who is paid, and what a cheat cannot excuse."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import make_group_key
from trap_chain import TrapChain, make_params

from paceline.base.bls import EncryptionKey
from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.ledger import nodes, suspicion, task_pay
from paceline.ledger.nodes import NODES
from paceline.ledger.tasks import DISPUTED, DRAWING, FINAL, GUILTY, LIFTED, PLAIN, SHOWING, TASKS, TRAP, get_checkers
from paceline.ledger.traps import apply_showings, is_answer, is_drawn
from paceline.protocol import messages as m
from paceline.protocol.traps import NO_SEAL, ShowDraws

NEVER_DRAWN = 1
"""Parts per million, so that a test with few tasks meets none."""


@pytest.fixture
def chain():
    return TrapChain()


def refuse(chain, key, message):
    with pytest.raises(InvalidTransaction) as refused:
        chain.send(key, message)
    return refused.value.code


def node(chain, address):
    return NODES.get(chain.state, address)


def test_a_found_forced_error_pays_its_finders_and_the_true_answer_is_checked_next(chain):
    task_id, executor = chain.answer_checked()
    finders = chain.task(task_id).drawn
    lifted = chain.check(task_id, until=(DRAWING,))
    true, wrong, salt = chain.payloads(task_id)
    assert (lifted.shown, lifted.payload_hash) == (LIFTED, true)
    assert sorted(lifted.finders) == sorted(finders)
    assert is_answer(lifted, true, salt) and not is_answer(lifted, wrong, salt)
    final = chain.check(task_id)
    assert final.status == FINAL and not final.unpaid
    assert set(finders) <= set(get_checkers(final))
    assert not set(finders) & {vote.voter for vote in final.votes}
    assert [node(chain, address).found for address in finders] == [1] * len(finders)
    assert node(chain, executor.address).guilty == -1


def test_no_suspicion_moves_by_a_forced_error(chain):
    task_id, executor = chain.answer_checked()
    chain.check(task_id, until=(DRAWING,))
    assert suspicion.get_sum(chain.state, executor.address) == 0
    assert suspicion.list_kept(chain.state, executor.address) == []


def test_who_passes_a_forced_error_is_fooled_once_a_majority_rejects_it():
    chain = TrapChain(lazy=(1,))
    lazy = chain.keys[1].address
    while True:
        task_id, _ = chain.answer_checked()
        if lazy in chain.task(task_id).drawn:
            break
        chain.check(task_id)
    fulfilled = node(chain, lazy).fulfilled
    disputed = chain.check(task_id, until=(DISPUTED,))
    assert disputed.shown == "trap"
    assert node(chain, lazy).fooled == 0
    chain.check(task_id, until=(DRAWING,))
    assert node(chain, lazy).fooled == 1
    # The reveal had counted; passing the error takes it back.
    assert node(chain, lazy).fulfilled == fulfilled
    final = chain.check(task_id)
    assert lazy not in get_checkers(final)
    state, gained, _ = chain.settle()
    assert gained[lazy] == 0
    settled = NODES.get(state, lazy)
    assert (settled.reputation, settled.fooled, settled.guilty) == (0, 0, -1)


def test_undecided_with_numbers_is_no_way_out():
    chain = TrapChain()
    task_id, _ = chain.answer_checked()
    sly = chain.task(task_id).drawn[0]
    chain.check(task_id, until=(DISPUTED,), outcomes={sly: (m.UNDECIDED, (1, 2))})
    chain.check(task_id, until=(DRAWING,))
    assert node(chain, sly).fooled == 1


def test_invalid_wrong_answers_that_a_majority_accepts_fool_nobody_and_cost_their_executor():
    # All honest nodes accept: the executor changed what nobody can see.
    chain = TrapChain(lazy=range(5))
    task_id, executor = chain.answer_checked()
    checkers = chain.task(task_id).drawn
    lifted = chain.check(task_id, until=(DRAWING,))
    assert [node(chain, address).fooled for address in checkers] == [0] * len(checkers)
    assert lifted.unpaid and sorted(lifted.finders) == sorted(checkers)
    chain.check(task_id)
    _, gained, _ = chain.settle()
    assert all(gained[address] > 0 for address in checkers)
    assert node(chain, executor.address).guilty == -1


def test_a_passed_error_without_a_majority_blames_nobody():
    chain = TrapChain(lazy=range(5))
    # The checkers alone are no majority of the five.
    task_id, _ = chain.answer_checked(most=2)
    chain.check(task_id, until=(DISPUTED,), votes=False)
    lifted = chain.check(task_id, until=(DRAWING,), votes=False)
    assert not lifted.unpaid
    assert all(node(chain, key.address).fooled == 0 for key in chain.keys)


def test_a_task_that_was_not_drawn_is_shown_as_plain():
    chain = TrapChain(make_params(NEVER_DRAWN))
    task_id, _ = chain.answer_checked()
    final = chain.check(task_id)
    assert (final.status, final.shown, final.unpaid) == (FINAL, PLAIN, False)


@pytest.mark.parametrize("silent", [True, False])
def test_invalid_executor_that_shows_nothing_or_forces_no_error_works_for_the_fund(silent):
    chain = TrapChain()
    task_id, executor = chain.answer_checked(force=False)
    checkers = chain.task(task_id).drawn
    final = chain.check(task_id, shows=not silent)
    assert (final.status, final.unpaid) == (FINAL, True)
    pays = dict(task_pay.collect_pay(chain.state, chain.params))
    # Half of the rest is the checkers' as ever.
    assert pays[executor.address].worker == 0
    assert sum(amount for _, amount in pays[executor.address].checkers) == 2 * final.cost // 5
    _, gained, _ = chain.settle()
    assert all(gained[address] > 0 for address in checkers)
    assert node(chain, executor.address).guilty == -1


def test_invalid_excuse_of_a_cheat_in_a_task_that_was_not_drawn():
    chain = TrapChain(make_params(NEVER_DRAWN))
    task_id, executor = chain.answer_checked(force=True)
    chain.check(task_id, until=(SHOWING,), shows=False)
    assert refuse(chain, executor, ShowDraws((chain.showing(task_id, executor),))) == "no-forced-error"
    assert chain.check(task_id, shows=False).status == GUILTY
    assert node(chain, executor.address).guilty == 0


def test_a_forced_error_does_not_excuse_the_answer_itself(chain):
    while True:
        task_id, executor = chain.answer_checked(most=1)
        chain.check(task_id, until=(DRAWING,))
        chain.run_until(lambda task_id=task_id: chain.task(task_id).status != DRAWING)
        if chain.task(task_id).asked:
            break
    # What the user was given is false as well.
    outcomes = {key.address: (m.REJECTED, (1, 2)) for key in chain.keys}
    assert chain.check(task_id, outcomes=outcomes).status == GUILTY
    assert node(chain, executor.address).guilty == 0


def test_invalid_showings(chain):
    task_id, executor = chain.answer_checked()
    other = next(key for key in chain.keys if key is not executor)
    showing = chain.showing(task_id, executor)
    assert refuse(chain, executor, ShowDraws((showing,))) == "nothing-to-show"
    chain.check(task_id, until=(SHOWING,), shows=False)

    def send(key=executor, **changes):
        return refuse(chain, key, ShowDraws((msgspec.structs.replace(showing, **changes),)))

    foreign = chain.lot(other, task_id)
    assert send(other) == "not-the-executor"
    assert send(task=bytes(32)) == "nothing-to-show"
    assert send(salt=bytes(32)) == "bad-seal"
    assert send(answer_hash=chain.payloads(task_id)[1]) == "bad-seal"
    assert send(point=foreign.point, proof=foreign.proof) == "bad-lot"
    assert send(point=bytes(48)) == "bad-lot"
    chain.send(executor, ShowDraws((showing,)))
    assert refuse(chain, executor, ShowDraws((showing,))) == "nothing-to-show"


def test_a_late_showing_saves_from_guilt_and_not_the_pay(chain):
    task_id, executor = chain.answer_checked()
    chain.check(task_id, until=(DISPUTED,), shows=False)
    lifted = chain.check(task_id, until=(DRAWING,))
    assert (lifted.shown, lifted.unpaid) == (LIFTED, True)
    assert node(chain, executor.address).guilty == -1


def test_short_answers_are_never_drawn(chain):
    least = chain.params.tasks.forced_error_tokens
    point = chain.lot(chain.keys[0], bytes(32)).point
    assert [is_drawn(chain.params, tokens, point) for tokens in (0, least - 1, least)] == [False, False, True]


def test_a_task_too_short_to_be_drawn_waits_for_no_showing(chain):
    least = chain.params.tasks.forced_error_tokens
    short, executor = chain.answer_checked(completion=least - 1)
    final = chain.check(short, shows=False)
    assert (final.status, final.shown, final.unpaid) == (FINAL, "", False)
    assert refuse(chain, executor, ShowDraws((chain.showing(short, executor),))) == "nothing-to-show"
    assert chain.check(chain.answer_checked(completion=least)[0], until=(SHOWING,), shows=False)


def make_registration(chain, owner, other):
    """The group key of another account, with `owner`'s proof that it holds it."""
    context = nodes.compute_possession_context(chain.application.chain_id, owner.address)
    secret = EncryptionKey.from_secret(hash_parts("test-group-key", other.secret))
    return m.RegisterGroupKey(secret.public_key, secret.prove_possession(context))


def test_a_task_is_shown_by_the_key_of_its_receipt_however_often_it_changed_since(chain):
    task_id, executor = chain.answer_checked()
    chain.check(task_id, until=(SHOWING,), shows=False)
    first, later, last = chain.task(task_id).lot_key, *[key for key in chain.keys if key != executor][:2]
    assert first == make_group_key(executor).public_key
    state, chain_id = chain.state, chain.application.chain_id
    for epoch, other in enumerate((later, last)):
        message = make_registration(chain, executor, other)
        nodes.apply_group_key(state, chain_id, executor.address, message, epoch)
    # The key before the present one is all that the node's record knows of the past.
    assert nodes.get_group_key(state, executor.address, 0) == make_group_key(later).public_key != first
    for chosen in (later, last):
        lot = chain.lot(chosen, task_id)
        forged = chain.showing(task_id, executor, point=lot.point, proof=lot.proof)
        with pytest.raises(InvalidTransaction, match="bad-lot"):
            apply_showings(state, chain.params, chain_id, executor.address, ShowDraws((forged,)))
    shown = ShowDraws((chain.showing(task_id, executor),))
    apply_showings(state, chain.params, chain_id, executor.address, shown)
    assert TASKS.get(state, task_id).shown == TRAP


def test_receipts_are_bound_to_the_next_key_from_the_next_epoch_on(chain):
    owner, other = chain.keys[1], chain.keys[2]
    chain.send(owner, make_registration(chain, owner, other))
    # The others sign for the beacon: this node's shares come under a key that it does not keep here.
    chain.silent.add(1)
    chain.tick()
    assert answer_of(chain, owner).lot_key == make_group_key(owner).public_key
    chain.run_until(lambda: chain.height > chain.params.epoch_blocks)
    assert answer_of(chain, owner).lot_key == make_group_key(other).public_key


def answer_of(chain, executor):
    while True:
        task_id, found = chain.answer(force=False, completion=4)
        if found == executor:
            return chain.task(task_id)


def test_a_report_of_an_unchecked_forced_error_leads_to_its_true_answer():
    chain = TrapChain()
    while True:
        task_id, _ = chain.answer()
        if chain.task(task_id).status == FINAL:
            break
        chain.check(task_id)
    assert chain.task(task_id).shown == ""
    chain.send(chain.user, m.ReportTask(task_id))
    chain.tick()
    final = chain.check(task_id)
    assert (final.status, final.shown, final.refunded) == (FINAL, LIFTED, False)


def is_jackpot(event, address):
    return event.kind == "jackpot" and event.attributes["node"] == address.hex()


def test_jackpots_come_out_of_what_the_fooled_forfeit():
    chain = TrapChain(lazy=(1,))
    lazy = chain.keys[1].address
    for _ in range(8):
        chain.check(chain.answer()[0])
    found = {key.address: node(chain, key.address).found for key in chain.keys}
    assert node(chain, lazy).fooled > 0
    before = {key.address: node(chain, key.address).earned for key in chain.keys}
    state, gained, lines = chain.settle()
    # A line tells of jackpots too, as the node's own count does.
    assert all(lines[a].earned == gained[a] == NODES.get(state, a).earned - before[a] for a in gained)
    jackpots = {a: sum(int(e.attributes["amount"]) for e in state.events if is_jackpot(e, a)) for a in gained}
    assert jackpots[lazy] == gained[lazy] == 0
    assert all(jackpots[a] > 0 for a in found if found[a] and a != lazy)
    assert all(jackpots[a] <= found[a] * chain.params.tasks.jackpot for a in found)


def test_without_forced_errors_nothing_is_shown():
    chain = TrapChain(make_params(0))
    task_id, executor = chain.answer_checked()
    final = chain.check(task_id, shows=False)
    assert (final.status, final.shown, final.unpaid) == (FINAL, "", False)
    assert refuse(chain, executor, ShowDraws((chain.showing(task_id, executor),))) == "nothing-to-show"
    bare = msgspec.structs.replace(final, seal=NO_SEAL)
    assert is_answer(bare, bare.payload_hash, bytes(32)) and not is_answer(bare, bytes(32), bytes(32))
