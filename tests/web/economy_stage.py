"""Views of money for the scripted gateway: a network at its genesis, to be changed with `replace`."""

from __future__ import annotations

from paceline.node.chains.economy import EconomyStatus, IssuanceStatus, Place, PriceStatus, RewardLine
from paceline.node.chains.pools import Holding, PoolStatus
from paceline.node.chains.proposals import GovernanceStatus, ProposalLine, Shares
from paceline.node.economy_views import EconomyView

COIN = 10**9
SUPPLY = 10**9 * COIN
GENESIS = {"core reserve": 600, "top hosts": 120, "liquidity pool": 120, "founders": 160}


def build_places(**millions: int) -> list[Place]:
    """Places with their millions of coins; underscores stand for spaces."""
    amounts = GENESIS | {name.replace("_", " "): amount for name, amount in millions.items()}
    return [
        Place(name=name, nicoin=amount * 10**6 * COIN, share_ppm=amount * 1_000) for name, amount in amounts.items()
    ]


def build_view(**changes: object) -> EconomyView:
    """Genesis: nobody has weight, nothing is proposed, nothing is settled."""
    fields = {
        "economy": EconomyStatus(
            height=3,
            supply=SUPPLY,
            places=build_places(),
            issuance=IssuanceStatus(
                batch=1, batches=12, subsidy_ppm=900_000, issued=0, left_in_batch=50_000_000 * COIN, floor=5 * COIN
            ),
            prices=build_prices(),
        ),
        "governance": build_governance(),
        "pool": build_pool(),
        "nodes": (),
        "settled": None,
    }
    return EconomyView(**{**fields, **changes})


def build_prices(**changes: object) -> PriceStatus:
    """A price of one micoin and no vote."""
    fields = {
        "height": 3,
        "epoch": 0,
        "epoch_ends": 20,
        "unit_price": 10**6,
        "next_price": 10**6,
        "votes": [],
        "models": [],
    }
    return PriceStatus(**{**fields, **changes})


def build_governance(*proposals: ProposalLine, **changes: object) -> GovernanceStatus:
    """These proposals, and nothing else decided."""
    fields = {
        "height": 3,
        "edge": 21,
        "deposit": COIN,
        "fee": 1_000,
        "voting_blocks": 10,
        "quorum_ppm": 334_000,
        "fund": 0,
        "proposals": list(proposals),
        "parameters": [],
        "models": [],
        "methods": [],
        "experiments": [],
    }
    return GovernanceStatus(**{**fields, **changes})


def build_proposal(number: int, **changes: object) -> ProposalLine:
    """A statement under vote, on which nobody has voted."""
    fields = {
        "number": number,
        "status": "voting",
        "reason": "",
        "title": f"Title {number}",
        "text": "Why.",
        "kind": "text",
        "action": {},
        "author": "brio",
        "deposit": COIN,
        "opened_at": 1,
        "ends_at": 11,
        "shares": Shares(yes_ppm=0, no_ppm=0, abstain_ppm=0, veto_ppm=0),
        "votes": [],
    }
    return ProposalLine(**{**fields, **changes})


def build_pool(**changes: object) -> PoolStatus:
    """Nothing was sold yet."""
    fields = {
        "height": 3,
        "price": 10_000,
        "last_price": 0,
        "sold": 0,
        "returned": 0,
        "left": 120_000_000 * COIN,
        "balance": 0,
        "redeemable": 0,
        "coverage_ppm": 0,
        "asset_outstanding": 0,
        "account": Holding(coins=0, dollars=0, redeemable=0),
    }
    return PoolStatus(**{**fields, **changes})


def build_reward_line(node: str, **changes: object) -> RewardLine:
    """An honest node that answered everything but missed a tenth of its checks and a twentieth of the blocks."""
    fields = {
        "node": node,
        "epoch": 0,
        "tasks": 8,
        "checks": 9,
        "due": 2 * COIN,
        "share": 30 * COIN,
        "part_ppm": 1_000_000,
        "is_guilty": False,
        "is_fooled": False,
        "duties": 20,
        "fulfilled": 17,
        "drawn": 8,
        "answered": 8,
        "absence_ppm": 50_000,
        "missed_blocks": 20,
        "epoch_blocks": 400,
        "accuracy_ppm": 1_000_000,
        "validation_ppm": 900_000,
        "work_ppm": 1_000_000,
        "presence_ppm": 950_000,
        "share_ppm": 855_000,
        "released": 1_710_000_000,
        "issued": 25_650_000_000,
        "besides": 0,
        "forfeited": 290_000_000,
        "freed": 0,
        "still_vesting": 27_360_000_000,
    }
    return RewardLine(**{**fields, **changes})
