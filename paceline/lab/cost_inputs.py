"""Every number that a comparison of costs rests on: a range with its origin, from a TOML file or from the command line.

It refuses to compute costs and to know prices. Invariant: each input is named in `KNOWN`, lies within the bounds given there, and says
whether it was measured, published, ruled, given or assumed; a file that names anything else is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from paceline.base.errors import ConfigError
from paceline.base.tables import convert_table
from paceline.lab.files import read_toml

TOKENS, TRAIN, FINE_TUNE = "tokens", "train", "fine-tune"
WORKS = (TOKENS, TRAIN, FINE_TUNE)
TRAINING = (TRAIN, FINE_TUNE)
ANY_GPU = "any"
GIVEN, RULE, ASSUMPTION = "given", "rule", "assumption"
Origin = Literal["measured", "published", "rule", "assumption"]
"""Of inputs in a file: measured here, measured by others, a rule of this network, or measured by nobody."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What an input is. `dearer`: a larger value makes the work cost more."""

    unit: str
    least: float
    most: float
    dearer: bool
    works: tuple[str, ...] = WORKS
    single: bool = False
    """One value, no range: between two units of billing the larger is not always the dearer."""
    derived: bool = False
    """It comes from prices, throughput or the method; no file holds it, but it may be set."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """An input, ordered by size. `origin` is one of a file's origins, `given`, or `example` for rows of a shipped table."""

    low: float
    median: float
    high: float
    origin: str
    source: str

    @property
    def is_single(self) -> bool:
        """True when there is one value only."""
        return self.low == self.high


_TINY = 1e-12
_HUGE = 1e18

KNOWN: Mapping[str, Kind] = {
    "tokens": Kind(unit="tokens", least=1, most=_HUGE, dearer=True, derived=True),
    "cloud_price": Kind(unit="$ a GPU-hour", least=_TINY, most=1e6, dearer=True, derived=True),
    "network_price": Kind(unit="$ a GPU-hour", least=_TINY, most=1e6, dearer=True, derived=True),
    "cloud_speed": Kind(unit="tokens/s a GPU", least=_TINY, most=1e12, dearer=False, derived=True),
    "network_speed": Kind(unit="tokens/s a GPU", least=_TINY, most=1e12, dearer=False, derived=True),
    "cloud_utilisation": Kind(unit="share", least=_TINY, most=1, dearer=False, works=(TOKENS,)),
    "cloud_setup_hours": Kind(unit="hours", least=0, most=1e4, dearer=True, works=TRAINING),
    "cloud_billing_seconds": Kind(unit="seconds", least=_TINY, most=1e7, dearer=True, works=TRAINING, single=True),
    "cloud_interruptions": Kind(unit="a GPU-hour", least=0, most=1, dearer=True, works=TRAINING),
    "cloud_lost_hours": Kind(unit="hours", least=0, most=1e3, dearer=True, works=TRAINING),
    "cloud_extra": Kind(unit="share", least=0, most=10, dearer=True),
    "network_utilisation": Kind(unit="share", least=_TINY, most=1, dearer=False, works=(TOKENS,)),
    "network_efficiency": Kind(unit="share", least=_TINY, most=2, dearer=False),
    "network_retries": Kind(unit="share", least=0, most=1, dearer=True, works=(TOKENS,)),
    "network_checking": Kind(unit="share", least=0, most=0.99, dearer=True, works=(TOKENS,)),
    "network_setup_hours": Kind(unit="hours", least=0, most=1e4, dearer=True, works=TRAINING),
    "network_link_mbits": Kind(unit="Mbit/s", least=_TINY, most=1e7, dearer=False, works=TRAINING),
    "network_link_share": Kind(unit="share", least=_TINY, most=1, dearer=False, works=TRAINING),
    "network_batch_tokens": Kind(unit="tokens", least=1, most=1e12, dearer=False, works=TRAINING),
    "network_extra_tokens": Kind(unit="share", least=0, most=10, dearer=True, works=TRAINING),
    "network_interruptions": Kind(unit="a machine-hour", least=0, most=10, dearer=True, works=TRAINING),
    "network_lost_hours": Kind(unit="hours", least=0, most=1e3, dearer=True, works=TRAINING),
    "network_audits": Kind(unit="of trained compute", least=0, most=100, dearer=True, works=TRAINING, derived=True),
    "network_race": Kind(unit="share", least=0, most=0.99, dearer=True),
    "network_fund": Kind(unit="share", least=0, most=0.99, dearer=True),
    "subsidy": Kind(unit="share", least=0, most=0.99, dearer=False, derived=True),
}

MFU = Kind(unit="share of the peak", least=_TINY, most=1, dearer=False, works=TRAINING)
"""Of training; it becomes a speed by the card's peak and the model's size."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A range as a file has it: `value`, or all of `low`, `median` and `high`."""

    origin: Origin
    source: Annotated[str, Meta(min_length=1)]
    value: float | None = None
    low: float | None = None
    median: float | None = None
    high: float | None = None


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model must fit into, and how fast it can be at most."""

    memory_gigabytes: Annotated[float, Meta(gt=0)]
    bf16_teraflops: Annotated[float, Meta(gt=0)]
    source: Annotated[str, Meta(min_length=1)]


class Throughput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast one GPU is at full load: tokens a second, or for training the share of its peak (MFU)."""

    work: Literal["tokens", "train", "fine-tune"]
    gpu: str
    model: str = ""
    params: Annotated[float, Meta(gt=0)] | None = None
    tokens_per_second: Entry | None = None
    mfu: Entry | None = None


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tables whose keys are free; what stands under a key is converted alone, so that an error names it."""

    all: dict[str, Any] = {}
    tokens: dict[str, Any] = {}
    train: dict[str, Any] = {}
    fine_tune: dict[str, Any] = msgspec.field(default={}, name="fine-tune")
    gpu: dict[str, Any] = {}
    throughput: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A file that was read and checked."""

    source: str
    inputs: Mapping[str, Mapping[str, Range]]
    """By kind of work."""
    gpus: Mapping[str, Gpu]
    speeds: tuple[Throughput, ...]


