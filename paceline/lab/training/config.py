"""The file of a simulated run: model, data, strategy, optimiser and fleet, read from TOML and checked before anything starts.

It refuses to know how a run is played and reported. Invariant: an unknown key, a value out of its bounds and a setting
without effect are refused by name; two configurations with one hash describe the same run.
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch
from msgspec import Meta

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_parts
from paceline.base.tables import convert_table
from paceline.lab.training.fleet import Fleet, Machine, make_fleet
from paceline.training.methods.local import LocalOptimizer, Schedule
from paceline.training.methods.presets.registry import build_strategy
from paceline.training.methods.strategy import Strategy

MAX_TRAINERS = 1000
EVALUATIONS = 20
"""Of a run that does not say how often it is evaluated."""
WARMUP_PART = 10
_RESULTS = b"1"
"""Part of every hash: raised when the same configuration gives other figures than before."""
_UNITS = {"k": 1e3, "M": 1e6, "G": 1e9}

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
BelowOne = Annotated[float, Meta(ge=0.0, lt=1.0)]
Positive = Annotated[float, Meta(gt=0.0, le=1e15)]
NotNegative = Annotated[float, Meta(ge=0.0, le=1e15)]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]


class ModelTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`name`: a preset, or the folder of a causal language model."""

    name: Text = "byte-gpt-0.5m"


class DataTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`source`: shakespeare, a file or a folder; `sequence_tokens` 0 takes the model's context."""

    source: Text = "shakespeare"
    column: Text | None = None
    tokenizer: Text = "bytes"
    vocabulary: Annotated[int, Meta(ge=2, le=1_000_000)] | None = None
    sequence_tokens: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    heterogeneity: Share = 0.0


class RunTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`steps` of each trainer. `evaluate_every` 0 evaluates 20 times; `timeout_seconds` 0 waits for everyone."""

    steps: Annotated[int, Meta(ge=1, le=100_000_000)]
    batch_size: Annotated[int, Meta(ge=1, le=100_000)] = 4
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 1
    evaluate_every: Annotated[int, Meta(ge=0, le=100_000_000)] = 0
    timeout_seconds: NotNegative = 0.0


class ScheduleTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The learning rate over the run."""

    kind: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    warmup_steps: Annotated[int, Meta(ge=0, le=100_000_000)] = 0
    final_share: Share = 0.1


class OptimizerTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What differs from the strategy's own inner optimiser; `clip` 0 does not clip."""

    name: Text | None = None
    rate: Positive | None = None
    clip: NotNegative | None = None
    settings: dict[str, Any] | None = None
    schedule: ScheduleTable | None = None


class EventTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that happens to one trainer."""

    kind: Literal["crash", "leave", "join"]
    trainer: Annotated[int, Meta(ge=0, lt=MAX_TRAINERS)]
    seconds: Positive


class FleetTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The machines. `trainers` counts those that join later too; `bandwidth` in bits a second, as a number or "200M"."""

    trainers: Annotated[int, Meta(ge=1, le=MAX_TRAINERS)] = 4
    step_seconds: Positive = 1.0
    speed_skew: Annotated[float, Meta(ge=1.0, le=1e6)] = 1.0
    bandwidth: float | str | None = None
    latency_seconds: NotNegative = 0.0
    jitter: BelowOne = 0.0
    lost_share: BelowOne = 0.0
    liars: Share = 0.0
    lie: str = ""
    lie_scale: Positive = 1.0
    events: Annotated[tuple[EventTable, ...], Meta(max_length=3 * MAX_TRAINERS)] = ()
    pretend_params: Annotated[int, Meta(ge=0, le=10**15)] = 0


class RunConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that determines a run, to the bit. `strategy` holds its name and whatever settings it has."""

    run: RunTable
    strategy: dict[str, Any]
    model: ModelTable = ModelTable()
    data: DataTable = DataTable()
    optimizer: OptimizerTable = OptimizerTable()
    fleet: FleetTable = FleetTable()

    @property
    def evaluate_every(self) -> int:
        """Inner steps between two evaluations."""
        return self.run.evaluate_every or max(1, self.run.steps // EVALUATIONS)


def read_tables(path: Path) -> dict[str, Any]:
    """The plain values of a file. Errors: ConfigError naming the file."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as problem:
        raise ConfigError(f"{path}: cannot be read ({problem.strerror}); examples/train/ has run files") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise ConfigError(f"{path}: is no TOML file ({problem})") from None


def parse_config(tables: object, source: str) -> RunConfig:
    """A configuration from plain values, its strategy and fleet tried out.

    Errors: ConfigError naming the source and the key that is wrong.
    """
    config = convert_table(tables, RunConfig, source)
    try:
        fleet, strategy = make_machines(config.fleet), make_strategy(config)
    except ConfigError as problem:
        raise ConfigError(f"{source}: {problem}") from None
    longest = max((rule.trigger.interval for rule in strategy.rules), default=1)
    if longest > config.run.steps:
        raise ConfigError(
            f"{source}: run.steps {config.run.steps}: below the strategy's interval of {longest} steps, so nothing would "
            "be exchanged; take more steps or a shorter interval"
        )
    _require_effect(config.fleet, fleet, source)
    return config


