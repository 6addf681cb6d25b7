"""The money of the network as pages show it: where coins stand, prices, proposals, the pool, why a node earned what it did.

Refuses to know: markup. It adds nothing to what `chains` reads from committed state, and keeps what it read of a height, so that
many viewers cost as much as one. Invariant: a view is of one height, and amounts are written exactly.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from paceline.economy import denominations
from paceline.ledger import clock, nodes
from paceline.ledger.accounts import RESERVE
from paceline.ledger.application import Application
from paceline.ledger.settlement import Line, get_settlement
from paceline.ledger.state import State
from paceline.node.chains.economy import EconomyStatus, RewardLine, build_economy_status, explain_line
from paceline.node.chains.pools import PoolStatus, build_pool_status
from paceline.node.chains.proposals import GovernanceStatus, build_governance_status

RESTS_PER_READING = 20
"""A reading that took long is followed by a rest so many times as long: viewers take a twentieth of a node's time at most."""
LONG_SECONDS = 0.05

_WHOLE = re.compile(r"^[0-9]+")


@dataclass(frozen=True, kw_only=True)
class EconomyView:
    """Money at one height. `nodes` are names in order; `settled` is the last settled epoch, None before the first."""

    economy: EconomyStatus
    governance: GovernanceStatus
    pool: PoolStatus
    nodes: tuple[str, ...]
    settled: int | None


class EconomyReader:
    """Reads the views of one chain, at most once a height."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._view: EconomyView | None = None
        self._lines: dict[str, Line] = {}
        self._rests_until = 0.0

    def read(self) -> EconomyView:
        """Money at the height here, or at one shortly before when reading takes long."""
        state, kept = self._application.read(), self._view
        if kept is not None and (kept.economy.height == state.height or time.monotonic() < self._rests_until):
            return kept
        began = time.monotonic()
        self._view = self._build(state)
        took = time.monotonic() - began
        self._rests_until = began + (RESTS_PER_READING * took if took > LONG_SECONDS else 0)
        return self._view

    def explain(self, name: str) -> RewardLine | None:
        """How a node's reward in the last settlement came about; None when the node was not in it."""
        settled = self.read().settled
        line = self._lines.get(name)
        return None if settled is None or line is None else explain_line(self._application.read(), line, settled)

    def _build(self, state: State) -> EconomyView:
        application = self._application
        settled = clock.compute_epoch(application.params, state.height + 1) - 1
        lines = get_settlement(state, settled) if settled >= 0 else None
        self._lines = {line.name: line for line in lines or ()}
        return EconomyView(
            economy=build_economy_status(state, application.params),
            governance=build_governance_status(state, application.genesis.params),
            # Of the pool alone: nobody's own holding is shown.
            pool=build_pool_status(state, RESERVE),
            nodes=tuple(sorted(node.name for _, node in nodes.NODES.items(state))),
            settled=None if lines is None else settled,
        )


def show_coins(nicoin: int, word: str = "") -> str:
    """An exact amount in a word, by default the largest that it fills, its whole digits in groups."""
    return _group(denominations.format_coins(nicoin, word))


def show_dollars(micro_dollars: int) -> str:
    """The same for the stable test asset."""
    return _group(denominations.format_dollars(micro_dollars))


def show_asset(units: int, asset: str) -> str:
    """The same for any test asset."""
    return _group(denominations.format_asset(asset, units))


def _group(amount: str) -> str:
    return _WHOLE.sub(lambda found: f"{int(found[0]):,}", amount)
