"""What `paceline pool` does: asks the running network or the stores, signs, sends and prints.

Every asset here is a test asset and is shown as such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import typer

from paceline.base.errors import ConfigError, Invalid
from paceline.cli.network import ControlClient
from paceline.cli.printing import print_found
from paceline.cli.signing import load_signer, open_control, send_signed, sign_message
from paceline.cli.sponsor import require_running
from paceline.cli.standing import find_standing
from paceline.economy.denominations import format_asset, format_coins, format_dollars, parse_asset, parse_coins
from paceline.ledger.state import State
from paceline.node.chains.pools import AssetLine, Holding, PoolStatus, Quote, Side, build_pool_status, build_quote
from paceline.node.control import QuoteOrder, Sent
from paceline.node.home import Home
from paceline.protocol.assets import QUOTED, TBTC, TETH, TUSD
from paceline.protocol.pools import BuyCoins, RedeemCoins

Found = TypeVar("Found", PoolStatus, Quote)
LABEL = "tUSD, tETH and tBTC are test assets: they have no value"
ASSETS = {"usd": TUSD, "eth": TETH, "btc": TBTC}
"""What may be typed for a test asset, beside its name."""


@dataclass(frozen=True, kw_only=True)
class TradeOptions:
    """What the command line asked for. `limit`: most to pay or least to get; without it what the trade costs now."""

    home: Path
    side: Side
    coins: str
    limit: str | None
    asset: str
    name: str
    dry_run: bool
    yes: bool
    as_json: bool


def read_asset(text: str) -> str:
    """The test asset of a name or short word. Errors: ConfigError."""
    found = {name.lower(): name for name in ASSETS.values()} | ASSETS
    if text.lower() not in found:
        raise ConfigError(f"{text!r} is no test asset: usd, eth or btc")
    return found[text.lower()]


def print_pool(path: Path, name: str, *, as_json: bool) -> None:
    """Print where the pool stands.

    Errors: ConfigError when the folder holds no network or no such node; TransportError when it runs but does not answer.
    """
    home = Home(path)
    account = load_signer(home, name, "--name").address
    found = _ask(
        home,
        lambda client: client.get(f"/pool?account={account.hex()}", PoolStatus),
        lambda state: build_pool_status(state, account),
    )
    print_found(found, lambda status: _describe_pool(status, name), as_json=as_json)


def trade(options: TradeOptions) -> None:
    """Show what moves; then ask, sign, hand over to the running network and wait for the block.

    Errors: ConfigError when an amount is no amount, the ledger refuses or nothing runs here; TransportError when the network
    does not answer.
    """
    if options.as_json and not (options.yes or options.dry_run):
        raise ConfigError("--json asks nothing: add --yes, or --dry-run to look first")
    home = Home(options.home)
    account = load_signer(home, options.name, "--name").address
    asset = read_asset(options.asset)
    coins, limit = _parse(options, asset)
    quote = _ask(
        home,
        lambda client: client.post("/pool/quote", _make_order(options.side, coins, account, asset), Quote),
        lambda state: build_quote(state, home.load_genesis().params, options.side, account, coins, asset),
    )
    bound = quote.amount if limit is None else limit
    if options.dry_run or not options.as_json:
        print_found(quote, lambda found: _describe_quote(found, bound), as_json=options.as_json)
    if options.dry_run:
        return
    require_running(home)
    if not options.yes and not typer.confirm("Do it?"):
        print("Nothing moved.")
        return
    message = (BuyCoins if options.side == "buy" else RedeemCoins)(coins, bound, asset)
    sent = _send(home, options.name, message)
    print_found(sent, lambda found: [f"Done at height {found.height}."], as_json=options.as_json)


def _parse(options: TradeOptions, asset: str) -> tuple[int, int | None]:
    try:
        return parse_coins(options.coins), None if options.limit is None else parse_asset(options.limit, asset)
    except Invalid as problem:
        raise ConfigError(problem.message) from None


def _make_order(side: Side, coins: int, account: bytes, asset: str) -> QuoteOrder:
    return QuoteOrder(side=side, coins=coins, account=account.hex(), asset=asset)


def _ask(home: Home, ask: Callable[[ControlClient], Found], read: Callable[[State], Found]) -> Found:
    try:
        return find_standing(home, ask, read)
    except Invalid as problem:
        raise ConfigError(str(problem)) from None


def _send(home: Home, name: str, message: BuyCoins | RedeemCoins) -> Sent:
    with open_control(home) as client:
        signed = sign_message(home, client, load_signer(home, name, "--name"), message)
        return Sent(height=send_signed(client, signed))


def _describe_pool(found: PoolStatus, name: str) -> Iterator[str]:
    yield f"height     {found.height}"
    yield f"price      {format_dollars(found.price)} an icon"
    last = "nothing is sold yet" if not found.last_price else f"{format_dollars(found.last_price)} an icon"
    yield f"redeem at  {last}"
    yield f"sold       {format_coins(found.sold, 'icon')}, of these returned and on sale {format_coins(found.returned, 'icon')}"
    yield f"on sale    {format_coins(found.left, 'icon')}"
    yield f"worth      {format_dollars(found.worth)} at the quotes in force:"
    for line in found.assets:
        yield from _describe_asset(line)
    covered = f"{found.coverage_ppm // 10_000}.{found.coverage_ppm % 10_000:04} %"
    yield f"coverage   {covered} of {format_coins(found.redeemable, 'icon')} that hosts may give back"
    yield f"{name:<10} {_describe_holding(found.account)}"
    yield LABEL


def _describe_asset(line: AssetLine) -> Iterator[str]:
    yield f"  {line.asset}     {format_asset(line.asset, line.pool)} here, {format_asset(line.asset, line.accounts)} in accounts"
    if line.asset not in QUOTED:
        return
    if not line.quote:
        yield "           no quote: not taken until hosts have voted on one"
        return
    yield f"           {format_dollars(line.quote)} in epoch {line.epoch}, recorded at height {line.height}"
    if line.buy_quote != line.redeem_quote:
        yield f"           moving: buys at {format_dollars(line.buy_quote)}, redeems at {format_dollars(line.redeem_quote)}"


def _describe_quote(found: Quote, bound: int) -> Iterator[str]:
    gives, gets = format_asset(found.asset, found.amount), format_coins(found.coins)
    if found.side == "redeem":
        gives, gets = gets, gives
    yield f"gives      {gives}"
    yield f"gets       {gets}"
    if found.asset in QUOTED:
        yield f"quote      {format_dollars(found.quote)} for 1 {found.asset}; the coins are worth {format_dollars(found.dollars)}"
    limit = "at most" if found.side == "buy" else "at least"
    yield f"limit      {limit} {format_asset(found.asset, bound)}, or nothing moves"
    yield f"fee        {format_coins(found.fee)}, also when nothing moves"
    yield f"before     {_describe_holding(found.before)}"
    yield f"after      {_describe_holding(found.after)}"
    balance = format_asset(found.asset, found.balance_after)
    yield f"pool then  {format_dollars(found.price_after)} an icon, balance {balance}"
    yield LABEL


def _describe_holding(found: Holding) -> str:
    coins = f"{format_coins(found.coins, 'icon')}, of these redeemable {format_coins(found.redeemable, 'icon')}"
    others = [format_asset(asset, units) for asset, units in found.assets.items() if units]
    return "; ".join((coins, format_dollars(found.dollars), *others))
