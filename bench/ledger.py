"""Signed transfers per core-second, end to end and stage by stage: decode, verify, execute, Merkle, commit to SQLite.

Run: python bench/ledger.py [--transfers N] [--repeats N]. CPU time of this process, medians. Each transfer has another
payee, so every one changes two accounts of its own beside the fee's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.engine.blocks import Block
from paceline.ledger.admission import Admitted, signed_bytes
from paceline.ledger.application import Application
from paceline.ledger.state import State
from paceline.node.ceremony import CeremonyKey
from paceline.node.chains.founding import Founder, Founding, build_genesis
from paceline.protocol.codec import encode
from paceline.protocol.genesis import Genesis, GenesisAccount
from paceline.protocol.messages import Transfer
from paceline.protocol.params import TINY
from paceline.protocol.transactions import Transaction, TransactionBody, decode_transaction
from paceline.store.state import SqliteStateStore

GOAL = 4_000


def make_genesis(user: AccountKey) -> Genesis:
    node = AccountKey.from_secret(bytes(32))
    founder = Founder(
        name="node-1",
        key=node,
        consensus_key=node.public_key,
        ceremony_key=CeremonyKey(node.address, node.secret),
        weight=1,
        serves=("model",),
    )
    accounts = (GenesisAccount(user.address, 10**15),)
    return build_genesis(
        Founding(network="bench", params=TINY, founders=[founder], accounts=accounts, bootstrap=bytes(32))
    )


def make_transfers(user: AccountKey, chain_id: str, first: int, count: int) -> list[bytes]:
    made = []
    for sequence in range(first, first + count):
        message = Transfer(hash_parts("payee", sequence.to_bytes(8, "big"))[:20], 1)
        body = encode(TransactionBody(chain_id=chain_id, sequence=sequence, expires_at=500, message=message))
        made.append(encode(Transaction(body, user.public_key, user.sign(signed_bytes(body)))))
    return made


def spend(action: Callable[[], object]) -> float:
    begin = time.process_time()
    action()
    return time.process_time() - begin


def verify_all(decoded: list[Admitted]) -> None:
    for admitted in decoded:
        admitted.require_signatures()


def measure_block(application: Application, store: SqliteStateStore, transfers: list[bytes]) -> dict[str, float]:
    """CPU seconds of one block's stages; the whole is what a replica does, the rest is measured apart."""
    height = store.height + 1
    stages: dict[str, float] = {}
    decoded: list[Admitted] = []
    stages["decode"] = spend(lambda: decoded.extend(Admitted(data, *decode_transaction(data)) for data in transfers))
    stages["verify signatures"] = spend(lambda: verify_all(decoded))
    begin = time.process_time()
    result = application.finalize_block(height, transfers)
    finalize = time.process_time() - begin
    assert all(found.code == "ok" for found in result.results)
    state = State(store, height=height)
    for data in transfers:
        application.deliver(state, data)
    stages["Merkle"] = spend(lambda: store.stage(state.changes))
    stages["execute"] = finalize - stages["decode"] - stages["verify signatures"] - stages["Merkle"]
    application.finalize_block(height, transfers)
    block = encode(
        Block(
            height=height,
            previous_hash=bytes(32),
            app_hash=result.app_hash,
            unix_milliseconds=0,
            transactions=tuple(transfers),
            signature=bytes(64),
        )
    )
    stages["commit"] = spend(lambda: application.commit(height, block))
    stages["end to end"] = finalize + stages["commit"]
    return stages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transfers", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=7)
    settings = parser.parse_args()
    user = AccountKey.from_secret(b"u" * 32)
    runs: list[dict[str, float]] = []
    with TemporaryDirectory() as folder:
        store = SqliteStateStore(Path(folder) / "chain.sqlite", durable=True)
        application = Application(make_genesis(user), store)
        application.finalize_block(1, [])
        application.commit(1, b"")
        for repeat in range(settings.repeats + 1):
            first = repeat * settings.transfers
            transfers = make_transfers(user, application.chain_id, first, settings.transfers)
            runs.append(measure_block(application, store, transfers))
        store.close()
    print(f"blocks of {settings.transfers} signed transfers, median of {settings.repeats}, CPU microseconds a transfer")
    for stage in runs[0]:
        value = median(run[stage] for run in runs[1:]) / settings.transfers
        print(f"  {stage:<20}{1e6 * value:>8.1f}")
    whole = median(run["end to end"] for run in runs[1:]) / settings.transfers
    print(f"  transfers per core-second {1 / whole:>10,.0f}   (goal: at least {GOAL:,})")


if __name__ == "__main__":
    main()
