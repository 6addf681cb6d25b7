"""The server keeps order, bounds what it reads, refuses what it cannot read, and stops the node on a bug of its own."""

from __future__ import annotations

import asyncio
import stat

import pytest
from chain_harness import Chain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paceline.base.errors import InvalidBlock, TransportError
from paceline.engine.abci.client import AbciClient, make_request
from paceline.engine.abci.framing import encode_frame, encode_length
from paceline.engine.abci.server import MAX_CONNECTIONS
from paceline.protocol import messages as m


def test_replies_come_in_the_order_of_requests(play):
    async def scenario(served):
        client = await AbciClient.connect(served.path)
        asked = [f"message {number}" for number in range(2_000)]
        answers = await client.call_many("echo", [{"message": text} for text in asked])
        assert [answer.message for answer in answers] == asked
        await client.close()

    play(Chain().genesis, scenario)


def test_only_the_owner_may_open_the_socket(play):
    async def scenario(served):
        assert stat.S_IMODE(served.path.stat().st_mode) == 0o600

    play(Chain().genesis, scenario)


def test_a_socket_left_by_a_killed_process_is_replaced(play, tmp_path):
    (tmp_path / "abci.sock").write_bytes(b"left over")

    async def scenario(served):
        client = await AbciClient.connect(served.path)
        assert (await client.call("info")).last_block_height == 0
        await client.close()

    play(Chain().genesis, scenario)


def test_four_connections_see_one_application(play):
    async def scenario(served):
        driver = served.driver()
        await driver.start()
        await driver.run_block()
        assert (await driver.call("query", "info")).last_block_height == 1
        await driver.close()

    play(Chain().genesis, scenario)


def test_invalid_frames_get_an_exception_and_the_connection_ends(play):
    async def scenario(served):
        for data in (encode_length(2**34), b"\xff" * 6, encode_length(3) + b"\x0a\xff\xff", encode_length(0)):
            client = await AbciClient.connect(served.path)
            await client.send_raw(data)
            with pytest.raises(InvalidBlock, match="exception"):
                await client.read()
            await client.close()
        assert not served.server.failure.done(), "a stranger's bytes must not stop the node"

    play(Chain().genesis, scenario)


def test_invalid_number_of_connections_is_refused(play):
    async def scenario(served):
        clients = [await AbciClient.connect(served.path) for _ in range(MAX_CONNECTIONS)]
        for client in clients:
            await client.call("echo", message="here")
        late = await AbciClient.connect(served.path)
        with pytest.raises((InvalidBlock, TransportError)):
            await late.call("echo", message="too many")
        for client in (*clients, late):
            await client.close()

    play(Chain().genesis, scenario)


def test_a_bug_in_the_application_stops_the_node_before_commit(play):
    async def scenario(served):
        client = await AbciClient.connect(served.path)
        with pytest.raises(InvalidBlock, match="wrong-height"):
            await client.call("finalize_block", height=7)
        with pytest.raises(InvalidBlock, match="wrong-height"):
            served.server.failure.result()
        assert served.store.height == 0
        await client.close()

    play(Chain().genesis, scenario)


@pytest.mark.parametrize(
    ("verb", "fields", "code"),
    [
        ("init_chain", {"chain_id": "another-chain", "initial_height": 1}, "wrong-chain"),
        ("init_chain", {"chain_id": Chain().application.chain_id, "initial_height": 5}, "initial-height"),
        ("commit", {}, "nothing-finalized"),
        ("extend_vote", {"height": 1}, "no-extensions"),
        ("verify_vote_extension", {"height": 1}, "no-extensions"),
    ],
)
def test_invalid_orders_of_an_engine_are_refused(play, verb, fields, code):
    async def scenario(served):
        client = await AbciClient.connect(served.path)
        with pytest.raises(InvalidBlock, match=code):
            await client.call(verb, **fields)
        assert served.store.height == 0
        await client.close()

    play(Chain().genesis, scenario)


def test_invalid_queries_are_answered_with_a_code(play):
    async def scenario(served):
        client = await AbciClient.connect(served.path)
        assert (await client.call("query", path="/nothing")).code != 0
        assert (await client.call("query", path="/state", height=9)).code != 0
        assert not served.server.failure.done()
        await client.close()

    play(Chain().genesis, scenario)


def test_a_slow_reader_is_not_read_any_further(play):
    async def scenario(served):
        client = await AbciClient.connect(served.path)
        one = encode_frame(make_request("echo", {"message": "x" * 100_000}))
        # 40 MB that nobody reads: the server must stop reading requests instead of holding all replies.
        sender = asyncio.create_task(client.send_raw(one * 400))
        other = await AbciClient.connect(served.path)
        assert (await other.call("echo", message="still served")).message == "still served"
        await asyncio.wait([sender], timeout=0.3)
        assert not sender.done(), "the server took everything in"
        for _ in range(400):
            await client.read()
        await sender
        await client.close()
        await other.close()

    play(Chain().genesis, scenario)


def test_stopping_is_graceful_and_leaves_no_socket(play):
    async def scenario(served):
        client = await AbciClient.connect(served.path)
        await client.call("echo", message="here")
        await served.stop()
        assert not served.path.exists()
        with pytest.raises(TransportError):
            await client.call("echo", message="anyone?")
        await client.close()

    play(Chain().genesis, scenario)


CHAIN = Chain()
TRANSFER = CHAIN.sign(CHAIN.user, m.Transfer(CHAIN.keys[0].address, 5))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, len(TRANSFER) - 1), flip=st.integers(1, 255), cut=st.integers(0, 40))
def test_a_damaged_transaction_is_refused_with_a_code_and_leaves_the_state(play, at, flip, cut):
    damaged = bytearray(TRANSFER)
    damaged[at] ^= flip
    data = bytes(damaged[: len(damaged) - cut])

    async def scenario(served):
        driver = served.driver()
        await driver.start()
        before = served.application.info()
        (code,) = await driver.check([data])
        assert code not in {"", "ok"}
        assert await driver.propose([data, TRANSFER]) == [TRANSFER]
        assert not await driver.judge([data])
        assert served.application.info() == before and not served.server.failure.done()
        await driver.close()

    play(CHAIN.genesis, scenario)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=600))
def test_random_bytes_on_the_socket_never_reach_the_state(play, data):
    async def scenario(served):
        client = await AbciClient.connect(served.path)
        try:
            await client.send_raw(data)
            client._writer.write_eof()
            while True:
                await client.read()
        except (InvalidBlock, TransportError):
            pass
        await client.close()
        assert served.store.height == 0

    play(CHAIN.genesis, scenario)
