"""Membership: registers this node when its own coins pay for it, and tells the ledger when it moved.

A node without coins waits for a sponsor, who reads its registration from it. A network on one machine names no public
address, so none of its nodes has anything to say here.
"""

from __future__ import annotations

from paceline.ledger.accounts import get_account
from paceline.ledger.nodes import NODES
from paceline.ledger.state import State
from paceline.node.context import Context
from paceline.node.membership.directory import Directory
from paceline.protocol.messages import DescribeNode, RegisterNode


class MemberRole:
    """Register and describe when due."""

    def __init__(self, context: Context, directory: Directory) -> None:
        self._context = context
        self._directory = directory

    def on_block(self, state: State) -> None:
        """Start what is due at this height."""
        if not self._context.settings.public_url:
            return
        node = NODES.get(state, self._context.address)
        wanted = self._directory.describe_self()
        if node is None:
            price = self._context.params.node_deposit + self._context.params.transfer_fee
            if get_account(state, self._context.address).balance >= price:
                self._context.duties.start("register", self._register)
        elif (node.url, node.link, node.serves) != (wanted.url, wanted.link, wanted.serves):
            message = DescribeNode(wanted.url, wanted.link, wanted.serves)
            self._context.duties.start("describe", lambda: self._describe(message))

    async def _register(self) -> None:
        await self._context.chain.send(RegisterNode(self._directory.make_own_registration()))

    async def _describe(self, message: DescribeNode) -> None:
        await self._context.chain.send(message)
