"""One network that serves two families: both are listed, answered, and paid from sessions of their own."""

from __future__ import annotations

import pytest
from chain_observer import observe

import paceline
from paceline.ledger.sessions import SESSIONS

QUESTIONS = {
    "smollm2-135m-instruct": "Name the capital city of France in a full sentence.",
    "gemma-3-270m": "What is the capital of France?",
}
"""Each is one that its model answers by a wide margin, whatever the processor rounds."""
MODELS = tuple(QUESTIONS)


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    home = tmp_path_factory.mktemp("network") / "home"
    with paceline.local_network(nodes=2, home=home, seed=17, models=MODELS) as network:
        network.wait(lambda report: report.race.phase == "done", 180, "the first Race")
        yield network


@pytest.mark.long
def test_two_families_are_served_side_by_side(net):
    with net.openai_client(max_retries=5, timeout=240) as client:
        listed = {model.id: model for model in client.models.list().data}
        assert set(listed) == set(MODELS)
        assert all(model.hosts == ["node-1", "node-2"] for model in listed.values())
        assert all((model.precision, model.context_tokens) == ("bf16", 8_192) for model in listed.values())
        answers = {
            name: client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": question}], max_tokens=12, temperature=0, stop=["\n"]
            )
            for name, question in QUESTIONS.items()
        }
    assert all("Paris" in answer.choices[0].message.content for answer in answers.values())
    assert all(answer.paceline["executor"] == "node-2" for answer in answers.values())
    observer = observe(net.supervisor.home)
    observer.catch_up(net.report().ledger.height + 1)
    state = observer.read()
    for name, answer in answers.items():
        task = observer.task(answer.paceline["task"])
        assert SESSIONS.get(state, task.session).model == name
        assert task.cost == answer.paceline["cost_nicoin"] > 0
