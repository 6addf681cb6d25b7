"""The same DiLoCo run by this package over gloo, by torchft and by hivemind: tokens a second, bytes, final loss.

python bench/training_peers.py --peers-python PATH [--world 2] [--steps 240] [--rounds 3]

The peers live in an environment of their own, because hivemind pins other versions than this project:
    python3.11 -m venv peers && peers/bin/pip install torch==2.13.0 hivemind==1.1.12 torchft==0.2.0 \
        blake3 msgspec pynacl safetensors numpy
Every library gets the model, batches and optimisers of bench/peers/work.py, one thread a process. Bytes are those of the
loopback interface during the run, so nothing else may use it; the formula's figure stands beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from paceline.models.trainable import build_trainable
from paceline.training.datasets.batches import TokenBatches
from paceline.training.datasets.sources import open_source
from paceline.training.datasets.token_file import prepare_tokens
from paceline.training.datasets.tokenise import choose_tokeniser

HERE = Path(__file__).parent
MODEL, SEQUENCE_TOKENS, BATCH_SIZE = "byte-gpt-0.5m", 64, 4
TIMEOUT_SECONDS = 900
LIBRARIES = ("paceline", "torchft", "hivemind")


@dataclass(frozen=True)
class Figure:
    """What one run gave."""

    tokens_per_second: float
    bytes_moved: int
    loss: float


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_lighthouse(python: str, world: int) -> tuple[subprocess.Popen[bytes], str]:
    port = find_port()
    binary = str(Path(python).parent / "torchft_lighthouse")
    command = [binary, "--min_replicas", str(world), "--bind", f"127.0.0.1:{port}", "--join_timeout_ms", "2000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return process, f"http://127.0.0.1:{port}"


def run_library(library: str, args: argparse.Namespace, tokens: np.ndarray) -> Figure:
    folder = Path(tempfile.mkdtemp(prefix=f"peers-{library}-"))
    np.save(folder / "tokens.npy", tokens)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE / "peers")]),
        "PEER_STEPS": str(args.steps),
        "PEER_INNER_STEPS": str(args.inner_steps),
        "PEER_FOLDER": str(folder),
        "WORLD_SIZE": str(args.world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(find_port()),
    }
    python = sys.executable if library == "paceline" else args.peers_python
    lighthouse = None
    if library == "torchft":
        lighthouse, environment["TORCHFT_LIGHTHOUSE"] = start_lighthouse(python, args.world)
    try:
        return run_processes(library, python, environment, args, folder)
    finally:
        if lighthouse is not None:
            lighthouse.kill()
            lighthouse.wait()
        shutil.rmtree(folder)


def run_processes(
    library: str, python: str, environment: dict[str, str], args: argparse.Namespace, folder: Path
) -> Figure:
    command = [python, str(HERE / "peers" / f"with_{library}.py")]
    logs = [folder / f"log-{rank}" for rank in range(args.world)]
    processes = []
    for rank, log in enumerate(logs):
        with log.open("wb") as out:
            rank_environment = {**environment, "RANK": str(rank)}
            processes.append(subprocess.Popen(command, env=rank_environment, stdout=out, stderr=out))
    try:
        codes = [process.wait(TIMEOUT_SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    reports = [folder / f"report-{rank}.json" for rank in range(args.world)]
    if any(codes) or not all(report.exists() for report in reports):
        raise SystemExit(f"{library} failed with {codes}:\n{logs[0].read_text()[-3000:]}")
    found = [json.loads(report.read_text()) for report in reports]
    trained = args.world * args.steps * BATCH_SIZE * SEQUENCE_TOKENS
    seconds = max(report["seconds"] for report in found)
    return Figure(trained / seconds, found[0]["loopback_bytes"], evaluate(folder, args))


def evaluate(folder: Path, args: argparse.Namespace) -> float:
    """Loss of the average of all processes' parameters on the held-out windows."""
    params = [load_file(folder / f"params-{rank}.safetensors") for rank in range(args.world)]
    model = build_trainable(MODEL, vocabulary=256, seed=1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.stack([found[name] for found in params]).mean(dim=0))
        tokens = np.load(folder / "tokens.npy", mmap_mode="r")
        batches = TokenBatches(tokens, sequence_tokens=SEQUENCE_TOKENS, batch_size=BATCH_SIZE, seed=1)
        losses = [model(batch).item() for batch in batches.get_evaluation_batches()]
    return statistics.fmean(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers-python", default="", help="interpreter of the peers' environment; without it only ours"
    )
    parser.add_argument("--world", type=int, default=2)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--inner-steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        tokens = np.asarray(prepare_tokens(open_source(), choose_tokeniser(), Path(cache)).tokens).copy()
    libraries = LIBRARIES if args.peers_python else LIBRARIES[:1]
    figures: dict[str, list[Figure]] = {library: [] for library in libraries}
    for _ in range(args.rounds):
        for library in libraries:
            figures[library].append(run_library(library, args, tokens))
    size = sum(param.numel() for param in build_trainable(MODEL, vocabulary=256, seed=1).parameters())
    formula = 2 * (args.world - 1) * 4 * size * (args.steps // args.inner_steps)
    print(f"{args.world} processes, {args.steps} steps, H = {args.inner_steps}, {size:,} parameters")
    print(f"bytes by formula, all processes: {formula:,}")
    for library, found in figures.items():
        speed = statistics.median(figure.tokens_per_second for figure in found)
        moved = statistics.median(figure.bytes_moved for figure in found)
        loss = statistics.median(figure.loss for figure in found)
        print(f"{library:10} {speed:9,.0f} tokens/s  {moved:14,.0f} bytes  loss {loss:.4f}")


if __name__ == "__main__":
    main()
