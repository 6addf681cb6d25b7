"""From what is asked to what is compared: prices, speeds, bytes and settings become the inputs of one comparison.

It refuses to compute a bill. Invariant: every input says where it comes from, and a setting given on the command line stands before all
others; what does not fit into a machine is said, never priced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, NamedTuple

from paceline.base.errors import ConfigError
from paceline.economy.issuance import BATCHES, FIRST_SUBSIDY, USUAL_REDUCTION_PPM
from paceline.lab.cost import Message, Work
from paceline.lab.cost_compare import Comparison, Input, compare
from paceline.lab.cost_inputs import (
    ANY_GPU,
    GIVEN,
    KNOWN,
    MFU,
    RULE,
    TOKENS,
    TRAINING,
    Figures,
    Range,
    Throughput,
    check_bounds,
    list_names,
    parse_range,
    parse_setting,
    read_range,
)
from paceline.lab.cost_prices import PriceRow, make_band, select_rows
from paceline.protocol.params import TINY, NetworkParams

CLOUD_KINDS = ("cloud", "specialist")
MARKET = "market"
EXAMPLE = "example row"
SPEED = "speed"
SET_SPEED = "--set {}=…"
SET_SPEEDS = " ".join(map(SET_SPEED.format, ("cloud_speed", "network_speed")))
SAME_SIZE = 0.05
"""Names of models round their parameters by so much: what is called 8B has 8.03."""
SEGMENT_STEPS = 10
"""Inner steps between two committed states, unless a run says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked, checked for its form only."""

    kind: str
    tokens: float
    gpu: str
    today: date
    params: float = 0.0
    adapter_params: float = 0.0
    cloud_gpu: str = ""
    """Empty: the same as `gpu`."""
    model: str = ""
    machines: int = 1
    gpus: int = 1
    method: str = "diloco"
    method_settings: Mapping[str, Any] = field(default_factory=dict)
    against: tuple[str, ...] = CLOUD_KINDS
    provider: str | None = None
    tier: str | None = None
    batch: int | None = None
    throughput: str | None = None
    settings: tuple[str, ...] = ()


class _Size(NamedTuple):
    """A model and how many parameters it has; empty and 0 where nobody says."""

    model: str
    params: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A comparison with what is worth saying beside it."""

    request: Request
    comparison: Comparison
    notes: tuple[str, ...]
    model: str = ""
    """Whose speed the figures have, where nobody named a model."""


def answer(request: Request, prices: Sequence[PriceRow], figures: Figures, *, example_prices: bool) -> Answer:
    """Compare. Errors: ConfigError naming what is missing, unknown or out of bounds."""
    _check_request(request)
    given = dict(parse_setting(text, request.kind) for text in request.settings)
    if len(given) != len(request.settings):
        raise ConfigError("--set: one input is given twice")
    messages, derived, notes = _count_messages(request)
    speeds, size = _find_speeds(request, figures, given)
    work = Work(
        kind=request.kind,
        params=size.params,
        adapter_params=request.adapter_params,
        machines=request.machines,
        gpus=request.gpus,
        messages=messages,
    )
    problem, more = _check_memory(work, request, figures)
    derived |= {"tokens": _make_given(request.tokens, "--tokens"), "subsidy": _make_subsidy(request.batch)}
    derived |= _make_price_ranges(request, prices, given, with_network=not problem, example=example_prices)
    inputs = _join_inputs(request, {**figures.inputs[request.kind], **derived, **given}, speeds)
    return Answer(request=request, comparison=compare(work, inputs, problem), notes=(*notes, *more), model=size.model)


def compute_audits(params: NetworkParams, inner_steps: int, segment_steps: int = SEGMENT_STEPS) -> float:
    """Compute that auditors replay for each trained one: every one of them a few segments of a round, at most all of it."""
    return params.auditors * min(1.0, params.audit_segments * segment_steps / inner_steps)


def compute_subsidy(batch: int) -> float:
    """Share that new coins pay in a batch, at the usual reduction."""
    return FIRST_SUBSIDY[0] / FIRST_SUBSIDY[1] * (1 - USUAL_REDUCTION_PPM / 1_000_000) ** (batch - 1)


