"""What `paceline price` and `paceline rewards` do: ask the running network or the stores, and print in plain words.

Quotes of test assets are voted on in the same way; test assets have no value.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from rich.console import Console

from paceline.base.errors import ConfigError, Invalid
from paceline.cli.addresses import load_actor
from paceline.cli.pool_trades import LABEL, read_asset
from paceline.cli.printing import count_units, print_found
from paceline.cli.signing import open_control, send_signed, sign_message
from paceline.cli.standing import find_standing
from paceline.economy.denominations import format_coins, format_dollars, parse_coins, parse_dollars
from paceline.economy.prices import require_price
from paceline.economy.quotes import require_quote
from paceline.ledger.parameters import get_params
from paceline.node.chains.economy import EconomyStatus, PriceStatus, RewardLine, build_economy_status, build_reward
from paceline.node.chains.quotes import QuoteStatus
from paceline.node.chains.trial import Trial
from paceline.node.home import Home
from paceline.protocol.assets import QUOTED
from paceline.protocol.pools import VoteQuote
from paceline.protocol.prices import VotePrice


def print_prices(path: Path, *, as_json: bool) -> None:
    """Print the price of a unit of compute, the votes, and what each model's token costs.

    Errors: ConfigError when the folder holds no network; TransportError when it runs but does not answer.
    """
    found = _load_economy(Home(path)).prices
    print_found(found, _describe_prices, as_json=as_json)


def print_quotes(path: Path, *, as_json: bool) -> None:
    """Print what each test asset counts for, since when, and who voted. Errors: as `print_prices`."""
    found = _load_economy(Home(path)).prices
    if as_json:
        print(msgspec.json.encode(found.quotes).decode())
        return
    print_found(found, _describe_quotes, as_json=False)


def print_economy(path: Path, *, as_json: bool) -> None:
    """Print where every coin is and how far issuance is. Errors: as `print_prices`."""
    print_found(_load_economy(Home(path)), _describe_economy, as_json=as_json)


def print_reward(path: Path, name: str, epoch: int | None, *, as_json: bool) -> None:
    """Explain a node's reward with its numbers. Errors: as `print_prices`, and ConfigError without such a node or epoch."""
    query = "" if epoch is None else f"&epoch={epoch}"
    found = find_standing(
        Home(path),
        lambda client: client.get(f"/reward?node={name}{query}", RewardLine),
        lambda state: build_reward(state, name, epoch),
    )
    print_found(found, _describe_reward, as_json=as_json)


def vote_price(path: Path, name: str | None, amount: str, owner: str | None, *, dry_run: bool) -> None:
    """Vote with a node's key on the price of a unit of compute, or with another by the node's grant.

    Errors: ConfigError when the amount is no price, nothing runs here, or the ledger refuses; TransportError when the network
    does not answer.
    """
    try:
        price = require_price(parse_coins(amount))
    except Invalid as problem:
        raise ConfigError(f"{amount}: {problem.message}") from None
    told = f"{format_coins(price)} a unit of compute"
    _send_vote(Home(path), (name, owner), VotePrice(price), told, dry_run=dry_run)


def vote_quote(path: Path, name: str | None, order: tuple[str, str], owner: str | None, *, dry_run: bool) -> None:
    """Vote with a node's key on what a test asset counts for. `order`: asset and amount. Errors: as `vote_price`."""
    asset = read_asset(order[0])
    if asset not in QUOTED:
        raise ConfigError(f"{asset} is the dollar here: it needs no quote")
    try:
        quote = require_quote(parse_dollars(order[1]))
    except Invalid as problem:
        raise ConfigError(f"{order[1]}: {problem.message}") from None
    told = f"{format_dollars(quote)} for 1 {asset}"
    _send_vote(Home(path), (name, owner), VoteQuote(asset, quote), told, dry_run=dry_run)


def _send_vote(
    home: Home, actor: tuple[str | None, str | None], message: VotePrice | VoteQuote, told: str, *, dry_run: bool
) -> None:
    voter, key, account = load_actor(home, *actor)
    console = Console(soft_wrap=True)
    with open_control(home) as client:
        signed = sign_message(home, client, key, message, account)
        if dry_run:
            trial = client.post("/trial", signed, Trial)
            said = "would take" if trial.code == "ok" else f"would refuse ({trial.code}: {trial.message})"
            console.print(
                f"The ledger {said} this vote of {voter}; a vote moves no coins. Nothing was sent.", highlight=False
            )
            return
        height = send_signed(client, signed)
    console.print(f"{voter} votes for {told} (block {height}).", highlight=False)


def _load_economy(home: Home) -> EconomyStatus:
    params = home.load_genesis().params
    return find_standing(
        home,
        lambda client: client.get("/economy", EconomyStatus),
        lambda state: build_economy_status(state, get_params(state, params)),
    )


