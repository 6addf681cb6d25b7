"""What every library gets: the same model, batches and optimisers; only the way to synchronise differs.

Imported inside the peers' own environments, so it needs no more of the package than models and data.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from paceline.models.trainable import build_trainable
from paceline.training.datasets.batches import TokenBatches

MODEL = "byte-gpt-0.5m"
SEQUENCE_TOKENS = 64
BATCH_SIZE = 4
RATE = 2e-3
OUTER_RATE = 0.7
OUTER_MOMENTUM = 0.6


@dataclass(frozen=True)
class Settings:
    """One process of a run, from its environment."""

    rank: int
    world: int
    steps: int
    inner_steps: int
    folder: Path


def read_settings() -> Settings:
    """Errors: KeyError when not started by bench/training_peers.py."""
    names = ("RANK", "WORLD_SIZE", "PEER_STEPS", "PEER_INNER_STEPS")
    rank, world, steps, inner = (int(os.environ[name]) for name in names)
    torch.set_num_threads(1)
    return Settings(rank, world, steps, inner, Path(os.environ["PEER_FOLDER"]))


def make_batches(settings: Settings) -> TokenBatches:
    tokens = np.load(settings.folder / "tokens.npy", mmap_mode="r")
    return TokenBatches(tokens, sequence_tokens=SEQUENCE_TOKENS, batch_size=BATCH_SIZE, seed=1, trainers=settings.world)


def make_model() -> nn.Module:
    return build_trainable(MODEL, vocabulary=256, seed=1)


def make_inner(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)


def read_loopback_bytes() -> int:
    """Bytes that this machine has sent to itself so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    raise SystemExit("this machine has no loopback interface to count bytes on")


class Stopwatch:
    """Seconds and loopback bytes from the first step to the end of the last; start-up is not counted."""

    def __init__(self) -> None:
        self.bytes_before = read_loopback_bytes()
        self.started = time.perf_counter()

    def finish(self, settings: Settings, model: nn.Module, seconds: float | None = None) -> None:
        """Leave the parameters and the time where the parent looks for them; `seconds` when the library measures them."""
        seconds = time.perf_counter() - self.started if seconds is None else seconds
        moved = read_loopback_bytes() - self.bytes_before
        params = {name: value.detach().clone() for name, value in model.named_parameters()}
        save_file(params, settings.folder / f"params-{settings.rank}.safetensors")
        report = {"seconds": seconds, "loopback_bytes": moved}
        (settings.folder / f"report-{settings.rank}.json").write_text(json.dumps(report))
