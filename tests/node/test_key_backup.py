"""Backups of keys: opened by the passphrase alone, restored whole or not at all, and never against what was signed."""

from __future__ import annotations

import dataclasses
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from paceline.base.errors import ConfigError
from paceline.engine.signed_mark import SignedMark, make_mark_through, raise_signed_mark, read_signed_mark
from paceline.node.home import Home, NewHome, Running, create_home, write_whole
from paceline.node.membership.account_backup import AccountBackup
from paceline.node.membership.contacts import add_contact, load_contacts, remove_contact
from paceline.node.membership.key_backup import (
    BACKUP,
    MAGIC,
    Backup,
    NetworkBackup,
    collect_backup,
    open_backup,
    restore_backup,
    seal_backup,
    write_backup,
)
from paceline.node.membership.key_files import add_key
from paceline.node.membership.policies import add_policy, load_policies, make_policy
from paceline.node.membership.sealed import InvalidBackup, KeyCost, SealedBackup, seal_value
from paceline.node.settings import COMETBFT, load_settings
from paceline.protocol.codec import decode_own, encode

PASSPHRASE = "correct horse battery"
CHEAP = KeyCost(passes=1, memory_bytes=8192)
MARK = SignedMark(120, 1, 3)


def make_home(path, engine=COMETBFT, seed=5):
    home = create_home(path, NewHome(nodes=2, seed=seed, engine=engine))
    if engine == COMETBFT:
        raise_signed_mark(home.node_path("node-1") / "engine", MARK)
    return home


@pytest.fixture
def home(tmp_path) -> Home:
    return make_home(tmp_path / "home")


@pytest.fixture
def file(tmp_path, home) -> Path:
    path = tmp_path / "keys.backup"
    write_backup(path, seal_backup(collect_backup(home), PASSPHRASE, CHEAP))
    return path


def list_files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def restore(path, file, **options):
    return restore_backup(Home(path), open_backup(file, PASSPHRASE), **options)


def get_mark(home, name="node-1"):
    return read_signed_mark(home.node_path(name) / "engine")


def test_a_new_machine_gets_the_whole_home_back(tmp_path, home, file):
    restored = restore(tmp_path / "new", file)
    assert list_files(tmp_path / "new") == {
        **list_files(home.path),
        "nodes/node-1/engine/data/priv_validator_state.json": b'{"height": "120", "round": 1, "step": 3}',
    }
    again = Home(tmp_path / "new")
    assert again.load_genesis() == home.load_genesis()
    assert again.load_ceremony_key("node-2").public_key == home.load_ceremony_key("node-2").public_key
    assert [(node.name, node.signed) for node in restored] == [("node-1", MARK), ("node-2", SignedMark())]


def test_secrets_are_for_their_owner_only_wherever_they_land(tmp_path, file):
    former = os.umask(0)
    try:
        restore(tmp_path / "new", file)
    finally:
        os.umask(former)
    paths = [
        file,
        *(tmp_path / "new").rglob("*key"),
        *(tmp_path / "new").rglob("user"),
        tmp_path / "new/operator-token",
    ]
    assert len(paths) == 9
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}


def test_one_node_comes_alone_and_gets_a_user_of_its_own(tmp_path, home):
    backup = collect_backup(home, "node-2")
    assert (backup.user, backup.token, [node.name for node in backup.nodes]) == (None, None, ["node-2"])
    new = Home(tmp_path / "new")
    restore_backup(new, backup)
    assert new.node_names() == ["node-2"]
    assert new.load_key("node-2") == home.load_key("node-2")
    assert new.load_key("user") != home.load_key("user") and new.load_token() != home.load_token()


def test_a_lost_key_comes_back_among_those_that_are_there(home, file):
    path = home.node_path("node-1") / "consensus-key"
    before = path.read_bytes()
    path.unlink()
    settings = home.node_path("node-1") / "node.toml"
    settings.write_text(settings.read_text().replace("block_seconds = 0.25", "block_seconds = 0.5"))
    restore(home.path, file)
    assert path.read_bytes() == before
    # Settings are a matter of the machine: those that are there stay.
    assert load_settings(settings).block_seconds == 0.5


def test_the_file_shows_nothing_and_two_of_them_differ(home):
    backup = collect_backup(home)
    one, two = (seal_backup(backup, PASSPHRASE, CHEAP) for _ in range(2))
    assert one != two
    for secret in (backup.user, backup.nodes[0].key, backup.nodes[0].group_key, backup.token.encode()):
        assert secret not in one and secret.hex().encode() not in one


