"""One network that serves two families: both are listed, answered, paid from sessions of their own, and checked."""

from __future__ import annotations

import pytest

import paceline

MODELS = ("smollm2-135m-instruct", "gemma-3-270m")


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    home = tmp_path_factory.mktemp("network") / "home"
    with paceline.local_network(nodes=3, home=home, seed=17, models=MODELS) as network:
        network.wait(lambda report: report.race.phase == "done", 180, "the first Race")
        yield network


@pytest.mark.long
def test_two_families_are_served_side_by_side(net):
    with net.openai_client(max_retries=5, timeout=240) as client:
        listed = {model.id: model for model in client.models.list().data}
        assert set(listed) == set(MODELS)
        assert all(model.hosts == ["node-1", "node-2", "node-3"] for model in listed.values())
        assert all((model.precision, model.context_tokens) == ("bf16", 8_192) for model in listed.values())
        question = [{"role": "user", "content": "What is the capital of France?"}]
        for name in MODELS:
            answer = client.chat.completions.create(
                model=name, messages=question, max_tokens=12, temperature=0, stop=["\n"]
            )
            assert "Paris" in answer.choices[0].message.content
            assert answer.model == name and answer.paceline["executor"] != "node-1"
    report = net.wait(lambda now: sum(now.inference.verified.values()) >= 2, 240, "the checks")
    assert report.inference.rejected_nodes == []
