"""From a model, batches, a strategy and a fleet to a run that can be played: the one place that puts the parts together.

It refuses to know files of configuration and reports. Invariant: the first parameters are those of the module as it was
given, whatever the strategy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_parts
from paceline.lab.training.config import DataTable, RunConfig, make_machines, make_strategy
from paceline.lab.training.fleet import Fleet
from paceline.lab.training.run import Plan, Run, derive_run_seed
from paceline.models.files import hash_file
from paceline.models.trainable import PRESETS, build_trainable
from paceline.training.datasets.batches import TokenBatches
from paceline.training.datasets.sources import open_source
from paceline.training.datasets.token_file import TokenFile, prepare_tokens
from paceline.training.datasets.tokenise import choose_tokeniser
from paceline.training.methods.flat_model import FlatModel
from paceline.training.methods.replica import Course
from paceline.training.methods.strategy import Strategy
from paceline.training.methods.workbench import Workbench


@runtime_checkable
class Batches(Protocol):
    """Where batches come from; `TokenBatches` is one."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one trainer learns from in one inner step."""

    def get_batch(self, trainer: int, step: int) -> Tensor:
        """What the module's forward takes."""

    def get_evaluation_batches(self) -> list[Tensor]:
        """Held out, at least one."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a run is put together from."""

    module: nn.Module
    """Taken over: its parameters become the run's."""
    batches: Batches
    strategy: Strategy
    fleet: Fleet
    steps: int
    seed: int
    evaluate_every: int
    timeout_seconds: float = 0.0
    pretend_params: int = 0
    tokenizer: bytes | None = None
    """A tokenizer.json, kept beside the trained model."""


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """A run that has not begun. `start` begins it; processes that are real take `course` and `params`."""

    course: Course
    plan: Plan
    params: Tensor
    module: nn.Module
    held_out: list[Tensor]
    tokenizer: bytes | None = None

    def start(self, on_progress: Callable[[int, int], None] | None = None) -> Run:
        """A fresh simulation, which tells the tokens trained on so far and in all."""
        return Run(self.course, replace(self.plan, on_progress=on_progress), self.params)

    def load(self, params: Tensor) -> nn.Module:
        """The module with these parameters."""
        bench = self.course.bench
        bench.flush()
        bench.loaded = None
        bench.model.values.copy_(params)
        return self.module


def assemble(parts: Parts) -> PreparedRun:
    """Put a run together.

    Errors: ConfigError for a module that cannot be flattened or batches that are missing.
    """
    held_out = parts.batches.get_evaluation_batches()
    if not held_out:
        raise ConfigError("data: no batch to evaluate on; give at least one")
    model = FlatModel(parts.module, parts.strategy.fragments)
    bench = Workbench(model)
    course = Course(
        strategy=parts.strategy,
        bench=bench,
        total_steps=parts.steps,
        seed=derive_run_seed(parts.seed),
        get_batch=parts.batches.get_batch,
        batch_tokens=parts.batches.tokens_per_step,
    )
    plan = Plan(
        fleet=parts.fleet,
        evaluate_every=parts.evaluate_every,
        timeout_seconds=parts.timeout_seconds,
        pretend_params=parts.pretend_params,
        evaluate=lambda params: bench.evaluate(params, held_out),
    )
    return PreparedRun(
        course=course,
        plan=plan,
        params=model.values.clone(),
        module=parts.module,
        held_out=held_out,
        tokenizer=parts.tokenizer,
    )


def build_run(config: RunConfig, cache_dir: Path) -> PreparedRun:
    """The run of a configuration.

    Errors: ConfigError naming the setting; WorkError when the cache of tokens cannot be written.
    Effects: tokenises the data into `cache_dir` once.
    """
    words = open_tokens(config.data, cache_dir)
    module = build_trainable(config.model.name, vocabulary=words.facts.vocabulary, seed=config.run.seed)
    batches = TokenBatches(
        words.tokens,
        sequence_tokens=choose_sequence_tokens(config.data.sequence_tokens, module.context_tokens),
        batch_size=config.run.batch_size,
        seed=config.run.seed,
        trainers=config.fleet.trainers,
        heterogeneity=config.data.heterogeneity,
    )
    return assemble(
        Parts(
            module=module,
            batches=batches,
            strategy=make_strategy(config),
            fleet=make_machines(config.fleet),
            steps=config.run.steps,
            seed=config.run.seed,
            evaluate_every=config.evaluate_every,
            timeout_seconds=config.run.timeout_seconds,
            pretend_params=config.fleet.pretend_params,
            tokenizer=words.tokenizer,
        )
    )


def compute_content_hash(config: RunConfig) -> bytes:
    """Hash of the files that a configuration only names: data, the tokenizer's folder, the model's folder."""
    found = [open_source(config.data.source, field=config.data.column).compute_hash()]
    found.append(choose_tokeniser(config.data.tokenizer, vocabulary=config.data.vocabulary).key)
    if config.model.name not in PRESETS:
        files = sorted(file for file in Path(config.model.name).glob("*") if file.is_file() and file.stat().st_size)
        found += [hash_file(file).encode() for file in files]
    return hash_parts("training-content", *found)


def choose_sequence_tokens(wanted: int, context: int | None) -> int:
    """The length of sequences: what was asked for, else the model's context.

    Errors: ConfigError when neither is known, or when it is longer than the context.
    """
    if wanted == 0 and context is None:
        raise ConfigError("data.sequence_tokens 0: the model states no context; say how long sequences are")
    if context is not None and wanted > context:
        raise ConfigError(f"data.sequence_tokens {wanted}: the model's context holds {context}; use shorter sequences")
    return wanted or context or 1


@lru_cache(maxsize=4)
def open_tokens(data: DataTable, cache_dir: Path) -> TokenFile:
    """The tokens that a table names, from the cache once they are there."""
    source = open_source(data.source, field=data.column)
    return prepare_tokens(source, choose_tokeniser(data.tokenizer, vocabulary=data.vocabulary), cache_dir)
