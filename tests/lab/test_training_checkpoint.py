"""A run that was paused, written, and read into fresh objects ends bit for bit like one that never stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from full_disk import files_end_at
from method_runs import KINDS, make_changing_fleet, make_course, make_plan, make_run

from paceline.base.errors import ConfigError, WorkError
from paceline.base.hashing import hash_parts
from paceline.lab.training.checkpoint import read_checkpoint, write_checkpoint

STRIDE = 31
"""Events between two pauses; prime, so that the pauses fall on every kind of event."""


def play_events(run, count):
    return all(run.play_event() for _ in range(count))


def resume(path, strategy, **settings):
    course = make_course(strategy)
    return read_checkpoint(path, course, make_plan(course, **settings))


def play_with_pauses(path, strategy, stride=STRIDE, **settings):
    run, pauses = make_run(strategy, **settings), 0
    while play_events(run, stride):
        write_checkpoint(path, run)
        run, pauses = resume(path, strategy, **settings), pauses + 1
    assert pauses >= 1
    return run.get_result()


def hash_result(result):
    words = [repr(result.points), repr(result.meters), repr(result.events), repr((result.seconds, result.rounds))]
    return hash_parts("test", result.params.numpy().tobytes(), *(word.encode() for word in words)).hex()


def assert_equal_results(one, other):
    assert one.points == other.points
    assert one.meters == other.meters
    assert one.events == other.events
    assert (one.seconds, one.rounds) == (other.seconds, other.rounds)
    assert torch.equal(one.params, other.params)


def play_whole(strategy, **settings):
    run = make_run(strategy, **settings)
    assert run.play()
    return run.get_result()


@pytest.mark.parametrize("name", KINDS)
def test_pauses_change_nothing_in_any_kind_of_strategy(name, tmp_path):
    whole = play_whole(KINDS[name])
    assert len(whole.points) >= 2 and whole.rounds >= 3 * (name != "none")
    assert_equal_results(whole, play_with_pauses(tmp_path / "run.pt", KINDS[name], 11 if name == "none" else STRIDE))


@pytest.mark.long
@pytest.mark.parametrize("name", KINDS)
def test_pauses_every_other_event_change_nothing(name, tmp_path):
    settings = {"fleet": make_changing_fleet(), "timeout_seconds": 2.0}
    whole = play_whole(KINDS[name], **settings)
    assert_equal_results(whole, play_with_pauses(tmp_path / "run.pt", KINDS[name], 2, **settings))


@pytest.mark.parametrize("name", ["ddp", "diloco-int8", "streaming", "ring", "decoupled"])
def test_pauses_change_nothing_while_trainers_come_and_go(name, tmp_path):
    settings = {"fleet": make_changing_fleet(), "timeout_seconds": 2.0}
    whole = play_whole(KINDS[name], **settings)
    assert any("crashed" in event for event in whole.events)
    assert_equal_results(whole, play_with_pauses(tmp_path / "run.pt", KINDS[name], **settings))


def test_a_finished_run_can_be_written_and_read(tmp_path):
    run = make_run(KINDS["diloco"])
    assert run.play()
    write_checkpoint(tmp_path / "run.pt", run)
    again = resume(tmp_path / "run.pt", KINDS["diloco"])
    assert again.play()
    assert_equal_results(run.get_result(), again.get_result())


def test_the_written_run_itself_goes_on_unchanged(tmp_path):
    run = make_run(KINDS["streaming"])
    while play_events(run, STRIDE):
        write_checkpoint(tmp_path / "run.pt", run)
    assert_equal_results(play_whole(KINDS["streaming"]), run.get_result())


def test_trainers_share_memory_again_after_reading(tmp_path):
    run = make_run(KINDS["diloco"])
    assert not run.play(until_tokens=run.total_tokens // 2)
    write_checkpoint(tmp_path / "run.pt", run)
    again = resume(tmp_path / "run.pt", KINDS["diloco"])
    for count in (count_anchors(run), count_anchors(again)):
        assert count == 1


def count_anchors(run):
    return len({id(actor.replica.anchors[0][0]) for actor in run.actors})


@pytest.mark.parametrize("change", ["strategy", "seed", "steps", "fleet", "timeout", "about"])
def test_invalid_checkpoint_of_another_configuration(change, tmp_path):
    path = tmp_path / "run.pt"
    write_checkpoint(path, make_run(KINDS["diloco"]), about="data 1")
    strategy = KINDS["diloco-int8" if change == "strategy" else "diloco"]
    course = make_course(strategy, seed=2 if change == "seed" else 1, steps=32 if change == "steps" else 24)
    plan = make_plan(course, trainers=4 if change == "fleet" else 3)
    plan = replace(plan, timeout_seconds=1.0) if change == "timeout" else plan
    with pytest.raises(ConfigError, match=r"run\.pt: written by a run of another configuration"):
        read_checkpoint(path, course, plan, about="data 2" if change == "about" else "data 1")


def test_settings_in_another_order_are_the_same_configuration(tmp_path):
    path = tmp_path / "run.pt"
    local = KINDS["diloco"].local
    one = replace(KINDS["diloco"], local=replace(local, settings={"eps": 1e-8, "betas": [0.9, 0.99]}))
    other = replace(one, local=replace(local, settings={"betas": [0.9, 0.99], "eps": 1e-8}))
    write_checkpoint(path, make_run(one))
    assert resume(path, other).queue


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize("kind", ["text", "short", "other", "code", "format", "missing field"])
def test_invalid_files_are_refused(kind, tmp_path):
    path = tmp_path / "run.pt"
    write_checkpoint(path, make_run(KINDS["ddp"]))
    whole = path.read_bytes()
    if kind == "text":
        path.write_text("no checkpoint")
    elif kind == "short":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "other":
        torch.save({"weights": torch.zeros(2)}, path)
    elif kind == "code":
        torch.save({"format": 1, "fingerprint": "", "run": Evil()}, path)
    else:
        content = torch.load(path, weights_only=False)
        content["format"] = 2 if kind == "format" else 1
        del content["run"]["now"]
        torch.save(content, path)
    with pytest.raises(ConfigError, match=r"run\.pt"):
        resume(path, KINDS["ddp"])


def test_invalid_path_names_the_file(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        resume(tmp_path / "gone.pt", KINDS["ddp"])
    with pytest.raises(WorkError, match="cannot be written"):
        write_checkpoint(tmp_path / "no folder" / "run.pt", make_run(KINDS["ddp"]))


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path):
    path = tmp_path / "run.pt"
    run = make_run(KINDS["diloco"])
    run.play(until_tokens=100)
    write_checkpoint(path, run)
    before = path.read_bytes()
    run.play(until_tokens=300)
    refused = pytest.raises(WorkError, match=r"run\.pt: cannot be written \(File too large\)")
    with files_end_at(len(before) // 2), refused:
        write_checkpoint(path, run)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert resume(path, KINDS["diloco"]).play()


@pytest.mark.long
def test_another_process_goes_on_with_the_same_bits(tmp_path):
    path = tmp_path / "run.pt"
    run = make_run(KINDS["streaming"])
    run.play(until_tokens=run.total_tokens // 3)
    write_checkpoint(path, run)
    script = (
        "import sys; from pathlib import Path; from test_training_checkpoint import *\n"
        "run = resume(Path(sys.argv[1]), KINDS['streaming']); assert run.play(); print(hash_result(run.get_result()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, path],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert found.stdout.split()[-1] == hash_result(play_whole(KINDS["streaming"]))
