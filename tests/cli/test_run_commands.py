"""`paceline run` as a person types it, against a chain without processes: open, fund, publish, and what it refuses."""

from __future__ import annotations

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from funded_chain import LAST, ROUND, FundedChain
from typer.testing import CliRunner

from paceline.base.hashing import hash_blob
from paceline.cli import run_orders, signing
from paceline.cli.main import app
from paceline.cli.propose import read_units
from paceline.ledger import publications, training
from paceline.node.chains.accounts import build_account
from paceline.node.chains.runs import RunShape, build_runs_status, find_plan
from paceline.node.chains.trial import try_transaction
from paceline.node.control import Sent
from paceline.protocol import proposals as p
from paceline.training.plan import TrainingPlan, encode_plan

DATA = b"a text to train on"
FILES = ("code", "recipe", "log", "licence")
VOTED = TrainingPlan(data_hash=hash_blob(DATA), seed=b"s" * 32, rounds=2, inner_steps=40, warmup_steps=1)


class FakeNode:
    """The control endpoints of a node over a chain."""

    def __init__(self, chain):
        self.chain = chain
        self.kept = []

    def get(self, path, kind):
        if path == "/runs":
            return build_runs_status(self.chain.state)
        return build_account(self.chain.state, path.partition("=")[2])

    def post(self, path, body, kind):
        if path == "/data":
            self.kept.append(body)
            return {}
        if path == "/run/shape":
            plan = find_plan(self.chain.state, body)
            return RunShape(
                state_hash="00" * 32, data_hash=plan.data_hash.hex(), rounds=plan.rounds, segments=plan.segment_count
            )
        if path == "/trial":
            return try_transaction(self.chain.application, body)
        self.chain.sequencer.add_transaction(body)
        self.chain.tick()
        return Sent(height=self.chain.height)


class CliChain(FundedChain):
    """With a plan that can be trained."""

    def reserve_plan(self, plan=VOTED, data_hash=VOTED.data_hash, code=b"the code"):
        method, _ = self.decide(p.ApproveMethod(hash_blob(code), "here"))
        wanted = p.FundExperiment(method, data_hash, encode_plan(plan), 10 * ROUND, 10**7)
        return self.decide(wanted)[0]


@pytest.fixture
def chain():
    return CliChain(params=LAST)


@pytest.fixture
def node(chain, monkeypatch, tmp_path):
    node = FakeNode(chain)

    @contextmanager
    def open_control(_):
        yield node

    home = SimpleNamespace(
        load_genesis=lambda: chain.genesis,
        load_key=lambda name: chain.user if name == "user" else chain.other,
        key_names=lambda: ["other"],
        node_names=list,
        exists=True,
        path=tmp_path,
    )
    monkeypatch.setattr(run_orders, "Home", lambda _: home)
    monkeypatch.setattr(
        run_orders, "find_account", lambda home, text, what: SimpleNamespace(address=bytes.fromhex(text))
    )
    monkeypatch.setattr(run_orders, "open_control", open_control)
    monkeypatch.setattr(run_orders, "find_standing", lambda home, ask, read: ask(node))
    assert signing.account_names(home) == ["user", "other"]
    return node


