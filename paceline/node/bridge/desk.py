"""What commands on this machine ask of the bridge: where it stands, a header, a withdrawal's signatures. Served by `control`."""

from __future__ import annotations

from starlette.requests import Request

from paceline.base.errors import ConfigError
from paceline.ledger.bridge import NEXT
from paceline.node.bridge.signatures import Attester
from paceline.node.bridge.status import (
    WithdrawalLine,
    add_node,
    build_bridge_status,
    find_header,
    list_withdrawals,
)
from paceline.node.context import Context
from paceline.node.roles.bridge import BridgeRole

MAX_NUMBER = 2**48
SEARCHED = 1_000
"""Newest withdrawals among which those of a height are looked for."""


class BridgeDesk:
    """The endpoints over one node."""

    def __init__(self, context: Context, role: BridgeRole | None, attester: Attester) -> None:
        self._context = context
        self._role = role
        self._attester = attester

    async def show(self, request: Request) -> object:
        """Where the bridge stands, and what an account holds."""
        try:
            account = bytes.fromhex(request.query_params.get("account", ""))
        except ValueError:
            raise ConfigError("account must be hex digits") from None
        context = self._context
        status = build_bridge_status(context.chain.read(), context.params.bridge, account, context.address)
        return add_node(status, self._role, self._attester.address)

    async def show_header(self, request: Request) -> object:
        """What stands for a block of the other chain."""
        return find_header(self._context.chain.read(), _read_number(request, "number"))

    async def collect(self, request: Request) -> object:
        """What all nodes sign of a withdrawal."""
        return await self._attester.collect(_read_number(request, "number"))

    async def find_burnt(self, request: Request) -> list[WithdrawalLine]:
        """Withdrawals that a block holds."""
        state, height = self._context.chain.read(), _read_number(request, "height")
        count = NEXT.get(state) or 0
        return [line for line in list_withdrawals(state, max(0, count - SEARCHED), count) if line.height == height]


def _read_number(request: Request, field: str) -> int:
    number: int = request.path_params[field]
    if number > MAX_NUMBER:
        raise ConfigError(f"{field}: {number} is too large")
    return number
