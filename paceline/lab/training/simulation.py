"""A simulated run in a few lines of Python: a model, data, and the name of a strategy.

It refuses to know files of configuration. Invariant: every `fit` of one simulation starts from the same parameters and draws
the same batches, so its results differ by the strategy alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from paceline.base.errors import ConfigError
from paceline.base.tables import convert_table
from paceline.lab.training.accounts import Result
from paceline.lab.training.config import EVALUATIONS, DataTable, OptimizerTable, make_named_strategy
from paceline.lab.training.fleet import Fleet, make_fleet
from paceline.lab.training.parts import (
    Batches,
    Parts,
    PreparedRun,
    assemble,
    choose_sequence_tokens,
    open_tokens,
)
from paceline.lab.training.record import PointRecord, RunRecord, make_record, write_file, write_points, write_record
from paceline.models.checkpoints import save_checkpoint
from paceline.models.trainable import build_trainable
from paceline.models.trainable_folder import TransformersModel
from paceline.models.trainable_llama import TrainableLlama
from paceline.training.datasets.batches import TokenBatches
from paceline.training.methods.exchanges import Syncer

RESULT_FILE, POINTS_FILE, MODEL_FOLDER = "result.json", "points.csv", "model"
BYTE_VOCABULARY = 256
GetBatch = Callable[[int, int], Tensor]


@dataclass(frozen=True, kw_only=True, repr=False)
class FitResult:
    """A finished run; printed, its figures in a line."""

    result: Result
    record: RunRecord
    module: nn.Module
    """With the average of the replicas, or the synchroniser's anchor."""
    tokenizer: bytes | None = None

    def __repr__(self) -> str:
        loss = "no finite loss" if self.loss is None else f"loss {self.loss:.4f}"
        sent = self.result.bytes_sent_per_step
        return f"{self.result.method}: {loss}, {sent:,.0f} bytes sent by a trainer in a step, {self.utilisation:.1%} at work"

    @property
    def loss(self) -> float | None:
        """Of `module` on what was held out; None when it is no finite number."""
        return self.record.loss

    @property
    def points(self) -> tuple[PointRecord, ...]:
        """Loss over steps, tokens, bytes and virtual seconds."""
        return self.record.points

    @property
    def bytes_by_kind(self) -> dict[str, int]:
        """Sent by all trainers."""
        return self.record.sent

    @property
    def utilisation(self) -> float:
        """Share of the trainers' time that went into inner steps."""
        return self.record.utilisation

    @property
    def correlation(self) -> float | None:
        """Between the replicas' parameters, mean over the evaluations."""
        return self.record.correlation

    def save(self, folder: str | Path) -> None:
        """Write result.json, points.csv, and the model as a folder of safetensors.

        Errors: WorkError naming the path, when the disk is full.
        """
        place = Path(folder)
        write_record(self.record, place / RESULT_FILE)
        write_file(place / POINTS_FILE, write_points(self.record).encode())
        save_module(self, place / MODEL_FOLDER)


