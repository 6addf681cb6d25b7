"""`paceline light verify`: a later header from a trusted one, and values of the state under it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from paceline.base.errors import ConfigError
from paceline.cli.light_client import TrustOptions, check_trust, open_light_client, open_reader, read_hex
from paceline.cli.printing import print_found
from paceline.engine.light import LightClient, Verified
from paceline.engine.light_reader import Proven, StateReader
from paceline.engine.light_state import StateProof, decode_state_proof, verify_state_value
from paceline.engine.light_values import ask_account, ask_current_group, ask_node, ask_value, read_address
from paceline.network.settings import get_unix_milliseconds
from paceline.protocol.params import NICOIN_PER_COIN


@dataclass(frozen=True, kw_only=True)
class LightOptions(TrustOptions):
    """What the command was asked."""

    height: int | None = None
    key: str | None = None
    proof: Path | None = None
    account: str | None = None
    node: str | None = None
    group: bool = False


class SilentWitness(msgspec.Struct, frozen=True, kw_only=True):
    """A witness that did not answer, and why."""

    url: str
    reason: str


class StateValue(msgspec.Struct, frozen=True, kw_only=True):
    """A proven value (None: there is none) as of a height, in hex."""

    key: str
    value: str | None
    height: int


class AccountValue(msgspec.Struct, frozen=True, kw_only=True):
    """A proven account; an unknown one holds nothing."""

    address: str
    balance_nicoin: int
    sequence: int
    height: int


class NodeValue(msgspec.Struct, frozen=True, kw_only=True):
    """A proven node. Powers of all validators add up to 10^9."""

    name: str
    address: str
    weight: int
    voting_power: int
    height: int


class GroupValue(msgspec.Struct, frozen=True, kw_only=True):
    """The proven key of the beacon group that signs now, as `beacon verify --group-key` takes it."""

    number: int
    key: str
    height: int


class LightReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was verified. The hash serves as `--trust-hash` of the next call."""

    chain_id: str
    height: int
    header_hash: str
    app_hash: str
    path: list[int]
    agreeing: list[str]
    silent: list[SilentWitness]
    state: StateValue | None = None
    account: AccountValue | None = None
    node: NodeValue | None = None
    group: GroupValue | None = None


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The options, read and found to fit each other."""

    height: int | None
    key: bytes | None = None
    proof: StateProof | None = None
    account: bytes | None = None


def print_light_verify(options: LightOptions, *, as_json: bool) -> None:
    """Verify and print.

    Errors: as `verify_light`.
    """
    print_found(verify_light(options), _describe, as_json=as_json)


def verify_light(options: LightOptions) -> LightReport:
    """Verify what the options ask for.

    Errors: ConfigError for options that cannot be; InvalidBlock with the broken rule; TransportError when a node does
    not answer.
    """
    asked = _read_options(options)
    with ExitStack() as stack:
        client, rpc = open_light_client(stack, options)
        if options.account is None and options.node is None and not options.group and not _is_fetched(asked):
            return _verify_header(client, asked)
        return _read_values(open_reader(client, rpc, options.max_age_seconds), options, asked)


def _read_options(options: LightOptions) -> _Asked:
    check_trust(options)
    key = None if options.key is None else read_hex("--key", options.key)
    named = options.account is not None or options.node is not None or options.group
    if options.proof is not None:
        if key is None or named:
            raise ConfigError("--proof goes with --key, and with neither --account, --node nor --group")
        return _read_proof(options, key)
    if options.height is not None and (named or key is not None):
        raise ConfigError("--height does not go with values of the state: a node proves those of its last state only")
    account = None if options.account is None else read_address(options.account)
    if options.account is not None and account is None:
        raise ConfigError(f"--account {options.account!r} is no address: write its 40 hex digits")
    return _Asked(height=options.height, key=key, account=account)


def _read_proof(options: LightOptions, key: bytes) -> _Asked:
    assert options.proof is not None
    proof = decode_state_proof(_read_file(options.proof))
    # The app hash after a height stands in the next header.
    height = proof.height + 1
    if options.height not in {None, height}:
        raise ConfigError(f"the proof is of height {proof.height}, so it needs --height {height} or none")
    return _Asked(height=height, key=key, proof=proof)


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise ConfigError(f"--proof {path} cannot be read: {problem.strerror}") from None


def _is_fetched(asked: _Asked) -> bool:
    return asked.key is not None and asked.proof is None


def _verify_header(client: LightClient, asked: _Asked) -> LightReport:
    verified = client.verify_height(asked.height, get_unix_milliseconds())
    proof, key = asked.proof, asked.key
    if proof is None or key is None:
        return _make_report([verified])
    verify_state_value(verified.block.header, key, proof.value_bytes, proof.trie_proof)
    return _make_report([verified], state=StateValue(key=key.hex(), value=proof.value, height=proof.height))


def _read_values(reader: StateReader, options: LightOptions, asked: _Asked) -> LightReport:
    state = _describe_value(asked.key, reader.read(ask_value(asked.key))) if asked.key is not None else None
    account = _read_account(reader, asked.account) if asked.account is not None else None
    node = _read_node(reader, options.node) if options.node is not None else None
    group = _read_group(reader) if options.group else None
    return _make_report(reader.verified, state=state, account=account, node=node, group=group)


def _describe_value(key: bytes, found: Proven[bytes | None]) -> StateValue:
    return StateValue(key=key.hex(), value=None if found.value is None else found.value.hex(), height=found.height)


def _read_account(reader: StateReader, address: bytes) -> AccountValue:
    found = reader.read(ask_account(address))
    account = found.value
    return AccountValue(
        address=address.hex(), balance_nicoin=account.balance, sequence=account.sequence, height=found.height
    )


def _read_node(reader: StateReader, name_or_address: str) -> NodeValue:
    found = reader.read(ask_node(name_or_address))
    if found.value is None:
        known = "no node has this address" if read_address(name_or_address) else "no node has this name"
        raise ConfigError(f"--node {name_or_address!r}: {known} at height {found.height}, as the state proves")
    address, node = found.value
    return NodeValue(
        name=node.name,
        address=address.hex(),
        weight=node.weight,
        voting_power=node.voting_power,
        height=found.height,
    )


def _read_group(reader: StateReader) -> GroupValue:
    found = reader.read(ask_current_group)
    if found.value is None:
        raise ConfigError(f"the chain at {reader.name} has no beacon group: it is not a Paceline network")
    return GroupValue(number=found.value.number, key=found.value.key.hex(), height=found.height)


def _make_report(
    headers: Sequence[Verified],
    *,
    state: StateValue | None = None,
    account: AccountValue | None = None,
    node: NodeValue | None = None,
    group: GroupValue | None = None,
) -> LightReport:
    """The last header, the way to it, and what the witnesses said of all of them."""
    header = headers[-1].block.header
    agreeing = [url for url in headers[-1].agreeing if all(url in verified.agreeing for verified in headers)]
    silent = {url: reason for verified in headers for url, reason in verified.silent}
    return LightReport(
        chain_id=header.chain_id,
        height=header.height,
        header_hash=header.compute_hash().hex(),
        app_hash=header.app_hash.hex(),
        path=[height for verified in headers for height in verified.path],
        agreeing=agreeing,
        silent=[SilentWitness(url=url, reason=reason) for url, reason in silent.items()],
        state=state,
        account=account,
        node=node,
        group=group,
    )


def _describe(report: LightReport) -> Iterator[str]:
    yield f"verified   height {report.height} of {report.chain_id}"
    yield f"hash       {report.header_hash}"
    yield f"app hash   {report.app_hash} (state of height {report.height - 1})"
    yield f"by way of  {', '.join(map(str, report.path)) or 'the trusted header itself'}"
    for url in report.agreeing:
        yield f"witness    {url} has the same header"
    for silent in report.silent:
        yield f"witness    {silent.url} did not answer: {silent.reason}"
    if not report.agreeing:
        yield "witness    none compared: a fork signed by more than a third would not show; add --witness URL"
    yield from _describe_values(report)


def _describe_values(report: LightReport) -> Iterator[str]:
    account, node, group = report.account, report.node, report.group
    if report.state is not None:
        shown = "no value" if report.state.value is None else report.state.value
        yield f"state      {report.state.key} = {shown} as of height {report.state.height}"
    if account is not None:
        coins, nicoin = divmod(account.balance_nicoin, NICOIN_PER_COIN)
        yield f"account    {account.address} holds {coins:,}.{nicoin:09d} coins as of height {account.height}"
    if node is not None:
        yield (
            f"node       {node.name}, {node.address}: weight {node.weight:,}, "
            f"voting power {node.voting_power:,} as of height {node.height}"
        )
    if group is not None:
        yield f"group      {group.number}, key {group.key} as of height {group.height}"
    if any(value is not None for value in (report.state, account, node, group)):
        yield "values     each proven under the header of the next height"
