"""A network of processes that nobody asks: its nodes take marked tasks, check each other's, and pass."""

from __future__ import annotations

import pytest
from chain_observer import observe

import paceline
from paceline.ledger.tasks import FINAL, OPEN_TASKS, TASKS
from paceline.protocol.messages import REJECTED


@pytest.mark.long
def test_idle_nodes_pass_each_others_checks(tmp_path):
    home = tmp_path / "home"
    with paceline.local_network(nodes=3, home=home, seed=7) as network:
        network.wait(lambda report: report.race.phase == "done", 180, "the first Race")
        observer = observe(network.supervisor.home)

        def is_over(state):
            marked = [task for _, task in TASKS.items(state) if task.is_marked]
            return len(marked) >= 3 and not OPEN_TASKS.items(state)

        state = observer.follow(is_over)
        tasks = [task for _, task in TASKS.items(state)]
        assert {task.status for task in tasks} == {FINAL}
        assert all(task.is_marked and task.cost == 0 for task in tasks)
        # At reputation 0 one checker is drawn on average; what they found had numbers behind it.
        votes = [vote for task in tasks for vote in task.votes]
        assert votes
        assert all(vote.evidence and vote.outcome != REJECTED for vote in votes)
        assert observer.find_problems() == []
