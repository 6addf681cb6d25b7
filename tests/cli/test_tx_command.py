"""`paceline tx` and `paceline contacts` as a person types them: what moves is shown first, and nothing moves on a dry run."""

from __future__ import annotations

import json
import stat

import pytest
from joined_network import open_network
from typer.testing import CliRunner

from paceline.base.keys import AccountKey
from paceline.cli.main import app
from paceline.cli.signing import ask_account, open_control
from paceline.ledger.accounts import RESERVE
from paceline.node.home import USER_TEST_DOLLARS, NewHome, create_home, write_secret
from paceline.node.settings import SOLO

STRANGER = AccountKey.from_secret(b"s" * 32).address.hex()
COIN = 10**9


def run(*words, typed=None):
    """(exit code, what it printed), without the start of another interpreter."""
    done = CliRunner().invoke(app, list(words), input=typed)
    return done.exit_code, done.stdout + done.stderr


@pytest.fixture
def idle_home(tmp_path):
    return create_home(tmp_path / "home", NewHome(nodes=2, seed=1))


@pytest.mark.long
@pytest.mark.timeout(240)
def test_payments_are_shown_then_made(tmp_path, monkeypatch):
    with open_network(tmp_path / "home", 2, engine=SOLO, monkeypatch=monkeypatch) as (home, _):
        place = ("--home", str(home.path))
        node = home.load_key("node-2").address.hex()
        spare = AccountKey.from_secret(b"k" * 32)
        write_secret(home.key_path("spare"), spare.secret.hex())
        assert run("contacts", "add", "bob", STRANGER, *place) == (0, f"bob is {STRANGER}\n")

        code, told = run("tx", "send", "bob", "1.5 icon", "--dry-run", *place)
        assert code == 0, told
        assert f"To        {STRANGER} (contact bob)" in told and "Nothing was sent." in told
        assert f"1.5 icon  {STRANGER}" in told and "1 uicoin  core reserve  the fee" in told
        code, told = run("tx", "send", "bob", "1.5 icon", *place, typed="n\n")
        assert code == 0 and "Nothing was sent." in told
        shown = json.loads(run("tx", "send", STRANGER, "1.5 icon", "--dry-run", "--json", *place)[1])
        assert shown["height"] is None and shown["amount"] == 3 * COIN // 2
        moves = {move["account"]: move["change"] for move in shown["moves"]}
        user = home.load_key("user").address.hex()
        assert moves == {STRANGER: 3 * COIN // 2, "core reserve": 1_000, user: -3 * COIN // 2 - 1_000}

        sent = json.loads(run("tx", "send", "node-2", "2 icon", "--yes", "--json", *place)[1])
        assert sent["to"] == node and sent["height"] > 0
        code, told = run("tx", "send", "spare", "1 icon", "--yes", *place)
        assert code == 0 and "(spare of this home)" in told and "Done at height" in told
        code, told = run("tx", "send", "bob", "0.5 icon", "--from", "spare", "--yes", *place)
        assert code == 0 and "Done at height" in told, told
        code, told = run("tx", "send-dollars", "bob", "2.5 tUSD", "--yes", *place)
        assert code == 0 and "2.5 tUSD, a test asset" in told and "-2.5 tUSD  " in told, told

        for words, said in (
            (("tx", "send", "bob", "1 icon", "--from", "spare"), "over-balance"),
            (("tx", "send", RESERVE.hex(), "1 icon"), "pool-address"),
            (("tx", "send-dollars", "bob", "9999 tUSD"), "over-dollars"),
            (("tx", "send", "nobody", "1 icon"), "'nobody' is none"),
            (("propose", "grant", "nobody", "1 icon", "--title", "x"), "'nobody' is none"),
            (("propose", "grant", "bob", "1 icon", "--title", "x"), "over-fund"),
        ):
            code, told = run(*words, "--dry-run", *place)
            assert code == 2 and said in told, told
        with open_control(home) as client:
            got, spare_left = ask_account(client, STRANGER), ask_account(client, spare.address.hex())
            assert (got.coins, got.dollars, got.sequence, got.name) == (COIN // 2, 2_500_000, 0, "")
            assert spare_left.coins == COIN // 2 - 1_000
            assert ask_account(client, user).dollars == USER_TEST_DOLLARS - 2_500_000
            assert ask_account(client, "node-2").coins == 2 * COIN


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("send", STRANGER, "5"), "AMOUNT: '5' is no amount"),
        (("send", STRANGER, "0 icon"), "the smallest unit"),
        (("send", STRANGER, "-1 icon"), "AMOUNT: '-1 icon' is no amount"),
        (("send", STRANGER, "-.5 icon"), "AMOUNT: '-.5 icon' is no amount"),
        (("send-dollars", STRANGER, "-1 tUSD", "--dry-run"), "AMOUNT: '-1 tUSD' is no amount"),
        (("send", STRANGER, "1 tUSD"), "tUSD is none of"),
        (("send-dollars", STRANGER, "1 icon"), "is not tUSD"),
        (("send", STRANGER, "1 icon", "--from", "me"), "--from me: this home has user, node-1, node-2"),
        (("send", STRANGER[:-1], "1 icon"), "TO must be 40 hex digits"),
        (("send", "../keys/user", "1 icon"), "TO must be 40 hex digits"),
        (("send", STRANGER, "1 icon", "--json"), "--json asks nothing"),
        (("send", STRANGER, "1 icon"), "does not run"),
    ],
)
def test_invalid_payments_are_one_clear_line(idle_home, words, said):
    code, told = run("tx", *words, "--home", str(idle_home.path))
    assert code == 2 and said in told and told.count("\n") == 1, told


