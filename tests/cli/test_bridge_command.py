"""`paceline bridge` as a person types it: what it prints, what it sends, and what it says when something is wrong."""

from __future__ import annotations

import contextlib
import functools
import json

import msgspec
import pytest
from eth_hash.auto import keccak
from other_chain import (
    CHAIN,
    CONTRACT,
    OtherChain,
    Server,
    make_log,
    make_receipt,
    make_transaction_hash,
    refuse,
    show,
    unhex,
)
from typer.testing import CliRunner

from paceline.cli import bridge_calls, bridge_moves, bridge_setup
from paceline.cli.main import app
from paceline.engine.solo import Sequencer
from paceline.ledger.application import Application
from paceline.ledger.bridge import Withdrawal, compute_withdrawal_digest
from paceline.node.bridge.keys import compute_wallet_hash, load_evm_key, make_evm_key
from paceline.node.bridge.rpc import EvmRpc
from paceline.node.bridge.signatures import CollectedSignatures, NodeSignature
from paceline.node.bridge.status import BridgeStatus, HeaderLine, WatchLine, WithdrawalLine
from paceline.node.chains.accounts import AccountStatus
from paceline.node.chains.trial import Move, Trial
from paceline.node.control import Sent
from paceline.node.home import NewHome, create_home
from paceline.node.settings import SOLO, load_settings
from paceline.protocol.bridge import ClaimDeposit, WithdrawAsset
from paceline.protocol.params import BridgeParams
from paceline.protocol.transactions import decode_transaction
from paceline.store.state import SqliteStateStore

BRIDGE = BridgeParams(chain=CHAIN, contract=CONTRACT)
RPC = ("--rpc", "http://server/secret")
TO = "0x" + "ab" * 20
DOLLAR = 10**6
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
WIDTH = 80


def run(*words, typed=None):
    done = CliRunner().invoke(app, ["bridge", *words], input=typed, env={"COLUMNS": str(WIDTH)})
    return done.exit_code, done.stdout + done.stderr


