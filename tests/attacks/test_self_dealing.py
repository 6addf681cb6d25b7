"""Asking one's own nodes: new coins follow fees, so a coalition pays itself for work to have coins issued.

Every node answers and checks as drawn; the coalition's user pays for all work of the epoch, as much as the cap on an epoch's issuance
matches: as its requests are drawn, or the costly ones where its own node is drawn. Power: below the break-even share of weight it
loses, on the ledger as `economy.self_dealing` says.
"""

from __future__ import annotations

import msgspec
from chain_harness import FUNDS, get_wealth
from task_chain import FEE, FEES_ONLY, TaskChain

from paceline.economy.spread import Spread
from paceline.economy.supply import DAILY_FLOOR
from paceline.ledger import checks, issuance, settlement

ANSWERS = 48
# Nine coins for each of four fifths of the fees are four floors: few draws spread fees by weight about.
FLOOR = ANSWERS * FEE * 9 // 5
PARAMS = msgspec.structs.replace(FEES_ONLY, blocks_per_day=FEES_ONLY.epoch_blocks * DAILY_FLOOR // FLOOR)
TENTH, HALF = (300, 100, 300, 300), (150, 500, 175, 175)


def ask_oneself(weights):
    """What the second node and its user gain over an epoch with the floor alone, and what that user paid."""
    chain = TaskChain(len(weights), params=PARAMS, weights=weights)
    # Through every node: a relay never answers its own session, and who did not work has no part in new coins.
    sessions = chain.open_sessions(range(len(weights)))
    for session_id in sessions:
        chain.serve(session_id, range(ANSWERS // len(weights)))
        chain.check_all()
    chain.close(*sessions)
    chain.settle()
    paid = FUNDS - chain.balance(chain.user)
    idle = FLOOR * 8 // 10 * weights[1] // sum(weights)
    return get_wealth(chain.state, chain.keys[1].address) - paid - idle, paid


def test_self_dealing_with_a_tenth_of_the_weight_loses():
    gained, paid = ask_oneself(TENTH)
    # (fees + 3 floors) * 0.8 / 10 - fees, but for the luck of who was drawn.
    assert abs(gained - ((paid + 3 * FLOOR) * 8 // 100 - paid)) < paid // 5
    assert gained < -paid // 5


def test_self_dealing_with_half_of_the_weight_gains_as_the_table_says():
    """Nothing but the cap of four floors bounds what a coalition of this size gains."""
    gained, paid = ask_oneself(HALF)
    assert abs(gained - ((paid + 3 * FLOOR) * 4 // 10 - paid)) < paid // 5
    assert gained > 0


def test_self_dealing_with_a_tenth_wins_when_users_choose_who_gets_the_new_coins(monkeypatch):
    """The defence off: all new coins go to one node that the asker names."""
    favourite = TaskChain(len(TENTH), params=PARAMS, weights=TENTH).keys[1].address

    def issue_to_one(*arguments, issue=issuance.issue_coins):
        found = issue(*arguments)
        return found._replace(shares={favourite: sum(found.shares.values())})

    monkeypatch.setattr(issuance, "issue_coins", issue_to_one)
    gained, paid = ask_oneself(TENTH)
    assert gained > 3 * paid


# Costly requests where one's own node is drawn

LONG, COSTLY = 4_000, 10
STEERED = COSTLY * LONG * FEES_ONLY.unit_price
"""What the costly requests cost together."""


def steer(deal):
    """A user whose relay and node have a tenth of all weight asks costly things where that node is drawn: wealth of all three."""
    params = msgspec.structs.replace(
        FEES_ONLY, session_tasks=256, blocks_per_day=FEES_ONLY.epoch_blocks * DAILY_FLOOR * 4 // (9 * STEERED)
    )
    chain = TaskChain(5, params=params, weights=(1, 100, 300, 300, 300))
    friend, *others = chain.open_sessions((0, 2, 3))
    for session_id in others:
        chain.serve(session_id, range(40))
    if deal:
        own = [index for index in range(256) if chain.order(friend, index)[0] == chain.keys[1].address][:COSTLY]
        for place, index in enumerate(own, start=1):
            cost = LONG * params.unit_price
            chain.serve(friend, [index], prompt=LONG - 20, completion=20, max_cost=cost, total=cost * place)
    chain.check_all()
    chain.close(friend, *others)
    chain.settle()
    return chain.balance(chain.user) + sum(get_wealth(chain.state, key.address) for key in chain.keys[:2])


def test_costly_requests_to_one_s_own_node_lose_the_fund_s_share(monkeypatch):
    # A mature network, in which few answers are checked: the coalition's node is paid nearly alone.
    monkeypatch.setattr(checks, "check_rate_ppm", lambda *_: 20_000)
    assert -STEERED // 4 < steer(True) - steer(False) < -STEERED // 6

    def count_all(fees, weights):
        total = sum(fee for _, fee in fees)
        return Spread(counted=total, squares=total**2, weight=sum(weights.values()))

    # The defence off: all fees issue coins, whoever was paid them.
    monkeypatch.setattr(settlement, "measure_spread", count_all)
    assert steer(True) - steer(False) > STEERED // 4