def test_a_backup_overwrites_nothing(file):
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        write_backup(file, b"other")
    assert file.read_bytes() == before
    with pytest.raises(ConfigError, match="its folder does not exist"):
        write_backup(file / "below", b"other")


def test_invalid_passphrases(tmp_path, home, file):
    with pytest.raises(ConfigError, match="at least 12"):
        seal_backup(collect_backup(home), "x" * 11, CHEAP)
    seal_backup(collect_backup(home), "x" * 12, CHEAP)
    for wrong in ("", PASSPHRASE + " ", PASSPHRASE.upper()):
        with pytest.raises(InvalidBackup, match="not-opened"):
            open_backup(file, wrong)


def test_a_letter_spelt_in_two_ways_is_one_letter(tmp_path, home):
    write_backup(tmp_path / "b", seal_backup(collect_backup(home), "cafe\u0301 au lait 12", CHEAP))
    assert open_backup(tmp_path / "b", "caf\u00e9 au lait 12") == collect_backup(home)


def test_invalid_files_are_refused_at_every_byte(tmp_path, file):
    whole = file.read_bytes()
    end = len(whole) - 1
    # Every byte of the head, and some of what is sealed.
    places = [*range(90), *range(90, end, end // 20), end]
    damaged = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in places]
    damaged += [whole[:at] for at in places] + [whole + b"\0", b""]
    for data in damaged:
        file.write_bytes(data)
        with pytest.raises(InvalidBackup):
            open_backup(file, PASSPHRASE)
    with pytest.raises(ConfigError, match="cannot be read"):
        open_backup(tmp_path / "missing", PASSPHRASE)


def reseal(file, **changes):
    sealed = decode_own(SealedBackup, file.read_bytes()[len(MAGIC) :])
    file.write_bytes(MAGIC + encode(msgspec.structs.replace(sealed, **changes)))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"format": BACKUP.format + 1}, "unknown-format"),
        ({"cost": KeyCost(passes=1, memory_bytes=1024**3 + 1)}, "malformed"),
        ({"cost": KeyCost(passes=17, memory_bytes=8192)}, "malformed"),
        ({"salt": bytes(15)}, "malformed"),
    ],
)
def test_invalid_heads_cost_neither_memory_nor_time(file, changes, code):
    reseal(file, **changes)
    with pytest.raises(InvalidBackup, match=code):
        open_backup(file, PASSPHRASE)


def test_the_usual_cost_of_a_guess_is_a_quarter_gigabyte_of_memory(tmp_path, home):
    data = seal_backup(collect_backup(home), PASSPHRASE)
    sealed = decode_own(SealedBackup, data[len(MAGIC) :])
    assert (sealed.cost.passes, sealed.cost.memory_bytes) == (3, 256 * 1024 * 1024)
    write_backup(tmp_path / "b", data)
    assert open_backup(tmp_path / "b", PASSPHRASE) == collect_backup(home)


@pytest.mark.parametrize("damage", ["key", "consensus-key", "group-key", "user", "token", "network", "running", "mark"])
def test_invalid_restores_change_nothing(tmp_path, home, file, damage):
    target = make_home(tmp_path / "target", seed=6 if damage == "network" else 5)
    (target.path / "operator-token").write_bytes((home.path / "operator-token").read_bytes())
    # Something is missing in every target, so that a restore which only looked later would show.
    (target.node_path("node-1") / "key").unlink()
    if damage == "running":
        target.save_running(Running(pid=os.getpid(), web_url="", ports={}))
    elif damage == "mark":
        write_whole(target.node_path("node-2") / "engine" / "data" / "priv_validator_state.json", b"{}")
    elif damage != "network":
        places = {"user": target.path / "keys" / "user", "token": target.path / "operator-token"}
        write_whole(places.get(damage, target.node_path("node-2") / damage), b"11" * 32)
    before = list_files(target.path)
    with pytest.raises(ConfigError, match=r"differs|another network|runs|damaged"):
        restore(target.path, file)
    assert list_files(target.path) == before


@pytest.mark.parametrize("settings", ["", "name = 3", "\x00", None])
def test_invalid_settings_in_a_backup_change_nothing(tmp_path, home, settings):
    backup = collect_backup(home)
    bad = msgspec.structs.replace(backup.nodes[1], settings=backup.nodes[0].settings if settings is None else settings)
    with pytest.raises(InvalidBackup, match="bad-settings"):
        restore_backup(Home(tmp_path / "new"), msgspec.structs.replace(backup, nodes=(backup.nodes[0], bad)))
    with pytest.raises(InvalidBackup, match="malformed"):
        restore_backup(Home(tmp_path / "new"), msgspec.structs.replace(backup, genesis=b"none"))
    assert not (tmp_path / "new").exists()


