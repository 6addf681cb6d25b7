"""Many new identities of one owner: what they cost, and how much power they can take in one epoch, whatever they compute.

Power stated: however many keys join with however many hits, all keys together gain at most a quarter of all power in an
epoch, so a stable set below two thirds of which is honest cannot be overturned by one Race. Without the limit the same
newcomers hold more than two thirds at once. Splitting one machine over many keys brings deposits to pay and no hit.
"""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import PARAMS, Chain, make_group_key

from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.ledger import nodes
from paceline.ledger.accounts import NODE_DEPOSITS, get_account
from paceline.node.membership.registration import Description, NodeKeys, make_registration
from paceline.protocol import messages as m

HONEST, SYBILS = 4, 8
HITS, SYBIL_HITS = 40, 400
QUARTER, TOTAL = 250_000_000, 1_000_000_000


def join_all(chain, count):
    """Register identities that one account pays for."""
    for index in range(count):
        account = AccountKey.from_secret(hash_parts("sybil", bytes([index])))
        consensus = AccountKey.from_secret(hash_parts("sybil-consensus", bytes([index])))
        keys = NodeKeys(account, consensus, make_group_key(account))
        described = Description(name=f"sybil-{index}", url="", link="", serves=())
        until = chain.height + 50
        registration = make_registration(keys, described, chain.application.chain_id, until)
        chain.send(chain.user, m.RegisterNode(registration))
        chain.keys.append(account)
        chain.group_keys[account.address] = keys.ceremony
    chain.block()


def run_attack(growth_ppm):
    """Share of all power, in parts of TOTAL, that the newcomers hold after their first Race."""
    chain = Chain(HONEST, params=msgspec.structs.replace(PARAMS, power_growth_ppm=growth_ppm))
    chain.block()
    join_all(chain, SYBILS)
    # Equal power before: they take nothing by being there.
    assert sum(chain.node(HONEST + index).voting_power for index in range(SYBILS)) == 0
    last = chain.params.epoch_blocks
    chain.run_until(lambda: chain.height >= last, limit=last)
    chain.run_race([HITS] * HONEST + [SYBIL_HITS] * SYBILS)
    return chain, sum(chain.node(HONEST + index).voting_power for index in range(SYBILS))


@pytest.mark.timeout(240)
def test_newcomers_with_nearly_all_hits_gain_a_quarter_of_power_at_most():
    chain, gained = run_attack(PARAMS.power_growth_ppm)
    # They take all that the limit leaves, and no more.
    assert QUARTER - SYBILS <= gained <= QUARTER
    assert sum(chain.node(index).voting_power for index in range(HONEST)) >= TOTAL - QUARTER
    deposits = get_account(chain.state, NODE_DEPOSITS).balance
    assert deposits == SYBILS * chain.params.node_deposit
    assert sum(nodes.get_weights(chain.state).values()) == HONEST * HITS + SYBILS * SYBIL_HITS


@pytest.mark.timeout(240)
def test_without_the_limit_they_overturn_the_set_in_one_race():
    _, gained = run_attack(1_000_000)
    assert 3 * gained > 2 * TOTAL
