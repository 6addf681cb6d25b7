"""A gateway whose money is that of a real ledger: five nodes, every block executed and replayed, no processes."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import msgspec

# The network of nodes without processes is shared with the tests of the ledger.
sys.path.insert(0, str(Path(__file__).parents[1] / "ledger"))

from chain_harness import PARAMS, Chain
from scripted_gateway import ScriptedGateway

from paceline.base.keys import AccountKey
from paceline.ledger.tasks import FINAL, TASKS, Task
from paceline.node.chains.economy import RewardLine
from paceline.node.economy_views import EconomyReader, EconomyView
from paceline.protocol import messages as m
from paceline.protocol import proposals as p

EPOCH, VOTING, COIN = 160, 24, 10**9
GOVERNANCE = msgspec.structs.replace(PARAMS.governance, deposit=COIN, voting_blocks=VOTING)
SHORT = msgspec.structs.replace(PARAMS, epoch_blocks=EPOCH, duty_window_blocks=8, governance=GOVERNANCE)


class LedgerGateway(ScriptedGateway):
    """Money comes from the chain; everything else follows a script."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = Chain(params=SHORT, weights=[500, 200, 150, 100, 50])
        self._reader = EconomyReader(self.chain.application)
        # The server reads in a thread of its own; a node reads and writes in one.
        self._moving = threading.RLock()
        self.tick()

    def economy(self) -> EconomyView:
        with self._moving:
            return self._reader.read()

    def reward(self, node: str) -> RewardLine | None:
        with self._moving:
            return self._reader.explain(node)

    def tick(self) -> None:
        """One block, told to whoever watches."""
        with self._moving:
            self.chain.tick()
        self.announce("block")

    def send(self, key: AccountKey, message: m.Message) -> None:
        """A transaction and the block that holds it."""
        self.chain.send(key, message)
        self.tick()

    def propose(self, title: str, text: str, action: p.Action) -> int:
        """Put a proposal on the ledger, by the user; its number."""
        self.send(self.chain.user, p.SubmitProposal(title, text, action))
        return self.economy().governance.proposals[-1].number

    def vote(self, number: int, choice: str, *voters: int) -> None:
        """Nodes vote alike on a proposal."""
        for index in voters:
            self.chain.send(self.chain.keys[index], p.VoteProposal(number, choice))
        self.tick()

    def work(self, tasks: int, judged: int) -> None:
        """A Race and some paid answers; the first ones are judged by whoever was drawn, the others by nobody."""
        with self._moving:
            self.chain.run_race([100, 60, 40, 20, None])
            session = self.chain.open_session()
            for index in range(tasks):
                task, _ = self.chain.answer(session, index, prompt=30, completion=60)
                self.chain.run_until(
                    lambda task=task: self._get_task(task).asked or self._get_task(task).status == FINAL
                )
                if index < judged and self._get_task(task).asked:
                    self.chain.check_alike(task, m.Verdict(m.ACCEPTED, "test", (1, 0)))
        self.announce("block")

    def settle(self) -> None:
        """Up to the last block of the epoch, which settles it."""
        with self._moving:
            while self.chain.height % EPOCH:
                self.chain.tick()
        self.announce("block")

    def _get_task(self, task: bytes) -> Task:
        found = TASKS.get(self.chain.state, task)
        assert found is not None
        return found
