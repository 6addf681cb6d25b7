"""What the page "Economy" says: sums, batches, votes, proposals, reasons of rewards; and that text of the ledger stays text."""

from __future__ import annotations

import re

import httpx
import msgspec
import pytest
from economy_stage import (
    COIN,
    GENESIS,
    build_governance,
    build_places,
    build_pool,
    build_prices,
    build_proposal,
    build_reward_line,
    build_view,
)
from scripted_gateway import LoopbackServer, ScriptedGateway, read_events

from paceline.ledger.accounts import POOLS
from paceline.node.chains.economy import IssuanceStatus, ModelPrice, PriceVote
from paceline.node.chains.pools import AssetLine
from paceline.node.chains.proposals import CastVote, ParameterLine, Shares
from paceline.web.economy_panels import (
    GROUPS,
    NAMES,
    NAMES_OF,
    EconomyPanels,
    describe_action,
    describe_status,
    format_ppm,
    group_places,
    list_criteria,
    measure_batches,
)
from paceline.web.settings import WebSettings

EVIL = '<img src=x onerror="alert(1)">'


def render(name: str, gateway: ScriptedGateway, node: str = "") -> str:
    """A panel as its reader sees it: tags gone, white space joined."""
    html = EconomyPanels(gateway, node).render(name)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html)).replace("\u00a0", " ")


def with_economy(**changes: object) -> ScriptedGateway:
    gateway = ScriptedGateway()
    economy = gateway.economy_view.economy
    gateway.economy_view = build_view(economy=msgspec.structs.replace(economy, **changes))
    return gateway


def test_every_panel_renders_at_genesis():
    gateway = ScriptedGateway()
    told = " ".join(render(name, gateway) for name in NAMES)
    assert "All 1,000,000,000 icon stand in exactly one place each" in told
    for empty in ("No node has weight yet", "Models appear here", "Nothing is voted on", "No epoch is settled yet"):
        assert empty in told
    assert "17 blocks left" in told and "tUSD, tETH, tBTC: test assets without value" in told
    assert {name for names in NAMES_OF.values() for name in names} == set(NAMES)


def test_a_sum_that_is_not_the_supply_is_told():
    gateway = with_economy(places=build_places(founders=159))
    assert "All 999,000,000 icon : this is not the supply of 1,000,000,000 icon" in render("supply", gateway)


def test_before_the_first_block_there_is_nothing_to_add_up():
    gateway = with_economy(height=0, places=build_places(**dict.fromkeys(GENESIS, 0)))
    assert "Genesis places all 1,000,000,000 icon with the first block" in render("supply", gateway)


def test_places_without_a_group_are_shown_and_counted():
    groups = group_places(build_places(founders=150, tomorrow=10))
    assert [(group.name, [place.name for place in group.places]) for group in groups][-1] == ("Elsewhere", ["tomorrow"])
    assert sum(group.nicoin for group in groups) == 10**9 * COIN
    assert len({name for _, _, members in GROUPS for name in members}) == sum(len(members) for _, _, members in GROUPS)


def test_every_place_of_the_ledger_has_a_group():
    named = {name for _, _, members in GROUPS for name in members}
    assert named == {*POOLS, "accounts of nodes", "other accounts"}


@pytest.mark.parametrize(
    ("batch", "issued", "left", "fills"),
    [
        (1, 0, 50, [0] * 12),
        (1, 20, 30, [400_000] + [0] * 11),
        (3, 125, 25, [1_000_000] * 2 + [500_000] + [0] * 9),
        (12, 600, 0, [1_000_000] * 12),
    ],
)
def test_boundary_of_batches(batch, issued, left, fills):
    status = IssuanceStatus(batch=batch, batches=12, subsidy_ppm=1, issued=issued, left_in_batch=left, floor=0)
    assert measure_batches(status) == fills


@pytest.mark.parametrize(("ppm", "text"), [(0, "0.00"), (99, "0.00"), (123_456, "12.34"), (1_000_000, "100.00")])
def test_format_ppm(ppm, text):
    assert format_ppm(ppm) == f"{text}\u00a0%"


def test_votes_are_ordered_by_weight_and_silence_is_marked():
    votes = [
        PriceVote(node="atlas", weight_ppm=250_000, price=0),
        PriceVote(node="brio", weight_ppm=750_000, price=2_500_000),
    ]
    models = [ModelPrice(model="letters", micro_units=500_000, token_price=500_000, listed=False, hosts=1)]
    gateway = with_economy(prices=build_prices(votes=votes, models=models, next_price=2_500_000))
    told = render("price", gateway)
    assert re.search(r"brio .*75\.00 % .*2\.5 micoin .*atlas .*25\.00 % .*silent", told)
    assert "2.5 micoin if this one ended now, after 1 micoin in this epoch. 25.00 % of the weight is silent" in told
    assert "letters 1 host · not in the registry 500 uicoin 0.5 units of compute" in render("tokens", gateway)


