"""What `paceline multisig` does: names policies, writes proposals, shows them at each step, signs and sends them.

Where the network runs here, it says what a proposal would move; a machine that only signs shows what the file says. Invariant:
nothing is signed or sent that was not shown, and no file is taken whose signatures do not fit what it says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import typer

from paceline.base.errors import ConfigError, Invalid
from paceline.base.keys import AccountKey
from paceline.cli.addresses import find_account
from paceline.cli.signing import (
    REFUSED,
    account_names,
    ask_account,
    describe_moves,
    load_own_key,
    open_control,
    require_form,
    send_signed,
    try_signed,
)
from paceline.cli.transfers import FEE, make_transfer, name_asset, parse_amount
from paceline.cli.wording import describe_message
from paceline.economy.denominations import parse_coins
from paceline.node.chains.trial import Trial
from paceline.node.home import Home
from paceline.node.membership.drafts import Draft, add_signature, complete, load_draft, save_draft, start_draft
from paceline.node.membership.policies import add_policy, load_policies, make_policy
from paceline.protocol.codec import encode
from paceline.protocol.genesis import compute_chain_id
from paceline.protocol.grants import GrantScope, RevokeScope
from paceline.protocol.joint import Policy
from paceline.protocol.messages import Message
from paceline.protocol.transactions import TransactionBody


@dataclass(frozen=True, kw_only=True)
class ProposalOptions:
    """What the command line asked for. Without `key` the one that this home has signs."""

    home: Path
    name: str
    file: Path
    key: str | None
    blocks: int
    dry_run: bool
    yes: bool


class PolicyLine(msgspec.Struct, frozen=True, kw_only=True):
    """A joint account of a home."""

    name: str
    address: str
    threshold: int
    keys: list[str]


def create_account(path: Path, name: str, keys: list[str], threshold: int) -> None:
    """Keep a policy under a name. Errors: ConfigError when a key is none, one is named twice, or the name is taken."""
    home = Home(path)
    policy = make_policy(threshold, [_find_key(home, key) for key in keys])
    add_policy(home, name, policy)
    print(f"{name}: account {policy.address.hex()}, {threshold} of {len(keys)} keys")
    print("Every signer should create it too, and compare the address: without its policy nobody moves its coins.")


def print_accounts(path: Path, *, as_json: bool) -> None:
    """Print the joint accounts of a home. Errors: ConfigError when their file is damaged."""
    lines = [
        PolicyLine(
            name=name, address=found.address.hex(), threshold=found.threshold, keys=[key.hex() for key in found.keys]
        )
        for name, found in load_policies(Home(path)).items()
    ]
    if as_json:
        print(msgspec.json.encode(lines).decode())
        return
    for line in lines:
        print(f"{line.address}  {line.name}, {line.threshold} of {len(line.keys)}")
        for key in line.keys:
            print(f"  {key}")


def propose_payment(options: ProposalOptions, to: str, amount: str) -> None:
    """Propose to pay coins or a test asset. Errors: as `propose`, and ConfigError when account or amount is none."""
    asset = name_asset(amount)
    nicoin = parse_amount(amount, asset)
    propose(options, make_transfer(find_account(Home(options.home), to, "TO").address, nicoin, asset))


def propose_scope(options: ProposalOptions, to: str, kinds: list[str], lasts: int, limit: str) -> None:
    """Propose a grant. Errors: as `propose`, and ConfigError when account or limit is none."""
    home = Home(options.home)
    with open_control(home) as client:
        height = ask_account(client, _find_policy(home, options.name).address.hex()).height
    propose(options, make_grant(find_account(home, to, "TO").address, kinds, height + lasts, limit))


def propose_revocation(options: ProposalOptions, to: str) -> None:
    """Propose to end a grant. Errors: as `propose`, and ConfigError when the account is none."""
    propose(options, RevokeScope(find_account(Home(options.home), to, "TO").address))


def make_grant(to: bytes, kinds: list[str], until: int, limit: str) -> GrantScope:
    """The message that grants. Errors: ConfigError when a kind or the limit cannot be."""
    try:
        nicoin = parse_coins(limit)
    except Invalid as problem:
        raise ConfigError(f"--limit: {problem.message}") from None
    return require_form(GrantScope(to, tuple(sorted(set(kinds))), until, nicoin), "this cannot be granted")


def propose(options: ProposalOptions, message: Message) -> None:
    """Show what it would do, ask, sign as the first and write the file.

    Errors: ConfigError when nothing runs here, this home has no such account or key, the ledger would refuse or the file is
    there; TransportError when the network does not answer.
    """
    home = Home(options.home)
    if options.file.exists():
        raise ConfigError(f"{options.file} exists already: a proposal overwrites nothing; name another file")
    policy = _find_policy(home, options.name)
    key = _choose_key(home, policy, options.key)
    with open_control(home) as client:
        account = ask_account(client, policy.address.hex())
        body = TransactionBody(
            chain_id=compute_chain_id(home.load_genesis()),
            sequence=account.sequence,
            expires_at=account.height + options.blocks,
            message=message,
        )
    draft = start_draft(policy, body, key)
    _show(home, draft)
    if options.dry_run or not (options.yes or typer.confirm("Sign and write it?")):
        print("Nothing was signed.")
        return
    save_draft(options.file, draft)
    print(f"{options.file} goes to the other signers; {draft.missing} more must sign" + _name_mark(draft))


def show_draft(path: Path, file: Path) -> None:
    """Print what a file proposes. Errors: ConfigError when it is none, or was changed."""
    _show(Home(path), load_draft(file))


def sign_draft(path: Path, file: Path, name: str | None, *, dry_run: bool, yes: bool) -> None:
    """Show, ask, add a signature. Errors: ConfigError when the file was changed, or this home has no key for it."""
    home, draft = Home(path), load_draft(file)
    key = _choose_key(home, draft.envelope.policy, name)
    signed = add_signature(draft, key)
    _show(home, draft)
    if dry_run or not (yes or typer.confirm("Sign it?")):
        print("Nothing was signed.")
        return
    save_draft(file, signed)
    print((f"{signed.missing} more must sign" if signed.missing else "It can be sent") + _name_mark(signed))


def send_draft(path: Path, file: Path, *, dry_run: bool, yes: bool) -> None:
    """Show what moves, ask, send, wait for the block.

    Errors: ConfigError when signatures are missing, the file was changed or the ledger refuses; TransportError when the
    network does not answer.
    """
    home, draft = Home(path), load_draft(file)
    data = complete(draft)
    with open_control(home) as client:
        for line in _describe(home, draft):
            print(line)
        for line in describe_moves(try_signed(client, data), FEE):
            print(line)
        if dry_run or not (yes or typer.confirm("Send it?")):
            print("Nothing was sent.")
            return
        print(f"Done at height {send_signed(client, data)}.")


def _show(home: Home, draft: Draft) -> None:
    """What a draft says and, where its network runs here, what it would move. Errors: ConfigError when it would not."""
    for line in _describe(home, draft):
        print(line)
    if home.load_running() is None:
        print("Moves     not tried: no network runs in this home")
        return
    with open_control(home) as client:
        trial = client.post("/trial/draft", encode(draft.envelope), Trial)
    if trial.code != "ok":
        raise ConfigError(f"{REFUSED}: {trial.code}: {trial.message}")
    for line in describe_moves(trial, FEE):
        print(line)


def _describe(home: Home, draft: Draft) -> Iterator[str]:
    policy, body = draft.envelope.policy, draft.body
    known = next((name for name, found in load_policies(home).items() if found == policy), "")
    yield f"Account   {policy.address.hex()}{f' (joint account {known})' if known else ', unknown to this home'}"
    yield f"Chain     {body.chain_id}"
    if home.exists and compute_chain_id(home.load_genesis()) != body.chain_id:
        raise ConfigError(f"this is for the network {body.chain_id}; {home.path} holds another one")
    order = "in no order" if body.sequence is None else f"transaction {body.sequence} of the account"
    yield f"Order     {order}, up to height {body.expires_at:,}"
    yield f"Says      {describe_message(home, body.message)}"
    own = {home.load_key(name).public_key: name for name in account_names(home)}
    for key in draft.signers:
        yield f"Signed    {key.hex()}{f' ({own[key]} of this home)' if key in own else ''}"
    yield f"Signers   {len(draft.signers)} of {policy.threshold} that are needed, of {len(policy.keys)} keys"


def _name_mark(draft: Draft) -> str:
    return f". All signers see the mark {draft.mark}."


def _find_policy(home: Home, name: str) -> Policy:
    policies = load_policies(home)
    if name not in policies:
        raise ConfigError(f"no joint account is called {name!r}; this home has {', '.join(policies) or 'none'}")
    return policies[name]


def _choose_key(home: Home, policy: Policy, name: str | None) -> AccountKey:
    if name is not None:
        return load_own_key(home, name, "--key")
    fitting = [own for own in account_names(home) if home.load_key(own).public_key in policy.keys]
    if len(fitting) != 1:
        raise ConfigError(f"this home has {', '.join(fitting) or 'none'} of the account's keys: name one with --key")
    return home.load_key(fitting[0])


def _find_key(home: Home, text: str) -> bytes:
    if re.fullmatch("[0-9a-fA-F]{64}", text):
        return bytes.fromhex(text)
    if text in account_names(home):
        return home.load_key(text).public_key
    raise ConfigError(f"--key {text}: 64 hex digits of a public key are expected, or a name of this home")
