"""A node that reads another chain in memory: the role with its watcher, over a ledger that a test moves by hand."""

from __future__ import annotations

import asyncio

import msgspec
from other_chain import CHAIN, CONTRACT, OtherChain, Server
from role_setup import KEYS, TINY, make_context, make_state

from paceline.ledger import bridge
from paceline.node.bridge.rpc import EvmRpc
from paceline.node.bridge.watcher import Watcher
from paceline.node.roles.bridge import BridgeRole
from paceline.protocol.params import BridgeParams

ME = KEYS[1]
PARAMS = msgspec.structs.replace(TINY, bridge=BridgeParams(chain=CHAIN, contract=CONTRACT, open_votes=3))
TO = b"\x0a" * 20


class Reader:
    """One node. `servers`: honest ones of its chain unless a test tells them to lie."""

    def __init__(self, folder, *, chain=None, servers=1, key=ME, state=None, poll_seconds=0.0, limit_bytes=2**20):
        self.folder, self.key, self.poll_seconds, self.limit_bytes = folder, key, poll_seconds, limit_bytes
        self.chain = chain or OtherChain()
        self.servers = [Server(self.chain) for _ in range(servers)]
        self.state = state or make_state()
        self.start()

    def start(self, start_block=0):
        """Also as after a restart: what is remembered lies on disk."""
        self.context = make_context(self.state, self.key, self.folder, params=PARAMS)
        rpcs = [
            EvmRpc(f"http://server-{place}/secret", transport=server.transport, limit_bytes=self.limit_bytes)
            for place, server in enumerate(self.servers)
        ]
        watcher = Watcher(PARAMS.bridge, rpcs, self.context.work_path / "bridge.json", start_block)
        self.role = BridgeRole(self.context, watcher, self.poll_seconds)

    def act(self):
        """Look, then say what is due; what was said, as it stands on the ledger then."""
        sent = []
        for _ in range(2):
            self.role.on_block(self.state)
            self.context.duties.run_all()
            sent += self.take()
        return sent

    def take(self):
        sent, self.context.chain.sent = self.context.chain.sent, []
        for message in sent:
            bridge.apply_attestation(self.state, PARAMS, self.key.address, message)
        return sent

    def attest_by(self, keys, message):
        for key in keys:
            bridge.apply_attestation(self.state, PARAMS, key.address, message)

    def pending(self):
        return [block.number for block in self.role.watcher.progress.pending]

    def close(self):
        asyncio.run(self.role.close())
