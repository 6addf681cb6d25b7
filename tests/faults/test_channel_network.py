"""A channel between real node processes: answers beside the ledger, `kill -9` of executor and relay, one close, leaves checked."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import httpx
import msgspec
import pytest
from chain_observer import observe
from up_process import UpProcess, wait_until

from paceline.ledger.channel_records import CHANNELS, CLOSING, OPEN, SETTLED
from paceline.ledger.sessions import compute_task_id
from paceline.ledger.tasks import FINAL, TASKS
from paceline.node.home import NewHome, create_home
from paceline.node.settings import encode_settings, load_settings
from paceline.protocol.messages import REJECTED

pytestmark = pytest.mark.long
MODEL = "smollm2-135m-instruct"
RELAY = "node-1"
BACK_SECONDS = 240.0
END_SECONDS = 600.0
"""Windows of the ledger, and checkers that load their model on a busy machine."""


def make_home(path):
    home = create_home(path, NewHome(nodes=3, seed=3))
    settings = home.node_path(RELAY) / "node.toml"
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


def kill(up, observer, name):
    """Until it answers again over what it had on disk."""
    up.kill_node(name)
    wait_until(lambda: observer.has_block(name, 1), BACK_SECONDS, f"{name} is back")


def count_signed(home, name, channel_id):
    """Leaves of a channel whose states both sides have signed, on the executor's disk."""
    [book] = home.node_path(name).rglob("channels.sqlite")
    with closing(sqlite3.connect(f"file:{book}?mode=ro", uri=True)) as connection:
        query = "SELECT COUNT(*) FROM leaves WHERE channel = ? AND owners IS NOT NULL"
        return connection.execute(query, (channel_id,)).fetchone()[0]


def test_a_relay_that_forgot_its_channel_closes_it_and_both_answers_are_paid_though_both_sides_were_killed(tmp_path):
    home = make_home(tmp_path / "home")
    with UpProcess(home) as up:
        up.wait_ready()
        observer = observe(home)
        observer.follow(lambda state: [c for _, c in CHANNELS.items(state) if c.status == OPEN])
        [(channel_id, channel)] = CHANNELS.items(observer.read())
        name = next(name for name, address in observer.addresses.items() if address == channel.executor)
        own = [compute_task_id(channel_id, index).hex() for index in range(2)]
        assert [ask(up.url, number) for number in range(2)] == own
        # An answer's end is told before the executor has the user's signature for it: that one answer is its risk.
        wait_until(lambda: count_signed(home, name, channel_id) == 2, BACK_SECONDS, "both answers are signed for")
        kill(up, observer, name)
        assert CHANNELS.get(observer.catch_up(observer.read().height + 1), channel_id).status == OPEN
        kill(up, observer, RELAY)
        # Nobody here sends a message: the relay closes what it finds open, by no state, and the executor shows what both signed.
        closing = observer.follow(lambda state: CHANNELS.get(state, channel_id).status == CLOSING, BACK_SECONDS)
        assert CHANNELS.get(closing, channel_id).expires_at > closing.height
        shown = observer.follow(lambda state: CHANNELS.get(state, channel_id).state, BACK_SECONDS)
        assert CHANNELS.get(shown, channel_id).state.count == 2
        observer.follow(lambda state: is_over(state, channel_id), END_SECONDS)
        drawn = [task for _, task in TASKS.items(observer.read()) if task.session == channel_id]
        assert drawn
        assert all((task.status, task.refunded) == (FINAL, False) for task in drawn)
        # So few tokens decide nothing; the checkers show what they computed all the same.
        assert all([vote.outcome for vote in task.votes if vote.evidence] for task in drawn)
        assert not any(vote.outcome == REJECTED for task in drawn for vote in task.votes)
        assert observer.find_problems() == []
