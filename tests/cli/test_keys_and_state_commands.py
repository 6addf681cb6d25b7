"""`paceline keys` and `paceline state` as a person types them."""

from __future__ import annotations

import json
import os
import re

import pytest
from typer.testing import CliRunner

from paceline.cli.keys import WARNING
from paceline.cli.main import app
from paceline.engine.cometbft import compute_consensus_address
from paceline.engine.signed_mark import SignedMark, raise_signed_mark, read_signed_mark
from paceline.engine.solo import Sequencer
from paceline.ledger.application import Application
from paceline.node.chains.state_files import get_store_path
from paceline.node.home import Home, NewHome, Running, create_home
from paceline.node.membership import key_backup
from paceline.node.membership.contacts import add_contact
from paceline.node.membership.key_files import add_key
from paceline.node.membership.sealed import KeyCost
from paceline.store.state import SqliteStateStore

PASSPHRASE = "correct horse battery"


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    """What a guess costs is tested where it is decided; here it would only cost time."""
    monkeypatch.setattr(key_backup, "USUAL_COST", KeyCost(passes=1, memory_bytes=8192))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Home:
    home = create_home(tmp_path_factory.mktemp("pristine") / "home", NewHome(nodes=2, seed=8, engine="cometbft"))
    raise_signed_mark(home.node_path("node-1") / "engine", SignedMark(77, 0, 3))
    return home


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "passphrase"
    path.write_text(PASSPHRASE + "\n")
    return path


def run(*arguments, typed=None):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_list_shows_what_is_public_and_nothing_else(pristine):
    code, told = run("keys", "list", "--home", pristine.path)
    assert code == 0
    consensus = pristine.load_consensus_key("node-2")
    for shown in (
        pristine.load_key("user").address,
        pristine.load_key("node-1").public_key,
        consensus.public_key,
        pristine.load_ceremony_key("node-2").public_key,
    ):
        assert shown.hex() in told
    assert compute_consensus_address(consensus.public_key) in told
    secrets = [path.read_text().strip() for path in pristine.path.rglob("*key")]
    assert len(secrets) == 6 and not any(secret in told for secret in secrets)
    lines = json.loads(run("keys", "list", "--json", "--home", pristine.path)[1])
    assert [line["name"] for line in lines] == ["user", "node-1", "node-2"]


def test_a_home_moves_to_a_new_machine(pristine, tmp_path, words):
    file, new = tmp_path / "b", tmp_path / "new"
    code, told = run("keys", "backup", "--home", pristine.path, "--to", file, "--passphrase-file", words)
    assert code == 0 and "the keys of node-1, node-2, user; the operator token" in told
    restore = ("keys", "restore", file, "--home", new, "--passphrase-file", words, "--yes")
    code, told = run(*restore)
    assert code == 2 and "--signed-through is missing" in told and not new.exists()
    for wrong in ("x", "-1", "5/", "5/x", "1/2/3", "9" * 19):
        code, told = run(*restore, "--signed-through", wrong)
        assert code == 2 and not new.exists(), told
    code, told = run(*restore, "--signed-through", 0)
    assert code == 0, told
    assert "ONE machine" in told and "height 77, round 0, step 3" in told
    assert Home(new).load_key("user") == pristine.load_key("user")
    assert read_signed_mark(Home(new).node_path("node-1") / "engine") == SignedMark(77, 0, 3)
    code, told = run(
        "keys", "restore", file, "--home", new, "--passphrase-file", words, "--yes", "--signed-through", 90
    )
    assert code == 0 and re.search(r"node-2: .*\n +signs nothing up to height 90", told)
    code, told = run(*restore, "--signed-through", "91/2")
    assert code == 0 and "height 91, round 2, step 3" in told


def test_a_passphrase_is_asked_for_twice_and_a_restore_for_leave(pristine, tmp_path):
    file, new = tmp_path / "b", tmp_path / "new"
    twice = f"{PASSPHRASE}\n{PASSPHRASE}\n"
    code, told = run("keys", "backup", "--home", pristine.path, "--name", "node-2", "--to", file, typed=twice)
    assert code == 0 and file.exists() and PASSPHRASE not in told
    code, told = run("keys", "restore", file, "--home", new, "--signed-through", 0, typed=f"{PASSPHRASE}\nn\n")
    assert code == 0 and "Nothing was restored" in told and not new.exists()
    assert " ".join(WARNING.split()) in " ".join(told.split())
    code, told = run("keys", "restore", file, "--home", new, "--signed-through", 0, typed=f"{PASSPHRASE}\ny\n")
    assert code == 0 and Home(new).node_names() == ["node-2"]


