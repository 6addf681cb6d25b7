"""Numbers that no record holds: whoever signs both sides of a contract may write any amounts, and must not halt the chain.

Each attack fits into one transaction of a few thousand bytes. Without the limit, or where a rule lacks one, the record itself
refuses what 64 bits do not hold. Power: exact.
"""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import PARAMS, Chain

from paceline.base.errors import InvalidTransaction
from paceline.ledger import tasks, vouchers
from paceline.ledger.compute_credits import CREDITS
from paceline.ledger.sessions import SESSIONS
from paceline.ledger.state import State, Table
from paceline.protocol import messages as m
from paceline.protocol.codec import encode
from paceline.protocol.credits import BuyCredits
from paceline.protocol.fields import MAX_SUPPLY
from paceline.store.state import MemoryStateStore

HUGE = 10**18
RECEIPTS = 19
"""Times the highest maximum are beyond 64 bits."""


def write_huge_receipts(chain, *, total):
    """A transaction of one executor whose user allows it everything and says that this is next to nothing."""
    session_id = chain.open_session(deposit=10**9)
    executor = chain.keys[1]
    mine = [index for index in range(256) if chain.first_executor(session_id, index) is executor][:RECEIPTS]
    receipts = [
        chain.receipt(session_id, index, executor, prompt=1, completion=0, max_cost=HUGE, total=total) for index in mine
    ]
    assert len(receipts) == RECEIPTS
    return session_id, chain.sign(executor, m.SubmitReceipts(tuple(receipts)))


def test_a_maximum_above_the_sum_of_all_is_refused():
    chain = Chain()
    session_id, data = write_huge_receipts(chain, total=1)
    assert len(data) < 8_000
    before = SESSIONS.get(chain.state, session_id)
    assert chain.application.check_transaction(data).code == "over-total"
    assert [result.code for result in chain.application.finalize_block(chain.height + 1, [data]).results] == [
        "over-total"
    ]
    assert SESSIONS.get(chain.state, session_id) == before


def test_without_any_limit_one_transaction_halts_the_chain(monkeypatch):
    """The defences off, one after another: a record that takes no such number refuses it, and without that the block ends in an error."""
    monkeypatch.setattr(vouchers, "check_place", lambda *_: None)
    monkeypatch.setattr(tasks, "MAX_SUPPLY", 2**80)
    chain = Chain()
    _, data = write_huge_receipts(chain, total=1)
    assert chain.application.check_transaction(data).code == "out-of-range"
    monkeypatch.setattr(Table, "put", lambda table, state, key, value: state.put(table._prefix + key, encode(value)))
    with pytest.raises(OverflowError):
        chain.application.finalize_block(chain.height + 1, [data])


def test_without_that_rule_the_sums_stop_at_the_supply(monkeypatch):
    monkeypatch.setattr(vouchers, "check_place", lambda *_: None)
    chain = Chain()
    session_id, data = write_huge_receipts(chain, total=1)
    chain.sequencer.add_transaction(data)
    chain.block()
    assert SESSIONS.get(chain.state, session_id).freed == MAX_SUPPLY


def test_credits_of_one_account_are_bounded():
    chain = Chain(params=msgspec.structs.replace(PARAMS, unit_price=1))
    chain.send(chain.user, BuyCredits(HUGE, "coins", HUGE))
    chain.tick()
    assert CREDITS.get(chain.state, chain.user.address).micro_units == HUGE
    assert chain.refuse(chain.user, BuyCredits(1, "coins", HUGE)) == "too-many-units"


def test_a_record_refuses_what_64_bits_do_not_hold():
    state, table = State(MemoryStateStore(), height=1), Table("test/number", int)
    table.put(state, b"most", 2**64 - 1)
    with pytest.raises(InvalidTransaction, match="range") as refused:
        table.put(state, b"more", 2**64)
    assert refused.value.code == "out-of-range"
    assert table.items(state) == [(b"most", 2**64 - 1)]
