"""A receipt that is sent again after its epoch has settled must not be paid again while its session lives."""

from __future__ import annotations

import pytest
from role_setup import get_order, make_order, make_state, open_session

from paceline.base.errors import InvalidTransaction
from paceline.ledger import settlement, task_pay, tasks
from paceline.ledger.accounts import HELD_PAY, get_account
from paceline.ledger.sessions import SESSIONS, compute_task_id
from paceline.ledger.vesting import get_vesting
from paceline.protocol.messages import ACCEPTED, Receipt
from paceline.protocol.params import TINY

CHAIN_ID = "roles-1"


class Paid:
    """A task of the first epoch that is final, and its receipt."""

    def __init__(self) -> None:
        self.state = make_state(TINY.epoch_blocks - 100)
        self.session_id = open_session(self.state)
        self.executor = get_order(self.state, self.session_id)[0]
        self.receipt = Receipt(make_order(self.session_id, self.executor).voucher, bytes(32), 30, 40)
        self.send(epoch=0)
        task_id = compute_task_id(self.session_id, 0)
        task_pay.settle_task(self.state, TINY, task_id, ACCEPTED)

    def send(self, *, epoch: int) -> None:
        tasks.apply_receipts(self.state, TINY, CHAIN_ID, self.executor, (self.receipt,), epoch)

    @property
    def left(self) -> int:
        return SESSIONS.get(self.state, self.session_id).left


@pytest.fixture
def paid() -> Paid:
    return Paid()


def test_invalid_second_receipt_before_the_settlement(paid):
    left = paid.left
    with pytest.raises(InvalidTransaction, match="already-paid"):
        paid.send(epoch=0)
    assert paid.left == left


def test_invalid_second_receipt_after_the_settlement(paid):
    left = paid.left
    paid.state.height = TINY.epoch_blocks
    settlement.settle_epoch(paid.state, TINY, 0)
    paid.state.height += 1
    assert get_vesting(paid.state, paid.executor) > 0
    with pytest.raises(InvalidTransaction, match="already-paid"):
        paid.send(epoch=1)
    assert paid.left == left
    assert get_account(paid.state, HELD_PAY).balance == 0
