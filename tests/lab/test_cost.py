"""Bills by hand, bills that never fall when an input gets dearer, and the hours that are billed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.lab.cost import (
    ALONE,
    Bill,
    Message,
    Work,
    bill_alone,
    bill_cloud,
    bill_network,
    compute_loss_factor,
    compute_wait_share,
)
from paceline.lab.cost_inputs import FINE_TUNE, KNOWN, TOKENS, TRAIN, WORKS, list_names

ANSWERS = Work(kind=TOKENS)
RUN = Work(kind=TRAIN, params=1e9, machines=8, messages=(Message(every=10, sent=112.5e6, received=1e6),))
TOKEN_VALUES = {
    "tokens": 3.6e6,
    "cloud_price": 2.0,
    "network_price": 1.0,
    "cloud_speed": 1000.0,
    "network_speed": 1000.0,
    "cloud_utilisation": 0.5,
    "cloud_extra": 0.25,
    "network_utilisation": 0.5,
    "network_efficiency": 0.8,
    "network_retries": 0.1,
    "network_checking": 0.12,
    "network_race": 0.0,
    "network_fund": 0.2,
    "subsidy": 0.9,
}
RUN_VALUES = {
    "tokens": 288e6,
    "cloud_price": 2.0,
    "network_price": 1.0,
    "cloud_speed": 1000.0,
    "network_speed": 1000.0,
    "cloud_setup_hours": 1.5,
    "cloud_billing_seconds": 1.0,
    "cloud_interruptions": 0.01,
    "cloud_lost_hours": 2.5,
    "cloud_extra": 0.5,
    "network_efficiency": 0.8,
    "network_setup_hours": 0.5,
    "network_link_mbits": 8.0,
    "network_link_share": 0.5,
    "network_batch_tokens": 36_000.0,
    "network_extra_tokens": 0.25,
    "network_interruptions": 0.1,
    "network_lost_hours": 2.0,
    "network_audits": 0.4,
    "network_race": 0.25,
    "network_fund": 0.2,
    "subsidy": 0.5,
}
"""80 GPU-hours on eight GPUs, and numbers that keep every factor a short fraction."""


def test_answers_of_one_gpu_hour_by_hand():
    cloud = bill_cloud(ANSWERS, TOKEN_VALUES)
    assert [amount for _, amount in cloud.parts] == pytest.approx([2.0, 2.0, 1.0])
    network = bill_network(ANSWERS, TOKEN_VALUES)
    # 1 / 0.8 = 1.25; / 0.5 = 2.5; * 1.1 = 2.75; / 0.88 = 3.125; / 0.8 = 3.90625; a tenth of it is left to the user.
    assert [amount for _, amount in network.parts] == pytest.approx([1, 0.25, 1.25, 0.25, 0.375, 0.78125, -3.515625])
    assert network.dollars == pytest.approx(0.390625)


def test_a_run_on_the_cloud_by_hand():
    bill = bill_cloud(RUN, RUN_VALUES)
    # 80 h * 2 = 160; 8 * 0.01 * 2.5 = 0.2 lost, so * 1.25; 1.5 h of 8 GPUs = 24; half of 224 on top.
    assert [amount for _, amount in bill.parts] == pytest.approx([160, 40, 24, 112])
    assert (bill.hours, bill.restarts) == (pytest.approx(14.0), pytest.approx(1.0))


def test_a_run_on_the_network_by_hand():
    bill = bill_network(RUN, RUN_VALUES)
    # A step takes 36000 / 800 = 45 s, ten of them 450 s; 112.5 MB at 0.5 MB/s take 225 s.
    assert compute_wait_share(RUN, RUN_VALUES) == pytest.approx(0.5)
    expected = [80, 20, 25, 62.5, 46.875, 4, 50, 288.375 / 3, 384.5 / 4, -480.625 / 2]
    assert [amount for _, amount in bill.parts] == pytest.approx(expected)
    assert bill.dollars == pytest.approx(240.3125)
    busy = 10 * 1.25 / 0.8 * 1.5 * 1.25
    assert bill.hours == pytest.approx((busy + 0.5) / 0.75)
    assert bill.restarts == pytest.approx(0.1 * 8 * busy)
    assert bill.bytes_sent == pytest.approx(288e6 * 1.25 / 36_000 * 11.25e6)


def test_whoever_trusts_the_machines_pays_no_check_no_race_no_fund_and_gets_no_coins():
    assert bill_alone(RUN, RUN_VALUES).dollars == pytest.approx(238.375)
    assert bill_alone(ANSWERS, TOKEN_VALUES).dollars == pytest.approx(1 / 0.5)
    unpaid = {**RUN_VALUES, **ALONE}
    assert bill_alone(RUN, unpaid).dollars == bill_network(RUN, unpaid).dollars


def test_ten_short_jobs_by_the_second_and_by_the_started_hour():
    job = {**RUN_VALUES, "tokens": 1200 * 1000.0, "cloud_price": 3.0, "cloud_setup_hours": 0.0, "cloud_extra": 0.0}
    job |= {"cloud_interruptions": 0.0}
    alone = Work(kind=FINE_TUNE, params=1e9)
    assert 10 * bill_cloud(alone, job).dollars == pytest.approx(10.0)
    assert 10 * bill_cloud(alone, job | {"cloud_billing_seconds": 3600.0}).dollars == pytest.approx(30.0)


def test_a_message_that_may_be_late_is_not_waited_for():
    late = Work(kind=TRAIN, params=1e9, machines=8, messages=(Message(every=10, sent=112.5e6, received=0, delay=5),))
    assert compute_wait_share(late, RUN_VALUES) == 0.0
    sooner = Work(kind=TRAIN, params=1e9, machines=8, messages=(Message(every=10, sent=112.5e6, received=0, delay=1),))
    assert compute_wait_share(sooner, RUN_VALUES) == pytest.approx(180 / 450)
    heard = Work(kind=TRAIN, params=1e9, machines=8, messages=(Message(every=10, sent=1.0, received=112.5e6),))
    assert compute_wait_share(heard, RUN_VALUES) == pytest.approx(0.5)


def test_a_run_that_loses_as_much_as_it_does_never_ends():
    assert compute_loss_factor(0.5, 2.0) == math.inf
    for run, key in ((bill_cloud, "cloud_interruptions"), (bill_network, "network_interruptions")):
        bill = run(RUN, RUN_VALUES | {key: 0.5})
        assert math.isinf(bill.dollars) and math.isinf(bill.hours)


def test_work_and_memory_of_whole_models_and_of_adapters():
    whole = Work(kind=TRAIN, params=1e9)
    assert (whole.flops_per_token, whole.memory_bytes) == (6e9, 16e9)
    adapter = Work(kind=FINE_TUNE, params=1e9, adapter_params=1e7)
    assert (adapter.flops_per_token, adapter.memory_bytes) == (4e9 + 6e7, 2e9 + 16e7)
    assert Work(kind=FINE_TUNE, params=1e9).memory_bytes == 16e9
    assert Work(kind=TOKENS, params=1e9).memory_bytes == 2e9


def test_parts_add_up_and_a_factor_of_one_is_none():
    bill = Bill()
    bill.plus("a", 2.0)
    bill.times("b", 1.0)
    bill.times("c", 1.5)
    assert bill.parts == [("a", 2.0), ("c", 1.0)] and bill.dollars == 3.0


def draw_values(kind):
    ranges = {
        name: st.floats(max(KNOWN[name].least, 1e-3), min(KNOWN[name].most, 1e6 if name == "tokens" else 50))
        for name in list_names(kind)
    }
    return st.fixed_dictionaries(ranges)


@st.composite
def draw_cases(draw):
    kind = draw(st.sampled_from(WORKS))
    messages = tuple(
        Message(every=draw(st.integers(1, 500)), sent=draw(st.floats(0, 1e9)), received=draw(st.floats(0, 1e9)))
        for _ in range(draw(st.integers(0, 2)))
    )
    work = Work(
        kind=kind, params=1e9, machines=draw(st.integers(1, 64)), gpus=draw(st.integers(1, 8)), messages=messages
    )
    name = draw(st.sampled_from([name for name in list_names(kind) if not KNOWN[name].single]))
    return work, draw(draw_values(kind)), name, draw(st.floats(1.0, 3.0))


@settings(max_examples=400, deadline=None)
@given(draw_cases())
def test_no_bill_falls_when_an_input_gets_dearer(case):
    work, values, name, factor = case
    kind = KNOWN[name]
    moved = min(kind.most, values[name] * factor) if kind.dearer else max(kind.least, values[name] / factor)
    changed = {**values, name: moved}
    for compute in (bill_cloud, bill_network, bill_alone):
        # A batch that is cut smaller, or a run that loses all, is compared with the rounding of floats.
        assert compute(work, changed).dollars >= compute(work, values).dollars * (1 - 1e-9)


@settings(max_examples=200, deadline=None)
@given(draw_cases(), st.floats(1.0, 10.0))
def test_a_dearer_cloud_never_makes_the_cloud_win(case, factor):
    work, values, _, _ = case
    dearer = {**values, "cloud_price": values["cloud_price"] * factor}
    if bill_network(work, values).dollars < bill_cloud(work, values).dollars:
        assert bill_network(work, dearer).dollars < bill_cloud(work, dearer).dollars


@settings(max_examples=200, deadline=None)
@given(draw_cases())
def test_parts_add_up_to_the_bill(case):
    work, values, _, _ = case
    for compute in (bill_cloud, bill_network, bill_alone):
        bill = compute(work, values)
        if math.isfinite(bill.dollars):
            assert sum(amount for _, amount in bill.parts) == pytest.approx(bill.dollars, rel=1e-9, abs=1e-9)
