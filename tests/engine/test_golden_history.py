"""One recorded history gives the same app hashes under every engine, interpreter and hash seed.

`python tests/vectors/record_history.py` records it anew after a change of the rules.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from paceline.base.keys import AccountKey
from paceline.engine.abci.adapter import AbciAdapter
from paceline.engine.abci.server import AbciServer
from paceline.engine.cometbft import EngineGenesis, EngineProcess, EngineSettings, find_binary, write_engine_folder
from paceline.engine.driver import DrivenBlock
from paceline.ledger.application import Application
from paceline.protocol.codec import decode_own
from paceline.protocol.genesis import Genesis
from paceline.store.state import MemoryStateStore

ROOT = Path(__file__).resolve().parents[2]
GENESIS, BLOCKS = decode_own(
    tuple[Genesis, list[tuple[tuple[bytes, ...], bytes]]], (ROOT / "tests/vectors/ledger/history.bin").read_bytes()
)
HASHES = [app_hash for _, app_hash in BLOCKS]
REPLAY = """
import sys
from paceline.ledger.application import Application
from paceline.protocol.codec import decode_own
from paceline.protocol.genesis import Genesis
from paceline.store.state import MemoryStateStore
genesis, blocks = decode_own(tuple[Genesis, list[tuple[tuple[bytes, ...], bytes]]], open(sys.argv[1], "rb").read())
store = MemoryStateStore()
application = Application(genesis, store)
for height, (transactions, app_hash) in enumerate(blocks, 1):
    assert application.finalize_block(height, list(transactions)).app_hash == app_hash, height
    application.commit(height, b"")
print(store.app_hash.hex())
"""


def replay(python, hash_seed):
    environment = {
        **os.environ,
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    command = [python, "-c", REPLAY, str(ROOT / "tests/vectors/ledger/history.bin")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("hash_seed", [0, 1, 4242])
def test_solo_gives_the_recorded_hashes_under_every_hash_seed(hash_seed):
    assert replay(sys.executable, hash_seed) == HASHES[-1].hex()


def test_every_newer_interpreter_gives_the_recorded_hashes(capsys):
    names = [f"python3.{minor}" for minor in range(sys.version_info[1] + 1, 20)]
    found = [path for path in map(shutil.which, names) if path is not None and can_import(path)]
    with capsys.disabled():
        sys.stdout.write(f"\nnewer interpreters with the packages of this one: {', '.join(found) or 'none found'}\n")
    for python in found:
        assert replay(python, 1) == HASHES[-1].hex()


def can_import(python):
    """Compiled packages serve one interpreter only; one without its own cannot run the ledger at all."""
    check = [python, "-c", "import msgspec, nacl, blake3, py_arkworks_bls12381"]
    return subprocess.run(check, capture_output=True, check=False).returncode == 0


def test_the_driver_gives_the_recorded_hashes(play):
    log = [
        DrivenBlock(height=height, seconds=height, transactions=transactions)
        for height, (transactions, _) in enumerate(BLOCKS, 1)
    ]

    async def scenario(served):
        driver = served.driver(log)
        await driver.start()
        assert [driver.hashes[height] for height in range(1, len(BLOCKS) + 1)] == HASHES
        await driver.close()

    play(GENESIS, scenario)


class RecordedProposals(AbciAdapter):
    """Proposes exactly the recorded transactions of each height."""

    def _prepare_proposal(self, request):
        from paceline.engine.abci.adapter import _make  # noqa: PLC0415 - the wire form only

        transactions = BLOCKS[request.height - 1][0] if request.height <= len(BLOCKS) else ()
        return _make("ResponsePrepareProposal", txs=transactions)


@pytest.mark.timeout(120)
def test_cometbft_gives_the_recorded_hashes(tmp_path):
    hashes = asyncio.run(asyncio.wait_for(order_by_cometbft(tmp_path), 100))
    assert hashes == HASHES


async def order_by_cometbft(path):
    store, hashes, done = MemoryStateStore(), [], asyncio.Event()
    application = Application(GENESIS, store)

    def on_commit(committed):
        if len(hashes) < len(HASHES):
            hashes.append(committed.result.app_hash)
        if len(hashes) == len(HASHES):
            done.set()
        return 0

    server = AbciServer(path / "abci.sock", RecordedProposals(application, store, on_commit=on_commit).handle)
    await server.start()
    key = AccountKey.from_secret(next(s for s in _secrets() if AccountKey.from_secret(s).public_key == _validator()))
    settings = EngineSettings(
        folder=path / "engine",
        moniker="one",
        socket=path / "abci.sock",
        rpc="127.0.0.1:0",
        p2p="127.0.0.1:0",
        block_seconds=0.001,
    )
    genesis = EngineGenesis(chain_id=application.chain_id, validators=application.get_validators())
    write_engine_folder(settings, genesis, key, AccountKey.from_secret(bytes(32)))
    engine = EngineProcess(find_binary(), settings)
    runner = asyncio.create_task(engine.run())
    waiter = asyncio.create_task(done.wait())
    await asyncio.wait([runner, waiter, server.failure], return_when=asyncio.FIRST_COMPLETED)
    assert not server.failure.done(), server.failure.exception()
    await engine.stop()
    for task in (runner, waiter):
        task.cancel()
    await asyncio.gather(runner, waiter, return_exceptions=True)
    await server.stop()
    return hashes


def _validator():
    ((key, _),) = Application(GENESIS, MemoryStateStore()).get_validators()
    return key


def _secrets():
    from paceline.base.hashing import hash_parts  # noqa: PLC0415 - how the recording made its keys

    return [hash_parts("test-node", bytes([index])) for index in range(5)]
