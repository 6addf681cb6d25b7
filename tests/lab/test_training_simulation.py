from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from paceline.base.errors import ConfigError, WorkError
from paceline.lab.training.config import parse_config
from paceline.lab.training.fleet import Fleet, Machine
from paceline.lab.training.parts import build_run, choose_sequence_tokens
from paceline.lab.training.pause import CHECKPOINT_FILE, begin, play_on
from paceline.lab.training.record import read_record
from paceline.lab.training.simulation import POINTS_FILE, RESULT_FILE, FitResult, Simulation
from paceline.models.checkpoints import load_checkpoint

CONFIG: dict[str, Any] = {
    "data": {"sequence_tokens": 16},
    "run": {"steps": 8, "batch_size": 1, "evaluate_every": 4},
    "strategy": {"name": "diloco", "inner_steps": 4},
    "fleet": {"trainers": 2, "bandwidth": "10M", "jitter": 0.2},
}


class Regression(nn.Module):
    """Learns the sum of four numbers; dropout makes it draw chance."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 8), nn.Linear(8, 1)
        self.drop = nn.Dropout(0.1)
        with torch.no_grad():
            for number, param in enumerate(self.parameters()):
                param.copy_(torch.sin(torch.arange(param.numel()) + number).view_as(param) / 2)

    def forward(self, batch: Tensor) -> Tensor:
        guess = self.outer(self.drop(torch.tanh(self.inner(batch))))[:, 0]
        return functional.mse_loss(guess, batch.sum(1))


def get_batch(trainer: int, step: int) -> Tensor:
    return torch.sin(torch.arange(64.0) * (trainer + 1) + step).view(16, 4)


def fit(module: nn.Module | None = None, **settings: Any) -> FitResult:
    simulation = Simulation(module or Regression(), get_batch, held_out=[get_batch(9, 9)], seed=settings.pop("seed", 1))
    optimizer = {"name": "sgd", "rate": 0.05}
    return simulation.fit(
        **{"strategy": "diloco", "num_nodes": 3, "steps": 12, "inner_steps": 4, "optimizer": optimizer} | settings
    )


def test_five_lines_train_a_module_of_ones_own() -> None:
    module = Regression()
    before = [param.detach().clone() for param in module.parameters()]
    found = fit(module, steps=40)
    assert found.loss is not None and found.points[0].loss is not None
    assert found.loss < found.points[0].loss
    assert found.points[-1].tokens == 3 * 40 * 16
    assert found.bytes_by_kind["update"] == found.record.received["update"] > 0
    assert all(torch.equal(one, other) for one, other in zip(before, module.parameters(), strict=True))
    assert float(found.module.eval()(get_batch(9, 9)).detach()) == pytest.approx(found.loss)


def test_equal_seeds_give_equal_bits_and_all_methods_begin_alike() -> None:
    one, other = fit(), fit()
    assert torch.equal(one.result.params, other.result.params)
    assert one.points == other.points
    first = [fit(strategy=name, steps=1, **settings).points[0].loss for name, settings in FIRST_STEPS]
    assert len(set(first)) == 1


FIRST_STEPS: list[tuple[str, dict[str, Any]]] = [
    ("fedavg", {"inner_steps": 1, "num_nodes": 1}),
    ("diloco", {"inner_steps": 1, "num_nodes": 1, "outer_rate": 1.0, "outer_momentum": 0.0}),
]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"strategy": "diloko"}, "strategy.name"),
        ({"inner_step": 4}, "inner_step"),
        ({"steps": 0}, "steps 0"),
        ({"optimizer": {"speed": 1}}, "speed"),
        ({"fleet": Fleet(machines=(Machine(),))}, "num_nodes 3"),
    ],
)
def test_invalid_settings_of_a_fit(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fit(**settings)
    assert named in str(caught.value)


def test_invalid_data_of_a_simulation() -> None:
    with pytest.raises(ConfigError, match="held_out"):
        Simulation(Regression(), get_batch)
    with pytest.raises(ConfigError, match="held_out"):
        Simulation(Regression(), "shakespeare", held_out=[get_batch(0, 0)])
    with pytest.raises(ConfigError, match="model"):
        Simulation("byte-gpt-0.5m", get_batch, held_out=[get_batch(0, 0)])
    with pytest.raises(ConfigError, match="no batch to evaluate on"):
        Simulation(Regression(), get_batch, held_out=[]).fit(strategy="ddp", steps=1)


def test_invalid_sequences() -> None:
    assert (choose_sequence_tokens(0, 64), choose_sequence_tokens(64, 64), choose_sequence_tokens(9, None)) == (
        64,
        64,
        9,
    )
    with pytest.raises(ConfigError, match="context holds 64"):
        choose_sequence_tokens(65, 64)
    with pytest.raises(ConfigError, match="states no context"):
        choose_sequence_tokens(0, None)


def test_a_fit_of_ones_own_module_is_saved_as_tensors(tmp_path: Path) -> None:
    found = fit()
    found.save(tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert all(torch.equal(tensors[name], param) for name, param in found.module.named_parameters())
    assert read_record(tmp_path / "out" / RESULT_FILE) == found.record
    rows = list(csv.DictReader((tmp_path / "out" / POINTS_FILE).read_text().splitlines()))
    assert [float(row["loss"]) for row in rows] == [point.loss for point in found.points]


def test_a_fit_of_a_preset_is_saved_as_a_checkpoint(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question. " * 400)
    simulation = Simulation("byte-gpt-0.5m", text, batch_size=1, cache_dir=tmp_path / "tokens")
    found = simulation.fit(strategy="fedavg", num_nodes=2, steps=2, inner_steps=1)
    found.save(tmp_path / "out")
    loaded = load_checkpoint(tmp_path / "out" / "model")
    assert loaded.extra["loss"] == found.loss
    assert loaded.tokenizer is not None
    tensors = dict(loaded.module.named_parameters())
    assert all(torch.equal(tensors[name], param) for name, param in found.module.named_parameters())


def test_a_stopped_run_goes_on_to_the_same_result(tmp_path: Path) -> None:
    config = parse_config(CONFIG, "test")

    def play(folder: Path, *, stop_after: int, resume: bool) -> FitResult | None:
        prepared = build_run(config, tmp_path / "tokens")
        run = begin(prepared, folder, about="x", resume=resume)
        seen: list[int] = []
        return play_on(
            prepared,
            run,
            folder,
            about="x",
            is_stopped=lambda: len(seen) >= stop_after,
            on_progress=seen.append,
        )

    whole = play(tmp_path / "whole", stop_after=1000, resume=False)
    assert play(tmp_path / "cut", stop_after=2, resume=False) is None
    assert (tmp_path / "cut" / CHECKPOINT_FILE).exists()
    with pytest.raises(ConfigError, match="--resume"):
        play(tmp_path / "cut", stop_after=1000, resume=False)
    resumed = play(tmp_path / "cut", stop_after=1000, resume=True)
    assert whole is not None and resumed is not None
    assert torch.equal(whole.result.params, resumed.result.params)
    assert whole.record == resumed.record
    assert not (tmp_path / "cut" / CHECKPOINT_FILE).exists()
    with pytest.raises(ConfigError, match="no such file"):
        play(tmp_path / "cut", stop_after=1000, resume=True)


def test_what_comes_after_the_end_changes_nothing(tmp_path: Path) -> None:
    late = CONFIG | {"run": CONFIG["run"] | {"timeout_seconds": 50.0}}
    events = [{"kind": "crash", "trainer": 0, "seconds": 1e6}, {"kind": "leave", "trainer": 1, "seconds": 2e6}]
    late["fleet"] = CONFIG["fleet"] | {"events": events}
    runs = [build_run(parse_config(tables, "test"), tmp_path / "tokens").start() for tables in (CONFIG, late)]
    assert all(run.play() for run in runs)
    one, other = (run.get_result() for run in runs)
    assert (one.seconds, one.points, one.events) == (other.seconds, other.points, other.events)
    assert torch.equal(one.params, other.params)


def test_invalid_run_in_which_everyone_crashes(tmp_path: Path) -> None:
    events = [{"kind": "crash", "trainer": trainer, "seconds": 2.5} for trainer in range(2)]
    tables = CONFIG | {"fleet": CONFIG["fleet"] | {"events": events}}
    run = build_run(parse_config(tables, "test"), tmp_path / "tokens").start()
    run.play()
    with pytest.raises(WorkError, match="no trainer is left"):
        run.get_result()
