"""Counts of one node in Prometheus' text format: what it did, what waits, how long users waited.

It refuses to know what is counted and never holds anything of a request. Invariant: a series once shown never goes back, and
labels come from a closed set of words, so the page stays small whatever users send.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from threading import Lock

from paceline.base.errors import Invalid
from paceline.network.public import PublicRequest

PATH = "/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Upper ends in seconds."""
PREFIX = "paceline_"
HELP = {
    "height": "Height of the last committed block.",
    "peers_alive": "Other nodes heard of a moment ago.",
    "relay_under_way": "Requests that this relay has passed on and that are not over.",
    "relay_channels": "Channels that this relay may ask on.",
    "relay_waiting": "Requests that wait in this relay's line.",
    "relay_requests_total": "Requests by how they ended.",
    "relay_failovers_total": "Answers that another drawn node had to begin anew.",
    "relay_dummies_total": "Dummy tasks of this relay that it has shown to the ledger.",
    "relay_first_token_seconds": "From taking a request to the first text of its answer.",
    "executor_slots": "Answers that this node makes at once.",
    "executor_under_way": "Answers in the making.",
    "executor_channels": "Channels that this executor keeps an account of.",
    "executor_waiting": "Orders that wait in this executor's line.",
    "executor_tokens_total": "Tokens generated since the process started.",
    "executor_answers_total": "Answers by how they ended.",
    "payloads_handed_out_total": "Payloads given to those who may read them.",
    "checks_total": "Verdicts sent, by outcome.",
}


class _Histogram:
    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0


class Metrics:
    """The numbers of one node; safe to use from every thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counters: dict[tuple[str, str], int] = {}
        self._histograms: dict[str, _Histogram] = {}
        self._gauges: dict[str, list[Callable[[], int]]] = {}

    def count(self, name: str, word: str = "", amount: int = 1) -> None:
        """Add to a counter; `word` is its one label, from a closed set."""
        assert name in HELP
        with self._lock:
            self._counters[name, word] = self._counters.get((name, word), 0) + amount

    def observe(self, name: str, seconds: float) -> None:
        """Note one duration."""
        assert name in HELP
        with self._lock:
            found = self._histograms.setdefault(name, _Histogram())
            found.counts[bisect_left(BUCKETS, seconds)] += 1
            found.total += seconds

    def gauge(self, name: str, read: Callable[[], int]) -> None:
        """Show what `read` gives at the time somebody looks; several of one name are added up."""
        assert name in HELP
        self._gauges.setdefault(name, []).append(read)

    def render(self) -> str:
        """The page."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        with self._lock:
            counters = sorted(self._counters.items())
            histograms = [(name, list(found.counts), found.total) for name, found in sorted(self._histograms.items())]
        told = ""
        for (name, word), value in counters:
            if name != told:
                yield from _head(name, "counter")
                told = name
            label = f'{{outcome="{word}"}}' if word else ""
            yield f"{PREFIX}{name}{label} {value}"
        for name, counts, total in histograms:
            yield from _show_histogram(name, counts, total)
        for name, reads in sorted(self._gauges.items()):
            yield from _head(name, "counter" if name.endswith("_total") else "gauge")
            yield f"{PREFIX}{name} {sum(read() for read in reads)}"


class MetricsPage:
    """The page as a public path, for the hosts that the operator names: this machine alone unless it says otherwise."""

    def __init__(self, metrics: Metrics, hosts: tuple[str, ...]) -> None:
        self._metrics = metrics
        self._hosts = hosts

    async def answer(self, request: PublicRequest) -> bytes:
        """Errors: Invalid not-for-you."""
        if request.host not in self._hosts:
            raise Invalid("not-for-you", "metrics are shown to the hosts in metrics_hosts of node.toml")
        return self._metrics.render().encode()


def _head(name: str, kind: str) -> Iterator[str]:
    yield f"# HELP {PREFIX}{name} {HELP[name]}"
    yield f"# TYPE {PREFIX}{name} {kind}"


def _show_histogram(name: str, counts: list[int], total: float) -> Iterator[str]:
    yield from _head(name, "histogram")
    below = 0
    for end, count in zip((*BUCKETS, "+Inf"), counts, strict=True):
        below += count
        yield f'{PREFIX}{name}_bucket{{le="{end}"}} {below}'
    yield f"{PREFIX}{name}_sum {total}"
    yield f"{PREFIX}{name}_count {below}"