def _check_request(request: Request) -> None:
    check_bounds((request.tokens,), "--tokens", KNOWN["tokens"])
    if request.kind in TRAINING and not request.params:
        raise ConfigError("--params: how many parameters the model has")
    if request.adapter_params > request.params:
        raise ConfigError(f"--adapter-params {request.adapter_params:g}: more than the model's {request.params:g}")
    if request.machines < 1 or request.gpus < 1:
        raise ConfigError("--machines, --gpus-per-machine: at least 1 each")
    if request.batch is not None and not 1 <= request.batch <= BATCHES:
        raise ConfigError(f"--batch {request.batch}: there are batches 1 to {BATCHES}")


def _count_messages(request: Request) -> tuple[tuple[Message, ...], dict[str, Range], list[str]]:
    if request.kind == TOKENS:
        return (), {}, []
    from paceline.lab.method_bytes import count_method  # noqa: PLC0415 - loads torch

    numbers = int(request.adapter_params or request.params)
    found = count_method(request.method, request.method_settings, request.machines, numbers)
    audits = compute_audits(TINY, found.inner_steps)
    rule = f"{TINY.auditors} auditors replay {TINY.audit_segments} stretches of {SEGMENT_STEPS} of {found.inner_steps} steps"
    notes = []
    if found.sent_per_step and found.all_reduce:
        less = found.all_reduce / found.sent_per_step
        notes.append(
            f"{found.name} sends {found.sent_per_step / 1e6:,.2f} MB a step and machine; an all-reduce of fp32 gradients "
            f"would send {found.all_reduce / 1e6:,.0f} MB, {less:,.1f} times that."
        )
    return (
        found.messages,
        {"network_audits": Range(low=audits, median=audits, high=audits, origin=RULE, source=rule)},
        notes,
    )


def _find_speeds(request: Request, figures: Figures, given: Mapping[str, Range]) -> tuple[dict[str, Range], _Size]:
    """Speeds by side, or one for both; and the model's parameters where a row of the figures tells them."""
    asked = _Size(request.model, request.params)
    cards = {"cloud_speed": request.cloud_gpu or request.gpu, "network_speed": request.gpu}
    if request.throughput is not None:
        if len(set(cards.values())) > 1:
            told = " and ".join(cards.values())
            raise ConfigError(f"--throughput is one speed, {told} are two cards: give {SET_SPEEDS}")
        return {SPEED: parse_range(request.throughput, "--throughput", KNOWN["cloud_speed"])}, asked
    cards = {side: card for side, card in cards.items() if side not in given}
    own = (
        "--throughput" if len(cards) == 2 and len(set(cards.values())) == 1 else " ".join(map(SET_SPEED.format, cards))
    )
    rows = {side: _find_row(request, figures, card, own) for side, card in cards.items()}
    size = _require_one_model(request, list(rows.values()), own) if request.kind == TOKENS else asked
    found = {side: _make_speed(request, figures, row, cards[side], own) for side, row in rows.items()}
    if len(found) == 2 and found["cloud_speed"] == found["network_speed"]:
        return {SPEED: found["cloud_speed"]}, size
    return found, size


def _require_one_model(request: Request, rows: Sequence[Throughput], own: str) -> _Size:
    """Whose speed the rows are. Errors: ConfigError when they are of two models, or of another one than is asked for."""
    models = {row.model: row for row in rows if row.model}
    if len(models) > 1:
        raise ConfigError(
            f"--model: the speeds are of {' and of '.join(models)}; give {SET_SPEEDS}, or one --gpu for both"
        )
    size = _Size(request.model, request.params)
    for name, row in models.items():
        known = row.params or request.params
        if request.params and abs(request.params - known) > SAME_SIZE * known:
            raise ConfigError(
                f"--params {request.params / 1e9:g}B: the speed is of {name}, which has {known / 1e9:g}B; give {own}"
            )
        size = _Size(name, request.params or known)
    return size