def test_invalid_names_never_leave_the_home(tmp_path, home):
    backup = collect_backup(home)
    for name in ("../outside", ".", "a/b", ""):
        bad = msgspec.structs.replace(backup, nodes=(msgspec.structs.replace(backup.nodes[0], name=name),))
        write_backup(tmp_path / "b", seal_backup(bad, PASSPHRASE, CHEAP))
        with pytest.raises(InvalidBackup, match="malformed"):
            open_backup(tmp_path / "b", PASSPHRASE)
        (tmp_path / "b").unlink()


def test_what_no_backup_can_hold_is_found_before_it_is_sealed(home):
    write_whole(home.path / "operator-token", b"two words")
    with pytest.raises(InvalidBackup, match="malformed"):
        collect_backup(home)
    with pytest.raises(ConfigError, match="node-1, node-2"):
        collect_backup(home, "node-3")


@pytest.mark.parametrize(
    ("here", "through", "expected"),
    [
        (SignedMark(0, 0, 0), 0, MARK),
        (SignedMark(120, 1, 2), 0, MARK),
        (SignedMark(120, 2, 1), 0, SignedMark(120, 2, 1)),
        (SignedMark(500, 0, 3), 0, SignedMark(500, 0, 3)),
        (SignedMark(500, 0, 3), 499, SignedMark(500, 0, 3)),
        (SignedMark(500, 0, 3), 500, SignedMark(500, 2**31 - 1, 3)),
        (SignedMark(0, 0, 0), 119, MARK),
        (SignedMark(0, 0, 0), 130, SignedMark(130, 2**31 - 1, 3)),
    ],
)
def test_the_mark_of_what_was_signed_never_moves_backwards(tmp_path, file, here, through, expected):
    target = Home(tmp_path / "new")
    raise_signed_mark(target.node_path("node-1") / "engine", here)
    (restored, _) = restore(target.path, file, signed_through=make_mark_through(through))
    assert restored.signed == get_mark(target) == expected


def test_only_the_node_that_orders_a_solo_network_awaits_its_state(tmp_path):
    home = make_home(tmp_path / "home", engine="solo")
    new = Home(tmp_path / "new")
    restored = restore_backup(new, collect_backup(home), signed_through=make_mark_through(9))
    assert [node.awaits_state for node in restored] == [True, False]
    assert new.get_awaits_state_path("node-1").exists() and not (new.node_path("node-1") / "engine").exists()
    # Where the state is still there, nothing has to be waited for.
    (home.node_path("node-1") / "chain.sqlite").write_bytes(b"")
    assert [node.awaits_state for node in restore_backup(home, collect_backup(home))] == [False, False]


KILLED = """
import os, signal, sys
from pathlib import Path
from paceline.node import home
from paceline.node.membership import key_backup
at, steps = int(sys.argv[3]), 0
def step(audited, arguments):
    global steps
    # Whatever changes the folder: files that are opened to be written, renamed or removed.
    writes = audited == "open" and arguments[2] and arguments[2] & (os.O_WRONLY | os.O_RDWR) and sys.argv[1] in str(arguments[0])
    if writes or audited in {"os.rename", "os.mkdir"}:
        steps += 1
        if steps == at:
            os.kill(os.getpid(), signal.SIGKILL)
backup = key_backup.open_backup(Path(sys.argv[2]), "correct horse battery")
sys.addaudithook(step)
key_backup.restore_backup(home.Home(Path(sys.argv[1])), backup)
"""


def test_kill_9_at_every_step_leaves_nothing_that_looks_finished(tmp_path, home, file):
    complete, killed, at = list_files(home.path), 0, 0
    while True:
        at += 3
        target = Home(tmp_path / f"killed-{at}")
        command = [sys.executable, "-c", KILLED, str(target.path), str(file), str(at)]
        done = subprocess.run(command, check=False, timeout=60)
        found = {name: data for name, data in list_files(target.path).items() if not name.endswith((".new", ".raised"))}
        assert {name: data for name, data in found.items() if name in complete and complete[name] != data} == {}
        if target.exists:
            assert set(complete) <= set(found)
        for toml in target.path.glob("nodes/*/node.toml"):
            assert {"key", "consensus-key", "group-key"} <= {path.name for path in toml.parent.iterdir()}
        if "nodes/node-1/consensus-key" in found:
            assert get_mark(target) == MARK
        restore(target.path, file)
        assert collect_backup(target) == collect_backup(home)
        assert not list(target.path.rglob("*.new"))
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        killed += 1
    assert killed >= 7