def require_narrow(told):
    """All but the data that a wallet gets fits a terminal."""
    wide = [line for line in told.splitlines() if len(line) > WIDTH and not line.startswith("  data")]
    assert wide == []


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A network with a bridge that ran for one block and stopped."""
    made = create_home(tmp_path_factory.mktemp("bridge") / "home", NewHome(nodes=2, seed=1, bridge=BRIDGE))
    store = SqliteStateStore(made.node_path("node-1") / "chain.sqlite", durable=False)
    Sequencer(Application(made.load_genesis(), store), store, made.load_key("node-1")).produce_block(0)
    store.close()
    return made


class FakeControl:
    """A running network that says what a test wants, and keeps what it was sent."""

    def __init__(self):
        self.answers = {}
        self.trial = Trial(
            code="ok",
            message="",
            moves=[Move(account="ab" * 20, change=-1_000), Move(account="core reserve", change=1_000)],
            dollars=[Move(account="cd" * 20, change=5 * DOLLAR)],
        )
        self.sent = []

    def get(self, path, kind):
        if kind is AccountStatus:
            return msgspec.defstruct("Account", [("height", int)])(3)
        found = self.answers[path]
        assert isinstance(found, kind if isinstance(kind, type) else list)
        return found

    def post(self, path, body, kind):
        if path == "/trial":
            return self.trial
        self.sent.append(decode_transaction(body)[1].message)
        return Sent(height=9)


@pytest.fixture
def control(monkeypatch):
    made = FakeControl()

    @contextlib.contextmanager
    def open_fake(_home):
        yield made

    for module in (bridge_moves, bridge_calls):
        monkeypatch.setattr(module, "open_control", open_fake)
    return made


@pytest.fixture
def server(monkeypatch):
    made = Server(OtherChain())
    opened = functools.partial(EvmRpc, transport=made.transport)
    for module in (bridge_moves, bridge_calls):
        monkeypatch.setattr(module, "EvmRpc", opened)
    return made


def test_status_of_a_network_that_stands_still(home):
    code, told = run("status", "--home", str(home.path))
    assert code == 0 and f"contract   {show(CONTRACT)}" in told and f"chain      {CHAIN}" in told
    assert "attested   none yet" in told and "user       0 tUSD" in told and "it has no value" in told
    require_narrow(told)
    found = json.loads(run("status", "--home", str(home.path), "--json")[1])
    assert (found["height"], found["last_attested"], found["withdrawals"], found["watch"]) == (1, None, 0, None)


def test_status_of_a_node_that_reads_fits_a_terminal():
    watch = WatchLine(final=123_456_789, next=123_456_790, waiting=[1, 2], trouble="server does not answer")
    burnt = WithdrawalLine(number=7, to=TO, amount=1_500_000, height=1_000_000)
    found = BridgeStatus(
        height=10,
        chain=CHAIN,
        contract=show(CONTRACT),
        attested=3,
        last_attested=77,
        open_votes=[1, 2],
        outstanding=5 * DOLLAR,
        dollars=DOLLAR,
        withdrawals=8,
        newest=[burnt],
        watch=watch,
        attester=TO,
    )
    told = "\n".join(bridge_moves._describe_status(found, "user"))
    require_narrow(told)
    assert "trouble    server does not answer" in told and "withdrawal 7: 1.5 tUSD" in told
    assert "block 77, 3 in all" in told and "voted on   1, 2" in told


def attest(control, server, number):
    block_hash, _ = server.chain.get_header(number)
    control.answers[f"/bridge/header/{number}"] = HeaderLine(number=number, block_hash=block_hash.hex())


def test_a_claim_is_proven_shown_and_sent(home, control, server):
    account = home.load_key("user").address
    number = server.chain.add(
        make_receipt(), make_receipt(make_log(b"x" * 20, 3, contract=b"y" * 20), make_log(account, 5 * DOLLAR))
    )
    attest(control, server, number)
    words = ("claim", make_transaction_hash(number, 1), *RPC, "--home", str(home.path))
    code, told = run(*words, "--dry-run")
    assert code == 0 and "Deposit   5 tUSD, block 1, transaction 1" in told and account.hex() in told
    assert "Nothing was sent." in told and control.sent == []
    require_narrow(told)
    code, told = run(*words, typed="n\n")
    assert code == 0 and "Nothing was sent." in told and control.sent == []
    code, told = run(*words, "--yes")
    assert code == 0 and "Credited 5 tUSD at height 9." in told
    (message,) = control.sent
    assert isinstance(message, ClaimDeposit) and (message.number, message.transaction, message.log) == (1, 1, 1)
    line = json.loads(run(*words, "--yes", "--json")[1])["deposits"][0]
    assert (line["amount"], line["height"]) == (5 * DOLLAR, 9)


def test_invalid_claims_say_what_to_do(home, control, server):
    number = server.chain.add(make_receipt(make_log(b"t" * 20, 1)), make_receipt())
    words = (make_transaction_hash(number, 0), *RPC, "--home", str(home.path), "--yes")
    control.answers[f"/bridge/header/{number}"] = HeaderLine(number=number)
    for changes, said in (
        (words, f"block {number} is not attested yet"),
        ((make_transaction_hash(number, 1), *words[1:]), "made no deposit into the bridge's contract"),
        ((make_transaction_hash(99, 0), *words[1:]), "TXHASH: server knows no such transaction"),
        (("0x12", *words[1:]), "TXHASH: '0x12' is no hash"),
        ((words[0], "--rpc", "ftp://x", *words[3:]), "begins with http:// or https://"),
        ((*words[:-1], "--json"), "--json asks nothing"),
        ((*words, "--from", "nobody"), "--from nobody: this home has user"),
    ):
        code, told = run("claim", *changes)
        assert code == 2 and said in told and told.count("\n") == 1 and "secret" not in told, told
    control.answers[f"/bridge/header/{number}"] = HeaderLine(number=number, block_hash="00" * 32)
    assert "another block" in run("claim", *words)[1]
    attest(control, server, number)
    control.trial = Trial(code="already-claimed", message="")
    assert "is credited already" in run("claim", *words)[1]
    control.trial = Trial(code="over-balance", message="no coins")
    assert "the ledger would refuse this: over-balance" in run("claim", *words)[1]
    server.lies["eth_getBlockReceipts"] = lambda *_: []
    code, told = run("claim", *words)
    assert code == 1 and "do not hash to the root" in told
    server.lies["eth_chainId"] = lambda *_: "0x1"
    assert "server of chain 1" in run("claim", *words)[1] and control.sent == []


def test_a_withdrawal_is_shown_sent_and_numbered(home, control):
    control.answers["/bridge/withdrawals/9"] = [
        WithdrawalLine(number=4, to=TO, amount=2 * DOLLAR, height=9),
        WithdrawalLine(number=5, to="0x" + "cd" * 20, amount=2 * DOLLAR, height=9),
    ]
    words = ("withdraw", "2 tUSD", TO, "--home", str(home.path))
    code, told = run(*words, "--dry-run")
    assert code == 0 and "Burns     2 tUSD here" in told and control.sent == []
    require_narrow(told)
    code, told = run(*words, "--yes")
    assert code == 0 and "withdrawal 4." in told and "paceline bridge collect 4" in told
    assert control.sent == [WithdrawAsset(unhex(TO), 2 * DOLLAR)]
    for amount, to, said in (
        ("2", TO, "AMOUNT: '2' is no amount"),
        ("2 icon", TO, "AMOUNT: icon is not tUSD"),
        ("0 tUSD", TO, "AMOUNT: at least the smallest unit"),
        ("2 tUSD", "bob", "TO: 'bob' is no address of the other chain"),
    ):
        code, told = run("withdraw", amount, to, "--home", str(home.path), "--yes")
        assert code == 2 and said in told, told


def select(signature):
    return keccak(signature.encode())[:4]


class FakeContract:
    """The contract as one server tells it: attesters with a power of one each."""

    def __init__(self, server, keys, total):
        self.signers = {}
        self.keys, self.total, self.released = keys, total, False
        self.asked = []
        server.lies["eth_call"] = self.answer

    def sign(self, key, digest):
        signature = key.sign_message(digest)
        self.signers[signature[:64]] = key.address
        return signature

    def answer(self, params, _):
        to, data = unhex(params[0]["to"]), unhex(params[0]["data"])
        if to == (1).to_bytes(20, "big"):
            found = self.signers.get(data[64:])
            return "0x" if found is None else show(found.rjust(32, b"\0"))
        powers = {key.address.rjust(32, b"\0"): 1 for key in self.keys}
        answers = {
            select("token()"): b"\xee" * 20,
            select("released(uint256)"): bytes([self.released]),
            select("totalPower()"): bytes([self.total]),
            select("power(address)"): bytes([powers.get(data[4:], 0)]),
            select("release(uint256,address,uint256,bytes[])"): b"",
        }
        self.asked.append(data)
        found = answers[data[:4]]
        return show(found.rjust(32, b"\0")) if found else "0x"


def test_a_deposit_is_printed_for_a_wallet(home, server):
    FakeContract(server, [], 1)
    code, told = run("deposit", "3 tUSD", *RPC, "--home", str(home.path))
    account = home.load_key("user").address.hex()
    assert code == 0 and f"to      {show(CONTRACT)}" in told and f"to      0x{'ee' * 20}" in told
    assert f"For       account {account}" in told and f"{account}{'0' * 24}{3 * DOLLAR:064x}" in told
    require_narrow(told)
    server.lies["eth_call"] = lambda *_: "0x"
    code, told = run("deposit", "3 tUSD", *RPC, "--home", str(home.path))
    assert code == 2 and "is not the bridge's contract" in told


def test_signatures_are_held_against_the_contract_before_anything_is_printed(home, control, server, tmp_path):
    keys = sorted((make_evm_key(tmp_path / str(number)) for number in range(4)), key=lambda key: key.address)
    stranger = make_evm_key(tmp_path / "stranger")
    contract = FakeContract(server, keys, 4)
    digest = compute_withdrawal_digest(BRIDGE, 2, Withdrawal(unhex(TO), DOLLAR, 0))

    def answer(key, name, signed=digest, attester=None):
        signature = contract.sign(key, signed)
        return NodeSignature(node=name, attester=show((attester or key).address), signature=signature.hex())

    def collect(*answers, words=()):
        control.answers["/bridge/signatures/2"] = CollectedSignatures(
            number=2, to=TO, amount=DOLLAR, answers=list(answers)
        )
        return run("collect", "2", *RPC, "--home", str(home.path), *words)

    good = [answer(key, f"node-{place}") for place, key in enumerate(keys)]
    useless = [
        answer(stranger, "stranger"),
        answer(stranger, "liar", attester=keys[3]),
        NodeSignature(node="silent", trouble="no answer in time"),
        NodeSignature(node="rubbish", attester=TO, signature="00"),
        NodeSignature(node="zeros", attester=TO, signature="00" * 65),
    ]
    code, told = collect(good[0], good[1], *useless)
    assert code == 2 and "attesters with 2 of 4 power signed, more than two thirds is needed" in told
    for part in ("no attester of the contract", "not of the attester that it names", "silent: no answer in time"):
        assert part in told
    # The second signature of a pair, which anybody makes from the first and the contract refuses, takes no place.
    twin = bytes.fromhex(good[0].signature)
    other = twin[:32] + (ORDER - int.from_bytes(twin[32:64], "big")).to_bytes(32, "big") + bytes([55 - twin[64]])
    contract.signers[other[:64]] = keys[0].address
    useless.append(NodeSignature(node="mirror", attester=good[0].attester, signature=other.hex()))
    code, told = collect(*reversed(good[:3]), good[1], *useless)
    assert code == 0 and "Signed    by 75.0 % of the attesters' power" in told
    assert f"Send with any wallet on chain {CHAIN}" in told
    data = unhex(next(line for line in told.splitlines() if line.startswith("  data")).split()[1])
    places = [data.index(bytes.fromhex(found.signature)) for found in good[:3]]
    assert places == sorted(places), "in the order of their addresses"
    assert bytes.fromhex(useless[0].signature) not in data and other not in data
    found = json.loads(collect(*good, words=("--json",))[1])
    assert found["signed_ppm"] == 1_000_000 and found["calls"][0]["what"] == "release"
    # What the contract would refuse is neither printed nor sent.
    former = server.lies["eth_call"]

    def refuse_release(params, found):
        if params[0]["data"].startswith(show(select("release(uint256,address,uint256,bytes[])"))):
            return refuse("execution reverted")
        return former(params, found)

    server.lies["eth_call"] = refuse_release
    code, told = collect(*good)
    assert code == 2 and "release would fail over there: server refuses eth_call: execution reverted" in told
    contract.released = True
    assert "withdrawal 2 is paid already" in collect(*good)[1]
    code, told = collect(*good, words=("--key-file", str(tmp_path / "0"), "--json"))
    assert code == 2 and "--json asks nothing" in told
    assert compute_wallet_hash(digest) == keccak(b"\x19Ethereum Signed Message:\n32" + digest)


def test_keys_are_made_shown_and_given_to_a_node(home, tmp_path):
    path = tmp_path / "key"
    code, first = run("key", str(path))
    assert code == 0 and first.startswith("Address   0x")
    code, told = run("key", str(path), "--attester", "node-2", "--home", str(home.path))
    assert code == 0 and told.startswith(first) and "node-2 signs withdrawals with it" in told
    held = home.node_path("node-2") / "bridge-key"
    assert held.stat().st_mode & 0o777 == 0o600 and load_evm_key(held).address == load_evm_key(path).address
    code, told = run("key", str(tmp_path / "other"), "--attester", "node-2", "--home", str(home.path))
    assert code == 2 and "holds another key" in told
    code, told = run("key", str(path), "--attester", "node-9", "--home", str(home.path))
    assert code == 2 and "'node-9' is no node of this home" in told


def test_servers_are_set_and_their_addresses_are_not_told(home):
    words = ("watch", "http://one/secret", "https://two:8545/secret", "--start-block", "70", "--home", str(home.path))
    code, told = run(*words, "--name", "node-1")
    assert code == 0 and "node-1 reads one, two:8545 from block 70" in told and "secret" not in told
    found = load_settings(home.node_path("node-1") / "node.toml").bridge
    assert (found.rpc, found.start_block) == (("http://one/secret", "https://two:8545/secret"), 70)
    assert load_settings(home.node_path("node-2") / "node.toml").bridge.rpc == ()
    code, told = run("watch", "server:8545", "--home", str(home.path))
    assert code == 2 and "begins with http:// or https://" in told


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("deposit", "1 tUSD", *RPC),
        ("claim", make_transaction_hash(1, 0), *RPC, "--yes"),
        ("withdraw", "1 tUSD", TO, "--yes"),
        ("collect", "0", *RPC),
        ("watch", "http://server"),
    ],
)
def test_invalid_networks_without_a_bridge_say_so(tmp_path, words):
    code, told = run(*words, "--home", str(tmp_path / "none"))
    assert code == 2 and "holds no network" in told
    create_home(tmp_path / "home", NewHome(nodes=1, seed=1, engine=SOLO))
    code, told = run(*words, "--home", str(tmp_path / "home"))
    assert code == 2 and "this network has no bridge" in told and told.count("\n") == 1


@pytest.mark.parametrize(
    "text", ["", "31337", "x:" + TO, "0:" + TO, "31337:bob", f"{2**60}:{TO}", "1" * 5_000 + ":" + TO]
)
def test_invalid_bridges_of_a_new_network(text, tmp_path):
    done = CliRunner().invoke(app, ["up", "--bridge", text, "--home", str(tmp_path / "home")])
    assert done.exit_code == 2 and "--bridge" in done.stderr and not (tmp_path / "home").exists()


def test_a_bridge_of_a_new_network_is_chain_and_contract():
    assert bridge_setup.parse_bridge(f"{CHAIN}:{show(CONTRACT)}") == BRIDGE
