"""The light client against four real validators: weights move away from whoever held them, values come with proofs.

A node in between may lie in every way a proof can be wrong; each is refused with its code.
"""

from __future__ import annotations

import base64
import json
from contextlib import contextmanager

import httpx
import pytest
from comet_network import CometNetwork
from links import LOOPBACK
from moving_powers import FIRST, SECOND, SECOND_AT

from paceline.base.errors import InvalidBlock, TransportError
from paceline.cli.beacon import PROVEN, BeaconOptions, verify_beacon
from paceline.cli.light import LightOptions, verify_light
from paceline.cli.light_client import TrustOptions
from paceline.engine.light import LightClient, TrustRules, load_trusted
from paceline.engine.light_query import MAX_PROOF_BYTES, HttpStateProvider
from paceline.engine.light_reader import Patience, PatientProvider, ReadRules, StateReader
from paceline.engine.light_rpc import HttpLightProvider
from paceline.engine.light_values import ask_account, ask_value
from paceline.ledger.accounts import RESERVE, Account, get_account
from paceline.ledger.groups import form_first_group
from paceline.ledger.state import State
from paceline.network.settings import get_unix_milliseconds
from paceline.node.settings import load_settings
from paceline.protocol.codec import decode, encode
from paceline.protocol.genesis import compute_chain_id
from paceline.store.trie import TrieProof

pytestmark = pytest.mark.long
EVERYBODY = range(4)
TRUSTED = SECOND_AT - 4


class MovingNetwork(CometNetwork):
    """Its nodes run `moving_powers`."""

    def start(self, index, *, module="moving_powers", folder=None, slot=None):
        super().start(index, module=module, folder=folder, slot=slot)

    def rpc_url(self, index):
        return f"http://{LOOPBACK}:{self._rpc_ports[index]}"

    def get_hash(self, height):
        return self.ask(0, "block", height=str(height))["block_id"]["hash"]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    with MovingNetwork(tmp_path_factory.mktemp("light") / "home", 4) as running:
        running.wait_heights(EVERYBODY, SECOND_AT + 6)
        yield running


def make_options(network, **changes):
    fields = {"url": network.rpc_url(1), "trust_height": TRUSTED, "trust_hash": network.get_hash(TRUSTED)}
    return LightOptions(**{**fields, **changes})


def test_values_are_proven_across_a_move_of_most_weights(network):
    """Who held 97 % of the power at the trusted header signs nothing at the verified one."""
    assert FIRST["node-1"] > 0.9 * sum(FIRST.values()) and "node-1" not in SECOND
    header = verify_light(make_options(network, height=SECOND_AT + 4))
    assert len(header.path) > 1, "one step reached the end: the power did not move far enough to test halving"
    former = network.home.load_key("node-1").address
    paid = network.transfer(2, 12_345)
    network.wait_progress(EVERYBODY)
    options = make_options(
        network,
        witnesses=(network.rpc_url(2), network.rpc_url(3)),
        account=network.user.address.hex(),
        node="node-2",
        group=True,
    )
    report = verify_light(options)
    genesis = network.home.load_genesis()
    assert report.chain_id == compute_chain_id(genesis)
    assert report.agreeing == [network.rpc_url(2), network.rpc_url(3)] and report.silent == []
    funds = genesis.accounts[0].amount
    assert report.account.balance_nicoin == funds - 12_345 - genesis.params.transfer_fee
    assert (report.node.name, report.node.weight, report.node.voting_power) == ("node-2", 1_000, 1_000)
    assert report.node.address == network.home.load_key("node-2").address.hex()
    assert (report.group.number, report.group.key) == (1, form_first_group(genesis)[0].commitments[0].hex())
    assert SECOND_AT < report.account.height <= report.node.height <= report.group.height == report.height - 1
    gone = verify_light(make_options(network, node=former.hex(), account=paid.hex()))
    assert (gone.node.name, gone.node.weight, gone.node.voting_power) == ("node-1", 0, 0)
    assert gone.account.balance_nicoin == 12_345


