"""Chat through the network against the same engine called directly: same prompt, same number of tokens, one run.

Run: python bench/chat.py [--repeats N] [--tokens N]. Both kinds alternate; medians and ratios are printed. The direct
engine runs in this process on one thread, as it does in a node.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import httpx

from paceline.cli.environment import get_cache_path
from paceline.cli.network import Network, local_network
from paceline.inference.run import generate
from paceline.models.language import LanguageModel, prepare_model
from paceline.models.threads import use_one_thread
from paceline.protocol.answers import AnswerRequest, ChatPrompt, Turn
from paceline.verification.payloads import build_generation

PROMPT = "Explain in a few sentences how a bicycle stays upright while it is moving."
Timing = tuple[float, float]
"""Seconds to the first token, tokens per second after it."""


def ask_engine(model: LanguageModel, tokens: int, index: int) -> Timing:
    request = AnswerRequest(
        model=model.model_id,
        prompt=ChatPrompt((Turn("user", PROMPT),)),
        max_tokens=tokens,
        temperature_ppm=700_000,
        top_p_ppm=1_000_000,
        stop=(),
        user_seed=index,
    )
    begin = time.perf_counter()
    steps = generate(model, build_generation(model, request, index.to_bytes(32, "big")), should_stop=lambda: False)
    times = [time.perf_counter() for _ in steps]
    return times[0] - begin, (len(times) - 1) / (times[-1] - times[0])


def ask_network(network: Network, client: httpx.Client, tokens: int, index: int) -> Timing:
    """Plain HTTP, so that only the network is measured and not one client library's own pace."""
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
        for line in response.iter_lines():
            if '"completion_tokens":' in line:
                count = int(line.split('"completion_tokens":')[1].split(",")[0].rstrip("}"))
            if '"content":"' in line and '"content":""' not in line:
                last = time.perf_counter()
                first = first or last
    return first - begin, (count - 1) / (last - first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=96)
    settings = parser.parse_args()
    use_one_thread()
    model = LanguageModel.load(prepare_model(get_cache_path(), progress=print))
    direct: list[Timing] = []
    through: list[Timing] = []
    with (
        TemporaryDirectory() as folder,
        local_network(nodes=5, home=Path(folder) / "home", seed=1) as network,
        httpx.Client(timeout=120, trust_env=False) as client,
    ):
        network.wait(lambda report: report.race.phase == "done", 180, "the end of the Race")
        for index in range(settings.repeats + 1):
            direct.append(ask_engine(model, settings.tokens, index))
            through.append(ask_network(network, client, settings.tokens, index))
            # Checkers re-run answers; they must not share the cores with the next measurement.
            network.wait(lambda report: report.inference.pending == 0, 120, "the end of the checks")
    pairs = list(zip(direct, through, strict=True))[1:]
    print(f"{settings.repeats} pairs of {settings.tokens} tokens, medians")
    print(f"  {'':<28}{'direct':>10}{'network':>10}")
    print(f"  {'tokens per second':<28}{median(d[1] for d, _ in pairs):>10.1f}{median(n[1] for _, n in pairs):>10.1f}")
    print(
        f"  {'first token, ms':<28}{1000 * median(d[0] for d, _ in pairs):>10.0f}"
        f"{1000 * median(n[0] for _, n in pairs):>10.0f}"
    )
    print(
        f"  speed, network / direct, pair by pair  {median(n[1] / d[1] for d, n in pairs):.2f}   (goal: at least 0.90)"
    )
    print(
        f"  first token later by, ms               {1000 * median(n[0] - d[0] for d, n in pairs):.0f}   (goal: at most 150)"
    )


if __name__ == "__main__":
    main()
