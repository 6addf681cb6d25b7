"""What a newcomer learns from any node before it is one: genesis, who is reached where, how far the chain is.

Everything in it is this node's word only. Genesis proves itself through the chain id; whom to trust with a header is the
newcomer's choice.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.base.errors import InvalidTransaction
from paceline.ledger.nodes import NODES
from paceline.network.public import PublicRequest
from paceline.network.settings import get_unix_milliseconds
from paceline.node.chains.links import compute_engine_id
from paceline.node.context import Context
from paceline.node.membership.registration import Description, NodeKeys, make_registration
from paceline.node.settings import COMETBFT, ENGINES
from paceline.protocol.codec import Record, encode
from paceline.protocol.fields import Height, KeyBytes, Link, Name, Url
from paceline.protocol.genesis import Genesis
from paceline.protocol.messages import Registration

MAX_DESCRIPTION_BYTES = 17 * 1024 * 1024
MAX_PEERS = 10_000
REGISTRATION_BLOCKS = 10_000
"""How long a registration that a node hands to a sponsor stays good."""


class ListedPeer(Record, frozen=True):
    """One node as another reaches it."""

    name: Name
    public_key: KeyBytes
    url: Url
    link: Link


class NetworkDescription(Record, frozen=True, kw_only=True):
    """A network as one of its nodes sees it."""

    genesis: bytes
    engine: Annotated[str, Meta(pattern="^(" + "|".join(ENGINES) + ")$")]
    sequencer: Name
    peers: Annotated[tuple[ListedPeer, ...], Meta(max_length=MAX_PEERS)]
    advertised: bool
    """False when these addresses hold only until the network stops."""
    height: Height
    app_hash: bytes
    snapshot_height: Height
    """Of the newest snapshot that this node serves; 0 when it has none."""
    unix_milliseconds: int
    caller: str
    """The address that the question came from."""


class Directory:
    """Answers for one node."""

    def __init__(self, context: Context, genesis: Genesis, keys: NodeKeys, served: tuple[str, ...]) -> None:
        self._context = context
        self._genesis = encode(genesis)
        self._keys = keys
        self._served = served

    async def describe_network(self, request: PublicRequest) -> bytes:
        """The encoded NetworkDescription."""
        context = self._context
        info = context.chain.application.info()
        return encode(
            NetworkDescription(
                genesis=self._genesis,
                engine=context.settings.engine,
                sequencer=context.settings.sequencer,
                peers=tuple(self._list_peers()),
                advertised=bool(context.settings.public_url),
                height=info.height,
                app_hash=info.app_hash,
                snapshot_height=context.chain.snapshot_height,
                unix_milliseconds=get_unix_milliseconds(),
                caller=request.host,
            )
        )

    async def give_registration(self, _request: PublicRequest) -> bytes:
        """The signed registration of this node, for whoever wants to pay its deposit.

        Errors: InvalidTransaction already-registered, syncing.
        """
        context = self._context
        if NODES.get(context.chain.read(), context.address) is not None:
            raise InvalidTransaction("already-registered", f"{context.settings.name} is a node of this network already")
        if context.chain.height == 0:
            raise InvalidTransaction("syncing", "this node has not seen a block yet; ask again in a moment")
        return encode(self.make_own_registration())

    def describe_self(self) -> Description:
        """What the ledger should say of this node."""
        settings = self._context.settings
        link = ""
        if settings.engine == COMETBFT:
            link = f"{compute_engine_id(self._keys.account)}@{settings.engine_external}"
        return Description(name=settings.name, url=settings.public_url, link=link, serves=self._served)

    def make_own_registration(self) -> Registration:
        """Signed by all keys of this node, good for a while."""
        chain = self._context.chain
        until = chain.height + REGISTRATION_BLOCKS
        return make_registration(self._keys, self.describe_self(), chain.chain_id, until)

    def _list_peers(self) -> list[ListedPeer]:
        """As the ledger says; as this node reaches them where the ledger says nothing."""
        links = {entry.name: entry.engine for entry in self._context.settings.peers}
        state = self._context.chain.read()
        listed = []
        for known in self._context.peers.all():
            node = NODES.get(state, known.address)
            url, link = (node.url, node.link) if node is not None and node.url else ("", "")
            listed.append(
                ListedPeer(known.name, known.public_key, url or known.peer.url, link or links.get(known.name, ""))
            )
        return listed
