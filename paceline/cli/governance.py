"""What `propose`, `vote` and `proposals` do: sign with a key of the home, try, ask, send, and print how votes stand.

The ledger's own rules say what would happen, on the running node; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import typer
from rich.console import Console

from paceline.base.errors import ConfigError
from paceline.base.keys import AccountKey
from paceline.cli.addresses import load_actor
from paceline.cli.printing import count_units, print_found
from paceline.cli.propose import ProposeOptions
from paceline.cli.signing import (
    REFUSED,
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
from paceline.ledger.parameters import PARAMETERS
from paceline.node.chains.proposals import GovernanceStatus, ParameterLine, ProposalLine, build_governance_status
from paceline.node.chains.trial import Trial
from paceline.node.home import Home
from paceline.protocol import proposals as p
from paceline.protocol.fields import MAX_SUPPLY

OWN_POOLS = {"proposal deposits": "the proposal's deposit", "core reserve": "the fee"}


def send_proposal(options: ProposeOptions, action: p.Action, console: Console) -> None:
    """Show what moves, ask, send.

    Errors: ConfigError when nothing runs here, the home has no such key, a field is not well formed or the ledger refuses;
    TransportError when the network does not answer.
    """
    home = Home(options.home)
    key = load_signer(home, options.author)
    if isinstance(action, p.ChangeParameter):
        _require_value(action)
    _require_form(message := p.SubmitProposal(options.title, options.text, action))
    with open_control(home) as client:
        status = client.get("/governance", GovernanceStatus)
        signed = sign_message(home, client, key, message)
        trial = client.post("/trial", signed, Trial)
        for line in _describe_trial(trial, status, action):
            console.print(line, markup=False, highlight=False)
        if trial.code != "ok":
            raise ConfigError(f"{REFUSED}: {trial.code}: {trial.message}")
        if options.dry_run or not (options.yes or typer.confirm("Propose it?")):
            console.print("Nothing was sent.")
            return
        height = send_signed(client, signed)
        found = _find_own(client.get("/governance", GovernanceStatus), options, key, height)
    console.print(f"Proposal {found.number} is voted on up to height {found.ends_at} (block {height})", highlight=False)


def send_vote(path: Path, name: str | None, message: p.VoteProposal, owner: str | None, *, dry_run: bool) -> None:
    """Vote with a node's key, or with another by the node's grant; `dry_run` only asks what the ledger would say.

    Errors: as `send_proposal`.
    """
    if message.choice not in {p.YES, p.NO, p.ABSTAIN, p.VETO}:
        raise ConfigError(f"{message.choice!r} is no vote: yes, no, abstain or veto")
    home = Home(path)
    voter, key, account = load_actor(home, name, owner)
    _require_form(message)
    with open_control(home) as client:
        signed = sign_message(home, client, key, message, account)
        if dry_run:
            try_signed(client, signed)
            print(
                f"{voter} would vote {message.choice} on proposal {message.proposal}; no coins move. Nothing was sent."
            )
            return
        height = send_signed(client, signed)
    print(f"{voter} voted {message.choice} on proposal {message.proposal} (block {height})")


def print_governance(path: Path, number: int | None, *, show_parameters: bool, as_json: bool) -> None:
    """Print proposals, or the numbers that a vote may change.

    Errors: ConfigError when the folder holds no network or no such proposal is kept; TransportError when the network runs
    but does not answer.
    """
    if show_parameters and number is not None:
        raise ConfigError("--parameters lists numbers, not a proposal: leave one of the two out")
    status = load_governance(Home(path))
    if number is None:
        describe = _describe_parameters if show_parameters else _describe_status
        print_found(status, describe, as_json=as_json)
        return
    found = [line for line in status.proposals if line.number == number]
    if not found:
        raise ConfigError(f"no proposal of number {number} is kept; `paceline proposals` lists those that are")
    print_found(found[0], lambda line: _describe_proposal(line, status), as_json=as_json)


def load_governance(home: Home) -> GovernanceStatus:
    """What the running network says, or what the stores of the node that got furthest hold when nothing runs.

    Errors: ConfigError when the folder holds no network; TransportError when it runs but does not answer.
    """
    params = home.load_genesis().params
    return find_standing(
        home,
        lambda client: client.get("/governance", GovernanceStatus),
        lambda state: build_governance_status(state, params),
    )


def _require_form(message: p.SubmitProposal | p.VoteProposal) -> None:
    if isinstance(message, p.SubmitProposal):
        _require_printable(message.title, p.MAX_TITLE, "--title", least=1)
        _require_printable(message.text.replace("\n", " "), p.MAX_TEXT, "--text", least=0)
    require_form(message, "this cannot be proposed as it stands")


def _require_value(action: p.ChangeParameter) -> None:
    """What no message can carry; whether the rest lies within the bounds, the running network says."""
    if 0 <= action.value <= MAX_SUPPLY:
        return
    bounds = PARAMETERS.get(action.name)
    if bounds is None:
        raise ConfigError(f"NAME {action.name}: it is none of {', '.join(PARAMETERS)}")
    raise ConfigError(f"VALUE {action.value}: {action.name} takes {bounds.low:,} to {bounds.high:,} {bounds.unit}")


def _require_printable(text: str, most: int, what: str, *, least: int) -> None:
    if (
        not least <= len(text) <= most
        or not all(" " <= sign <= "~" for sign in text)
        or (least and text != text.strip())
    ):
        raise ConfigError(f"{what} must be {least} to {most} printable ASCII characters, without spaces at the ends")


def _find_own(status: GovernanceStatus, options: ProposeOptions, key: AccountKey, height: int) -> ProposalLine:
    authors = {options.author, key.address.hex()}
    mine = [line for line in status.proposals if line.opened_at == height and line.author in authors]
    found = [line for line in mine if line.title == options.title]
    if not found:
        raise ConfigError(f"the block {height} holds no such proposal; look at `paceline proposals`")
    return found[-1]


def _describe_trial(trial: Trial, status: GovernanceStatus, action: p.Action) -> Iterator[str]:
    yield f"Proposal  {_summarise(action)}"
    for line in status.parameters:
        if isinstance(action, p.ChangeParameter) and line.name == action.name:
            yield f"Bounds    {line.low:,} to {line.high:,} {line.unit}; {line.value:,} holds; {line.sentence}"
    yield from describe_moves(trial, OWN_POOLS)
    yield (
        f"Voting    {status.voting_blocks:,} heights; at least {status.quorum_ppm / 10_000:g} % of all weight must vote. The "
        "deposit is lost without them, or when a third of the votes is a veto, and returns otherwise"
    )


def _summarise(action: p.Action) -> str:
    told = "text"
    match action:
        case p.ChangeParameter(name, value):
            told = f"parameter {name} = {value:,} from the first height of an epoch on"
        case p.EnterModel(entry):
            told = f"model {entry.name}: {count_units(entry.micro_units)} a token, {entry.licence}"
        case p.PayGrant(to, amount):
            told = f"grant of {format_coins(amount)} of the training fund to {to.hex()}"
        case p.ApproveMethod(_, locator):
            told = f"method {locator}"
        case p.FundExperiment(method, _, _, budget, micro_units):
            told = (
                f"experiment by the method of proposal {method} for {format_coins(budget)} of the training fund, "
                f"{micro_units / 1_000_000:,g} units of compute an update"
            )
        case p.SetUpgrade(name, height):
            told = f"upgrade {name} at height {height:,}"
    return told


def _describe_status(status: GovernanceStatus) -> Iterator[str]:
    yield f"height    {status.height:,}; the next epoch begins at {status.edge:,}"
    yield f"fund      {format_coins(status.fund)}"
    for line in status.proposals:
        yield f"{line.number:<8}  {line.status:<10} {line.kind:<10} {line.title}"
    for found in status.experiments:
        yield f"reserved  {format_coins(found.reserved)} for the experiment of proposal {found.proposal}, up to epoch {found.until}"
    for entry in status.models:
        yield f"model     {entry['name']}: {count_units(entry['micro_units'])} a token, {entry['licence']}"


def _describe_proposal(line: ProposalLine, status: GovernanceStatus) -> Iterator[str]:
    yield f"proposal  {line.number}: {line.title}"
    yield f"status    {line.status}{f' ({line.reason})' if line.reason else ''}"
    yield f"kind      {line.kind}" + "".join(f", {name} {value}" for name, value in line.action.items())
    yield f"author    {line.author}, deposit {format_coins(line.deposit)}"
    left = f", {line.ends_at - status.height:,} from here" if line.ends_at > status.height else ""
    yield f"voting    height {line.opened_at:,} to {line.ends_at:,}{left}"
    shares = line.shares
    parts = (("yes", shares.yes_ppm), ("no", shares.no_ppm), ("abstain", shares.abstain_ppm), ("veto", shares.veto_ppm))
    yield "weight    " + ", ".join(f"{name} {share / 10_000:.2f} %" for name, share in parts)
    for cast in line.votes:
        yield f"vote      {cast.node}: {cast.choice} ({cast.weight_ppm / 10_000:.2f} %)"
    for part in line.text.splitlines():
        yield f"text      {part}"


def _describe_parameters(status: GovernanceStatus) -> Iterator[str]:
    for line in status.parameters:
        yield _describe_parameter(line)


def _describe_parameter(line: ParameterLine) -> str:
    voted = "" if line.value == line.genesis_value else f" (genesis: {line.genesis_value:,})"
    return f"{line.name:<22} {line.value:,} {line.unit}{voted}; {line.low:,} to {line.high:,}: {line.sentence}"
