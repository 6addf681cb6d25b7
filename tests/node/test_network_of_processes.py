"""Five node processes on loopback, asked through the official client and replayed by a stranger."""

from __future__ import annotations

import msgspec
import openai
import pytest
from chain_observer import STRANGER, Observer, observe

import paceline
from paceline.base.errors import InvalidClaim
from paceline.base.hashing import hash_parts
from paceline.base.integers import PPM, split_proportionally
from paceline.base.keys import compute_address
from paceline.cli.beacon import BeaconOptions, verify_beacon
from paceline.cli.network import Network
from paceline.cli.receipt import check_receipt_file, save_receipt
from paceline.economy.issuance import Epoch, compute_issuance
from paceline.economy.rewards import compute_validation_ppm, compute_work_ppm
from paceline.economy.supply import TOTAL_SUPPLY
from paceline.ledger import clock, nodes
from paceline.ledger.accounts import get_account
from paceline.ledger.admission import signed_bytes
from paceline.ledger.sessions import SESSIONS, compute_task_id, derive_executors
from paceline.ledger.tasks import FINAL, LIFTED, PLAIN, TASKS
from paceline.ledger.vesting import get_vesting
from paceline.network.client import PeerRefused
from paceline.node.answers.receipt_facts import decode_receipt
from paceline.node.views import NodeStatus
from paceline.protocol.codec import encode
from paceline.protocol.messages import Transfer
from paceline.protocol.transactions import Transaction, TransactionBody

MODEL = "smollm2-135m-instruct"
LONG_PROMPT = "Write a long story about a bicycle race in the mountains."
SEED = 11


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    home = tmp_path_factory.mktemp("network") / "home"
    with paceline.local_network(nodes=5, home=home, seed=SEED) as network:
        # Behind the Race sessions stay open, so what an account holds moves by requests alone.
        network.wait(lambda report: report.race.phase == "done", 180, "the first Race")
        with network.openai_client(max_retries=0) as client:
            ask(client, "Hello!", max_tokens=1)
        yield network


