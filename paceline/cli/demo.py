"""`paceline demo`: the whole job on real input, phase by phase, with three cheaters that get caught."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from paceline.base.errors import ConfigError
from paceline.cli.environment import get_default_home
from paceline.cli.meter import MemoryMeter
from paceline.cli.network import Network
from paceline.cli.prompts import PROMPTS
from paceline.models.catalogue import DEFAULT_MODEL
from paceline.node.answers.reports import Report, SettlementLine, TrainingReport
from paceline.node.home import Home, NewHome, create_home, write_whole
from paceline.node.supervisor import Listen, Supervisor
from paceline.protocol.params import NICOIN_PER_COIN
from paceline.training.data import load_corpus

MAX_REQUESTS = 60
ANSWER_TOKENS = 40
RACE_SECONDS = 180.0
CHECK_SECONDS = 120.0
TRAINING_SECONDS = 400.0
ROUNDS = 5
BAR_WIDTH = 40
GATEWAY, RACE_CHEAT, MODEL_CHEAT, TRAINING_CHEAT = "node-1", "node-5", "node-4", "node-3"
TRAINERS = ("node-2", TRAINING_CHEAT, RACE_CHEAT)


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What the command line asked for."""

    nodes: int
    seed: int | None
    data: Path | None
    json_path: Path | None
    keep: bool
    port: int
    home: Path | None


class RaceResult(msgspec.Struct, frozen=True, kw_only=True):
    """Part of the JSON."""

    claims: int
    accepted_hits: int
    rejected_nodes: list[str]


class InferenceResult(msgspec.Struct, frozen=True, kw_only=True):
    """Part of the JSON; `refunded` in nicoin."""

    requests: int
    answered: int
    verified: int
    rejected_nodes: list[str]
    refunded: int


class TrainingResult(msgspec.Struct, frozen=True, kw_only=True):
    """Part of the JSON; losses in nats per byte on held-out text."""

    rounds: int
    loss_first: float
    loss_last: float
    rejected_nodes: list[str]
    bytes_sent: int


class LedgerResult(msgspec.Struct, frozen=True, kw_only=True):
    """Part of the JSON."""

    height: int
    app_hash: str
    nodes_agree: bool
    supply_conserved: bool


class DemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` writes."""

    race: RaceResult
    inference: InferenceResult
    training: TrainingResult
    ledger: LedgerResult
    seconds: float
    peak_rss_bytes: int


def run_demo(options: DemoOptions, console: Console) -> None:
    """Play the story.

    Errors: ConfigError before anything starts; TransportError when a phase does not come about in its time.
    """
    if options.nodes < 5:
        raise ConfigError(
            f"--nodes {options.nodes}: the story needs at least 5 (three cheaters, a majority of honest ones)"
        )
    corpus = load_corpus(options.data)
    if options.json_path is not None and options.json_path.is_dir():
        raise ConfigError(f"--json {options.json_path}: is a folder; name a file in it")
    home = _make_home(options)
    started = time.monotonic()
    with MemoryMeter() as meter, _start(home, options.port, console) as network:
        story = Story(network, console, options, corpus)
        race = story.race()
        inference = story.inference()
        training = story.training()
        ledger = story.settlement()
        result = DemoResult(
            race=race,
            inference=inference,
            training=training,
            ledger=ledger,
            seconds=round(time.monotonic() - started, 1),
            peak_rss_bytes=meter.peak_bytes,
        )
        console.print(f"\nDone in {result.seconds:.0f} s, {result.peak_rss_bytes / 1e9:.1f} GB of memory at most.")
        if options.json_path is not None:
            write_whole(options.json_path, msgspec.json.format(msgspec.json.encode(result), indent=2))
            console.print(f"Results are in {options.json_path}")
        if options.keep:
            _stay(network, home, console)


class Story:
    """The four phases over one running network."""

    def __init__(self, network: Network, console: Console, options: DemoOptions, corpus: bytes) -> None:
        self._network = network
        self._console = console
        self._options = options
        self._corpus = corpus
        self._random = random.Random(options.seed)

    def race(self) -> RaceResult:
        """Beacon and Race."""
        self._title(
            "1  Beacon and Race",
            "Every node locks a secret, all reveal, then the group signs: a Race nobody could prepare for.",
        )
        with Live(console=self._console, refresh_per_second=4) as live:

            def show(report: Report) -> bool:
                live.update(_draw_race(report))
                return report.race.phase == "done"

            report = self._network.wait(show, RACE_SECONDS, "the end of the Race")
        for name in report.race.rejected_nodes:
            self._caught(f"{name} claimed hits it never found: sampled openings failed, it gets no votes.")
        found = report.race
        return RaceResult(claims=found.claims, accepted_hits=found.accepted_hits, rejected_nodes=found.rejected_nodes)

    def inference(self) -> InferenceResult:
        """Questions through the official client until every serving node has answered and been checked."""
        self._title(
            "2  Inference",
            "The official openai client asks; the draw says who answers; drawn checkers re-run the answer.",
        )
        prompts = list(PROMPTS)
        self._random.shuffle(prompts)
        report = self._network.report()
        requests = 0
        while requests < MAX_REQUESTS:
            self._ask(prompts[requests % len(prompts)], requests)
            requests += 1
            report = self._network.report()
            if self._everybody_checked(report):
                break
        with self._console.status("Waiting for checkers and majority votes"):
            report = self._network.wait(
                lambda now: now.inference.pending == 0 and sum(now.inference.answered.values()) >= requests,
                CHECK_SECONDS,
                "the end of all checks",
            )
        found = report.inference
        for name in found.rejected_nodes:
            self._caught(
                f"{name} served a cheaper model: flagged, a majority re-checked, {_coins(found.refunded)} coins refunded to the user."
            )
        self._console.print(
            f"{requests} requests, answered by {_counts(found.answered)}; decisively checked {_counts(found.verified)}"
        )
        return InferenceResult(
            requests=requests,
            answered=sum(found.answered.values()),
            verified=sum(found.verified.values()),
            rejected_nodes=found.rejected_nodes,
            refunded=found.refunded,
        )

    def training(self) -> TrainingResult:
        """DiLoCo over three trainers."""
        self._title(
            "3  Training",
            f"Three trainers, {len(self._corpus) / 1e6:.1f} MB of text, a GPT from scratch; auditors replay drawn segments.",
        )
        sent_before = self._network.report().ledger.blob_bytes
        seed = str(self._options.seed) if self._options.seed is not None else str(time.time_ns())
        started = self._network.start_training(self._corpus, rounds=ROUNDS, trainers=len(TRAINERS), seed=seed)
        with Live(console=self._console, refresh_per_second=4) as live:

            def show(report: Report) -> bool:
                run = report.training
                if run is None or run.run != started.run:
                    return False
                live.update(_draw_training(run, started.first_loss))
                return run.phase == "ended"

            report = self._network.wait(show, TRAINING_SECONDS, "the end of the training run")
        run = report.training
        assert run is not None
        for name in run.rejected_nodes:
            self._caught(f"{name} sent an update it did not train: the replay differs, the round went on without it.")
        text = self._network.control.post("/sample", {"run": started.run}, dict[str, str])["text"]
        self._console.print(Panel(text.strip(), title="what it writes after this minute of training", width=80))
        sent = self._network.report().ledger.blob_bytes - sent_before
        return TrainingResult(
            rounds=run.round,
            loss_first=round(started.first_loss, 4),
            loss_last=round(run.losses[-1] if run.losses else started.first_loss, 4),
            rejected_nodes=run.rejected_nodes,
            bytes_sent=sent,
        )

    def settlement(self) -> LedgerResult:
        """The epoch's table."""
        self._title(
            "4  Settlement",
            "The epoch ends: held pay is released, cheaters forfeit theirs, new coins are shared by weight.",
        )
        with self._console.status("Ordering blocks to the end of the epoch"):
            lines = self._network.settlement()
            report = self._network.wait(lambda now: now.ledger.nodes_agree, CHECK_SECONDS, "agreement of all nodes")
        self._console.print(_draw_settlement(lines))
        ledger = report.ledger
        agree = "agree" if ledger.nodes_agree else "DISAGREE"
        conserved = "is conserved to the unit" if ledger.supply_conserved else "IS NOT CONSERVED"
        self._console.print(
            f"Height {ledger.height}, all {self._options.nodes} nodes {agree} on app hash {ledger.app_hash[:16]}…; "
            f"the sum of all coins {conserved}."
        )
        return LedgerResult(
            height=ledger.height,
            app_hash=ledger.app_hash,
            nodes_agree=ledger.nodes_agree,
            supply_conserved=ledger.supply_conserved,
        )

    def _ask(self, prompt: str, index: int) -> None:
        client = self._network.openai_client(max_retries=0)
        began = time.monotonic()
        raw = client.chat.completions.with_raw_response.create(
            model=DEFAULT_MODEL,
            messages=[{"role": "user", "content": prompt}],
            max_tokens=ANSWER_TOKENS,
            temperature=0.7,
            stream=True,
        )
        self._console.print(f"[bold]{prompt}[/bold]  [dim]→ {raw.headers.get('x-paceline-executor')}[/dim]")
        pieces = []
        for chunk in raw.parse():
            text = chunk.choices[0].delta.content if chunk.choices else None
            if text:
                pieces.append(text)
                self._console.print(text, end="", highlight=False, markup=False)
        seconds = time.monotonic() - began
        self._console.print(f"\n[dim]request {index + 1}: {len(pieces)} pieces in {seconds:.1f} s[/dim]")

    def _everybody_checked(self, report: Report) -> bool:
        """Every node that can be drawn has a decisively checked answer; guilty ones are out of the draw."""
        serving = {name for name in self._serving_names() if name not in report.race.rejected_nodes}
        return all(report.inference.verified.get(name, 0) > 0 for name in serving)

    def _serving_names(self) -> list[str]:
        return [name for name in self._network.supervisor.home.node_names() if name != GATEWAY]

    def _title(self, title: str, text: str) -> None:
        self._console.rule(f"[bold]{title}")
        self._console.print(f"[dim]{text}")

    def _caught(self, text: str) -> None:
        self._console.print(f"[bold red]caught[/bold red]  {text}")


def _make_home(options: DemoOptions) -> Home:
    path = options.home
    if path is None:
        path = get_default_home() / "demo"
        running = Home(path).load_running()
        if running is not None:
            raise ConfigError(f"a demo runs already (process {running.pid}); stop it or give another --home")
        # The demo's own folder: each run starts fresh.
        shutil.rmtree(path, ignore_errors=True)
    cheats = ((RACE_CHEAT, "race-padding"), (MODEL_CHEAT, "cheap-model"), (TRAINING_CHEAT, "untrained-update"))
    return create_home(path, NewHome(nodes=options.nodes, seed=options.seed, cheats=cheats, trainers=TRAINERS))


@contextmanager
def _start(home: Home, port: int, console: Console) -> Iterator[Network]:
    supervisor = Supervisor(home, Listen(port=port))
    with ExitStack() as stack:
        with console.status(
            "Starting node processes (the very first start converts the model once, about half a minute)"
        ):
            stack.enter_context(supervisor)
        network = Network(supervisor)
        stack.callback(network.control.close)
        console.print(f"{len(home.node_names())} node processes run; dashboard at {network.url}/")
        yield network


def _stay(network: Network, home: Home, console: Console) -> None:
    console.print(f"Staying up: {network.url}/ (Ctrl-C ends everything; `paceline status --home {home.path}`)")
    network.supervisor.watch(lambda: False, lambda name, what: console.print(f"{name} {what}", soft_wrap=True))


def _draw_race(report: Report) -> Table:
    table = Table(title=f"phase: {report.race.phase}   height {report.ledger.height}", title_justify="left")
    table.add_column("node")
    table.add_column("claimed hits", justify="right")
    table.add_column("verdict")
    for name, hits in sorted(report.race.hits.items()):
        rejected = name in report.race.rejected_nodes
        verdict = "[red]rejected" if rejected else ("accepted" if report.race.phase == "done" else "")
        table.add_row(name, f"{hits:,}", verdict)
    return table


def _draw_training(run: TrainingReport, first_loss: float) -> Table:
    table = Table(title=f"round {run.round} of {run.rounds}   {run.phase}", title_justify="left")
    table.add_column("state after round")
    table.add_column("held-out loss", justify="right")
    table.add_column("")
    for index, loss in enumerate([first_loss, *run.losses]):
        bar = "█" * max(1, round(BAR_WIDTH * loss / first_loss))
        table.add_row(str(index), f"{loss:.3f}", f"[blue]{bar}")
    return table


def _draw_settlement(lines: list[SettlementLine]) -> Table:
    table = Table(
        caption="earned, vesting and forfeited in coins; what vests comes free over four epochs", caption_justify="left"
    )
    for title in ("node", "voting power", "tasks", "checks", "earned", "vesting", "forfeited"):
        table.add_column(title, justify="left" if title == "node" else "right")
    for line in sorted(lines, key=lambda line: line.node):
        table.add_row(
            line.node,
            f"{line.voting_power:,}",
            str(line.tasks),
            str(line.checks),
            _coins(line.earned),
            _coins(line.vesting),
            _coins(line.forfeited),
        )
    return table


def _coins(nicoin: int) -> str:
    return f"{nicoin / NICOIN_PER_COIN:,.3f}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "nobody"
