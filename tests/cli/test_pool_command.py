"""`paceline pool` as a person types it: where the pool stands, what a trade would move, and trades."""

from __future__ import annotations

import json

import pytest
from joined_network import open_network
from typer.testing import CliRunner

from paceline.cli.main import app
from paceline.engine.solo import Sequencer
from paceline.ledger.application import Application
from paceline.node.home import USER_FUNDS, USER_TEST_DOLLARS, NewHome, create_home
from paceline.node.settings import SOLO
from paceline.store.state import SqliteStateStore

COIN, PRICE = 10**9, 5_000


def run(*words):
    """(exit code, what it printed), without the start of another interpreter."""
    done = CliRunner().invoke(app, ["pool", *words])
    return done.exit_code, done.stdout + done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A network that ran for one block and stopped."""
    made = create_home(tmp_path_factory.mktemp("pool") / "home", NewHome(nodes=2, seed=1))
    store = SqliteStateStore(made.node_path("node-1") / "chain.sqlite", durable=False)
    Sequencer(Application(made.load_genesis(), store), store, made.load_key("node-1")).produce_block(0)
    store.close()
    return made


def ask(home, *words):
    code, told = run(*words, "--home", str(home.path), "--json")
    assert code == 0, told
    return json.loads(told)


def test_where_the_pool_stands_before_any_sale(home):
    found = ask(home)
    assert (found["height"], found["price"], found["last_price"], found["sold"]) == (1, PRICE, 0, 0)
    assert found["left"] == 120_000_000 * COIN and found["coverage_ppm"] == 1_000_000
    assert found["account"] == {"coins": USER_FUNDS, "dollars": USER_TEST_DOLLARS, "redeemable": 0}
    assert found["asset"] == "tUSD, a test asset without value"
    code, told = run("--home", str(home.path), "--name", "node-1")
    assert code == 0 and "price      0.005 tUSD an icon" in told and "nothing is sold yet" in told
    assert "tUSD is a test asset: it has no value" in told and "node-1     0 icon" in told


@pytest.mark.parametrize("words", [("--home", "/x"), ("--name", "node-1"), ("--json",)])
def test_invalid_options_before_the_word_are_refused_by_name(words):
    code, told = run(*words, "buy", "1 icon", "--dry-run")
    assert code == 2 and told == f"paceline: write {words[0]} after `buy`: before it, it would count for nothing\n"


def test_a_folder_without_a_block_shows_the_start(tmp_path):
    home = create_home(tmp_path / "home", NewHome(nodes=1, seed=1))
    assert ask(home)["height"] == 0


def test_dry_run_shows_what_would_move_and_moves_nothing(home):
    found = ask(home, "buy", "1000.5 icon", "--dry-run")
    fee = home.load_genesis().params.transfer_fee
    assert (found["coins"], found["dollars"], found["fee"]) == (1_000_500_000_000, 5_002_500, fee)
    assert found["after"]["coins"] == USER_FUNDS + found["coins"] - fee
    assert found["after"]["dollars"] == USER_TEST_DOLLARS - 5_002_500
    assert (found["price_after"], found["last_price_after"], found["balance_after"]) == (PRICE, PRICE, 5_002_500)
    code, told = run("buy", "20 micoin", "--dry-run", "--most", "1 tUSD", "--home", str(home.path))
    assert code == 0 and "gives      0.0001 tUSD" in told and "gets       20 micoin" in told
    assert "limit      at most 1 tUSD, or nothing moves" in told and "test asset" in told
    assert ask(home)["account"]["dollars"] == USER_TEST_DOLLARS


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("buy", "5"), "is no amount"),
        (("buy", "5 uicon"), "write uicoin"),
        (("buy", "5.0000000001 icon"), "digits after the point"),
        (("buy", "5 icon", "--most", "1 icon"), "is not tUSD"),
        (("buy", "1 nicoin", "--dry-run"), "dust"),
        (("buy", "120000001 icon", "--dry-run"), "sold-out"),
        (("buy", "1000000 icon", "--dry-run"), "over-dollars"),
        (("redeem", "1 icon", "--dry-run"), "not-earned"),
        (("buy", "1 icon", "--dry-run", "--name", "node-2"), "over-balance"),
        (("buy", "1 icon", "--dry-run", "--name", "node-9"), "this home has user, node-1, node-2"),
        (("buy", "1 icon", "--json"), "--json asks nothing"),
        (("buy", "1 icon", "--yes"), "does not run"),
        (("redeem", "1 bitcoin"), "none of icon"),
    ],
)
def test_invalid_trades(home, words, said):
    code, told = run(*words, "--home", str(home.path))
    assert code == 2 and said in told and "Traceback" not in told, told


def test_invalid_folder_without_a_network(tmp_path):
    for words in ((), ("buy", "1 icon"), ("redeem", "1 icon")):
        code, told = run(*words, "--home", str(tmp_path / "none"))
        assert code == 2 and told.count("\n") == 1, told


@pytest.mark.long
@pytest.mark.timeout(240)
def test_trades_with_a_running_network(tmp_path):
    with (
        pytest.MonkeyPatch.context() as patch,
        open_network(tmp_path / "home", 2, engine=SOLO, monkeypatch=patch) as (home, _),
    ):
        where = ("--home", str(home.path))
        # An operator who says no, then one who says yes.
        done = CliRunner().invoke(app, ["pool", "buy", "100 icon", *where], input="n\n")
        assert done.exit_code == 0 and "Nothing moved." in done.stdout
        assert ask(home)["sold"] == 0
        code, told = run("buy", "100 icon", "--yes", *where)
        assert code == 0 and "Done at height" in told, told
        found = ask(home)
        assert found["sold"] == 100 * COIN and found["balance"] == 100 * PRICE
        assert found["account"]["dollars"] == USER_TEST_DOLLARS - 100 * PRICE
        code, told = run("buy", "100 icon", "--most", "0.4 tUSD", "--yes", *where)
        assert code == 2 and "price-moved" in told
        code, told = run("redeem", "1 icon", "--dry-run", *where)
        assert code == 2 and "not-earned" in told
        assert "height" in ask(home, "buy", "1 icon", "--yes")