@pytest.fixture(scope="module")
def client(net: Network):
    with net.openai_client(max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def observer(net: Network) -> Observer:
    return observe(net.supervisor.home)


@pytest.fixture(scope="module")
def user(net: Network):
    return net.supervisor.home.load_key("user")


def ask(client, prompt, **options):
    messages = [{"role": "user", "content": prompt}]
    return client.chat.completions.create(model=MODEL, messages=messages, **options)


def stand(net: Network, observer: Observer, user):
    """What the user would hold without sessions that ended unused, and how many tasks were ever paid.

    Both once everything under way is on the ledger.
    """
    observer.catch_up(net.report().ledger.height + 1)
    return observer.holdings(user.address) + observer.charged.get(user.address, 0), len(observer.paid)


def test_models_are_listed(client):
    listed = client.models.list().data
    assert [model.id for model in listed] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "paceline"


def test_an_answer_costs_its_usage_and_comes_from_the_drawn_node(client, observer):
    answer = ask(client, "What is the capital of France?", max_tokens=24)
    usage, receipt = answer.usage, answer.paceline
    assert answer.choices[0].message.content.strip()
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 1 <= usage.completion_tokens <= 24
    task = observer.task(receipt["task"])
    assert (task.prompt_tokens, task.completion_tokens) == (usage.prompt_tokens, usage.completion_tokens)
    assert task.cost == receipt["cost_nicoin"] == usage.total_tokens * observer.params.unit_price
    assert task.executor == observer.addresses[receipt["executor"]]
    assert task.relay == observer.addresses["node-1"] != task.executor


def test_a_streamed_answer_equals_its_twin_and_adds_up(client, observer):
    options = {"max_tokens": 24, "seed": 5, "temperature": 0.8}
    whole = ask(client, "Name three rivers.", **options)
    chunks = list(ask(client, "Name three rivers.", stream=True, stream_options={"include_usage": True}, **options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    usage = chunks[-1].usage
    assert usage == whole.usage
    receipts = [chunk.paceline for chunk in chunks if getattr(chunk, "paceline", None)]
    assert len(receipts) == 1
    assert observer.task(receipts[0]["task"]).cost == usage.total_tokens * observer.params.unit_price


def test_anyone_can_recompute_who_had_to_answer(client, observer):
    asked = [ask(client, f"Say the number {number}.", max_tokens=4).paceline for number in range(4)]
    tasks = {receipt["task"]: observer.task(receipt["task"]) for receipt in asked}
    state = observer.read()
    for task_id, task in tasks.items():
        assert compute_task_id(task.session, task.index).hex() == task_id
        session = SESSIONS.get(state, task.session)
        weights = nodes.get_weights_at(state, session.version)
        serving = [address for address, node in nodes.NODES.items(state) if MODEL in node.serves]
        order = derive_executors(session.seed, weights, serving, task.relay, bytes.fromhex(task_id))
        assert order[0] == task.executor
        assert len(order) == 4
    assert len({task.index for task in tasks.values()}) == len(asked)


def test_an_answer_s_receipt_proves_it_offline_and_no_other_text(net, client, tmp_path):
    home, file = net.supervisor.home.path, tmp_path / "answer.receipt"
    answer = ask(client, "What is the capital of Italy?", max_tokens=12)
    task, text = answer.paceline["task"], answer.choices[0].message.content
    net.wait(lambda report: report.inference.pending == 0, 60, "the end of the checks")
    save_receipt(task, file, home)
    report = check_receipt_file(file, home, None)
    assert (report.task, report.text, report.model) == (task, text, MODEL)
    assert report.executor == answer.paceline["executor"]
    assert report.place_in_draw >= 1
    assert report.cost_nicoin == answer.paceline["cost_nicoin"]
    assert report.prompt == ["user: What is the capital of Italy?"]
    receipt = decode_receipt(file.read_bytes())
    file.write_bytes(encode(msgspec.structs.replace(receipt, text=text + " Or not.")))
    with pytest.raises(InvalidClaim, match="other-text"):
        check_receipt_file(file, home, None)


def test_drawn_nodes_check_answers_and_find_no_fault(client, observer):
    accepted = 0
    for number in range(8):
        answer = ask(client, f"Explain in two sentences why {number + 2} wheels roll.", max_tokens=40, temperature=0.7)
        task_id = bytes.fromhex(answer.paceline["task"])
        state = observer.follow(lambda state, key=task_id: (task := TASKS.get(state, key)) and task.status == FINAL)
        task = TASKS.get(state, task_id)
        assert {vote.voter for vote in task.votes} == set(task.asked)
        assert task.executor not in task.drawn
        assert all(vote.outcome != "rejected" for vote in task.votes)
        # Its executor showed in time whether the task was a forced error.
        assert not task.unpaid
        assert not task.votes or task.shown in {PLAIN, LIFTED}
        accepted += any(vote.outcome == "accepted" for vote in task.votes)
        if accepted:
            return
    pytest.fail("no answer was checked")


def test_invalid_model_is_404_and_free(net, client, observer, user):
    before = stand(net, observer, user)
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.code == "model_not_found"
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    assert stand(net, observer, user) == before


BAD_REQUESTS = {
    "negative": ({"max_tokens": -1}, "max_tokens"),
    "zero": ({"max_tokens": 0}, "max_tokens"),
    "huge": ({"max_tokens": 10**9}, "max_tokens"),
    "beyond int64": ({"max_tokens": 10**30}, "max_tokens"),
    "over the context with the prompt": ({"max_tokens": 8190}, "max_tokens"),
    "no messages": ({"messages": []}, "messages"),
    "unknown role": ({"messages": [{"role": "king", "content": "hi"}]}, "messages[0].role"),
    "unsupported option": ({"tools": [{"type": "function"}]}, "tools[0]"),
    "unknown option": ({"colour": "red"}, "colour"),
    "temperature": ({"temperature": 3.5}, "temperature"),
    "too long a prompt": ({"messages": [{"role": "user", "content": "word " * 9000}]}, "messages"),
}


def test_invalid_requests_name_their_field_and_are_free(net, client, observer, user):
    before = stand(net, observer, user)
    for name, (options, field) in BAD_REQUESTS.items():
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **options}
        with pytest.raises(openai.BadRequestError) as caught:
            client.post("/chat/completions", body=body, cast_to=object)
        assert caught.value.param == field, name
    for content in (b"{", b"[]", b"\xff\xfe", b'{"model": 1}'):
        raw = client._client.post(
            f"{net.base_url}/chat/completions", content=content, headers={"content-type": "application/json"}
        )
        assert raw.status_code == 400
        assert set(raw.json()["error"]) == {"message", "type", "param", "code"}
    assert stand(net, observer, user) == before


def test_invalid_body_over_the_limit_is_413_and_free(net, client, observer, user):
    before = stand(net, observer, user)
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, "x" * (2 << 20))
    assert caught.value.status_code == 413
    assert stand(net, observer, user) == before


def test_a_client_that_leaves_stops_the_work_and_pays_for_what_was_made(net, client, observer, user):
    options = {"max_tokens": 160, "seed": 3, "temperature": 0.7}
    full = ask(client, LONG_PROMPT, **options)
    assert full.usage.completion_tokens > 100
    observer.task(full.paceline["task"])
    before, _ = stand(net, observer, user)
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": LONG_PROMPT}], stream=True, **options
    )
    stream = raw.parse()
    for _, chunk in zip(range(6), stream, strict=False):
        assert chunk.choices
    stream.close()
    task = observer.task(raw.headers["x-paceline-task"])
    assert 1 <= task.completion_tokens < full.usage.completion_tokens // 2
    assert task.cost == (task.prompt_tokens + task.completion_tokens) * observer.params.unit_price
    # Sessions that ended unused paid for their first indices, as the ledger says of each.
    after = observer.holdings(user.address) + observer.charged.get(user.address, 0)
    assert before - after == task.cost
    digest = bytes.fromhex(raw.headers["x-paceline-task"])
    state = observer.follow(
        lambda state: TASKS.get(state, digest).status not in {"drawing", "checking", "revealing", "showing"}
    )
    assert TASKS.get(state, digest).status == FINAL