def hash_config(config: RunConfig) -> str:
    """Names a run in a cache: equal for files that differ in order, spelling of defaults and comments alone."""
    plain = msgspec.json.encode(config, order="deterministic")
    return hash_parts("training-config", _RESULTS, torch.__version__.encode(), plain).hex()[:32]


def make_strategy(config: RunConfig) -> Strategy:
    """The strategy with its inner optimiser: the strategy's own, changed as the file says.

    Errors: ConfigError naming the setting.
    """
    settings = dict(config.strategy)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"strategy.name {name!r}: name a strategy; `paceline train methods` lists them")
    return make_named_strategy(
        name, settings, trainers=config.fleet.trainers, steps=config.run.steps, optimizer=config.optimizer
    )


def make_named_strategy(
    name: str, settings: dict[str, Any], *, trainers: int, steps: int, optimizer: OptimizerTable
) -> Strategy:
    """A preset with settings, and with an inner optimiser that differs from its own as `optimizer` says.

    Papers warm up for as long as their runs are long: unless a schedule is given, it is a tenth of the run at most.
    """
    usual = build_strategy(name, settings, trainers=trainers, local=None)
    schedule = usual.local.schedule
    shorter = replace(schedule, warmup_steps=min(schedule.warmup_steps, steps // WARMUP_PART))
    changed = _change_optimizer(replace(usual.local, schedule=shorter), optimizer)
    return usual if changed == usual.local else build_strategy(name, settings, trainers=trainers, local=changed)


def make_machines(table: FleetTable) -> Fleet:
    """The fleet that a table describes. Errors: ConfigError naming the setting."""
    if bool(table.liars) != bool(table.lie):
        raise ConfigError("fleet.liars and fleet.lie: one without the other has no effect; set both or none")
    bits = float("inf") if table.bandwidth is None else parse_bandwidth(table.bandwidth)
    machine = Machine(
        step_seconds=table.step_seconds,
        jitter=table.jitter,
        up_bits=bits,
        down_bits=bits,
        latency_seconds=table.latency_seconds,
        lost_share=table.lost_share,
        lie=table.lie,
        lie_scale=table.lie_scale,
    )
    machines = list(make_fleet(table.trainers, machine, speed_skew=table.speed_skew, liars=table.liars).machines)
    seen = set()
    for event in table.events:
        if event.trainer >= table.trainers:
            raise ConfigError(f"fleet.events: trainer {event.trainer} of {table.trainers}; they count from 0")
        if (event.trainer, event.kind) in seen:
            raise ConfigError(f"fleet.events: trainer {event.trainer} has two events of kind {event.kind}")
        seen.add((event.trainer, event.kind))
        field = {"crash": "crashes_at", "leave": "leaves_at", "join": "joins_at"}[event.kind]
        changes: dict[str, Any] = {field: event.seconds}
        machines[event.trainer] = replace(machines[event.trainer], **changes)
    for trainer, found in enumerate(machines):
        if min(found.crashes_at, found.leaves_at) <= found.joins_at:
            raise ConfigError(f"fleet.events: trainer {trainer} goes before it has joined")
    return Fleet(machines=tuple(machines))


def parse_bandwidth(value: float | str) -> float:
    """Bits a second from a number, or from text such as "50M" (k, M and G are powers of a thousand).

    Errors: ConfigError for anything else.
    """
    try:
        if isinstance(value, str):
            unit = _UNITS.get(value[-1:], 1.0)
            bits = float(value[:-1] if value[-1:] in _UNITS else value) * unit
        else:
            bits = float(value)
    except ValueError:
        bits = 0.0
    if not 0 < bits <= 1e15:
        raise ConfigError(f'fleet.bandwidth {value!r}: give bits a second above 0, as a number or as text like "200M"')
    return bits


def _change_optimizer(usual: LocalOptimizer, table: OptimizerTable) -> LocalOptimizer:
    changes: dict[str, Any] = {}
    if table.name is not None and table.name != usual.name:
        # Another optimiser has other settings; those of the former would be refused or mean something else.
        changes |= {"name": table.name, "settings": {}}
    if table.rate is not None:
        changes["rate"] = table.rate
    if table.clip is not None:
        changes["clip"] = table.clip or None
    if table.settings is not None:
        changes["settings"] = table.settings
    if table.schedule is not None:
        changes["schedule"] = Schedule(**msgspec.structs.asdict(table.schedule))
    return replace(usual, **changes)


def _require_effect(table: FleetTable, fleet: Fleet, source: str) -> None:
    has_links = table.bandwidth is not None
    if table.pretend_params and not has_links:
        raise ConfigError(f"{source}: fleet.pretend_params: has no effect without fleet.bandwidth")
    if table.lie_scale != 1.0 and table.lie not in {"flip", "scale", "noise"}:
        raise ConfigError(f"{source}: fleet.lie_scale: has no effect on the lie {table.lie!r}")
    if table.liars and not any(machine.lie for machine in fleet.machines):
        raise ConfigError(f"{source}: fleet.liars {table.liars}: is no whole trainer of {table.trainers}; raise it")
