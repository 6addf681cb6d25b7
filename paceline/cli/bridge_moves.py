"""What `paceline bridge` does on this side: shows where it stands, claims deposits, burns for withdrawals.

Every dollar here is of the stable test asset and is shown as such. Nothing is decided here: the running network tries what was
signed before it is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import typer

from paceline.base.errors import ConfigError
from paceline.cli.bridge_setup import load_bridge
from paceline.cli.network import ControlClient
from paceline.cli.printing import print_found
from paceline.cli.signing import (
    describe_moves,
    load_signer,
    open_control,
    send_signed,
    sign_message,
    try_signed,
)
from paceline.cli.standing import find_standing
from paceline.cli.transfers import FEE, parse_amount
from paceline.economy.denominations import format_dollars
from paceline.node.bridge.blocks import CheckedBlock, Deposit, fetch_block
from paceline.node.bridge.calls import get_receipt
from paceline.node.bridge.keys import format_address, parse_address
from paceline.node.bridge.rpc import EvmRpc
from paceline.node.bridge.status import BridgeStatus, HeaderLine, WithdrawalLine, build_bridge_status
from paceline.node.chains.trial import Move, Trial
from paceline.node.home import Home
from paceline.protocol.bridge import ClaimDeposit, WithdrawAsset
from paceline.protocol.params import BridgeParams

LABEL = "tUSD is a test asset: it has no value"
HASH_DIGITS = 64


@dataclass(frozen=True, kw_only=True)
class MoveOptions:
    """What the command line asked for."""

    home: Path
    author: str
    dry_run: bool
    yes: bool
    as_json: bool


class ClaimLine(msgspec.Struct, frozen=True, kw_only=True):
    """A deposit and what its claim moves; the block that holds it, None while it is not sent. Units: micro-dollars."""

    block: int
    transaction: int
    log: int
    to: str
    amount: int
    moves: list[Move]
    dollars: list[Move]
    height: int | None = None


class ClaimLines(msgspec.Struct, frozen=True, kw_only=True):
    """All deposits of one transaction that are not credited yet."""

    deposits: list[ClaimLine]


class BurnLine(msgspec.Struct, frozen=True, kw_only=True):
    """A withdrawal; its number and block are None while it is not sent. Units: micro-dollars."""

    to: str
    amount: int
    moves: list[Move]
    dollars: list[Move]
    height: int | None = None
    number: int | None = None


def print_status(path: Path, name: str, *, as_json: bool) -> None:
    """Print where the bridge stands.

    Errors: ConfigError when the folder holds no network, no such account or no bridge; TransportError when it runs but does
    not answer.
    """
    home = Home(path)
    bridge = load_bridge(home)
    account, node = load_signer(home, name, "--name").address, home.load_key(home.get_first_name()).address
    found = find_standing(
        home,
        lambda client: client.get(f"/bridge?account={account.hex()}", BridgeStatus),
        lambda state: build_bridge_status(state, bridge, account, node),
    )
    print_found(found, lambda status: _describe_status(status, name), as_json=as_json)


def claim(options: MoveOptions, transaction: str, rpc: str) -> None:
    """Prove the deposits of a transaction over there, show what is credited, ask, send, and wait for the block.

    Errors: ConfigError when there is no such deposit, it is not attested or credited already; TransportError when one of the
    two chains does not answer.
    """
    _require_answer(options)
    home = Home(options.home)
    bridge = load_bridge(home)
    key = load_signer(home, options.author)
    block, deposits = asyncio.run(_fetch_deposits(bridge, _parse_hash(transaction), rpc))
    with open_control(home) as client:
        _require_attested(client, block)
        lines, signed = [], []
        for deposit in deposits:
            message = ClaimDeposit(block.number, deposit.transaction, deposit.log, block.prove(deposit.transaction))
            data = sign_message(home, client, key, message)
            trial = client.post("/trial", data, Trial)
            if trial.code == "already-claimed":
                continue
            lines.append(_summarise_claim(block, deposit, try_signed(client, data)))
            signed.append(data)
        if not lines:
            raise ConfigError("TXHASH: this deposit is credited already")
        if options.dry_run or not options.as_json:
            print_found(ClaimLines(deposits=lines), _describe_claim, as_json=options.as_json)
        if not _goes_on(options, "Claim it?"):
            return
        heights = [send_signed(client, data) for data in signed]
    done = [msgspec.structs.replace(line, height=height) for line, height in zip(lines, heights, strict=True)]
    print_found(ClaimLines(deposits=done), _describe_credited, as_json=options.as_json)


def withdraw(options: MoveOptions, text: str, to: str) -> None:
    """Show what is burnt, ask, send, and say the withdrawal's number.

    Errors: ConfigError when amount or address is none, or the ledger refuses; TransportError when the network does not answer.
    """
    _require_answer(options)
    home = Home(options.home)
    load_bridge(home)
    key, amount, address = load_signer(home, options.author), parse_amount(text, "dollars"), parse_address(to, "TO")
    with open_control(home) as client:
        signed = sign_message(home, client, key, WithdrawAsset(address, amount))
        trial = try_signed(client, signed)
        line = BurnLine(to=format_address(address), amount=amount, moves=trial.moves, dollars=trial.dollars)
        if options.dry_run or not options.as_json:
            print_found(line, _describe_burn, as_json=options.as_json)
        if not _goes_on(options, "Withdraw it?"):
            return
        height = send_signed(client, signed)
        same = [
            burnt.number
            for burnt in client.get(f"/bridge/withdrawals/{height}", list[WithdrawalLine])
            if (burnt.to, burnt.amount) == (f"0x{address.hex()}", amount)
        ]
    # Two equal ones in one block pay the same address the same: any of their numbers will do.
    done = msgspec.structs.replace(line, height=height, number=max(same))
    print_found(done, _describe_burnt, as_json=options.as_json)


async def _fetch_deposits(bridge: BridgeParams, transaction: bytes, rpc: str) -> tuple[CheckedBlock, list[Deposit]]:
    async with EvmRpc(rpc) as server:
        await server.require_chain(bridge.chain)
        receipt = await get_receipt(server, transaction)
        if receipt is None:
            raise ConfigError(
                f"TXHASH: {server.host} knows no such transaction in a block; wait for one, or look again"
            )
        block = await fetch_block(server, int(receipt.block_number, 16))
    place = int(receipt.transaction_index, 16)
    deposits = block.list_deposits_of(bridge.contract, place) if place < len(block.receipts) else []
    if not deposits:
        contract = format_address(bridge.contract)
        raise ConfigError(f"TXHASH: this transaction made no deposit into the bridge's contract {contract}")
    return block, deposits


def _parse_hash(text: str) -> bytes:
    try:
        found = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        found = b""
    if len(found) != HASH_DIGITS // 2:
        raise ConfigError(f"TXHASH: {text[:80]!r} is no hash of a transaction: 0x and {HASH_DIGITS} hex digits")
    return found


def _require_attested(client: ControlClient, block: CheckedBlock) -> None:
    header = client.get(f"/bridge/header/{block.number}", HeaderLine)
    if not header.block_hash:
        raise ConfigError(
            f"block {block.number} is not attested yet: nodes wait until it is final over there; try again in a while"
        )
    if header.block_hash != block.block_hash.hex():
        raise ConfigError(
            f"--rpc: this server has another block {block.number} than the nodes attested; ask another server"
        )


def _require_answer(options: MoveOptions) -> None:
    if options.as_json and not (options.yes or options.dry_run):
        raise ConfigError("--json asks nothing: add --yes, or --dry-run to look first")


def _goes_on(options: MoveOptions, question: str) -> bool:
    if not options.dry_run and (options.yes or typer.confirm(question)):
        return True
    if not options.as_json:
        print("Nothing was sent.")
    return False


def _summarise_claim(block: CheckedBlock, deposit: Deposit, trial: Trial) -> ClaimLine:
    return ClaimLine(
        block=block.number,
        transaction=deposit.transaction,
        log=deposit.log,
        to=deposit.to.hex(),
        amount=deposit.amount,
        moves=trial.moves,
        dollars=trial.dollars,
    )


def _describe_status(found: BridgeStatus, name: str) -> Iterator[str]:
    last = "none yet" if found.last_attested is None else f"block {found.last_attested}, {found.attested} in all"
    yield f"height     {found.height}"
    yield f"chain      {found.chain}"
    yield f"contract   {found.contract}"
    yield f"attested   {last}"
    if found.open_votes:
        yield f"voted on   {', '.join(map(str, found.open_votes))}: too little power so far"
    if found.watch is None:
        yield "reads      nothing: this node asks no server of the other chain"
    else:
        final = "nothing final yet" if found.watch.final < 0 else f"final up to block {found.watch.final}"
        yield f"reads      {final}, next is {found.watch.next}, {len(found.watch.waiting)} with deposits wait"
        if found.watch.trouble:
            yield f"trouble    {found.watch.trouble}"
    yield f"attester   {found.attester or 'none: this node signs no withdrawals'}"
    yield f"tUSD here  {format_dollars(found.outstanding)}"
    yield f"{name:<10} {format_dollars(found.dollars)}"
    for line in found.newest:
        yield f"withdrawal {line.number}: {format_dollars(line.amount)} at height {line.height}"
        yield f"           to {line.to}"
    yield LABEL


def _describe_claim(found: ClaimLines) -> Iterator[str]:
    for line in found.deposits:
        yield f"Deposit   {format_dollars(line.amount)}, block {line.block}, transaction {line.transaction}"
        yield f"For       {line.to}"
        yield from describe_moves(Trial(code="ok", message="", moves=line.moves, dollars=line.dollars), FEE)
    yield LABEL


def _describe_credited(found: ClaimLines) -> Iterator[str]:
    for line in found.deposits:
        yield f"Credited {format_dollars(line.amount)} at height {line.height}."


def _describe_burn(line: BurnLine) -> Iterator[str]:
    yield f"Burns     {format_dollars(line.amount)} here"
    yield f"Pays      {line.to}"
    yield from describe_moves(Trial(code="ok", message="", moves=line.moves, dollars=line.dollars), FEE)
    yield LABEL


def _describe_burnt(line: BurnLine) -> Iterator[str]:
    yield f"Done at height {line.height}: withdrawal {line.number}."
    yield f"Next: paceline bridge collect {line.number} --rpc URL"
