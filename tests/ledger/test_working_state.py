"""The journal over committed state: what a layer reads is what was written, in key order, however much else a block changed."""

from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.ledger.state import FEW, State, Table
from paceline.store.state import MemoryStateStore

KEYS = st.binary(max_size=2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.binary(max_size=1)),
        st.tuples(st.just("delete"), KEYS),
        st.tuples(st.just("read"), KEYS),
        st.tuples(st.just("branch"), st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=1))), st.booleans()),
    ),
    max_size=3 * FEW,
)
THINGS = Table("things/all", int)
OTHERS = Table("others/all", int)


@given(STEPS)
@settings(max_examples=300, deadline=None)
def test_a_layer_reads_as_a_dictionary_would(steps):
    state, model = State(MemoryStateStore(), height=1), {}
    for step in steps:
        match step:
            case "put", key, value:
                state.put(key, value)
                model[key] = value
            case "delete", key:
                state.delete(key)
                model.pop(key, None)
            case "read", prefix:
                assert list(state.iterate(prefix)) == sorted(p for p in model.items() if p[0].startswith(prefix))
            case "branch", writes, keep:
                branch, after = state.branch(), dict(model)
                for key, value in writes:
                    branch.put(key, value) if value is not None else branch.delete(key)
                    after[key] = value
                after = {key: value for key, value in after.items() if value is not None}
                assert list(branch.iterate(b"")) == sorted(after.items())
                if keep:
                    state.merge(branch)
                    model = after
    assert list(state.iterate(b"")) == sorted(model.items())


def test_what_a_layer_wrote_while_a_caller_reads_is_not_seen_by_that_caller():
    state = State(MemoryStateStore(), height=1)
    for number in range(3):
        THINGS.put(state, bytes([number]), number)
    for key, number in THINGS.scan(state):
        THINGS.put(state, key + b"x", number)
    assert len(THINGS.items(state)) == 6
    assert THINGS.list_written(state) == [b"\0", b"\0x", b"\1", b"\1x", b"\2", b"\2x"]


def measure_list(others):
    """Seconds for 300 transactions that each write once and list a table of three, in a block of so many other changes."""
    state = State(MemoryStateStore(), height=1)
    for number in range(3):
        THINGS.put(state, bytes([number]), number)
    for number in range(others):
        OTHERS.put(state, number.to_bytes(4, "big"), 0)
    start = time.perf_counter()
    for number in range(300):
        branch = state.branch()
        assert len(THINGS.items(branch)) == 3
        OTHERS.put(branch, b"new" + number.to_bytes(4, "big"), 0)
        state.merge(branch)
    return time.perf_counter() - start


def test_listing_a_table_costs_no_more_in_a_block_of_many_other_changes():
    measure_list(500)
    # A hundred times as many others; a search of them all would take a hundred times as long.
    assert min(measure_list(50_000) for _ in range(3)) < 20 * min(measure_list(500) for _ in range(3))
