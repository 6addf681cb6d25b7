"""Asking one's own nodes: new coins follow fees, so a coalition pays itself for work to have coins issued.

Every node answers and checks as drawn; the coalition's user pays for all work of the epoch, as much as the cap on an epoch's issuance
matches. Power: below the break-even share of weight it loses, on the ledger as `economy.self_dealing` says.
"""

from __future__ import annotations

import msgspec
from chain_harness import FUNDS, get_wealth
from task_chain import FEE, FEES_ONLY, TaskChain

from paceline.economy.supply import DAILY_FLOOR
from paceline.ledger import issuance

ANSWERS = 48
# Nine coins for each of fees are four floors.
FLOOR = ANSWERS * FEE * 9 // 4
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
