"""Lying servers of the other chain: what one can make an honest node attest, and what several can.

Power: under the hash of a block that exists no server makes a node attest a deposit that is not in it. A server that is asked
alone can hide blocks, and can make up a whole block with its own hash; a second server that does not lie along stops that.
"""

from __future__ import annotations

import copy

import pytest
from bridge_role_setup import TO, Reader
from other_chain import CHAIN, OtherChain, Server, hash_header, make_log, make_receipt, show, unhex

from paceline.node.bridge import blocks, watcher
from paceline.protocol.bridge import AttestHeader

THIEF = b"\x66" * 20
LOOT = 10**12


def expect(chain, number):
    return AttestHeader(CHAIN, number, *chain.get_header(number))


@pytest.fixture
def reader(tmp_path):
    return Reader(tmp_path)


def tell_loot(number):
    """Lies about one block: its receipts hold another deposit than they do."""

    def lie(params, found):
        if int(params[0], 16) != number:
            return found
        forged = copy.deepcopy(found)
        forged[-1]["logs"] = [make_log(THIEF, LOOT)]
        return forged

    return lie


def test_a_made_up_deposit_under_a_real_hash_is_not_attested(reader, monkeypatch):
    number = reader.chain.deposit(TO, 1)
    reader.servers[0].lies["eth_getBlockReceipts"] = tell_loot(number)
    assert reader.act() == [] and "do not hash to the root" in reader.role.trouble

    # With the root of the made-up receipts in the header, the header is not that of the hash.
    forged = OtherChain()
    forged.add(make_receipt(make_log(THIEF, LOOT)))
    root = forged.blocks[1]["receiptsRoot"]

    def swap(params, found):
        return {**found, "receiptsRoot": root} if found["number"] == hex(number) else found

    reader.servers[0].lies["eth_getBlockReceipts"] = lambda *_: forged.receipts[1]
    reader.servers[0].lies["eth_getBlockByNumber"] = swap
    reader.start()
    assert reader.act() == [] and "does not hash to the block's hash" in reader.role.trouble

    # The defence off: a header is what the server calls it, and the node attests the thief's root under the real hash.
    def believe(_host, block, _number=None):
        return unhex(block.hash)

    monkeypatch.setattr(blocks, "check_header", believe)
    monkeypatch.setattr(watcher, "check_header", believe)
    assert reader.act() == [AttestHeader(CHAIN, number, reader.chain.get_header(number)[0], unhex(root))]


def test_a_log_in_no_receipt_is_not_attested(reader):
    """The server tells an event where the block has none, or one of another contract, or of a failed transaction."""
    empty = reader.chain.add(make_receipt())
    other = reader.chain.add(make_receipt(make_log(THIEF, LOOT, contract=THIEF)))
    failed = reader.chain.add(make_receipt(make_log(THIEF, LOOT), status=0))
    reader.chain.add()
    told = [{**make_log(THIEF, LOOT), "blockNumber": hex(number)} for number in (empty, other, failed)]
    reader.servers[0].lies["eth_getLogs"] = lambda *_: told
    assert reader.act() == [] and reader.pending() == []


def test_a_block_that_is_not_final_is_not_attested_whatever_is_told_of_events(reader):
    number = reader.chain.add(make_receipt(make_log(THIEF, LOOT)))
    reader.servers[0].lies["eth_getLogs"] = lambda *_: [{**make_log(THIEF, LOOT), "blockNumber": hex(number)}]
    assert reader.act() == [] and "events outside" in reader.role.trouble


def test_a_final_block_that_changes_silences_the_node(reader):
    """A server that showed one chain and shows another: what waits is not attested either until somebody looks."""
    reader.act()
    reader.servers[0].chain = OtherChain(mark=b"forged")
    for _ in range(3):
        reader.servers[0].chain.deposit(THIEF, LOOT)
    assert reader.act() == [] and reader.pending() == []
    assert "has another hash" in reader.role.trouble or "was final before" in reader.role.trouble
    reader.start()
    assert reader.act() == [], "a restart forgets nothing"


def test_one_server_alone_can_make_up_a_block_and_a_second_one_stops_it(tmp_path):
    forged = OtherChain(mark=b"forged")
    number = forged.deposit(THIEF, LOOT)
    fooled = Reader(tmp_path / "fooled", chain=forged)
    assert fooled.act() == [expect(forged, number)], "no hash tells whether a block is of the chain"

    careful = Reader(tmp_path / "careful", chain=forged, servers=2)
    honest = OtherChain()
    honest.deposit(TO, 1)
    careful.servers[1] = Server(honest)
    careful.start()
    assert careful.act() == [] and "several hashes" in careful.role.trouble
    # Neither may one of them call final what the other does not.
    honest_reader = Reader(tmp_path / "early", chain=honest, servers=2)
    early = honest.add(make_receipt(make_log(TO, 2)))
    lie = honest.blocks[early]
    honest_reader.servers[0].lies["eth_getBlockByNumber"] = lambda params, found: (
        lie if params[0] == "finalized" else found
    )
    assert [message.number for message in honest_reader.act()] == [1]


def test_a_server_that_hides_an_event_is_made_up_for_by_another(tmp_path):
    reader = Reader(tmp_path, servers=2)
    number = reader.chain.deposit(TO, 1)
    reader.servers[0].lies["eth_getLogs"] = lambda *_: []
    assert reader.act() == [expect(reader.chain, number)]
    # Alone it hides the block, and the node says nothing of it: the others attest it.
    alone = Reader(tmp_path / "alone", chain=reader.chain)
    alone.servers[0].lies["eth_getLogs"] = lambda *_: []
    assert alone.act() == []


def test_numbers_beyond_the_ledger_s_do_not_stop_the_node(reader):
    huge = {**reader.chain.blocks[0], "number": hex(2**60)}
    huge["hash"] = show(hash_header(huge))
    reader.servers[0].lies["eth_getBlockByNumber"] = lambda *_: huge
    assert reader.act() == [] and "gives 1152921504606846976" in reader.role.trouble