def test_a_backup_reads_back_as_it_was(home, file):
    opened = open_backup(file, PASSPHRASE)
    assert isinstance(opened, Backup) and opened == collect_backup(home)


def add_accounts(home):
    """A key, a contact and a joint account; the key comes first, because a policy names keys."""
    key = add_key(home, "cold", b"c" * 32)
    add_contact(home, "bob", "ab" * 20, [])
    add_policy(home, "both", make_policy(1, [key.public_key, home.load_key("cold").public_key[::-1]]))


def test_accounts_contacts_and_policies_come_back_with_the_rest(tmp_path, home, monkeypatch):
    monkeypatch.setattr("paceline.node.membership.policies.require_policy", lambda _: None)
    add_accounts(home)
    path = tmp_path / "keys.backup"
    write_backup(path, seal_backup(collect_backup(home), PASSPHRASE, CHEAP))
    new = Home(tmp_path / "new")
    restore(new.path, path)
    restore(new.path, path)
    assert new.load_key("cold") == home.load_key("cold")
    assert load_contacts(new) == load_contacts(home) == {"bob": bytes.fromhex("ab" * 20)}
    assert load_policies(new) == load_policies(home) and list(load_policies(new)) == ["both"]
    files, former = list_files(new.path), list_files(home.path)
    assert {name: files[name] for name in former} == former


def test_a_home_of_accounts_alone_is_backed_up_and_restored(tmp_path):
    home, new = Home(tmp_path / "cold"), Home(tmp_path / "new")
    with pytest.raises(ConfigError, match="nothing to back up"):
        collect_backup(home)
    add_key(home, "cold", b"c" * 32)
    add_contact(home, "bob", "ab" * 20, [])
    backup = collect_backup(home)
    assert (backup.genesis, backup.user, backup.nodes) == (None, None, ())
    assert restore_backup(new, backup) == []
    assert list_files(new.path) == list_files(home.path) and not new.exists
    running = make_home(tmp_path / "network")
    restore_backup(running, backup)
    assert running.load_key("cold") == home.load_key("cold") and running.exists


def test_a_backup_of_a_network_alone_restores_still(tmp_path, home):
    full = collect_backup(home)
    old = NetworkBackup(genesis=full.genesis, user=full.user, token=full.token, nodes=full.nodes)
    path = tmp_path / "old.backup"
    write_backup(path, seal_value(dataclasses.replace(BACKUP, format=1), old, PASSPHRASE, CHEAP))
    assert open_backup(path, PASSPHRASE) == full
    restore(tmp_path / "new", path)
    assert Home(tmp_path / "new").load_key("user") == home.load_key("user")


def test_invalid_one_node_alone_carries_no_accounts_of_others(home):
    add_key(home, "cold", b"c" * 32)
    assert collect_backup(home, "node-1").accounts == AccountBackup()


@pytest.mark.parametrize("kind", ["key", "contact", "name"])
def test_invalid_a_name_that_means_something_else_stops_the_restore(tmp_path, home, kind):
    add_key(home, "cold", b"c" * 32)
    add_contact(home, "bob", "ab" * 20, [])
    backup, new = collect_backup(home), make_home(tmp_path / "other")
    if kind == "key":
        add_key(new, "cold", b"d" * 32)
    elif kind == "contact":
        add_contact(new, "bob", "cd" * 20, [])
    else:
        add_contact(new, "cold", "cd" * 20, [])
    before = list_files(new.path)
    with pytest.raises(ConfigError, match=r"differs from the backup|another contact here|a contact here"):
        restore_backup(new, backup)
    assert list_files(new.path) == before


def test_what_is_there_stays_and_an_address_keeps_its_name(home):
    add_contact(home, "bob", "ab" * 20, [])
    add_contact(home, "eve", "cd" * 20, [])
    backup = collect_backup(home)
    remove_contact(home, "bob")
    remove_contact(home, "eve")
    add_contact(home, "robert", "ab" * 20, [])
    restore_backup(home, backup)
    assert load_contacts(home) == {"robert": bytes.fromhex("ab" * 20), "eve": bytes.fromhex("cd" * 20)}


def test_invalid_folder_of_a_backup_is_not_made(tmp_path, home):
    path = tmp_path / "no" / "such" / "keys.backup"
    with pytest.raises(ConfigError, match="its folder does not exist"):
        write_backup(path, seal_backup(collect_backup(home), PASSPHRASE, CHEAP))
    assert not (tmp_path / "no").exists()
