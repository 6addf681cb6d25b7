"""The economy for people: every coin by its place, issuance, prices with their votes, and how a node's reward came about.

Read from committed state, for the numbers that hold in the next block. It changes nothing and judges nothing.
"""

from __future__ import annotations

import msgspec

from paceline.base.errors import ConfigError
from paceline.base.integers import PPM, mul_div_floor
from paceline.economy.issuance import BATCHES
from paceline.economy.prices import compute_next_price
from paceline.economy.supply import TOTAL_SUPPLY, compute_floor_issuance
from paceline.ledger import clock, issuance, model_registry, nodes, prices, settlement, vesting
from paceline.ledger.accounts import ACCOUNTS, POOLS, RESERVE, get_account
from paceline.ledger.settlement import KEPT_EPOCHS, Line, get_settlement
from paceline.ledger.state import State
from paceline.node.chains.quotes import QuoteStatus, build_quotes
from paceline.protocol.params import NetworkParams


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a part of all coins is. Units: nicoin, and millionths of the supply."""

    name: str
    nicoin: int
    share_ppm: int


class IssuanceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where the twelve batches stand. Units: nicoin; `floor` of this epoch, `subsidy_ppm` for display."""

    batch: int
    batches: int
    subsidy_ppm: int
    issued: int
    left_in_batch: int
    floor: int


class PriceVote(msgspec.Struct, frozen=True, kw_only=True):
    """One node with weight: its vote, 0 when it never gave one and counts with the last price."""

    node: str
    weight_ppm: int
    price: int


class ModelPrice(msgspec.Struct, frozen=True, kw_only=True):
    """What a token of a model costs in sessions opened now. Units: millionths of a unit of compute; nicoin."""

    model: str
    micro_units: int
    token_price: int
    listed: bool
    """The registry has an entry of it."""
    hosts: int


class PriceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The price of a unit of compute in nicoin, and what it would be if the epoch ended now."""

    height: int
    epoch: int
    epoch_ends: int
    unit_price: int
    next_price: int
    votes: list[PriceVote]
    models: list[ModelPrice]
    quotes: list[QuoteStatus] = []


class RewardLine(msgspec.Struct, frozen=True, kw_only=True):
    """One node's reward of one epoch, as its settlement computed it. Units: nicoin, counts, millionths."""

    node: str
    epoch: int
    tasks: int
    checks: int
    due: int
    """Held for finished work, after the fund's share."""
    share: int
    """Its part of the new coins, by race weight."""
    part_ppm: int
    """How much of it who did all it was drawn for gets, by how much it serves."""
    is_guilty: bool
    is_fooled: bool
    duties: int
    fulfilled: int
    drawn: int
    answered: int
    absence_ppm: int
    missed_blocks: int
    epoch_blocks: int
    accuracy_ppm: int
    validation_ppm: int
    work_ppm: int
    presence_ppm: int
    share_ppm: int
    """The four criteria together."""
    released: int
    issued: int
    besides: int
    """Bounties, jackpots and fees of reports."""
    forfeited: int
    freed: int
    """What came free of earlier epochs."""
    still_vesting: int
    """What is not free at this height."""


class EconomyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All of it at one height."""

    height: int
    supply: int
    places: list[Place]
    issuance: IssuanceStatus
    prices: PriceStatus


def build_economy_status(state: State, params: NetworkParams) -> EconomyStatus:
    """Coins by place, issuance and prices."""
    return EconomyStatus(
        height=state.height,
        supply=TOTAL_SUPPLY,
        places=_list_places(state),
        issuance=_describe_issuance(state, params),
        prices=build_price_status(state, params),
    )


def build_price_status(state: State, params: NetworkParams) -> PriceStatus:
    """Price, votes and what each model's token costs."""
    weights, votes, last = nodes.get_weights(state), prices.get_votes(state), prices.get_unit_price(state, params)
    total = max(1, sum(weights.values()))
    everybody = dict(nodes.NODES.items(state))
    epoch = clock.compute_epoch(params, max(1, state.height))
    return PriceStatus(
        height=state.height,
        epoch=epoch,
        epoch_ends=clock.compute_last_height(params, epoch),
        unit_price=last,
        next_price=compute_next_price(weights, votes, last),
        votes=[
            PriceVote(
                node=everybody[address].name,
                weight_ppm=mul_div_floor(weight, PPM, total),
                price=votes.get(address, 0),
            )
            for address, weight in weights.items()
        ],
        models=_list_models(state, params),
        quotes=build_quotes(state),
    )


