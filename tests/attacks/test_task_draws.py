"""Attacks on who answers: a relay that steers tasks to a friend's node, by marks or by picking indices and sessions.

Every gain is what the attackers hold after the settlement of an epoch of five nodes, less what they hold after the same epoch
played honestly; then the same attacker plays with the defence off. Power: marks gain less than the tasks that are
forgiven, a fifth of 24 and 34 of 400; three times as many gain less than half of that. Picking indices or sessions loses at
answers of 30 tokens. It is a price and no wall: picked indices pay at 300 tokens, at a ninth of the draw from 90 on.
"""

from __future__ import annotations

from task_chain import FEE, FEES_ONLY, TaskChain, change_tasks

from paceline.base.integers import PPM
from paceline.economy.rewards import compute_work_ppm
from paceline.ledger.sessions import compute_task_id, derive_executors
from paceline.protocol.params import TINY

RELAY, FRIEND = 0, 1
STEERED, OWN = 96, 28
"""Tasks of the relay's session; tasks of each of three other relays, a quarter of which are the attacking relay's own."""
PICKED = 24
"""Answers that a coalition of user, relay and friend wants."""
SESSIONS = 40
SHARE = FEE * (PPM - FEES_ONLY.fund_ppm) // PPM
"""What a task pays, to executor and checkers together."""


def play_marks(params, most):
    """The relay calls whoever stands before its friend late, `most` times: what both hold, marks made, tasks its own."""
    chain = TaskChain(params=params)
    friend = chain.keys[FRIEND].address
    session_id, *others = chain.open_sessions((RELAY, 2, 3, 4))
    made = 0

    def pick(order):
        nonlocal made
        if order[1] != friend or made == most:
            return 0
        made += 1
        return 1

    chain.serve(session_id, range(STEERED), pick)
    for other in others:
        chain.serve(other, range(OWN))
    chain.check_all()
    assert chain.node(RELAY).marks == made
    own = chain.node(RELAY).drawn
    chain.settle()
    return sum(chain.balance(chain.keys[index]) for index in (RELAY, FRIEND)), made, own


def count_forgiven(own):
    """The most marks that cost a node nothing."""
    return max(n for n in range(own) if compute_work_ppm(own - n, own, TINY.tasks.absence_ppm) == PPM)


def test_steer_to_own_node_by_late_marks_gains_no_more_than_what_is_forgiven():
    honest, _, own = play_marks(FEES_ONLY, 0)
    forgiven = count_forgiven(own)
    few, many = (play_marks(FEES_ONLY, most) for most in (forgiven, 3 * forgiven))
    assert (few[1], many[1] > 2 * forgiven) == (forgiven, True)
    assert 0 < few[0] - honest <= forgiven * SHARE
    assert many[0] - honest < (few[0] - honest) // 2
    # Of more tasks a smaller part is forgiven.
    assert forgiven <= own // 3
    assert count_forgiven(400) == 34


def test_steer_to_own_node_by_late_marks_wins_when_every_absence_is_forgiven():
    free = change_tasks(absence_ppm=PPM)
    honest, *_ = play_marks(free, 0)
    held, made, _ = play_marks(free, 12)
    # Half of a steered task's pay goes to its checkers, and the friend would have checked some of them anyway.
    assert made >= 8
    assert held - honest > 3 * SHARE


def play_indices(params, *, picking, completion=20):
    """A session of which only indices that draw the friend are used, or the first ones: what all three hold, unused."""
    chain = TaskChain(params=params)
    (session_id,) = chain.open_sessions((RELAY,))
    friend = chain.keys[FRIEND].address
    suits = [index for index in range(params.session_tasks) if chain.order(session_id, index)[0] == friend]
    used = suits[:PICKED] if picking else list(range(PICKED))
    chain.serve(session_id, used, completion=completion, max_cost=4 * 10**8)
    chain.check_all()
    chain.close(session_id)
    chain.settle()
    return hold_together(chain), used[-1] + 1 - len(used)


def hold_together(chain):
    return sum(chain.balance(key) for key in (chain.user, chain.keys[RELAY], chain.keys[FRIEND]))


def gain_by_indices(params, **options):
    held, unused = play_indices(params, picking=True, **options)
    return held - play_indices(params, picking=False, **options)[0], unused


def test_steer_to_own_node_by_picking_indices_loses_at_short_answers_and_pays_at_long_ones():
    gain, unused = gain_by_indices(FEES_ONLY)
    assert unused > PICKED
    assert gain < 0
    # Known and open: the charge is eight tokens whatever an answer costs.
    assert gain_by_indices(FEES_ONLY, completion=290)[0] > 0


def test_steer_to_own_node_by_picking_indices_wins_when_unused_ones_are_free():
    gain, _ = gain_by_indices(change_tasks(unused_tokens=0))
    assert gain > PICKED * SHARE // 6


def test_picked_indices_at_a_ninth_of_the_draw_pay_from_ninety_tokens_on():
    """A mature network: hardly a task is checked, so the friend keeps what its tasks pay."""
    kept = wasted = 0
    nodes = [bytes([index]) * 20 for index in range(10)]
    for index in range(4_000):
        task = compute_task_id(bytes(16), index)
        first = derive_executors(b"s" * 32, dict.fromkeys(nodes, 100), nodes, nodes[RELAY], task)[0]
        kept, wasted = (kept + 1, wasted) if first == nodes[FRIEND] else (kept, wasted + 1)
    charged = wasted / kept * TINY.tasks.unused_tokens
    assert 7 * 8 < charged < 9 * 8
    # An honest draw gives the friend a ninth of all tasks anyway.
    assert 80 < charged / (8 / 9 * (PPM - TINY.fund_ppm) / PPM) < 100


def play_sessions(params, *, picking):
    """Sessions of which only those are used that draw the friend first, or as many tasks of one: what all three hold, tasks."""
    chain = TaskChain(params=params)
    opened = chain.open_sessions((RELAY,) * SESSIONS)
    suits = [session_id for session_id in opened if chain.order(session_id, 0)[0] == chain.keys[FRIEND].address]
    if not picking:
        chain = TaskChain(params=params)
        opened = chain.open_sessions((RELAY,))
        chain.serve(*opened, range(len(suits)))
    for session_id in suits if picking else ():
        chain.serve(session_id, [0])
    chain.check_all()
    chain.close(*opened)
    chain.settle()
    return hold_together(chain), len(suits)


def gain_by_sessions(params):
    held, count = play_sessions(params, picking=True)
    return held - play_sessions(params, picking=False)[0], count


def test_steer_to_own_node_by_picking_sessions_pays_for_every_session_left_out():
    gain, count = gain_by_sessions(FEES_ONLY)
    assert count >= 4
    # Three sessions are thrown away for one that suits, at four charges of eight tokens; a fifth of the nodes is the friend.
    assert gain < -2 * count * SHARE


def test_steer_to_own_node_by_picking_sessions_wins_when_no_index_has_to_be_paid():
    gain, count = gain_by_sessions(change_tasks(least_indices=0))
    assert gain > count * SHARE // 8
