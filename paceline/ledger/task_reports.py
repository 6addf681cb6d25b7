"""Paid reports: the user who doubts an answer has it checked by fresh checkers.

The fee is at stake: it comes back with the refund and a share of the forfeit when the answer is proven wrong, and pays the
checkers when it is not. A report is only a reason to check; guilt needs the same majority as ever.
"""

from __future__ import annotations

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.ledger import beacon
from paceline.ledger.accounts import REPORT_FEES, move_coins
from paceline.ledger.state import State, Table
from paceline.ledger.tasks import DRAWING, FINAL, OPEN_TASKS, TASKS
from paceline.protocol.messages import ReportTask
from paceline.protocol.params import NetworkParams

REPORTS: Table[int] = Table("tasks/reports", int)
"""Reports of an account in the running epoch."""


def apply_report(state: State, params: NetworkParams, sender: bytes, message: ReportTask) -> None:
    """Open a settled answer again.

    Errors: InvalidTransaction unknown-task, not-yours, not-final, already-reported, too-late, too-many-reports, over-balance.
    """
    task = TASKS.get(state, message.task)
    if task is None:
        raise InvalidTransaction(
            "unknown-task", "no task of this id is kept; an epoch's settlement ends the time to report"
        )
    if task.owner != sender:
        raise InvalidTransaction("not-yours", "only who paid for an answer reports it")
    if task.reported:
        raise InvalidTransaction("already-reported", "an answer is reported once")
    if task.status != FINAL:
        raise InvalidTransaction("not-final", f"the task is {task.status}, not final")
    if state.height > task.height + params.tasks.report_blocks:
        raise InvalidTransaction("too-late", f"answers are reported within {params.tasks.report_blocks} heights")
    count = REPORTS.get(state, sender) or 0
    if count >= params.tasks.report_limit:
        raise InvalidTransaction("too-many-reports", f"an account reports {params.tasks.report_limit} answers an epoch")
    move_coins(state, sender, REPORT_FEES, params.tasks.report_fee)
    REPORTS.put(state, sender, count + 1)
    reopened = msgspec.structs.replace(
        task, status=DRAWING, reporter=sender, reported=True, round_index=beacon.request_round(state)
    )
    TASKS.put(state, message.task, reopened)
    OPEN_TASKS.put(state, message.task, 0)
    state.emit("task-report", task=message.task.hex(), reporter=sender.hex())


def end_epoch(state: State) -> None:
    """Everybody may report again."""
    for account, _ in REPORTS.items(state):
        REPORTS.delete(state, account)
