"""The panels of the page "Economy": every coin by place, issuance, prices, proposals, one node's reward, the pool.

Refuses to know: connections, and how any number came to be. Invariant: amounts are written exactly, every place that the node
names is shown, and every text from the ledger passes through the template engine's escaping.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment

from paceline.node.chains.economy import IssuanceStatus, Place, RewardLine
from paceline.node.chains.proposals import GovernanceStatus, ProposalLine
from paceline.node.economy_views import EconomyView, show_asset, show_coins, show_dollars
from paceline.node.views import Gateway, Topic
from paceline.web.panels import build_templates

PPM = 1_000_000
PPM_PER_CENT = 10_000
SHOWN_ENDED = 12
VOTING = "voting"
PAGE = "/economy"
EVENTS = "/economy/events"
NAMES = ("standing", "supply", "proposals", "rewards", "issuance", "price", "tokens", "pool")
NAMES_OF: Mapping[Topic, tuple[str, ...]] = {"block": NAMES, "task": (), "training": ()}

GROUPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "Set aside at genesis",
        "Leave by the rules of issuance and the three programmes only.",
        ("core reserve", "top hosts", "liquidity pool", "founders"),
    ),
    (
        "Held for work",
        "Paid in already: for answers and training, ahead or on order, and what votes reserved.",
        ("session escrow", "run escrow", "held pay", "vesting pay", "training fund", "experiments", "compute credits"),
    ),
    (
        "Deposits and bonds",
        "Come back to whoever kept the rules.",
        ("node deposits", "race bonds", "report fees", "proposal deposits"),
    ),
    ("Accounts", "Free for their owners to move.", ("accounts of nodes", "other accounts")),
)
OTHER_GROUP = ("Elsewhere", "Held by other rules of the ledger.")

STATUS_WORDS = {
    VOTING: ("voting", "calm"),
    "passed": ("passed, waits for the end of the epoch", "good"),
    "executed": ("passed and done", "good"),
    "failed": ("passed, could not be done", "bad"),
    "rejected": ("rejected", "bad"),
    "vetoed": ("vetoed, deposit lost", "bad"),
    "no-quorum": ("too few voted, deposit lost", "warn"),
}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Places that belong together. Units: nicoin."""

    number: int
    name: str
    sentence: str
    places: tuple[Place, ...]

    @property
    def nicoin(self) -> int:
        """What they hold together."""
        return sum(place.nicoin for place in self.places)


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One of the four shares that decide a reward, and why it is what it is."""

    name: str
    ppm: int
    sentence: str


class EconomyPanels:
    """Renders the panels for one viewer, who looks at one node's reward."""

    names = NAMES

    def __init__(self, gateway: Gateway, node: str = "", templates: Environment | None = None) -> None:
        self._gateway = gateway
        self._node = node
        self._templates = templates or build_economy_templates()
        self._renderers: Mapping[str, Callable[[EconomyView], str]] = {
            "standing": lambda view: self._fill("_standing.html", view=view),
            "supply": self._render_supply,
            "issuance": self._render_issuance,
            "price": self._render_price,
            "tokens": lambda view: self._fill("_tokens.html", prices=view.economy.prices),
            "proposals": self._render_proposals,
            "rewards": self._render_rewards,
            "pool": lambda view: self._fill("_pool.html", pool=view.pool),
        }

    def names_of(self, topic: Topic) -> tuple[str, ...]:
        """The panels that may read differently after news of a topic."""
        return NAMES_OF[topic]

    def render(self, name: str) -> str:
        """Render one panel."""
        return self._renderers[name](self._gateway.economy())

    def render_page(self, asset_path: Callable[[str], str]) -> str:
        """Render the whole page with every panel filled."""
        panels = {name: self.render(name) for name in NAMES}
        return self._fill("economy.html", panels=panels, asset=asset_path, here=PAGE, path=EVENTS, node=self._node)

    def _fill(self, template: str, **values: object) -> str:
        return self._templates.get_template(template).render(values)

    def _render_supply(self, view: EconomyView) -> str:
        groups = group_places(view.economy.places)
        total = sum(group.nicoin for group in groups)
        economy = view.economy
        return self._fill("_supply.html", groups=groups, total=total, supply=economy.supply, height=economy.height)

    def _render_issuance(self, view: EconomyView) -> str:
        issuance = view.economy.issuance
        return self._fill("_issuance.html", issuance=issuance, fills=measure_batches(issuance))

    def _render_price(self, view: EconomyView) -> str:
        prices = view.economy.prices
        votes = sorted(prices.votes, key=lambda vote: (-vote.weight_ppm, vote.node))
        silent = sum(vote.weight_ppm for vote in votes if vote.price == 0)
        return self._fill("_price.html", prices=prices, votes=votes, silent_ppm=silent)

    def _render_proposals(self, view: EconomyView) -> str:
        found = view.governance.proposals
        ended = [line for line in reversed(found) if line.status != VOTING]
        return self._fill(
            "_proposals.html",
            governance=view.governance,
            voting=[line for line in found if line.status == VOTING],
            ended=ended[:SHOWN_ENDED],
            describe=lambda line: describe_action(line, view.governance),
        )

    def _render_rewards(self, view: EconomyView) -> str:
        chosen = self._node or next(iter(view.nodes), "")
        reward = self._gateway.reward(chosen)
        return self._fill(
            "_rewards.html",
            view=view,
            page=PAGE,
            chosen=chosen,
            reward=reward,
            criteria=list_criteria(reward) if reward else (),
        )


