"""The light client against four real validators while most of the power moves from one to another."""

from __future__ import annotations

import pytest
from light_network import move_most_power, run_network

from paceline.base.errors import InvalidBlock
from paceline.cli.light import LightOptions, verify_light
from paceline.engine.light import LightClient, TrustRules, load_trusted
from paceline.engine.light_rpc import HttpLightProvider
from paceline.network.settings import get_unix_milliseconds


def test_client_follows_a_real_chain_across_a_move_of_most_power():
    """From height 1, whose set gave 97 % of the power to a key that is gone at the end."""
    with run_network([1000, 10, 10, 10]) as network:
        moved = move_most_power(network)
        network.wait_for(moved + 3, 1)
        network.wait_for(moved + 3, 2)
        trust_hash = network.ask("commit", 1, height=1)["signed_header"]["commit"]["block_id"]["hash"]
        options = LightOptions(
            url=network.rpc_urls[1],
            witnesses=(network.rpc_urls[2],),
            trust_height=1,
            trust_hash=trust_hash,
            height=moved + 2,
            trusting_period_seconds=3600,
            clock_drift_seconds=10,
        )
        report = verify_light(options)
        assert report.height == moved + 2
        assert (
            report.header_hash.upper()
            == network.record(moved + 2, 2)["commit"]["signed_header"]["commit"]["block_id"]["hash"]
        )
        assert report.agreeing == [network.rpc_urls[2]] and report.silent == []
        assert len(report.path) > 1, "one step reached the end: the power did not move far enough to test halving"
        provider = HttpLightProvider(network.rpc_urls[1])
        client = LightClient(
            load_trusted(provider, 1, bytes.fromhex(trust_hash)), provider, TrustRules(trusting_period_seconds=1)
        )
        with pytest.raises(InvalidBlock, match="expired-trust"):
            client.verify_height(None, get_unix_milliseconds() + 2000)
        provider.close()
