"""`paceline beacon verify`: fetch the beacon of a height from nodes and check it with public data only.

Knows the genesis and asks in the name of a key made for the occasion. The key of a later group is proven by the state
under a trusted header when the options name one; else it is a node's word, and the report says so.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from paceline.base.errors import ConfigError, Invalid, InvalidBlock, InvalidClaim, TransportError
from paceline.base.keys import AccountKey, compute_address
from paceline.cli.light_client import TrustOptions, check_trust, open_light_client, open_reader
from paceline.cli.printing import print_found
from paceline.engine.light_values import ask_group
from paceline.ledger.beacon import verify_value
from paceline.ledger.groups import form_first_group
from paceline.network.client import Peer, PeerClient
from paceline.node.chains.beacon_answers import MAX_ANSWER_BYTES, BeaconAnswer, BeaconRequest, GroupBounds
from paceline.node.home import Home
from paceline.protocol.codec import decode, encode
from paceline.protocol.genesis import Genesis, compute_chain_id

FIRST_GROUP = 1
KEY_BYTES = 96
PINNED, FROM_GENESIS, TOLD = "given by --group-key", "computed from the genesis", "as the nodes tell it"
PROVEN = "proven by the state under a header that follows from the trusted one"


@dataclass(frozen=True, kw_only=True)
class BeaconOptions:
    """What the command was asked."""

    home: Path
    height: int
    peers: tuple[str, ...] = ()
    group_key: str | None = None
    trust: TrustOptions | None = None
    """Header and node that prove the keys of groups."""


@dataclass(frozen=True, kw_only=True)
class _Keys:
    """What is known of the groups' keys without the word of those who answer."""

    first: bytes
    pinned: bytes | None
    proven: Mapping[int, bytes | None] | None
    """By group, None for a group that the state does not know; None altogether when nothing was proven."""

    def choose(self, answer: BeaconAnswer) -> tuple[bytes | None, str]:
        """The key that an answer must hold against (None: no key will do), and where it comes from."""
        group = answer.signed.group
        if self.pinned is not None:
            return self.pinned, PINNED
        if self.proven is not None:
            return self.proven[group], PROVEN
        return (self.first, FROM_GENESIS) if group == FIRST_GROUP else (answer.group_key, TOLD)


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A node that did not answer, or answered wrongly, and how."""

    node: str
    reason: str


class BeaconReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was verified, in hex. `bounds` are as told; they follow from the ledger's weights."""

    chain_id: str
    height: int
    index: int
    value: str
    signature: str
    group: int
    group_key: str
    key_source: str
    agreeing: list[str]
    wrong: list[Failure]
    silent: list[Failure]
    bounds: GroupBounds | None


def read_trust(rpc: str | None, trust_height: int | None, trust_hash: str | None) -> TrustOptions | None:
    """Whom to prove keys by, None when nobody is named.

    Errors: ConfigError when a part is missing.
    """
    if rpc is None and trust_height is None and trust_hash is None:
        return None
    if rpc is None or trust_height is None or trust_hash is None:
        raise ConfigError("--rpc, --trust-height and --trust-hash belong together: give all or none")
    return TrustOptions(url=rpc, trust_height=trust_height, trust_hash=trust_hash)


def print_beacon_verify(options: BeaconOptions, *, as_json: bool) -> None:
    """Verify and print.

    Errors: as `verify_beacon`.
    """
    print_found(verify_beacon(options), _describe, as_json=as_json)


def verify_beacon(options: BeaconOptions) -> BeaconReport:
    """Ask every named node and check each answer.

    Errors: ConfigError for options that cannot be; TransportError when no node answers; InvalidClaim bad-signature when
    no answer holds, two-keys when nodes name different keys of one group, two-values when two values both hold.
    """
    home = Home(options.home)
    genesis = home.load_genesis()
    index = _compute_index(genesis, options.height)
    pinned = _read_key(options.group_key)
    if options.trust is not None:
        check_trust(options.trust)
        if pinned is not None:
            raise ConfigError("--rpc proves the key that --group-key gives: give one of them")
    peers = _find_peers(home, genesis, options.peers)
    answers, silent = asyncio.run(_ask_all(peers, compute_chain_id(genesis), options.height))
    if not answers:
        reasons = "; ".join(f"{failure.node}: {failure.reason}" for failure in silent)
        raise TransportError(f"no node answered for height {options.height} ({reasons})")
    groups = sorted({answer.signed.group for answer in answers.values()})
    keys = _Keys(
        first=form_first_group(genesis)[0].commitments[0],
        pinned=pinned,
        proven=None if options.trust is None else _prove_keys(options.trust, compute_chain_id(genesis), groups),
    )
    return _judge_answers(genesis, index, keys, answers, silent)


def _prove_keys(trust: TrustOptions, chain_id: str, groups: Iterable[int]) -> dict[int, bytes | None]:
    with ExitStack() as stack:
        client, rpc = open_light_client(stack, trust)
        if client.trusted.header.chain_id != chain_id:
            raise InvalidBlock(
                "wrong-chain",
                f"{rpc.name} has chain {client.trusted.header.chain_id!r}, the genesis gives {chain_id!r}",
            )
        reader = open_reader(client, rpc, trust.max_age_seconds)
        found = {group: reader.read(ask_group(group)).value for group in groups}
        return {group: None if value is None else value.key for group, value in found.items()}


