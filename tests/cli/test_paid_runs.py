"""Runs that are paid for, typed as people would type it over real nodes: participants, then a vote, the training, the last instalment."""

from __future__ import annotations

import json

import joined_network
import msgspec
import pytest
from joined_network import BRIEF, wait_for
from typer.testing import CliRunner

from paceline.cli.main import app
from paceline.cli.network import ControlClient
from paceline.node.home import NewHome, create_home
from paceline.node.settings import load_settings
from paceline.node.supervisor import Listen, Supervisor
from paceline.protocol.params import PRESETS, GovernanceParams
from paceline.training.plan import decode_plan

COIN = 10**9
NODES = tuple(f"node-{number}" for number in range(1, 5))
TRAINERS = NODES[2:]
TEXT = "All the world's a stage, and all the men and women merely players. " * 60
PARAMS = msgspec.structs.replace(BRIEF, governance=GovernanceParams(voting_blocks=30))
SHAPE = ("--rounds", "2", "--inner-steps", "4", "--segment-steps", "2", "--batch-size", "2", "--warmup-steps", "2")


def run(*words):
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.stdout + done.stderr


def must(*words):
    code, told = run(*words)
    assert code == 0, told
    return told


@pytest.fixture
def files(tmp_path):
    found = {name: tmp_path / name for name in ("data", "code", "recipe", "log", "licence", "plan")}
    for name, path in found.items():
        if name != "plan":
            path.write_text(TEXT if name == "data" else f"the {name} of this run")
    return found


def test_a_plan_is_written_once_and_bad_numbers_are_named(files, tmp_path):
    told = must("run", "plan", str(files["data"]), str(files["plan"]), *SHAPE)
    assert "2 rounds of 4 steps in 2 segments" in told
    plan = decode_plan(files["plan"].read_bytes())
    assert plan.data_hash.hex() in told and (plan.rounds, plan.inner_steps) == (2, 4)
    for words, said in (
        ((str(files["data"]), str(files["plan"])), "is there already"),
        ((str(tmp_path / "none"), str(tmp_path / "other")), "cannot be read"),
        ((str(files["data"]), str(tmp_path / "no" / "plan")), "there is no folder"),
        ((str(files["data"]), str(tmp_path / "other"), "--inner-steps", "7", "--segment-steps", "2"), "multiple"),
    ):
        code, told = run("run", "plan", *words)
        assert code == 2 and said in told
        assert not (tmp_path / "other").exists()


class Desk:
    """A running network of four nodes, two of which train, and what is typed about it."""

    def __init__(self, home):
        self.home = home
        self.place = ("--home", str(home.path))

    def runs(self):
        return json.loads(must("run", "list", *self.place, "--json"))

    def find(self, run_id):
        return next(found for found in self.runs()["runs"] if found["run"] == run_id)

    def wait(self, run_id, phase):
        wait_for(lambda: self.find(run_id)["phase"] == phase, 150)
        return self.find(run_id)

    def advance(self, height):
        client = ControlClient(self.home.load_running().web_url, self.home.load_token())
        try:
            client.post("/advance", {"height": height}, dict[str, int])
        finally:
            client.close()
        wait_for(lambda: self.runs()["height"] >= height, 60)

    def get_fund(self):
        places = json.loads(must("supply", *self.place, "--json"))["places"]
        return next(place["nicoin"] for place in places if place["name"] == "training fund")

    def decide(self, number, *words):
        """A proposal with everybody's yes, up to the end of its voting."""
        must("propose", *words, "--title", "a run", "--yes", *self.place)
        for node in NODES:
            must("vote", str(number), "yes", "--name", node, *self.place)
        self.advance(self.runs()["height"] + PARAMS.governance.voting_blocks + 2)
        told = json.loads(must("proposals", str(number), *self.place, "--json"))
        assert told["status"] == "executed", told


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.setattr(joined_network, "BRIEF", PARAMS)
    monkeypatch.setitem(PRESETS, "brief", PARAMS)
    new = NewHome(nodes=len(NODES), seed=8, preset="brief", trainers=TRAINERS, block_seconds=0.1)
    home = create_home(tmp_path / "home", new)
    for name in NODES:
        former = load_settings(home.node_path(name) / "node.toml")
        home.save_settings(msgspec.structs.replace(former, serves=False))
    with Supervisor(home, Listen(port=0)):
        yield Desk(home)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_participants_and_then_the_network_pay_for_runs(desk, files):
    data, plan = str(files["data"]), str(files["plan"])
    must("run", "plan", data, plan, *SHAPE)
    goal = ("--goal", "1 icon", "--fee-ppm", "100000", "--trainers", "2", "--data", data)
    must("run", "gather", "--plan", plan, *goal, "--yes", *desk.place)
    (gathering,) = desk.runs()["runs"]
    shared = gathering["run"]
    assert gathering["phase"] == "gathering" and gathering["goal"] == COIN
    must("run", "fund", shared, "1 icon", "--yes", *desk.place)
    ended = desk.wait(shared, "ended")
    assert (ended["round"], [holder["ppm"] for holder in ended["shares"]]) == (2, [1_000_000])
    must("run", "transfer", shared, "node-1", "250000", "--yes", *desk.place)
    assert sorted(holder["ppm"] for holder in desk.find(shared)["shares"]) == [250_000, 750_000]

    # The settlement pays the trainers, and brings the fund its fifth of that and of the new coins.
    desk.advance((desk.runs()["height"] // PARAMS.epoch_blocks + 1) * PARAMS.epoch_blocks + 1)
    assert desk.get_fund() > 5 * COIN
    desk.decide(1, "method", str(files["code"]), "https://example.org/code")
    desk.decide(2, "experiment", "1", "--data", data, "--plan", plan, "--budget", "5 icon")
    (reserved,) = desk.runs()["experiments"]
    assert reserved["reserved"] == 5 * COIN
    must("run", "open", "2", "--trainers", "2", "--data", data, "--yes", *desk.place)
    paid = next(found["run"] for found in desk.runs()["runs"] if found["experiment"] == 2)
    withheld = desk.wait(paid, "publishing")["withheld"]
    assert withheld > 0 and desk.runs()["experiments"] == []
    told = run("run", "publish", paid, "--code", data, *_published(files), "--yes", *desk.place)
    assert told[0] == 2 and desk.find(paid)["phase"] == "publishing"
    must("run", "publish", paid, "--code", str(files["code"]), *_published(files), "--yes", *desk.place)
    done = desk.wait(paid, "ended")
    assert (done["withheld"], [found["status"] for found in done["publications"]]) == (0, ["published"])


def _published(files):
    words = [word for name in ("recipe", "log", "licence") for word in (f"--{name}", str(files[name]))]
    return [*words, "--licence-name", "apache-2.0"]