def _find_row(request: Request, figures: Figures, gpu: str, own: str) -> Throughput:
    rows = [row for row in figures.speeds if row.work == request.kind]
    for name in (gpu, ANY_GPU):
        fitting = [row for row in rows if row.gpu == name and request.model in ("", row.model)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            models = ", ".join(row.model or "without a model" for row in fitting)
            raise ConfigError(f"--model: {figures.source} has several rows of {request.kind} for {gpu}: {models}")
    known = ", ".join(f"{row.model or 'any model'} on {row.gpu}" for row in rows) or "none"
    raise ConfigError(
        f"throughput: {figures.source} has no speed of {request.kind} for {request.model or 'a model'} on {gpu}; it has "
        f"{known}. Give yours with {own}"
    )


def _make_speed(request: Request, figures: Figures, row: Throughput, gpu: str, own: str) -> Range:
    if row.tokens_per_second is not None:
        return read_range(row.tokens_per_second, "throughput", KNOWN["cloud_speed"])
    assert row.mfu is not None
    if gpu not in figures.gpus:
        raise ConfigError(f"gpu: {figures.source} does not say how fast {gpu} is; give {own}")
    share, card = read_range(row.mfu, "throughput", MFU), figures.gpus[gpu]
    flops = Work(kind=request.kind, params=request.params, adapter_params=request.adapter_params).flops_per_token
    factor = card.bf16_teraflops * 1e12 / flops
    low, median, high = (value * factor for value in (share.low, share.median, share.high))
    told = f"{share.low:.0%} to {share.high:.0%} of {card.bf16_teraflops:g} TFLOP/s ({share.source}; {card.source})"
    return Range(low=low, median=median, high=high, origin=share.origin, source=told)


def _check_memory(work: Work, request: Request, figures: Figures) -> tuple[str, list[str]]:
    """Why the network cannot hold the work, if it cannot. Errors: ConfigError when the cloud's GPUs cannot either."""
    network, cloud = figures.gpus.get(request.gpu), figures.gpus.get(request.cloud_gpu or request.gpu)
    if not work.params or network is None or cloud is None:
        return "", [
            "Whether the model fits into the memory of the machines was not checked: parameters or memory unknown."
        ]
    need = work.memory_bytes / 1e9
    if need > cloud.memory_gigabytes * work.all_gpus:
        least = -(-need // cloud.memory_gigabytes)
        raise ConfigError(f"--machines, --gpus-per-machine: {need:,.0f} GB of memory take at least {least:,.0f} GPUs")
    have = network.memory_gigabytes * work.gpus
    if need <= have:
        return "", []
    return (
        f"it takes {need:,.0f} GB of memory, a machine here has {have:,.0f}, and this network splits no model over machines",
        [],
    )


def _make_price_ranges(
    request: Request, prices: Sequence[PriceRow], given: Mapping[str, Range], *, with_network: bool, example: bool
) -> dict[str, Range]:
    found = {}
    origin = EXAMPLE if example else GIVEN
    if "cloud_price" not in given:
        rows = select_rows(
            prices, request.cloud_gpu or request.gpu, request.against, provider=request.provider, tier=request.tier
        )
        found["cloud_price"] = _make_price(rows, request.today, origin, f"{', '.join(request.against)}: ")
    if "network_price" not in given and with_network:
        rows = select_rows(prices, request.gpu, (MARKET,))
        found["network_price"] = _make_price(
            rows, request.today, origin, "what markets of other people's machines ask: "
        )
    return found


def _make_price(rows: Sequence[PriceRow], today: date, origin: str, about: str) -> Range:
    band = make_band(rows, today)
    return Range(low=band.low, median=band.median, high=band.high, origin=origin, source=about + band.describe())


def _make_subsidy(batch: int | None) -> Range:
    if batch is None:
        return _make_given(0.0, "no --batch: users pay all of it")
    share = compute_subsidy(batch)
    source = f"batch {batch}: a fee of 1 issues {share / (1 - share):.3g}, at most four floors an epoch"
    return Range(low=share, median=share, high=share, origin=RULE, source=source)


def _make_given(value: float, source: str) -> Range:
    return Range(low=value, median=value, high=value, origin=GIVEN, source=source)


def _join_inputs(request: Request, ranges: Mapping[str, Range], speeds: Mapping[str, Range]) -> list[Input]:
    keys = {SPEED: ("cloud_speed", "network_speed")}
    speeds = {name: found for name, found in speeds.items() if name not in ranges}
    if SPEED in speeds and ranges.keys() & set(keys[SPEED]):
        raise ConfigError(f"--throughput stands for both sides: give {SET_SPEEDS} alone instead of it")
    first = [Input(name=name, range=found, keys=keys.get(name, (name,))) for name, found in speeds.items()]
    return first + [
        Input(name=name, range=ranges[name], keys=(name,)) for name in list_names(request.kind) if name in ranges
    ]
