"""`paceline propose`, `vote` and `proposals`: words of the command line become messages. Parses and wires, decides nothing."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from msgspec import Meta
from rich.console import Console

from paceline.base.errors import ConfigError, Invalid
from paceline.base.hashing import DIGEST_BYTES, hash_blob
from paceline.base.tables import convert_table
from paceline.cli.command import NumberCommand, run_command
from paceline.cli.environment import get_default_home
from paceline.economy.denominations import parse_coins
from paceline.models.open_models import load_open_models
from paceline.protocol import proposals as p

propose_app = typer.Typer(
    no_args_is_help=True, help="Ask the network to decide. A deposit stands beside each proposal until its voting ends."
)

Title = Annotated[str, typer.Option("--title", help="One line, up to 100 printable ASCII characters.")]
Text = Annotated[str, typer.Option("--text", help="The reasons, up to 2,000 printable ASCII characters.")]
Author = Annotated[
    str, typer.Option("--from", help="Who proposes and pays the deposit: a node of the home, or `user`, its account.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would move and what the ledger would say; send nothing.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Pay without asking.")]
Home = Annotated[Path | None, typer.Option("--home", help="Folder of the network. Default: ~/.paceline")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

EntryName = Annotated[
    str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z", description="up to 64 of a-z, 0-9, '.', '_' and '-'")
]
Licence = Annotated[
    str, Meta(pattern=r"^[ -~]{1,100}\Z", description="1 to 100 printable ASCII characters, such as Apache-2.0")
]
EntryCount = Annotated[int, Meta(ge=1, le=2**32 - 1)]


@dataclass(frozen=True, kw_only=True)
class ProposeOptions:
    """What the command line asked for."""

    home: Path
    author: str
    title: str
    text: str
    dry_run: bool
    yes: bool


class ModelFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model as a TOML file describes it. Units: `memory_mib` by precision; `million_params` in millions."""

    name: EntryName
    licence: Licence
    context_tokens: EntryCount
    million_params: EntryCount
    micro_units: Annotated[int, Meta(ge=1, le=p.MAX_MICRO_UNITS)]
    memory_mib: Annotated[dict[EntryName, EntryCount], Meta(min_length=1, max_length=16)]
    run: str = ""
    """Hex digits of the run whose shares split a part of its fees."""


@propose_app.command("parameter", cls=NumberCommand)
def propose_parameter(
    *,
    name: Annotated[str, typer.Argument(help="Its name, as `paceline proposals --parameters` lists it.")],
    value: Annotated[int, typer.Argument(help="The number that shall hold from an epoch on.")],
    title: Title,
    text: Text = "",
    author: Author = "user",
    dry_run: DryRun = False,
    yes: Yes = False,
    home: Home = None,
) -> None:
    """Change one of the network's numbers, within its bounds, from the next epoch on."""
    options = _collect(home, author, title, text, dry_run=dry_run, yes=yes)
    run_command(lambda: _propose(options, p.ChangeParameter(name, value)))


@propose_app.command("model")
def propose_model(
    *,
    model: Annotated[
        str,
        typer.Argument(
            help="A known open model (`paceline doctor` lists them), or a TOML file with name, licence, context_tokens, "
            "million_params, micro_units, memory_mib."
        ),
    ],
    title: Title,
    text: Text = "",
    author: Author = "user",
    dry_run: DryRun = False,
    yes: Yes = False,
    home: Home = None,
) -> None:
    """Enter a model into the registry, or replace its entry."""
    options = _collect(home, author, title, text, dry_run=dry_run, yes=yes)
    run_command(lambda: _propose(options, p.EnterModel(find_model(model))))


@propose_app.command("grant", cls=NumberCommand)
def propose_grant(
    *,
    address: Annotated[str, typer.Argument(help="Who gets it: 40 hex digits, a contact, a name of this home, a node.")],
    coins: Annotated[str, typer.Argument(help='How much, such as "12.5 icon".')],
    title: Title,
    text: Text = "",
    author: Author = "user",
    dry_run: DryRun = False,
    yes: Yes = False,
    home: Home = None,
) -> None:
    """Pay coins of the training fund to an account."""
    options = _collect(home, author, title, text, dry_run=dry_run, yes=yes)

    def run() -> None:
        from paceline.cli.addresses import find_account  # noqa: PLC0415 - loads the node
        from paceline.node.home import Home as Folder  # noqa: PLC0415 - loads the node

        found = find_account(Folder(options.home), address, "ADDRESS")
        _propose(options, p.PayGrant(found.address, read_amount(coins, "AMOUNT")))

    run_command(run)