def run(*words, typed=None):
    """(exit code, what it printed)."""
    done = CliRunner().invoke(app, ["run", *map(str, words)], input=typed, env={"COLUMNS": "80"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout + done.stderr


def write(folder, **contents):
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return [word for name in contents for word in (f"--{name}", folder / name)]


def test_a_run_is_opened_and_funded(chain, node, tmp_path):
    number = chain.reserve_plan()
    assert "waits     6 " not in run("list")[1] and f"of proposal {number} for a run" in run("list")[1]
    words = write(tmp_path, data=DATA)
    code, told = run("open", number, *words, "--dry-run")
    assert code == 0 and "experiments  the reserved budget" in told and "Nothing was sent." in told, told
    assert training.RUNS.items(chain.state) == []
    code, told = run("open", number, *words, typed="n\n")
    assert code == 0 and "Nothing was sent." in told
    code, told = run("open", number, *words, "--yes")
    assert code == 0 and "Done at height" in told, told
    assert node.kept[-1] == DATA
    [(run_id, found)] = training.RUNS.items(chain.state)
    assert (found.rounds, found.segments, found.seats) == (2, VOTED.segment_count, 3)
    code, told = run("fund", run_id.hex()[:6].upper(), "1 icon", "--from", "other", "--yes")
    assert code == 0 and "run escrow  the run's budget" in told, told
    assert chain.run_of(run_id).budget == 10 * ROUND + 10**9
    code, told = run("list")
    assert f"the experiment of proposal {number}" in told and "0 of 3: nobody yet" in told
    line = json.loads(run("list", "--json")[1])["runs"][0]
    assert (line["phase"], line["experiment"], line["budget"]) == ("joining", number, 10 * ROUND + 10**9)


def test_a_run_is_published_by_files(chain, node, tmp_path):
    number = chain.reserve_plan()
    run_id = chain.open(number, rounds=1)
    chain.join(run_id)
    chain.end_run(run_id)
    files = write(tmp_path, code=b"the code", recipe=b"the recipe", log=b"the log", licence=b"the licence")
    words = ("publish", run_id.hex()[:8], *files, "--licence-name")
    code, told = run(*words, "apache-2.0", "--dry-run")
    assert code == 0 and hash_blob(b"the log").hex() in told and "Nothing was sent." in told, told
    assert node.kept == []
    code, told = run(*words, "shareware-1.0", "--yes")
    assert code == 2 and "closed-licence" in told
    code, told = run(*words, "apache-2.0", "--yes")
    assert code == 0 and "Done at height" in told, told
    assert node.kept[-4:] == [b"the code", b"the recipe", b"the log", b"the licence"]
    code, told = run("list")
    assert code == 0 and "of its trainers, until it is published" in told and "apache-2.0" in told, told
    assert all(len(line) <= 80 for line in told.splitlines()), told
    chain.run_until(lambda: chain.published(run_id, chain.user).status == publications.FETCHING)
    chain.check(run_id, chain.user)
    line = json.loads(run("list", "--json")[1])["runs"][0]
    assert line["publications"][0]["status"] == "published" and line["withheld"] == 0
    (tmp_path / "code").write_bytes(b"other code")
    code, told = run(*words, "apache-2.0", "--yes")
    assert code == 2 and "is not the code that was approved" in told


def test_participants_gather_and_hand_shares_on(chain, node, tmp_path):
    plan = tmp_path / "plan"
    plan.write_bytes(encode_plan(VOTED))
    words = ("gather", "--plan", plan, *write(tmp_path, data=DATA), "--goal", "0.06 icon", "--fee-ppm", 100_000)
    code, told = run(*words, "--units", "10", "--dry-run")
    assert code == 0 and "Nothing was sent." in told, told
    code, told = run(*words, "--units", "10", "--yes")
    assert code == 0 and node.kept == [DATA], told
    [(run_id, _)] = training.RUNS.items(chain.state)
    for author, coins in (("user", "0.036 icon"), ("other", "0.024 icon")):
        code, told = run("fund", run_id.hex()[:4], coins, "--from", author, "--yes")
        assert code == 0, told
    told = run("list")[1]
    assert "paid by participants, who gather 60 micoin" in told and "has put in 24 micoin" in told, told
    assert all(len(line) <= 80 for line in told.splitlines()), told
    chain.join(run_id)
    chain.play_round(run_id)
    chain.wait(run_id, training.PAUSED)
    chain.wait(run_id, training.ENDED)
    receiver = "ab" * 20
    code, told = run("transfer", run_id.hex()[:4], receiver, 600_001, "--yes")
    assert code == 2 and "over-shares" in told
    code, told = run("transfer", run_id.hex()[:4], receiver, 600_000, "--yes")
    assert code == 0 and f"600,000 of 1,000,000 of the run {run_id.hex()} to {receiver}" in told, told
    told = run("list")[1]
    assert f"{receiver}  600,000 of 1,000,000" in told and "split 10 % of later fees" in told
    assert all(len(line) <= 80 for line in told.splitlines()), told


def test_invalid_orders(chain, node, tmp_path):
    number = chain.reserve_plan(data_hash=b"d" * 32)
    assert "names other data" in run("open", number)[1]
    assert "no budget of proposal 9 waits" in run("open", 9)[1]
    garbage = chain.reserve()
    assert "cannot be trained" in run("open", garbage)[1]
    good = chain.reserve_plan()
    assert "is not the data that was voted on" in run("open", good, *write(tmp_path, data=b"other"))[1]
    assert "not-your-experiment" in run("open", good, "--from", "other", "--yes")[1]
    assert "--from nobody: this home has user, other" in run("open", good, "--from", "nobody")[1]
    assert "none of the kept runs begins with 'ab': none" in run("fund", "ab", "1 icon")[1]
    assert "at least 1 nicoin" in run("fund", "ab", "0 icon")[1]
    words = ("gather", *write(tmp_path, plan=b"no plan"), "--goal", "1 icon", "--fee-ppm", 1)
    assert "the plan cannot be trained" in run(*words)[1]
    assert run("gather", *write(tmp_path, plan=b"x"), "--goal", "1 icon", "--fee-ppm", 200_001)[0] == 2


@pytest.mark.parametrize("text", ["0", "-1", "x", "nan", "0.0000001", "1e30"])
def test_invalid_units(text):
    with pytest.raises(run_orders.ConfigError, match="--units"):
        read_units(text)
    assert read_units("2.5") == 2_500_000
