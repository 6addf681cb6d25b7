"""Turns views into what the dashboard's panels show: sentences, shares, chart series, HTML fragments.

Refuses to know: connections and when something changed. Invariant: every text from outside passes through the
template engine's escaping or JSON, never into markup by hand.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from paceline.node.views import BlockView, Gateway, NetworkStatus, TaskView, Topic

NICOIN_PER_COIN = 1_000_000_000
SMALL_NICOIN = 1_000_000
SHOWN_BLOCKS = 10
COMPARED_BLOCKS = 64
SHOWN_TASKS = 40
TEMPLATE_FOLDER = Path(__file__).parent / "templates"

# A block can move anything; a task moves its own row and the counts beside each node.
PANELS_OF: Mapping[Topic, tuple[str, ...]] = {
    "block": ("network", "nodes", "blocks", "tasks", "power", "models"),
    "task": ("tasks", "nodes"),
    "training": ("training", "loss"),
}
ALL_PANELS = ("network", "nodes", "blocks", "tasks", "training", "power", "loss", "models")
JSON_PANELS = frozenset({"power", "loss", "models"})


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Whether the nodes that answer hold the same state. `tone` is good, warn or bad."""

    tone: str
    text: str


class Panels:
    """Renders panels from a gateway."""

    names = ALL_PANELS

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._templates = build_templates()
        self._renderers: Mapping[str, Callable[[], str]] = {
            "network": self._render_network,
            "nodes": self._render_nodes,
            "blocks": lambda: self._fill("_blocks.html", blocks=gateway.blocks(SHOWN_BLOCKS)),
            "tasks": lambda: self._fill("_tasks.html", tasks=gateway.tasks(SHOWN_TASKS)),
            "training": lambda: self._fill("_training.html", training=gateway.training()),
            "power": self._encode_power,
            "loss": self._encode_loss,
            "models": self._encode_models,
        }

    def names_of(self, topic: Topic) -> tuple[str, ...]:
        """The panels that may read differently after news of a topic."""
        return PANELS_OF[topic]

    def render(self, name: str) -> str:
        """Render one panel: HTML, or JSON for those in JSON_PANELS."""
        return self._renderers[name]()

    def render_page(self, asset_path: Callable[[str], str], *, api_keys_required: bool) -> str:
        """Render the whole page with every panel filled."""
        panels = {name: self.render(name) for name in ALL_PANELS if name not in JSON_PANELS}
        return self._fill(
            "page.html",
            panels=panels,
            asset=asset_path,
            here="/",
            models=self._gateway.models(),
            api_keys_required=api_keys_required,
        )

    def _fill(self, template: str, **values: object) -> str:
        return self._templates.get_template(template).render(values)

    def _render_network(self) -> str:
        status = self._gateway.status()
        agreement = judge_agreement(status, self._gateway.blocks(COMPARED_BLOCKS))
        name, promise = split_engine(status.engine)
        return self._fill("_network.html", status=status, agreement=agreement, engine=name, promise=promise)

    def _render_nodes(self) -> str:
        nodes = self._gateway.status().nodes
        total = sum(node.voting_power for node in nodes)
        return self._fill("_nodes.html", nodes=nodes, total=total)

    def _encode_power(self) -> str:
        holders = [node for node in self._gateway.status().nodes if node.voting_power > 0]
        series = {"names": [node.name for node in holders], "values": [node.voting_power for node in holders]}
        return msgspec.json.encode(series).decode()

    def _encode_loss(self) -> str:
        training = self._gateway.training()
        losses = training.losses if training else ()
        series = {"rounds": [number for number, _ in losses], "losses": [loss for _, loss in losses]}
        return msgspec.json.encode(series).decode()

    def _encode_models(self) -> str:
        return msgspec.json.encode([model.model_id for model in self._gateway.models()]).decode()


def build_templates() -> Environment:
    """Build the template engine; a name that a template misses is an error, not an empty string."""
    engine = Environment(
        loader=FileSystemLoader(TEMPLATE_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.filters |= {
        "coins": format_coins,
        "share": format_share,
        "clock": format_clock,
        "checks": describe_checks,
        "tone": get_tone,
    }
    return engine


def judge_agreement(status: NetworkStatus, blocks: Sequence[BlockView]) -> Agreement:
    """Compare every node's app hash with the chain here, each at its own height."""
    known = {block.height: block.app_hash for block in blocks} | {status.height: status.app_hash}
    alive = [node for node in status.nodes if node.alive]
    differing = [node.name for node in alive if known.get(node.height, node.app_hash) != node.app_hash]
    comparable = [node for node in alive if node.height in known]
    if differing:
        return Agreement(tone="bad", text=f"{', '.join(differing)} hold another state")
    if not alive:
        return Agreement(tone="warn", text="no node answers yet")
    if len(comparable) < len(status.nodes):
        return Agreement(tone="warn", text=f"{len(comparable)} of {len(status.nodes)} nodes agree")
    return Agreement(tone="good", text=f"all {len(alive)} nodes agree")


def split_engine(label: str) -> tuple[str, str]:
    """Split an engine's label into its name and what it says of itself (its name again, if it says nothing)."""
    name, _, promise = label.partition(": ")
    return name, promise or name


def describe_checks(task: TaskView) -> str:
    """Say in one line what the checkers found."""
    if not task.checkers and not task.verdicts:
        return "no checker drawn"
    spoken = {verdict.checker for verdict in task.verdicts}
    waiting = [name for name in task.checkers if name not in spoken]
    found = [f"{verdict.outcome} by {verdict.checker}" for verdict in task.verdicts]
    refund = [f"{format_coins(task.refunded_nicoin)} refunded"] if task.refunded_nicoin else []
    return ", ".join([*found, *(f"waiting for {name}" for name in waiting), *refund])


def get_tone(outcome: str) -> str:
    """Return the colour family of a verdict."""
    return {"ACCEPTED": "good", "REJECTED": "bad", "UNDECIDED": "warn"}.get(outcome, "calm")


def format_coins(nicoin: int) -> str:
    """Write an amount exactly when small, to three decimals (towards zero) when large."""
    size, sign = abs(nicoin), "-" if nicoin < 0 else ""
    if size == 0:
        return "0"
    if size < SMALL_NICOIN:
        return f"{sign}{size:,} nicoin"
    whole, part = divmod(size, NICOIN_PER_COIN)
    return f"{sign}{whole:,}.{part * 1000 // NICOIN_PER_COIN:03d} coins"


def format_share(part: int, total: int) -> str:
    """Write a share in percent with one decimal."""
    per_mille = part * 1000 // total if total else 0
    return f"{per_mille // 10}.{per_mille % 10}\u00a0%"


def format_clock(unix_milliseconds: int) -> str:
    """Write a time of day in UTC."""
    moment = dt.datetime.fromtimestamp(unix_milliseconds // 1000, tz=dt.UTC)
    return moment.strftime("%H:%M:%S")