def test_the_beacon_of_a_height_is_verified_with_a_proven_key(network):
    """The value comes from a peer, the key from the state under a header: nobody's word counts."""
    name = network.names[1]
    peers = load_settings(network.home.node_path(name) / "node.toml").peers
    url = next(peer.url for peer in peers if peer.name == name)
    interval = network.home.load_genesis().params.beacon_interval
    # The members sign a height a few blocks after it is final.
    network.wait_heights(EVERYBODY, 3 * interval + 10)
    options = BeaconOptions(
        home=network.home.path,
        height=2 * interval,
        peers=(f"{name}={url}",),
        trust=TrustOptions(
            url=network.rpc_url(2), trust_height=TRUSTED, trust_hash=network.get_hash(TRUSTED), max_age_seconds=30
        ),
    )
    report = verify_beacon(options)
    assert (report.agreeing, report.wrong, report.key_source) == ([name], [], PROVEN)


def test_an_absent_value_is_proven_absent(network):
    report = verify_light(make_options(network, key=b"nothing/here".hex(), account="77" * 20))
    assert report.state.value is None
    assert (report.account.balance_nicoin, report.account.sequence) == (0, 0)


class Liar(httpx.BaseTransport):
    """A node's RPC whose answers about state pass through `change(response, ask)`; `ask` asks the honest node."""

    def __init__(self, change):
        self._change = change
        self._inner = httpx.HTTPTransport()

    def handle_request(self, request):
        answer = self._inner.handle_request(request)
        content = answer.read()
        if request.url.path != "/abci_query":
            return httpx.Response(answer.status_code, content=content)
        found = json.loads(content)
        self._change(found["result"]["response"], lambda key: self._ask(request, key))
        return httpx.Response(200, json=found)

    def _ask(self, request, key):
        url = request.url.copy_merge_params({"data": f"0x{key.hex()}"})
        return json.loads(self._inner.handle_request(httpx.Request("GET", url)).read())["result"]["response"]

    def close(self):
        self._inner.close()


@contextmanager
def open_reader(network, change=None, *, max_age_seconds=30):
    """A reader that asks node 2, through a liar when there is a `change`."""
    rpc = HttpLightProvider(network.rpc_url(1), None if change is None else Liar(change))
    try:
        trusted = load_trusted(rpc, TRUSTED, bytes.fromhex(network.get_hash(TRUSTED)))
        patience = Patience(attempts=20, pause=lambda: network.wait_progress([1], blocks=1))
        client = LightClient(trusted, PatientProvider(rpc, patience), TrustRules(trusting_period_seconds=3_600))
        rules = ReadRules(max_age_seconds=max_age_seconds, get_unix_milliseconds=get_unix_milliseconds)
        yield StateReader(client, HttpStateProvider(rpc), rules)
    finally:
        rpc.close()


def locate_account(address):
    """Where the store keeps an account, as the ledger itself says."""
    store = NotingStore()
    get_account(State(store, height=0), address)
    return store.keys[0]


class NotingStore:
    def __init__(self):
        self.keys = []

    def get(self, key):
        self.keys.append(key)


def change_proof(change):
    """A lie about the proof: `change` gets and returns it."""

    def lie(response, _):
        op = response["proofOps"]["ops"][0]
        proof = decode(TrieProof, base64.b64decode(op["data"]), limit_bytes=MAX_PROOF_BYTES)
        op["data"] = base64.b64encode(encode(change(proof))).decode()

    return lie


def set_value(value):
    return lambda response, _: response.update(value=base64.b64encode(value).decode())


def show_other_key(key):
    return lambda response, ask: response.update(proofOps=ask(key)["proofOps"])


def cut_bytes(response, _):
    op = response["proofOps"]["ops"][0]
    op["data"] = base64.b64encode(base64.b64decode(op["data"])[:-1]).decode()


def lie_about_nothing(response, _):
    pass