def test_proposals_show_their_votes_and_what_is_left():
    gateway = ScriptedGateway()
    cast = CastVote(node="atlas", choice="yes", weight_ppm=400_000)
    shares = Shares(yes_ppm=400_000, no_ppm=100_000, abstain_ppm=0, veto_ppm=0)
    gateway.economy_view = build_view(
        governance=build_governance(
            build_proposal(1, status="failed", reason="the fund holds less"),
            build_proposal(2, status="no-quorum"),
            build_proposal(3, shares=shares, votes=[cast], kind="grant", action={"to": "ab" * 20, "amount": 5 * COIN}),
        )
    )
    told = render("proposals", gateway)
    assert f"Pays 5 icon of the training fund to {'ab' * 20}." in told
    assert "8 blocks left (up to height 11) · 50.00 % of all weight has voted, at least 33.40 % must" in told
    assert "atlas · yes · 40.00 %" in told and "with a deposit of 1 icon" in told
    assert re.search(
        r"2 Title 2 .*too few voted, deposit lost.* 1 Title 1 .*could not be done the fund holds less", told
    )
    gateway.economy_view = build_view(governance=build_governance(build_proposal(1, author="ab" * 20)))
    assert f"proposed by account {'ab' * 6}…" in render("proposals", gateway)


def test_every_kind_of_proposal_has_its_sentence():
    bounds = {"value": 1, "genesis_value": 1, "low": 0, "high": 9, "unit": "nicoin", "sentence": "what it pays"}
    governance = build_governance(parameters=[ParameterLine(name="transfer_fee", **bounds)])
    entry = {"name": "letters", "micro_units": 2_500_000, "licence": "MIT"}
    told = {
        "parameter": {"name": "transfer_fee", "value": 2_000},
        "model": {"entry": entry},
        "method": {"locator": "https://example.org", "code_hash": ""},
        "experiment": {"method": 3, "budget": 7 * COIN},
        "upgrade": {"name": "v2", "height": 5_000},
        "text": {},
        "unheard": {},
    }
    found = {
        kind: describe_action(build_proposal(1, kind=kind, action=action), governance) for kind, action in told.items()
    }
    assert found == {
        "parameter": "Sets transfer_fee (what it pays) to 2,000 nicoin from the first height of an epoch on.",
        "model": "Enters the model letters in the registry: 2.5 units of compute a token, licence MIT.",
        "method": "Approves the training method at https://example.org.",
        "experiment": "Reserves 7 icon of the training fund for a run by the method of proposal 3.",
        "upgrade": "Sets the upgrade v2 for height 5,000.",
        "text": "Puts its text on record.",
        "unheard": "An action of the kind unheard.",
    }
    unknown = build_proposal(1, kind="parameter", action={"name": "gone", "value": 2})
    assert describe_action(unknown, governance) == "Sets gone to 2 from the first height of an epoch on."
    assert describe_status("executed") == ("passed and done", "good")
    assert describe_status("unheard") == ("unheard", "calm")


def test_a_reward_is_explained_in_words_and_numbers():
    gateway = ScriptedGateway()
    gateway.economy_view = build_view(nodes=("atlas", "brio"), settled=0)
    gateway.reward_lines = {"brio": build_reward_line("brio", besides=COIN)}
    told = render("rewards", gateway, "brio")
    for part in (
        "In epoch 0 brio did 8 answers and updates and 9 checks",
        "Held for finished work after the training fund's share 2 icon",
        "Checking judged 17 of 20 checks that it was drawn for; one is forgiven 90.00 %",
        "Presence missed 20 of 400 blocks 95.00 %",
        "Together of what was held, and of the new coins 85.50 %",
        "Released of what was held 1.71 icon",
        "Besides bounties, jackpots and fees of reports, free at once 1 icon",
        "unless the node is found cheating 27.36 icon",
    ):
        assert part in told
    gateway.reward_lines = {"brio": build_reward_line("brio", is_guilty=True, accuracy_ppm=0, share_ppm=0)}
    assert "with what vested, less what was paid out of both 2 icon" in render("rewards", gateway, "brio")
    assert "atlas was no node when epoch 0 was settled" in render("rewards", gateway)
    assert "No node is called nobody" in render("rewards", gateway, "nobody")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "no result was found false"),
        ({"is_guilty": True}, "a majority of all weight found a result false, so everything held is lost"),
        ({"is_fooled": True}, "it passed forced errors, so its checks are worth nothing"),
    ],
)
def test_accuracy_has_its_reason(changes, sentence):
    assert list_criteria(build_reward_line("a", **changes))[0].sentence == sentence


