"""`paceline pool` as a person types it: where the pool stands, what a trade would move, and trades."""

from __future__ import annotations

import json

import pytest
from joined_network import open_network
from typer.testing import CliRunner

from paceline.cli.main import app
from paceline.engine.solo import Sequencer
from paceline.ledger.application import Application
from paceline.node.home import TEST_QUOTES, USER_FUNDS, USER_TEST_ASSETS, USER_TEST_DOLLARS, NewHome, create_home
from paceline.node.settings import SOLO
from paceline.store.state import SqliteStateStore

COIN, PRICE = 10**9, 5_000
HELD = {asset: units for units, asset in USER_TEST_ASSETS}
QUOTES = {given.asset: given.quote for given in TEST_QUOTES}


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
    held = {"coins": USER_FUNDS, "dollars": USER_TEST_DOLLARS, "redeemable": 0, "assets": HELD}
    assert found["account"] == held
    assert found["asset"] == "tUSD, tETH, tBTC: test assets without value"
    code, told = run("--home", str(home.path), "--name", "node-1")
    assert code == 0 and "price      0.005 tUSD an icon" in told and "nothing is sold yet" in told
    assert "tUSD, tETH and tBTC are test assets: they have no value" in told and "node-1     0 icon" in told


def test_assets_stand_by_place_with_their_quotes(home):
    found = ask(home)
    lines = {line["asset"]: line for line in found["assets"]}
    assert [lines[name]["quote"] for name in ("tUSD", "tETH", "tBTC")] == [10**6, *QUOTES.values()]
    assert lines["tETH"]["accounts"] == HELD["tETH"] and lines["tETH"]["pool"] == 0
    assert (lines["tETH"]["epoch"], lines["tETH"]["height"]) == (0, 0)
    code, told = run("--home", str(home.path))
    assert code == 0 and "  tETH     0 tETH here, 10 tETH in accounts" in told
    assert "           2500 tUSD in epoch 0, recorded at height 0" in told and "; 10 tETH; 1 tBTC" in told
    shown = [line for line in told.splitlines() if line.startswith("  ")]
    assert len(shown) == 5 and max(map(len, shown)) <= 80


def test_dry_run_in_another_asset_shows_the_quote(home):
    found = ask(home, "buy", "1000.5 icon", "--with", "eth", "--dry-run")
    assert (found["asset"], found["amount"], found["dollars"], found["quote"]) == (
        "tETH",
        2_001_000,
        5_002_500,
        QUOTES["tETH"],
    )
    assert found["after"]["assets"]["tETH"] == HELD["tETH"] - 2_001_000
    assert found["after"]["dollars"] == USER_TEST_DOLLARS and found["balance_after"] == 2_001_000
    code, told = run("buy", "1 icon", "--with", "tBTC", "--dry-run", "--most", "1 tBTC", "--home", str(home.path))
    assert code == 0 and "gives      0.00000005 tBTC" in told and "at most 1 tBTC" in told
    assert "quote      100000 tUSD for 1 tBTC; the coins are worth 0.005 tUSD" in told
    code, told = run("redeem", "1 icon", "--for", "eth", "--dry-run", "--home", str(home.path))
    assert code == 2 and "not-earned" in told


def test_price_quotes_shows_what_is_recorded_and_who_voted(home):
    done = CliRunner().invoke(app, ["price", "quotes", "--home", str(home.path)])
    assert done.exit_code == 0, done.stdout + done.stderr
    assert "tETH    2500 tUSD since epoch 0, recorded at height 0" in done.stdout
    assert "next    100000 tUSD, if the epoch ended now" in done.stdout
    assert "vote    node-1 (50.00 % of weight): never voted" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    done = CliRunner().invoke(app, ["price", "quotes", "--json", "--home", str(home.path)])
    assert [line["asset"] for line in json.loads(done.stdout)] == ["tETH", "tBTC"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("usd", "1 tUSD"), "needs no quote"),
        (("doge", "1 tUSD"), "usd, eth or btc"),
        (("eth", "2500"), "is no amount"),
        (("eth", "0.5 tUSD"), "not between"),
        (("btc", "100000000000000 tUSD"), "at most"),
        (("eth", "2500 tUSD"), "does not run"),
    ],
)
def test_invalid_votes_on_a_quote(home, words, said):
    done = CliRunner().invoke(app, ["price", "vote-quote", *words, "--home", str(home.path)])
    told = done.stdout + done.stderr
    assert done.exit_code == 2 and said in told and "Traceback" not in told, told


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
        (("buy", "5 icon", "--with", "eth", "--most", "1 tUSD"), "tUSD is not tETH"),
        (("buy", "5 icon", "--with", "doge"), "usd, eth or btc"),
        (("buy", "20000000 icon", "--dry-run", "--with", "btc"), "over-assets"),
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
        # The same in ether, at the quote of genesis; a vote on the next one; a payment in ether.
        code, told = run("buy", "100 icon", "--with", "eth", "--yes", *where)
        assert code == 0 and "Done at height" in told, told
        ether = next(line for line in ask(home)["assets"] if line["asset"] == "tETH")
        assert ether["pool"] == 100 * PRICE * 10**9 // QUOTES["tETH"] and ether["worth"] == 100 * PRICE
        code, told = run("redeem", "1 icon", "--for", "btc", "--dry-run", *where)
        assert code == 2 and "not-earned" in told
        words = ["price", "vote-quote", "eth", "2600 tUSD"]
        done = CliRunner().invoke(app, [*words, "--dry-run", *where])
        assert done.exit_code == 0 and "would take this vote of node-1" in done.stdout, done.stdout + done.stderr
        done = CliRunner().invoke(app, [*words, *where])
        assert "node-1 votes for 2600 tUSD for 1 tETH" in done.stdout, done.stdout + done.stderr
        done = CliRunner().invoke(app, ["price", "quotes", *where])
        assert "%): 2600 tUSD" in done.stdout.replace(" of weight", ""), done.stdout + done.stderr
        done = CliRunner().invoke(app, ["tx", "send-asset", "node-2", "0.5 tETH", "--yes", *where])
        assert "0.5 tETH, a test asset" in done.stdout and "Done at height" in done.stdout, done.stdout + done.stderr
        node = next(line for line in ask(home, "--name", "node-2")["account"]["assets"].items() if line[0] == "tETH")
        assert node == ("tETH", 500_000_000)
