"""`paceline chat`: a conversation in the terminal, with what each answer cost and what became of its check.

Speaks to the running network as any client does; what became of a task it asks the operator's door. It keeps the conversation in
memory only. Invariant: every answer ends with who made it, its cost and where its check stands when the line is printed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
from rich.console import Console

from paceline.base.errors import ConfigError, TransportError
from paceline.cli.network import ControlClient
from paceline.node.control import TaskState
from paceline.node.home import Home
from paceline.protocol.params import NICOIN_PER_COIN

SETTLED = ("final", "guilty")
POLL_SECONDS = 0.5
ANSWER_SECONDS = 600.0
DONE = "[DONE]"


@dataclass(kw_only=True)
class Chat:
    """One conversation over one endpoint. `ask_task` says where a task stands, None while the ledger does not know it."""

    http: httpx.Client
    model: str
    max_tokens: int
    ask_task: Callable[[str], TaskState | None]
    wait_seconds: float
    console: Console
    pause: Callable[[float], None] = time.sleep
    turns: list[dict[str, str]] = field(default_factory=list)
    spent_nicoin: int = 0

    def say(self, text: str) -> None:
        """Ask, print the answer as it comes, then its cost and check.

        Errors: ConfigError with the network's words; TransportError when the answer broke off. The turn is then taken back.
        """
        self.turns.append({"role": "user", "content": text})
        answer, receipt = "", None
        try:
            for chunk in self._stream():
                receipt = chunk.get("paceline", receipt)
                for choice in chunk.get("choices", ()):
                    piece = choice["delta"].get("content") or ""
                    answer += piece
                    self.console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
            receipt = _require(receipt)
        except (ConfigError, TransportError):
            self.turns.pop()
            raise
        self.turns.append({"role": "assistant", "content": answer})
        self.console.print()
        self._show_receipt(receipt)

    def _stream(self) -> Iterator[dict[str, Any]]:
        body = {"model": self.model, "messages": self.turns, "max_tokens": self.max_tokens, "stream": True}
        try:
            with self.http.stream("POST", "/v1/chat/completions", json=body) as reply:
                if reply.status_code != httpx.codes.OK:
                    raise ConfigError(_read_error(reply.read()))
                for line in reply.iter_lines():
                    if not line.startswith("data: ") or line[6:] == DONE:
                        continue
                    chunk = msgspec.json.decode(line[6:])
                    if "error" in chunk:
                        raise TransportError(chunk["error"]["message"])
                    yield chunk
        except httpx.TransportError as problem:
            raise TransportError(f"the network does not answer: {problem}") from None

    def _show_receipt(self, receipt: dict[str, Any]) -> None:
        self.spent_nicoin += receipt["cost_nicoin"]
        cost, spent = receipt["cost_nicoin"] / NICOIN_PER_COIN, self.spent_nicoin / NICOIN_PER_COIN
        line = f"{receipt['executor']}, {cost:.6f} coins (so far {spent:.6f}), {self._wait_checked(receipt['task'])}"
        self.console.print(f"  {line}", style="dim", markup=False, highlight=False)
        self.console.print(f"  task {receipt['task']}", style="dim", markup=False, highlight=False)

    def _wait_checked(self, task: str) -> str:
        """Where the check stands, once it is over or after the patience."""
        waited = 0.0
        while True:
            found = self.ask_task(task)
            if (found is not None and found.status in SETTLED) or waited >= self.wait_seconds:
                return describe_check(found)
            self.pause(POLL_SECONDS)
            waited += POLL_SECONDS


def describe_check(task: TaskState | None) -> str:
    """A task's check in words."""
    if task is None:
        return "receipt not on the ledger yet"
    if task.status == "guilty":
        return "found false: refunded"
    said = ", ".join(f"{name} {outcome}" for name, outcome in task.verdicts)
    if task.status == "final":
        return f"checked: {said}" if said else "not drawn for a check" if not task.checkers else "checkers were silent"
    waiting = [name for name in task.checkers if name not in {voter for voter, _ in task.verdicts}]
    open_words = {
        "drawing": "checkers are being drawn",
        "showing": f"its node shows its draw; {said}",
        "disputed": f"in dispute: {said}",
    }
    return open_words.get(task.status, f"being checked by {', '.join(waiting)}" + (f"; {said}" if said else ""))


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """What the command was asked."""

    home: Path
    message: str | None
    max_tokens: int
    wait_seconds: float


def run_chat(options: ChatOptions, console: Console) -> None:
    """One answer when a message is given, else a conversation until the end of the input.

    Errors: ConfigError when nothing runs; TransportError when it does not answer.
    """
    place = Home(options.home)
    running = place.load_running()
    if running is None:
        raise ConfigError(f"nothing runs in {options.home}: start it with `paceline up`")
    control = ControlClient(running.web_url, place.load_token())
    http = httpx.Client(base_url=running.web_url, timeout=ANSWER_SECONDS, trust_env=False)
    try:
        chat = Chat(
            http=http,
            model=_find_model(http),
            max_tokens=options.max_tokens,
            ask_task=lambda task: control.get(f"/task/{task}", TaskState | None),  # type: ignore[arg-type]  # a union
            wait_seconds=options.wait_seconds,
            console=console,
        )
        _converse(chat, options.message)
    finally:
        http.close()
        control.close()


def _converse(chat: Chat, message: str | None) -> None:
    if message is not None:
        chat.say(message)
        return
    chat.console.print(
        f"{chat.model}; who answers and who checks can read what you write. End with Ctrl-D.", style="dim"
    )
    while True:
        try:
            text = chat.console.input("> ").strip()
        except EOFError:
            return
        if text:
            _say_or_tell(chat, text)


def _say_or_tell(chat: Chat, text: str) -> None:
    """A refused question ends the turn and not the conversation."""
    try:
        chat.say(text)
    except (ConfigError, TransportError) as problem:
        chat.console.print(f"  {problem}", style="red", markup=False, highlight=False)


def _require(receipt: dict[str, Any] | None) -> dict[str, Any]:
    if receipt is None:
        raise TransportError("the answer broke off before its end")
    return receipt


def _find_model(http: httpx.Client) -> str:
    try:
        reply = http.get("/v1/models")
    except httpx.TransportError as problem:
        raise TransportError(f"the network does not answer: {problem}") from None
    if reply.status_code != httpx.codes.OK:
        raise ConfigError(_read_error(reply.content))
    models = [model["id"] for model in msgspec.json.decode(reply.content)["data"]]
    if not models:
        raise ConfigError("no node serves a model yet; try again in a moment")
    return str(models[0])


def _read_error(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"a reply that is no error of this network: {body[:200]!r}"
