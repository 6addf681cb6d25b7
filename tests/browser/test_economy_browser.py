"""The page "Economy" in a real browser, over the money of a real ledger."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from ledger_stage import EPOCH, VOTING, LedgerGateway
from playwright.sync_api import Browser, Locator, Page, expect
from scripted_gateway import LoopbackServer

from paceline.economy.supply import TOTAL_SUPPLY
from paceline.protocol.prices import VotePrice
from paceline.protocol.proposals import NO, VETO, YES, ApproveMethod, ChangeParameter, PayGrant, Statement

EVIL = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"


@pytest.fixture
def gateway() -> LedgerGateway:
    return LedgerGateway()


def open_economy(page: Page, query: str = "") -> None:
    page.goto(f"/economy{query}")
    expect(page.locator("#live")).to_have_attribute("data-state", "on")


def add_up(page: Page) -> int:
    """Nicoin of all places on the page, as they are written there."""
    cells = page.locator("[data-nicoin]").all_inner_texts()
    whole = [re.fullmatch(r"([0-9,]+)(?:\.([0-9]+))? icon", text) for text in cells]
    return sum(int(found[1].replace(",", "") + (found[2] or "").ljust(9, "0")) for found in whole if found)


def proposal(page: Page, number: int) -> Locator:
    return page.locator(f"[data-proposal='{number}']")


def shoot(page: Page, name: str) -> None:
    """Keep a picture for people when asked to."""
    if folder := os.environ.get("PACELINE_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True, animations="disabled")


def fill(gateway: LedgerGateway) -> None:
    """A network that has settled an epoch, votes on three proposals and has ended others."""
    gateway.work(10, judged=3)
    keys = gateway.chain.keys
    gateway.send(keys[0], VotePrice(2_500_000))
    gateway.send(keys[1], VotePrice(1_250_000))
    gateway.propose("Thank the first hosts by name", "They kept the line going.", Statement())
    gateway.vote(1, YES, 0, 1)
    gateway.propose("Double the fee of a transfer", "Spam.", ChangeParameter("transfer_fee", 2_000))
    gateway.vote(2, NO, 0)
    gateway.vote(2, VETO, 1)
    gateway.propose("Nobody cares about this one", "", Statement())
    gateway.settle()
    gateway.propose(
        "A grant for the translation of the handbook",
        "Two people translate the operators' handbook into five languages.\n\nDelivered in three parts.",
        PayGrant(b"p" * 20, 10**9),
    )
    gateway.vote(4, YES, 0, 2)
    gateway.vote(4, NO, 1)
    gateway.propose(
        "Training method: DiLoCo with 4-bit pseudo-gradients",
        "See the code.",
        ApproveMethod(b"c" * 32, "https://example.org/method-at-hash"),
    )
    gateway.vote(5, VETO, 3)


def test_the_page_is_reached_from_the_dashboard(page: Page):
    page.goto("/")
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Economy").click()
    expect(page).to_have_title("Economy · Paceline")
    expect(page.get_by_role("link", name="Economy")).to_have_attribute("aria-current", "page")
    page.get_by_role("link", name="Network").click()
    expect(page).to_have_title("Paceline")


def test_all_coins_add_up_before_and_after_a_settlement(page: Page, gateway: LedgerGateway):
    open_economy(page)
    assert add_up(page) == TOTAL_SUPPLY
    expect(page.locator("#supply-sum")).to_have_text("1,000,000,000 icon")
    expect(page.locator("[data-place='vesting pay']")).to_contain_text("0 icon")
    gateway.work(4, judged=4)
    gateway.settle()
    expect(page.locator("#height")).to_have_text(str(EPOCH))
    expect(page.locator("[data-place='vesting pay'] .number")).not_to_have_text("0 icon")
    assert add_up(page) == TOTAL_SUPPLY
    expect(page.get_by_role("img", name=re.compile("^Coins by place: core reserve 59.99"))).to_be_visible()


def test_a_vote_on_the_price_shows_up(page: Page, gateway: LedgerGateway):
    open_economy(page)
    voter = page.locator("[data-vote='node-1']")
    expect(voter).to_contain_text("silent")
    expect(voter).to_contain_text("50.00 %")
    page.evaluate("window.mark = 1")
    gateway.send(gateway.chain.keys[0], VotePrice(2_500_000))
    expect(voter).to_contain_text("2.5 micoin")
    expect(voter).to_have_class("fresh")
    expect(page.locator("[data-vote='node-2']")).to_contain_text("silent")
    gateway.send(gateway.chain.keys[1], VotePrice(2_500_000))
    expect(page.locator("#next-price")).to_have_text("2.5 micoin")
    expect(page.get_by_text("30.00 % of the weight is silent")).to_be_visible()
    assert page.evaluate("window.mark") == 1


def test_a_proposal_its_votes_and_its_end_show_up(page: Page, gateway: LedgerGateway):
    open_economy(page)
    expect(page.get_by_text("Nothing is voted on.")).to_be_visible()
    number = gateway.propose("A longer ride", "Because we can.\nSlowly.", Statement())
    card = proposal(page, number)
    expect(card.get_by_role("heading")).to_have_text(f"{number} A longer ride")
    expect(card).to_contain_text(f"{VOTING} blocks left")
    card.get_by_text("Reasons and votes").click()
    card.locator("summary").focus()
    gateway.vote(number, YES, 0, 1)
    expect(card.locator("[data-choice='yes']")).to_have_text("yes 70.00 %")
    # What the reader opened stays open, and the keyboard stays where it was.
    expect(card.get_by_text("Because we can.")).to_be_visible()
    expect(card.get_by_text("node-2 · yes · 20.00 %")).to_be_visible()
    expect(card.locator("summary")).to_be_focused()
    while gateway.economy().governance.proposals[0].status == "voting":
        gateway.tick()
    expect(page.locator(f"[data-ended='{number}']")).to_contain_text("passed")
    expect(card).to_have_count(0)


def test_a_reward_is_explained_as_soon_as_it_is_settled(page: Page, gateway: LedgerGateway):
    open_economy(page)
    expect(page.get_by_text("No epoch is settled yet.")).to_be_visible()
    gateway.work(10, judged=3)
    gateway.settle()
    rewards = {name: gateway.reward(name) for name in (f"node-{number}" for number in range(1, 6))}
    name = next(name for name, reward in rewards.items() if reward and 0 < reward.validation_ppm < 1_000_000)
    page.get_by_role("navigation", name="Nodes").get_by_role("link", name=name).click()
    expect(page).to_have_url(re.compile(rf"node={name}#rewards$"))
    reward = rewards[name]
    card = page.locator("#rewards")
    checking = card.locator("[data-criterion='Checking']")
    expect(checking).to_contain_text(f"judged {reward.fulfilled} of {reward.duties} checks")
    share = f"{reward.validation_ppm // 10_000}.{reward.validation_ppm // 100 % 100:02} %"
    expect(checking).to_contain_text(share)
    expect(checking.get_by_role("meter", name="Checking")).to_have_js_property("value", reward.validation_ppm)
    expect(card.locator(".sums")).to_contain_text([f"{reward.due / 10**9} icon", f"{reward.issued / 10**9} icon"])


def test_invalid_markup_in_a_proposal_stays_text(page: Page, gateway: LedgerGateway):
    number = gateway.propose(EVIL[:100], f"{EVIL}\n</div></article>", ApproveMethod(b"c" * 32, "<b>x</b>"))
    open_economy(page, f"?node={EVIL}")
    card = proposal(page, number)
    expect(card.get_by_role("heading")).to_contain_text(EVIL[:100])
    card.get_by_text("Reasons and votes").click()
    expect(card.locator(".reasons")).to_contain_text("</div></article>")
    expect(page.get_by_text("No node is called")).to_contain_text(EVIL)
    assert page.title() == "Economy · Paceline"
    assert page.locator("img[src='x'], main script, main b:text-is('x')").count() == 0


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (320, "dark")])
def test_no_width_scrolls_sideways(page: Page, gateway: LedgerGateway, width: int, scheme: str):
    fill(gateway)
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    open_economy(page, "?node=node-3")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    shoot(page, f"economy-{width}-{scheme}")


def test_the_page_reads_without_scripts(browser: Browser, server: LoopbackServer, gateway: LedgerGateway):
    shown = gateway.propose("A longer ride", "Why.", Statement())
    context = browser.new_context(java_script_enabled=False, base_url=server.url)
    page = context.new_page()
    page.goto("/economy")
    assert add_up(page) == TOTAL_SUPPLY
    proposal(page, shown).get_by_text("Reasons and votes").click()
    expect(proposal(page, shown).get_by_text("Why.")).to_be_visible()
    page.get_by_role("link", name="node-2").click()
    expect(page.get_by_role("link", name="node-2")).to_have_attribute("aria-current", "true")
    context.close()
