"""The role that attests headers: what it says of which blocks, what it does after restarts and failures, and when it is silent."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from bridge_role_setup import ME, PARAMS, TO, Reader
from other_chain import CHAIN, CONTRACT, OtherChain, make_log, make_receipt, refuse
from role_setup import KEYS

from paceline.base.errors import InvalidTransaction, TransportError
from paceline.ledger import bridge, nodes
from paceline.node.bridge import rpc, watcher
from paceline.protocol.bridge import AttestHeader

OTHERS = [key for key in KEYS if key is not ME]


@pytest.fixture
def reader(tmp_path):
    return Reader(tmp_path)


def expect(chain, number):
    return AttestHeader(CHAIN, number, *chain.get_header(number))


def test_a_final_block_with_a_deposit_is_attested_once(reader):
    number = reader.chain.deposit(TO, 5)
    assert reader.act() == [expect(reader.chain, number)]
    assert reader.act() == reader.act() == []
    assert reader.pending() == [number], "it waits for the others"
    reader.attest_by(OTHERS[:3], expect(reader.chain, number))
    assert reader.act() == [] == reader.pending()
    assert bridge.HEADERS.get(reader.state, number.to_bytes(8, "big")) is not None


def test_blocks_without_deposits_are_not_attested(reader):
    reader.chain.add(make_receipt())
    reader.chain.add(make_receipt(make_log(TO, 1, contract=b"x" * 20)))
    reader.chain.add(make_receipt(make_log(TO, 1), status=0))
    reader.chain.add()
    assert reader.act() == [] and reader.role.watcher.progress.next == reader.chain.final + 1


def test_a_block_is_attested_no_sooner_than_it_is_final(reader):
    number = reader.chain.add(make_receipt(make_log(TO, 5)))
    assert reader.act() == []
    reader.chain.add()
    assert reader.act() == [expect(reader.chain, number)]


def test_a_block_that_was_turned_back_before_it_was_final_is_never_attested(tmp_path):
    reader = Reader(tmp_path, chain=OtherChain(not_final=3))
    gone = reader.chain.add(make_receipt(make_log(TO, 5)))
    assert reader.act() == []
    reader.chain.blocks[gone:], reader.chain.receipts[gone:] = [], []
    reader.chain.mark = b"other branch"
    stays = reader.chain.deposit(TO, 6)
    assert reader.act() == [expect(reader.chain, stays)] and gone == stays


def test_it_goes_on_where_it_stopped(reader):
    first = reader.chain.deposit(TO, 1)
    assert [message.number for message in reader.act()] == [first]
    reader.start()
    reader.servers[0].asked.clear()
    assert reader.act() == [] and "eth_getBlockReceipts" not in reader.servers[0].asked
    second = reader.chain.deposit(TO, 2)
    reader.start()
    assert [message.number for message in reader.act()] == [second]


def test_after_a_restart_it_says_again_what_the_ledger_has_lost(reader):
    number = reader.chain.deposit(TO, 1)
    reader.act()
    bridge.VOTES.delete(reader.state, number.to_bytes(8, "big") + ME.address)
    bridge.OPEN.delete(reader.state, ME.address)
    reader.start()
    assert reader.act() == [expect(reader.chain, number)]


@pytest.mark.parametrize("damaged", [b"", b"no json", b"{}", b'{"chain":31337,"contract":"","next":7}'])
def test_damaged_memory_means_reading_again(reader, damaged):
    number = reader.chain.deposit(TO, 1)
    reader.act()
    (reader.context.work_path / "bridge.json").write_bytes(damaged)
    reader.start()
    assert reader.act() == [], "its vote stands already"
    assert reader.pending() == [number]


def test_open_votes_are_never_pushed_out_by_newer_ones(reader):
    numbers = [reader.chain.deposit(TO, amount) for amount in range(1, 7)]
    assert [message.number for message in reader.act()] == numbers[:3]
    assert reader.act() == []
    reader.attest_by(OTHERS[:3], expect(reader.chain, numbers[0]))
    assert [message.number for message in (*reader.act(), *reader.act())] == [numbers[3]]
    assert bridge.OPEN.get(reader.state, ME.address) == (*numbers[1:4],)


def test_a_node_without_power_asks_nobody(reader):
    reader.chain.deposit(TO, 1)
    nodes.update_node(reader.state, ME.address, voting_power=0)
    assert reader.act() == [] == reader.servers[0].asked


def test_who_was_quicker_is_no_trouble(reader):
    reader.chain.deposit(TO, 1)
    reader.context.chain.refusals = [InvalidTransaction("already-attested", "enough")]
    reader.act()
    reader.context.chain.refusals = [InvalidTransaction("duty-limit", "later")]
    reader.chain.deposit(TO, 2)
    reader.role.on_block(reader.state)
    reader.context.duties.run_all()
    reader.role.on_block(reader.state)
    with pytest.raises(InvalidTransaction):
        reader.context.duties.run_all()


def test_another_header_that_stands_is_told_and_left(reader, caplog):
    number = reader.chain.deposit(TO, 1)
    reader.act()
    other = AttestHeader(CHAIN, number, bytes(32), bytes(32))
    reader.attest_by([*OTHERS], other)
    assert reader.act() == [] == reader.pending()
    assert "as another than this node saw" in caplog.text


def test_servers_that_refuse_much_are_asked_for_less(reader):
    for _ in range(40):
        reader.chain.add()
    number = reader.chain.deposit(TO, 1)

    def limit(params, found):
        span = int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) + 1
        return found if span <= 8 else refuse()

    reader.servers[0].lies["eth_getLogs"] = limit
    assert [message.number for message in reader.act()] == [number]
    reader.servers[0].lies["eth_getLogs"] = lambda *_: refuse()
    reader.chain.deposit(TO, 1)
    assert reader.act() == [] and "too many results" in reader.role.trouble


def test_blocks_that_stand_already_are_passed_over(reader):
    number = reader.chain.deposit(TO, 1)
    reader.attest_by(OTHERS, expect(reader.chain, number))
    assert reader.act() == [] == reader.pending()
    assert "eth_getBlockReceipts" not in reader.servers[0].asked
    assert reader.role.watcher.progress.next == reader.chain.final + 1


def test_a_long_chain_is_caught_up_with_without_pauses(tmp_path, monkeypatch):
    monkeypatch.setattr(watcher, "MAX_SPAN_BLOCKS", 2)
    reader = Reader(tmp_path, poll_seconds=100.0)
    for _ in range(150):
        reader.chain.add()
    number = reader.chain.deposit(TO, 1)
    reader.role.watcher._span = 2
    told = [message.number for _ in range(6) for message in reader.act()]
    assert told == [number]


def test_an_answer_that_drips_is_given_up(reader, monkeypatch):
    async def drip():
        while True:
            yield b" "
            await asyncio.sleep(0.01)

    async def answer(_):
        return httpx.Response(200, content=drip())

    monkeypatch.setattr(rpc, "WHOLE_SECONDS", 0.1)
    server = rpc.EvmRpc("http://server", transport=httpx.MockTransport(answer))
    with pytest.raises(TransportError, match="does not answer: TimeoutError"):
        asyncio.run(server.get_block(1))


def fail(kind):
    def lie(*_):
        return kind

    return lie


@pytest.mark.parametrize(
    ("method", "lie", "said"),
    [
        ("eth_chainId", fail("0x1"), "chain 1, the bridge leads to chain 31337"),
        ("eth_chainId", fail(httpx.ConnectError("dead")), "does not answer: ConnectError"),
        ("eth_chainId", fail(httpx.ReadTimeout("slow")), "does not answer: ReadTimeout"),
        ("eth_chainId", fail(httpx.Response(502)), "status 502"),
        ("eth_chainId", fail(httpx.Response(200, content=b"<html>")), "in no known form"),
        ("eth_chainId", fail(httpx.Response(200, content=b"[" * 100_000)), "in no known form"),
        ("eth_chainId", fail(httpx.Response(200, content=b"0" * (2**20 + 1))), "more than 1048576 bytes"),
        ("eth_chainId", fail(17), "in no known form"),
        ("eth_getBlockByNumber", fail(None), "knows no block"),
        ("eth_getBlockByNumber", fail({"number": "0x1"}), "in no known form"),
        ("eth_getBlockReceipts", fail(None), "knows no receipts"),
        ("eth_getBlockReceipts", fail([]), "do not hash to the root"),
        ("eth_getLogs", fail([{"address": "0x" + "c0" * 20, "topics": [], "data": "0x"}]), "events outside of blocks"),
    ],
)
def test_invalid_answers_attest_nothing_and_wait_longer_each_time(tmp_path, method, lie, said):
    reader = Reader(tmp_path, poll_seconds=100.0)
    number = reader.chain.deposit(TO, 1)
    reader.servers[0].lies[method] = lie
    waits = []
    for _ in range(4):
        reader.role._not_before = 0.0
        assert reader.act() == []
        assert said in reader.role.trouble and "secret" not in reader.role.trouble
        waits.append(reader.role._wait_seconds)
    assert waits == [200.0, 300.0, 300.0, 300.0]
    reader.servers[0].asked.clear()
    assert reader.act() == [] == reader.servers[0].asked, "patience"
    del reader.servers[0].lies[method]
    reader.role._not_before = 0.0
    assert reader.act() == [expect(reader.chain, number)] and reader.role.trouble == ""


def test_what_is_remembered_holds_no_address_of_a_server(reader):
    reader.chain.deposit(TO, 1)
    reader.act()
    kept = json.loads((reader.context.work_path / "bridge.json").read_bytes())
    assert "secret" not in json.dumps(kept) and kept["contract"] == CONTRACT.hex()
    assert kept["chain"] == PARAMS.bridge.chain
    reader.close()
