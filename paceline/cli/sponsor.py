"""`paceline sponsor` pays a new node's deposit from this home's account; `paceline leave` takes a node out again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import httpx
import typer
from rich.console import Console

from paceline.base.errors import ConfigError, Invalid, TransportError
from paceline.base.keys import compute_address
from paceline.cli.network import ControlClient
from paceline.ledger.registration import verify_registration
from paceline.network.wire import decode_refusal
from paceline.node.control import MAX_REGISTRATION_BYTES, LeaveOrder, Leaving, Sponsored
from paceline.node.home import Home, Running
from paceline.protocol.codec import decode, encode
from paceline.protocol.genesis import compute_chain_id
from paceline.protocol.messages import Registration
from paceline.protocol.params import NICOIN_PER_COIN

ASK_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class SponsorOptions:
    """What the command line asked for."""

    url: str
    home: Path
    yes: bool


def run_sponsor(options: SponsorOptions, console: Console) -> None:
    """Show, ask, pay.

    Errors: ConfigError when nothing runs here or the ledger refuses; TransportError when the node does not answer;
    InvalidTransaction when its registration does not hold.
    """
    home = Home(options.home)
    genesis = home.load_genesis()
    running = require_running(home)
    registration = fetch_registration(options.url.rstrip("/"))
    verify_registration(registration, compute_chain_id(genesis))
    deposit = genesis.params.node_deposit
    console.print(f"Node      {registration.name}, account {compute_address(registration.public_key).hex()}")
    console.print(f"Reached   {registration.url or 'nowhere from outside'}")
    console.print(f"Serves    {', '.join(registration.serves) or 'no model'}")
    console.print(f"Deposit   {deposit / NICOIN_PER_COIN:g} coins, back when the node leaves")
    if not options.yes and not typer.confirm("Pay it?"):
        console.print("Nothing was paid.")
        return
    client = ControlClient(running.web_url, home.load_token())
    try:
        found = client.post("/sponsor", encode(registration), Sponsored)
    finally:
        client.close()
    console.print(f"{found.name} is a node since height {found.height}; it takes part from the next Race on.")


def run_leave(name: str | None, path: Path, console: Console) -> None:
    """Take this home's node, or one that its account sponsored, out of the network.

    Errors: ConfigError when nothing runs here or the ledger refuses.
    """
    home = Home(path)
    wanted = name or home.node_names()[0]
    client = ControlClient(require_running(home).web_url, home.load_token())
    try:
        found = client.post("/leave", LeaveOrder(name=wanted), Leaving)
    finally:
        client.close()
    console.print(
        f"{found.name} races no more. It is gone after epoch {found.after_epoch}, or later while a group or work names it; "
        "its deposit goes back to its sponsor then. Keep it running until its weight is gone.",
        soft_wrap=True,
    )


def require_running(home: Home) -> Running:
    """What runs in a home. Errors: ConfigError when nothing does."""
    running = home.load_running()
    if running is None:
        raise ConfigError(f"the network in {home.path} does not run: start it with `paceline up --home {home.path}`")
    return running


def fetch_registration(url: str) -> Registration:
    """The registration that a node signed.

    Errors: ConfigError when it has none to give; TransportError when it does not answer.
    """
    try:
        reply = httpx.get(f"{url}/public/registration", timeout=ASK_SECONDS, trust_env=False)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise ConfigError(f"{url!r} is no address: http://host:port is expected") from None
    except httpx.TransportError as problem:
        raise TransportError(f"{url} does not answer ({problem}): does the node run, and is its port open?") from None
    if reply.status_code != httpx.codes.OK:
        raise ConfigError(f"{url}: {decode_refusal(reply.content).message}")
    try:
        return decode(Registration, reply.content, limit_bytes=MAX_REGISTRATION_BYTES)
    except Invalid as problem:
        raise TransportError(f"{url} answers something else than a registration: {problem}") from None
