"""`paceline keys`: what a home's keys are called, and how they survive the machine. Parses, asks and prints; rules are in `node.key_backup`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from paceline.base.errors import ConfigError
from paceline.cli.command import run_command
from paceline.cli.environment import get_default_home

if TYPE_CHECKING:
    from paceline.engine.signed_mark import SignedMark
    from paceline.node.home import Home
    from paceline.node.membership.key_backup import Backup, RestoredNode

keys_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="A home's keys: list, make, import, export, back up, restore."
)

MAX_PASSPHRASE_BYTES = 4096
WARNING = """\
A consensus key must live on ONE machine. Should the former machine still run, or ever start again, both sign blocks under the
same key; that is a double signature, and it costs voting power, held pay and reputation. Make sure that it is switched off
for good and that its folder is gone. The backup knows only what had been signed when it was made: name a later height with
--signed-through, taken from another node."""

HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of the network. Default: ~/.paceline")]
PassphraseFile = Annotated[
    Path | None, typer.Option(help="File whose first line is the passphrase. Default: it is asked for.")
]


class KeyLine(msgspec.Struct, frozen=True, kw_only=True):
    """The public side of one account, and of its node's other keys."""

    name: str
    address: str
    public_key: str
    consensus_key: str = ""
    consensus_address: str = ""
    group_key: str = ""


@keys_app.command("list")
def list_(
    *, home: HomeOption = None, json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False
) -> None:
    """Public keys and addresses of the user and of every node here; no secret is shown."""

    def command() -> None:
        lines = load_key_lines(_open_home(home))
        if json:
            print(msgspec.json.encode(lines).decode())
            return
        for line in lines:
            _print_line(line)

    run_command(command)


@keys_app.command()
def backup(
    *,
    to: Annotated[Path, typer.Option("--to", help="File to write; nothing may be there.")],
    name: Annotated[str | None, typer.Option(help="Only this node. Default: everything here.")] = None,
    passphrase_file: PassphraseFile = None,
    home: HomeOption = None,
) -> None:
    """Write all keys, contacts, joint accounts, settings and genesis to one file under a passphrase; nobody opens it without.

    The file also holds up to what each consensus key had signed at that moment; make a new one when a node was added.
    """
    from paceline.node.membership.key_backup import collect_backup, seal_backup, write_backup  # noqa: PLC0415 - loads the node
    from paceline.node.membership.sealed import require_free  # noqa: PLC0415 - loads the node

    def command() -> None:
        require_free(to)
        collected = collect_backup(_open_home(home), name)
        passphrase = read_passphrase(passphrase_file, twice=True)
        write_backup(to, seal_backup(collected, passphrase))
        print(f"{to} holds {_describe_backup(collected)}")
        print("Keep it apart from this machine, and the passphrase apart from it.")

    run_command(command)


