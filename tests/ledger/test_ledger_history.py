"""One history gives the same app hash in every process, whatever its hash seed; and the draw cannot be steered."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from chain_harness import Chain

from paceline.base.errors import InvalidBlock
from paceline.engine.blocks import decode_block, seal_block
from paceline.ledger.sessions import SESSIONS, compute_task_id, derive_executors
from paceline.protocol import messages as m
from paceline.protocol.codec import encode

HERE = Path(__file__).parent
SCRIPT = """
from chain_harness import Chain
from paceline.protocol import messages as m
chain = Chain()
chain.run_race([100, 200, 150, 120, 80], rejected=[4])
session_id = chain.open_session()
for index in range(4):
    executor = chain.first_executor(session_id, index)
    chain.send(executor, m.SubmitReceipts((chain.receipt(session_id, index, executor),)))
    chain.tick()
while chain.height < chain.params.epoch_blocks + 5:
    chain.tick()
print(chain.application.info().app_hash.hex())
"""


def test_the_same_history_under_three_hash_seeds():
    hashes = set()
    for seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
        command = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=120)
        hashes.add(done.stdout.strip())
    assert len(hashes) == 1


def test_anyone_recomputes_the_draw():
    chain = Chain()
    chain.run_race([100, 200, 150, 120, 80])
    session_id = chain.open_session()
    session = SESSIONS.get(chain.state, session_id)
    weights = {key.address: count for key, count in zip(chain.keys, [100, 200, 150, 120, 80], strict=True)}
    for index in range(10):
        order = derive_executors(
            session.seed,
            weights,
            [key.address for key in chain.keys],
            session.relay,
            compute_task_id(session_id, index),
        )
        assert order[0] == chain.first_executor(session_id, index).address
        assert session.relay not in order


def test_steering_gains_nothing():
    """Own share of first places over 2,000 requests equals own weight; with the seed known first, it is all of them."""
    chain = Chain()
    chain.run_race([100] * 5)
    session_id = chain.open_session()
    session = SESSIONS.get(chain.state, session_id)
    weights = dict.fromkeys((key.address for key in chain.keys), 100)
    serving = [key.address for key in chain.keys]
    mine = chain.keys[4].address

    def goes_to_me(task):
        return derive_executors(session.seed, weights, serving, session.relay, task)[0] == mine

    wins = sum(goes_to_me(compute_task_id(session_id, index)) for index in range(2_000))
    # Four nodes can be drawn: mean 500, standard deviation 19.4.
    assert abs(wins - 500) < 60
    # The defence off: whoever knows the seed before it chooses its session id tries ids until one suits.
    steered = 0
    for target in range(100):
        tries = (compute_task_id(bytes([target]) + attempt.to_bytes(15, "big"), 0) for attempt in range(200))
        steered += any(goes_to_me(task) for task in tries)
    assert steered == 100


def test_a_block_that_lies_about_its_state_is_refused_by_every_replica():
    chain = Chain()
    chain.send(chain.user, m.Transfer(b"x" * 20, 5))
    data, _ = chain.sequencer.produce_block(0)
    block = decode_block(data)
    forged = type(block)(
        height=block.height,
        previous_hash=block.previous_hash,
        app_hash=bytes(32),
        unix_milliseconds=0,
        transactions=block.transactions,
        signature=bytes(64),
    )
    with pytest.raises(InvalidBlock, match="app-hash"):
        chain.replica.apply_block(encode(seal_block(forged, chain.application.chain_id, chain.keys[0])))
    with pytest.raises(InvalidBlock, match="bad-signature"):
        chain.replica.apply_block(encode(seal_block(block, chain.application.chain_id, chain.keys[1])))
    assert chain.replica.height == 0
    chain.replica.apply_block(data)
    assert chain.replica.height == 1
