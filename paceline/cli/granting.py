"""What `paceline grant` does: shows what a grant allows, asks, sends, and lists those that hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import typer

from paceline.cli.addresses import find_account
from paceline.cli.joint_accounts import make_grant
from paceline.cli.printing import print_found
from paceline.cli.signing import (
    ask_account,
    describe_moves,
    load_signer,
    open_control,
    send_signed,
    sign_message,
    try_signed,
)
from paceline.cli.standing import find_standing
from paceline.cli.transfers import FEE
from paceline.cli.wording import describe_message
from paceline.economy.denominations import format_asset, format_coins, format_dollars
from paceline.node.chains.accounts import AccountStatus, build_account
from paceline.node.home import Home
from paceline.protocol.grants import GrantScope, RevokeScope


def give_grant(
    path: Path, author: str, to: str, kinds: list[str], lasts: int, limit: str, *, dry_run: bool, yes: bool
) -> None:
    """Show, ask, send.

    Errors: ConfigError when an account, a kind or the limit is none, nothing runs here or the ledger refuses; TransportError
    when the network does not answer.
    """
    home = Home(path)
    own = load_signer(home, author).address.hex()
    address = find_account(home, to, "TO").address
    with open_control(home) as client:
        height = ask_account(client, own).height
    _send(home, author, make_grant(address, kinds, height + lasts, limit), dry_run=dry_run, yes=yes)


def revoke_grant(path: Path, author: str, to: str, *, dry_run: bool, yes: bool) -> None:
    """Show, ask, send. Errors: as `give_grant`."""
    home = Home(path)
    _send(home, author, RevokeScope(find_account(home, to, "TO").address), dry_run=dry_run, yes=yes)


def print_grants(path: Path, wanted: str, *, as_json: bool) -> None:
    """Print an account and its grants. Errors: ConfigError when there is no such account or network."""
    home = Home(path)
    home.load_genesis()
    address = find_account(home, wanted, "ACCOUNT").address.hex()
    found = find_standing(
        home, lambda client: ask_account(client, address), lambda state: build_account(state, address)
    )
    print_found(found, _describe, as_json=as_json)


def _send(home: Home, author: str, message: GrantScope | RevokeScope, *, dry_run: bool, yes: bool) -> None:
    key = load_signer(home, author)
    with open_control(home) as client:
        signed = sign_message(home, client, key, message)
        trial = try_signed(client, signed)
        print(f"Account   {key.address.hex()} ({author} of this home)")
        print(f"Says      {describe_message(home, message)}")
        for line in describe_moves(trial, FEE):
            print(line)
        if dry_run or not (yes or typer.confirm("Send it?")):
            print("Nothing was sent.")
            return
        print(f"Done at height {send_signed(client, signed)}.")


def _describe(found: AccountStatus) -> Iterator[str]:
    yield f"account   {found.address}{f' ({found.name})' if found.name else ''}"
    yield f"holds     {format_coins(found.coins)}, {format_dollars(found.dollars)} (a test asset)"
    for asset, units in found.assets.items():
        if units:
            yield f"holds     {format_asset(asset, units)} (a test asset)"
    yield f"sequence  {found.sequence}"
    for grant in found.grants:
        yield f"grant     {grant.to}: {', '.join(grant.kinds)}; {format_coins(grant.left)} left, up to height {grant.until:,}"
