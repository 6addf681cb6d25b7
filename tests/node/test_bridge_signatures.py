"""What nodes with an attester's key sign, for whom, and what becomes of nodes that do not answer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from bridge_role_setup import PARAMS
from eth_hash.auto import keccak
from role_setup import KEYS, make_context, make_state

from paceline.base.errors import Invalid, InvalidTransaction, TransportError
from paceline.ledger.bridge import WITHDRAWALS, Withdrawal, compute_withdrawal_digest
from paceline.node.bridge import signatures
from paceline.node.bridge.keys import make_evm_key
from paceline.node.bridge.signatures import Attester, SignatureRequest, SignedWithdrawal
from paceline.node.bridge.status import add_node, build_bridge_status, list_withdrawals
from paceline.protocol.codec import decode, encode
from paceline.protocol.params import TINY

BURNT = Withdrawal(b"\x0b" * 20, 7, 3)


class FakePeers:
    """Nodes by name; each answers as a test says."""

    def __init__(self, answers):
        self.answers = answers

    def all(self):
        return [SimpleNamespace(name=name) for name in ("node", *self.answers)]

    async def request(self, name, path, body):
        assert path == signatures.PATH
        return await self.answers[name](body)


@pytest.fixture
def state():
    made = make_state()
    WITHDRAWALS.put(made, bytes(8), BURNT)
    return made


@pytest.fixture
def key(tmp_path):
    return make_evm_key(tmp_path / "key")


def make_attester(state, folder, key, peers=None, params=PARAMS):
    context = make_context(state, KEYS[0], folder, params=params, peers=FakePeers(peers or {}))
    return Attester(context, key)


def ask(attester, number=0):
    return decode(SignedWithdrawal, attester.answer(encode(SignatureRequest(number))), limit_bytes=256)


def test_a_withdrawal_on_the_ledger_is_signed_as_wallets_sign(state, tmp_path, key):
    signed = ask(make_attester(state, tmp_path, key))
    digest = compute_withdrawal_digest(PARAMS.bridge, 0, BURNT)
    assert signed == SignedWithdrawal(key.address, key.sign_message(digest))
    raw = key.sign_hash(keccak(b"\x19Ethereum Signed Message:\n32" + digest))
    assert signed.signature == raw[:64] + bytes([27 + raw[64]])


def test_invalid_questions_are_signed_by_nobody(state, tmp_path, key):
    for attester, body, code in (
        (make_attester(state, tmp_path, key), encode(SignatureRequest(1)), "unknown-withdrawal"),
        (make_attester(state, tmp_path, key), encode(SignatureRequest(-1)), "malformed"),
        (make_attester(state, tmp_path, key), bytes(257), "too-large"),
        (make_attester(state, tmp_path, None), encode(SignatureRequest(0)), "no-attester"),
        (make_attester(state, tmp_path, key, params=TINY), encode(SignatureRequest(0)), "no-bridge"),
    ):
        with pytest.raises(Invalid) as caught:
            attester.answer(body)
        assert caught.value.code == code


def test_nodes_that_fail_are_named_and_do_not_hold_up_the_others(state, tmp_path, key, monkeypatch):
    other = make_attester(state, tmp_path / "other", key)

    async def good(body):
        return other.answer(body)

    async def dead(_):
        raise TransportError("gone")

    async def refusing(_):
        raise InvalidTransaction("no-attester", "none here")

    async def silent(_):
        await asyncio.sleep(60)

    async def rubbish(_):
        return b"\xff" * 300

    monkeypatch.setattr(signatures, "ASK_SECONDS", 0.1)
    peers = {"good": good, "dead": dead, "refusing": refusing, "silent": silent, "rubbish": rubbish}
    found = asyncio.run(make_attester(state, tmp_path, None, peers).collect(0))
    assert (found.number, found.to, found.amount) == (0, "0x" + "0b" * 20, 7)
    told = {answer.node: answer.trouble for answer in found.answers}
    assert told["good"] == "" and "no-attester" in told["node"] and told["silent"] == "no answer in time"
    assert "gone" in told["dead"] and "none here" in told["refusing"] and "too-large" in told["rubbish"]
    assert next(answer for answer in found.answers if answer.node == "good").attester == "0x" + key.address.hex()
    with pytest.raises(InvalidTransaction, match="unknown-withdrawal"):
        asyncio.run(make_attester(state, tmp_path, None, peers).collect(1))


def test_status_shows_the_newest_withdrawals(state):
    bridge = PARAMS.bridge
    assert list_withdrawals(state, 0, 1)[0].amount == 7
    found = add_node(build_bridge_status(state, bridge, KEYS[0].address, KEYS[0].address), None, b"")
    assert (found.withdrawals, found.watch, found.attester, found.open_votes) == (0, None, "", [])
    with pytest.raises(InvalidTransaction, match="no-bridge"):
        build_bridge_status(state, TINY.bridge, b"", b"")