def _describe_prices(found: PriceStatus) -> Iterator[str]:
    yield f"epoch   {found.epoch}, which ends with height {found.epoch_ends} (now {found.height})"
    yield f"price   {format_coins(found.unit_price)} a unit of compute"
    yield f"next    {format_coins(found.next_price)}, if the epoch ended now"
    for vote in found.votes:
        price = format_coins(vote.price) if vote.price else "never voted: counts with the last price"
        yield f"vote    {vote.node} ({vote.weight_ppm / 10_000:.2f} % of weight): {price}"
    for model in found.models:
        source = "" if model.listed else ", not in the registry"
        units = f"{count_units(model.micro_units)} a token{source}; {model.hosts} host{'' if model.hosts == 1 else 's'}"
        yield f"model   {model.model}: {format_coins(model.token_price)} a token ({units})"


def _describe_quotes(found: PriceStatus) -> Iterator[str]:
    yield f"epoch   {found.epoch}, which ends with height {found.epoch_ends} (now {found.height})"
    for line in found.quotes:
        yield from _describe_quote(line)
    yield LABEL


def _describe_quote(line: QuoteStatus) -> Iterator[str]:
    if line.quote:
        yield f"{line.asset}    {format_dollars(line.quote)} since epoch {line.epoch}, recorded at height {line.height}"
        yield f"before  {format_dollars(line.former)}"
    else:
        yield f"{line.asset}    no quote: more than half of all weight must vote on one"
    yield f"next    {format_dollars(line.coming) if line.coming else 'none'}, if the epoch ended now"
    for vote in line.votes:
        quote = format_dollars(vote.quote) if vote.quote else "never voted: counts with the last quote"
        yield f"vote    {vote.node} ({vote.weight_ppm / 10_000:.2f} % of weight): {quote}"


def _describe_economy(found: EconomyStatus) -> Iterator[str]:
    yield f"height    {found.height}"
    for place in found.places:
        yield f"{place.name:<18}  {format_coins(place.nicoin):>32}  {place.share_ppm / 10_000:8.4f} %"
    yield f"{'all':<18}  {format_coins(sum(place.nicoin for place in found.places)):>32}"
    issued = found.issuance
    yield (
        f"issuance  batch {issued.batch} of {issued.batches}, subsidy {issued.subsidy_ppm / 10_000:.2f} %: "
        f"{format_coins(issued.issued)} issued, {format_coins(issued.left_in_batch)} left in the batch"
    )
    yield f"floor     {format_coins(issued.floor)} in this epoch"


def _describe_reward(found: RewardLine) -> Iterator[str]:
    yield f"{found.node}, epoch {found.epoch}: {found.tasks} answers and updates, {found.checks} checks"
    yield f"  held      {format_coins(found.due)} for finished work, after the training fund's share"
    yield f"  new coins {format_coins(found.share)}, its part by Race weight among those who worked"
    yield f"  part       {_percent(found.part_ppm)} of these: all of it unless it serves less than its weight is drawn for by any luck"
    yield f"  accuracy   {_percent(found.accuracy_ppm)}: {_describe_accuracy(found)}"
    yield f"  checking   {_percent(found.validation_ppm)}: judged {found.fulfilled} of {found.duties} drawn checks, one is forgiven"
    yield (
        f"  work       {_percent(found.work_ppm)}: answered {max(0, found.answered)} of {found.drawn} drawn tasks; forgiven are "
        f"{found.absence_ppm / 10_000:g} %, three deviations and one task"
    )
    missed = min(found.missed_blocks, found.epoch_blocks)
    yield f"  presence   {_percent(found.presence_ppm)}: missed {missed} of {found.epoch_blocks} blocks"
    yield f"  together   {_percent(found.share_ppm)} of what is held and of its part of the new coins"
    yield f"  released  {format_coins(found.released)} held pay and {format_coins(found.issued)} new coins, free over the next epochs"
    if found.besides:
        yield f"  besides   {format_coins(found.besides)} of bounties, jackpots and fees of reports, free at once"
    if found.forfeited:
        yield f"  lost      {format_coins(found.forfeited)}: what the criteria withheld, was refunded or no longer vests"
    yield f"  vesting   {format_coins(found.freed)} of earlier epochs came free; {format_coins(found.still_vesting)} are not free yet"


def _describe_accuracy(found: RewardLine) -> str:
    if found.is_guilty:
        return "a majority of all weight found a result false; everything held is lost"
    if found.is_fooled:
        return "it passed forced errors, so its checks are worth nothing"
    return "no result was found false"


def _percent(ppm: int) -> str:
    return f"{ppm / 10_000:5.1f} %"
