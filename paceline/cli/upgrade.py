"""`paceline upgrade`: vote on a change of the rules with a node's key, and see where it stands. Signs, sends and prints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paceline.cli.addresses import load_actor
from paceline.cli.printing import print_found
from paceline.cli.signing import open_control, send_signed, sign_message
from paceline.cli.standing import find_standing
from paceline.ledger.upgrades import HANDLERS
from paceline.node.chains.upgrades import PlanLine, UpgradeStatus, build_upgrade_status
from paceline.node.home import Home
from paceline.protocol.messages import CancelUpgrade, PlanUpgrade


@dataclass(frozen=True, kw_only=True)
class VoteOptions:
    """What the command line asked for. Without `node` the home's first one votes."""

    home: Path
    name: str
    height: int
    node: str | None
    cancel: bool
    owner: str | None = None
    """On whose behalf; the key then needs a grant of that account."""


def send_vote(options: VoteOptions) -> None:
    """Sign with the node's own key, hand over to the running network, wait for the block.

    Errors: ConfigError when nothing runs here, the home has no such node or the ledger refuses; TransportError when the
    network does not answer.
    """
    home = Home(options.home)
    voter, key, account = load_actor(home, options.node, options.owner)
    kind = CancelUpgrade if options.cancel else PlanUpgrade
    with open_control(home) as client:
        height = send_signed(client, sign_message(home, client, key, kind(options.name, options.height), account))
    action = "taking back" if options.cancel else "planning"
    print(f"{voter} voted for {action} {options.name} at height {options.height} (block {height})")


def print_upgrade_status(path: Path, *, as_json: bool) -> None:
    """Print where upgrades stand.

    Errors: as `load_upgrade_status`.
    """
    print_found(load_upgrade_status(Home(path)), _describe, as_json=as_json)


def load_upgrade_status(home: Home) -> UpgradeStatus:
    """What the running network says, or what the stores hold when nothing runs.

    Errors: ConfigError when the folder holds no network; TransportError when it runs but does not answer.
    """
    return find_standing(
        home,
        lambda client: client.get("/upgrade", UpgradeStatus),
        lambda state: build_upgrade_status(state, HANDLERS.__contains__),
    )


def _describe(found: UpgradeStatus) -> Iterator[str]:
    yield f"height  {found.height}"
    yield f"plan    {'none' if found.plan is None else _describe_plan(found.plan, found.height)}"
    for line in found.votes:
        action = "take back" if line.cancels else "plan"
        share = f"{line.weight_ppm / 10_000:.2f} % of weight"
        yield f"vote    {line.node}: {action} {line.name} at height {line.height} ({share})"
    for done in found.done:
        yield f"done    {done.name} at height {done.height}"


def _describe_plan(plan: PlanLine, height: int) -> str:
    left = f"{plan.name} at height {plan.height}, {plan.height - height} from here"
    if plan.is_known:
        return f"{left}; this software has it and goes on"
    return f"{left}; this software does not have it and stops before: install a release that has it"
