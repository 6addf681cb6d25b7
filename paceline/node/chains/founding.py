"""Makes a genesis: the first nodes with their three keys, and the ceremony of the first group among them.

Each founder's secrets must be at hand, which is so for a network on one machine. It writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paceline.base.keys import AccountKey
from paceline.economy.committee import choose_committee
from paceline.ledger import groups
from paceline.node.ceremony import CeremonyKey, make_dealing
from paceline.protocol.genesis import (
    Genesis,
    GenesisAccount,
    GenesisAsset,
    GenesisDollars,
    GenesisNode,
    GenesisQuote,
)
from paceline.protocol.params import NetworkParams


@dataclass(frozen=True, kw_only=True)
class Founder:
    """One of the first nodes. `consensus_key` is the public half only."""

    name: str
    key: AccountKey
    consensus_key: bytes
    ceremony_key: CeremonyKey
    weight: int
    serves: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Founding:
    """What a genesis is made from. The first founder orders blocks under the solo engine."""

    network: str
    params: NetworkParams
    founders: Sequence[Founder]
    accounts: tuple[GenesisAccount, ...]
    bootstrap: bytes
    test_dollars: tuple[GenesisDollars, ...] = ()
    test_assets: tuple[GenesisAsset, ...] = ()
    quotes: tuple[GenesisQuote, ...] = ()


def build_genesis(founding: Founding) -> Genesis:
    """The genesis, with the first group's ceremony in it."""
    keys = {founder.key.address: founder.ceremony_key for founder in founding.founders}
    weights = {founder.key.address: founder.weight for founder in founding.founders}
    return Genesis(
        network=founding.network,
        params=founding.params,
        nodes=tuple(_describe(founder, founding.network) for founder in founding.founders),
        accounts=founding.accounts,
        sequencer=founding.founders[0].key.public_key,
        beacon=founding.bootstrap,
        dealings=_run_ceremony(founding, weights, keys),
        test_dollars=founding.test_dollars,
        test_assets=founding.test_assets,
        quotes=founding.quotes,
    )


def _describe(founder: Founder, network: str) -> GenesisNode:
    return GenesisNode(
        name=founder.name,
        public_key=founder.key.public_key,
        consensus_key=founder.consensus_key,
        group_key=founder.ceremony_key.public_key,
        possession=founder.ceremony_key.prove_possession(network),
        weight=founder.weight,
        serves=founder.serves,
    )


def _run_ceremony(
    founding: Founding, weights: Mapping[bytes, int], keys: Mapping[bytes, CeremonyKey]
) -> tuple[bytes, ...]:
    """One dealing from each member, every share checked by whom it is for."""
    committee = choose_committee(weights, founding.bootstrap, slots_per_member=founding.params.slots_per_member)
    label = groups.compute_genesis_label(founding.network, founding.bootstrap)
    public_keys = {address: key.public_key for address, key in keys.items()}
    dealings = {}
    for address, _ in committee.members:
        context = groups.compute_context(label, 1, address)
        secret = keys[address].dealer_secret
        dealings[address] = make_dealing(secret, committee.threshold, committee.members, public_keys, context)
    records = {a: groups.decode_dealing(data, committee.threshold, committee.slots) for a, data in dealings.items()}
    for address, _ in committee.members:
        assert not keys[address].find_bad_dealers(1, committee.members, records, label), "a founder dealt wrongly"
    return tuple(dealings[address] for address, _ in committee.members)