def _judge_answers(
    genesis: Genesis, index: int, keys: _Keys, answers: Mapping[str, BeaconAnswer], silent: list[Failure]
) -> BeaconReport:
    chain_id = compute_chain_id(genesis)
    right: dict[str, BeaconAnswer] = {}
    wrong = []
    for node, answer in answers.items():
        key, _ = keys.choose(answer)
        if key is not None and answer.group_key == key and verify_value(chain_id, index, answer.signed, key):
            right[node] = answer
        else:
            wrong.append(Failure(node=node, reason="its signature or key is not the group's"))
    if not right:
        raise InvalidClaim("bad-signature", f"what {', '.join(answers)} answered is not what the group signed")
    _require_one(list(right.values()))
    found = next(iter(right.values()))
    return BeaconReport(
        chain_id=chain_id,
        height=index * genesis.params.beacon_interval,
        index=index,
        value=found.signed.value.hex(),
        signature=found.signed.signature.hex(),
        group=found.signed.group,
        group_key=found.group_key.hex(),
        key_source=keys.choose(found)[1],
        agreeing=list(right),
        wrong=wrong,
        silent=silent,
        bounds=found.bounds,
    )


def _require_one(answers: Sequence[BeaconAnswer]) -> None:
    """Both hold against a key, so somebody made up a key or the ledger forked: neither may pass as the network's."""
    first = answers[0]
    for other in answers[1:]:
        if other.signed.group == first.signed.group and other.group_key != first.group_key:
            raise InvalidClaim("two-keys", f"nodes name different keys of group {first.signed.group}; use --group-key")
        if other.signed.value != first.signed.value:
            groups = f"groups {first.signed.group} and {other.signed.group}"
            raise InvalidClaim("two-values", f"nodes hold values of {groups} for one height")


async def _ask_all(
    peers: Mapping[str, Peer], chain_id: str, height: int
) -> tuple[dict[str, BeaconAnswer], list[Failure]]:
    answers: dict[str, BeaconAnswer] = {}
    silent: list[Failure] = []

    async def ask(client: PeerClient, name: str, peer: Peer) -> None:
        try:
            reply = await client.request(peer, "beacon", encode(BeaconRequest(height)))
            answers[name] = decode(BeaconAnswer, reply, limit_bytes=MAX_ANSWER_BYTES)
        except (TransportError, Invalid) as problem:
            silent.append(Failure(node=name, reason=str(problem)))

    async with PeerClient(AccountKey.from_secret(secrets.token_bytes(32)), chain_id) as client:
        await asyncio.gather(*(ask(client, name, peer) for name, peer in peers.items()))
    return {name: answers[name] for name in peers if name in answers}, sorted(silent, key=lambda failure: failure.node)


def _compute_index(genesis: Genesis, height: int) -> int:
    interval = genesis.params.beacon_interval
    index, rest = divmod(height, interval)
    if rest:
        nearest = max(1, index) * interval
        raise ConfigError(f"--height {height} is not signed: the group signs every {interval}th, such as {nearest}")
    return index


def _read_key(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        raise ConfigError(f"--group-key {text!r} is not hex") from None
    if len(key) != KEY_BYTES:
        raise ConfigError(f"--group-key has {len(key)} bytes; a group's key has {KEY_BYTES}")
    return key


def _find_peers(home: Home, genesis: Genesis, named: Sequence[str]) -> dict[str, Peer]:
    addresses = {node.name: compute_address(node.public_key) for node in genesis.nodes}
    if not named:
        running = home.load_running()
        if running is None:
            raise ConfigError(f"nothing runs in {home.path}; name a node with --peer name=http://host:port")
        ports = running.ports.items()
        return {name: Peer(f"http://127.0.0.1:{port}", home.load_key(name).address) for name, port in ports}
    peers = {}
    for text in named:
        name, _, url = text.partition("=")
        if name not in addresses:
            raise ConfigError(f"--peer {text!r}: {name!r} is no node of the genesis ({', '.join(addresses)})")
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"--peer {text!r}: write name=http://host:port")
        peers[name] = Peer(url.rstrip("/"), addresses[name])
    return peers


def _describe(report: BeaconReport) -> Iterator[str]:
    yield f"verified   height {report.height} of {report.chain_id}"
    yield f"value      {report.value}"
    yield f"signature  {report.signature}"
    yield f"group      {report.group}, key {report.group_key}"
    yield f"key        {report.key_source}"
    if report.bounds is not None:
        bounds = report.bounds
        yield (
            f"committee  {bounds.members} members, {bounds.threshold} of {bounds.slots} slots sign; "
            f"{bounds.secrecy_ppm / 10_000:.2f} % of weight could sign alone, "
            f"{bounds.liveness_ppm / 10_000:.2f} % could not"
        )
    yield f"nodes      {', '.join(report.agreeing)} hold it"
    for failure in report.wrong:
        yield f"wrong      {failure.node}: {failure.reason}"
    for failure in report.silent:
        yield f"silent     {failure.node}: {failure.reason}"
