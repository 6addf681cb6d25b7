"""A channel between real node processes: answers beside the ledger, `kill -9` of its executor, one close, leaves opened and checked."""

from __future__ import annotations

import httpx
import msgspec
import pytest
from chain_observer import observe
from up_process import UpProcess

from paceline.ledger.admission import signed_bytes
from paceline.ledger.channel_records import CHANNELS, OPEN, SETTLED
from paceline.ledger.sessions import compute_task_id
from paceline.ledger.tasks import FINAL, TASKS
from paceline.node.home import NewHome, create_home
from paceline.node.roles.channel_relay import MAX_FAILURES
from paceline.node.settings import encode_settings, load_settings
from paceline.protocol.channels import CloseChannel
from paceline.protocol.codec import encode
from paceline.protocol.messages import REJECTED, Transaction, TransactionBody

pytestmark = pytest.mark.long
MODEL = "smollm2-135m-instruct"


def make_home(path):
    home = create_home(path, NewHome(nodes=3, seed=3))
    settings = home.node_path("node-1") / "node.toml"
    settings.write_text(encode_settings(msgspec.structs.replace(load_settings(settings), channels=1)))
    return home


def ask(url, number):
    body = {"model": MODEL, "messages": [{"role": "user", "content": f"Count to {number}."}], "max_tokens": 8}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120, trust_env=False)
    assert reply.status_code == 200, reply.text
    return reply.json()["paceline"]["task"]


def is_over(state, channel_id):
    channel = CHANNELS.get(state, channel_id)
    return channel is None or channel.status == SETTLED


def close_if_open(home, observer, channel_id):
    """A quick executor is back before the relay gives it up; then the owner ends the channel, by no state at all."""
    state = observer.catch_up(observer.read().height + 3)
    if CHANNELS.get(state, channel_id).status != OPEN:
        return
    user = home.load_key("user")
    message = CloseChannel(channel_id, None)
    body = encode(
        TransactionBody(chain_id=observer.chain_id, sequence=None, expires_at=state.height + 200, message=message)
    )
    data = encode(Transaction(body, user.public_key, user.sign(signed_bytes(body))))
    observer.ask("node-1", "transaction", data)


def test_answers_flow_beside_the_ledger_and_one_close_settles_them_though_the_executor_was_killed(tmp_path):
    home = make_home(tmp_path / "home")
    with UpProcess(home) as up:
        up.wait_ready()
        observer = observe(home)
        observer.follow(lambda state: [c for _, c in CHANNELS.items(state) if c.status == OPEN])
        [(channel_id, channel)] = CHANNELS.items(observer.read())
        name = next(name for name, address in observer.addresses.items() if address == channel.executor)
        own = [compute_task_id(channel_id, index).hex() for index in range(2)]
        assert [ask(up.url, number) for number in range(2)] == own
        up.kill_node(name)
        # Sessions answer in its place until it is back, and the relay closes the channel with the state of both.
        assert not set(own) & {ask(up.url, number) for number in range(MAX_FAILURES)}
        close_if_open(home, observer, channel_id)
        follow_long(observer, lambda state: is_over(state, channel_id))
        drawn = [task for _, task in TASKS.items(observer.read()) if task.session == channel_id]
        assert drawn
        assert all((task.status, task.refunded) == (FINAL, False) for task in drawn)
        # So few tokens decide nothing; the checkers show what they computed all the same.
        assert all([vote.outcome for vote in task.votes if vote.evidence] for task in drawn)
        assert not any(vote.outcome == REJECTED for task in drawn for vote in task.votes)
        assert observer.find_problems() == []


def follow_long(observer, ready):
    """As `follow`, for as long as a node needs to load its model on a busy machine."""
    for _ in range(3):
        try:
            return observer.follow(ready)
        except AssertionError:
            continue
    return observer.follow(ready)
