"""Users' receipts over a real chain: blocks of the sequencer, a session drawn by a signed beacon value, forged beacons refused."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import msgspec
import pytest
from chain_harness import MODEL, Chain

from paceline.base.errors import InvalidClaim
from paceline.base.hashing import hash_blob
from paceline.ledger.sessions import SESSIONS, compute_task_id
from paceline.ledger.state import State
from paceline.ledger.tasks import TASKS
from paceline.network.sealing import unseal
from paceline.network.wire import PeerRequest
from paceline.node.answers import receipts
from paceline.node.answers.payloads import PATH, PayloadReply, PayloadRequest, PayloadVault, derive_salt, hand_out
from paceline.node.answers.receipt_check import _verify_draw, verify_receipt
from paceline.node.answers.receipt_facts import ProvenValues, read_facts
from paceline.node.answers.receipts import ReceiptMaker
from paceline.protocol import messages as m
from paceline.protocol.answers import AnswerRequest, ChatPrompt, Payload, Turn, derive_sampler_seed
from paceline.protocol.codec import decode_own, encode
from paceline.protocol.transcripts import (
    TRANSCRIPT_VERSION,
    GenerationRequest,
    SamplerSpec,
    Transcript,
    compute_text_hash,
    encode_transcript,
)
from paceline.protocol.traps import compute_seal

TEXT = "Paris."
REQUEST = AnswerRequest(
    model=MODEL,
    prompt=ChatPrompt((Turn("user", "hi"),)),
    max_tokens=8,
    temperature_ppm=0,
    top_p_ppm=1_000_000,
    stop=(),
    user_seed=None,
)


WRONG = b"a wrong version"


class Answered:
    """A chain with one answer on it, and the receipt of its user."""

    def __init__(self, folder, *, forced=False) -> None:
        self.chain = chain = Chain()
        session_id = chain.open_session()
        self.task_id = compute_task_id(session_id, 0)
        self.executor = chain.first_executor(session_id, 0)
        session = SESSIONS.get(chain.state, session_id)
        self.payload = encode(Payload(REQUEST, encode_transcript(self.write(session.seed))))
        voucher = chain.voucher(session_id, 0, self.executor, max_cost=10**10, prompt=REQUEST.compute_hash())
        digest = hash_blob(self.payload)
        seal = compute_seal(digest, derive_salt(self.executor, self.task_id))
        receipt = m.Receipt(voucher, hash_blob(WRONG) if forced else digest, 3, 2, seal)
        chain.send(self.executor, m.SubmitReceipts((receipt,)))
        chain.run_until(lambda: bool(TASKS.get(chain.state, self.task_id)))
        self.vault = PayloadVault(folder / "vault", self.executor)
        self.vault.put(self.task_id, self.payload)
        if forced:
            self.vault.put_wrong(self.task_id, WRONG)

    def write(self, session_seed: bytes) -> Transcript:
        generation = GenerationRequest(
            model_id=MODEL,
            model_hash=b"w" * 32,
            engine="test",
            sampler=SamplerSpec(temperature_ppm=0, top_p_ppm=1_000_000, max_tokens=8, stop=()),
            seed=derive_sampler_seed(session_seed, self.task_id, REQUEST, self.chain.user.address),
            prompt_tokens=(1, 2, 3),
        )
        return Transcript(
            version=TRANSCRIPT_VERSION,
            request=generation,
            output_tokens=(7, 8),
            logprobs_micronats=(-1, -2),
            finish_reason="stop",
            text_hash=compute_text_hash(TEXT),
        )

    def make_context(self, key) -> SimpleNamespace:
        chain_id, height = self.chain.application.chain_id, self.chain.height
        chain = SimpleNamespace(chain_id=chain_id, read=lambda: self.chain.state, height=height)
        peers = SimpleNamespace(name_of=lambda address: address, request=self.ask)
        settings = SimpleNamespace(engine="solo")
        return SimpleNamespace(key=key, address=key.address, chain=chain, peers=peers, settings=settings)

    async def ask(self, _name, path, body) -> bytes:
        relay = self.chain.keys[0]
        request = PeerRequest(sender=relay.public_key, sender_address=relay.address, path=path, body=body)
        return hand_out(self.make_context(self.executor), self.vault, request)

    async def get_model(self, _model_id) -> None:
        return None

    def make(self):
        maker = ReceiptMaker(
            self.make_context(self.chain.keys[0]),
            SimpleNamespace(get=self.get_model),
            self.chain.application._store,
        )
        return asyncio.run(maker.make(self.task_id))


@pytest.fixture
def answered(tmp_path, monkeypatch) -> Answered:
    monkeypatch.setattr(receipts, "derive_text", lambda *_: SimpleNamespace(text=TEXT))
    return Answered(tmp_path)


def test_a_receipt_of_every_height_proves_answer_and_draw(answered):
    for _ in range(2):
        receipt = answered.make()
        assert receipt.height == answered.chain.height
        report = verify_receipt(receipt, answered.chain.genesis, "solo")
        assert (report.text, report.place_in_draw) == (TEXT, 1)
        assert report.draw.startswith("drawn 1. of 4 by index ")
        assert report.signed_by == "the network's one sequencer"
        answered.chain.tick()


def test_a_receipt_of_a_forced_error_proves_the_true_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(receipts, "derive_text", lambda *_: SimpleNamespace(text=TEXT))
    answered = Answered(tmp_path, forced=True)
    receipt, genesis = answered.make(), answered.chain.genesis
    assert receipt.payload == answered.payload
    assert verify_receipt(receipt, genesis, "solo").text == TEXT
    for changes in ({"payload": WRONG}, {"salt": bytes(32)}):
        with pytest.raises(InvalidClaim, match="other-answer"):
            verify_receipt(msgspec.structs.replace(receipt, **changes), genesis, "solo")
    # The wrong version is no answer either when its executor signs for it.
    reply = unseal(
        answered.chain.keys[0], asyncio.run(answered.ask("", PATH, encode(PayloadRequest(answered.task_id))))
    )
    shown = decode_own(PayloadReply, reply)
    assert shown.payload == WRONG
    lie = msgspec.structs.replace(receipt, payload=WRONG, signature=shown.signature)
    with pytest.raises(InvalidClaim, match="other-answer"):
        verify_receipt(lie, genesis, "solo")


def test_invalid_beacon_that_its_group_did_not_sign(answered):
    receipt, genesis = answered.make(), answered.chain.genesis
    state = State(ProvenValues({found.key: found.value for found in receipt.values}), height=receipt.height)
    facts = read_facts(state, receipt.task)
    assert facts.beacon.signature
    assert _verify_draw(receipt, facts, genesis)[0] == 1
    for changes in ({"value": b"v" * 32}, {"signature": b"s" * 48}, {"group": 2}, {"signature": b""}):
        forged = msgspec.structs.replace(facts.beacon, **changes)
        lie = type(facts)(**{**vars(facts), "beacon": forged, "group_key": None})
        with pytest.raises(InvalidClaim, match="bad-beacon"):
            _verify_draw(receipt, lie, genesis)
