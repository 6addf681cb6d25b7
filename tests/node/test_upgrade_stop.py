"""A node whose software lacks an upgrade serves a moment longer and ends; the supervisor lets it."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace

import msgspec
import pytest
from role_setup import GENESIS, KEYS

from paceline.base.errors import UpgradeNeeded
from paceline.engine.solo import Replica, Sequencer
from paceline.ledger import upgrades
from paceline.ledger.application import Application
from paceline.node import supervisor
from paceline.node.chains import chain as chain_module
from paceline.node.chains.chain import sign_unordered
from paceline.node.chains.solo import SoloChain
from paceline.node.exits import UPGRADE_CODE
from paceline.node.home import NewHome, create_home
from paceline.node.supervisor import Listen, Supervisor
from paceline.protocol.genesis import compute_chain_id
from paceline.protocol.messages import PlanUpgrade
from paceline.store.state import MemoryStateStore

LINGER_SECONDS = 0.2
SHORT = msgspec.structs.replace(GENESIS, params=msgspec.structs.replace(GENESIS.params, duty_window_blocks=4))
CHAIN_ID = compute_chain_id(SHORT)
SETTINGS = SimpleNamespace(
    name="node-1", sequencer="node-1", block_seconds=0.01, idle_seconds=0.02, rendezvous_seconds=0.0
)
LAST_WORDS = "paceline: upgrade v2 begins at height 9 and this software does not know it"
ENDS = f"#!/bin/sh\necho '{LAST_WORDS}' >&2\nexit {UPGRADE_CODE}\n"


def do_nothing(_state):
    """Rules that change no state."""


def make_pair(sequencer_handlers=None, handlers=None):
    """A sequencer and a follower that reads from it without a socket."""
    store, own = MemoryStateStore(), MemoryStateStore()
    first = Sequencer(Application(SHORT, store, sequencer_handlers), store, KEYS[0])
    nobody = SimpleNamespace(knows=lambda _: False, fetched_bytes=0, all=list)
    orders = SoloChain(SETTINGS, first, KEYS[0], nobody)

    async def request_many(_name, _kind, body):
        return await orders.serve_blocks(KEYS[1].address, body)

    peers = SimpleNamespace(knows=lambda _: False, fetched_bytes=0, all=list, request_many=request_many)
    follows = SoloChain(SETTINGS, Replica(Application(SHORT, own, handlers), own), KEYS[1], peers)
    return orders, follows


async def agree(chain, ahead=10):
    """Four of five equal nodes vote; returns the height."""
    height = chain.height + ahead
    for key in KEYS[:4]:
        await chain.accept_transaction(sign_unordered(PlanUpgrade("v2", height), key, CHAIN_ID, height))
    return height


@pytest.fixture(autouse=True)
def short_linger(monkeypatch):
    monkeypatch.setattr(chain_module, "LINGER_SECONDS", LINGER_SECONDS)


async def run_until_ends(*chains):
    """What each chain's runner raised, None for one that still ran when the last was given up."""
    runners = [asyncio.create_task(chain.run()) for chain in chains]
    await asyncio.wait(runners, timeout=5)
    for runner in runners:
        runner.cancel()
    return [None if isinstance(found, asyncio.CancelledError) else found for found in await _gather(runners)]


async def _gather(runners):
    return await asyncio.gather(*runners, return_exceptions=True)


def test_sequencer_and_follower_end_before_the_height():
    async def run():
        orders, follows = make_pair()
        orders.replica.produce_block(0)
        height = await agree(orders)
        return height, await run_until_ends(orders, follows), (orders.height, follows.height)

    height, ends, heights = asyncio.run(run())
    assert [type(end) for end in ends] == [UpgradeNeeded, UpgradeNeeded]
    assert heights == (height - 1, height - 1)


def test_with_the_handler_both_go_on():
    async def run():
        orders, follows = make_pair({"v2": do_nothing}, {"v2": do_nothing})
        orders.replica.produce_block(0)
        height = await agree(orders)
        runners = [asyncio.create_task(chain.run()) for chain in (orders, follows)]
        assert await follows.wait_height(height + 2, 10)
        for runner in runners:
            runner.cancel()
        await _gather(runners)
        return height, upgrades.get_done_height(follows.read(), "v2")

    height, done = asyncio.run(run())
    assert done == height


def test_the_last_block_is_still_handed_out_while_it_lingers(monkeypatch):
    monkeypatch.setattr(chain_module, "LINGER_SECONDS", 60.0)

    async def run():
        orders, follows = make_pair()
        orders.replica.produce_block(0)
        height = await agree(orders)
        runners = [asyncio.create_task(chain.run()) for chain in (orders, follows)]
        found = await follows.wait_height(height - 1, 10)
        assert not any(runner.done() for runner in runners)
        for runner in runners:
            runner.cancel()
        await _gather(runners)
        return found

    assert asyncio.run(run())


def test_a_restart_without_the_handler_ends_at_once(monkeypatch):
    monkeypatch.setattr(chain_module, "LINGER_SECONDS", 60.0)

    async def run():
        orders, _ = make_pair({"v2": do_nothing})
        orders.replica.produce_block(0)
        height = await agree(orders)
        while orders.height < height - 1:
            orders.replica.produce_block(0)
        store = orders.application._store
        again = Sequencer(Application(SHORT, store), store, KEYS[0])
        with pytest.raises(UpgradeNeeded, match=f"v2 begins at height {height}"):
            await SoloChain(SETTINGS, again, KEYS[0], orders._peers).run()

    asyncio.run(run())


@pytest.fixture
def home(tmp_path):
    return create_home(tmp_path / "home", NewHome(nodes=2, seed=1))


def use(monkeypatch, tmp_path, script):
    path = tmp_path / "stand-in"
    path.write_text(script)
    path.chmod(0o755)
    monkeypatch.setattr(supervisor.sys, "executable", str(path))


def test_the_supervisor_tells_and_does_not_restart(home, monkeypatch, tmp_path):
    use(monkeypatch, tmp_path, ENDS)
    monkeypatch.setattr(Supervisor, "_wait_ready", lambda _: None)
    told = []
    with Supervisor(home, Listen(port=0)) as running, pytest.raises(UpgradeNeeded, match="v2 begins at height 9"):
        running.watch(lambda: False, lambda name, what: told.append((name, what)))
    assert sorted(told) == [(name, f"stopped: {LAST_WORDS.removeprefix('paceline: ')}") for name in home.node_names()]
    assert all((home.node_path(name) / "node.log").read_text().count("v2") == 1 for name in home.node_names())
    assert home.load_running() is None


def test_one_that_stopped_does_not_end_the_others(home, monkeypatch, tmp_path):
    use(monkeypatch, tmp_path, f'#!/bin/sh\ncase "$*" in *node-2*) {ENDS[10:]};; esac\nexec cat >/dev/null\n')
    monkeypatch.setattr(Supervisor, "_wait_ready", lambda _: None)
    told = []
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(Supervisor(home, Listen(port=0)))
        running.watch(lambda: bool(told), lambda name, what: told.append(name))
        assert told == ["node-2"]
        assert list(running.get_pids()) == ["node-1"]
        assert running.find_dead() == []


def test_invalid_software_at_the_start_is_named(home, monkeypatch, tmp_path):
    use(monkeypatch, tmp_path, ENDS)
    with pytest.raises(UpgradeNeeded, match=r"^upgrade v2 begins at height 9"):
        Supervisor(home, Listen(port=0)).__enter__()
    assert home.load_running() is None
