"""Who gets a payload, in which form, and when it is gone."""

from __future__ import annotations

import asyncio

import pytest
from role_setup import (
    RELAY,
    USER,
    AnsweredTask,
    make_context,
    make_group_key,
    make_order,
)

from paceline.base.errors import Invalid, TransportError, WorkError
from paceline.base.hashing import hash_blob
from paceline.ledger.tasks import CHECKING, DISPUTED, FINAL, TASKS
from paceline.network.sealing import seal, unseal
from paceline.network.wire import PeerRequest
from paceline.node.answers.payloads import (
    PayloadReply,
    PayloadRequest,
    PayloadVault,
    hand_out,
    request_payload,
    verify_statement,
)
from paceline.node.roles.executor import ExecutorRole
from paceline.protocol.codec import decode_own, encode
from paceline.protocol.messages import Receipt

SECRET = b"what the user asked and what the model said"


class Setting(AnsweredTask):
    """A task with a receipt; its executor holds the payload."""

    def __init__(self, folder) -> None:
        super().__init__()
        self.answer(hash_blob(SECRET))
        self.context = make_context(self.state, self.executor, folder)
        self.folder = folder / "vault"
        self.vault = PayloadVault(self.folder, self.executor)
        self.vault.put(self.task_id, SECRET)

    def ask(self, key, task_id=None) -> bytes:
        body = encode(PayloadRequest(task_id or self.task_id))
        request = PeerRequest(sender=key.public_key, sender_address=key.address, path="payload", body=body)
        return hand_out(self.context, self.vault, request)


@pytest.fixture
def setting(tmp_path) -> Setting:
    return Setting(tmp_path)


def test_a_drawn_checker_and_it_alone_can_open_the_reply(setting):
    sealed = setting.ask(setting.drawn)
    assert SECRET not in sealed
    reply = decode_own(PayloadReply, unseal(setting.drawn, sealed))
    assert reply.payload == SECRET
    signer, digest = setting.executor.public_key, hash_blob(SECRET)
    assert verify_statement(signer, "roles-1", setting.task_id, setting.task, digest, reply.signature)
    for key in (*setting.others[1:], RELAY, USER, setting.executor):
        with pytest.raises(Invalid, match="bad-seal"):
            unseal(key, sealed)
    with pytest.raises(Invalid, match="bad-seal"):
        unseal(setting.drawn, sealed[:-1] + bytes([sealed[-1] ^ 1]))


def test_the_relay_may_read_too(setting):
    assert unseal(RELAY, setting.ask(RELAY))


@pytest.mark.parametrize("reader", ["undrawn", "stranger"])
def test_invalid_reader(setting, reader):
    key = setting.others[1] if reader == "undrawn" else USER
    with pytest.raises(Invalid, match="not-a-reader"):
        setting.ask(key)


def test_in_a_dispute_everybody_with_weight_reads_and_nobody_else(setting):
    setting.change(status=DISPUTED)
    for key in setting.others:
        assert setting.ask(key)
    with pytest.raises(Invalid, match="not-a-reader"):
        setting.ask(USER)
    setting.change(status=FINAL)
    with pytest.raises(Invalid, match="not-a-reader"):
        setting.ask(setting.others[1])


def test_invalid_task_of_somebody_else_or_of_nobody(setting):
    with pytest.raises(Invalid, match="unknown-task"):
        setting.ask(setting.drawn, bytes(32))
    setting.change(executor=setting.others[1].address)
    with pytest.raises(Invalid, match="unknown-task"):
        setting.ask(setting.drawn)


def test_invalid_key_that_is_no_point():
    with pytest.raises(Invalid, match="bad-key"):
        seal(b"\xff" * 32, b"x")


def test_nothing_readable_lies_on_the_disk(setting):
    [path] = setting.folder.iterdir()
    assert SECRET not in path.read_bytes()
    assert PayloadVault(setting.folder, setting.executor).get(setting.task_id) == SECRET
    with pytest.raises(WorkError, match="do not open"):
        PayloadVault(setting.folder, USER).get(setting.task_id)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(WorkError, match="do not open"):
        setting.vault.get(setting.task_id)


def test_a_payload_goes_with_its_task_and_not_before(setting):
    for status in (CHECKING, DISPUTED, FINAL):
        setting.change(status=status)
        setting.vault.sweep(setting.state, setting.executor.address, ())
        assert setting.vault.get(setting.task_id) == SECRET
    TASKS.delete(setting.state, setting.task_id)
    setting.vault.sweep(setting.state, setting.executor.address, {setting.task_id})
    assert setting.vault.get(setting.task_id) == SECRET
    setting.vault.sweep(setting.state, setting.executor.address, ())
    with pytest.raises(WorkError, match="not here"):
        setting.vault.get(setting.task_id)


def test_the_executor_sweeps_with_the_blocks_and_keeps_what_waits(setting, tmp_path):
    context = make_context(setting.state, setting.executor, tmp_path / "role")
    role = ExecutorRole(context, None, make_group_key(setting.executor))
    settled, making, waiting = (bytes([number]) * 32 for number in range(3))
    for task_id in (settled, making, waiting):
        role._maker.vault.put(task_id, SECRET)
    role._making.add(making)
    receipt = Receipt(make_order(bytes(16), setting.executor.address).voucher, bytes(32), 1, 1)
    (context.work_path / "receipts" / f"{waiting.hex()}.receipt").write_bytes(encode(receipt))
    setting.state.height = 17
    role.on_block(setting.state)
    assert role._maker.vault.get(settled)
    setting.state.height = 32
    role.on_block(setting.state)
    assert role._maker.vault.get(making)
    assert role._maker.vault.get(waiting)
    with pytest.raises(WorkError):
        role._maker.vault.get(settled)


class OneExecutor:
    """Peers of a checker: the executor answers by script."""

    def __init__(self, reply) -> None:
        self.reply = reply

    def name_of(self, _address):
        return "executor"

    async def request(self, _name, path, _body):
        assert path == "payload"
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


def fetch(setting, reply, folder):
    context = make_context(setting.state, setting.drawn, folder, peers=OneExecutor(reply))
    return asyncio.run(request_payload(context, setting.task_id, setting.task))


def test_a_checker_gets_what_the_receipt_names(setting, tmp_path):
    assert fetch(setting, setting.ask(setting.drawn), tmp_path / "c").payload == SECRET


@pytest.mark.parametrize("lie", ["refused", "other", "unsealed", "for-another"])
def test_invalid_reply_counts_as_not_handed_out(setting, tmp_path, lie):
    other = PayloadReply(payload=b"another answer", signature=bytes(64))
    reply = {
        "refused": Invalid("not-a-reader", "no"),
        "other": seal(setting.drawn.public_key, encode(other)),
        "unsealed": encode(other),
        "for-another": seal(USER.public_key, encode(other)),
    }[lie]
    with pytest.raises(TransportError):
        fetch(setting, reply, tmp_path / "c")