def build_economy_templates() -> Environment:
    """The template engine with the words of amounts."""
    engine = build_templates()
    engine.filters |= {"exact": show_coins, "dollars": show_dollars, "percent": format_ppm, "standing": describe_status}
    engine.filters |= {"is_address": is_address, "units": show_asset}
    return engine


def group_places(places: list[Place]) -> list[Group]:
    """Places in their groups; what no group names comes last, so that all of them always add up."""
    by_name = {place.name: place for place in places}
    groups: list[Group] = []
    for name, sentence, members in GROUPS:
        found = tuple(by_name.pop(member) for member in members if member in by_name)
        groups.append(Group(number=len(groups) + 1, name=name, sentence=sentence, places=found))
    if by_name:
        name, sentence = OTHER_GROUP
        groups.append(Group(number=len(groups) + 1, name=name, sentence=sentence, places=tuple(by_name.values())))
    return groups


def measure_batches(issuance: IssuanceStatus) -> list[int]:
    """How full each batch is, in millionths."""
    size = max(1, (issuance.issued + issuance.left_in_batch) // max(1, issuance.batch))
    issued = [min(size, max(0, issuance.issued - number * size)) for number in range(issuance.batches)]
    return [amount * PPM // size for amount in issued]


def list_criteria(reward: RewardLine) -> tuple[Criterion, ...]:
    """The four criteria of a reward in words."""
    missed = min(reward.missed_blocks, reward.epoch_blocks)
    work = (
        f"answered {max(0, reward.answered)} of {reward.drawn} tasks that were drawn for it; {format_ppm(reward.absence_ppm)}, "
        "three deviations and one task are forgiven"
    )
    return (
        Criterion(name="Accuracy", ppm=reward.accuracy_ppm, sentence=_describe_accuracy(reward)),
        Criterion(
            name="Checking",
            ppm=reward.validation_ppm,
            sentence=f"judged {reward.fulfilled} of {reward.duties} checks that it was drawn for; one is forgiven",
        ),
        Criterion(
            name="Work", ppm=reward.work_ppm, sentence=work if reward.drawn else "no task was drawn for it to answer"
        ),
        Criterion(
            name="Presence",
            ppm=reward.presence_ppm,
            sentence=f"missed {missed} of {reward.epoch_blocks} blocks",
        ),
    )


def _describe_accuracy(reward: RewardLine) -> str:
    if reward.is_guilty:
        return "a majority of all weight found a result false, so everything held is lost"
    if reward.is_fooled:
        return "it passed forced errors, so its checks are worth nothing"
    return "no result was found false"


def describe_action(line: ProposalLine, governance: GovernanceStatus) -> str:
    """What a proposal would do, in one sentence."""
    told: Mapping[str, Callable[[dict[str, Any]], str]] = {
        "parameter": lambda action: _describe_change(action, governance),
        "model": lambda action: _describe_entry(action["entry"]),
        "grant": lambda action: f"Pays {show_coins(action['amount'])} of the training fund to {action['to']}.",
        "method": lambda action: f"Approves the training method at {action['locator']}.",
        "experiment": lambda action: (
            f"Reserves {show_coins(action['budget'])} of the training fund for a run by the method of proposal {action['method']}."
        ),
        "upgrade": lambda action: f"Sets the upgrade {action['name']} for height {action['height']:,}.",
        "text": lambda _: "Puts its text on record.",
    }
    return told[line.kind](line.action) if line.kind in told else f"An action of the kind {line.kind}."


def _describe_change(action: dict[str, Any], governance: GovernanceStatus) -> str:
    found = next((line for line in governance.parameters if line.name == action["name"]), None)
    unit, meaning = (f" {found.unit}", f" ({found.sentence})") if found else ("", "")
    return f"Sets {action['name']}{meaning} to {action['value']:,}{unit} from the first height of an epoch on."


def _describe_entry(entry: dict[str, Any]) -> str:
    plural = "" if entry["micro_units"] == PPM else "s"
    units = f"{entry['micro_units'] / PPM:g} unit{plural} of compute a token"
    return f"Enters the model {entry['name']} in the registry: {units}, licence {entry['licence']}."


def describe_status(status: str) -> tuple[str, str]:
    """A proposal's status in words, and its colour family."""
    return STATUS_WORDS.get(status, (status, "calm"))


def is_address(author: str) -> bool:
    """True for an account that is no node, which is named by its address in hex digits."""
    return re.fullmatch(r"[0-9a-f]{40}", author) is not None


def format_ppm(ppm: int) -> str:
    """Write millionths in percent with two decimals, towards zero."""
    return f"{ppm // PPM_PER_CENT}.{ppm % PPM_PER_CENT // 100:02}\u00a0%"
