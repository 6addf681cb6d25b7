"""A comparison in figures and sentences: one line for each row, and what the lines show and do not show.

It refuses to know pages and charts. Invariant: every sentence follows from the figures; a single seed never carries a claim.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

import msgspec

from paceline.lab.training.compare import Estimate, Group, Pair, RowResult
from paceline.lab.training.record import compute_ddp_bytes
from paceline.lab.training.tuning import show_settings


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A row's figures; None where there is none, because a run diverged or a single seed has no spread."""

    group: str
    label: str
    method: str
    trainers: int
    steps: int
    tokens: int
    """Of all trainers, with the first seed."""
    seeds: int
    loss: float | None
    spread: float | None
    gap: float | None
    gap_low: float | None
    gap_high: float | None
    bytes_per_step: float
    times_less: float | None
    utilisation: float
    correlation: float | None
    virtual_seconds: float
    seconds_to_target: float | None
    bytes_by_kind: str
    settings: str
    """As trained with: the strategy's, and what was tuned."""


def make_lines(group: Group) -> list[Line]:
    """The figures of a group's rows."""
    return [_make_line(group, result) for result in group.rows]


def write_csv(groups: Sequence[Group]) -> str:
    """One row for each line of every group."""
    text = io.StringIO()
    writer = csv.DictWriter(text, Line.__struct_fields__, lineterminator="\n")
    writer.writeheader()
    writer.writerows(msgspec.structs.asdict(line) for group in groups for line in make_lines(group))
    return text.getvalue()


def list_sentences(group: Group) -> list[str]:
    """What the figures of a group show, row by row, and what they do not."""
    if group.baseline.row.measures == "utilisation":
        return [_describe_utilisation(result) for result in group.rows]
    diverged = [result.row.label for result in group.rows if result.loss is None]
    sentences = [f"{', '.join(diverged)}: at least one run ended without a finite loss."] if diverged else []
    sentences += [describe_pair(pair) for pair in group.pairs]
    sentences += _describe_targets(group)
    single = [result.row.label for result in group.rows if len(result.records) == 1]
    if single:
        sentences.append(
            f"{len(single)} of {len(group.rows)} rows have one seed: how far their loss would move with another is not "
            "known, and their order among close neighbours says nothing."
        )
    edges = [result.row.label for result in group.rows if result.choice.on_edge]
    if edges:
        sentences.append(
            f"For {len(edges)} rows a tuned value lies at the edge of its grid, so a wider grid may serve them better: "
            f"{', '.join(edges)}."
        )
    return sentences


def describe_pair(pair: Pair) -> str:
    """How a row compares with another, in one sentence."""
    if pair.gap is None:
        return f"{pair.label} against {pair.other}: no gap, because a run diverged or they have no seed in common."
    text = f"{pair.label} ends {show_gap(pair.gap)} against {pair.other}"
    if pair.gap.count == 1:
        text += " with one seed"
    else:
        verdict = "clear of zero" if pair.gap.is_clear else "zero is within the interval: no difference is shown"
        text += f" over {pair.gap.count} seeds ({verdict})"
    if math.isinf(pair.times_less):
        return f"{text}; it sends nothing."
    if pair.times_less == 0:
        return f"{text}; the other sends nothing."
    amount = (
        f"{show_factor(pair.times_less)} fewer" if pair.times_less >= 1 else f"{show_factor(1 / pair.times_less)} more"
    )
    return f"{text}; equal bytes." if amount == "1.00x fewer" else f"{text}; {amount} bytes."


def show_gap(gap: Estimate) -> str:
    """A relative gap with its interval."""
    if gap.low is None or gap.high is None:
        return f"{gap.mean:+.2%}"
    return f"{gap.mean:+.2%} ({gap.low:+.2%} to {gap.high:+.2%})"


def show_bytes(count: float) -> str:
    """A number of bytes in decimal units."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} B"


def show_factor(factor: float) -> str:
    """How many times fewer bytes; infinite for nothing at all."""
    if math.isinf(factor):
        return "sends nothing"
    return f"{factor:,.0f}x" if factor >= 100 else f"{factor:.1f}x" if factor >= 10 else f"{factor:.2f}x"


def show_line_factor(line: Line) -> str:
    """How many times fewer bytes than DDP in 32 bits."""
    return show_factor(math.inf if line.times_less is None else line.times_less)


def show_line_gap(line: Line) -> str:
    """A line's gap with its interval, empty where there is none."""
    if line.gap is None:
        return ""
    return show_gap(Estimate(mean=line.gap, low=line.gap_low, high=line.gap_high, count=line.seeds))


def _describe_utilisation(found: RowResult) -> str:
    share, published = found.compute_mean("utilisation") or 0.0, found.row.published
    text = f"{found.row.label}: {share:.1%} of the trainers' time goes into inner steps"
    if published is None:
        return f"{text}."
    return f"{text}; {published:.1%} were measured on real machines, so the virtual clock gives {share / published:.2f} times that."


def _describe_targets(group: Group) -> list[str]:
    if len({round(result.compute_mean("seconds") or 0.0, 6) for result in group.rows}) == 1:
        return []
    margin = group.baseline.row.target_margin
    target = f"{group.baseline.row.label}'s last loss" + (f" plus {margin:.0%}" if margin else "")
    times = {result.row.label: group.compute_seconds_to_target(result) for result in group.rows}
    reached = sorted((seconds, label) for label, seconds in times.items() if seconds is not None)
    never = [label for label, seconds in times.items() if seconds is None]
    told = "; ".join(f"{label} at {seconds:,.0f} s" for seconds, label in reached)
    missed = f" Not in every common seed: {', '.join(never)}." if never else ""
    return [f"In virtual time, {target} is reached first by: {told}.{missed}"] if reached else []


def _make_line(group: Group, found: RowResult) -> Line:
    record, config = found.records[0], found.row.config
    gap = group.get_gap(found)
    bytes_per_step = found.compute_mean("bytes_per_step") or 0.0
    tokens = max((point.tokens for point in record.points), default=0)
    ddp = compute_ddp_bytes(record.param_count, record.trainers)
    return Line(
        group=group.name,
        label=found.row.label,
        method=record.method,
        trainers=record.trainers,
        steps=config.run.steps,
        tokens=tokens,
        seeds=len(found.records),
        loss=found.loss,
        spread=found.spread,
        gap=gap.mean if gap else None,
        gap_low=gap.low if gap else None,
        gap_high=gap.high if gap else None,
        bytes_per_step=bytes_per_step,
        times_less=ddp / bytes_per_step if bytes_per_step else None,
        utilisation=found.compute_mean("utilisation") or 0.0,
        correlation=found.compute_mean("correlation"),
        virtual_seconds=found.compute_mean("seconds") or 0.0,
        seconds_to_target=group.compute_seconds_to_target(found),
        bytes_by_kind=", ".join(f"{kind} {amount}" for kind, amount in record.sent.items()),
        settings=_describe_settings(found),
    )


def _describe_settings(found: RowResult) -> str:
    """The strategy's settings as the file has them, with what was tuned in their place or after them."""
    given = {f"strategy.{key}": value for key, value in found.row.config.strategy.items() if key != "name"}
    return show_settings(given | found.choice.settings)
