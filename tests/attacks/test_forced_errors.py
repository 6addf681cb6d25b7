"""Checkers who do not look, and whoever would abuse forced errors against those who do.

Power asserted: a checker that accepts whatever comes is fooled at its first forced error, exactly when its task was drawn: after n
tasks with probability 1 - (1 - h)^n, and forfeits the epoch. With h = 0 it earns what it would by working. Told by colluding
executors with a share f of the draws, 1 - (1 - h(1 - f))^n, and it gains the saved work alone: jackpots come out of what the
fooled forfeit. Honest checkers lose nothing, whatever an executor and less than half of all weight try.
"""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import make_group_key
from trap_chain import TrapChain, make_params

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.base.private_draws import Lot, verify_lot
from paceline.ledger.nodes import NODES
from paceline.ledger.tasks import DISPUTED, DRAWING, LIFTED, REVEALING, SHOWING
from paceline.ledger.traps import is_drawn
from paceline.protocol import messages as m
from paceline.protocol.traps import ShowDraws

RATE = 300_000
LAZY = 1


def node(chain, index):
    return NODES.get(chain.state, chain.keys[index].address)


def play(chain, tasks):
    """So many tasks from receipt to end; those that the lazy node checked, with what it said of the version shown."""
    lazy, checked = chain.keys[LAZY].address, []
    for _ in range(tasks):
        task_id, _ = chain.answer()
        if lazy in chain.task(task_id).drawn:
            checked.append(task_id)
        chain.check(task_id)
    return checked


def settle(chain):
    """What each node gained, and its line, by index."""
    _, gained, lines = chain.settle()
    return [gained[key.address] for key in chain.keys], [lines[key.address] for key in chain.keys]


def test_a_lazy_checker_is_fooled_by_every_drawn_task_and_by_no_other():
    params = msgspec.structs.replace(make_params(RATE), epoch_blocks=1_200)
    chain, checked, drawn = TrapChain(params, lazy=(LAZY,)), [], []
    # Which tasks it meets is chance: until there are some of either kind.
    while not 0 < len(drawn) < len(checked):
        checked += play(chain, 4)
        drawn = [task_id for task_id in checked if task_id in chain.wrong]
    assert chain.height < params.epoch_blocks
    # The second draw, for the true answer, leaves out who saw the wrong version; so each drawn task counts once.
    assert node(chain, LAZY).fooled == len(drawn)
    gained, lines = settle(chain)
    assert (gained[LAZY], lines[LAZY].earned) == (0, 0)
    assert all(line.earned > 0 for index, line in enumerate(lines) if index != LAZY and line.checks)


def test_without_forced_errors_a_lazy_checker_earns_what_an_honest_one_does():
    earned = []
    for lazy in ((), (LAZY,)):
        chain = TrapChain(make_params(0), lazy=lazy)
        assert play(chain, 8)
        assert node(chain, LAZY).fooled == 0
        earned.append(settle(chain)[0])
    assert earned[0] == earned[1]
    assert earned[0][LAZY] > 0


def test_the_draw_has_its_rate_and_finds_the_lazy_as_stated():
    key = make_group_key(AccountKey.from_secret(b"k" * 32))
    params, share, tasks = make_params(200_000), 0.2, 10
    lots = [key.draw_lot(hash_parts("task", index.to_bytes(4, "big"))) for index in range(800)]
    drawn = [is_drawn(params, 20, lot.point) for lot in lots]
    assert abs(sum(drawn) - share * len(drawn)) < 4 * (len(drawn) * share * (1 - share)) ** 0.5
    groups = [any(drawn[start : start + tasks]) for start in range(0, len(drawn), tasks)]
    power = 1 - (1 - share) ** tasks
    assert abs(sum(groups) - power * len(groups)) < 4 * (len(groups) * power * (1 - power)) ** 0.5
    # The defence off.
    assert not any(is_drawn(make_params(0), 20, lot.point) for lot in lots)


def test_an_executor_cannot_choose_its_lot():
    chain = TrapChain(make_params(1))
    executor = chain.keys[1]
    true = chain.lot(executor, b"t" * 32)
    message = b"another message"
    assert verify_lot(make_group_key(executor).public_key, message, make_group_key(executor).draw_lot(message))
    for forged in (true, Lot(true.point, make_group_key(executor).draw_lot(message).proof)):
        assert not verify_lot(make_group_key(executor).public_key, message, forged)


def test_silence_is_no_way_out_because_nothing_is_shown_before_all_verdicts_are():
    chain = TrapChain(lazy=(LAZY,))
    task_id, executor = chain.answer_checked()
    chain.check(task_id, until=(REVEALING,))
    early = ShowDraws((chain.showing(task_id, executor),))
    with pytest.raises(InvalidTransaction, match="nothing-to-show"):
        chain.send(executor, early)
    chain.check(task_id, until=(SHOWING,), shows=False)
    late = chain.verdict(task_id, chain.task(task_id).drawn[0])
    with pytest.raises(InvalidTransaction, match="nothing-to-judge"):
        chain.send(chain.find_key(chain.task(task_id).drawn[0]), late)


def test_a_checker_told_by_its_friend_gains_the_saved_work_and_no_coins():
    chain = TrapChain(lazy=(LAZY,))
    lazy, friend = chain.keys[LAZY].address, chain.keys[2]
    told = fooled = 0
    while not (told and fooled):
        task_id, executor = chain.answer()
        outcomes = None
        if lazy in chain.task(task_id).drawn:
            told, fooled = told + (executor is friend), fooled + (executor is not friend)
            # What it was told it rejects, without having run anything.
            outcomes = {lazy: (m.REJECTED, (1,))} if executor is friend else None
        if chain.task(task_id).shown != LIFTED and chain.task(task_id).drawn:
            chain.check(task_id, until=(DRAWING,), outcomes=outcomes)
        chain.check(task_id)
    assert (node(chain, LAZY).found, node(chain, LAZY).fooled) == (told, fooled)
    gained, _ = settle(chain)
    assert gained[LAZY] == 0


def test_honest_checkers_lose_nothing_by_forced_errors():
    chain = TrapChain(make_params(500_000))
    play(chain, 8)
    assert chain.wrong
    found = [node(chain, index) for index in range(5)]
    assert all(one.fooled == 0 and one.fulfilled == one.duties for one in found)
    gained, lines = settle(chain)
    assert all(line.forfeited == 0 for line in lines)
    # Nobody was fooled, so there is no jackpot to live on.
    assert gained == [line.earned for line in lines]


def test_an_executor_and_its_friends_cannot_frame_a_checker_with_what_nobody_sees():
    chain = TrapChain(lazy=range(5))
    task_id, executor = chain.answer_checked()
    framed = chain.task(task_id).drawn[0]
    friend = next(key.address for key in chain.keys if key.address not in (framed, executor.address))
    chain.check(task_id, until=(DISPUTED,))
    lifted = chain.check(task_id, until=(DRAWING,), outcomes={friend: (m.REJECTED, (1,))})
    assert NODES.get(chain.state, framed).fooled == 0
    assert lifted.unpaid