class Simulation:
    """Virtual trainers of one model on one set of data.

    `model`: a module whose forward returns the loss, a preset's name, or a folder. `data`: "shakespeare", a file or a
    folder of text, an object like `TokenBatches`, or a function (trainer, step) to batch; then `held_out` lists the
    batches to evaluate on. A module is copied, never changed.
    Errors: ConfigError naming what does not fit.
    """

    def __init__(
        self,
        model: nn.Module | str | Path,
        data: Batches | GetBatch | str | Path = "shakespeare",
        *,
        held_out: list[Tensor] | None = None,
        batch_size: int = 4,
        seed: int = 1,
        cache_dir: Path | None = None,
    ) -> None:
        self.model, self.data, self.held_out = model, data, held_out
        self.batch_size, self.seed = batch_size, seed
        self.cache_dir = cache_dir or Path.home() / ".cache" / "paceline" / "tokens"
        has_functions = callable(data) and not isinstance(data, Batches)
        if has_functions != (held_out is not None):
            raise ConfigError("held_out: give it with a function for batches, and only then")
        if isinstance(model, (str, Path)) and has_functions:
            raise ConfigError("model: a preset or folder needs data with a vocabulary; give a module, or text as data")

    def fit(
        self,
        *,
        strategy: str = "diloco",
        num_nodes: int = 4,
        steps: int,
        fleet: Fleet | None = None,
        optimizer: Mapping[str, Any] | None = None,
        evaluate_every: int | None = None,
        **settings: Any,
    ) -> FitResult:
        """Train from the first parameters. `settings` are the strategy's; `optimizer` changes its inner optimiser.

        Errors: ConfigError naming the setting, WorkError when no trainer is left.
        """
        if steps < 1:
            raise ConfigError(f"steps {steps}: must be at least 1")
        if fleet is not None and len(fleet.machines) != num_nodes:
            raise ConfigError(f"num_nodes {num_nodes}: the fleet has {len(fleet.machines)} machines")
        table = _read_optimizer(optimizer)
        batches, vocabulary, words = self._open_data(num_nodes)
        prepared = assemble(
            Parts(
                module=self._make_module(vocabulary),
                batches=batches,
                strategy=make_named_strategy(strategy, settings, trainers=num_nodes, steps=steps, optimizer=table),
                fleet=fleet or make_fleet(num_nodes),
                steps=steps,
                seed=self.seed,
                evaluate_every=evaluate_every or max(1, steps // EVALUATIONS),
                tokenizer=words,
            )
        )
        run = prepared.start()
        # A module with dropout draws from torch's own generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            run.play()
        return finish(prepared, run.get_result())

    def _make_module(self, vocabulary: int) -> nn.Module:
        if isinstance(self.model, nn.Module):
            return copy.deepcopy(self.model)
        return build_trainable(str(self.model), vocabulary=vocabulary, seed=self.seed)

    @cached_property
    def _context(self) -> int | None:
        stated = getattr(self._make_module(BYTE_VOCABULARY), "context_tokens", None)
        return stated if isinstance(stated, int) else None

    def _open_data(self, trainers: int) -> tuple[Batches, int, bytes | None]:
        data = self.data
        if isinstance(data, (str, Path)):
            words = open_tokens(DataTable(source=str(data)), self.cache_dir)
            batches = TokenBatches(
                words.tokens,
                sequence_tokens=choose_sequence_tokens(0, self._context),
                batch_size=self.batch_size,
                seed=self.seed,
                trainers=trainers,
            )
            return batches, words.facts.vocabulary, words.tokenizer
        if isinstance(data, Batches):
            return data, getattr(data, "vocabulary", BYTE_VOCABULARY), None
        return _FromFunction(data, self.held_out or []), 0, None


class _FromFunction:
    """Batches from a function; a token is one entry of a batch's first dimension."""

    def __init__(self, get_batch: GetBatch, held_out: list[Tensor]) -> None:
        self.get_batch, self._held_out = get_batch, held_out

    @property
    def tokens_per_step(self) -> int:
        return len(self.get_batch(0, 0))

    def get_evaluation_batches(self) -> list[Tensor]:
        return self._held_out


def finish(prepared: PreparedRun, result: Result) -> FitResult:
    """The result of a run that was played to its end, with the loss of its final parameters."""
    return FitResult(
        result=result,
        record=make_record(result, _get_last_loss(prepared, result)),
        module=prepared.load(result.params),
        tokenizer=prepared.tokenizer,
    )


def _get_last_loss(prepared: PreparedRun, result: Result) -> float:
    """The last evaluation's, unless a synchroniser may have merged since or some trainer came or went."""
    last = result.points[-1] if result.points else None
    has_syncer = any(isinstance(rule.exchange, Syncer) for rule in prepared.course.strategy.rules)
    if last is not None and last.step == prepared.course.total_steps and not has_syncer and not result.events:
        return last.loss
    return prepared.course.bench.evaluate(result.params, prepared.held_out)


def save_module(fitted: FitResult, folder: Path) -> None:
    """A model of ours as a checkpoint that transformers loads; any other module as its tensors.

    Errors: WorkError naming the path.
    """
    notes = {"method": fitted.record.method, "loss": fitted.record.loss}
    if isinstance(fitted.module, (TrainableLlama, TransformersModel)):
        save_checkpoint(fitted.module, folder, extra=notes, tokenizer=fitted.tokenizer)
        return
    # Parameters are views of one vector, which safetensors would refuse.
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in fitted.module.state_dict().items()}
    write_file(folder / "model.safetensors", save(tensors))


def _read_optimizer(changes: Mapping[str, Any] | None) -> OptimizerTable:
    return convert_table(dict(changes or {}), OptimizerTable, "optimizer")