def test_invalid_backups_and_restores_say_why_and_write_nothing(pristine, tmp_path, words):
    file, new = tmp_path / "b", tmp_path / "new"
    backup = ("keys", "backup", "--home", pristine.path, "--to", file)
    short = tmp_path / "short"
    short.write_text("too short\n" + PASSPHRASE)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for arguments, message in [
        (("--passphrase-file", short), "at least 12"),
        (("--passphrase-file", binary), "no UTF-8"),
        (("--passphrase-file", tmp_path / "missing"), "cannot be read"),
        (("--passphrase-file", words, "--name", "node-9"), "node-1, node-2"),
        (("--to", tmp_path / "no" / "b"), "its folder does not exist"),
    ]:
        code, told = run(*backup, *arguments)
        assert code == 2 and message in told and not file.exists()
    assert run(*backup, "--passphrase-file", words)[0] == 0
    code, told = run(*backup, "--passphrase-file", words)
    assert code == 2 and "overwrites nothing" in told
    wrong = tmp_path / "wrong"
    wrong.write_text("incorrect horse")
    code, told = run("keys", "restore", file, "--home", new, "--passphrase-file", wrong, "--yes")
    assert code == 1 and "not-opened" in told and not new.exists()
    code, told = run("keys", "restore", words, "--home", new, "--passphrase-file", words, "--yes")
    assert code == 1 and "not-a-backup" in told and not new.exists()


def test_a_home_of_accounts_alone_is_carried_without_a_word_about_machines(tmp_path, words):
    home, file, new = tmp_path / "cold", tmp_path / "b", tmp_path / "new"
    code, told = run("keys", "backup", "--home", home, "--to", file, "--passphrase-file", words)
    assert code == 2 and "nothing to back up" in told
    add_key(Home(home), "cold", b"c" * 32)
    add_contact(Home(home), "bob", "ab" * 20, [])
    code, told = run("keys", "backup", "--home", home, "--to", file, "--passphrase-file", words)
    assert code == 0 and f"{file} holds the keys of cold; 1 contact\n" in told
    code, told = run("keys", "restore", file, "--home", new, "--passphrase-file", words)
    assert (
        code == 0 and "the keys of cold; 1 contact" in told and "paceline up" not in told and "ONE machine" not in told
    )
    assert Home(new).load_key("cold") == Home(home).load_key("cold")


def test_invalid_there_is_no_passphrase_on_the_command_line(pristine, tmp_path):
    code, told = run("keys", "backup", "--home", pristine.path, "--to", tmp_path / "b", "--passphrase", PASSPHRASE)
    assert code == 2 and not (tmp_path / "b").exists() and "No such option" in told


@pytest.fixture
def chain(tmp_path) -> Home:
    home = create_home(tmp_path / "chain", NewHome(nodes=2, seed=8))
    store = SqliteStateStore(get_store_path(home, "node-1"), durable=False)
    sequencer = Sequencer(Application(home.load_genesis(), store), store, home.load_key("node-1"))
    for _ in range(30):
        sequencer.produce_block(0)
    store.close()
    return home


def test_a_state_is_told_carried_pruned_and_compacted(chain, tmp_path):
    where = ("--home", chain.path)
    told = json.loads(run("state", "info", "--json", *where)[1])
    assert (told["name"], told["height"], told["first_block"]) == ("node-1", 30, 1)
    code, exported = run("state", "export", "--to", tmp_path / "state", *where)
    assert code == 0 and f"app hash  {told['app_hash']}" in exported
    code, imported = run("state", "import", tmp_path / "state", "--name", "node-2", *where)
    assert code == 0 and f"height    30\napp hash  {told['app_hash']}\n" in imported
    assert "blocks    1, from 30" in imported
    assert "blocks    7, from 24" in run("state", "prune", "--keep-blocks", 7, *where)[1]
    assert json.loads(run("state", "compact", "--json", *where)[1])["file_bytes"] <= told["file_bytes"]


def test_invalid_states_and_a_running_network_are_refused(chain, tmp_path):
    where = ("--home", chain.path)
    (tmp_path / "state").write_bytes(b"nonsense")
    code, told = run("state", "import", tmp_path / "state", "--name", "node-2", *where)
    assert code == 1 and "truncated" in told
    assert run("state", "prune", "--keep-blocks", 0, *where)[0] == 2
    assert run("state", "prune", *where)[0] == 2
    code, told = run("state", "info", "--name", "node-9", *where)
    assert code == 2 and "node-1, node-2" in told
    code, told = run("state", "info", "--home", tmp_path / "nothing")
    assert code == 2 and "holds no network" in told
    chain.save_running(Running(pid=os.getpid(), web_url="", ports={}))
    code, told = run("state", "compact", *where)
    assert code == 2 and "stop it first" in told
