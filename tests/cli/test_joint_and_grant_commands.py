"""`paceline multisig` and `grant` as signers on three machines type them: each step shows what it does, a changed file is refused."""

from __future__ import annotations

import json

import pytest
from joined_network import open_network
from typer.testing import CliRunner

from paceline.base.keys import AccountKey
from paceline.cli.main import app
from paceline.cli.signing import ask_account, open_control
from paceline.node.home import Home, NewHome, create_home
from paceline.node.membership.key_files import add_key
from paceline.node.settings import SOLO

STRANGER = AccountKey.from_secret(b"s" * 32).address.hex()
KEYS = [AccountKey.from_secret(bytes([65 + index]) * 32) for index in range(3)]
COIN = 10**9


def run(home, *words, typed=None):
    """(exit code, what it printed), without the start of another interpreter."""
    done = CliRunner().invoke(app, [*map(str, words), "--home", str(home.path)], input=typed)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout + done.stderr


def create(home, name="treasury", threshold=2):
    words = [word for key in KEYS for word in ("--key", key.public_key.hex())]
    code, told = run(home, "multisig", "create", name, *words, "--threshold", threshold)
    assert code == 0, told
    return told.split()[2].rstrip(",")


@pytest.fixture
def cold(tmp_path):
    """A machine without any network that holds the second key."""
    home = Home(tmp_path / "cold")
    add_key(home, "second", KEYS[1].secret)
    return home


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_payment_by_two_of_three_and_a_grant_to_a_hot_key(tmp_path, monkeypatch, cold):
    file = tmp_path / "pay.joint"
    with open_network(tmp_path / "home", 2, engine=SOLO, monkeypatch=monkeypatch) as (home, _):
        add_key(home, "first", KEYS[0].secret)
        address = create(home)
        assert create(cold, "shared") == address
        assert run(home, "tx", "send", "treasury", "5 icon", "--yes")[0] == 0
        assert run(home, "contacts", "add", "bob", STRANGER)[0] == 0
        mark = propose_payment(home, file, address)
        sign_and_send(home, cold, file, address, mark)
        grant_by_two_of_three(home, cold, tmp_path)
        vote_by_a_hot_key(home)


def propose_payment(home, file, address):
    words = ("multisig", "propose", "treasury", "bob", "1.5 icon", "--file", file)
    code, told = run(home, *words, "--dry-run")
    assert code == 0 and "Nothing was signed." in told and not file.exists(), told
    assert f"pays 1.5 icon to {STRANGER} (contact bob)" in told and f"-1.500001 icon  {address}" in told
    code, told = run(home, *words, typed="y\n")
    assert code == 0 and "1 more must sign" in told, told
    mark = told.split()[-1]
    assert run(home, *words, "--yes")[0] == 2
    code, told = run(home, "multisig", "send", file, "--yes")
    assert code == 2 and "1 more of 3 keys must sign" in told
    return mark


