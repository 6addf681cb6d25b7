"""Chat while the network races: first token and pace during a Race and in the quiet after it, and what serving cost in hits.

Run: python bench/chat_race.py [--repeats N] [--tokens N] [--nodes N] [--race-blocks N]. One local network, preset `tiny` with a longer Race. All
nodes, and so all searches, answers and checks, share this machine's cores. Requests go one after another; checkers may
re-run earlier answers meanwhile, in both halves.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import httpx
import msgspec

from paceline.cli.network import Network, local_network
from paceline.models.threads import use_one_thread
from paceline.protocol.params import PRESETS, TINY

PROMPT = "Explain in a few sentences how a bicycle stays upright while it is moving."
PRESET = "tiny-long-race"
SEARCHING = ("racing", "claims")
STARTED = 3.0
"""Seconds into a Race after which every node searches: weights of the model are made first."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One request: seconds to the first token, tokens per second after it, who answered, seconds in all."""

    first: float
    pace: float
    executor: str
    seconds: float


def ask(network: Network, client: httpx.Client, tokens: int, index: int) -> Answered:
    body = {
        "model": "smollm2-135m-instruct",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": tokens,
        "temperature": 0.7,
        "seed": index,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    begin = time.perf_counter()
    first = last = 0.0
    count = 0
    with client.stream("POST", f"{network.base_url}/chat/completions", json=body) as response:
        response.raise_for_status()
        executor = response.headers["x-paceline-executor"]
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = msgspec.json.decode(line.removeprefix("data: "))
            if chunk.get("usage"):
                count = chunk["usage"]["completion_tokens"]
            if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                last = time.perf_counter()
                first = first or last
    return Answered(first=first - begin, pace=(count - 1) / (last - first), executor=executor, seconds=last - begin)


def ask_many(network: Network, client: httpx.Client, settings: argparse.Namespace, *, racing: bool) -> list[Answered]:
    found = []
    for index in range(settings.repeats):
        if racing and network.report().race.phase not in SEARCHING:
            raise SystemExit("the Race ended before all requests were made; take fewer or shorter ones")
        found.append(ask(network, client, settings.tokens, index))
    return found


def print_halves(racing: list[Answered], quiet: list[Answered]) -> None:
    print(f"  {'':<28}{'during a Race':>16}{'quiet':>10}{'ratio':>8}")
    rows = (
        ("first token, median, ms", [1000 * median(a.first for a in part) for part in (racing, quiet)]),
        ("first token, slowest, ms", [1000 * max(a.first for a in part) for part in (racing, quiet)]),
        ("tokens per second, median", [median(a.pace for a in part) for part in (racing, quiet)]),
    )
    for name, (during, after) in rows:
        print(f"  {name:<28}{during:>16.1f}{after:>10.1f}{during / after:>8.2f}")


def print_hits(racing: list[Answered], hits: dict[str, int], seconds: float) -> None:
    """Hits of each node beside the share of the Race in which it answered; nobody's search is faster than `free`."""
    shares = {name: sum(a.seconds for a in racing if a.executor == name) / seconds for name in sorted(hits)}
    free = max(hits[name] / (1 - shares[name]) for name in hits)
    print(
        f"  {'node':<10}{'answers':>8}{'served, % of the Race':>24}{'hits':>8}{'fewer than the fastest search, %':>36}"
    )
    for name, share in shares.items():
        answers = sum(a.executor == name for a in racing)
        print(f"  {name:<10}{answers:>8}{100 * share:>24.1f}{hits[name]:>8}{100 * (1 - hits[name] / free):>36.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--race-blocks", type=int, default=300)
    settings = parser.parse_args()
    use_one_thread()
    blocks = msgspec.structs.replace(TINY.race, race_blocks=settings.race_blocks - 8, claim_blocks=8)
    PRESETS[PRESET] = msgspec.structs.replace(TINY, race=blocks)
    with (
        TemporaryDirectory() as folder,
        local_network(nodes=settings.nodes, home=Path(folder) / "home", seed=1, preset=PRESET) as network,
        httpx.Client(timeout=120, trust_env=False) as client,
    ):
        network.wait(lambda report: report.race.phase == "racing", 180, "the start of the Race")
        begin = time.perf_counter()
        ask(network, client, 2, 0)
        time.sleep(max(0.0, begin + STARTED - time.perf_counter()))
        racing = ask_many(network, client, settings, racing=True)
        network.wait(lambda report: report.race.phase not in SEARCHING, 300, "the end of the search")
        seconds = time.perf_counter() - begin
        hits = network.wait(lambda report: report.race.phase == "done", 300, "the end of the Race").race.hits
        network.wait(lambda report: report.inference.pending == 0, 300, "the end of the checks")
        ask(network, client, 2, 0)
        quiet = ask_many(network, client, settings, racing=False)
    print(f"{settings.repeats} requests of {settings.tokens} tokens in each half, {settings.nodes} nodes")
    print_halves(racing, quiet)
    print_hits(racing, hits, seconds)


if __name__ == "__main__":
    main()
