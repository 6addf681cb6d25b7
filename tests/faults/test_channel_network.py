"""A channel between real node processes: answers beside the ledger, `kill -9` of its executor, one close, checked leaves."""

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
from paceline.node.settings import encode_settings, load_settings
from paceline.protocol.channels import CloseChannel
from paceline.protocol.codec import encode
from paceline.protocol.messages import Transaction, TransactionBody

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
    return reply.json()


def find_channel(state):
    [(channel_id, channel)] = CHANNELS.items(state)
    return channel_id, channel


def send_close(home, observer, channel_id):
    """The owner ends its channel by no state at all; the executor has to show the last one."""
    user = home.load_key("user")
    body = encode(
        TransactionBody(
            chain_id=observer.chain_id,
            sequence=None,
            expires_at=observer.read().height + 200,
            message=CloseChannel(channel_id, None),
        )
    )
    data = encode(Transaction(body, user.public_key, user.sign(signed_bytes(body))))
    observer.ask("node-1", "transaction", data)


def test_answers_flow_beside_the_ledger_through_a_kill_and_one_close_settles_them(tmp_path):
    home = make_home(tmp_path / "home")
    with UpProcess(home) as up:
        up.wait_ready()
        observer = observe(home)
        observer.follow(lambda state: [c for _, c in CHANNELS.items(state) if c.status == OPEN])
        channel_id, channel = find_channel(observer.read())
        name = next(name for name, address in observer.addresses.items() if address == channel.executor)
        tasks = [compute_task_id(channel_id, index).hex() for index in range(4)]
        assert [ask(up.url, number)["paceline"]["task"] for number in (1, 2)] == tasks[:2]
        up.kill_node(name)
        observer.follow(lambda state: state.height > channel.drawn_at + 20)
        answers = []
        while len(answers) < 2:
            # Until it is back, sessions answer in its place.
            found = ask(up.url, 3)
            answers += [found] if found["paceline"]["task"] in tasks else []
        assert [answer["paceline"]["task"] for answer in answers] == tasks[2:]
        observer.follow(lambda state: state.height > answers[-1]["paceline"].get("height", 0))
        assert not [task for task in TASKS.items(observer.read()) if task[1].session == channel_id]
        send_close(home, observer, channel_id)

        def is_over(state):
            found = CHANNELS.get(state, channel_id)
            return found is None or found.status == SETTLED

        for _ in range(4):
            try:
                observer.follow(is_over)
                break
            except AssertionError:
                continue
        drawn = [task for _, task in TASKS.items(observer.read()) if task.session == channel_id]
        assert drawn
        assert all((task.status, task.refunded) == (FINAL, False) for task in drawn)
        assert all(any(vote.outcome == "accepted" for vote in task.votes) for task in drawn)
        assert find_channel(observer.read())[1].state.count == 4
        assert observer.find_problems() == []