def test_a_node_that_was_drawn_for_nothing_is_not_blamed():
    work = list_criteria(build_reward_line("a", drawn=0, answered=0))[2]
    assert work.sentence == "no task was drawn for it to answer"


def test_the_pool_says_how_much_of_the_redeemable_coins_it_covers():
    gateway = ScriptedGateway()
    sold = build_pool(balance=12_500_000, last_price=10_000, redeemable=5_000 * COIN, coverage_ppm=250_000)
    gateway.economy_view = build_view(pool=sold)
    told = render("pool", gateway)
    assert "holds 12.5 tUSD, enough for 25.00 % of the coins that may be redeemed at 0.01 tUSD" in told


def test_the_pool_lists_each_asset_with_its_quote():
    numbers = {"accounts": 0, "buy_quote": 1, "redeem_quote": 1, "worth": 0}
    ether = AssetLine(asset="tETH", pool=1_500_000_000, quote=2_500_000_000, epoch=3, height=360, **numbers)
    bitcoin = AssetLine(asset="tBTC", pool=0, quote=0, epoch=0, height=0, **numbers)
    gateway = ScriptedGateway()
    gateway.economy_view = build_view(pool=build_pool(assets=[ether, bitcoin]))
    told = render("pool", gateway)
    assert "holds 0 tUSD, 1.5 tETH at 2,500 tUSD each (quote of epoch 3, recorded at height 360)." in told
    assert "tBTC at" not in told, "without a quote it is not taken"


def test_invalid_markup_of_the_ledger_stays_text():
    gateway = ScriptedGateway()
    open_one = build_proposal(
        1, title=EVIL, text=f"{EVIL}\n</div>", author=EVIL, votes=[CastVote(node=EVIL, choice=EVIL, weight_ppm=1)]
    )
    locator = build_proposal(
        2, kind="method", action={"locator": EVIL}, status=EVIL, title=EVIL, reason=EVIL, author=EVIL
    )
    economy = msgspec.structs.replace(
        gateway.economy_view.economy,
        places=[*build_places(), *(place for place in build_places(**{EVIL: 0}) if place.name == EVIL)],
        prices=build_prices(
            votes=[PriceVote(node=EVIL, weight_ppm=1, price=1)],
            models=[ModelPrice(model=EVIL, micro_units=1, token_price=1, listed=True, hosts=0)],
        ),
    )
    gateway.economy_view = build_view(
        economy=economy, governance=build_governance(open_one, locator), nodes=(EVIL,), settled=0
    )
    gateway.reward_lines = {EVIL: build_reward_line(EVIL)}
    for node in (EVIL, f'"{EVIL}'):
        page = EconomyPanels(gateway, node).render_page(lambda name: name)
        assert "<img src=x" not in page and "</div></div></div>" not in page.replace("\n", "")
        assert "onerror=&#34;" in page
        attribute = re.search(r'<body data-events="([^"]*)"', page)
        assert attribute is not None and "<" not in attribute[1]


def test_the_page_is_served_whole_and_linked(http: httpx.Client, gateway: ScriptedGateway):
    assert '<a href="/economy">Economy</a>' in http.get("/").text
    page = http.get("/economy", params={"node": "atlas"})
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert '<a href="/economy" aria-current="page">Economy</a>' in page.text
    assert 'data-events="/economy/events?node=atlas"' in page.text
    assert not re.search(r"(src|href)=\"(https?:)?//", page.text)
    assert len(re.findall(r"<script", page.text)) == 1


def test_events_send_the_panels_of_this_page_only(http: httpx.Client, gateway: ScriptedGateway):
    with http.stream("GET", "/economy/events") as reply:
        events = read_events(reply.iter_lines())
        assert [next(events)[0] for _ in NAMES] == list(NAMES)
        assert gateway.watching.acquire(timeout=5)
        gateway.announce("task")
        gateway.economy_view = build_view(pool=build_pool(balance=7_000_000))
        gateway.announce("block")
        name, html = next(events)
        assert name == "pool" and "7 tUSD" in html
        gateway.announce(None)
        assert list(events) == []


def test_boundary_of_viewers_counts_both_pages(gateway: ScriptedGateway):
    with (
        LoopbackServer(gateway, WebSettings(max_viewers=1)) as server,
        httpx.Client(trust_env=False, verify=False) as http,
        http.stream("GET", f"{server.url}/economy/events") as first,
    ):
        # Kept, since a stream ends with the iterator over it.
        first_lines = first.iter_lines()
        assert next(first_lines)
        assert http.get(f"{server.url}/events").status_code == 429
        assert http.get(f"{server.url}/economy/events").status_code == 429
