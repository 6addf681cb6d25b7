"""`paceline propose`, `vote` and `proposals` as a person types them: a parameter from the proposal to its epoch, and refusals."""

from __future__ import annotations

import json

import joined_network
import msgspec
import pytest
from joined_network import open_network, wait_for
from typer.testing import CliRunner

from paceline.base.errors import ConfigError
from paceline.cli.main import app
from paceline.cli.network import ControlClient
from paceline.cli.propose import read_amount, read_model_file
from paceline.cli.signing import format_change
from paceline.node.home import NewHome, create_home
from paceline.node.settings import SOLO
from paceline.protocol.params import GovernanceParams
from paceline.protocol.proposals import Memory

MODEL = """
name = "smollm2-135m"
licence = "Apache-2.0"
context_tokens = 8192
million_params = 135
micro_units = 135_000
[memory_mib]
fp32 = 600
bf16 = 300
"""
SHORT = msgspec.structs.replace(joined_network.BRIEF, governance=GovernanceParams(voting_blocks=60))


def run(*words):
    """(exit code, what it printed), without the start of another interpreter."""
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.stdout + done.stderr


@pytest.fixture
def idle_home(tmp_path):
    return create_home(tmp_path / "home", NewHome(nodes=2, seed=1))


def ask(home, *words):
    code, told = run("proposals", *words, "--home", str(home.path), "--json")
    assert code == 0, told
    return json.loads(told)


def advance(home, height):
    client = ControlClient(home.load_running().web_url, home.load_token())
    try:
        client.post("/advance", {"height": height}, dict[str, int])
    finally:
        client.close()
    wait_for(lambda: ask(home)["height"] >= height, 60)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_parameter_from_its_proposal_to_the_epoch_in_which_it_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(joined_network, "BRIEF", SHORT)
    with open_network(tmp_path / "home", 2, engine=SOLO, monkeypatch=monkeypatch) as (home, _):
        place = ("--home", str(home.path))
        words = (
            "propose",
            "parameter",
            "transfer_fee",
            "5000",
            "--title",
            "Dearer transfers",
            "--text",
            "a\nb",
            *place,
        )

        code, told = run(*words, "--dry-run")
        assert code == 0 and "Nothing was sent." in told, told
        assert "100 to 10,000,000 nicoin; 1,000 holds" in told and "100 icon  proposal deposits" in told
        assert "1 uicoin  core reserve" in told and ask(home)["proposals"] == []
        code, told = run("propose", "parameter", "transfer_fee", "99", "--title", "x", "--yes", *place)
        assert code == 2 and "would refuse this: out-of-bounds" in told
        code, told = run("propose", "grant", "00" * 20, "0.5 icon", "--title", "x", "--dry-run", *place)
        assert code == 2 and "over-fund" in told
        code, told = run("propose", "text", "--title", "x", "--text", "y", "--from", "node-1", "--yes", *place)
        assert code == 2 and "over-balance" in told

        code, told = run(*words, "--yes")
        assert code == 0 and "Proposal 1 is voted on up to height" in told, told
        code, told = run("vote", "1", "yes", "--dry-run", *place)
        assert code == 0 and "node-1 would vote yes" in told, told
        for node in ("node-1", "node-2"):
            code, told = run("vote", "1", "yes", "--name", node, *place)
            assert code == 0 and f"{node} voted yes on proposal 1" in told, told
        code, told = run("vote", "1", "no", *place)
        assert code == 2 and "already-voted" in told
        code, told = run("vote", "2", "no", *place)
        assert code == 2 and "unknown-proposal" in told
        line = ask(home, "1")
        assert (line["status"], line["kind"]) == ("voting", "parameter")
        assert {cast["node"]: cast["choice"] for cast in line["votes"]} == {"node-1": "yes", "node-2": "yes"}

        advance(home, line["ends_at"])
        assert ask(home, "1")["status"] in {"passed", "executed"}
        advance(home, ask(home)["edge"])
        code, told = run("proposals", "1", *place)
        assert code == 0 and "status    executed" in told and "weight    yes 100.00 %" in told and "text      b" in told
        code, told = run("proposals", "--parameters", *place)
        assert "transfer_fee           5,000 nicoin (genesis: 1,000); 100 to 10,000,000" in told
        assert ask(home)["fee"] == 5_000
    # The stores say the same when nothing runs.
    assert ask(home, "1")["status"] == "executed" and ask(home)["fee"] == 5_000


