"""A whole network on this machine as one object: for the commands, notebooks and tests."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import msgspec

from paceline.base.errors import ConfigError, TransportError
from paceline.node.answers.reports import Report, SettlementLine, TrainingReport
from paceline.node.control import TrainOrder, TrainStarted
from paceline.node.home import Home, NewHome, create_home
from paceline.node.supervisor import Listen, Supervisor

if TYPE_CHECKING:
    from openai import OpenAI

POLL_SECONDS = 0.2
CALL_SECONDS = 120.0
T = TypeVar("T")


class ControlClient:
    """Talks to a running network's control endpoints."""

    def __init__(self, web_url: str, token: str) -> None:
        headers = {"authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=f"{web_url}/control", headers=headers, timeout=CALL_SECONDS, trust_env=False)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def get(self, path: str, kind: type[T]) -> T:
        """GET and decode.

        Errors: ConfigError with the network's own words; TransportError when it does not answer.
        """
        return self._decode(self._call(lambda: self._http.get(path)), kind)

    def post(self, path: str, body: Any, kind: type[T]) -> T:
        """POST a struct or raw bytes and decode the answer."""
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return self._decode(self._call(lambda: self._http.post(path, content=content)), kind)

    def _call(self, call: Callable[[], httpx.Response]) -> httpx.Response:
        try:
            response = call()
        except httpx.TransportError as problem:
            raise TransportError(f"the network does not answer: {problem}") from None
        if response.status_code != httpx.codes.OK:
            raise ConfigError(msgspec.json.decode(response.content).get("error", response.text))
        return response

    def _decode(self, response: httpx.Response, kind: type[T]) -> T:
        return msgspec.json.decode(response.content, type=kind)


class Network:
    """A running local network."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.url = supervisor.web_url
        self.control = ControlClient(self.url, supervisor.home.load_token())

    @property
    def base_url(self) -> str:
        """Base URL of the OpenAI-compatible endpoint."""
        return f"{self.url}/v1"

    def openai_client(self, **options: Any) -> OpenAI:
        """The official client, pointed at this network."""
        from openai import OpenAI  # noqa: PLC0415 - heavy, and only wanted here

        options.setdefault("api_key", "demo")
        return OpenAI(base_url=self.base_url, **options)

    def report(self) -> Report:
        """Everything the ledger says now."""
        return self.control.get("/report", Report)

    def wait(self, ready: Callable[[Report], bool], timeout_seconds: float, what: str) -> Report:
        """The first report that `ready` accepts.

        Errors: TransportError naming `what` when the time is over.
        """
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            report = self.report()
            if ready(report):
                return report
            time.sleep(POLL_SECONDS)
        raise TransportError(f"{what} did not happen within {timeout_seconds:.0f} s")

    def start_training(self, text: bytes | str, **options: Any) -> TrainStarted:
        """Open a training run on a text; options as in `TrainOrder`."""
        data = text.encode() if isinstance(text, str) else text
        data_hash = self.control.post("/data", data, dict[str, str])["data_hash"]
        return self.control.post("/train", TrainOrder(data_hash=data_hash, **options), TrainStarted)

    def train(self, text: bytes | str, *, timeout_seconds: float = 600.0, **options: Any) -> TrainingReport:
        """Train on a text until the run has ended."""
        started = self.start_training(text, **options)

        def ended(report: Report) -> bool:
            run = report.training
            return run is not None and run.run == started.run and run.phase == "ended"

        report = self.wait(ended, timeout_seconds, "the end of the training run")
        assert report.training is not None
        return report.training

    def settlement(self, *, timeout_seconds: float = 300.0) -> list[SettlementLine]:
        """Order blocks up to the end of the running epoch and return its table."""
        report = self.report()
        epoch = str(report.ledger.epoch)
        self.control.post("/advance", {"height": report.ledger.epoch_ends}, dict[str, int])
        settled = self.wait(lambda now: epoch in now.settlements, timeout_seconds, "the settlement")
        return settled.settlements[epoch]


@contextlib.contextmanager
def local_network(
    nodes: int = 5, *, home: Path | str | None = None, port: int = 0, seed: int | None = None, **new_home: Any
) -> Iterator[Network]:
    """A network of `nodes` processes on this machine, ended when the block is left.

    Without `home` it lives in a temporary folder; with one it is made there, or continued.
    Errors: ConfigError for settings that cannot work; TransportError when it does not come up.
    """
    with contextlib.ExitStack() as stack:
        path = Path(home) if home is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place = Home(path)
        if not place.exists:
            place = create_home(path, NewHome(nodes=nodes, seed=seed, **new_home))
        supervisor = stack.enter_context(Supervisor(place, Listen(port=port)))
        network = Network(supervisor)
        stack.callback(network.control.close)
        yield network
