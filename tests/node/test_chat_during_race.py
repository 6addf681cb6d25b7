"""Requests while all nodes of a small network race: each is answered, and the Race goes on to its weights."""

from __future__ import annotations

import msgspec

import paceline
from paceline.protocol.params import PRESETS, TINY

REQUESTS = 5
SEARCHING = {"racing", "claims"}


def test_requests_during_a_race_are_all_answered_and_the_race_ends_as_ever(tmp_path, monkeypatch):
    longer = msgspec.structs.replace(TINY.race, race_blocks=44, claim_blocks=8, slot_positions=8)
    monkeypatch.setitem(PRESETS, "tiny-longer", msgspec.structs.replace(TINY, race=longer))
    with (
        paceline.local_network(nodes=3, home=tmp_path / "home", seed=5, preset="tiny-longer") as network,
        network.openai_client(max_retries=0, timeout=60) as client,
    ):
        network.wait(lambda report: report.race.phase == "racing", 60, "the start of the Race")
        phases, answers = [], []
        for number in range(REQUESTS):
            messages = [{"role": "user", "content": f"Say something about the number {number}."}]
            answers.append(
                client.chat.completions.create(model="smollm2-135m-instruct", messages=messages, max_tokens=6)
            )
            phases.append(network.report().race.phase)
        report = network.wait(lambda report: report.race.phase == "done", 90, "the end of the Race")
    assert set(phases) <= SEARCHING
    assert all(answer.choices[0].message.content.strip() for answer in answers)
    assert len(report.race.hits) == 3
    assert report.race.accepted_hits == sum(report.race.hits.values()) > 0
    assert report.race.rejected_nodes == []
    assert sum(report.inference.answered.values()) == REQUESTS
