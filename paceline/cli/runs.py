"""`paceline run`: training runs that the network or participants pay for, from the budget to instalments and shares. Parses and wires."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.command import run_command
from paceline.cli.environment import get_default_home

run_app = typer.Typer(no_args_is_help=True, help="Training runs on the ledger, and what the network pays for them.")

Run = Annotated[str, typer.Argument(help="The run: its 32 hex digits, or as many of the first as tell it from others.")]
From = Annotated[str, typer.Option("--from", help="Whose account: `user`, a node or another key of the home.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would move; send nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of the network. Default: ~/.paceline")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@run_app.command("list")
def list_runs(*, home: HomeOption = None, json: JsonFlag = False) -> None:
    """Runs and their budgets, and reserved budgets that wait for a run."""
    from paceline.cli.run_orders import print_runs  # noqa: PLC0415 - loads the node

    run_command(lambda: print_runs(home or get_default_home(), as_json=json))


@run_app.command("plan")
def write_plan(
    *,
    data: Annotated[Path, typer.Argument(help="The text to train on.")],
    out: Annotated[Path, typer.Argument(help="The plan's file; it is not overwritten.")],
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Rounds, each with an outer step.")] = 5,
    inner_steps: Annotated[int, typer.Option(min=1, max=1_000, help="Inner steps of a round.")] = 40,
    segment_steps: Annotated[int, typer.Option(min=1, max=10, help="Inner steps that an audit replays together.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, max=4_096, help="Sequences of an inner step.")] = 16,
    warmup_steps: Annotated[int, typer.Option(min=0, max=100_000, help="Inner steps in which the rate climbs.")] = 30,
    seed: Annotated[str, typer.Option(help="Any words; the first parameters follow from them.")] = "0",
) -> None:
    """Write the plan of a run into a file, as `propose experiment --plan` and `run gather --plan` take it."""
    from paceline.cli.run_plans import Wanted, write_plan_file  # noqa: PLC0415 - loads torch

    wanted = Wanted(
        rounds=rounds,
        inner_steps=inner_steps,
        segment_steps=segment_steps,
        batch_size=batch_size,
        warmup_steps=warmup_steps,
        seed=seed,
    )
    run_command(lambda: write_plan_file(data, out, wanted))


@run_app.command("open")
def open_run(
    *,
    experiment: Annotated[int, typer.Argument(help="Number of the proposal that reserved the budget.")],
    trainers: Annotated[int, typer.Option(min=1, max=64, help="Seats.")] = 3,
    data: Annotated[Path | None, typer.Option(help="The data, to be kept here for whoever trains.")] = None,
    author: From = "user",
    dry_run: DryRun = False,
    yes: Yes = False,
    home: HomeOption = None,
) -> None:
    """Open the run of an experiment that passed, with the plan and the budget that were voted on."""
    from paceline.cli.run_orders import Order, open_experiment  # noqa: PLC0415 - loads the node

    order = Order(home=home or get_default_home(), author=author, dry_run=dry_run, yes=yes)
    run_command(lambda: open_experiment(order, experiment, trainers, data))


@run_app.command("fund")
def fund_run(
    *,
    run: Run,
    coins: Annotated[str, typer.Argument(help='How much, such as "12.5 icon".')],
    author: From = "user",
    dry_run: DryRun = False,
    yes: Yes = False,
    home: HomeOption = None,
) -> None:
    """Put coins into a run. In one of participants they buy shares; else what is left of them is the training fund's."""
    from paceline.cli.run_orders import Order, add_coins  # noqa: PLC0415 - loads the node

    order = Order(home=home or get_default_home(), author=author, dry_run=dry_run, yes=yes)
    run_command(lambda: add_coins(order, run, coins))


@run_app.command("gather")
def gather_run(
    *,
    plan: Annotated[Path, typer.Option(help="File with the run's plan, up to 4,096 bytes.")],
    goal: Annotated[str, typer.Option(help="Coins with which it begins; without all of them they return.")],
    fee_ppm: Annotated[int, typer.Option(min=1, max=200_000, help="Millionths of later fees that the shares split.")],
    units: Annotated[str, typer.Option(help="Units of compute of one update.")] = "1",
    trainers: Annotated[int, typer.Option(min=1, max=64, help="Seats.")] = 3,
    data: Annotated[Path | None, typer.Option(help="The data, to be kept here for whoever trains.")] = None,
    author: From = "user",
    dry_run: DryRun = False,
    yes: Yes = False,
    home: HomeOption = None,
) -> None:
    """Open a run that participants pay for by `run fund`; at its close they get shares of later fees."""
    from paceline.cli.run_orders import Gathering, Order, gather  # noqa: PLC0415 - loads the node

    order = Order(home=home or get_default_home(), author=author, dry_run=dry_run, yes=yes)
    wanted = Gathering(plan=plan, data=data, trainers=trainers, goal=goal, units=units, fee_ppm=fee_ppm)
    run_command(lambda: gather(order, wanted))


@run_app.command("transfer")
def transfer(
    *,
    run: Run,
    account: Annotated[
        str, typer.Argument(help="Who gets them: 40 hex digits, a contact, a name of this home, a node.")
    ],
    ppm: Annotated[int, typer.Argument(min=1, max=1_000_000, help="How many of the 1,000,000 shares.")],
    author: From = "user",
    dry_run: DryRun = False,
    yes: Yes = False,
    home: HomeOption = None,
) -> None:
    """Hand shares of a run to another account."""
    from paceline.cli.run_orders import Order, transfer_shares  # noqa: PLC0415 - loads the node

    order = Order(home=home or get_default_home(), author=author, dry_run=dry_run, yes=yes)
    run_command(lambda: transfer_shares(order, run, account, ppm))


@run_app.command("publish")
def publish_run(
    *,
    run: Run,
    code: Annotated[Path, typer.Option(help="The method's code as one file, whose BLAKE3 hash was approved.")],
    recipe: Annotated[Path, typer.Option(help="How the data was made, as one file.")],
    log: Annotated[Path, typer.Option(help="The log of the run.")],
    licence: Annotated[Path, typer.Option(help="The licence's text.")],
    licence_name: Annotated[str, typer.Option(help="Its name, such as apache-2.0; open licences only.")],
    author: From = "user",
    dry_run: DryRun = False,
    yes: Yes = False,
    home: HomeOption = None,
) -> None:
    """Publish what a paid run made; drawn nodes fetch it, then its trainers get the last instalment."""
    from paceline.cli.run_orders import Files, Order, publish  # noqa: PLC0415 - loads the node

    order = Order(home=home or get_default_home(), author=author, dry_run=dry_run, yes=yes)
    files = Files(code=code, recipe=recipe, log=log, licence=licence, licence_name=licence_name)
    run_command(lambda: publish(order, run, files))