def sign(observer, user, message, *, chain_id="", sequence=None, expires_in=100):
    expires_at = observer.replica.height + expires_in
    body = encode(
        TransactionBody(
            chain_id=chain_id or observer.chain_id, sequence=sequence, expires_at=expires_at, message=message
        )
    )
    return encode(Transaction(body, user.public_key, user.sign(signed_bytes(body))))


def refuse(observer, data, *, name="node-1"):
    with pytest.raises(PeerRefused) as caught:
        observer.ask(name, "transaction", data)
    assert caught.value.status == 400
    return caught.value.code


def test_a_transfer_runs_once(net, observer, user):
    observer.catch_up(net.report().ledger.height)
    to = compute_address(STRANGER.public_key)
    before = get_account(observer.read(), to).balance
    data = sign(observer, user, Transfer(to, 7))
    observer.ask("node-1", "transaction", data)
    observer.follow(lambda state: get_account(state, to).balance == before + 7)
    assert refuse(observer, data) == "replayed"
    envelope = msgspec.msgpack.decode(data)
    again = encode(Transaction(envelope[0], user.public_key, user.sign(signed_bytes(envelope[0]))))
    assert refuse(observer, again) == "replayed"
    assert get_account(observer.catch_up(observer.replica.height + 2), to).balance == before + 7


def test_invalid_transactions_are_refused_with_their_code(net, observer, user):
    observer.catch_up(net.report().ledger.height)
    good = sign(observer, user, Transfer(STRANGER.address, 1))
    longer = b"\xdc\x00\x03" + good[1:]
    body = msgspec.msgpack.decode(good)[0]
    forged = encode(Transaction(body, user.public_key, STRANGER.sign(signed_bytes(body))))
    before = stand(net, observer, user)
    assert refuse(observer, sign(observer, user, Transfer(STRANGER.address, 10**17))) == "over-balance"
    assert refuse(observer, sign(observer, STRANGER, Transfer(user.address, 10**12))) == "over-balance"
    assert refuse(observer, sign(observer, user, Transfer(STRANGER.address, 1), chain_id="other-1")) == "wrong-chain"
    assert refuse(observer, longer) == "non-canonical"
    assert refuse(observer, forged) == "bad-signature"
    assert refuse(observer, b"\x93\x01") == "malformed"
    assert refuse(observer, bytes(300_000)) == "too-large"
    assert refuse(observer, sign(observer, user, Transfer(STRANGER.address, 1), sequence=99)) == "wrong-sequence"
    assert refuse(observer, sign(observer, user, Transfer(STRANGER.address, 1), expires_in=-10)) == "expired"
    assert refuse(observer, sign(observer, user, Transfer(STRANGER.address, 1), expires_in=5_000)) == "far-expiry"
    assert refuse(observer, good, name="node-2") == "not-the-sequencer"
    assert stand(net, observer, user) == before


