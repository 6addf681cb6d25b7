"""The dashboard in a real browser, over a gateway that follows a script."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from scripted_gateway import EXECUTOR, MODEL, LoopbackServer, ScriptedGateway, build_node, build_status

from paceline.node.views import BlockView, TaskView, TrainingView, UpstreamFailed, VerdictView

EVIL = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
START_MILLISECONDS = 1_760_000_000_000


def build_block(height: int) -> BlockView:
    hex_hash = height.to_bytes(2, "big").hex() * 16
    moment = START_MILLISECONDS + height * 1000
    return BlockView(height=height, app_hash=hex_hash, transactions=height % 5, unix_milliseconds=moment)


def build_task(number: int, *outcomes: str) -> TaskView:
    checkers = ("atlas", "brio")
    verdicts = tuple(
        VerdictView(checker=name, outcome=outcome) for name, outcome in zip(checkers, outcomes, strict=False)
    )
    return TaskView(
        task_id=f"task-{number}",
        executor="dune",
        relay="atlas",
        model=MODEL,
        status="checked" if len(outcomes) == len(checkers) else "answered",
        checkers=checkers,
        verdicts=verdicts,
        cost_nicoin=180_000 + number,
        refunded_nicoin=180_000 + number if "REJECTED" in outcomes else 0,
    )


def fill(gateway: ScriptedGateway, height: int = 1428) -> None:
    """Put a lively network on the stage."""
    blocks = [build_block(number) for number in range(height, height - 40, -1)]
    shared = {"height": height, "app_hash": blocks[0].app_hash}
    names = ("atlas", "brio", "corsa", "dune", "elan")
    powers = (281_000_000, 242_000_000, 219_000_000, 258_000_000, 0)
    nodes = [
        build_node(
            name,
            power,
            **shared,
            roles=("validator", "executor") if index < 4 else ("validator", "trainer"),
            tasks=14 - index,
            checks=7 + index,
            earned_nicoin=12_345_678_901 * (index + 1),
            forfeited_nicoin=3_200_000_000 if name == "elan" else 0,
        )
        for index, (name, power) in enumerate(zip(names, powers, strict=True))
    ]
    gateway.block_list = blocks
    gateway.node_status = replace(
        build_status(*nodes, height=height), app_hash=blocks[0].app_hash, epoch=7, phase="serve and train"
    )
    gateway.task_list = [
        build_task(6),
        build_task(5, "ACCEPTED"),
        build_task(4, "ACCEPTED", "ACCEPTED"),
        build_task(3, "REJECTED", "REJECTED"),
        build_task(2, "ACCEPTED", "UNDECIDED"),
        replace(build_task(1), checkers=(), status="settled"),
    ]
    losses = tuple((number, 4.2 * 0.86**number + 1.5) for number in range(12))
    gateway.training_run = TrainingView(
        run_id="8f41c2d09b77", round=12, rounds=20, losses=losses, trainers=names[2:], rejected=("elan",), status="open"
    )


def open_page(page: Page) -> None:
    page.goto("/")
    expect(page.locator("#live")).to_have_attribute("data-state", "on")


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.get_by_role("button", name="Send").click()


def shoot(page: Page, name: str) -> None:
    """Keep a picture for people when asked to."""
    if folder := os.environ.get("PACELINE_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True, animations="disabled")


def test_nodes_show_their_voting_power(page: Page, gateway: ScriptedGateway):
    fill(gateway)
    open_page(page)
    rows = page.locator("#panel-nodes tbody tr")
    expect(rows).to_have_count(5)
    expect(rows.nth(0)).to_contain_text("atlas")
    expect(rows.nth(0)).to_contain_text("28.1")
    expect(rows.nth(4)).to_contain_text("3.200 coins")
    expect(page.get_by_text("all 5 nodes agree")).to_be_visible()
    expect(page.get_by_text("one sequencer, not Byzantine fault tolerant")).to_be_visible()


def test_blocks_tick_without_reload(page: Page, gateway: ScriptedGateway):
    fill(gateway)
    open_page(page)
    expect(page.locator("#height")).to_have_text("1,428")
    page.evaluate("window.mark = 1")
    fill(gateway, height=1429)
    gateway.announce("block")
    expect(page.locator("#height")).to_have_text("1,429")
    first = page.locator("#panel-blocks tbody tr").first
    expect(first).to_contain_text("1,429")
    expect(first).to_have_class("fresh")
    assert page.evaluate("window.mark") == 1


def test_a_node_that_disagrees_is_named(page: Page, gateway: ScriptedGateway):
    fill(gateway)
    open_page(page)
    nodes = gateway.node_status.nodes
    gateway.node_status = replace(gateway.node_status, nodes=(*nodes[:4], replace(nodes[4], app_hash="00" * 32)))
    gateway.announce("block")
    expect(page.get_by_text("elan hold another state")).to_be_visible()


def test_a_verdict_changes_live(page: Page, gateway: ScriptedGateway):
    fill(gateway)
    open_page(page)
    row = page.locator("tr[data-task='task-6']")
    expect(row).to_contain_text("waiting · atlas")
    gateway.task_list = [build_task(6, "REJECTED", "REJECTED"), *gateway.task_list[1:]]
    gateway.announce("task")
    expect(row.locator(".chip.bad")).to_have_count(2)
    expect(row).to_contain_text("refunded")
    expect(row).to_have_class("fresh")


def test_charts_are_drawn_and_grow(page: Page, gateway: ScriptedGateway):
    fill(gateway)
    open_page(page)
    expect(page.locator("#chart-loss svg .points path")).to_have_count(12)
    expect(page.locator("#chart-power svg .slice")).to_have_count(4)
    run = gateway.training_run
    gateway.training_run = replace(run, round=13, losses=(*run.losses, (12, 1.9)))
    gateway.announce("training")
    expect(page.locator("#chart-loss svg .points path")).to_have_count(13)
    expect(page.get_by_text("round 13 of 20")).to_be_visible()


def test_empty_network_says_what_will_appear(page: Page, gateway: ScriptedGateway):
    open_page(page)
    for text in ("Nodes appear here", "Every paid answer appears here", "No training run yet", "Shares appear once"):
        expect(page.get_by_text(text)).to_be_visible()
    shoot(page, "empty")


def test_the_chat_streams_an_answer_and_later_its_check(page: Page, gateway: ScriptedGateway):
    fill(gateway)
    gateway.hang = True
    gateway.texts = ["The capital of France ", "is Paris."]
    open_page(page)
    ask(page, "What is the capital of France?")
    answer = page.locator(".said.assistant")
    expect(answer).to_have_text("The capital of France is Paris.")
    expect(answer).to_have_class(re.compile("busy"))
    expect(page.locator(".receipt")).to_have_text(re.compile(f"answered by {EXECUTOR}"))
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#chat-hint")).to_have_text("Stopped.")
    assert gateway.closed.wait(5)

    gateway.hang = False
    ask(page, "And of Italy?")
    receipt = page.locator(".receipt").nth(1)
    expect(receipt).to_have_text(re.compile("2 tokens · 10,000 nicoin"))
    assert [message.role for message in gateway.chats[1][1].messages] == ["user", "assistant", "user"]
    expect(receipt).to_contain_text("ACCEPTED by atlas, UNDECIDED by brio")
    gateway.task_list = [build_task(2, "ACCEPTED", "ACCEPTED")]
    gateway.announce("task")
    expect(receipt).to_contain_text("ACCEPTED by atlas, ACCEPTED by brio")


def test_invalid_markup_from_a_model_or_a_name_stays_text(page: Page, gateway: ScriptedGateway):
    fill(gateway)
    nodes = gateway.node_status.nodes
    gateway.node_status = replace(gateway.node_status, nodes=(replace(nodes[0], name=EVIL), *nodes[1:]))
    gateway.texts = [EVIL[:20], EVIL[20:]]
    open_page(page)
    ask(page, EVIL)
    expect(page.locator(".said.assistant")).to_have_text(EVIL)
    expect(page.locator(".said.user")).to_have_text(EVIL)
    expect(page.locator("#panel-nodes tbody tr").first).to_contain_text(EVIL)
    expect(page.locator("#chart-power .legendtext")).to_have_count(4)
    assert page.title() == "Paceline"
    assert page.locator("img[src='x']").count() == 0
    assert page.evaluate("document.querySelectorAll('main script').length") == 0


def test_invalid_question_is_told_and_not_kept(page: Page, gateway: ScriptedGateway):
    open_page(page)
    gateway.fail_before = UpstreamFailed("no node answered")
    ask(page, "hello")
    expect(page.locator("#chat-hint")).to_have_text("no node answered")
    gateway.fail_before = None
    ask(page, "hello again")
    expect(page.locator(".said.assistant")).to_have_text("Hello, world")
    assert len(gateway.chats[-1][1].messages) == 1


def test_a_model_served_later_can_be_chosen(page: Page, gateway: ScriptedGateway):
    gateway.model_ids = []
    open_page(page)
    expect(page.get_by_label("Model")).to_have_value("")
    gateway.model_ids = [MODEL, "second"]
    gateway.announce("block")
    expect(page.get_by_label("Model").locator("option")).to_have_text([MODEL, "second"])
    page.get_by_label("Model").select_option("second")
    gateway.model_ids = ["first", MODEL, "second"]
    gateway.announce("block")
    expect(page.get_by_label("Model").locator("option")).to_have_count(3)
    expect(page.get_by_label("Model")).to_have_value("second")


def test_live_updates_come_back_after_a_break(page: Page, gateway: ScriptedGateway):
    fill(gateway)
    open_page(page)
    assert gateway.watching.acquire(timeout=5)
    gateway.announce(None)
    assert gateway.watching.acquire(timeout=10)
    fill(gateway, height=1500)
    gateway.announce("block")
    expect(page.locator("#height")).to_have_text("1,500")


def test_nothing_is_fetched_from_elsewhere(page: Page, gateway: ScriptedGateway, server: LoopbackServer):
    asked: list[str] = []

    def follow(route: Route) -> None:
        asked.append(route.request.url)
        route.continue_()

    page.route("**/*", follow)
    fill(gateway)
    open_page(page)
    expect(page.locator("#chart-loss svg .points path")).to_have_count(12)
    assert asked
    assert [url for url in asked if not url.startswith(server.url)] == []


@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark"), (320, "light")]
)
def test_no_width_scrolls_sideways(page: Page, gateway: ScriptedGateway, width: int, scheme: str):
    fill(gateway)
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    gateway.texts = ["A pace", "line is riders who take turns at the front. " * 4, "x" * 200]
    open_page(page)
    ask(page, "What is a paceline?")
    expect(page.locator(".receipt")).to_contain_text("nicoin")
    expect(page.locator("#chart-loss svg .points path")).to_have_count(12)
    expect(page.locator("#chart-power svg .slice")).to_have_count(4)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    shoot(page, f"dashboard-{width}-{scheme}")


def test_the_page_reads_without_scripts(browser: Browser, server: LoopbackServer, gateway: ScriptedGateway):
    fill(gateway)
    context = browser.new_context(java_script_enabled=False, base_url=server.url)
    page = context.new_page()
    page.goto("/")
    expect(page.locator("#panel-nodes tbody tr")).to_have_count(5)
    context.close()