@propose_app.command("method")
def propose_method(
    *,
    code: Annotated[str, typer.Argument(help="The code as one file, or its BLAKE3 hash: 64 hex digits.")],
    locator: Annotated[str, typer.Argument(help="Where to read it, without spaces.")],
    title: Title,
    text: Text = "",
    author: Author = "user",
    dry_run: DryRun = False,
    yes: Yes = False,
    home: Home = None,
) -> None:
    """Approve a way of training, as code. The same account may then propose experiments with it."""
    options = _collect(home, author, title, text, dry_run=dry_run, yes=yes)
    run_command(lambda: _propose(options, p.ApproveMethod(find_digest(code, "CODE"), locator)))


@propose_app.command("experiment")
def propose_experiment(
    *,
    method: Annotated[int, typer.Argument(help="Number of the proposal that approved the method.")],
    data: Annotated[str, typer.Option("--data", help="The data as one file, or its BLAKE3 hash: 64 hex digits.")],
    plan: Annotated[Path, typer.Option("--plan", help="File with the run's plan, up to 4,096 bytes.")],
    budget: Annotated[str, typer.Option("--budget", help="Coins of the training fund that are reserved for it.")],
    units: Annotated[
        str,
        typer.Option(
            "--units", help="Units of compute of one update; training a token takes about three of an answer's."
        ),
    ] = "1",
    title: Title,
    text: Text = "",
    author: Author = "user",
    dry_run: DryRun = False,
    yes: Yes = False,
    home: Home = None,
) -> None:
    """Pay for a training run by an approved method of the same account."""
    options = _collect(home, author, title, text, dry_run=dry_run, yes=yes)

    def run() -> None:
        amount, digest = read_amount(budget, "--budget"), find_digest(data, "--data")
        wanted = p.FundExperiment(method, digest, read_file(plan, p.MAX_PLAN_BYTES), amount, read_units(units))
        _propose(options, wanted)

    run_command(run)


@propose_app.command("upgrade")
def propose_upgrade(
    *,
    name: Annotated[str, typer.Argument(help="Name of the upgrade, as its release tells it.")],
    height: Annotated[int, typer.Argument(min=1, help="First height of the new rules.")],
    title: Title,
    text: Text = "",
    author: Author = "user",
    dry_run: DryRun = False,
    yes: Yes = False,
    home: Home = None,
) -> None:
    """Plan new rules from a height on; more than two thirds of all weight must say yes."""
    options = _collect(home, author, title, text, dry_run=dry_run, yes=yes)
    run_command(lambda: _propose(options, p.SetUpgrade(name, height)))


@propose_app.command("text")
def propose_text(
    *,
    title: Title,
    text: Text,
    author: Author = "user",
    dry_run: DryRun = False,
    yes: Yes = False,
    home: Home = None,
) -> None:
    """Put a statement on record; nothing else follows from it."""
    options = _collect(home, author, title, text, dry_run=dry_run, yes=yes)
    run_command(lambda: _propose(options, p.Statement()))


def vote(
    *,
    number: Annotated[int, typer.Argument(help="Number of the proposal.")],
    choice: Annotated[str, typer.Argument(help="yes, no, abstain or veto.")],
    node: Annotated[str | None, typer.Option("--name", help="Node that votes. Default: the home's first.")] = None,
    owner: Annotated[str | None, typer.Option("--for", help="Node that granted the key its vote.")] = None,
    dry_run: DryRun = False,
    home: Home = None,
) -> None:
    """Vote on a proposal with a node's key: once, counted by its weight when the voting ends."""
    from paceline.cli.governance import send_vote  # noqa: PLC0415 - loads the node

    message = p.VoteProposal(number, choice)
    run_command(lambda: send_vote(home or get_default_home(), node, message, owner, dry_run=dry_run))


