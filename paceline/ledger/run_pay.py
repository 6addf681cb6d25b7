"""What runs paid for accepted updates, fulfilled audits and at last for being published since the last settlement.

An update in dispute waits until that is decided: a guilty trainer's pay is then forfeited by the settlement, and an auditor whom
the majority contradicts has earned nothing. It moves nothing; the settlement does.
Invariant: the pay of each update is collected exactly once.
Source: seed 001, Appendices K and L; decision 042.
"""

from __future__ import annotations

import msgspec

from paceline.economy.pay import Pay, compute_audited_pay, compute_pay
from paceline.ledger.nodes import NODES
from paceline.ledger.run_money import RELEASED
from paceline.ledger.state import State
from paceline.ledger.training import DISPUTES, ID_BYTES, STARTS, UPDATES, Update, list_running
from paceline.protocol.messages import ACCEPTED
from paceline.protocol.params import NetworkParams


def collect_pay(state: State, params: NetworkParams) -> list[tuple[bytes, Pay]]:
    """Trainers with the shared pay of their updates and with last instalments; updates of ended runs go."""
    found = []
    running = {run_id for run_id, _ in list_running(state)}
    for key, update in UPDATES.items(state):
        if DISPUTES.get(state, key) is not None:
            continue
        if update.held:
            found.append((key[ID_BYTES + 4 :], _keep_known(state, _share(params, update))))
            UPDATES.put(state, key, msgspec.structs.replace(update, pay=0, audited=()))
        if key[:ID_BYTES] not in running:
            UPDATES.delete(state, key)
            STARTS.delete(state, key[: ID_BYTES + 4])
    for key, amount in RELEASED.items(state):
        RELEASED.delete(state, key)
        found.append((key[ID_BYTES:], compute_pay(amount, (), params.fund_ppm)))
    return found


def _share(params: NetworkParams, update: Update) -> Pay:
    if not update.audit_pay:
        checkers = [v.voter for v in update.votes if v.voter in update.auditors and v.outcome == ACCEPTED]
        return compute_pay(update.pay, checkers, params.fund_ppm)
    said = {vote.voter: vote.outcome for vote in update.votes}
    right = [auditor for auditor in update.audited if update.ruled in {"", said[auditor]}]
    pay = compute_audited_pay(update.pay, right, update.audit_pay, params.fund_ppm)
    return pay._replace(fund=pay.fund + update.held - pay.total)


def _keep_known(state: State, pay: Pay) -> Pay:
    """An auditor that has left by now has nothing that could be settled: its part is the fund's."""
    known = tuple((address, amount) for address, amount in pay.checkers if NODES.get(state, address) is not None)
    return pay._replace(checkers=known, fund=pay.fund + pay.total - pay._replace(checkers=known).total)