def test_an_idle_home_is_read_and_nothing_is_sent_from_it(idle_home):
    place = ("--home", str(idle_home.path))
    found = ask(idle_home)
    assert found["proposals"] == [] and found["deposit"] == 100 * 10**9
    assert {line["name"]: line["value"] for line in found["parameters"]}["fund_ppm"] == 200_000
    code, told = run("proposals", *place)
    assert code == 0 and told.startswith("height    0")
    for words in (("vote", "1", "yes"), ("propose", "text", "--title", "x", "--text", "y", "--dry-run")):
        code, told = run(*words, *place)
        assert code == 2 and "does not run" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("vote", "1", "perhaps"), "'perhaps' is no vote"),
        (("vote", "0", "yes"), "cannot be proposed as it stands"),
        (("vote", "1", "yes", "--name", "node-9"), "this home has node-1, node-2"),
        (("proposals", "7"), "no proposal of number 7"),
        (("proposals", "7", "--parameters"), "leave one of the two out"),
        (("propose", "text", "--title", "", "--text", "x"), "--title must be 1 to 100"),
        (("propose", "text", "--title", " x", "--text", "x"), "--title must be 1 to 100"),
        (("propose", "text", "--title", "é", "--text", "x"), "--title must be 1 to 100"),
        (("propose", "text", "--title", "x", "--text", "y" * 2_001), "--text must be 0 to 2000"),
        (("propose", "text", "--title", "x", "--text", "y", "--from", "node-9"), "this home has user, node-1, node-2"),
        (("propose", "grant", "12", "5 icon", "--title", "x"), "ADDRESS must be 40 hex digits"),
        (("propose", "grant", "00" * 20, "0 icon", "--title", "x"), "at least 1 nicoin"),
        (("propose", "grant", "00" * 20, "2000000000 icon", "--title", "x"), "at most"),
        (("propose", "method", "zz", "here", "--title", "x"), "CODE must be 64 hex digits"),
        (("propose", "method", "00" * 32, "two words", "--title", "x"), "cannot be proposed as it stands"),
        (("propose", "model", "/nowhere.toml", "--title", "x"), "/nowhere.toml cannot be read"),
        (("propose", "upgrade", "V2", "9", "--title", "x"), "cannot be proposed as it stands"),
        (
            ("propose", "parameter", "transfer_fee", "9" * 30, "--title", "x"),
            "transfer_fee takes 100 to 10,000,000 nicoin",
        ),
        (("propose", "parameter", "transfer_fee", "-5", "--title", "x"), "VALUE -5: transfer_fee takes 100 to"),
        (("propose", "parameter", "transfer", "9" * 30, "--title", "x"), "NAME transfer: it is none of"),
        (("propose", "grant", "00" * 20, "-5 icon", "--title", "x"), "AMOUNT: '-5 icon' is no amount"),
    ],
)
def test_invalid_words_are_one_clear_line(idle_home, words, told):
    code, found = run(*words, "--home", str(idle_home.path))
    assert code == 2 and told in found and found.count("\n") == 1, found


def test_invalid_experiment_plans(idle_home, tmp_path):
    def propose(plan):
        words = (
            "--data",
            "00" * 32,
            "--plan",
            str(plan),
            "--budget",
            "5 icon",
            "--title",
            "x",
            "--home",
            str(idle_home.path),
        )
        return run("propose", "experiment", "1", *words)

    plan = tmp_path / "plan"
    plan.write_bytes(b"x" * 4_097)
    assert "more than 4096 bytes" in propose(plan)[1]
    plan.write_bytes(b"")
    assert "cannot be proposed as it stands" in propose(plan)[1]
    plan.write_bytes(b"x")
    assert "does not run" in propose(plan)[1]


def test_invalid_folder_without_a_network(tmp_path):
    for words in (("vote", "1", "yes"), ("proposals",), ("propose", "text", "--title", "x", "--text", "y")):
        code, told = run(*words, "--home", str(tmp_path / "none"))
        assert code == 2 and told.count("\n") == 1, told


def test_a_model_file_becomes_an_entry(tmp_path):
    path = tmp_path / "model.toml"
    path.write_text(MODEL)
    entry = read_model_file(path)
    assert (entry.name, entry.micro_units) == ("smollm2-135m", 135_000)
    assert entry.memory == (Memory("bf16", 300), Memory("fp32", 600))
    for text, told in (
        ("name = ", "model.toml"),
        ("surprise = 1\n" + MODEL, "surprise"),
        ('name = "x"', "model.toml: licence: it is missing"),
        (MODEL.replace("135_000", "0"), "micro_units: 0 must be a whole number, at least 1 and at most 1,000,000,000"),
        (MODEL.replace("300", "1e3"), "memory_mib, each value: must be a whole number"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=told):
            read_model_file(path)


@pytest.mark.parametrize(
    ("text", "told"), [("5", "no amount"), ("0 icon", "at least 1 nicoin"), ("1.5 nicoin", "digits")]
)
def test_invalid_amounts_name_what_was_to_be_given(text, told):
    with pytest.raises(ConfigError, match=f"--budget: .*{told}"):
        read_amount(text, "--budget")


def test_amounts_are_exact():
    assert read_amount("0.000000001 icon", "AMOUNT") == 1
    assert format_change(-100_000_001_000) == "-100.000001 icon"
    assert format_change(1_234 * 10**9) == "1234 icon"
