"""A user's receipt: made from a committed state, verified from the genesis alone, and every forgery refused by name."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import msgspec
import pytest
from role_setup import (
    GENESIS,
    KEYS,
    MODEL,
    RELAY,
    REQUEST,
    USER,
    AnsweredTask,
    change_session,
    make_context,
    open_session,
)

from paceline.base.draws import derive_seed
from paceline.base.errors import Invalid, InvalidClaim
from paceline.base.hashing import hash_blob
from paceline.engine.blocks import Block, decode_block, seal_block
from paceline.ledger.disputes import Vote
from paceline.ledger.sessions import SESSIONS
from paceline.ledger.tasks import TASKS
from paceline.network.wire import PeerRequest
from paceline.node.answers import receipts
from paceline.node.answers.payloads import PayloadVault, hand_out
from paceline.node.answers.receipt_check import verify_receipt
from paceline.node.answers.receipt_facts import decode_receipt
from paceline.node.answers.receipts import ReceiptMaker
from paceline.protocol.answers import Payload, derive_sampler_seed
from paceline.protocol.codec import encode
from paceline.protocol.genesis import compute_chain_id
from paceline.protocol.params import TINY
from paceline.protocol.transcripts import (
    TRANSCRIPT_VERSION,
    GenerationRequest,
    SamplerSpec,
    Transcript,
    compute_text_hash,
    encode_transcript,
)

CHAIN = compute_chain_id(GENESIS)
TEXT = "Paris."


def make_transcript(noise, **changes) -> Transcript:
    generation = {
        "model_id": MODEL,
        "model_hash": b"w" * 32,
        "engine": "test",
        "sampler": SamplerSpec(temperature_ppm=0, top_p_ppm=1_000_000, max_tokens=8, stop=()),
        "seed": noise,
        "prompt_tokens": (1, 2, 3),
    }
    answer = {
        "version": TRANSCRIPT_VERSION,
        "output_tokens": (7, 8),
        "logprobs_micronats": (-1, -2),
        "finish_reason": "stop",
        "text_hash": compute_text_hash(TEXT),
    }
    for name, value in changes.items():
        (generation if name in generation else answer)[name] = value
    return Transcript(request=GenerationRequest(**generation), **answer)


class Network(AnsweredTask):
    """A checked answer on a ledger whose state the sequencer has signed."""

    def __init__(self, folder, *, request=REQUEST, draw=True, **changes) -> None:
        super().__init__()
        noise = derive_sampler_seed(self.seed, self.task_id, REQUEST, USER.address)
        self.payload = encode(Payload(request, encode_transcript(make_transcript(noise, **changes))))
        self.answer(hash_blob(self.payload), 2)
        self.checker = self.drawn
        votes = (Vote(self.checker.address, "accepted", "logprobs and sampling match the model", ()),)
        self.change(votes=votes)
        if not draw:
            SESSIONS.delete(self.state, self.session_id)
        self.folder = folder

    def open_session(self) -> bytes:
        session_id = open_session(self.state)
        self.seed = derive_seed(GENESIS.beacon, "session", session_id)
        change_session(self.state, session_id, seed=self.seed, round_index=0)
        return session_id

    def make(self, signer=KEYS[0], relay=RELAY):
        store = self.state._below
        store.stage(self.state.changes)
        plain = Block(
            height=1,
            previous_hash=bytes(32),
            app_hash=store._staged.trie.root,
            unix_milliseconds=1,
            transactions=(),
            signature=bytes(64),
        )
        store.commit(1, encode(seal_block(plain, CHAIN, signer)))
        maker = self.make_context(relay, "relay", peers=SimpleNamespace(name_of=lambda a: a, request=self.ask))
        host = SimpleNamespace(get=self.get_model)
        return asyncio.run(ReceiptMaker(maker, host, store).make(self.task_id))

    def make_context(self, key, name, **changes):
        context = make_context(self.state, key, self.folder / name, **changes)
        context.chain.chain_id = CHAIN
        context.settings.engine = "solo"
        return context

    async def ask(self, _name, path, body) -> bytes:
        vault = PayloadVault(self.folder / "vault", self.executor)
        vault.put(self.task_id, self.payload)
        request = PeerRequest(sender=RELAY.public_key, sender_address=RELAY.address, path=path, body=body)
        return hand_out(self.make_context(self.executor, "executor"), vault, request)

    async def get_model(self, _model_id):
        return None


@pytest.fixture(autouse=True)
def plain_text(monkeypatch):
    monkeypatch.setattr(receipts, "derive_text", lambda *_: SimpleNamespace(text=TEXT))


@pytest.fixture
def receipt(tmp_path):
    return Network(tmp_path).make()


def refuse(receipt, **changes) -> str:
    with pytest.raises(Invalid) as caught:
        verify_receipt(msgspec.structs.replace(receipt, **changes), GENESIS, "solo")
    return caught.value.code


def test_a_receipt_shows_prompt_answer_draw_checker_and_cost(receipt):
    report = verify_receipt(decode_receipt(encode(receipt)), GENESIS, "solo")
    assert (report.model, report.text, report.prompt) == (MODEL, TEXT, ["user: hi"])
    assert (report.place_in_draw, report.relay) == (1, "node-1")
    [checker] = report.checkers
    assert (checker.drawn, checker.outcome) == (True, "accepted")
    assert report.cost_nicoin == 5 * TINY.unit_price
    assert not report.repeatable


def test_without_its_session_the_draw_is_reported_as_not_shown(tmp_path):
    report = verify_receipt(Network(tmp_path, draw=False).make(), GENESIS, "solo")
    assert report.place_in_draw is None
    assert report.draw.startswith("not shown")


def test_invalid_forgeries_of_what_the_file_says(receipt):
    assert refuse(receipt, text="London.") == "other-text"
    assert refuse(receipt, signature=bytes(64)) == "bad-signature"
    assert refuse(receipt, payload=receipt.payload + b"x") == "other-answer"
    assert refuse(receipt, chain_id="roles-000000000000") == "wrong-chain"
    assert refuse(receipt, height=2) == "wrong-height"
    assert refuse(receipt, task=bytes(32)) == "unproven"
    assert refuse(receipt, engine="cometbft") == "wrong-engine"


def test_invalid_values_of_another_state(receipt):
    for at, found in enumerate(receipt.values):
        rest = (*receipt.values[:at], *receipt.values[at + 1 :])
        assert refuse(receipt, values=rest) in {"unproven", "unknown-task"}
        forged = msgspec.structs.replace(found, value=(found.value or b"") + b"\x00")
        assert refuse(receipt, values=(*rest, forged)) == "state-proof"
    # The executor's word for a cheaper task, with everything else in place.
    at = next(i for i, found in enumerate(receipt.values) if found.key.startswith(b"tasks/"))
    task = msgspec.msgpack.decode(receipt.values[at].value)
    cheaper = msgspec.structs.replace(receipt.values[at], value=msgspec.msgpack.encode([*task[:6], 1, *task[7:]]))
    assert refuse(receipt, values=(*receipt.values[:at], cheaper, *receipt.values[at + 1 :])) == "state-proof"


def test_invalid_block_of_another_sequencer_or_state(tmp_path, receipt):
    block = decode_block(receipt.anchor)
    other = msgspec.structs.replace(block, app_hash=bytes(32))
    assert refuse(receipt, anchor=encode(other)) == "bad-signature"
    assert refuse(receipt, anchor=encode(seal_block(block, CHAIN, KEYS[1]))) == "bad-signature"
    assert refuse(receipt, anchor=encode(seal_block(other, CHAIN, KEYS[0]))) == "state-proof"
    assert refuse(receipt, anchor=b"x") == "malformed"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"seed": b"x" * 32}, "other-seed"),
        ({"model_id": "another-model"}, "other-model"),
        ({"output_tokens": (7,), "logprobs_micronats": (-1,)}, "other-counts"),
        ({"prompt_tokens": (1, 2)}, "other-counts"),
        ({"text_hash": bytes(32)}, "other-text"),
        ({"request": msgspec.structs.replace(REQUEST, max_tokens=9)}, "other-prompt"),
    ],
)
def test_invalid_answers_that_an_executor_may_have_committed(tmp_path, changes, code):
    """The executor signed and the ledger holds it, and still it is not the answer to this order."""
    receipt = Network(tmp_path, **changes).make()
    with pytest.raises(InvalidClaim) as caught:
        verify_receipt(receipt, GENESIS, "solo")
    assert caught.value.code == code


def test_invalid_draw_and_beacon(tmp_path):
    network = Network(tmp_path / "a")
    session_id = TASKS.get(network.state, network.task_id).session
    change_session(network.state, session_id, seed=b"x" * 32)
    with pytest.raises(InvalidClaim, match="bad-draw"):
        verify_receipt(network.make(), GENESIS, "solo")
    network = Network(tmp_path / "b")
    other = msgspec.structs.replace(GENESIS, beacon=b"o" * 32)
    with pytest.raises(InvalidClaim, match="wrong-chain"):
        verify_receipt(network.make(), other, "solo")


def test_invalid_relay_asks_for_a_receipt(tmp_path):
    with pytest.raises(InvalidClaim, match="not-its-relay"):
        Network(tmp_path).make(relay=KEYS[1])


def test_a_receipt_is_waited_for_a_few_heights(tmp_path):
    network = Network(tmp_path)
    task = TASKS.get(network.state, network.task_id)
    TASKS.delete(network.state, network.task_id)
    context = network.make_context(RELAY, "relay")
    context.chain.coming = [lambda _: None, lambda state: TASKS.put(state, network.task_id, task), lambda _: None]
    asyncio.run(ReceiptMaker(context, None, None)._wait_known(network.task_id))
    assert TASKS.get(network.state, network.task_id) == task
    assert len(context.chain.coming) == 1


def test_invalid_task_that_is_settled(tmp_path):
    network = Network(tmp_path)
    TASKS.delete(network.state, network.task_id)
    with pytest.raises(InvalidClaim, match="unknown-task"):
        network.make()