def test_an_address_book_holds_one_address_a_name(idle_home):
    place = ("--home", str(idle_home.path))
    code, told = run("contacts", "list", *place)
    assert code == 0 and told.startswith("No contacts yet; `paceline contacts add")
    for name, address in (("zoe", "00" * 20), ("amy", STRANGER.upper())):
        assert run("contacts", "add", name, address, *place)[0] == 0
    assert json.loads(run("contacts", "list", "--json", *place)[1]) == {"amy": STRANGER, "zoe": "00" * 20}
    assert run("contacts", "list", *place)[1].splitlines() == [f"{STRANGER}  amy", f"{'00' * 20}  zoe"]
    path = idle_home.path / "contacts.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    for name, address, said in (
        ("amy", "11" * 20, "amy is"),
        ("bob", STRANGER, "is called amy already"),
        ("Bob", "11" * 20, "is no name"),
        ("", "11" * 20, "is no name"),
        ("-b", "11" * 20, "No such option"),
        ("b/c", "11" * 20, "is no name"),
        ("x" * 65, "11" * 20, "is no name"),
        ("ab" * 20, "11" * 20, "is no name"),
        ("node-1", "11" * 20, "an account of this home already"),
        ("user", "11" * 20, "an account of this home already"),
        ("bob", "11" * 19, "is no address"),
        ("bob", RESERVE.hex(), "is a pool"),
    ):
        code, told = run("contacts", "add", name, address, *place)
        assert code == 2 and said in told, told
    assert path.read_bytes() == before
    assert run("contacts", "remove", "amy", *place) == (0, f"amy was {STRANGER}\n")
    assert run("contacts", "remove", "amy", *place)[0] == 2


@pytest.mark.parametrize("content", [b"", b"{", b'{"amy":"12"}', b'{"A":"' + b"0" * 40 + b'"}', b"[]"])
def test_a_damaged_address_book_is_named_and_kept(idle_home, content):
    path = idle_home.path / "contacts.json"
    path.write_bytes(content)
    for words in (("list",), ("add", "amy", STRANGER), ("remove", "amy")):
        code, told = run("contacts", *words, "--home", str(idle_home.path))
        assert code == 2 and "contacts.json is damaged" in told, told
    assert path.read_bytes() == content
