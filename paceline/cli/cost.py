"""`paceline cost`: cloud against this network. Parses and prints, computes nothing."""

from __future__ import annotations

import json as encoder
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from paceline.base.errors import ConfigError
from paceline.cli.command import run_command
from paceline.cli.files import require_target, write_target

if TYPE_CHECKING:
    from paceline.lab.cost_request import Answer

cost_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="What work costs on a cloud and on this network, and who wins."
)
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "econ"
UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
SHOWN_SWINGS = 5

GpuOption = Annotated[str, typer.Option(help="GPU of the network's machines, as the price table names it.")]
CloudGpuOption = Annotated[str, typer.Option(help="GPU of the cloud. Default: the same.")]
AgainstOption = Annotated[
    str, typer.Option(help="Rows that count as the cloud: cloud, specialist, market; commas between.")
]
ProviderOption = Annotated[str | None, typer.Option(help="Only this provider's rows.")]
TierOption = Annotated[str | None, typer.Option(help="Only these rows: on-demand, spot or reserved.")]
BatchOption = Annotated[int | None, typer.Option(help="Batch of issuance, 1 to 12, whose new coins pay a part.")]
ThroughputOption = Annotated[
    str | None, typer.Option(help="Tokens a second of one GPU at full load; or LOW:MEDIAN:HIGH.")
]
PricesOption = Annotated[Path | None, typer.Option(help="Price table. Default: examples/econ/prices.csv")]
FiguresOption = Annotated[Path | None, typer.Option(help="All other inputs. Default: examples/econ/cost.toml")]
OnOption = Annotated[str | None, typer.Option("--on", help="Day of the comparison, year-month-day. Default: today.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE or NAME=LOW:MEDIAN:HIGH; repeatable.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
CsvOption = Annotated[Path | None, typer.Option("--csv", help="Write results and inputs, one a row.")]
ParamsOption = Annotated[str, typer.Option(help="Parameters of the model, such as 1.1B.")]
MachinesOption = Annotated[int, typer.Option(help="Machines that train together.")]
GpusOption = Annotated[int, typer.Option("--gpus-per-machine", help="GPUs of one machine.")]
MethodOption = Annotated[str, typer.Option(help="How they train; `paceline train methods` lists them.")]
MethodSetOption = Annotated[
    list[str] | None, typer.Option("--method-set", help="NAME=VALUE of the method; repeatable.")
]


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Options that all kinds of work have."""

    gpu: str
    cloud_gpu: str
    against: str
    provider: str | None
    tier: str | None
    batch: int | None
    throughput: str | None
    prices: Path | None
    figures: Path | None
    on: str | None
    settings: tuple[str, ...]
    json: bool
    csv: Path | None


@cost_app.command()
def tokens(
    *,
    gpu: GpuOption = "H100",
    amount: Annotated[str, typer.Option("--tokens", help="Tokens to generate.")] = "1M",
    model: Annotated[str, typer.Option(help="Model, as the figures name it.")] = "",
    params: ParamsOption = "0",
    gpus: GpusOption = 1,
    cloud_gpu: CloudGpuOption = "",
    against: AgainstOption = "cloud,specialist",
    provider: ProviderOption = None,
    tier: TierOption = None,
    batch: BatchOption = None,
    throughput: ThroughputOption = None,
    prices: PricesOption = None,
    figures: FiguresOption = None,
    on: OnOption = None,
    settings: SetOption = None,
    json: JsonOption = False,
    csv: CsvOption = None,
) -> None:
    """A million tokens of answers, or any number of them."""
    shared = Shared(
        gpu=gpu,
        cloud_gpu=cloud_gpu,
        against=against,
        provider=provider,
        tier=tier,
        batch=batch,
        throughput=throughput,
        prices=prices,
        figures=figures,
        on=on,
        settings=tuple(settings or ()),
        json=json,
        csv=csv,
    )
    run_command(lambda: _run(shared, "tokens", amount, model=model, params=read_count(params, "--params"), gpus=gpus))


@cost_app.command()
def train(
    *,
    params: ParamsOption,
    amount: Annotated[str, typer.Option("--tokens", help="Tokens to train on.")],
    gpu: GpuOption = "H100",
    machines: MachinesOption = 8,
    gpus: GpusOption = 1,
    method: MethodOption = "diloco",
    method_set: MethodSetOption = None,
    cloud_gpu: CloudGpuOption = "",
    against: AgainstOption = "cloud,specialist",
    provider: ProviderOption = None,
    tier: TierOption = None,
    batch: BatchOption = None,
    throughput: ThroughputOption = None,
    prices: PricesOption = None,
    figures: FiguresOption = None,
    on: OnOption = None,
    settings: SetOption = None,
    json: JsonOption = False,
    csv: CsvOption = None,
) -> None:
    """A training run from scratch."""
    shared = Shared(
        gpu=gpu,
        cloud_gpu=cloud_gpu,
        against=against,
        provider=provider,
        tier=tier,
        batch=batch,
        throughput=throughput,
        prices=prices,
        figures=figures,
        on=on,
        settings=tuple(settings or ()),
        json=json,
        csv=csv,
    )
    run_command(lambda: _run_training(shared, "train", amount, params, "0", machines, gpus, method, method_set))


@cost_app.command()
def fine_tune(
    *,
    params: ParamsOption,
    amount: Annotated[str, typer.Option("--tokens", help="Tokens to train on, epochs counted.")],
    adapter_params: Annotated[str, typer.Option(help="Trained parameters of an adapter; 0 trains all of them.")] = "0",
    gpu: GpuOption = "H100",
    machines: MachinesOption = 1,
    gpus: GpusOption = 1,
    method: MethodOption = "diloco",
    method_set: MethodSetOption = None,
    cloud_gpu: CloudGpuOption = "",
    against: AgainstOption = "cloud,specialist",
    provider: ProviderOption = None,
    tier: TierOption = None,
    batch: BatchOption = None,
    throughput: ThroughputOption = None,
    prices: PricesOption = None,
    figures: FiguresOption = None,
    on: OnOption = None,
    settings: SetOption = None,
    json: JsonOption = False,
    csv: CsvOption = None,
) -> None:
    """A fine-tune of a model that is there, whole or by an adapter."""
    shared = Shared(
        gpu=gpu,
        cloud_gpu=cloud_gpu,
        against=against,
        provider=provider,
        tier=tier,
        batch=batch,
        throughput=throughput,
        prices=prices,
        figures=figures,
        on=on,
        settings=tuple(settings or ()),
        json=json,
        csv=csv,
    )
    run_command(
        lambda: _run_training(shared, "fine-tune", amount, params, adapter_params, machines, gpus, method, method_set)
    )


def read_count(text: str, option: str) -> float:
    """A number with an ending such as k, M, B or T. Errors: ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)([kMBT]?)", text.strip())
    if match is None:
        raise ConfigError(f"{option} {text!r}: a number such as 1500, 8k, 1.1B or 15T")
    return float(match[1]) * UNITS[match[2]]


def read_method_setting(text: str) -> tuple[str, Any]:
    """NAME=VALUE with a whole number, a number, true or false, or a word as its value. Errors: ConfigError."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"--method-set {text!r}: NAME=VALUE")
    try:
        return name, encoder.loads(value)
    except ValueError:
        return name, value


def read_method_settings(texts: Sequence[str]) -> dict[str, Any]:
    """All of them. Errors: ConfigError, also for a name that is given twice."""
    found: dict[str, Any] = {}
    for name, value in map(read_method_setting, texts):
        if name in found:
            raise ConfigError(f"--method-set {name}: it is given twice")
        found[name] = value
    return found


def _run_training(
    shared: Shared,
    kind: str,
    amount: str,
    params: str,
    adapter_params: str,
    machines: int,
    gpus: int,
    method: str,
    method_set: list[str] | None,
) -> None:
    _run(
        shared,
        kind,
        amount,
        params=read_count(params, "--params"),
        adapter_params=read_count(adapter_params, "--adapter-params"),
        machines=machines,
        gpus=gpus,
        method=method,
        method_settings=read_method_settings(method_set or ()),
    )


def _run(shared: Shared, kind: str, amount: str, **own: Any) -> None:
    from paceline.lab.cost_inputs import load_figures  # noqa: PLC0415 - only this command needs it
    from paceline.lab.cost_prices import load_prices  # noqa: PLC0415
    from paceline.lab.cost_request import Request, answer  # noqa: PLC0415
    from paceline.lab.cost_words import make_json, write_csv  # noqa: PLC0415

    require_target(shared.csv)
    request = Request(
        kind=kind,
        tokens=read_count(amount, "--tokens"),
        gpu=shared.gpu,
        cloud_gpu=shared.cloud_gpu,
        against=_read_kinds(shared.against),
        provider=shared.provider,
        tier=_read_tier(shared.tier),
        batch=shared.batch,
        throughput=shared.throughput,
        settings=shared.settings,
        today=_read_today(shared.on),
        **own,
    )
    prices = load_prices(shared.prices or EXAMPLES / "prices.csv")
    figures = load_figures(shared.figures or EXAMPLES / "cost.toml")
    found = answer(request, prices, figures, example_prices=shared.prices is None)
    if shared.csv is not None:
        write_target(shared.csv, write_csv(found))
    if shared.json:
        print(encoder.dumps(make_json(found)))
        return
    _print_answer(found, Console())


def _read_kinds(text: str) -> tuple[str, ...]:
    from paceline.lab.cost_prices import KINDS  # noqa: PLC0415 - only this command needs it

    kinds = tuple(part.strip() for part in text.split(","))
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"--against {kind!r}: choose among {', '.join(KINDS)}")
    return kinds


def _read_tier(text: str | None) -> str | None:
    from paceline.lab.cost_prices import TIERS  # noqa: PLC0415 - only this command needs it

    if text is not None and text not in TIERS:
        raise ConfigError(f"--tier {text!r}: choose one of {', '.join(TIERS)}")
    return text


def _read_today(text: str | None) -> date:
    if text is None:
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--on {text!r}: year-month-day") from None


def _print_answer(found: Answer, console: Console) -> None:
    from paceline.lab.cost_words import (  # noqa: PLC0415 - only this command needs it
        list_input_lines,
        list_parts,
        list_results,
        list_sentences,
        list_swings,
    )

    first, *sentences = list_sentences(found)
    console.print(first, markup=False, highlight=False, soft_wrap=True)
    results = Table("", "low", "median", "high")
    for cells in list_results(found):
        results.add_row(*cells)
    parts = Table("part of the median", "cloud", "this network")
    for cells in list_parts(found):
        parts.add_row(*cells)
    for shown in (results, parts):
        console.print(shown)
    for line in ("Inputs:", *list_input_lines(found)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    swings = Table("moves the answer most", "network / cloud at its low", "at its high")
    for cells in list_swings(found)[:SHOWN_SWINGS]:
        swings.add_row(*cells)
    if found.comparison.swings:
        console.print(swings)
    for sentence in sentences:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
