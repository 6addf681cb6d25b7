"""Attacks on the bridge: headers invented by a minority, deposits shown twice or made up, votes that fill the state.

Power: below a third of voting power nobody keeps a header from being attested or makes one up; at two thirds exactly a header is
not made yet. A claim that is not under an attested root is refused whatever it contains.
"""

from __future__ import annotations

import msgspec
import pytest
from bridge_setup import BRIDGED, CHAIN, BridgeDesk, OtherChain, make_chain, make_log, make_receipt

from paceline.base.errors import Invalid
from paceline.ledger import asset, bridge
from paceline.protocol.bridge import AttestHeader

THIEF = b"\x66" * 20
LOOT = 10**12


@pytest.fixture(scope="module")
def chain():
    return make_chain()


@pytest.fixture
def desk(chain):
    return BridgeDesk(chain)


def get_loot(desk):
    return asset.get_dollars(desk.state, THIEF)


def test_a_made_up_block_of_up_to_two_thirds_credits_nothing(desk, chain, monkeypatch):
    forged = OtherChain(make_receipt(make_log(THIEF, LOOT)))
    desk.attest(forged, voters=(0, 1, 2))
    assert desk.do(chain.user, forged.claim()) == "unknown-header" and get_loot(desk) == 0
    # Neither do they keep the true one from being attested: one of them is needed, and its last word counts.
    true = OtherChain(make_receipt(make_log(b"h" * 20, 1)))
    desk.attest(true, voters=(3, 4, 0, 1))
    assert desk.do(chain.user, forged.claim()) == "bad-proof"
    assert desk.do(chain.user, true.claim()) == "ok"

    # The defence off: three of five nodes are a majority, and rob it.
    def count_twice(state, number, header):
        return 2 * count(state, number, header)

    count = bridge._count_power
    monkeypatch.setattr(bridge, "_count_power", count_twice)
    robbed = BridgeDesk(chain)
    robbed.attest(forged, voters=(0, 1))
    assert robbed.do(chain.user, forged.claim()) == "ok" and get_loot(robbed) == LOOT


def test_a_true_block_does_not_prove_a_made_up_receipt(desk, chain, monkeypatch):
    true = desk.settle(make_receipt(make_log(b"h" * 20, 1)))
    forged = OtherChain(make_receipt(make_log(THIEF, LOOT)))
    assert desk.do(chain.user, forged.claim()) == "bad-proof"
    # The event of the attacker's own contract, under a true header.
    own = desk.settle(make_receipt(make_log(THIEF, LOOT, address=THIEF)), number=8)
    assert desk.do(chain.user, own.claim()) == "no-deposit"
    assert get_loot(desk) == 0 and true.number == 7
    # The defence off: whatever the last node of a path holds is believed.
    monkeypatch.setattr(bridge, "get_proven", lambda _root, _key, _proof: make_receipt(make_log(THIEF, LOOT)))
    assert desk.do(chain.user, forged.claim()) == "ok" and get_loot(desk) == LOOT


def test_a_deposit_is_credited_once_whatever_it_is_wrapped_in(desk, chain, monkeypatch):
    block = desk.settle(make_receipt(make_log(THIEF, 100)))
    assert desk.do(chain.user, block.claim()) == "ok"
    good = block.claim()
    tries = [good, msgspec.structs.replace(good, proof=(*good.proof, good.proof[-1]))]
    assert [desk.do(key, message) for key in (chain.user,) for message in tries] == ["already-claimed"] * 2
    # Another header of that number never stands, so the deposit has no second place.
    assert desk.do(chain.keys[4], block.attest(block_hash=bytes(32))) == "already-attested"
    assert get_loot(desk) == 100
    # The defence off: again and again.
    monkeypatch.setattr(bridge.CLAIMED, "get", lambda *_: None)
    assert [desk.do(chain.user, good) for _ in range(3)] == ["ok"] * 3
    assert get_loot(desk) == 400


def test_one_node_fills_the_state_with_no_more_votes_than_it_may(desk, chain):
    params = BRIDGED
    for number in range(200):
        message = AttestHeader(CHAIN, number, bytes(32), bytes(32))
        bridge.apply_attestation(desk.state, params, chain.keys[0].address, message)
    assert len(bridge.VOTES.items(desk.state)) == params.bridge.open_votes
    # It does not push out what others said.
    block = OtherChain(make_receipt(make_log(THIEF, 1)), number=500)
    desk.attest(block, voters=(1, 2, 3))
    for number in range(200):
        message = AttestHeader(CHAIN, 1_000 + number, bytes(32), bytes(32))
        bridge.apply_attestation(desk.state, params, chain.keys[0].address, message)
    desk.attest(block, voters=(4,))
    assert desk.do(chain.user, block.claim()) == "ok"


def test_the_largest_claim_costs_no_more_than_reading_it(desk, chain):
    """Nested or endless lists in a path end in a refusal, not in a crash or a hang."""
    deep = b"\xc0"
    while len(deep) < 60_000:
        size = len(deep).to_bytes(3, "big").lstrip(b"\0")
        deep = (bytes([0xC0 + len(deep)]) if len(deep) < 56 else bytes([0xF7 + len(size)]) + size) + deep
    wide = b"\xf9\xe0\x00" + b"\x80" * 0xE000
    for data in (deep, wide, b"\x80" * 60_000):
        block = desk.settle(make_receipt(make_log(THIEF, 1)), number=len(bridge.HEADERS.items(desk.state)))
        claim = msgspec.structs.replace(block.claim(), proof=(data, data, data))
        assert desk.do(chain.user, claim) == "bad-proof"
        with pytest.raises(Invalid):
            bridge._find_log(data, 0)
