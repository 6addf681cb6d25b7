"""The terminal's conversation over a scripted endpoint: text, cost, check, and turns that are taken back."""

from __future__ import annotations

import io
import json

import httpx
import pytest
from rich.console import Console

from paceline.base.errors import ConfigError, TransportError
from paceline.cli import chat as chat_module
from paceline.cli.chat import Chat, ChatOptions, describe_check, run_chat
from paceline.node.control import TaskState

RECEIPT = {"task": "ab" * 32, "executor": "node-3", "cost_nicoin": 2_000_000}


def encode(*chunks) -> bytes:
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join([*lines, "data: [DONE]\n\n"]).encode()


def piece(text: str, **more) -> dict:
    return {"choices": [{"delta": {"content": text}}], **more}


class Setting:
    """A conversation whose endpoint replies by script."""

    def __init__(self, *replies: httpx.Response, tasks=(None,)) -> None:
        self.replies, self.tasks = list(replies), list(tasks)
        self.asked: list[dict] = []
        self.pauses: list[float] = []
        self.out = io.StringIO()
        self.chat = Chat(
            http=httpx.Client(base_url="http://test", transport=httpx.MockTransport(self.answer)),
            model="m",
            max_tokens=9,
            ask_task=lambda _task: self.tasks.pop(0) if len(self.tasks) > 1 else self.tasks[0],
            wait_seconds=1.0,
            console=Console(file=self.out, width=200),
            pause=self.pauses.append,
        )

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(json.loads(request.content))
        return self.replies.pop(0)


def reply(*chunks) -> httpx.Response:
    return httpx.Response(200, content=encode(*chunks))


def make_task(status="final", checkers=("node-2",), verdicts=(("node-2", "accepted"),)) -> TaskState:
    return TaskState(status=status, checkers=list(checkers), verdicts=list(verdicts))


def test_an_answer_shows_text_cost_and_check():
    setting = Setting(reply(piece("Hel"), piece("lo"), piece("", paceline=RECEIPT)), tasks=[None, make_task()])
    setting.chat.say("hi")
    shown = setting.out.getvalue()
    assert "Hello" in shown
    assert "node-3, 0.002000 coins (so far 0.002000), checked: node-2 accepted" in shown
    assert "ab" * 32 in shown
    assert setting.pauses == [0.5]
    assert setting.asked == [
        {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "stream": True}
    ]


def test_the_next_question_carries_the_conversation():
    last = piece("!", paceline=RECEIPT)
    setting = Setting(reply(last), reply(last))
    setting.chat.say("one")
    setting.chat.say("two")
    assert [turn["content"] for turn in setting.asked[1]["messages"]] == ["one", "!", "two"]
    assert setting.chat.spent_nicoin == 2 * RECEIPT["cost_nicoin"]
    assert setting.pauses == [0.5, 0.5] * 2


@pytest.mark.parametrize(
    ("response", "kind", "words"),
    [
        (httpx.Response(429, json={"error": {"message": "full"}}), ConfigError, "full"),
        (httpx.Response(500, content=b"<html>"), ConfigError, "no error of this network"),
        (reply(piece("half"), {"error": {"message": "gone"}}), TransportError, "gone"),
        (reply(piece("half")), TransportError, "broke off"),
    ],
)
def test_invalid_answer_takes_the_turn_back(response, kind, words):
    setting = Setting(response)
    with pytest.raises(kind, match=words):
        setting.chat.say("hi")
    assert setting.chat.turns == []
    assert setting.chat.spent_nicoin == 0


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (None, "receipt not on the ledger yet"),
        (make_task("drawing", (), ()), "checkers are being drawn"),
        (make_task("checking", ("a", "b"), (("a", "accepted"),)), "being checked by b; a accepted"),
        (make_task("showing", ("a",), (("a", "accepted"),)), "its node shows its draw; a accepted"),
        (make_task("disputed", ("a",), (("a", "rejected"),)), "in dispute: a rejected"),
        (make_task("guilty"), "found false: refunded"),
        (make_task("final", (), ()), "not drawn for a check"),
        (make_task("final", ("a",), ()), "checkers were silent"),
    ],
)
def test_every_state_of_a_check_has_its_words(task, words):
    assert describe_check(task) == words


def test_a_conversation_goes_on_after_a_refusal_until_the_input_ends(monkeypatch):
    setting = Setting(httpx.Response(429, json={"error": {"message": "full"}}), reply(piece("ok", paceline=RECEIPT)))
    lines = iter(["first", "", "second"])

    def read(_prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(setting.chat.console, "input", read)
    chat_module._converse(setting.chat, None)
    assert [turn["content"] for turn in setting.chat.turns] == ["second", "ok"]
    assert "full" in setting.out.getvalue()


def test_invalid_home_where_nothing_runs(tmp_path):
    options = ChatOptions(home=tmp_path, message="hi", max_tokens=9, wait_seconds=0.0)
    with pytest.raises(ConfigError, match="nothing runs"):
        run_chat(options, Console(file=io.StringIO()))
