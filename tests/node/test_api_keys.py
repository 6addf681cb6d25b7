"""The ring of API keys, the meter, and several answers as one stream."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncGenerator

import pytest
from typer.testing import CliRunner

from paceline.base.errors import ConfigError, WorkError
from paceline.cli.main import app
from paceline.node.answers.choices import QUEUE_EVENTS, merge_streams
from paceline.node.api.database import ApiDatabase
from paceline.node.api.desk import ApiDesk
from paceline.node.api.keys import FILE_NAME, KeyRing
from paceline.node.api.usage import Estimate, Spent
from paceline.node.views import Account, KeyForbidden, KeyLimited, KeyLimits

LIMITS = KeyLimits(requests_per_minute=3, tokens_per_day=100, nicoin_per_day=1_000, models=("m",))


def make_account(**limits) -> Account:
    return Account(address="", name="x", key_id="k", limits=KeyLimits(**limits))


def make_estimate(tokens: int = 10, model: str = "m") -> Estimate:
    return Estimate(model=model, tokens=tokens, price_nicoin=10)


def test_a_key_is_told_once_and_found_by_its_hash(tmp_path):
    ring = KeyRing(tmp_path)
    assert ring.find("sk-paceline-x") is None
    secret, made = ring.add("alice", LIMITS, 5)
    text = (tmp_path / FILE_NAME).read_text()
    assert secret not in text
    assert secret[12:30] not in text
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
    assert KeyRing(tmp_path).find(secret) == made
    assert (made.limits, made.created) == (LIMITS, 5)
    assert ring.find_by_id(made.key_id) == made


def test_another_process_revokes(tmp_path):
    running, cli = KeyRing(tmp_path), KeyRing(tmp_path)
    secret, made = cli.add("alice", LIMITS, 5)
    assert running.find(secret) is not None
    cli.revoke("alice")
    assert running.find(secret) is None
    assert running.find_by_id(made.key_id) is None
    assert [key.revoked for key in running.list_keys()] == [True]
    again, _ = cli.add("alice", LIMITS, 6)
    assert running.find(again) is not None


def test_invalid_names(tmp_path):
    ring = KeyRing(tmp_path)
    ring.add("alice", LIMITS, 5)
    with pytest.raises(ConfigError):
        ring.add("alice", LIMITS, 6)
    with pytest.raises(ConfigError):
        ring.revoke("bob")


@pytest.mark.parametrize("text", ["", "{", '{"keys": [{}]}', '{"keys": [], "more": 1}'])
def test_invalid_file_lets_nobody_in(tmp_path, text):
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(ConfigError):
        KeyRing(tmp_path).find("x")


def test_requests_at_the_same_time_share_the_room_of_a_day():
    desk = ApiDesk(now=lambda: 1_000_000.0)
    account = make_account(tokens_per_day=25)
    first = desk.meter.admit(account, make_estimate())
    desk.meter.admit(account, make_estimate())
    with pytest.raises(KeyLimited) as caught:
        desk.meter.admit(account, make_estimate())
    assert caught.value.headers["x-ratelimit-remaining-tokens"] == "0"
    first.settle(Spent(requests=1, prompt_tokens=1, completion_tokens=1, cost_nicoin=20))
    first.release()
    desk.meter.admit(account, make_estimate())
    assert desk.meter.get_today("k").prompt_tokens == 1


def test_boundary_of_the_limits():
    desk = ApiDesk(now=lambda: 1_000_000.0)
    desk.meter.admit(make_account(tokens_per_day=10), make_estimate(10)).release()
    with pytest.raises(KeyLimited):
        desk.meter.admit(make_account(tokens_per_day=10), make_estimate(11))
    desk.meter.admit(make_account(nicoin_per_day=100), make_estimate(10)).release()
    with pytest.raises(KeyLimited):
        desk.meter.admit(make_account(nicoin_per_day=99), make_estimate(10))
    with pytest.raises(KeyForbidden):
        desk.meter.admit(make_account(models=("m",)), make_estimate(model="n"))


def test_a_refused_request_takes_no_place_in_the_minute():
    desk = ApiDesk(now=lambda: 1_000_000.0)
    account = make_account(requests_per_minute=1, tokens_per_day=10)
    with pytest.raises(KeyLimited):
        desk.meter.admit(account, make_estimate(11))
    desk.meter.admit(account, make_estimate(10))


def test_usage_survives_and_another_file_is_refused(tmp_path):
    path = tmp_path / "api.sqlite"
    desk = ApiDesk(path, now=lambda: 7200.0)
    desk.usage.record("k", "m", Spent(requests=1, prompt_tokens=2, completion_tokens=3, cost_nicoin=4), 7200)
    desk.usage.record("k", "m", Spent(requests=1, prompt_tokens=2, completion_tokens=3, cost_nicoin=4), 7201)
    desk.close()
    again = ApiDesk(path, now=lambda: 7200.0)
    (row,) = again.usage.rows("k", 0, 3)
    assert (row.hour, row.spent.cost_nicoin, row.spent.requests) == (2, 8, 2)
    assert again.usage.rows("other", 0, 3) == []
    again.close()
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigError):
        ApiDatabase(path)


def test_a_transaction_that_fails_changes_nothing():
    database = ApiDatabase()

    def fail() -> None:
        with database.transaction() as connection:
            connection.execute("INSERT INTO usage VALUES ('k', 1, 'm', 1, 1, 1, 1)")
            raise WorkError("x")

    with pytest.raises(WorkError):
        fail()
    assert database.select("SELECT * FROM usage") == []


async def count(name: str, number: int, closed: list[str], error: Exception | None = None) -> AsyncGenerator[str, None]:
    try:
        for index in range(number):
            yield f"{name}{index}"
        if error:
            raise error
    finally:
        closed.append(name)


def test_streams_merge_in_their_own_order():
    async def read() -> list[str]:
        return [event async for event in merge_streams([count("a", 100, []), count("b", 3, []), count("c", 0, [])])]

    found = asyncio.run(read())
    assert [event for event in found if event[0] == "a"] == [f"a{index}" for index in range(100)]
    assert [event for event in found if event[0] == "b"] == ["b0", "b1", "b2"]


def test_an_error_of_one_stream_closes_the_others():
    async def read() -> list[str]:
        closed: list[str] = []
        with pytest.raises(WorkError):
            async for _ in merge_streams([count("a", 10**9, closed), count("b", 1, closed, WorkError("x"))]):
                pass
        return closed

    assert sorted(asyncio.run(read())) == ["a", "b"]


def test_a_reader_that_leaves_closes_all_and_is_never_far_behind():
    async def read() -> tuple[list[str], int]:
        closed: list[str] = []
        made = 0

        async def produce() -> AsyncGenerator[int, None]:
            nonlocal made
            try:
                while True:
                    made += 1
                    yield made
            finally:
                closed.append("p")

        merged = merge_streams([produce(), produce()])
        await anext(merged)
        for _ in range(5):
            await asyncio.sleep(0)
        await merged.aclose()
        return closed, made

    closed, made = asyncio.run(read())
    assert closed == ["p", "p"]
    assert made <= QUEUE_EVENTS + 4


def test_commands(tmp_path):
    (tmp_path / "genesis.bin").write_bytes(b"x")
    runner = CliRunner()
    made = runner.invoke(app, ["api-key", "add", "bob", "--tokens-per-day", "9", "--home", str(tmp_path)])
    assert made.exit_code == 0
    secret = made.stdout.split()[0]
    assert KeyRing(tmp_path).find(secret).limits.tokens_per_day == 9
    listed = runner.invoke(app, ["api-key", "list", "--json", "--home", str(tmp_path)])
    assert [key["name"] for key in json.loads(listed.stdout)] == ["bob"]
    assert secret not in listed.stdout
    assert "tokens_per_day=9" in runner.invoke(app, ["api-key", "list", "--home", str(tmp_path)]).stdout
    assert runner.invoke(app, ["api-key", "revoke", "bob", "--home", str(tmp_path)]).exit_code == 0
    assert KeyRing(tmp_path).find(secret) is None
    assert runner.invoke(app, ["api-key", "revoke", "bob", "--home", str(tmp_path)]).exit_code != 0
    assert runner.invoke(app, ["api-key", "list", "--home", str(tmp_path / "no")]).exit_code != 0
