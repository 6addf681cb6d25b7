"""What a forfeit is worth: to a majority that convicts an innocent, and to a node whose guilt shows after its last pay day.

Both are played on a chain and read from balances; then the same attacker plays with the defence off. Power: who votes guilty
gains nothing, because all judges of a wrong answer together are paid what its checkers would have been; who is found out in
the epoch after its last loses more than all its fakes saved.
"""

from __future__ import annotations

import msgspec
from task_chain import FEE, FEES_ONLY, TaskChain, change_tasks

from paceline.base.integers import PPM
from paceline.economy.supply import DAILY_FLOOR
from paceline.ledger import check_rates, clock, nodes, settlement
from paceline.ledger.sessions import compute_task_id
from paceline.protocol import messages as m

ANSWERS = 32
FLOOR_ONLY = msgspec.structs.replace(
    FEES_ONLY, blocks_per_day=FEES_ONLY.epoch_blocks * DAILY_FLOOR // (10 * ANSWERS * FEE)
)
"""An epoch issues ten times its fees, whatever they are: nobody makes others lose by a refund."""


def play(params, accused=None, *, epochs=2):
    """Five nodes answer through two epochs, in the second of which three say that all answers of another are wrong; the chain."""
    chain = TaskChain(params=params)

    def accuse(_task_id, task):
        return m.Verdict(m.REJECTED if task.executor == accused(chain).address else m.ACCEPTED, "test", (1, 0))

    for epoch in range(epochs):
        if epoch == 1 and accused:
            chain.judges = dict.fromkeys([key.address for key in chain.keys[2:]], accuse)
        (session_id,) = chain.open_sessions((0,))
        # All at once: nobody answers more because another was convicted before.
        chain.serve(session_id, range(ANSWERS))
        chain.check_all()
        run_to_the_end(chain, epoch)
    return chain


def run_to_the_end(chain, epoch):
    while chain.height < clock.compute_last_height(chain.params, epoch):
        chain.block()


# A majority that convicts an innocent


def gain_by_conviction(params):
    """What three of five nodes have more after they convicted an honest one, which costs them no work."""
    spared, convicted = play(params), play(params, accused=lambda chain: chain.keys[1])
    assert spared.find_node(spared.keys[1].address).guilty == -1
    assert convicted.find_node(convicted.keys[1].address).guilty == 1
    return sum(convicted.balance(key) - spared.balance(key) for key in spared.keys[2:])


def test_who_convicts_an_innocent_for_its_forfeit_gains_nothing():
    assert gain_by_conviction(FEES_ONLY) < 0
    # The defence off: all who look again are paid more than its checkers were, out of an epoch's vesting pay.
    assert gain_by_conviction(change_tasks(recheck_ppm=3 * PPM)) > FEE


def test_a_conviction_leaves_the_others_parts_of_the_new_coins_alone(monkeypatch):
    assert gain_by_conviction(FLOOR_ONLY) < 0

    def share_among_the_rest(state, due, epoch):
        weights = nodes.get_weights(state)
        return {a: weights[a] for a in weights if due.get(a, 0) and nodes.NODES.get(state, a).guilty != epoch}

    # The defence off: what the guilty do not get is shared among those who are left.
    monkeypatch.setattr(settlement, "_weigh_work", share_among_the_rest)
    assert gain_by_conviction(FLOOR_ONLY) > 30 * FEE


# Fakes in the last epoch of a node that leaves


def play_last_epoch(monkeypatch, params, *, faking):
    """A node works for an epoch, answers through another, says that it leaves, and is reported before anything is settled.

    Nobody is drawn to check, so only the user's report finds what is wrong. What the node has when all is free, and its answers.
    """
    monkeypatch.setattr(check_rates, "compute_rate_ppm", lambda *_: 0)
    chain = TaskChain(params=params)
    leaver = chain.keys[1]
    for epoch in range(2):
        (session_id,) = chain.open_sessions((0,))
        mine = [index for index in range(ANSWERS) if chain.order(session_id, index)[0] == leaver.address]
        chain.serve(session_id, range(ANSWERS))
        if epoch == 0:
            run_to_the_end(chain, epoch)
    chain.check_all()
    chain.send(chain.user, m.Transfer(leaver.address, FEE))
    chain.tick()
    chain.send(leaver, m.LeaveNetwork(leaver.address))
    while chain.height < clock.compute_last_height(params, 1) - 3:
        chain.block()
    if faking:
        monkeypatch.undo()
        everybody_finds_it = m.Verdict(m.REJECTED, "test", (1, 0))
        chain.judges = {key.address: lambda *_: everybody_finds_it for key in chain.keys}
        chain.send(chain.user, m.ReportTask(compute_task_id(session_id, mine[0])))
    run_to_the_end(chain, 1)
    chain.check_all()
    for epoch in range(2, 7):
        run_to_the_end(chain, epoch)
    assert chain.find_node(leaver.address).guilty == (2 if faking else -1)
    return chain.balance(leaver), len(mine)


def gain_by_fakes(monkeypatch, params):
    """In fees. A fake saves half of its fee, which is more than the models at hand allow."""
    honest, answers = play_last_epoch(monkeypatch, params, faking=False)
    faked, _ = play_last_epoch(monkeypatch, params, faking=True)
    return (faked - honest) / FEE + answers / 2


def test_fakes_that_are_found_after_the_last_pay_day_lose_what_vests(monkeypatch):
    assert gain_by_fakes(monkeypatch, FEES_ONLY) < -3
    # The defence off: all but the one reported answer is paid for by then, and what cheating saved is kept.
    assert gain_by_fakes(monkeypatch, msgspec.structs.replace(FEES_ONLY, vesting_epochs=0)) > 1