@keys_app.command()
def restore(
    *,
    file: Annotated[Path, typer.Argument(help="What `paceline keys backup` wrote.")],
    passphrase_file: PassphraseFile = None,
    signed_through: Annotated[
        str | None,
        typer.Option(
            metavar="HEIGHT[/ROUND]",
            help="CometBFT, needed: sign nothing up to here. The network's height on another node, plus two; where it stands"
            " still for want of this node, that height with its round; 0 when nothing was signed since the backup.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="The former machine never runs again; do not ask.")] = False,
    home: HomeOption = None,
) -> None:
    """Put the keys of a backup into a home, a new one or one that lost them. Keys that are there are never overwritten.

    YOU must make sure that the former machine never runs again: two machines that sign with one consensus key are punished
    as one that lies. The mark up to which the engine has signed is restored with the keys and is only ever raised; what the
    former machine signed after the backup was made, only --signed-through can tell.
    """
    from paceline.node.membership.key_backup import (  # noqa: PLC0415 - loads the node
        open_backup,
        require_backup_file,
        restore_backup,
        signs_blocks,
    )

    def command() -> None:
        where = _open_home(home)
        require_backup_file(file)
        opened = open_backup(file, read_passphrase(passphrase_file, twice=False))
        mark = _read_mark(signed_through, needed=signs_blocks(opened))
        if opened.nodes:
            typer.echo(WARNING, err=True)
            if not yes and not typer.confirm("Is the former machine off for good?", err=True):
                print("Nothing was restored.")
                return
        for node in restore_backup(where, opened, mark):
            _print_restored(node)
        print(f"In place: {_describe_backup(opened)}")
        start = f"; start it with `paceline up --home {where.path}`" if opened.genesis is not None else ""
        print(f"Restored into {where.path}{start}")

    run_command(command)


def load_key_lines(home: Home) -> list[KeyLine]:
    """The user, then the nodes, then other keys; where no network lives only the last.

    Errors: ConfigError when a key is missing or damaged, or nothing lies here at all.
    """
    from paceline.engine.cometbft import compute_consensus_address  # noqa: PLC0415 - loads the engine

    others = [name for name in home.key_names() if name != "user"]
    if not home.exists and others:
        return [_make_line(home, name) for name in others]
    lines = [_make_line(home, "user")]
    for name in home.node_names():
        key, consensus_key = home.load_key(name), home.load_consensus_key(name)
        lines.append(
            KeyLine(
                name=name,
                address=key.address.hex(),
                public_key=key.public_key.hex(),
                consensus_key=consensus_key.public_key.hex(),
                consensus_address=compute_consensus_address(consensus_key.public_key),
                group_key=home.load_ceremony_key(name).public_key.hex(),
            )
        )
    return [*lines, *(_make_line(home, name) for name in others)]


def _make_line(home: Home, name: str) -> KeyLine:
    key = home.load_key(name)
    return KeyLine(name=name, address=key.address.hex(), public_key=key.public_key.hex())


def _open_home(path: Path | None) -> Home:
    from paceline.node.home import Home  # noqa: PLC0415 - loads the node

    return Home(path or get_default_home())


def _read_mark(text: str | None, *, needed: bool) -> SignedMark:
    """Errors: ConfigError when it is missing and needed, or no height."""
    from paceline.engine.signed_mark import LAST_ROUND, NOTHING_SIGNED, make_mark_through  # noqa: PLC0415 - loads the engine

    if text is None and needed:
        raise ConfigError(
            "--signed-through is missing: only you know how far the former machine signed after the backup. Give the "
            "network's height on another node plus two, or 0 when it signed nothing since"
        )
    if text is None:
        return NOTHING_SIGNED
    found = re.fullmatch(r"(\d{1,18})(?:/(\d{1,9}))?", text, re.ASCII)
    if found is None:
        raise ConfigError(f"--signed-through {text!r}: HEIGHT or HEIGHT/ROUND is expected")
    height, last_round = found.groups()
    return make_mark_through(int(height), int(last_round) if last_round else LAST_ROUND)


def read_passphrase(path: Path | None, *, twice: bool) -> str:
    """From its file, else asked for. Errors: as `read_secret_file`."""
    if path is None:
        typed: str = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=twice, err=True)
        return typed
    return read_secret_file(path, "--passphrase-file")


def read_secret_file(path: Path, option: str) -> str:
    """The first line of a file. Errors: ConfigError when it cannot be read or is no text."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_PASSPHRASE_BYTES).decode("utf-8")
    except OSError as problem:
        raise ConfigError(f"{option}: {path} cannot be read: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{option}: {path} holds no UTF-8 text") from None
    return text.splitlines()[0] if text else ""


def _describe_backup(backup: Backup) -> str:
    """What it holds, so that nobody takes it for more."""
    accounts = backup.accounts
    names = [node.name for node in backup.nodes]
    names += ["user"] if backup.user is not None else []
    names += [key.name for key in accounts.keys]
    parts = [f"the keys of {', '.join(names)}"] if names else []
    parts += ["the operator token"] if backup.token is not None else []
    counted = ((len(accounts.contacts), "contact"), (len(accounts.policies), "joint account"))
    parts += [f"{count} {what}{'s' if count > 1 else ''}" for count, what in counted if count]
    return "; ".join(parts)


def _print_line(line: KeyLine) -> None:
    print(line.name)
    print(f"  address            {line.address}")
    print(f"  account key        {line.public_key}")
    if line.consensus_key:
        print(f"  consensus key      {line.consensus_key}")
        print(f"  consensus address  {line.consensus_address}")
        print(f"  group key          {line.group_key}")


def _print_restored(node: RestoredNode) -> None:
    print(f"{node.name}: keys are in place")
    if node.awaits_state:
        print(
            f"  it orders this network's blocks: before it starts, `paceline state import` the newest state that any other "
            f"node exports, with --name {node.name}; without one it refuses to start"
        )
    elif node.signed.height:
        print(f"  signs nothing up to height {node.signed.height}, round {node.signed.round}, step {node.signed.step}")
