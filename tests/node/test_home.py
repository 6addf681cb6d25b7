"""A network's folder: made once, continued, and clear about what is wrong with it."""

from __future__ import annotations

import os
import stat

import pytest

from paceline.base.errors import ConfigError
from paceline.node.home import Home, NewHome, Running, create_home, write_whole
from paceline.node.settings import load_settings
from paceline.protocol.genesis import compute_chain_id


@pytest.fixture
def home(tmp_path) -> Home:
    return create_home(tmp_path / "home", NewHome(nodes=3, seed=1, cheats=(("node-2", "race-padding"),)))


def test_a_new_home_holds_a_network(home):
    assert home.exists
    assert home.node_names() == ["node-1", "node-2", "node-3"]
    genesis = home.load_genesis()
    assert genesis.sequencer == home.load_key("node-1").public_key
    assert [node.public_key for node in genesis.nodes] == [home.load_key(n).public_key for n in home.node_names()]
    assert [account.address for account in genesis.accounts] == [home.load_key("user").address]
    settings = load_settings(home.node_path("node-2") / "node.toml")
    assert (settings.cheat, settings.sequencer, len(settings.peers)) == ("race-padding", "node-1", 3)


def test_a_home_is_continued_as_it_was(home):
    again = Home(home.path)
    assert again.load_genesis() == home.load_genesis()
    assert again.load_token() == home.load_token()


def test_a_seed_fixes_keys_and_chain_but_never_the_token(tmp_path, home):
    twin = create_home(tmp_path / "twin", NewHome(nodes=3, seed=1))
    assert compute_chain_id(twin.load_genesis()) == compute_chain_id(home.load_genesis())
    assert twin.load_key("node-3") == home.load_key("node-3")
    assert twin.load_token() != home.load_token()


def test_without_a_seed_keys_are_new(tmp_path):
    first, second = (create_home(tmp_path / name, NewHome(nodes=1)) for name in "ab")
    assert first.load_key("user") != second.load_key("user")


def test_only_named_nodes_train(tmp_path):
    made = create_home(tmp_path / "home", NewHome(nodes=2, trainers=("node-2",)))
    assert [load_settings(made.node_path(name) / "node.toml").trains for name in made.node_names()] == [False, True]


def test_secrets_are_for_their_owner_only(home):
    former = os.umask(0)
    os.umask(former)
    secret = [home.path / "keys" / "user", home.path / "operator-token"]
    secret += [home.node_path(name) / "key" for name in home.node_names()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}


def test_secrets_are_for_their_owner_under_any_umask(tmp_path):
    former = os.umask(0)
    try:
        made = create_home(tmp_path / "open", NewHome(nodes=1))
    finally:
        os.umask(former)
    assert stat.S_IMODE((made.path / "operator-token").stat().st_mode) == 0o600


def test_invalid_second_creation_says_how_to_continue(home):
    with pytest.raises(ConfigError, match=f"paceline up --home {home.path}"):
        create_home(home.path, NewHome())


@pytest.mark.parametrize(("changes", "named"), [({"nodes": 0}, "--nodes"), ({"preset": "huge"}, "huge")])
def test_invalid_numbers_make_no_home(tmp_path, changes, named):
    with pytest.raises(ConfigError, match=named):
        create_home(tmp_path / "home", NewHome(**changes))
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-5], lambda data: data + b"\0", lambda _: b"", lambda d: d * 9999]
)
def test_invalid_genesis_names_file_and_remedy(home, damage):
    path = home.path / "genesis.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError, match="restore it") as caught:
        home.load_genesis()
    assert str(path) in str(caught.value)


def test_invalid_missing_network_says_which_command_makes_one(tmp_path):
    with pytest.raises(ConfigError, match="paceline up --home"):
        Home(tmp_path).load_genesis()


@pytest.mark.parametrize("text", ["", "zz" * 32, "ab" * 31, "ü" * 64])
def test_invalid_key_names_file_and_remedy(home, text):
    path = home.node_path("node-2") / "key"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match="64 hex digits") as caught:
        home.load_key("node-2")
    assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(ConfigError, match="restore it"):
        home.load_key("node-2")


def test_invalid_missing_token_names_file_and_remedy(home):
    (home.path / "operator-token").unlink()
    with pytest.raises(ConfigError, match="operator-token"):
        home.load_token()


def test_a_note_about_what_runs_counts_while_its_process_lives(home):
    running = Running(pid=os.getpid(), web_url="http://127.0.0.1:1", ports={"node-1": 2})
    home.save_running(running)
    assert home.load_running() == running
    home.save_running(None)
    assert home.load_running() is None
    home.save_running(None)


def test_a_note_of_a_gone_process_or_a_damaged_one_counts_for_nothing(home):
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
    home.save_running(Running(pid=child, web_url="", ports={}))
    assert home.load_running() is None
    (home.path / "running.json").write_bytes(b'{"pid": "x"')
    assert home.load_running() is None


def test_files_are_whole_or_untouched(tmp_path):
    path = tmp_path / "new" / "file"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]
