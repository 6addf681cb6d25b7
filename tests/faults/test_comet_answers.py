"""Answers on a chain that four validators order with CometBFT: asked, checked, paid, and proven by a receipt offline."""

from __future__ import annotations

import httpx
import openai
import pytest
from up_process import wait_until

import paceline
from paceline.base.errors import InvalidClaim
from paceline.cli.light import LightOptions, verify_light
from paceline.cli.receipt import check_receipt_file, save_receipt
from paceline.engine.light_blocks import decode_light_block
from paceline.node.answers.receipt_facts import decode_receipt
from paceline.node.settings import COMETBFT, load_settings

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

MODEL = "smollm2-135m-instruct"
MESSAGES = [{"role": "user", "content": "Name three rivers."}]
START_SECONDS = 400.0
SOON_SECONDS = 120.0


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    home = tmp_path_factory.mktemp("comet") / "home"
    with paceline.local_network(nodes=4, home=home, seed=6, engine=COMETBFT, block_seconds=0.5) as network:
        network.wait(lambda report: report.race.phase == "done", START_SECONDS, "the first Race")
        yield network


def ask(net) -> dict:
    with net.openai_client(max_retries=0, timeout=120) as client:
        return client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=16, seed=4).paceline


def is_answered(net) -> bool:
    try:
        return bool(ask(net))
    except openai.APIError:
        return False


def test_an_answer_is_proven_to_whoever_trusts_one_header(net, tmp_path):
    wait_until(lambda: is_answered(net), SOON_SECONDS, "a session for the new weights")
    task = ask(net)["task"]
    wait_until(lambda: is_final(net, task), SOON_SECONDS, "the answer is on the ledger and checked")
    place, home = tmp_path / "receipt", net.supervisor.home.path
    save_receipt(task, place, home)
    with pytest.raises(InvalidClaim, match="untrusted-header"):
        check_receipt_file(place, home, None)
    height = decode_light_block(decode_receipt(place.read_bytes()).anchor).height
    header = verify_light(make_light(net, height))
    report = check_receipt_file(place, home, header.header_hash)
    assert (report.task, report.model, report.status) == (task, MODEL, "final")
    assert report.signed_by.startswith("the validators")
    assert report.prompt == ["user: Name three rivers."]
    with pytest.raises(InvalidClaim, match="untrusted-header"):
        check_receipt_file(place, home, "00" * 32)


def is_final(net, task: str) -> bool:
    found = net.control.get(f"/task/{task}", dict | None)
    return found is not None and found["status"] == "final"


def make_light(net, height: int) -> LightOptions:
    """Trusts the second header, as somebody who was there at the start would."""
    home = net.supervisor.home
    url = f"http://{load_settings(home.node_path('node-2') / 'node.toml').engine_rpc}"
    first = httpx.get(f"{url}/block", params={"height": "2"}, trust_env=False).json()["result"]["block_id"]["hash"]
    return LightOptions(url=url, trust_height=2, trust_hash=first, height=height)


def test_validators_agree_after_answers(net):
    report = net.wait(lambda report: report.ledger.nodes_agree, SOON_SECONDS, "all nodes agree")
    assert report.ledger.supply_conserved
    assert not report.ledger.violations
