"""The other nodes of the network: who they are, where they listen, and asking them by name or address."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import httpx

from paceline.base.errors import InvalidTransaction, TransportError
from paceline.base.keys import compute_address
from paceline.ledger.nodes import DESCRIBED, NODES
from paceline.ledger.state import State
from paceline.network.client import Peer, PeerClient, PeerRefused
from paceline.node.settings import NodeSettings
from paceline.protocol.codec import decode, encode
from paceline.store.blobs import BlobStore

MAX_MANY_BYTES = 64 * 1024 * 1024
REFUSED_BY_RULE = 400


@dataclass(frozen=True)
class KnownPeer:
    """One node by name."""

    name: str
    public_key: bytes
    address: bytes
    peer: Peer


class Peers:
    """All nodes of one network as this node reaches them."""

    def __init__(self, settings: NodeSettings, client: PeerClient, blobs: BlobStore) -> None:
        self._own_name = settings.name
        self._client = client
        self._blobs = blobs
        self.fetched_bytes = 0
        """Blob bytes that came over the network since this process started."""
        self._by_name: dict[str, KnownPeer] = {}
        self._by_address: dict[bytes, KnownPeer] = {}
        self._learned_at = -1
        """Height at which the ledger's addresses were last taken over."""
        for entry in settings.peers:
            self._add(entry.name, bytes.fromhex(entry.public_key), entry.url)

    def learn(self, state: State) -> None:
        """Take over what the ledger says of where nodes are, whenever it says something new.

        A loopback address stays: it is this machine's own knowledge of a node beside this one.
        """
        described_at = DESCRIBED.get(state) or 0
        if described_at == self._learned_at:
            return
        self._learned_at = described_at
        for address, node in NODES.items(state):
            known = self._by_address.get(address)
            if node.url and node.name != self._own_name and not (known and _is_loopback(known.peer.url)):
                self._add(node.name, node.public_key, node.url)

    def all(self) -> list[KnownPeer]:
        """Every node, this one included."""
        return list(self._by_name.values())

    def _add(self, name: str, public_key: bytes, url: str) -> None:
        address = compute_address(public_key)
        known = KnownPeer(name, public_key, address, Peer(url, address))
        self._by_name[name] = self._by_address[address] = known

    def knows(self, address: bytes) -> bool:
        """True for a node of this network."""
        return address in self._by_address

    def name_of(self, address: bytes) -> str:
        """A node's name, or the start of its address."""
        known = self._by_address.get(address)
        return known.name if known else address.hex()[:12]

    async def request(self, name: str, path: str, body: bytes) -> bytes:
        """A node's reply.

        Errors: InvalidTransaction when it refused the bytes by a rule; TransportError otherwise.
        """
        try:
            return await self._client.request(self._by_name[name].peer, path, body)
        except PeerRefused as refusal:
            if refusal.status == REFUSED_BY_RULE:
                raise InvalidTransaction(refusal.code, refusal.message) from None
            raise

    async def request_many(self, name: str, path: str, body: bytes) -> list[bytes]:
        """A node's reply that is a list of byte strings."""
        reply = await self._client.request(self._by_name[name].peer, path, body)
        return decode(list[bytes], reply, limit_bytes=MAX_MANY_BYTES)

    async def stream(
        self, address: bytes, path: str, body: bytes, traceparent: str = ""
    ) -> AsyncGenerator[bytes, None]:
        """Frames of a node's answer. Close it to hang up."""
        known = self._by_address.get(address)
        if known is None:
            raise TransportError(f"no way to reach {address.hex()} is known")
        stream = self._client.stream(known.peer, path, body, traceparent)
        try:
            async for frame in stream:
                yield frame
        finally:
            await stream.aclose()

    async def fetch_blob(self, digest: bytes, first: Sequence[bytes]) -> bytes:
        """A blob's bytes: from here, else from the named nodes, else from any other.

        Errors: TransportError when nobody has it.
        """
        if not self._blobs.has(digest):
            named = [self._by_address[address] for address in first if address in self._by_address]
            others = [peer for peer in self.all() if peer not in named]
            sources = [peer.peer for peer in (*named, *others) if peer.name != self._own_name]
            await self._client.fetch_blob(sources, digest, into=self._blobs)
            self.fetched_bytes += self._blobs.size(digest)
        return self._blobs.get(digest)


def _is_loopback(url: str) -> bool:
    return httpx.URL(url).host in {"127.0.0.1", "localhost", "::1"}


def encode_many(items: list[bytes]) -> bytes:
    """The reply that `request_many` reads."""
    return encode(items)