RICH = encode(Account(10**18, 0))
OTHER = locate_account(RESERVE)
LIES = {
    "wrong value": (set_value(RICH), "state-proof"),
    "no value where there is one": (set_value(b""), "state-proof"),
    "proof of another key": (show_other_key(OTHER), "state-proof"),
    "proof without its top": (change_proof(lambda proof: proof._replace(forks=proof.forks[:-1])), "state-proof"),
    "proof of nothing": (change_proof(lambda _: TrieProof(b"", b"", ())), "state-proof"),
    "cut bytes of a proof": (cut_bytes, "malformed"),
    "no proof": (lambda response, _: response.update(proofOps=None), "malformed"),
}


@pytest.mark.parametrize("name", LIES)
def test_invalid_answer_of_a_lying_node(network, name):
    """Certain detection: a lie that passes is a second preimage of SHA-256. Without the proof all of them pass."""
    lie, code = LIES[name]
    pay(network)
    with open_reader(network, lie) as reader, pytest.raises(InvalidBlock, match=f"^{code}: "):
        reader.read(ask_account(network.user.address))


def test_invalid_value_passes_where_nobody_looks_at_the_proof(network):
    with open_reader(network, set_value(RICH)) as reader:
        assert reader._provider.get_evidence(locate_account(network.user.address)).value == RICH
    with open_reader(network, lie_about_nothing) as reader:
        assert reader.read(ask_account(network.user.address)).value.balance < 10**18


def test_invalid_absent_key_shown_as_present(network):
    absent = locate_account(b"7" * 20)
    with open_reader(network, set_value(RICH)) as reader, pytest.raises(InvalidBlock, match=r"^state-proof: "):
        reader.read(ask_account(b"7" * 20))
    shown = show_other_key(locate_account(network.user.address))
    with open_reader(network, shown) as reader, pytest.raises(InvalidBlock, match=r"^state-proof: "):
        reader.read(ask_value(absent))


def test_invalid_old_state_under_its_own_height_and_under_a_newer_one(network):
    """An old proof holds for good; what refuses it is the header that it belongs to."""
    key = locate_account(network.user.address)
    with open_reader(network) as reader:
        rpc_answer = HttpLightProvider(network.rpc_url(1))
        old = rpc_answer.ask("abci_query", {"path": '"/state"', "data": f"0x{key.hex()}", "prove": "true"}, dict)
        rpc_answer.close()
        pay(network)
        fresh = reader.read(ask_account(network.user.address))
    old = old["response"]
    assert int(old["height"]) + 1 < fresh.height
    with open_reader(network, lambda response, _: response.update(old)) as reader:
        # Nobody but the clock knows that there is a newer state: this one is a few seconds old, and allowed to be.
        assert reader.read(ask_account(network.user.address)).value.balance > fresh.value.balance
    with (
        open_reader(network, lambda response, _: response.update(old), max_age_seconds=0) as reader,
        pytest.raises(InvalidBlock, match=r"^stale-state: .* s ago"),
    ):
        reader.read(ask_account(network.user.address))

    def go_back(response, _):
        if reads:
            response.update(old)
        reads.append(response)

    reads = []
    with open_reader(network, go_back) as reader:
        reader.read(ask_account(network.user.address))
        with pytest.raises(InvalidBlock, match=r"^stale-state: .* is trusted already"):
            reader.read(ask_account(network.user.address))

    def renew(response, _):
        response.update({**old, "height": response["height"]})

    with open_reader(network, renew) as reader, pytest.raises(InvalidBlock, match=r"^state-proof: "):
        reader.read(ask_account(network.user.address))


def test_invalid_height_that_never_comes(network):
    with (
        open_reader(network, lambda response, _: response.update(height="1000000")) as reader,
        pytest.raises(TransportError, match="1000001"),
    ):
        reader.read(ask_account(network.user.address))


def pay(network):
    """Change the state, so that its root is another one."""
    network.transfer(0, 3)
    network.wait_progress(EVERYBODY, blocks=3)
