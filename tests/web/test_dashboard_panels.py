"""What the panels say: agreement, shares, amounts, checks; and that text from outside stays text."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scripted_gateway import ENGINE, ScriptedGateway, build_node, build_status

from paceline.node.views import BlockView, TaskView, TrainingView, VerdictView
from paceline.web.panels import (
    ALL_PANELS,
    PANELS_OF,
    Panels,
    describe_checks,
    format_clock,
    format_coins,
    format_share,
    judge_agreement,
    split_engine,
)

EVIL = '<img src=x onerror="alert(1)">'
OTHER_HASH = "bb" * 32


def build_task(**changes: object) -> TaskView:
    task = TaskView(
        task_id="t1",
        executor="n1",
        relay="n0",
        model="m",
        status="answered",
        checkers=("n2", "n3"),
        verdicts=(),
        cost_nicoin=5,
        refunded_nicoin=0,
    )
    return replace(task, **changes)


@pytest.mark.parametrize(
    ("nicoin", "text"),
    [
        (0, "0"),
        (1, "1 nicoin"),
        (999_999, "999,999 nicoin"),
        (1_000_000, "0.001 coins"),
        (1_234_567_899_999, "1,234.567 coins"),
        (-2_500_000_000, "-2.500 coins"),
    ],
)
def test_format_coins(nicoin, text):
    assert format_coins(nicoin) == text


@pytest.mark.parametrize(
    ("part", "total", "text"), [(0, 0, "0.0"), (1, 3, "33.3"), (3, 3, "100.0"), (10**30, 4 * 10**30, "25.0")]
)
def test_format_share(part, total, text):
    assert format_share(part, total) == f"{text}\u00a0%"


def test_format_clock():
    assert format_clock(1_700_000_000_999) == "22:13:20"


@pytest.mark.parametrize(
    ("nodes", "tone", "text"),
    [
        ([], "warn", "no node answers yet"),
        ([build_node("a"), build_node("b")], "good", "all 2 nodes agree"),
        ([build_node("a"), build_node("b", alive=False)], "warn", "1 of 2 nodes agree"),
        ([build_node("a"), build_node("b", app_hash=OTHER_HASH)], "bad", "b hold another state"),
        ([build_node("a"), build_node("b", app_hash=OTHER_HASH, alive=False)], "warn", "1 of 2 nodes agree"),
        ([build_node("a", height=2, app_hash=OTHER_HASH), build_node("b")], "good", "all 2 nodes agree"),
        ([build_node("a", height=9, app_hash=OTHER_HASH), build_node("b")], "warn", "1 of 2 nodes agree"),
    ],
)
def test_agreement_compares_each_node_at_its_own_height(nodes, tone, text):
    blocks = [BlockView(height=2, app_hash=OTHER_HASH, transactions=0, unix_milliseconds=0)]
    found = judge_agreement(build_status(*nodes), blocks)
    assert (found.tone, found.text) == (tone, text)


def test_engine_says_what_it_is():
    assert split_engine("cometbft") == ("cometbft", "cometbft")
    assert split_engine(ENGINE) == ("solo", "one sequencer, not Byzantine fault tolerant")


def test_checks_in_words():
    assert describe_checks(build_task(checkers=())) == "no checker drawn"
    assert describe_checks(build_task()) == "waiting for n2, waiting for n3"
    caught = (VerdictView(checker="n2", outcome="REJECTED", reason="cheaper model"),)
    told = describe_checks(build_task(verdicts=caught, refunded_nicoin=5))
    assert told == "REJECTED by n2, waiting for n3, 5 nicoin refunded"


def test_every_panel_renders_when_empty():
    panels = Panels(ScriptedGateway())
    assert all(panels.render(name) for name in ALL_PANELS)
    assert {name for names in PANELS_OF.values() for name in names} == set(ALL_PANELS)
    assert "appear" in panels.render("nodes") + panels.render("tasks")


def test_invalid_markup_in_any_text_stays_text():
    gateway = ScriptedGateway()
    gateway.node_status = replace(
        build_status(build_node(EVIL, 1, address=EVIL, app_hash=EVIL, roles=(EVIL,))), engine=EVIL, phase=EVIL
    )
    gateway.block_list = [BlockView(height=1, app_hash=EVIL, transactions=1, unix_milliseconds=1)]
    verdict = VerdictView(checker=EVIL, outcome=EVIL, reason=EVIL)
    gateway.task_list = [
        build_task(
            task_id=EVIL, executor=EVIL, relay=EVIL, model=EVIL, status=EVIL, checkers=(EVIL, "x"), verdicts=(verdict,)
        )
    ]
    gateway.training_run = TrainingView(
        run_id=EVIL, round=1, rounds=2, losses=((0, 1.5),), trainers=(EVIL,), rejected=(EVIL,), status=EVIL
    )
    panels = Panels(gateway)
    page = panels.render_page(lambda name: name, api_keys_required=True)
    assert "onerror=&#34;" in page
    assert "<img src=x" not in page
    assert panels.render("loss") == '{"rounds":[0],"losses":[1.5]}'
