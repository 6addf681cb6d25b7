"""What `paceline tx` does: finds out who is meant, shows what moves, asks, sends, and prints the block.

The running network says what would happen, by its own rules; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import typer

from paceline.base.errors import ConfigError, Invalid
from paceline.cli.addresses import Account, find_account
from paceline.cli.printing import print_found
from paceline.cli.signing import describe_moves, load_signer, open_control, send_signed, sign_message, try_signed
from paceline.economy.denominations import DOLLARS, format_asset, format_coins, parse_asset, parse_coins
from paceline.node.chains.trial import Move, Trial
from paceline.node.home import Home
from paceline.protocol.assets import DIGITS
from paceline.protocol.messages import Transfer
from paceline.protocol.pools import TransferAsset

FEE = {"core reserve": "the fee"}
ANY = "any"


@dataclass(frozen=True, kw_only=True)
class TransferOptions:
    """What the command line asked for. `asset`: coins, dollars, or any for the test asset that the amount names."""

    home: Path
    asset: str
    to: str
    amount: str
    author: str
    dry_run: bool
    yes: bool
    as_json: bool


class TransferLine(msgspec.Struct, frozen=True, kw_only=True):
    """A payment: what moves, and the block that holds it, None while it is not sent. Units: nicoin, or the test asset's smallest."""

    sender: str
    to: str
    asset: str
    amount: int
    moves: list[Move]
    dollars: list[Move]
    assets: dict[str, list[Move]] = {}
    height: int | None = None


def send_transfer(options: TransferOptions) -> None:
    """Show what moves; then ask, send and wait for the block.

    Errors: ConfigError when an account or an amount is none, nothing runs here or the ledger refuses; TransportError when the
    network does not answer.
    """
    if options.as_json and not (options.yes or options.dry_run):
        raise ConfigError("--json asks nothing: add --yes, or --dry-run to look first")
    home = Home(options.home)
    key = load_signer(home, options.author)
    asset = name_asset(options.amount) if options.asset == ANY else options.asset
    if options.asset == ANY and asset == "coins":
        raise ConfigError(f"AMOUNT: {options.amount!r} is of no test asset: {', '.join(DIGITS)}")
    amount = parse_amount(options.amount, asset)
    to = find_account(home, options.to, "TO")
    with open_control(home) as client:
        signed = sign_message(home, client, key, make_transfer(to.address, amount, asset))
        line = _summarise(asset, amount, key.address, to, try_signed(client, signed))
        if options.dry_run or not options.as_json:
            sender = Account(key.address, f"{options.author} of this home")
            print_found(line, lambda found: describe_transfer(found, sender, to), as_json=options.as_json)
        if options.dry_run or not (options.yes or typer.confirm("Send it?")):
            if not options.as_json:
                print("Nothing was sent.")
            return
        sent = msgspec.structs.replace(line, height=send_signed(client, signed))
    print_found(sent, lambda found: [f"Done at height {found.height}."], as_json=options.as_json)


def name_asset(amount: str) -> str:
    """What an amount is of, by its last word: dollars, another test asset, or coins."""
    found = next((name for name in DIGITS if amount.strip().endswith(name)), "coins")
    return "dollars" if found == DOLLARS else found


def parse_amount(text: str, asset: str) -> int:
    """Smallest units above 0. Errors: ConfigError."""
    try:
        amount = parse_coins(text) if asset == "coins" else parse_asset(text, _get_name(asset))
    except Invalid as problem:
        raise ConfigError(f"AMOUNT: {problem.message}") from None
    if amount == 0:
        raise ConfigError("AMOUNT: at least the smallest unit is needed")
    return amount


def make_transfer(to: bytes, amount: int, asset: str) -> Transfer | TransferAsset:
    """The message that pays."""
    return Transfer(to, amount) if asset == "coins" else TransferAsset(to, amount, _get_name(asset))


def describe_transfer(line: TransferLine, sender: Account, to: Account) -> Iterator[str]:
    """Lines on what a payment moves."""
    coins = line.asset == "coins"
    amount = format_coins(line.amount) if coins else f"{format_asset(_get_name(line.asset), line.amount)}, a test asset"
    yield f"Pays      {amount}"
    yield f"From      {sender}"
    yield f"To        {to}"
    yield from describe_moves(
        Trial(code="ok", message="", moves=line.moves, dollars=line.dollars, assets=line.assets), FEE
    )


def _get_name(asset: str) -> str:
    return DOLLARS if asset == "dollars" else asset


def _summarise(asset: str, amount: int, sender: bytes, to: Account, trial: Trial) -> TransferLine:
    return TransferLine(
        sender=sender.hex(),
        to=to.address.hex(),
        asset=asset,
        amount=amount,
        moves=trial.moves,
        dollars=trial.dollars,
        assets=trial.assets,
    )
