"""`kill -9` of a trainer, an auditor and the sequencer in the middle of a training run: the run ends, honest work is kept."""

from __future__ import annotations

import os
import random
import signal
import threading

import pytest
from chain_observer import observe

import paceline
from paceline.base.errors import ConfigError, TransportError

SEED = 31
VICTIMS = ("node-2", "node-1", "node-4", "node-3")
RUN_SECONDS = 400
TEXT = "To be, or not to be, that is the question. Whether it is nobler to suffer. " * 400


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_training_run_survives_killed_nodes(tmp_path):
    moments, ended = random.Random(SEED), threading.Event()
    with paceline.local_network(nodes=5, home=tmp_path / "home", seed=SEED) as net:
        observer = observe(net.supervisor.home)
        watcher = threading.Thread(target=net.supervisor.watch, args=(ended.is_set, lambda *_: None))
        watcher.start()
        try:
            net.wait(lambda report: report.race.phase == "done", 240, "the first Race")
            run_id = net.start_training(TEXT, rounds=3, trainers=3).run
            for victim in VICTIMS:
                threading.Event().wait(moments.uniform(2.0, 8.0))
                os.kill(net.supervisor.get_pids()[victim], signal.SIGKILL)
            run = wait_for_end(net, run_id)
            report = net.wait(lambda report: report.ledger.nodes_agree, 60, "agreement of all nodes")
        finally:
            ended.set()
            watcher.join()
        assert run.rejected_nodes == []
        assert run.losses and run.losses[-1] < 5.0
        assert report.ledger.supply_conserved
        observer.catch_up(report.ledger.height)
        assert observer.find_problems() == []


def wait_for_end(net, run_id):
    """The run's last report; the node that reports may be the one that was killed."""
    pause = threading.Event()
    for _ in range(RUN_SECONDS * 2):
        try:
            run = net.report().training
            if run is not None and run.run == run_id and run.phase == "ended":
                return run
        except (TransportError, ConfigError):
            pass
        pause.wait(0.5)
    raise AssertionError("the training run did not end")