def sign_and_send(home, cold, file, address, mark):
    # The machine that only signs knows no network and no contact, and sees the same.
    code, told = run(cold, "multisig", "sign", file, typed="n\n")
    assert code == 0 and f"pays 1.5 icon to {STRANGER}\n" in told and "not tried" in told, told
    code, told = run(cold, "multisig", "sign", file, "--yes")
    assert code == 0 and "It can be sent" in told and mark in told, told
    code, told = run(cold, "multisig", "sign", file, "--yes")
    assert code == 2 and "has signed this already" in told

    data = file.read_bytes()
    for place in (len(data) // 3, len(data) // 2, len(data) - 3):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        for step in ("show", "sign", "send"):
            assert run(home, "multisig", step, file)[0] == 2
    file.write_bytes(data)
    code, told = run(home, "multisig", "send", file, "--dry-run")
    assert code == 0 and f"1.5 icon  {STRANGER}" in told and "Nothing was sent." in told
    code, told = run(home, "multisig", "send", file, "--yes")
    assert code == 0 and "Done at height" in told, told
    code, told = run(home, "multisig", "send", file, "--yes")
    assert code == 2 and "wrong-sequence" in told
    with open_control(home) as client:
        assert ask_account(client, STRANGER).coins == 3 * COIN // 2
        assert ask_account(client, address).sequence == 1


def grant_by_two_of_three(home, cold, tmp_path):
    other = tmp_path / "grant.joint"
    words = ("treasury", "first", "vote-price", "open-session", "--lasts", 900, "--limit", "1 icon")
    code, told = run(home, "multisig", "propose-grant", *words, "--file", other, "--yes")
    assert code == 0 and "open-session, vote-price up to height" in told, told
    assert run(cold, "multisig", "sign", other, "--yes")[0] == 0
    assert run(home, "multisig", "send", other, "--yes")[0] == 0
    code, told = run(home, "grant", "list", "treasury")
    assert code == 0 and f"{KEYS[0].address.hex()}: open-session, vote-price; 1 icon left" in told, told
    last = tmp_path / "revoke.joint"
    assert run(home, "multisig", "propose-revoke", "treasury", "first", "--file", last, "--yes")[0] == 0
    code, told = run(home, "multisig", "show", last)
    assert code == 0 and "ends the grant to" in told and "(first of this home)" in told


def vote_by_a_hot_key(home):
    # A key that holds nothing votes for a node that granted it that, and nothing else.
    code, told = run(home, "price", "vote", "2 micoin", "--name", "first", "--for", "node-2")
    assert code == 2 and "no-grant" in told, told
    assert run(home, "tx", "send", "node-2", "1 icon", "--yes")[0] == 0
    words = ("grant", "give", "first", "vote-price", "--lasts", 500, "--from", "node-2")
    code, told = run(home, *words, "--dry-run")
    assert code == 0 and "Nothing was sent." in told and "(first of this home) send vote-price up to" in told, told
    assert run(home, *words, "--yes")[0] == 0
    code, told = run(home, *words, "--yes")
    assert code == 2 and "already-granted" in told
    code, told = run(home, "price", "vote", "2 micoin", "--name", "first", "--for", "node-2")
    assert code == 0 and "first for node-2 votes for 2 micoin" in told, told
    assert "2 micoin" in run(home, "price", "show")[1]
    code, told = run(home, "vote", "1", "yes", "--name", "first", "--for", "node-2")
    assert code == 2 and "out-of-scope" in told
    assert run(home, "grant", "revoke", "first", "--from", "node-2", "--yes")[0] == 0
    code, told = run(home, "price", "vote", "3 micoin", "--name", "first", "--for", "node-2")
    assert code == 2 and "no-grant" in told
    assert json.loads(run(home, "grant", "list", "node-2", "--json")[1])["grants"] == []


def test_joint_accounts_are_listed_and_named_once(cold):
    address = create(cold)
    (line,) = json.loads(run(cold, "multisig", "list", "--json")[1])
    assert (line["name"], line["address"], line["threshold"]) == ("treasury", address, 2)
    assert line["keys"] == sorted(key.public_key.hex() for key in KEYS)
    assert f"{address}  treasury, 2 of 3" in run(cold, "multisig", "list")[1]
    one, two = KEYS[0].public_key.hex(), KEYS[1].public_key.hex()
    for words, told in (
        (("treasury", "--key", one, "--key", two, "--threshold", 1), "an account of this home already"),
        (("second", "--key", one, "--key", two, "--threshold", 1), "an account of this home already"),
        (("again", *(w for key in KEYS for w in ("--key", key.public_key.hex())), "--threshold", 2), "called treasury"),
        (("x", "--key", one, "--threshold", 1), "2 to 16 keys"),
        (("x", "--key", one, "--key", two, "--threshold", 3), "3 of 2 keys"),
        (("x", "--key", one, "--key", one, "--threshold", 2), "named twice"),
        (("x", "--key", one, "--key", "nobody", "--threshold", 2), "--key nobody"),
        (("X", "--key", one, "--key", "second", "--threshold", 2), "is no name"),
    ):
        code, found = run(cold, "multisig", "create", *words)
        assert code == 2 and told in found, found
    code, told = run(cold, "contacts", "add", "treasury", STRANGER)
    assert code == 2 and "an account of this home already" in told
    path = cold.path / "policies.json"
    path.write_text('{"x":{"threshold":9,"keys":[]}}')
    code, told = run(cold, "multisig", "list")
    assert code == 2 and "policies.json is damaged" in told


def test_invalid_steps_are_one_clear_line(tmp_path, cold):
    home = create_home(tmp_path / "home", NewHome(nodes=1, seed=1))
    create(home)
    file = tmp_path / "file"
    file.write_bytes(b"nonsense")
    fresh = tmp_path / "fresh"
    for words, told in (
        (("multisig", "show", tmp_path / "none"), "cannot be read"),
        (("multisig", "sign", file), "was not written by"),
        (("multisig", "propose", "nobody", STRANGER, "1 icon", "--file", fresh), "this home has treasury"),
        (("multisig", "propose", "treasury", STRANGER, "1 icon", "--file", file), "overwrites nothing"),
        (("multisig", "propose", "treasury", STRANGER, "1 icon", "--file", fresh), "has none of the account's keys"),
        (("multisig", "propose", "treasury", STRANGER, "1 coin", "--file", fresh), "write icon"),
        (("multisig", "propose", "treasury", STRANGER, "1 icon", "--file", fresh, "--key", "x"), "--key x: this home"),
        (("grant", "give", STRANGER, "vote-price", "--lasts", "5"), "does not run"),
        (("grant", "list", "nobody"), "ACCOUNT must be"),
        (("price", "vote", "1 micoin", "--name", "node-9", "--for", "node-1"), "--name node-9: this home has"),
        (("price", "vote", "1 micoin", "--for", "nobody"), "--for must be"),
    ):
        code, found = run(home, *words)
        assert code == 2 and told in found and found.count("\n") == 1, found
    code, found = run(home, "grant", "list", "--json")
    assert code == 0 and json.loads(found)["grants"] == []
