"""Real processes over gloo end with the simulator's bits and bytes, and with a clear error when one is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from method_runs import KINDS, make_course, make_plan
from process_worker import build, get_batch_of, play_kind

from paceline.base.errors import ConfigError, WorkError
from paceline.lab.training.accounts import UPDATE
from paceline.lab.training.processes import ProcessPlan, run_process
from paceline.lab.training.run import Run
from paceline.lab.training.worker import Meeting, work

SYNCED = [name for name in KINDS if name not in {"decoupled", "asynchronous"}]
FEW = ["ddp", "diloco-int8", "streaming", "sparta-diloco", "noloco"]
NAN = ["ddp", "diloco", "fedavg", "noloco", "distro"]
WORKER = Path(__file__).with_name("process_worker.py")


def start(folder, rank, world, scene, kinds):
    environment = os.environ | {
        "PYTHONPATH": str(WORKER.parents[2]),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "",
    }
    command = [sys.executable, str(WORKER), str(folder), str(rank), str(world), scene, *kinds]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def play(folder, world, scene, kinds):
    """Run the processes to their end; returns exit codes and outputs."""
    processes = [start(folder, rank, world, scene, kinds) for rank in range(world)]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [process.returncode for process in processes], outputs


def simulate(kind, world, scene="plain"):
    course = make_course(KINDS[kind], get_batch=get_batch_of(scene))
    run = Run(course, make_plan(course, trainers=world), course.bench.model.values.clone())
    assert run.play()
    return run.get_result()


def assert_like_simulated(folder, kind, world, scene="plain"):
    expected = simulate(kind, world, scene)
    for rank in range(world):
        found = torch.load(folder / f"{kind}-{rank}.pt")
        assert torch.equal(found["params"], expected.params)
        assert [(point["step"], point["loss"], point["correlation"]) for point in found["points"]] == [
            (point.step, point.loss, point.correlation) for point in expected.points
        ]
        assert found["rounds"] == expected.rounds
        assert [meter["steps"] for meter in found["meters"]] == [meter.steps for meter in expected.meters]
        for direction in ("sent", "received"):
            simulated = [getattr(meter, direction)[UPDATE] for meter in expected.meters]
            assert [meter[direction][UPDATE] for meter in found["meters"]] == simulated
        assert found["sent"] == expected.meters[rank].sent[UPDATE]
        assert found["counted"] == found["handed"]
    return expected


@pytest.mark.long
def test_two_processes_and_the_simulator_agree_bit_for_bit(tmp_path):
    other = start(tmp_path, 1, 2, "plain", FEW)
    try:
        for kind in FEW:
            play_kind(tmp_path, 0, 2, "plain", kind)
        output = other.communicate(timeout=60)[0]
    finally:
        other.kill()
        other.communicate()
    assert other.returncode == 0, output
    for kind in FEW:
        assert assert_like_simulated(tmp_path, kind, 2).bytes_sent > 0


@pytest.mark.long
@pytest.mark.parametrize("world", [2, 3])
def test_every_kind_agrees_with_the_simulator(world, tmp_path):
    codes, outputs = play(tmp_path, world, "plain", SYNCED)
    assert codes == [0] * world, outputs
    for kind in SYNCED:
        assert_like_simulated(tmp_path, kind, world)


@pytest.mark.long
def test_a_trainer_with_nan_withdraws_and_the_others_go_on(tmp_path):
    codes, outputs = play(tmp_path, 3, "nan", NAN)
    assert codes == [0, 0, 0], outputs
    for kind in NAN:
        expected = assert_like_simulated(tmp_path, kind, 3, "nan")
        assert any("trainer 1 withdrew" in event for event in expected.events)
        assert bool(torch.isfinite(expected.params).all())
        assert any("trainer 1 withdrew" in event for event in torch.load(tmp_path / f"{kind}-2.pt")["events"])


@pytest.mark.long
@pytest.mark.parametrize(("scene", "kind"), [("dies", "streaming"), ("fails", "ddp"), ("dies", "noloco")])
def test_a_lost_process_ends_the_others_with_a_clear_error(scene, kind, tmp_path):
    codes, outputs = play(tmp_path, 3, scene, [kind])
    assert codes[1] == (3 if scene == "dies" else 1)
    for rank in (0, 2):
        assert codes[rank] == 1
        assert "WorkError: process" in outputs[rank] and "start the run again" in outputs[rank]


@pytest.mark.long
def test_a_silent_process_ends_the_others_after_the_timeout(tmp_path):
    processes = [start(tmp_path, rank, 2, "stops", ["diloco"]) for rank in range(2)]
    try:
        output = processes[0].communicate(timeout=120)[0]
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    assert processes[0].returncode == 1
    assert "process 1 is gone or was silent for 3 seconds" in output


@pytest.mark.long
def test_invalid_settings_that_differ_between_processes(tmp_path):
    codes, outputs = play(tmp_path, 2, "differs", ["diloco"])
    assert codes == [1, 1]
    assert "ConfigError: process 1: other settings or initial parameters than process 0" in outputs[0]


@pytest.fixture
def alone(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def make_process_plan(**settings):
    return ProcessPlan(**({"evaluate_every": 8, "timeout_seconds": 5.0} | settings))


def test_work_meets_plays_and_leaves(tmp_path):
    found = work(lambda: build("diloco", "plain", 0, 5.0), Meeting(method=f"file://{tmp_path}/meet", rank=0, world=1))
    assert torch.equal(found.params, simulate("diloco", 1).params)
    assert not dist.is_initialized()


@pytest.mark.parametrize("kind", ["diloco-int8", "demo", "ring"])
def test_one_process_alone_is_the_simulation_of_one_trainer(kind, alone):
    course = make_course(KINDS[kind])
    seen = []
    plan = make_process_plan(on_progress=lambda done, total: seen.append((done, total)))
    found = run_process(course, plan, course.bench.model.values.clone())
    assert torch.equal(found.params, simulate(kind, 1).params)
    assert found.bytes_sent == 0 and len(found.points) == 3
    assert seen[-1] == (24, 24)


@pytest.mark.parametrize("kind", ["decoupled", "asynchronous"])
def test_invalid_synchroniser_over_processes(kind):
    course = make_course(KINDS[kind])
    with pytest.raises(ConfigError, match="order of arrival"):
        run_process(course, make_process_plan(), course.bench.model.values.clone())


@pytest.mark.parametrize(
    ("settings", "message"), [({"timeout_seconds": 0.0}, "timeout_seconds"), ({"evaluate_every": 0}, "evaluate_every")]
)
def test_invalid_plans(settings, message, alone):
    course = make_course(KINDS["diloco"])
    with pytest.raises(ConfigError, match=message):
        run_process(course, make_process_plan(**settings), course.bench.model.values.clone())


def test_invalid_processes_that_never_met(tmp_path):
    course = make_course(KINDS["diloco"])
    with pytest.raises(ConfigError, match="not initialised"):
        run_process(course, make_process_plan(), course.bench.model.values.clone())
    missing = Meeting(method=f"file://{tmp_path}/meet", rank=0, world=2, timeout_seconds=0.2)
    with pytest.raises(WorkError, match="did not meet"):
        work(lambda: None, missing)
