"""`paceline price`, `rewards explain` and `supply` as a person types them: on a running network, after it, and refusals."""

from __future__ import annotations

import json

import pytest
from joined_network import open_network, wait_for
from typer.testing import CliRunner

from paceline.cli.main import app
from paceline.cli.network import ControlClient
from paceline.cli.printing import count_units
from paceline.economy.supply import TOTAL_SUPPLY
from paceline.node.home import NewHome, create_home
from paceline.node.settings import SOLO


def run(*words):
    """(exit code, what it printed), without the start of another interpreter."""
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.stdout + done.stderr


def ask(*words):
    code, told = run(*words, "--json")
    assert code == 0, told
    return json.loads(told)


def advance(home, height):
    client = ControlClient(home.load_running().web_url, home.load_token())
    try:
        client.post("/advance", {"height": height}, dict[str, int])
    finally:
        client.close()


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_price_from_its_votes_to_the_epoch_in_which_it_holds(tmp_path, monkeypatch):
    with open_network(tmp_path / "home", 2, engine=SOLO, monkeypatch=monkeypatch) as (home, _):
        place = ("--home", str(home.path))
        before = ask("price", "show", *place)
        assert before["unit_price"] == before["next_price"] == 1_000_000
        code, told = run("price", "vote", "3 micoin", "--dry-run", *place)
        assert code == 0 and "would take this vote of node-1" in told and "Nothing was sent" in told
        for node in ("node-1", "node-2"):
            code, told = run("price", "vote", "3 micoin", "--name", node, *place)
            assert code == 0 and f"{node} votes for 3 micoin a unit of compute" in told, told
        code, told = run("price", "vote", "3 micoin", *place)
        assert code == 2 and "already-voted" in told
        code, told = run("price", "vote", "3 micoin", "--dry-run", *place)
        assert code == 0 and "would refuse (already-voted" in told
        code, told = run("price", "vote", "2000 icon", *place)
        assert code == 2 and "not between 1 and" in told
        code, told = run("rewards", "explain", "node-1", *place)
        assert code == 2 and "no epoch is settled yet" in told
        found = ask("price", "show", *place)
        assert (found["unit_price"], found["next_price"]) == (1_000_000, 3_000_000)
        advance(home, found["epoch_ends"])
        wait_for(lambda: ask("price", "show", *place)["unit_price"] == 3_000_000, 60)
        code, told = run("rewards", "explain", "node-1", *place)
        assert code == 0 and "node-1, epoch 0" in told and "together" in told, told
        assert ask("rewards", "explain", "node-1", "--epoch", "0", *place)["share_ppm"] > 0
        code, told = run("credits", "buy", "12.5", "--most", "1 icon", "--dry-run", *place)
        assert (
            code == 0 and "37.5 micoin  compute credits  behind the credits" in told and "Nothing was sent" in told
        ), told
        code, told = run("credits", "buy", "12.5", "--most", "1 micoin", "--yes", *place)
        assert code == 2 and "price-moved" in told
        assert run("credits", "buy", "12.5", "--most", "1 icon", "--yes", *place)[0] == 0
        assert "12.5 units of compute, paid with 37.5 micoin: 3 micoin a unit" in run("credits", "show", *place)[1]
        assert run("credits", "return", "--yes", *place)[0] == 0
        assert run("credits", "show", *place)[1] == "no compute credits\n"
        running = ask("supply", *place)
        assert sum(line["nicoin"] for line in running["places"]) == TOTAL_SUPPLY
    # After the network ended the same is read from what it left on disk.
    left = ask("price", "show", *place)
    assert left["unit_price"] == 3_000_000 and left["height"] >= running["height"]
    assert run("supply", *place)[1].splitlines()[0].startswith("height")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("price", "vote", "3"), "is no amount"),
        (("price", "vote", "0 icon"), "not between 1 and"),
        (("price", "vote", "-1 icon"), "'-1 icon' is no amount"),
        (("price", "vote", "1 icon", "--name", "node-9"), "this home has node-1, node-2"),
        (("price", "vote", "1 icon"), "does not run"),
        (("rewards", "explain", "node-9"), "no node of this name"),
        (("credits", "buy", "1.0000001", "--most", "1 icon"), "up to six digits"),
        (("credits", "buy", "five", "--most", "1 icon"), "is no number above 0"),
        (("credits", "buy", "-5", "--most", "1 icon"), "UNITS: '-5' is no number above 0"),
        (("credits", "buy", "5", "--most", "1"), "--most:"),
        (("credits", "buy", "5", "--most", "1 icon"), "does not run"),
    ],
)
def test_invalid_words_are_one_clear_line(tmp_path, words, told):
    home = create_home(tmp_path / "home", NewHome(nodes=2, seed=1))
    code, found = run(*words, "--home", str(home.path))
    assert code == 2 and told in found and found.count("\n") == 1, found


def test_one_unit_is_no_plural():
    assert [count_units(count) for count in (1_000_000, 135_000, 2_000_000)] == [
        "1 unit of compute",
        "0.135 units of compute",
        "2 units of compute",
    ]


def test_invalid_options_beside_a_number_below_0_are_no_arguments(tmp_path):
    code, found = run("tx", "send", "bob", "-1 icon", "--dryrun", "--home", str(tmp_path))
    assert code == 2 and "--dryrun" in found


def test_before_any_block_everything_is_where_genesis_puts_it(tmp_path):
    home = create_home(tmp_path / "home", NewHome(nodes=2, seed=1))
    code, told = run("price", "show", "--home", str(home.path))
    assert code == 0 and "1 micoin a unit of compute" in told
