"""The record of what an engine signed: raised or left alone, never lowered, and honoured by the engine itself."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.base.errors import ConfigError
from paceline.base.keys import AccountKey
from paceline.engine.abci.adapter import AbciAdapter
from paceline.engine.abci.server import AbciServer
from paceline.engine.cometbft import EngineGenesis, EngineProcess, EngineSettings, find_binary, write_engine_folder
from paceline.engine.signed_mark import (
    LAST_ROUND,
    LAST_STEP,
    SignedMark,
    make_mark_through,
    raise_signed_mark,
    read_signed_mark,
)

MARKS = st.builds(SignedMark, st.integers(0, 2**62), st.integers(0, LAST_ROUND), st.integers(0, LAST_STEP))


def read_file(folder):
    return json.loads((folder / "data" / "priv_validator_state.json").read_text())


def test_an_engine_that_never_ran_has_signed_nothing(tmp_path):
    assert read_signed_mark(tmp_path) == SignedMark(0, 0, 0)


@given(marks=st.lists(MARKS, min_size=1, max_size=5))
def test_whatever_is_asked_the_highest_mark_holds(tmp_path_factory, marks):
    folder = tmp_path_factory.mktemp("engine")
    for count, mark in enumerate(marks, 1):
        assert raise_signed_mark(folder, mark) == max(marks[:count])
    assert read_signed_mark(folder) == max(marks)


@pytest.mark.parametrize("lower", [SignedMark(6, 9, 3), SignedMark(7, 0, 3), SignedMark(7, 1, 1), SignedMark(7, 1, 2)])
def test_invalid_lowering_leaves_the_file_with_its_signature(tmp_path, lower):
    held = {"height": "7", "round": 1, "step": 2, "signature": "c2ln", "signbytes": "00"}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "priv_validator_state.json").write_text(json.dumps(held))
    assert raise_signed_mark(tmp_path, lower) == SignedMark(7, 1, 2)
    assert read_file(tmp_path) == held


def test_a_higher_mark_replaces_the_file_whole(tmp_path):
    raise_signed_mark(tmp_path, SignedMark(7, 1, 2))
    raise_signed_mark(tmp_path, SignedMark(7, 1, 3))
    assert read_file(tmp_path) == {"height": "7", "round": 1, "step": 3}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["priv_validator_state.json"]


def test_a_mark_through_a_height_leaves_no_round_of_it(tmp_path):
    assert make_mark_through(0) == SignedMark()
    assert SignedMark(8, LAST_ROUND, LAST_STEP) == make_mark_through(8) < SignedMark(9, 0, 1)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"height": 7}', '{"height": "x"}', '{"height": "-1"}', '{"height": "1", "round": -1}', "\xff"]
)
def test_invalid_files_are_not_taken_for_a_fresh_start(tmp_path, text):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "priv_validator_state.json").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match="damaged"):
        read_signed_mark(tmp_path)
    with pytest.raises(ConfigError, match="damaged"):
        raise_signed_mark(tmp_path, SignedMark(5, 0, 0))
    assert (tmp_path / "data" / "priv_validator_state.json").read_text(encoding="latin-1") == text


@pytest.mark.timeout(120)
@pytest.mark.parametrize("through", [0, 5])
def test_the_engine_signs_nothing_up_to_the_mark(tmp_path, through):
    from test_golden_history import GENESIS, _secrets, _validator  # noqa: PLC0415 - the network of the recording

    (secret,) = [secret for secret in _secrets() if AccountKey.from_secret(secret).public_key == _validator()]
    height, log = asyncio.run(asyncio.wait_for(run_until_it_signs_or_refuses(tmp_path, GENESIS, secret, through), 90))
    refused = "height regression" in log
    # Without a mark the same validator makes blocks: it is the mark that holds it back.
    assert (height > 0, refused) == ((True, False) if through == 0 else (False, True)), log


async def run_until_it_signs_or_refuses(path, genesis, secret, through):
    from paceline.ledger.application import Application  # noqa: PLC0415
    from paceline.store.state import MemoryStateStore  # noqa: PLC0415

    store = MemoryStateStore()
    application = Application(genesis, store)
    settings = EngineSettings(
        folder=path / "engine",
        moniker="one",
        socket=path / "abci.sock",
        rpc="127.0.0.1:0",
        p2p="127.0.0.1:0",
        block_seconds=0.01,
    )
    server = AbciServer(settings.socket, AbciAdapter(application, store, on_commit=lambda committed: 0).handle)
    await server.start()
    raise_signed_mark(settings.folder, make_mark_through(through))
    wanted = EngineGenesis(chain_id=application.chain_id, validators=application.get_validators())
    write_engine_folder(settings, wanted, AccountKey.from_secret(secret), AccountKey.from_secret(bytes(32)))
    engine = EngineProcess(find_binary(), settings)
    runner = asyncio.create_task(engine.run())
    log = settings.folder / "engine.log"
    while store.height < 2 and not (log.exists() and "height regression" in log.read_text()):
        assert not runner.done(), runner.exception()
        await asyncio.wait([runner], timeout=0.05)
    await engine.stop()
    await asyncio.gather(runner, return_exceptions=True)
    await server.stop()
    return store.height, log.read_text()
