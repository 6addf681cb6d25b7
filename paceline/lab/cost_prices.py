"""A dated table of rented GPUs: rows from a CSV file, and the band of prices that a selection of rows spans.

It refuses to fetch a price, to average away rows that contradict each other, and to guess what a row leaves out. Invariant: every
price comes from one row that names its source and the day it was seen.
Units: US dollars; `dollars_per_hour` is for all GPUs of a row, `price` for one.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from paceline.base.errors import ConfigError
from paceline.lab.files import read_text

REQUIRED = ("provider", "kind", "gpu", "gpus", "tier", "dollars_per_hour", "source", "seen")
COLUMNS = (*REQUIRED, "note")
KINDS = ("cloud", "specialist", "market")
"""Large clouds; firms that rent GPUs; markets of other people's machines."""
TIERS = ("on-demand", "spot", "reserved")
MAX_GPUS = 1024
MAX_DOLLARS = 1_000_000.0
STALE_DAYS = 90
QUANTILES = (0.1, 0.5, 0.9)
"""Which prices of the rows stand for low, median and high; between two rows in proportion."""
_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?")


@dataclass(frozen=True, kw_only=True)
class PriceRow:
    """One row. `seen` may be a year, a month or a day; the first day that it can mean counts."""

    line: int
    provider: str
    kind: str
    gpu: str
    gpus: int
    tier: str
    dollars_per_hour: float
    source: str
    seen: str
    note: str = ""

    @property
    def price(self) -> float:
        """Dollars for one GPU and hour."""
        return self.dollars_per_hour / self.gpus

    def is_stale(self, today: date) -> bool:
        """True when it may be older than 90 days."""
        return (today - read_day(self.seen)).days > STALE_DAYS


@dataclass(frozen=True, kw_only=True)
class Band:
    """Prices for one GPU and hour that rows span, and how old these are."""

    low: float
    median: float
    high: float
    rows: int
    stale: int

    def describe(self) -> str:
        """Where it comes from, in words."""
        told = f"{self.rows} row{'s' if self.rows > 1 else ''}, {self.stale} older than {STALE_DAYS} days"
        return f"{told}; 10th, 50th and 90th percentile" if self.rows > 1 else told


def load_prices(path: Path) -> tuple[PriceRow, ...]:
    """Read a table. Errors: ConfigError naming the line and the field that is wrong."""
    return parse_prices(read_text(path), str(path))


def parse_prices(text: str, source: str) -> tuple[PriceRow, ...]:
    """Rows of a table; a line is a record, and lines that begin with # are skipped. Errors: as `load_prices`."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line and not line.startswith("#")]
    if not lines:
        raise ConfigError(f"{source}: it has no header; the columns are {', '.join(COLUMNS)}")
    header = _split(lines[0][1], f"{source} line {lines[0][0]}")
    if header not in (list(REQUIRED), list(COLUMNS)):
        wrong = [name for name in header if name not in COLUMNS] or [name for name in REQUIRED if name not in header]
        named = f"{wrong[0]!r}: " if wrong else ""
        raise ConfigError(f"{source} line {lines[0][0]}, {named}the columns must be {', '.join(COLUMNS)}")
    rows: list[PriceRow] = []
    known: dict[tuple[object, ...], int] = {}
    for number, line in lines[1:]:
        where = f"{source} line {number}"
        cells = _split(line, where)
        if len(cells) != len(header):
            raise ConfigError(f"{where}: {len(cells)} fields, the header has {len(header)}")
        row = _read_row(dict(zip(header, cells, strict=True)), number, where)
        first = known.setdefault(tuple(cells), number)
        if first != number:
            raise ConfigError(f"{where}: the same row as line {first}")
        rows.append(row)
    if not rows:
        raise ConfigError(f"{source}: it has a header and no rows")
    return tuple(rows)


def select_rows(
    rows: Sequence[PriceRow], gpu: str, kinds: Sequence[str], *, provider: str | None = None, tier: str | None = None
) -> tuple[PriceRow, ...]:
    """Rows for a GPU. Errors: ConfigError that says what there is, when none fits."""
    of_gpu = [row for row in rows if row.gpu == gpu]
    if not of_gpu:
        raise ConfigError(f"prices: no row for the GPU {gpu!r}; there are rows for {_join({row.gpu for row in rows})}")
    found = [
        row for row in of_gpu if row.kind in kinds and provider in (None, row.provider) and tier in (None, row.tier)
    ]
    if not found:
        wanted = ", ".join([*kinds, *(word for word in (provider, tier) if word)])
        there = {f"{row.kind}/{row.provider}/{row.tier}" for row in of_gpu}
        raise ConfigError(f"prices: no row for {gpu} fits {wanted}; there are {_join(there)}")
    return tuple(found)


def make_band(rows: Sequence[PriceRow], today: date) -> Band:
    """The band of at least one row. Errors: ConfigError for a row that was seen after today."""
    for row in rows:
        if read_day(row.seen) > today:
            raise ConfigError(
                f"--on {today}: the price in line {row.line} was seen later, {row.seen}; name a later day"
            )
    prices = sorted(row.price for row in rows)
    low, median, high = (compute_quantile(prices, share) for share in QUANTILES)
    return Band(low=low, median=median, high=high, rows=len(rows), stale=sum(row.is_stale(today) for row in rows))


def compute_quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which a share of ordered values lies, in proportion between two neighbours."""
    place = share * (len(ordered) - 1)
    before = math.floor(place)
    after = min(before + 1, len(ordered) - 1)
    return ordered[before] + (ordered[after] - ordered[before]) * (place - before)


def read_day(text: str) -> date:
    """The first day that a year, a month or a day means. Errors: ValueError."""
    match = _DATE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no year, year-month or year-month-day")
    year, month, day = (int(part) if part else 1 for part in match.groups())
    return date(year, month, day)


def _split(line: str, where: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], strict=True))]
    except csv.Error as problem:
        raise ConfigError(f"{where}: {problem}") from None


def _read_row(cells: dict[str, str], number: int, where: str) -> PriceRow:
    for name in REQUIRED:
        if not cells[name]:
            raise ConfigError(f"{where}, {name}: it is empty")
    for name, choices in (("kind", KINDS), ("tier", TIERS)):
        if cells[name] not in choices:
            raise ConfigError(f"{where}, {name}: {cells[name]!r} is none of {', '.join(choices)}")
    try:
        read_day(cells["seen"])
    except ValueError as problem:
        raise ConfigError(f"{where}, seen: {problem}") from None
    return PriceRow(
        line=number,
        provider=cells["provider"],
        kind=cells["kind"],
        gpu=cells["gpu"],
        gpus=int(_read_number(cells, "gpus", MAX_GPUS, where)),
        tier=cells["tier"],
        dollars_per_hour=_read_number(cells, "dollars_per_hour", MAX_DOLLARS, where),
        source=cells["source"],
        seen=cells["seen"],
        note=cells.get("note", ""),
    )


def _read_number(cells: dict[str, str], name: str, most: float, where: str) -> float:
    text = cells[name]
    whole = name == "gpus"
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        raise ConfigError(f"{where}, {name}: {text!r} is no {'whole ' if whole else ''}number") from None
    if not 0 < value <= most:
        raise ConfigError(f"{where}, {name}: {text} must be above 0 and at most {most:,.0f}")
    return value


def _join(names: set[str]) -> str:
    return ", ".join(sorted(names))
