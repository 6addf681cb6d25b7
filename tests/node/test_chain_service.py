"""Serving blocks: anybody may read along, only nodes of the network are noted."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from role_setup import GENESIS, KEYS, USER

from paceline.base.errors import ConfigError, InvalidTransaction
from paceline.engine.solo import Replica, Sequencer
from paceline.ledger import beacon, groups
from paceline.ledger.admission import signed_bytes
from paceline.ledger.application import Application
from paceline.network.client import Peer, PeerRefused
from paceline.node.ceremony import CeremonyKey
from paceline.node.chains import solo as solo_chain
from paceline.node.chains.chain import is_alive
from paceline.node.chains.solo import BlocksRequest, SoloChain
from paceline.protocol.codec import encode
from paceline.protocol.messages import PostPartials, Transfer
from paceline.protocol.transactions import Transaction, TransactionBody
from paceline.store.state import MemoryStateStore

SETTINGS = SimpleNamespace(name="node-1", sequencer="node-1", block_seconds=0.01, idle_seconds=0.02)
PEERS = SimpleNamespace(knows=lambda address: address in {key.address for key in KEYS}, fetched_bytes=0)


def make_sequencer() -> Sequencer:
    store = MemoryStateStore()
    return Sequencer(Application(GENESIS, store), store, KEYS[0])


def make_chain(replica) -> SoloChain:
    return SoloChain(SETTINGS, replica, KEYS[0], PEERS)


def serve(chain: SoloChain, sender: bytes, first: int) -> list[bytes]:
    return asyncio.run(chain.serve_blocks(sender, encode(BlocksRequest(first, b"", 7))))


@pytest.fixture
def sequencer() -> Sequencer:
    sequencer = make_sequencer()
    for number in range(3):
        sequencer.produce_block(number)
    return sequencer


def test_a_node_is_served_and_noted(sequencer):
    chain = make_chain(sequencer)
    assert len(serve(chain, KEYS[1].address, 2)) == 2
    seen = chain.sightings[KEYS[1].address]
    assert (seen.height, seen.fetched_bytes) == (1, 7)
    assert is_alive(seen)


def test_a_stranger_is_served_and_leaves_no_trace(sequencer):
    chain = make_chain(sequencer)
    assert len(serve(chain, USER.address, 1)) == 3
    assert chain.sightings == {}


@pytest.mark.parametrize("first", [0, -5])
def test_invalid_first_height_names_the_first_one_held(sequencer, first):
    with pytest.raises(InvalidTransaction, match=f"pruned: node-1 holds blocks from height 1 on, not height {first}"):
        serve(make_chain(sequencer), USER.address, first)


def test_boundary_of_pruned_blocks(sequencer):
    sequencer._store.prune(3)
    assert len(serve(make_chain(sequencer), USER.address, 3)) == 1
    with pytest.raises(InvalidTransaction, match="pruned: node-1 holds blocks from height 3 on, not height 2"):
        serve(make_chain(sequencer), USER.address, 2)


class Refusing:
    """A sequencer's door that says no; `request_many` counts."""

    fetched_bytes = 0

    def __init__(self, *codes):
        self.codes = list(codes)

    async def request_many(self, name, path, body):
        assert (name, path) == ("node-1", "blocks")
        raise PeerRefused(
            Peer("http://node-1", KEYS[0].address), 400, self.codes.pop(0), "holds blocks from height 3 on"
        )


def test_a_follower_whose_blocks_are_gone_stops_and_says_so(monkeypatch):
    monkeypatch.setattr(solo_chain, "RETRY_SECONDS", 0.0)
    store = MemoryStateStore()
    peers = Refusing("work-failed", "pruned", "pruned")
    chain = SoloChain(SETTINGS, Replica(Application(GENESIS, store), store), KEYS[0], peers)
    with pytest.raises(ConfigError, match="holds blocks from height 3 on, and this node is at height 0"):
        asyncio.run(chain.run())
    assert peers.codes == ["pruned"]


def test_invalid_request_bytes(sequencer):
    with pytest.raises(InvalidTransaction, match="malformed"):
        asyncio.run(make_chain(sequencer).serve_blocks(USER.address, b"x"))


def test_what_was_sent_comes_back_with_its_height(sequencer):
    chain = make_chain(sequencer)

    async def run():
        runner = asyncio.create_task(chain.run())
        _, included = await chain.send(Transfer(KEYS[1].address, 5), key=USER)
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)
        return included

    included = asyncio.run(run())
    assert included.result.code == "ok"
    assert 4 <= included.height <= chain.height


def test_invalid_transaction_comes_back_with_its_code(sequencer):
    chain = make_chain(sequencer)
    with pytest.raises(InvalidTransaction, match="over-balance"):
        asyncio.run(chain.send(Transfer(KEYS[1].address, 10**17), key=USER))


def test_invalid_transaction_at_a_follower_names_who_orders(sequencer):
    store = MemoryStateStore()
    chain = make_chain(Replica(Application(GENESIS, store), store))
    with pytest.raises(InvalidTransaction, match="not-the-sequencer: node-1"):
        asyncio.run(chain.accept_transaction(b"x"))


def test_a_rush_ends_at_its_height(sequencer):
    chain = make_chain(sequencer)

    async def run() -> None:
        chain.rush_to(40)
        runner = asyncio.create_task(chain.run())
        assert await chain.wait_height(40, 30)
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)

    asyncio.run(run())
    assert chain.height <= 41
    assert [block.height for block in chain.recent][-1] == chain.height


def test_partials_hurry_nobody_and_go_into_the_next_block(sequencer):
    for height in range(3, 6):
        sequencer.produce_block(height)
    chain = make_chain(sequencer)
    state = sequencer.application.read()
    group = groups.get_current(state)
    text = beacon.compute_message(chain.chain_id, beacon.HEIGHT, 1, 1)
    partials = CeremonyKey(KEYS[1].address, KEYS[1].secret).sign(state, group, text)

    async def offer(message, key) -> bool:
        """True when the chain was woken by the message."""
        expires_at = chain.height + 50
        body = encode(TransactionBody(chain_id=chain.chain_id, sequence=None, expires_at=expires_at, message=message))
        await chain.accept_transaction(encode(Transaction(body, key.public_key, key.sign(signed_bytes(body)))))
        return chain._wanted.is_set()

    assert not asyncio.run(offer(PostPartials(beacon.HEIGHT, 1, 1, partials), KEYS[1]))
    assert not sequencer.is_hurried
    assert asyncio.run(offer(Transfer(KEYS[1].address, 5), USER))
    assert sequencer.is_hurried
    _, result = sequencer.produce_block(9)
    assert [found.code for found in result.results] == ["ok", "ok"]
    assert not sequencer.is_hurried


def test_whoever_waits_again_and_again_is_still_ended_when_the_node_stops(sequencer):
    chain = make_chain(sequencer)

    async def wait_for_ever():
        while True:
            await chain.wait_height(chain.height + 1, 30)

    async def run():
        waiting = asyncio.create_task(wait_for_ever())
        await asyncio.sleep(0)
        await chain.stop()
        # Without a pause in the waiting, nothing else would ever run again.
        async with asyncio.timeout(5):
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        return waiting.cancelled()

    assert asyncio.run(run())
