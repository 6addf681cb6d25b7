"""Validators whose weights move by plan: run as `python -m moving_powers node …` in the place of `paceline`.

Power follows weight without caps, so that nobody who held it in the beginning signs in the end: a Race moves a quarter
at a time, and a light client would need hours of Races to be tested so hard.
"""

from __future__ import annotations

from paceline.cli.main import app
from paceline.ledger import nodes, race
from paceline.ledger.nodes import NODES

FIRST_AT, SECOND_AT = 3, 14
FIRST = {"node-1": 1_000, "node-2": 10, "node-3": 10, "node-4": 10}
SECOND = {"node-2": 1_000, "node-3": 20, "node-4": 10}

end_race_block = race.end_block


def end_block(state, params):
    """Install the planned weights where no Race ends."""
    updates = end_race_block(state, params)
    planned = {FIRST_AT: FIRST, SECOND_AT: SECOND}.get(state.height)
    if planned is None:
        return updates
    weights = {address: planned[node.name] for address, node in NODES.items(state) if node.name in planned}
    return nodes.set_weights(state, params, weights)


if __name__ == "__main__":
    # Only in a process of its own: tests import the plan, and must not be ruled by it.
    race.end_block = end_block
    nodes.compute_voting_powers = lambda weights, _former, **_: dict(weights)
    app()
