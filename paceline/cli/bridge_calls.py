"""What `paceline bridge` does on the other chain: deposits, and payments of withdrawals that attesters signed.

Without a key it prints transactions for any wallet; with one it sends them. Signatures are held against the contract before
anything is sent, so that nobody pays for a transaction that cannot pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import typer

from paceline.base.errors import ConfigError
from paceline.cli.addresses import find_account
from paceline.cli.bridge_moves import LABEL
from paceline.cli.bridge_setup import load_bridge
from paceline.cli.printing import print_found
from paceline.cli.signing import open_control
from paceline.cli.transfers import parse_amount
from paceline.economy.denominations import format_dollars
from paceline.ledger.bridge import Withdrawal, compute_withdrawal_digest
from paceline.node.bridge.calls import Call, Contract, call_at, make_approval, make_deposit, make_release, send_call
from paceline.node.bridge.keys import (
    EvmKey,
    compute_wallet_hash,
    format_address,
    is_plain,
    load_evm_key,
    parse_address,
)
from paceline.node.bridge.rpc import EvmRpc, RpcRefused, from_hex, to_hex
from paceline.node.bridge.signatures import CollectedSignatures, NodeSignature
from paceline.node.home import Home
from paceline.protocol.params import BridgeParams


@dataclass(frozen=True, kw_only=True)
class CallOptions:
    """What the command line asked for."""

    home: Path
    rpc: str
    key_file: Path | None
    yes: bool
    as_json: bool


class SentCall(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction over there."""

    what: str
    transaction: str


class CallsLine(msgspec.Struct, frozen=True, kw_only=True):
    """What a wallet is to send, in this order; or what was sent. Units: micro-dollars."""

    chain: int
    amount: int
    told: str
    """Whom it is for."""
    signed_ppm: int | None = None
    """Of the attesters' power, behind a withdrawal."""
    troubles: list[str] = []
    calls: list[Call] = []
    sent: list[SentCall] = []


def deposit(options: CallOptions, text: str, to: str) -> None:
    """Print or send what pays into the contract for an account here.

    Errors: ConfigError when an account or amount is none, or the other chain would refuse; TransportError without an answer.
    """
    home = Home(options.home)
    bridge, account, amount = load_bridge(home), find_account(home, to, "--to"), parse_amount(text, "dollars")

    async def find(server: EvmRpc, payer: EvmKey | None) -> CallsLine:
        contract = Contract(server, bridge.contract)
        token = await contract.get_token()
        calls = [make_deposit(bridge.contract, account.address, amount)]
        if payer is None or await contract.get_allowance(token, payer.address) < amount:
            calls.insert(0, make_approval(token, bridge.contract, amount))
        return CallsLine(chain=bridge.chain, amount=amount, told=f"account {account}", calls=calls)

    _run(options, bridge, find, "Deposit it?")


def collect(options: CallOptions, number: int) -> None:
    """Gather signatures, hold them against the contract, and print or send what pays a withdrawal.

    Errors: ConfigError when there is no such withdrawal, it is paid, or too few attesters signed; TransportError when one of
    the two chains does not answer.
    """
    home = Home(options.home)
    bridge = load_bridge(home)
    with open_control(home) as client:
        found = client.get(f"/bridge/signatures/{number}", CollectedSignatures)
    to = parse_address(found.to, "the withdrawal's address")

    async def find(server: EvmRpc, _payer: EvmKey | None) -> CallsLine:
        contract = Contract(server, bridge.contract)
        if await contract.is_released(number):
            raise ConfigError(f"NUMBER: withdrawal {number} is paid already")
        digest = compute_withdrawal_digest(bridge, number, Withdrawal(to, found.amount, 0))
        signers, troubles = await _find_signers(contract, compute_wallet_hash(digest), found.answers)
        held = sum([await contract.get_power(signer) for signer in signers])
        total = await contract.get_total_power()
        if 3 * held <= 2 * total:
            why = "; ".join(troubles) or "no node has an attester's key"
            raise ConfigError(
                f"NUMBER: attesters with {held} of {total} power signed, more than two thirds is needed: {why}"
            )
        signatures = [signers[signer] for signer in sorted(signers)]
        call = make_release(bridge.contract, number, to, found.amount, signatures)
        await _require_passes(server, call)
        return CallsLine(
            chain=bridge.chain,
            amount=found.amount,
            told=f"address {format_address(to)}",
            signed_ppm=held * 1_000_000 // total,
            troubles=troubles,
            calls=[call],
        )

    _run(options, bridge, find, "Send it?")


