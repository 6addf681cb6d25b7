"""What `paceline run` does: asks the running network or the stores, signs with a key of the home, tries, asks, sends and prints.

The ledger's own rules say what would happen; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_blob
from paceline.cli.addresses import find_account
from paceline.cli.network import ControlClient
from paceline.cli.printing import print_found
from paceline.cli.propose import read_amount, read_file, read_units
from paceline.cli.signing import (
    describe_moves,
    load_signer,
    open_control,
    require_form,
    send_signed,
    sign_message,
    try_signed,
)
from paceline.cli.standing import find_standing
from paceline.economy.denominations import format_coins
from paceline.node.chains.runs import RunLine, RunShape, RunsStatus, ShapeOrder, build_runs_status
from paceline.node.control import MAX_DATA_BYTES
from paceline.node.home import Home
from paceline.protocol.funding import FundingMessage, FundRun, OpenExperiment, OpenSharedRun, PublishRun, TransferShares
from paceline.protocol.proposals import MAX_PLAN_BYTES

TOLD = {
    "core reserve": "the fee",
    "experiments": "the reserved budget",
    "run escrow": "the run's budget",
}


@dataclass(frozen=True, kw_only=True)
class Order:
    """What every command that sends was asked for."""

    home: Path
    author: str
    dry_run: bool
    yes: bool


@dataclass(frozen=True, kw_only=True)
class Files:
    """What is published of a run beside its last state."""

    code: Path
    recipe: Path
    log: Path
    licence: Path
    licence_name: str


@dataclass(frozen=True, kw_only=True)
class Gathering:
    """A run that participants shall pay for."""

    plan: Path
    data: Path | None
    trainers: int
    goal: str
    units: str
    fee_ppm: int


def print_runs(path: Path, *, as_json: bool) -> None:
    """Print where runs stand. Errors: ConfigError without a network; TransportError when it runs but does not answer."""
    found = find_standing(Home(path), lambda client: client.get("/runs", RunsStatus), build_runs_status)
    print_found(found, describe_runs, as_json=as_json)


def open_experiment(order: Order, number: int, trainers: int, data: Path | None) -> None:
    """Open a reserved experiment's run. Errors: ConfigError for what the ledger refuses or data of another hash."""
    home = Home(order.home)
    with open_control(home) as client:
        shape = client.post("/run/shape", ShapeOrder(experiment=number), RunShape)
        if data is not None:
            _keep_data(order, client, shape, data)
        message = OpenExperiment(number, bytes.fromhex(shape.state_hash), shape.rounds, trainers, shape.segments)
        _send(order, home, client, message)


def add_coins(order: Order, run: str, coins: str) -> None:
    """Add to a run's budget. Errors: ConfigError for what the ledger refuses, or when no run or several begin so."""
    home, amount = Home(order.home), read_amount(coins, "COINS")
    with open_control(home) as client:
        found = find_run(client.get("/runs", RunsStatus), run)
        _send(order, home, client, FundRun(bytes.fromhex(found.run), amount))


def publish(order: Order, run: str, files: Files) -> None:
    """Keep the files on this node, where others fetch them, and publish their hashes.

    Errors: ConfigError for what the ledger refuses, code of another hash, a file that cannot be read or is too large.
    """
    home = Home(order.home)
    held = {name: read_file(getattr(files, name), MAX_DATA_BYTES) for name in ("code", "recipe", "log", "licence")}
    digests = {name: hash_blob(data) for name, data in held.items()}
    with open_control(home) as client:
        found = find_run(client.get("/runs", RunsStatus), run)
        if found.code_hash and digests["code"].hex() != found.code_hash:
            raise ConfigError(f"{files.code} is not the code that was approved: its hash is not {found.code_hash}")
        message = PublishRun(
            bytes.fromhex(found.run), bytes.fromhex(found.state_hash), **digests, licence_name=files.licence_name
        )
        if not order.dry_run:
            for data in held.values():
                client.post("/data", data, dict[str, str])
        for name, digest in digests.items():
            print(f"{name:<8}  {digest.hex()}  {getattr(files, name)}")
        _send(order, home, client, message)


def gather(order: Order, wanted: Gathering) -> None:
    """Open a run that its participants pay for. Errors: ConfigError for what the ledger refuses, or data of another hash."""
    home, plan = Home(order.home), read_file(wanted.plan, MAX_PLAN_BYTES)
    goal, units = read_amount(wanted.goal, "--goal"), read_units(wanted.units)
    with open_control(home) as client:
        shape = client.post("/run/shape", ShapeOrder(plan=plan.hex()), RunShape)
        if wanted.data is not None:
            _keep_data(order, client, shape, wanted.data)
        message = OpenSharedRun(
            plan=plan,
            data_hash=bytes.fromhex(shape.data_hash),
            state_hash=bytes.fromhex(shape.state_hash),
            rounds=shape.rounds,
            trainers=wanted.trainers,
            segments=shape.segments,
            micro_units=units,
            goal=goal,
            fee_ppm=wanted.fee_ppm,
        )
        _send(order, home, client, message)


