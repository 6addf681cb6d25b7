"""Attacks on who answers: a relay that steers tasks to a friend's node, by marks or by picking indices and sessions."""

from __future__ import annotations

from paceline.base.hashing import hash_parts
from paceline.economy.pay import compute_work_criterion_ppm
from paceline.ledger.sessions import compute_task_id, derive_executors
from paceline.protocol.params import TINY

NODES = [bytes([index]) * 20 for index in range(10)]
RELAY, FRIEND = NODES[0], NODES[1]
TASKS = 4_000
FEE = 300
"""Tokens of a task; every sum below is in tokens."""
WORK = FEE * (1_000_000 - TINY.fund_ppm) // 1_000_000
"""What a task pays its executor."""


def draw(index, seed=b"s" * 32, session=bytes(16)):
    return derive_executors(seed, dict.fromkeys(NODES, 100), NODES, RELAY, compute_task_id(session, index))


def steer_by_marks(marks):
    """The relay calls whoever stands before its friend late, as often as `marks`; (steered tasks, marks made)."""
    steered = made = 0
    for index in range(TASKS):
        order = draw(index)
        if order[1] == FRIEND and made < marks:
            steered += 1
            made += 1
    return steered, made


def pay_of_relay(marks):
    """The relay's own tasks come from other relays, as many as everybody's; each mark takes one of them."""
    own = TASKS // len(NODES)
    criterion = compute_work_criterion_ppm(own - marks, own, TINY.tasks.absence_ppm)
    return own * WORK * criterion // 1_000_000


def test_steer_to_own_node_by_late_marks_gains_no_more_than_what_is_forgiven():
    honest = pay_of_relay(0)
    gains = {}
    for marks in (0, 10, 40, 60, 100, 200, 400):
        steered, made = steer_by_marks(marks)
        gains[marks] = steered * WORK + pay_of_relay(made) - honest
    # Forgiven of 400 tasks: 5 %, three deviations of 4.4, and one.
    assert max(gains.values()) <= 35 * WORK
    assert gains[400] <= gains[40]
    # The defence off: without a price on marks all of it is gain.
    assert steer_by_marks(400)[0] * WORK > 8 * max(gains.values())


def test_steer_to_own_node_by_picking_indices_pays_for_every_index_left_out():
    used = [index for index in range(TASKS) if draw(index)[0] == FRIEND]
    unused = used[-1] + 1 - len(used)
    charge = TINY.tasks.unused_charge // TINY.token_price
    # What a coalition of user, relay and friend pays outside per task that it keeps to itself.
    leak = unused * charge / len(used)
    assert 7 * charge < leak < 9 * charge
    # Without the charge it costs nothing.
    assert unused * 0 == 0


def test_steer_to_own_node_by_picking_sessions_pays_for_every_session_left_out():
    wasted = kept = 0
    for number in range(1_000):
        seed = hash_parts("session", number.to_bytes(4, "big"))
        if draw(0, seed=seed)[0] == FRIEND:
            kept += 1
        else:
            wasted += 1
    charge = TINY.tasks.unused_charge * TINY.tasks.least_indices // TINY.token_price
    # Nine nodes are drawn from: eight sessions are thrown away for one that suits.
    assert 6 < wasted / kept < 10
    assert wasted * charge / kept > 0.6 * FEE