def proposals(
    *,
    number: Annotated[int | None, typer.Argument(help="Number of one proposal. Default: all that are kept.")] = None,
    parameters: Annotated[
        bool, typer.Option("--parameters", help="Instead list the numbers that a vote may change, with their bounds.")
    ] = False,
    home: Home = None,
    json: JsonFlag = False,
) -> None:
    """Proposals, their votes and what became of them."""
    from paceline.cli.governance import print_governance  # noqa: PLC0415 - loads the node

    run_command(lambda: print_governance(home or get_default_home(), number, show_parameters=parameters, as_json=json))


def find_model(model: str) -> p.ModelEntry:
    """The entry of a known open model, or of a file. Errors: ConfigError, naming what is known or what is wrong with the file."""
    known = load_open_models()
    if model in known:
        return known[model]
    if "/" not in model and not Path(model).exists():
        raise ConfigError(f"{model} is neither a file nor one of {', '.join(known)}")
    return read_model_file(Path(model))


def read_model_file(path: Path) -> p.ModelEntry:
    """A model's entry from its file. Errors: ConfigError naming the file and what is wrong."""
    try:
        tables = tomllib.loads(read_file(path, 64 * 1024).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ConfigError(f"{path}: is no TOML file ({problem})") from None
    described = convert_table(tables, ModelFile, str(path))
    return p.ModelEntry(
        name=described.name,
        licence=described.licence,
        context_tokens=described.context_tokens,
        million_params=described.million_params,
        memory=tuple(p.Memory(name, described.memory_mib[name]) for name in sorted(described.memory_mib)),
        micro_units=described.micro_units,
        run=parse_hex(described.run, 16, "run") if described.run else b"",
    )


def read_file(path: Path, limit_bytes: int) -> bytes:
    """Errors: ConfigError when it cannot be read or is too large."""
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as problem:
        raise ConfigError(f"{path} cannot be read: {problem.strerror}") from None
    if len(data) > limit_bytes:
        raise ConfigError(f"{path} has more than {limit_bytes} bytes")
    return data


def find_digest(text: str, what: str) -> bytes:
    """The address as a blob of a file here, or the one that is named. Errors: ConfigError naming the argument."""
    from paceline.node.control import MAX_DATA_BYTES  # noqa: PLC0415 - loads the node

    path = Path(text)
    return hash_blob(read_file(path, MAX_DATA_BYTES)) if path.is_file() else parse_hex(text, DIGEST_BYTES, what)


def parse_hex(text: str, size: int, what: str) -> bytes:
    """Bytes from hex digits. Errors: ConfigError naming what was to be given."""
    if not re.fullmatch(f"[0-9a-fA-F]{{{2 * size}}}", text):
        raise ConfigError(f"{what} must be {2 * size} hex digits")
    return bytes.fromhex(text)


def read_units(text: str) -> int:
    """Millionths of a unit of compute. Errors: ConfigError for what is no number above 0 with up to six digits after the point."""
    try:
        micro_units = Decimal(text) * 1_000_000
        whole = micro_units.is_finite() and micro_units == int(micro_units)
    except InvalidOperation:
        whole, micro_units = False, Decimal(0)
    if not whole or not 0 < micro_units <= p.MAX_UPDATE_UNITS:
        raise ConfigError(f"--units: {text!r} is no number above 0 with up to six digits after the point")
    return int(micro_units)


def read_amount(text: str, what: str) -> int:
    """Nicoin of an amount above 0 with its word. Errors: ConfigError naming what was to be given."""
    try:
        nicoin = parse_coins(text)
    except Invalid as problem:
        raise ConfigError(f"{what}: {problem.message}") from None
    if nicoin == 0:
        raise ConfigError(f"{what}: at least 1 nicoin is needed")
    return nicoin


def _collect(home: Path | None, author: str, title: str, text: str, *, dry_run: bool, yes: bool) -> ProposeOptions:
    place = home or get_default_home()
    return ProposeOptions(home=place, author=author, title=title, text=text, dry_run=dry_run, yes=yes)


def _propose(options: ProposeOptions, action: p.Action) -> None:
    from paceline.cli.governance import send_proposal  # noqa: PLC0415 - loads the node

    send_proposal(options, action, Console(soft_wrap=True))