def build_reward(state: State, name: str, epoch: int | None) -> RewardLine:
    """How a node's reward of a settled epoch came about, of the last one without a number.

    Errors: ConfigError when there is no such node, or no settlement of it.
    """
    address = nodes.find_address(state, name)
    if address is None:
        known = ", ".join(node.name for _, node in nodes.NODES.items(state)) or "none"
        raise ConfigError(f"{name}: no node of this name; the network has {known}")
    settled = [int.from_bytes(key, "big") for key, _ in settlement.SETTLED.items(state)]
    if epoch is None and not settled:
        raise ConfigError("no epoch is settled yet: the first settlement comes with the last height of the epoch")
    wanted = settled[-1] if epoch is None else epoch
    lines = get_settlement(state, wanted)
    if lines is None:
        raise ConfigError(f"epoch {wanted} is not kept: the ledger keeps {KEPT_EPOCHS}, now {settled or 'none'}")
    for line in lines:
        if line.address == address:
            return explain_line(state, line, wanted)
    raise ConfigError(f"{name} was no node when epoch {wanted} was settled")


def explain_line(state: State, line: Line, epoch: int) -> RewardLine:
    """How the reward of one line of a settlement came about."""
    reward, conduct, criteria = line.reward, line.reward.conduct, line.reward.criteria
    released = mul_div_floor(reward.due, criteria.share_ppm, PPM)
    issued = reward.compute_issued(reward.share)
    return RewardLine(
        node=line.name,
        epoch=epoch,
        tasks=line.tasks,
        checks=line.checks,
        due=reward.due,
        share=reward.share,
        part_ppm=reward.part_ppm,
        **msgspec.structs.asdict(conduct),
        **msgspec.structs.asdict(criteria),
        released=released,
        issued=issued,
        besides=line.earned - released - issued,
        forfeited=line.forfeited,
        freed=reward.freed,
        still_vesting=vesting.get_vesting(state, line.address),
    )


def _list_places(state: State) -> list[Place]:
    by_address = {address: name for name, address in POOLS.items()}
    amounts = dict.fromkeys(POOLS, 0) | {"accounts of nodes": 0, "other accounts": 0}
    everybody = dict(nodes.NODES.items(state))
    for address, account in ACCOUNTS.scan(state):
        own = "accounts of nodes" if address in everybody else "other accounts"
        amounts[by_address.get(address, own)] += account.balance
    return [
        Place(name=name, nicoin=amount, share_ppm=mul_div_floor(amount, PPM, TOTAL_SUPPLY))
        for name, amount in amounts.items()
    ]


def _describe_issuance(state: State, params: NetworkParams) -> IssuanceStatus:
    issued = issuance.get_issued(state)
    epoch = clock.compute_epoch(params, max(1, state.height))
    reserve = get_account(state, RESERVE).balance
    first = clock.compute_first_height(params, epoch)
    return IssuanceStatus(
        batch=min(issued.batch, BATCHES),
        batches=BATCHES,
        subsidy_ppm=mul_div_floor(PPM, issued.subsidy[0], issued.subsidy[1]),
        issued=issued.total,
        left_in_batch=issued.left_in_batch,
        floor=compute_floor_issuance(first, params.epoch_blocks, params.blocks_per_day, reserve),
    )


def _list_models(state: State, params: NetworkParams) -> list[ModelPrice]:
    entries = {entry.name for entry in model_registry.list_entries(state)}
    served = [name for _, node in nodes.NODES.items(state) for name in node.serves]
    return [
        ModelPrice(
            model=name,
            micro_units=model_registry.get_micro_units(state, name),
            token_price=prices.get_token_price(state, params, name),
            listed=name in entries,
            hosts=served.count(name),
        )
        for name in sorted({*entries, *served})
    ]
