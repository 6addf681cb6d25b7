"""`kill -9` at random moments, Ctrl-C and a lost supervisor: nothing is lost, nothing is paid twice, nothing stays behind."""

from __future__ import annotations

import random
import signal
import threading

import openai
import pytest
from chain_observer import Observer, observe
from typer.testing import CliRunner
from up_process import END_SECONDS, UpProcess, wait_until

from paceline.cli.main import app
from paceline.cli.network import ControlClient
from paceline.cli.status import load_status
from paceline.node.home import Home, NewHome, create_home
from paceline.store.state import SqliteStateStore

pytestmark = pytest.mark.long

NODES = 4
SEED = 21
VICTIMS = (("node-3",), ("node-1",), ("node-2", "node-1"))
BACK_SECONDS = 90.0


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    """One network; each test continues it."""
    return create_home(tmp_path_factory.mktemp("up") / "home", NewHome(nodes=NODES, seed=SEED))


class Customer:
    """Asks one question after another and notes which answers it got; failures are part of the plan."""

    def __init__(self, url: str) -> None:
        self.receipts: list[dict] = []
        self.failures: list[str] = []
        self.bug: BaseException | None = None
        self._client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=60)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(90)
        self._client.close()

    def wait_answers(self, more: int) -> None:
        """Return when `more` further answers have come."""
        wanted = len(self.receipts) + more
        wait_until(lambda: self.bug or len(self.receipts) >= wanted, BACK_SECONDS, f"answers; failed: {self.failures}")

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            try:
                self.receipts.append(self._ask(number))
            except openai.APIError as problem:
                self.failures.append(f"{type(problem).__name__}: {problem}")
                self._stop.wait(0.2)
            except BaseException as bug:
                self.bug = bug
                raise

    def _ask(self, number: int) -> dict:
        messages = [{"role": "user", "content": f"Say something about the number {number}."}]
        answer = self._client.chat.completions.create(model="smollm2-135m-instruct", messages=messages, max_tokens=24)
        return answer.paceline


def is_back(observer: Observer, name: str) -> bool:
    """A node answers and has replayed up to a block that it did not have when it was killed."""
    return observer.has_block(name, observer.replica.height + 3)


def check_stores(home: Home) -> dict[str, int]:
    """Heights of all stopped nodes; every store opens, and where two hold a height they hold the same block."""
    heights, blocks = {}, {}
    for name in home.node_names():
        store = SqliteStateStore(home.node_path(name) / "chain.sqlite", durable=False)
        heights[name] = store.height
        for height, block in enumerate(store.get_blocks(1, store.height, 2**40), start=1):
            assert blocks.setdefault(height, block) == block
        store.close()
    return heights


def test_killed_nodes_catch_up_and_nothing_is_lost_or_paid_twice(home):
    moments = random.Random(SEED)
    with UpProcess(home) as up:
        up.wait_ready()
        control = ControlClient(up.url, home.load_token())
        observer = observe(home)
        with Customer(up.url) as customer:
            customer.wait_answers(1)
            for victims in VICTIMS:
                threading.Event().wait(moments.uniform(0.1, 3.0))
                observer.fetch()
                for victim in victims:
                    up.kill_node(victim)
                for victim in victims:
                    wait_until(lambda name=victim: is_back(observer, name), BACK_SECONDS, f"{victim} is back")
                customer.wait_answers(1)
        assert customer.bug is None
        height = control.get("/status", dict)["height"] + 2
        observer.catch_up(height)
        tasks = {receipt["task"] for receipt in customer.receipts}
        assert len(tasks) == len(customer.receipts)
        for task in tasks:
            observer.task(task)
        wait_until(lambda: control.get("/report", dict)["ledger"]["nodes_agree"], BACK_SECONDS, "all nodes agree")
        assert observer.find_problems() == []
        assert set(observer.paid.values()) == {1}
        report = control.get("/report", dict)["ledger"]
        assert report["supply_conserved"] and not report["violations"]
        control.close()
        end_with_ctrl_c(up)
    assert min(check_stores(home).values()) >= height - 2


def end_with_ctrl_c(up: UpProcess) -> None:
    up.note_children()
    assert len(up.living()) == NODES
    up.process.send_signal(signal.SIGINT)
    wait_until(lambda: up.process.poll() is not None, END_SECONDS, "Ctrl-C ends `paceline up`")
    assert up.living() == []
    assert up.home.load_running() is None


def test_second_up_continues_the_chain_and_ends_with_its_supervisor(home):
    before = load_status(home)
    with UpProcess(home) as up:
        up.wait_ready()
        running = load_status(home)
        assert running.height >= before.height
        assert [node.name for node in running.nodes] == home.node_names()
        refused = CliRunner().invoke(app, ["up", "--home", str(home.path), "--port", "0"])
        assert refused.exit_code == 2
        assert "runs already" in refused.stderr and "--home" in refused.stderr
        observer: Observer = observe(home)
        observer.catch_up(running.height + 1)
        assert observer.find_problems() == []
        up.note_children()
        assert len(up.living()) == NODES
        up.process.kill()
        wait_until(lambda: not up.living(), END_SECONDS, "nodes end with their supervisor")
    after = load_status(home)
    assert after.height > before.height
    assert not any(node.alive for node in after.nodes)
    assert min(check_stores(home).values()) >= running.height
