"""Faults around one answer: a payload that is withheld, an order sent twice over a restart."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from types import SimpleNamespace

import msgspec
import pytest
from role_setup import (
    KEYS,
    RELAY,
    find_key,
    get_order,
    make_context,
    make_group_key,
    make_order,
    make_state,
    open_session,
)

from paceline.base.errors import Invalid, TransportError
from paceline.base.hashing import hash_blob
from paceline.ledger import tasks
from paceline.ledger.sessions import compute_task_id
from paceline.ledger.tasks import CHECKING, TASKS
from paceline.network.sealing import seal
from paceline.network.wire import PeerRequest
from paceline.node.answers.payloads import PayloadReply
from paceline.node.roles.checker import LAST_BLOCKS, CheckerRole
from paceline.node.roles.executor import ExecutorRole
from paceline.protocol.codec import encode
from paceline.protocol.messages import Receipt
from paceline.protocol.params import TINY


class Checked:
    """A task that one node was drawn to check, and what its executor says when asked for the payload."""

    def __init__(self, folder, reply) -> None:
        self.state = make_state()
        session_id = open_session(self.state)
        self.executor = find_key(get_order(self.state, session_id)[0])
        self.task_id = compute_task_id(session_id, 0)
        self.payload = b"no payload at all"
        receipt = Receipt(make_order(session_id, self.executor.address).voucher, hash_blob(self.payload), 3, 4)
        tasks.apply_receipts(self.state, TINY, "roles-1", self.executor.address, (receipt,), 0)
        self.checker = next(key for key in KEYS if key not in (self.executor, RELAY))
        self.deadline = self.state.height + TINY.check_blocks
        task = TASKS.get(self.state, self.task_id)
        task = msgspec.structs.replace(
            task, status=CHECKING, asked=(self.checker.address,), drawn=(self.checker.address,), deadline=self.deadline
        )
        TASKS.put(self.state, self.task_id, task)
        peers = SimpleNamespace(name_of=lambda address: address.hex(), request=self.answer)
        self.reply = reply
        self.context = make_context(self.state, self.checker, folder, peers=peers)
        self.role = CheckerRole(self.context, None)

    async def answer(self, _name, _path, _body):
        if isinstance(self.reply, Exception):
            raise self.reply
        return seal(self.checker.public_key, encode(PayloadReply(payload=self.reply, signature=bytes(64))))

    def judge_at(self, height: int) -> list[object]:
        self.state.height = height
        self.role.on_block(self.state)
        self.context.duties.run_all()
        # Its hash is sent now, the verdict itself when all have committed.
        kept = self.role._verdicts.get(self.task_id)
        return [] if kept is None else [kept.verdict]


@pytest.mark.parametrize("reply", [TransportError("gone"), Invalid("not-a-reader", "no"), b"another payload"])
def test_invalid_payload_withheld_is_asked_for_until_late_and_then_guilty(tmp_path, reply):
    checked = Checked(tmp_path, reply)
    with pytest.raises(TransportError):
        checked.judge_at(checked.deadline - LAST_BLOCKS - 1)
    assert checked.context.chain.sent == []
    [verdict] = checked.judge_at(checked.deadline - LAST_BLOCKS)
    assert (verdict.outcome, verdict.reason) == ("rejected", "payload withheld")


def test_invalid_payload_that_is_none_is_rejected_at_once(tmp_path):
    checked = Checked(tmp_path, b"no payload at all")
    [verdict] = checked.judge_at(checked.deadline - LAST_BLOCKS - 1)
    assert verdict.outcome == "rejected"
    assert verdict.reason.startswith("malformed payload")


def test_invalid_order_again_after_a_restart_is_not_answered_twice(tmp_path):
    """A restarted node has forgotten envelopes and orders; its receipts, and the ledger, have not."""
    state = make_state()
    session_id = open_session(state)
    executor = find_key(get_order(state, session_id)[0])
    order = make_order(session_id, executor.address)
    role = ExecutorRole(make_context(state, executor, tmp_path), None, make_group_key(executor))
    name = f"{compute_task_id(session_id, 0).hex()}.receipt"
    (tmp_path / "work" / "receipts" / name).write_bytes(encode(Receipt(order.voucher, bytes(32), 3, 4)))
    request = PeerRequest(sender=RELAY.public_key, sender_address=RELAY.address, path="task", body=encode(order))

    async def ask():
        async with aclosing(role.serve(request)) as frames:
            return [frame async for frame in frames]

    with pytest.raises(Invalid, match="already-done"):
        asyncio.run(ask())
    assert (role.line.under_way, role.line.waiting) == (0, 0)