def test_status_shows_every_node_alive_and_agreeing(net):
    status = net.control.get("/status", dict)
    assert set(status) >= {"height", "app_hash", "engine", "nodes"}
    assert [node["name"] for node in status["nodes"]] == [f"node-{number}" for number in range(1, 6)]
    for node in status["nodes"]:
        assert msgspec.convert(node, NodeStatus).alive
        assert abs(node["height"] - status["height"]) <= 8
    assert sum(node["voting_power"] for node in status["nodes"]) == 1_000_000_000
    net.wait(lambda report: report.ledger.nodes_agree, 30, "agreement of all nodes")


def test_a_stranger_verifies_the_beacon_at_every_node(net):
    height = net.report().ledger.height // 5 * 5 - 20
    report = verify_beacon(BeaconOptions(home=net.supervisor.home.path, height=height))
    assert report.agreeing == [f"node-{number}" for number in range(1, 6)]
    assert (report.height, report.wrong, report.silent) == (height, [], [])


def test_training_lowers_the_loss(net, observer):
    words = [f"{hash_parts('word', bytes([number])).hex()[:5]} rolls and rests. " for number in range(12)]
    text = "".join(words[(number * number + number // 7) % 12] for number in range(1_200))
    started = net.start_training(text, rounds=2, inner_steps=20, trainers=2, batch_size=8)
    run_id = started.run

    def is_over(report):
        return report.training is not None and report.training.run == run_id and report.training.phase == "ended"

    run = net.wait(is_over, 200, "the end of training").training
    assert (run.round, len(run.losses), len(run.trainers)) == (2, 2, 2)
    assert run.rejected_nodes == []
    assert all(set(outcomes) == {"accepted"} for outcomes in run.updates.values())
    assert run.losses[-1] < started.first_loss * 0.8
    assert net.control.post("/sample", {"run": run_id, "length": 20}, dict)["text"]


def compute_earned(owed, params):
    """What each node must earn of an epoch without guilt: its work and its share of the issuance, times its criteria."""
    rules = Epoch(
        fees=owed.task_fees,
        reserve=owed.reserve,
        worked=True,
        first_height=clock.compute_first_height(params, clock.compute_epoch(params, owed.height)),
        epoch_blocks=params.epoch_blocks,
        blocks_per_day=params.blocks_per_day,
    )
    issued, _ = compute_issuance(owed.issued, rules)
    weights = {address: node.weight for address, node in owed.nodes.items() if node.weight and owed.work.get(address)}
    shares = split_proportionally(issued - issued * params.fund_ppm // PPM, weights)
    earned = {}
    for address, node in owed.nodes.items():
        checking = compute_validation_ppm(node.fulfilled, node.duties)
        working = compute_work_ppm(node.answered - node.marks, node.drawn, params.tasks.absence_ppm)
        criterion = checking * working // PPM
        due = (owed.work.get(address, 0), shares.get(address, 0))
        earned[address] = sum(amount * criterion // PPM for amount in due)
    return earned


def test_settlement_pays_the_workers_and_conserves_every_coin(net, observer):
    lines = {line.node: line for line in net.settlement()}
    assert set(lines) == {f"node-{number}" for number in range(1, 6)}
    assert sum(line.voting_power for line in lines.values()) == 1_000_000_000
    assert sum(line.tasks for line in lines.values()) >= 10
    assert all(line.earned > 0 for line in lines.values() if line.tasks)
    assert all(line.forfeited == 0 for line in lines.values())
    report = net.report()
    assert report.ledger.supply_conserved
    assert report.ledger.violations == []
    state = observer.catch_up(report.ledger.height)
    epoch = max(observer.owed)
    owed = observer.owed[epoch]
    assert owed.open_tasks == 0
    # The training fund takes its fifth of each fee, rounded down; all else is owed to somebody.
    assert 0 <= sum(owed.work.values()) - owed.fees * 4 // 5 <= len(observer.paid)
    assert {observer.addresses[name]: line.earned for name, line in lines.items()} == compute_earned(
        owed, observer.params
    )
    # Beside what settlements release, the drawn are paid for indices that relays left unused.
    earned = sum(node.earned for _, node in nodes.NODES.items(state))
    wealth = (get_account(state, a).balance + get_vesting(state, a) for a in observer.addresses.values())
    assert sum(wealth) == earned
    assert earned >= sum(line.earned for line in lines.values())
    assert observer.find_problems() == []
    assert TOTAL_SUPPLY == 10**18
