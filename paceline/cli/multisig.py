"""`paceline multisig`: accounts that several keys move together, by a file that travels. Parses; `joint_accounts` acts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.command import NumberCommand, run_command
from paceline.cli.environment import get_default_home

multisig_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Joint accounts: so many of these keys sign. A proposal travels between them as a file.",
)

AccountArgument = Annotated[str, typer.Argument(help="Name of the joint account in this home.")]
FileOption = Annotated[Path, typer.Option("--file", help="File to write, for the other signers; nothing may be there.")]
FileArgument = Annotated[Path, typer.Argument(help="What `propose` wrote and others may have signed.")]
KeyOption = Annotated[str | None, typer.Option("--key", help="Which key signs. Default: the one that this home has.")]
BlocksOption = Annotated[int, typer.Option("--blocks", min=1, max=10**9, help="For how many heights it can be sent.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would move; sign, write and send nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of the network. Default: ~/.paceline")]


@multisig_app.command()
def create(
    *,
    name: AccountArgument,
    key: Annotated[list[str], typer.Option("--key", help="A public key in hex, or a name of this home; repeatable.")],
    threshold: Annotated[int, typer.Option(min=1, max=16, help="How many of them must sign.")],
    home: HomeOption = None,
) -> None:
    """Name a joint account. Whoever gives the same keys and threshold, in any order, gets the same address."""
    from paceline.cli.joint_accounts import create_account  # noqa: PLC0415 - loads the node

    run_command(lambda: create_account(home or get_default_home(), name, key, threshold))


@multisig_app.command("list")
def list_(
    *, home: HomeOption = None, json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False
) -> None:
    """The joint accounts that this home knows: addresses, thresholds, keys."""
    from paceline.cli.joint_accounts import print_accounts  # noqa: PLC0415 - loads the node

    run_command(lambda: print_accounts(home or get_default_home(), as_json=json))


@multisig_app.command(cls=NumberCommand)
def propose(
    *,
    name: AccountArgument,
    to: Annotated[str, typer.Argument(help="Who gets it: 40 hex digits, a contact, a name of this home, a node.")],
    amount: Annotated[str, typer.Argument(help='How much: "1.5 icon", or "2 tUSD" of the test asset.')],
    file: FileOption,
    key: KeyOption = None,
    blocks: BlocksOption = 10_000,
    dry_run: DryRun = False,
    yes: Yes = False,
    home: HomeOption = None,
) -> None:
    """Propose a payment, sign it as the first, and write the file for the others."""
    from paceline.cli.joint_accounts import ProposalOptions, propose_payment  # noqa: PLC0415 - loads the node

    place = home or get_default_home()
    options = ProposalOptions(home=place, name=name, file=file, key=key, blocks=blocks, dry_run=dry_run, yes=yes)
    run_command(lambda: propose_payment(options, to, amount))


@multisig_app.command("propose-grant")
def propose_grant(
    *,
    name: AccountArgument,
    to: Annotated[str, typer.Argument(help="Whose key may act: 40 hex digits, a contact, a name of this home.")],
    kinds: Annotated[list[str], typer.Argument(help="Which messages, such as open-session.")],
    file: FileOption,
    lasts: Annotated[int, typer.Option("--lasts", min=1, help="For how many heights the grant holds.")],
    limit: Annotated[str, typer.Option("--limit", help="What may be spent, fees included.")] = "0 icon",
    key: KeyOption = None,
    blocks: BlocksOption = 10_000,
    dry_run: DryRun = False,
    yes: Yes = False,
    home: HomeOption = None,
) -> None:
    """Propose that another key may send some messages for the joint account."""
    from paceline.cli.joint_accounts import ProposalOptions, propose_scope  # noqa: PLC0415 - loads the node

    place = home or get_default_home()
    options = ProposalOptions(home=place, name=name, file=file, key=key, blocks=blocks, dry_run=dry_run, yes=yes)
    run_command(lambda: propose_scope(options, to, kinds, lasts, limit))


@multisig_app.command("propose-revoke")
def propose_revoke(
    *,
    name: AccountArgument,
    to: Annotated[str, typer.Argument(help="Whose grant ends: 40 hex digits, a contact, a name of this home.")],
    file: FileOption,
    key: KeyOption = None,
    blocks: BlocksOption = 10_000,
    dry_run: DryRun = False,
    yes: Yes = False,
    home: HomeOption = None,
) -> None:
    """Propose to end a grant of the joint account."""
    from paceline.cli.joint_accounts import ProposalOptions, propose_revocation  # noqa: PLC0415 - loads the node

    place = home or get_default_home()
    options = ProposalOptions(home=place, name=name, file=file, key=key, blocks=blocks, dry_run=dry_run, yes=yes)
    run_command(lambda: propose_revocation(options, to))


@multisig_app.command()
def show(*, file: FileArgument, home: HomeOption = None) -> None:
    """What a file proposes, and who has signed it."""
    from paceline.cli.joint_accounts import show_draft  # noqa: PLC0415 - loads the node

    run_command(lambda: show_draft(home or get_default_home(), file))


@multisig_app.command()
def sign(
    *,
    file: FileArgument,
    key: KeyOption = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    home: HomeOption = None,
) -> None:
    """Show what a file proposes, and add a signature to it. Needs no network."""
    from paceline.cli.joint_accounts import sign_draft  # noqa: PLC0415 - loads the node

    run_command(lambda: sign_draft(home or get_default_home(), file, key, dry_run=dry_run, yes=yes))


@multisig_app.command()
def send(*, file: FileArgument, dry_run: DryRun = False, yes: Yes = False, home: HomeOption = None) -> None:
    """Show what moves, and send a file that enough keys have signed."""
    from paceline.cli.joint_accounts import send_draft  # noqa: PLC0415 - loads the node

    run_command(lambda: send_draft(home or get_default_home(), file, dry_run=dry_run, yes=yes))
