"""vLLM behind an executor: what a torch checker sees of its answers, and throughput through the network against vLLM alone.

    python bench/vllm_serving.py calibrate [--answers 24] [--tokens 48] [--varied]
    python bench/vllm_serving.py throughput [--parallel 16] [--tokens 64] [--rounds 3]

`calibrate` replays the answers of one server on this package's own engine and judges them; `--varied` has them end after 1 to
`--tokens` tokens. `throughput` alternates, in one
run, between vLLM alone with its own sampler, vLLM alone with ours, and a network of a gateway and one executor with the same
settings; nobody checks there, as checkers are other machines. Needs `make tools-vllm`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import httpx
import msgspec
import psutil
from calibrate_answers import PROMPTS

from paceline.base.errors import WorkError
from paceline.base.hashing import hash_parts
from paceline.cli.environment import get_cache_path
from paceline.cli.network import Network, local_network
from paceline.inference.backend import AnswerOptions
from paceline.inference.check import check_transcript
from paceline.inference.claim import build_transcript
from paceline.inference.plan import plan_answer, plan_sampler
from paceline.inference.vllm_sampler import build_arguments
from paceline.lab.prompts import EVALUATION, list_prompts
from paceline.models.language import LanguageModel, prepare_model
from paceline.models.threads import use_one_thread
from paceline.node.backends.vllm_backend import VllmBackend, build_body
from paceline.node.backends.vllm_server import VllmServer, build_server_settings
from paceline.node.home import NewHome, create_home
from paceline.node.settings import VLLM, NodeSettings, PeerEntry, load_settings
from paceline.protocol.transcripts import GenerationRequest, Transcript
from paceline.verification.answers import judge_answer

QUESTIONS = list_prompts(EVALUATION)
TEMPERATURES = (0.0, 0.7, 1.0)
START_SECONDS = 900.0
EXECUTOR = "node-2"
THROUGH = "through the network"


def plan(model: LanguageModel, number: int, temperature: float, tokens: int, engine: str) -> GenerationRequest:
    sampler = plan_sampler(temperature_ppm=round(temperature * 1e6), top_p_ppm=950_000, max_tokens=tokens, stop=[])
    seed = hash_parts("bench-vllm", str((number, temperature)).encode())
    messages = [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}]
    return msgspec.structs.replace(plan_answer(model, messages, sampler=sampler, seed=seed), engine=engine)


@contextlib.asynccontextmanager
async def run_server(model: LanguageModel, path: Path, folder: Path, python: str) -> AsyncIterator[VllmServer]:
    """A server of its own, ready."""
    peer = PeerEntry(name="bench", public_key="", url="")
    settings = NodeSettings(name="bench", sequencer="bench", peers=(peer,), backend=VLLM, vllm_python=python)
    server = VllmServer(build_server_settings(settings, model, path, folder))
    runner = asyncio.create_task(server.run())
    began = time.monotonic()
    try:
        while not is_ready(server):
            if runner.done():
                await runner
            assert time.monotonic() - began < START_SECONDS, server.log_path.read_text()
            await asyncio.sleep(0.5)
        print(f"server ready after {time.monotonic() - began:.0f} s", flush=True)
        yield server
    finally:
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)


def is_ready(server: VllmServer) -> bool:
    try:
        return bool(server.address)
    except WorkError:
        return False


async def answer_all(
    model: LanguageModel, server: VllmServer, answers: int, tokens: int, *, varied: bool
) -> list[Transcript]:
    """All at once, so that rows of many ages share the server's batches."""
    backend = VllmBackend(server)

    def answer(number: int) -> Transcript:
        limit = 1 + number % tokens if varied else tokens
        request = plan(model, number, TEMPERATURES[number // 5 % len(TEMPERATURES)], limit, backend.engine)
        return build_transcript(
            model, request, list(backend.generate(model, request, AnswerOptions(should_stop=lambda: False)))
        )

    with ThreadPoolExecutor(backend.parallel) as pool:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*[loop.run_in_executor(pool, answer, number) for number in range(answers)])


async def calibrate(model: LanguageModel, path: Path, settings: argparse.Namespace) -> None:
    with TemporaryDirectory() as folder:
        async with run_server(model, path, Path(folder), settings.python) as server:
            transcripts = await answer_all(model, server, settings.answers, settings.tokens, varied=settings.varied)
    outcomes: Counter[str] = Counter()
    strays, margins, tokens, mismatches = [], [], 0, 0
    for transcript in transcripts:
        evidence = check_transcript(model, transcript)
        verdict = judge_answer(evidence)
        outcomes[verdict.outcome] += 1
        # The evidence of a verdict names both limits; 1 would be a rejection.
        _, deviation, deviation_limit, spread, margin, margin_limit, *_ = verdict.evidence
        strays.append((deviation / spread, deviation / deviation_limit))
        margins.append(margin / margin_limit)
        tokens += evidence.tokens
        mismatches += evidence.mismatches
    print(f"{len(transcripts)} answers, {tokens} tokens, judged by the torch engine: {dict(outcomes)}")
    print(
        f"  logprob deviation per information   median {median(s for s, _ in strays):.3f}   worst {max(strays)[0]:.3f}"
    )
    print(
        f"  deviation / its limit               median {median(s for _, s in strays):.2f}   worst {max(s for _, s in strays):.2f}"
    )
    print(f"  margin / its limit                  median {median(margins):.2f}   worst {max(margins):.2f}")
    print(f"  tokens other than the checker's     {mismatches} ({mismatches / tokens:.1%})")


async def count_alone(server: VllmServer, client: httpx.AsyncClient, body: dict[str, object]) -> int:
    """Tokens of one answer of the server itself."""
    address = server.address
    headers = {"authorization": f"Bearer {address.key}"}
    count = 0
    async with client.stream("POST", f"{address.url}/v1/completions", json=body, headers=headers) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                count += sum(len(choice["token_ids"] or ()) for choice in json.loads(line[6:])["choices"])
    return count


async def count_through(network: Network, client: httpx.AsyncClient, number: int, tokens: int) -> int:
    """Tokens of one answer through gateway, relay and executor."""
    body = {
        "model": "smollm2-135m-instruct",
        "messages": [{"role": "user", "content": PROMPTS[number % len(PROMPTS)]}],
        "max_tokens": tokens,
        "temperature": 0.7,
        "top_p": 0.95,
        "seed": number,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    usage = None
    async with client.stream("POST", f"{network.base_url}/chat/completions", json=body) as response:
        if response.is_error:
            raise WorkError(f"{response.status_code}: {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                usage = json.loads(line[6:]).get("usage") or usage
    assert usage is not None, "the answer ended without its usage"
    count: int = usage["completion_tokens"]
    return count


async def time_all(count: Callable[[int], Awaitable[int]], parallel: int) -> tuple[float, int]:
    """Tokens per second of so many requests at once, and all their tokens."""
    began = time.perf_counter()
    tokens = sum(await asyncio.gather(*[count(number) for number in range(parallel)]))
    return tokens / (time.perf_counter() - began), tokens


def get_seconds() -> dict[str, float]:
    """Processor seconds so far of gateway, executor, and the executor's vLLM."""
    seconds: dict[str, float] = {"gateway": 0.0, "executor": 0.0, "its vLLM": 0.0}
    for child in psutil.Process().children(recursive=True):
        command = " ".join(child.cmdline())
        times = child.cpu_times()
        if "paceline node" in command:
            seconds["executor" if EXECUTOR in command else "gateway"] += times.user + times.system
        elif any(EXECUTOR in " ".join(parent.cmdline()) for parent in child.parents()):
            seconds["its vLLM"] += times.user + times.system
    return seconds


async def measure(model: LanguageModel, server: VllmServer, network: Network, settings: argparse.Namespace) -> None:
    def body(number: int, *, ours: bool) -> dict[str, object]:
        request = plan(model, number, 0.7, settings.tokens, VllmBackend.engine)
        own = {"temperature": 0.7, "top_p": 0.95, "seed": number}
        fields = build_body(model, request, 0)
        return {**fields, "vllm_xargs": build_arguments(request)} if ours else {**fields, **own, "vllm_xargs": None}

    timeout = httpx.Timeout(600)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False) as client:
        kinds: dict[str, Callable[[int], Awaitable[int]]] = {
            "vLLM alone, its own sampler": lambda number: count_alone(server, client, body(number, ours=False)),
            "vLLM alone, our sampler": lambda number: count_alone(server, client, body(number, ours=True)),
            THROUGH: lambda number: count_through(network, client, number, settings.tokens),
        }
        rates: dict[str, list[float]] = {name: [] for name in kinds}
        spent: dict[str, float] = defaultdict(float)
        for round_number in range(settings.rounds + 1):
            for name, count in kinds.items():
                before = get_seconds()
                rate, tokens = await time_all(count, settings.parallel)
                # The first round warms up caches, connections and sessions.
                if round_number:
                    rates[name].append(rate)
                    if name == THROUGH:
                        spent["tokens"] += tokens
                        for part, after in get_seconds().items():
                            spent[part] += after - before[part]
                    print(f"  round {round_number}  {name:<28} {rate:7.1f} tokens/s", flush=True)
    own, ours, through = rates.values()
    print(f"{settings.parallel} requests at once of {settings.tokens} tokens, medians of {settings.rounds} rounds")
    for name, found in rates.items():
        print(f"  {name:<36}{median(found):7.1f} tokens/s")
    for part in ("its vLLM", "executor", "gateway"):
        print(
            f"  processor time of {part:<12}      {1000 * spent[part] / spent['tokens']:7.2f} ms a token, through the network"
        )
    pairs = sorted(t / o for t, o in zip(through, ours, strict=True))
    print(
        f"  network / alone with our sampler    {median(pairs):.2f} ({pairs[0]:.2f} to {pairs[-1]:.2f}; goal: at least 0.95)"
    )
    print(f"  network / alone with its own        {median(t / o for t, o in zip(through, own, strict=True)):.2f}")
    print(f"  our sampler / its own, both alone   {median(t / o for t, o in zip(ours, own, strict=True)):.2f}")


@contextlib.contextmanager
def open_network(folder: Path, python: str) -> Iterator[Network]:
    """A gateway that does not serve and one executor with vLLM, which has answered once."""
    home = create_home(folder / "home", NewHome(nodes=2, seed=7))
    for name in home.node_names():
        former = load_settings(home.node_path(name) / "node.toml")
        change = {"backend": VLLM, "vllm_python": python} if name == EXECUTOR else {"serves": False}
        home.save_settings(msgspec.structs.replace(former, trains=False, **change))
    with local_network(home=folder / "home") as network:
        yield network


async def wait_for_answers(network: Network) -> None:
    deadline = time.monotonic() + START_SECONDS
    async with httpx.AsyncClient(timeout=120, trust_env=False) as client:
        while True:
            try:
                await count_through(network, client, 0, 1)
            except (WorkError, httpx.HTTPError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(2)
            else:
                return


async def compare(model: LanguageModel, path: Path, settings: argparse.Namespace) -> None:
    with TemporaryDirectory() as folder, open_network(Path(folder), settings.python) as network:
        async with run_server(model, path, Path(folder) / "alone", settings.python) as server:
            await asyncio.to_thread(
                network.wait, lambda report: report.race.phase == "done", 300, "the end of the Race"
            )
            await wait_for_answers(network)
            await measure(model, server, network, settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", default="both", choices=("calibrate", "throughput", "both"))
    parser.add_argument("--python", default="", help="interpreter of another environment that holds vLLM")
    parser.add_argument("--answers", type=int, default=24)
    parser.add_argument("--varied", action="store_true")
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    settings = parser.parse_args()
    use_one_thread()
    path = prepare_model(get_cache_path(), progress=print)
    model = LanguageModel.load(path)
    if settings.what != "throughput":
        asyncio.run(calibrate(model, path, settings))
    if settings.what != "calibrate":
        asyncio.run(compare(model, path, settings))


if __name__ == "__main__":
    main()
