"""A finished comparison as cells, sentences, JSON and CSV.

It refuses to compute costs. Invariant: every sentence follows from the figures; who wins is never said without saying where that turns.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from paceline.economy.issuance import BATCHES
from paceline.lab.cost import Bill
from paceline.lab.cost_compare import (
    CLOUD,
    ESTIMATES,
    MEDIAN,
    NETWORK,
    Comparison,
    Estimates,
    Turn,
    compute_monthly_tokens,
    get_values,
)
from paceline.lab.cost_inputs import FINE_TUNE, TOKENS, Range
from paceline.lab.cost_request import Answer, compute_subsidy

SIDES = {CLOUD: "cloud", "alone": "market, rented and trusted by oneself", NETWORK: "this network"}
_RULE = (
    "Low, median and high take every input at its cheaper end, its median and its dearer end; prices are the 10th, 50th and 90th "
    "percentile of the rows."
)
_NAMES = {
    "cloud_price": "the cloud's price",
    "network_price": "the hosts' price",
    "cloud_utilisation": "one's own utilisation of a rented GPU",
    "network_utilisation": "the utilisation of the network's GPUs",
    "network_checking": "the share of compute that checks take",
    "network_audits": "compute that audits replay",
    "network_link_mbits": "the link of a machine",
    "subsidy": "the share that new coins pay",
    "tokens": "the number of tokens",
}


def list_results(answer: Answer) -> list[tuple[str, ...]]:
    """Rows of costs: each side in three estimates, then what a run takes."""
    comparison, kind = answer.comparison, answer.request.kind
    sides = list(_list_sides(comparison))
    rows = [
        (f"{SIDES[side]}, $", *_show_bills(bills, lambda bill: show_dollars(bill.dollars))) for side, bills in sides
    ]
    millions = answer.request.tokens / 1e6
    rows += [
        (
            f"{SIDES[side]}, $ per million tokens",
            *_show_bills(bills, lambda bill: show_dollars(bill.dollars / millions)),
        )
        for side, bills in sides
        if side != "alone" and millions != 1
    ]
    if kind == TOKENS:
        return rows
    work = comparison.work
    hours = answer.request.tokens * work.flops_per_token / 1e12 / 3600
    for side, bills in sides:
        if side == "alone":
            continue
        name = SIDES[side]
        rows.append(
            (f"{name}, $ per useful TFLOP-hour", *_show_bills(bills, lambda bill: f"{bill.dollars / hours:.6f}"))
        )
        rows.append((f"{name}, hours", *_show_bills(bills, lambda bill: f"{bill.hours:,.1f}")))
        rows.append((f"{name}, interruptions expected", *_show_bills(bills, lambda bill: f"{bill.restarts:,.2f}")))
        if side == NETWORK:
            rows.append((f"{name}, TB sent", *_show_bills(bills, lambda bill: f"{bill.bytes_sent / 1e12:,.3f}")))
    return rows


def list_parts(answer: Answer) -> list[tuple[str, ...]]:
    """What the medians are made of, in the order of the bills."""
    comparison = answer.comparison
    cloud = dict(comparison.cloud.median.parts)
    network = dict(comparison.network.median.parts) if comparison.network else {}
    names = [*network, *(name for name in cloud if name not in network)]
    rows = [(name, *(show_dollars(side[name]) if name in side else "" for side in (cloud, network))) for name in names]
    total = comparison.network.median.dollars if comparison.network else None
    last = ("together", show_dollars(comparison.cloud.median.dollars), "" if total is None else show_dollars(total))
    return [*rows, last]


def list_input_lines(answer: Answer) -> list[str]:
    """Every input, low, median and high, with where it comes from."""
    return [
        f"- {entry.name} = {_show_range(entry.range)} {entry.unit}, {entry.range.origin}: {entry.range.source}"
        for entry in answer.comparison.inputs
    ]


def list_swings(answer: Answer) -> list[tuple[str, ...]]:
    """Which inputs move the ratio of both costs most, widest first."""
    return [(swing.name, f"{swing.at_low:.2f}", f"{swing.at_high:.2f}") for swing in answer.comparison.swings]


def list_sentences(answer: Answer) -> list[str]:
    """What is compared, who wins, where that turns, and what to doubt."""
    comparison = answer.comparison
    told = [_describe_work(answer), _describe_winner(comparison)]
    if comparison.turns:
        told.append("Each alone, all else at its median:")
    told += [_describe_turn(turn, answer) for turn in comparison.turns]
    assumed = [entry.name for entry in comparison.inputs if entry.range.origin == "assumption"]
    if assumed:
        told.append(f"Measured by nobody: {', '.join(assumed)}.")
    if answer.request.batch is not None and comparison.network is not None:
        told.append(
            "New coins pay that share only while hosts value a coin at its price and the epoch's limit is not reached."
        )
    return [*told, *answer.notes, _RULE]


def make_json(answer: Answer) -> dict[str, Any]:
    """Everything, for programs; None stands for an infinite cost and for a turn that is nowhere."""
    comparison = answer.comparison
    return {
        "work": {**_plain(asdict(comparison.work)), "tokens": answer.request.tokens},
        "on": answer.request.today.isoformat(),
        "costs": {
            side: {name: _make_bill(getattr(bills, name)) for name in ESTIMATES}
            for side, bills in _list_sides(comparison)
        },
        "winner": comparison.winner,
        "in_every_estimate": comparison.is_clear,
        "problem": comparison.problem,
        "turns": [_plain(asdict(turn)) for turn in comparison.turns],
        "swings": [_plain(asdict(swing)) for swing in comparison.swings],
        "inputs": [{"name": entry.name, "unit": entry.unit, **asdict(entry.range)} for entry in comparison.inputs],
        "sentences": list_sentences(answer),
    }


def write_csv(answer: Answer) -> str:
    """One row a result and one an input."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("what", "name", "low", "median", "high", "unit", "origin", "source"))
    for side, bills in _list_sides(answer.comparison):
        rows.writerow(("cost", side, *(getattr(bills, name).dollars for name in ESTIMATES), "$", "", ""))
    for entry in answer.comparison.inputs:
        found = entry.range
        cells = (found.low, found.median, found.high, entry.unit, found.origin, found.source)
        rows.writerow(("input", entry.name, *cells))
    return text.getvalue()


