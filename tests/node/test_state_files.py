"""A node's state leaves as one file and comes back as the same state, from which the chain goes on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "ledger"))

from chain_harness import Chain

from paceline.base.errors import ConfigError, InvalidBlock, WorkError
from paceline.base.keys import AccountKey
from paceline.engine.blocks import decode_block, seal_block
from paceline.engine.solo import Replica, Sequencer
from paceline.ledger.application import Application
from paceline.node.chains.engines import build_chain
from paceline.node.chains.state_files import (
    compact_node_state,
    describe_state,
    export_node_state,
    get_store_path,
    import_node_state,
    prune_node_state,
)
from paceline.node.home import Home, NewHome, Running, create_home, write_whole
from paceline.node.membership.key_backup import collect_backup, restore_backup
from paceline.node.settings import COMETBFT, load_settings
from paceline.protocol.codec import decode_own, encode
from paceline.protocol.genesis import Genesis
from paceline.store.snapshots import InvalidSnapshot, export_state, import_state
from paceline.store.state import MemoryStateStore, SqliteStateStore

HISTORY = Path(__file__).parents[1] / "vectors" / "ledger" / "history.bin"


@pytest.fixture
def home(tmp_path) -> Home:
    return create_home(tmp_path / "home", NewHome(nodes=2, seed=3))


def open_replica(home, name):
    store = SqliteStateStore(get_store_path(home, name), durable=False)
    application = Application(home.load_genesis(), store)
    if name == "node-1":
        return store, Sequencer(application, store, home.load_key(name))
    return store, Replica(application, store)


def order(home, count):
    """Blocks of the sequencer; returns their bytes."""
    store, sequencer = open_replica(home, "node-1")
    blocks = [sequencer.produce_block(0)[0] for _ in range(count)]
    store.close()
    return blocks


def follow(home, blocks):
    store, replica = open_replica(home, "node-2")
    hashes = [replica.apply_block(block).app_hash for block in blocks]
    store.close()
    return hashes


@pytest.mark.parametrize("at", [1, 80, 164])
def test_an_imported_state_executes_the_recorded_history_to_the_same_hashes(tmp_path, at):
    genesis, blocks = decode_own(tuple[Genesis, list[tuple[tuple[bytes, ...], bytes]]], HISTORY.read_bytes())

    def play(store, first, last):
        application = Application(genesis, store)
        found = []
        for height in range(first, last + 1):
            found.append(application.finalize_block(height, list(blocks[height - 1][0])).app_hash)
            application.commit(height, b"block")
        return found

    source = MemoryStateStore()
    play(source, 1, at)
    export_state(tmp_path / "state", at, source.app_hash, list(source.iterate(b"")), source.get_block(at))
    target = SqliteStateStore(tmp_path / "s.db", durable=False)
    import_state(tmp_path / "state", target)
    assert (target.height, target.app_hash, target.get_block(at)) == (at, blocks[at - 1][1], b"block")
    assert play(target, at + 1, len(blocks)) == [app_hash for _, app_hash in blocks[at:]]
    assert dict(target.iterate(b"")).keys() and target.first_block_height == at
    target.close()


def test_a_solo_replica_goes_on_from_an_imported_state(home, tmp_path):
    first = order(home, 4)
    exported = export_node_state(home, "node-1", tmp_path / "state")
    imported = import_node_state(home, "node-2", tmp_path / "state")
    assert (imported.height, imported.app_hash, imported.keys) == (4, exported.app_hash, exported.keys)
    assert imported.first_block == 4 and exported.first_block == 1
    later = order(home, 3)
    assert follow(home, later) == [decode_block(block).app_hash for block in later]
    assert describe_state(home, "node-2").app_hash == describe_state(home, "node-1").app_hash
    assert not (home.node_path("node-2") / "import").exists() and len(first) == 4


def test_the_sequencer_itself_comes_back_from_what_a_replica_exports(home, tmp_path):
    follow(home, order(home, 5))
    export_node_state(home, "node-2", tmp_path / "state")
    new = Home(tmp_path / "new")
    restore_backup(new, collect_backup(home, "node-1"))
    assert new.get_awaits_state_path("node-1").exists()
    import_node_state(new, "node-1", tmp_path / "state")
    assert not new.get_awaits_state_path("node-1").exists()
    # The replica that knew the former machine follows the new one.
    assert len(follow(home, order(new, 2))) == 2


def test_invalid_start_of_a_sequencer_that_would_begin_a_second_chain(home):
    def build():
        settings = load_settings(home.node_path("node-1") / "node.toml")
        store = SqliteStateStore(get_store_path(home, "node-1"), durable=False)
        try:
            application = Application(home.load_genesis(), store)
            return build_chain(home, settings, application, store, home.load_key("node-1"), None)
        finally:
            store.close()

    # What begins without the guard, and so what it prevents, is a chain at height 0.
    assert isinstance(build().replica, Sequencer)
    write_whole(home.get_awaits_state_path("node-1"), b"")
    with pytest.raises(ConfigError, match="second chain"):
        build()


def test_a_state_that_came_without_its_block_starts_no_solo_chain(home, tmp_path):
    order(home, 2)
    store = SqliteStateStore(get_store_path(home, "node-1"), durable=False)
    export_state(tmp_path / "state", 2, store.app_hash, list(store.iterate(b"")))
    store.close()
    with pytest.raises(InvalidSnapshot, match="no-block"):
        import_node_state(home, "node-2", tmp_path / "state")
    other = MemoryStateStore()
    import_state(tmp_path / "state", other)
    with pytest.raises(ConfigError, match="without its block"):
        Replica(Application(home.load_genesis(), other), other)


def write_forged(home, path, forge):
    """An export of node-1 whose block was changed by `forge`; its state may lie, too."""
    store = SqliteStateStore(get_store_path(home, "node-1"), durable=False)
    pairs, height = list(store.iterate(b"")), store.height
    block = forge(decode_block(store.get_block(height)))
    export_state(path, height, store.app_hash, pairs, encode(block))
    store.close()


@pytest.mark.parametrize("lie", ["signer", "height", "state", "nonsense", "network"])
def test_invalid_states_are_provably_not_of_this_network(home, tmp_path, lie):
    order(home, 3)
    path = tmp_path / "state"
    chain_id = Application(home.load_genesis(), MemoryStateStore()).chain_id
    if lie == "signer":
        write_forged(home, path, lambda block: seal_block(block, chain_id, AccountKey.from_secret(bytes(32))))
    elif lie == "height":
        old = order(home, 1)
        write_forged(home, path, lambda _: decode_block(old[0]))
        order(home, 1)
        write_forged(home, path, lambda _: decode_block(old[0]))
    elif lie == "network":
        other = create_home(tmp_path / "other", NewHome(nodes=2, seed=4))
        order(other, 3)
        export_node_state(other, "node-1", path)
    else:
        store = SqliteStateStore(get_store_path(home, "node-1"), durable=False)
        rich = MemoryStateStore()
        rich.stage({**dict(store.iterate(b"")), b"more": b"coins"})
        block = b"nonsense" if lie == "nonsense" else store.get_block(3)
        export_state(path, 3, rich.stage({b"more": b"coins"}), [(b"more", b"coins")], block)
        store.close()
    with pytest.raises((InvalidBlock, InvalidSnapshot), match=r"bad-signature|app-hash|malformed"):
        import_node_state(home, "node-2", path)
    assert not get_store_path(home, "node-2").exists()


def test_invalid_imports_leave_an_empty_node_empty(home, tmp_path):
    order(home, 3)
    path = tmp_path / "state"
    export_node_state(home, "node-1", path)
    whole = path.read_bytes()
    for data in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), whole[:100], b"", b"\xff" * 200):
        path.write_bytes(data)
        with pytest.raises(InvalidSnapshot):
            import_node_state(home, "node-2", path)
        assert not (home.node_path("node-2") / "import").exists()
    with pytest.raises(WorkError, match="cannot be read"):
        import_node_state(home, "node-2", tmp_path / "missing")
    path.write_bytes(whole)
    assert import_node_state(home, "node-2", path).height == 3
    with pytest.raises(ConfigError, match="empty node"):
        import_node_state(home, "node-2", path)


def test_exports_overwrite_nothing_and_need_a_state(home, tmp_path):
    with pytest.raises(ConfigError, match="no state yet"):
        export_node_state(home, "node-1", tmp_path / "state")
    store, _ = open_replica(home, "node-1")
    store.close()
    with pytest.raises(ConfigError, match="nothing to export"):
        export_node_state(home, "node-1", tmp_path / "state")
    order(home, 1)
    with pytest.raises(ConfigError, match="cannot be written"):
        export_node_state(home, "node-1", tmp_path / "missing" / "state")
    export_node_state(home, "node-1", tmp_path / "state")
    with pytest.raises(ConfigError, match="overwrites nothing"):
        export_node_state(home, "node-1", tmp_path / "state")


@pytest.mark.parametrize("holder", ["home", "store"])
def test_invalid_use_while_the_node_runs(home, tmp_path, holder):
    order(home, 2)
    export_node_state(home, "node-1", tmp_path / "state")
    follow(home, [])
    held = None
    if holder == "home":
        home.save_running(Running(pid=os.getpid(), web_url="", ports={}))
    else:
        held = [SqliteStateStore(get_store_path(home, name), durable=False) for name in home.node_names()]
    for act in (
        lambda: describe_state(home, "node-1"),
        lambda: export_node_state(home, "node-1", tmp_path / "other"),
        lambda: import_node_state(home, "node-2", tmp_path / "state"),
        lambda: prune_node_state(home, "node-1", 1),
        lambda: compact_node_state(home, "node-1"),
    ):
        with pytest.raises(ConfigError, match=r"runs|in use by another process"):
            act()
    for store in held or ():
        store.close()
    home.save_running(None)
    assert describe_state(home, "node-1").height == 2 and describe_state(home, "node-2").height == 0


def test_pruning_and_compacting_keep_the_state_and_the_last_blocks(home):
    order(home, 40)
    before = describe_state(home, "node-1")
    pruned = prune_node_state(home, "node-1", 10)
    assert (pruned.first_block, pruned.app_hash, pruned.height) == (31, before.app_hash, 40)
    assert prune_node_state(home, "node-1", 100).first_block == 31
    assert prune_node_state(home, "node-1", 1).first_block == 40
    assert compact_node_state(home, "node-1").file_bytes <= before.file_bytes
    order(home, 1)
    assert describe_state(home, "node-1").height == 41


def test_invalid_names_say_what_there_is(home):
    with pytest.raises(ConfigError, match="node-1, node-2"):
        describe_state(home, "node-3")


def test_under_cometbft_a_state_needs_the_blocks_of_its_engine(tmp_path):
    chain = Chain()
    chain.block()
    store = chain.application._store
    export_state(tmp_path / "state", 1, store.app_hash, list(store.iterate(b"")), b"note")
    home = create_home(tmp_path / "home", NewHome(nodes=1, seed=3, engine=COMETBFT))
    with pytest.raises(ConfigError, match="sync_rpc"):
        import_node_state(home, "node-1", tmp_path / "state")
    (home.node_path("node-1") / "engine" / "data" / "blockstore.db").mkdir(parents=True)
    assert import_node_state(home, "node-1", tmp_path / "state").app_hash == store.app_hash.hex()
