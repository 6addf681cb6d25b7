from __future__ import annotations

import csv
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torch import Tensor
from typer.testing import CliRunner

from paceline.cli.main import app
from paceline.training.datasets.batches import TokenBatches

EXAMPLES = Path(__file__).parents[2] / "examples" / "train"
RUN = """
[data]
source = "{text}"
sequence_tokens = 16
[run]
steps = 6
batch_size = 1
evaluate_every = 3
[strategy]
name = "diloco"
inner_steps = 3
[fleet]
trainers = 2
"""
QUICK_SECONDS = 180
"""Of two cores; counted as their work, which does not depend on what else they do."""


def get_children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run file, in a folder that is the current one."""
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("the quality of mercy is not strained. " * 200)
    path = tmp_path / "tiny.toml"
    path.write_text(RUN.format(text=tmp_path / "text.txt"))
    return path


def test_simulate_writes_result_points_chart_and_model(run: Path) -> None:
    done = CliRunner().invoke(app, ["train", "simulate", str(run)])
    assert done.exit_code == 0, done.output
    out = run.parent / "tiny"
    assert json.loads((out / "result.json").read_text())["steps"] == [6, 6]
    assert len((out / "points.csv").read_text().splitlines()) == 3
    assert "A run of diloco" in (out / "chart.html").read_text()
    assert (out / "model" / "model.safetensors").exists() and (out / "model" / "config.json").exists()
    assert "compute utilisation" in done.output


def test_a_first_interrupt_keeps_a_checkpoint_and_resume_ends_as_if_there_was_none(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_batch, calls = TokenBatches.get_batch, []

    def interrupt(batches: TokenBatches, trainer: int, step: int) -> Tensor:
        calls.append(step)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return get_batch(batches, trainer, step)

    whole = CliRunner().invoke(app, ["train", "simulate", str(run), "--out", "whole"])
    with monkeypatch.context() as patched:
        patched.setattr(TokenBatches, "get_batch", interrupt)
        stopped = CliRunner().invoke(app, ["train", "simulate", str(run), "--out", "cut"])
    assert (whole.exit_code, stopped.exit_code) == (0, 130)
    assert [path.name for path in Path("cut").iterdir()] == ["checkpoint.pt"]
    refused = CliRunner().invoke(app, ["train", "simulate", str(run), "--out", "cut"])
    assert (refused.exit_code, "--resume" in refused.output) == (2, True)
    resumed = CliRunner().invoke(app, ["train", "simulate", str(run), "--out", "cut", "--resume"])
    assert resumed.exit_code == 0, resumed.output
    for name in ("result.json", "points.csv", "model/model.safetensors"):
        assert Path("whole", name).read_bytes() == Path("cut", name).read_bytes()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[run]\nsteps = 1\n", "strategy"),
        ('[compare]\nsweep = { "fleet.jitter" = [0.1] }\n', "paceline train compare"),
        ("[fleet]\ntrainers = 2\nbandwith = 3\n", "bandwith"),
    ],
)
def test_invalid_run_files_end_with_one_line(run: Path, text: str, told: str) -> None:
    run.write_text(text)
    done = CliRunner().invoke(app, ["train", "simulate", str(run)])
    assert done.exit_code == 2
    assert told in done.output and "Traceback" not in done.output


def test_compare_tunes_trains_and_reuses_what_is_done(run: Path) -> None:
    text = '[tune]\nsteps = 3\n[tune.grid]\n"optimizer.rate" = [1e-3, 1e-2]\n[compare]\nseeds = 2\n'
    run.write_text(run.read_text() + text)
    command = ["train", "compare", str(run), "--out", "report", "--jobs", "1"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    [row] = csv.DictReader(Path("report", "report.csv").read_text().splitlines())
    assert (row["seeds"], row["method"], row["settings"]) == ("2", "diloco", "inner_steps 3, rate 0.01")
    assert "What was tuned" in Path("report", "report.html").read_text()
    written = {path: path.stat().st_mtime_ns for path in Path("report", "runs").iterdir()}
    assert len(written) == 4
    first = next(iter(written))
    first.unlink()
    assert CliRunner().invoke(app, command).exit_code == 0
    again = {path: path.stat().st_mtime_ns for path in Path("report", "runs").iterdir()}
    assert [path for path in written if again[path] != written[path]] == [first]


@pytest.mark.long
def test_processes_give_the_records_of_one(run: Path) -> None:
    run.write_text(run.read_text() + "[compare]\nseeds = 3\n")
    for jobs in ("1", "2"):
        command = ["train", "compare", str(run), "--out", f"report{jobs}", "--jobs", jobs]
        assert CliRunner().invoke(app, command).exit_code == 0
    one, two = ({path.name: path.read_bytes() for path in Path(f"report{jobs}", "runs").iterdir()} for jobs in "12")
    assert len(one) == 3
    assert one == two


@pytest.mark.long
def test_real_processes_end_with_the_simulators_model(run: Path) -> None:
    simulated = CliRunner().invoke(app, ["train", "simulate", str(run), "--out", "simulated"])
    assert simulated.exit_code == 0, simulated.output
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command += [sys.executable, "-m", "paceline", "train", "worker", str(run), "--out", "real"]
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    names = [Path(folder, "model", "model.safetensors") for folder in ("simulated", "real")]
    assert names[0].read_bytes() == names[1].read_bytes()
    kinds = [json.loads(Path(folder, "result.json").read_text())["sent"] for folder in ("simulated", "real")]
    assert kinds[0] == kinds[1]


def test_invalid_simulated_machines_for_real_processes(run: Path) -> None:
    run.write_text(run.read_text() + 'bandwidth = "1M"\n')
    done = CliRunner().invoke(app, ["train", "worker", str(run)])
    assert (done.exit_code, "fleet.bandwidth" in done.output) == (2, True)


def test_methods_are_listed() -> None:
    done = CliRunner().invoke(app, ["train", "methods"])
    assert done.exit_code == 0
    assert "sparseloco" in done.output and "gossip-ring" in done.output


@pytest.mark.long
@pytest.mark.timeout(900)
def test_all_examples_are_compared_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path / "cache"))
    files = [str(path) for path in sorted(EXAMPLES.rglob("*.toml"))]
    begun = get_children_seconds()
    done = CliRunner().invoke(app, ["train", "compare", *files, "--quick", "--out", str(tmp_path / "report")])
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((tmp_path / "report" / "report.csv").read_text().splitlines()))
    assert len(rows) == 40
    shares = [float(row["utilisation"]) for row in rows if row["group"] == "Utilisation by bandwidth"]
    # 2 * 3/4 * 4 bytes of 30.8 M parameters over the link, after 128 steps of 0.037 s.
    expected = [128 * 0.037 / (128 * 0.037 + 8 * 6 * 30.8e6 / bits) for bits in (50e6, 200e6, 1e9, 5e9)]
    assert shares == pytest.approx(expected, rel=1e-6)
    honest, *liars = (float(row["loss"]) for row in rows if row["group"] == "Liars")
    mean, others = liars[0], liars[1:]
    assert mean > 1.3 * honest
    assert all(loss < 1.15 * honest for loss in others)
    assert get_children_seconds() - begun < 2 * QUICK_SECONDS