def show_dollars(amount: float) -> str:
    """Dollars with the digits that count."""
    if math.isinf(amount):
        return "never ends"
    digits = 0 if abs(amount) >= 1000 else 2 if abs(amount) >= 1 else 4
    return f"{amount:,.{digits}f}"


def show_number(value: float) -> str:
    """A number with three or four digits that count."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if 1 <= value / size < 1000:
            return f"{value / size:.4g}{unit}"
    return f"{value:.3g}"


def _list_sides(comparison: Comparison) -> Iterator[tuple[str, Estimates]]:
    yield CLOUD, comparison.cloud
    if comparison.alone is not None:
        yield "alone", comparison.alone
    if comparison.network is not None:
        yield NETWORK, comparison.network


def _show_bills(bills: Estimates, show: Any) -> tuple[str, ...]:
    return tuple(show(getattr(bills, name)) for name in ESTIMATES)


def _show_range(found: Range) -> str:
    values = (found.median,) if found.is_single else (found.low, found.median, found.high)
    return ":".join(show_number(value) for value in values)


def _describe_work(answer: Answer) -> str:
    request, work = answer.request, answer.comparison.work
    amount = f"{show_number(request.tokens)} tokens"
    cards = (
        request.gpu
        if request.cloud_gpu in ("", request.gpu)
        else f"{request.gpu} here, {request.cloud_gpu} in the cloud"
    )
    if request.kind == TOKENS:
        model = request.model or answer.model
        return f"{amount} of answers{' of ' + model if model else ''}, {cards}, on {request.today}"
    job = "Fine-tuning" if request.kind == FINE_TUNE else "Training"
    adapter = f" by an adapter of {show_number(work.adapter_params)}" if work.adapter_params else ""
    size = f"{show_number(work.params)} parameters{adapter} on {amount}"
    return f"{job} {size}: {work.machines} machines of {work.gpus} {cards}, {request.method}, on {request.today}"


def _describe_winner(comparison: Comparison) -> str:
    if comparison.network is None:
        return f"The cloud wins: this network cannot do it, because {comparison.problem}."
    cloud, network = comparison.cloud.median.dollars, comparison.network.median.dollars
    name = "This network" if comparison.winner == NETWORK else "The cloud"
    if comparison.is_clear:
        return f"{name} wins in every estimate; by the medians {_describe_ratio(cloud, network, comparison.winner)}."
    if cloud == network:
        return "By the medians both cost the same."
    return f"{name} wins by the medians: {_describe_ratio(cloud, network, comparison.winner)}. The ranges overlap, so the inputs decide."


def _describe_ratio(cloud: float, network: float, winner: str) -> str:
    less, more = (network, cloud) if winner == NETWORK else (cloud, network)
    if math.isinf(more):
        return "the other side's run never ends"
    return (
        f"{1 - less / more:.0%} cheaper ({show_dollars(less)} against {show_dollars(more)} $)"
        if more
        else "both cost nothing"
    )


def _describe_turn(turn: Turn, answer: Answer) -> str:
    name = _NAMES[turn.name]
    above, below = ("this network", "the cloud") if turn.above == NETWORK else ("the cloud", "this network")
    if turn.at is None:
        return f"- {name}: whatever it is, {above} wins."
    unit = "" if turn.unit == "share" else f" {turn.unit}"
    more = ""
    if turn.name == "cloud_utilisation":
        tokens = compute_monthly_tokens(get_values(answer.comparison.inputs, MEDIAN), turn.at)
        more = f" That is {show_number(tokens)} tokens a month for each rented GPU."
    if turn.name == "subsidy":
        more = _describe_batches(turn.at)
    turned = f"the answer turns at {show_number(turn.at)}{unit} (here {show_number(turn.here)})"
    return f"- {name}: {turned}; above it {above} wins, below it {below}.{more}"


def _describe_batches(share: float) -> str:
    batches = [number for number in range(1, BATCHES + 1) if compute_subsidy(number) > share]
    return f" New coins pay so much in batches 1 to {batches[-1]}." if batches else " No batch pays so much."


def _make_bill(bill: Bill) -> dict[str, Any]:
    parts = {name: _plain(amount) for name, amount in bill.parts}
    run = {"hours": bill.hours, "restarts": bill.restarts, "bytes_sent": bill.bytes_sent}
    return {"dollars": _plain(bill.dollars), **{name: _plain(amount) for name, amount in run.items()}, "parts": parts}


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