def _run(
    options: CallOptions,
    bridge: BridgeParams,
    find: Callable[[EvmRpc, EvmKey | None], Awaitable[CallsLine]],
    question: str,
) -> None:
    """Find out what is to be sent; print it, or ask and send it."""
    key = None if options.key_file is None else load_evm_key(options.key_file)
    if key is not None and options.as_json and not options.yes:
        raise ConfigError("--json asks nothing: add --yes, or leave --key-file out to look first")

    async def run() -> None:
        async with EvmRpc(options.rpc) as server:
            await server.require_chain(bridge.chain)
            line = await find(server, key)
            if key is None:
                print_found(line, _describe_calls, as_json=options.as_json)
                return
            if not options.as_json:
                print_found(line, lambda found: _describe_plan(found, key), as_json=False)
            if not options.yes and not typer.confirm(question):
                print("Nothing was sent.")
                return
            sent = [
                SentCall(what=call.what, transaction=to_hex(await send_call(server, bridge.chain, key, call)))
                for call in line.calls
            ]
            done = msgspec.structs.replace(line, calls=[], sent=sent)
            print_found(done, _describe_sent, as_json=options.as_json)

    asyncio.run(run())


async def _find_signers(
    contract: Contract, wallet_hash: bytes, answers: list[NodeSignature]
) -> tuple[dict[bytes, bytes], list[str]]:
    """Signatures by signers that the contract knows, and a sentence for every node whose answer is of no use."""
    signers, troubles = {}, []
    for answer in answers:
        if answer.trouble:
            troubles.append(f"{answer.node}: {answer.trouble}")
            continue
        signature = bytes.fromhex(answer.signature)
        signer = await contract.find_signer(wallet_hash, signature) if is_plain(signature) else None
        if signer is None or to_hex(signer) != answer.attester:
            troubles.append(f"{answer.node}: its signature is not of the attester that it names")
        elif await contract.get_power(signer) == 0:
            troubles.append(f"{answer.node}: {answer.attester} is no attester of the contract")
        else:
            signers[signer] = signature
    return signers, troubles


async def _require_passes(server: EvmRpc, call: Call) -> None:
    try:
        await call_at(server, from_hex(call.to), from_hex(call.data))
    except RpcRefused as problem:
        raise ConfigError(f"{call.what} would fail over there: {problem}") from None


def _describe_plan(line: CallsLine, key: EvmKey) -> Iterator[str]:
    yield from _describe_head(line)
    yield f"By        {format_address(key.address)}: {', then '.join(call.what for call in line.calls)}"
    yield LABEL


def _describe_head(line: CallsLine) -> Iterator[str]:
    yield f"Pays      {format_dollars(line.amount)}"
    yield f"For       {line.told}"
    if line.signed_ppm is not None:
        yield f"Signed    by {line.signed_ppm / 10_000:.1f} % of the attesters' power"
    for trouble in line.troubles:
        yield f"Without   {trouble}"


def _describe_calls(line: CallsLine) -> Iterator[str]:
    yield from _describe_head(line)
    yield f"Send with any wallet on chain {line.chain}, in this order and without coins:"
    for call in line.calls:
        yield f"{call.what}"
        yield f"  to      {call.to}"
        yield f"  data    {call.data}"
    yield LABEL


def _describe_sent(line: CallsLine) -> Iterator[str]:
    for sent in line.sent:
        yield f"Sent      {sent.what}: {sent.transaction}"
    if line.signed_ppm is None:
        yield f"Next: paceline bridge claim {line.sent[-1].transaction} --rpc URL"
