"""Requests while all nodes of a small network race: each is answered, and the Race goes on to its weights.

Every report of its checkers is recomputed by the others here: honest ones never differ, so nobody is guilty in the end.
"""

from __future__ import annotations

import msgspec
import pytest

import paceline
from paceline.ledger import nodes
from paceline.ledger.application import Application
from paceline.protocol.params import PRESETS, TINY
from paceline.store.state import SqliteStateStore

pytestmark = pytest.mark.long

MODEL = "smollm2-135m-instruct"
AT_LEAST = 2
"""Requests that begin and end while everybody searches; a quick machine makes a dozen."""
SEARCHING = {"racing", "claims"}


def read_guilty(home):
    store = SqliteStateStore(home.node_path("node-1") / "chain.sqlite", durable=False)
    state = Application(home.load_genesis(), store).read()
    found = [node.guilty for _, node in nodes.NODES.items(state)]
    store.close()
    return found


def test_requests_during_a_race_are_all_answered_and_the_race_ends_as_ever(tmp_path, monkeypatch):
    longer = msgspec.structs.replace(TINY.race, race_blocks=28, claim_blocks=8, slot_positions=8, review_ppm=3_000_000)
    monkeypatch.setitem(PRESETS, "tiny-longer", msgspec.structs.replace(TINY, race=longer))
    with (
        paceline.local_network(nodes=3, home=tmp_path / "home", seed=5, preset="tiny-longer") as network,
        network.openai_client(max_retries=0, timeout=60) as client,
    ):
        network.wait(lambda report: report.race.phase == "racing", 60, "the start of the Race")
        answers, during = [], 0
        while network.report().race.phase in SEARCHING:
            messages = [{"role": "user", "content": f"Say something about the number {len(answers)}."}]
            answers.append(client.chat.completions.create(model=MODEL, messages=messages, max_tokens=6))
            during += network.report().race.phase in SEARCHING
        report = network.wait(lambda report: report.race.phase == "done", 90, "the end of the Race")
    assert during >= AT_LEAST
    assert all(answer.choices[0].message.content.strip() for answer in answers)
    assert len(report.race.hits) == 3
    assert report.race.accepted_hits == sum(report.race.hits.values()) > 0
    assert report.race.rejected_nodes == []
    assert read_guilty(network.supervisor.home) == [-1] * 3
    assert sum(report.inference.answered.values()) == len(answers)
