"""Records the golden history: `python tests/vectors/record_history.py` writes ledger/history.bin beside this file.

One small network plays a Race, a ceremony, a session, answers, a skipped node, checks, forced errors that one checker
passes, a report, marked tasks, transfers, refusals, a settlement, and two channels: one closed with an old state, claimed with
the last, opened and checked; one passed on, whose next executor contradicts itself. Only the first node has a seat, so that a real engine with
one validator can be made to order exactly these blocks.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "ledger")]

from channel_setup import Account  # noqa: E402 - after the path is set
from trap_chain import TrapChain, make_params  # noqa: E402 - after the path is set

from paceline.engine.blocks import decode_block  # noqa: E402
from paceline.ledger import tasks  # noqa: E402
from paceline.protocol import channels as c  # noqa: E402
from paceline.protocol import messages as m  # noqa: E402
from paceline.protocol.codec import encode  # noqa: E402

PATH = Path(__file__).parent / "ledger" / "history.bin"
BASE = make_params()
SEATS = msgspec.structs.replace(
    BASE, seats=1, epoch_blocks=160, channels=msgspec.structs.replace(BASE.channels, dispute_blocks=6)
)


def play() -> TrapChain:
    """The history."""
    chain = TrapChain(SEATS, lazy=(3,), weights=[1_400, 1_000, 1_000, 1_000, 1_000])
    chain.run_race([900, 120, 110, 100, 90], rejected=(4,))
    play_channels(chain)
    session_id = chain.open_session()
    for index in range(4):
        # The third task is passed on by its first node, which is full.
        rank = int(index == 2)
        order = chain.order(session_id, index)
        skips = [chain.skip(session_id, index, address, m.BUSY) for address in order[:rank]]
        executor = next(key for key in chain.keys if key.address == order[rank])
        chain.send(executor, m.SubmitReceipts((chain.receipt(session_id, index, executor, skips=skips),)))
        chain.send(chain.user, m.Transfer(chain.keys[index].address, 1 + index))
        chain.tick()
    for index in range(2):
        # Ordered by the mempool as it stood, and refused when it runs: a block holds what fails, too.
        chain.sequencer._mempool[bytes([index]) * 32] = chain.sign(chain.user, m.Transfer(bytes(20), 10**17))
    chain.replica.apply_block(chain.sequencer.produce_block(0)[0])
    # Two idle nodes answer the marked task of the first window.
    for index in (1, 2):
        chain.send(chain.keys[index], chain.answer_marked(index, 0, completion=8))
    reported = False
    while chain.height < SEATS.epoch_blocks + 5:
        for task_id, _ in tasks.OPEN_TASKS.items(chain.state):
            chain.act(task_id)
        settled = [(task_id, task) for task_id, task in tasks.TASKS.items(chain.state) if task.status == tasks.FINAL]
        final = [task_id for task_id, task in settled if not task.is_marked]
        if final and not reported:
            chain.send(chain.user, m.ReportTask(final[0]))
            reported = True
        chain.tick()
    return chain


def play_channels(chain: TrapChain) -> None:
    """One channel up to its opened leaves, and one that is passed on and ends by a proof."""
    account, passed = Account(chain), Account(chain)
    executor = account.executor
    account.serve(6)
    chain.send(chain.user, account.close(account.signed(account.state(2))))
    skip = chain.skip(passed.id, 0, passed.executor.address, m.BUSY)
    chain.send(chain.keys[0], c.PassChannel(passed.id, skip.kind, skip.height, skip.signature))
    chain.tick()
    chain.send(executor, account.claim())
    passed.serve(1)
    first, second = passed.state(), passed.state(root=bytes(32))
    signatures = [passed.sign(passed.executor, told) for told in (first, second)]
    chain.send(chain.user, c.ProveChannel(c.EXECUTOR, first, signatures[0], second, signatures[1]))
    account.run_to_draw()
    chain.send(executor, account.open_all())
    chain.tick()


def main() -> None:
    """Write genesis, blocks and app hashes."""
    chain = play()
    blocks = [decode_block(data) for data in chain.sequencer.get_blocks(1, 10_000, 1 << 30)]
    recorded = [(block.transactions, block.app_hash) for block in blocks]
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_bytes(encode((chain.genesis, recorded)))
    sys.stdout.write(f"{len(recorded)} blocks, last app hash {recorded[-1][1].hex()}\n")


if __name__ == "__main__":
    main()