def load_figures(path: Path) -> Figures:
    """Read a file. Errors: ConfigError naming the key that is wrong or missing."""
    return parse_figures(read_toml(path), str(path))


def parse_figures(data: Any, source: str) -> Figures:
    """Figures from plain values. Errors: as `load_figures`."""
    file = convert_table(data, _File, source)
    tables = {TOKENS: [("all", file.all), (TOKENS, file.tokens)], TRAIN: [("all", file.all), (TRAIN, file.train)]}
    tables[FINE_TUNE] = [*tables[TRAIN], (FINE_TUNE, file.fine_tune)]
    inputs = {work: _read_work(work, parts, source) for work, parts in tables.items()}
    gpus = {name: convert_table(entry, Gpu, f"{source}, gpu.{name}") for name, entry in file.gpu.items()}
    speeds = tuple(_read_speed(row, f"{source}, throughput {place}") for place, row in enumerate(file.throughput, 1))
    return Figures(source=source, inputs=inputs, gpus=gpus, speeds=speeds)


def read_range(entry: Entry, where: str, kind: Kind) -> Range:
    """A range within the bounds of its kind. Errors: ConfigError naming it."""
    if entry.value is not None and (entry.low, entry.median, entry.high) == (None, None, None):
        low = median = high = entry.value
    elif entry.value is None and None not in (entry.low, entry.median, entry.high):
        low, median, high = (float(part or 0.0) for part in (entry.low, entry.median, entry.high))
    else:
        raise ConfigError(f"{where}: give `value`, or all of `low`, `median` and `high`")
    check_bounds((low, median, high), where, kind)
    return Range(low=low, median=median, high=high, origin=entry.origin, source=entry.source)


def parse_setting(text: str, work: str) -> tuple[str, Range]:
    """NAME=VALUE or NAME=LOW:MEDIAN:HIGH as typed. Errors: ConfigError naming what is wrong."""
    name, equals, value = text.partition("=")
    kind = KNOWN.get(name)
    if not equals or kind is None or work not in kind.works:
        raise ConfigError(
            f"--set {text}: NAME=VALUE or NAME=LOW:MEDIAN:HIGH, NAME one of {', '.join(list_names(work))}"
        )
    return name, parse_range(value, f"--set {name}", kind)


def parse_range(text: str, where: str, kind: Kind) -> Range:
    """VALUE or LOW:MEDIAN:HIGH as typed. Errors: ConfigError."""
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        raise ConfigError(f"{where}: {text!r} is no number") from None
    if len(parts) not in (1, 3):
        raise ConfigError(f"{where}: {text!r} must be VALUE or LOW:MEDIAN:HIGH")
    check_bounds(tuple(parts), where, kind)
    return Range(low=parts[0], median=parts[len(parts) // 2], high=parts[-1], origin=GIVEN, source=where)


def check_bounds(values: tuple[float, ...], where: str, kind: Kind) -> None:
    """Errors: ConfigError for values out of bounds or out of order."""
    for value in values:
        if not math.isfinite(value) or not kind.least <= value <= kind.most:
            least = "above 0" if kind.least == _TINY else f"at least {kind.least:g}"
            raise ConfigError(f"{where}: {value:g} must be {least} and at most {kind.most:g} ({kind.unit})")
    if list(values) != sorted(values):
        raise ConfigError(f"{where}: low, median and high must be in order")
    if kind.single and values[0] != values[-1]:
        raise ConfigError(f"{where}: takes one value, no range")


def list_names(work: str) -> list[str]:
    """Inputs that a kind of work has."""
    return [name for name, kind in KNOWN.items() if work in kind.works]


def _read_work(work: str, tables: list[tuple[str, dict[str, Any]]], source: str) -> dict[str, Range]:
    found: dict[str, Range] = {}
    for table, entries in tables:
        for name, entry in entries.items():
            where = f"{source}, {table}.{name}"
            kind = KNOWN.get(name)
            if kind is None or kind.derived or work not in kind.works:
                known = [known for known in list_names(work) if not KNOWN[known].derived]
                raise ConfigError(f"{where}: unknown; the inputs of {work} are {', '.join(known)}")
            found[name] = read_range(convert_table(entry, Entry, where), where, kind)
    missing = [name for name in list_names(work) if not KNOWN[name].derived and name not in found]
    if missing:
        raise ConfigError(f"{source}: {work} needs {missing[0]}, in the table `{work}` or `all`")
    return found


def _read_speed(data: Any, where: str) -> Throughput:
    row = convert_table(data, Throughput, where)
    if (row.tokens_per_second is None) == (row.mfu is None):
        raise ConfigError(f"{where}: give `tokens_per_second` or `mfu`")
    if row.tokens_per_second is not None:
        read_range(row.tokens_per_second, f"{where}.tokens_per_second", KNOWN["cloud_speed"])
    if row.mfu is not None:
        if row.work == TOKENS:
            raise ConfigError(f"{where}.mfu: answers are bound by memory, not by products; give tokens_per_second")
        read_range(row.mfu, f"{where}.mfu", MFU)
    return row