def transfer_shares(order: Order, run: str, account: str, ppm: int) -> None:
    """Hand shares on. Errors: ConfigError for what the ledger refuses, no such run, or no such account."""
    home = Home(order.home)
    to = find_account(home, account, "ACCOUNT")
    with open_control(home) as client:
        found = find_run(client.get("/runs", RunsStatus), run)
        print(f"Shares    {ppm:,} of 1,000,000 of the run {found.run} to {to.address.hex()}")
        _send(order, home, client, TransferShares(bytes.fromhex(found.run), to.address, ppm))


def find_run(status: RunsStatus, text: str) -> RunLine:
    """The run whose hex digits begin so. Errors: ConfigError when none or several do."""
    found = [line for line in status.runs if text and line.run.startswith(text.lower())]
    if len(found) != 1:
        known = ", ".join(line.run[:8] for line in status.runs) or "none"
        raise ConfigError(f"RUN: {len(found) or 'none'} of the kept runs begins with {text!r}: {known}")
    return found[0]


def describe_runs(status: RunsStatus) -> Iterator[str]:
    """Lines for people."""
    yield f"height    {status.height:,}"
    for line in status.runs:
        yield f"run       {line.run}"
        yield f"  phase   {line.phase}{_describe_wait(line, status.height)}, round {line.round} of {line.rounds}"
        yield f"  trains  {len(line.trainers)} of {line.seats}: {', '.join(line.trainers) or 'nobody yet'}"
        yield f"  budget  {format_coins(line.budget)} left, paid by {_name_payer(line)}"
        audit = f", {format_coins(line.audit_pay)} an audit" if line.audit_pay else ""
        yield f"  pay     {format_coins(line.update_pay)} an update{audit}"
        yield from _describe_publications(line)
        yield from _describe_shares(line)
    for found in status.experiments:
        yield f"waits     {format_coins(found.reserved)} of proposal {found.proposal} for a run, up to epoch {found.until}"


def _name_payer(line: RunLine) -> str:
    if line.goal:
        return f"participants, who gather {format_coins(line.goal)}"
    return f"the experiment of proposal {line.experiment}" if line.experiment else line.owner


def _describe_shares(line: RunLine) -> Iterator[str]:
    if line.fee_ppm:
        yield f"  shares  split {line.fee_ppm / 10_000:g} % of later fees for its models"
    for found in line.shares:
        told = f"{found.ppm:,} of 1,000,000" if found.ppm else f"has put in {format_coins(found.paid)}"
        yield f"    {found.holder}  {told}"


def _describe_publications(line: RunLine) -> Iterator[str]:
    if line.withheld:
        yield f"  waits   {format_coins(line.withheld)} of its trainers, until it is published"
    for found in line.publications:
        told = f"{found.status} by {found.publisher}" if found.publisher else found.status
        yield f"  made    {told}, {found.licence_name}"
        if found.drawn:
            yield f"  found   by {found.fetched} of {found.drawn} drawn nodes so far"
        for name, digest in (
            ("checkpoint", found.checkpoint),
            ("code", found.code),
            ("recipe", found.recipe),
            ("log", found.log),
            ("licence", found.licence),
        ):
            yield f"    {name:<10} {digest}"


def _describe_wait(line: RunLine, height: int) -> str:
    return f" for {line.deadline - height:,} more heights at most" if line.deadline > height else ""


def _keep_data(order: Order, client: ControlClient, shape: RunShape, path: Path) -> None:
    data = read_file(path, MAX_DATA_BYTES)
    if hash_blob(data).hex() != shape.data_hash:
        raise ConfigError(f"{path} is not the data that was voted on: its hash is not {shape.data_hash}")
    if not order.dry_run:
        client.post("/data", data, dict[str, str])


def _send(order: Order, home: Home, client: ControlClient, message: FundingMessage) -> None:
    key = load_signer(home, order.author)
    require_form(message, "this cannot be sent as it stands")
    signed = sign_message(home, client, key, message)
    for line in describe_moves(try_signed(client, signed), TOLD):
        print(line)
    if order.dry_run or not (order.yes or typer.confirm("Do it?")):
        print("Nothing was sent.")
        return
    print(f"Done at height {send_signed(client, signed)}.")
