"""An engine for tests and tools: drives an Application over the ABCI socket as CometBFT does, in virtual time.

It keeps its own log of blocks and replays from it what the Application does not have yet, as an engine does after a
crash. It can stop at any step of a block, present evidence of equivocation, and let validators be absent.
Invariant: validator updates that CometBFT would halt on raise here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from paceline.base.errors import InvalidBlock
from paceline.engine.abci import schema
from paceline.engine.abci.client import AbciClient, make_message
from paceline.engine.cometbft import GENESIS_UNIX_SECONDS
from paceline.ledger.evidence import compute_consensus_address

MAX_TOTAL_POWER = (2**63 - 1) // 8
BLOCK_SECONDS = 1
CONNECTIONS = ("consensus", "mempool", "query", "snapshot")
Step = Literal["prepared", "processed", "finalized", "committed"]


@dataclass(frozen=True, kw_only=True)
class DrivenBlock:
    """What was decided at one height."""

    height: int
    seconds: int
    transactions: tuple[bytes, ...]
    absent: tuple[bytes, ...] = ()
    """Consensus addresses that did not sign the block before."""
    equivocators: tuple[tuple[bytes, int], ...] = ()
    """(consensus address, height of the offence)."""


@dataclass(frozen=True)
class Driven:
    """What the Application made of a block."""

    height: int
    app_hash: bytes
    codes: tuple[str, ...]
    """Per transaction "ok" or the code of the rule it broke."""


class ValidatorSet:
    """CometBFT's own rules about updates: what breaks one of them halts a chain."""

    def __init__(self, validators: Sequence[tuple[bytes, int]]) -> None:
        self.powers: dict[bytes, int] = {}
        self.apply(validators)

    def apply(self, updates: Sequence[tuple[bytes, int]]) -> None:
        """Errors: InvalidBlock duplicate-update, negative-power, unknown-removal, empty-set, too-much-power."""
        if len({key for key, _ in updates}) != len(updates):
            raise InvalidBlock("duplicate-update", "a validator is updated twice in one block")
        powers = dict(self.powers)
        for key, power in updates:
            if power < 0:
                raise InvalidBlock("negative-power", f"{key.hex()} gets power {power}")
            if power == 0 and key not in powers:
                raise InvalidBlock("unknown-removal", f"{key.hex()} is removed and was not there")
            powers.pop(key, None)
            if power > 0:
                powers[key] = power
        if not powers:
            raise InvalidBlock("empty-set", "no validator is left")
        if sum(powers.values()) > MAX_TOTAL_POWER:
            raise InvalidBlock("too-much-power", f"powers sum to {sum(powers.values())}")
        self.powers = powers


class Driver:
    """One engine. `log` survives it: give it to the next driver to play a restart."""

    def __init__(
        self, path: Path, chain_id: str, genesis: Mapping[bytes, int], log: list[DrivenBlock] | None = None
    ) -> None:
        self.log = log if log is not None else []
        self.hashes: dict[int, bytes] = {}
        """App hash by height, of every block that was executed under this driver."""
        self.validators = ValidatorSet(sorted(genesis.items()))
        self._path = path
        self._chain_id = chain_id
        self._clients: dict[str, AbciClient] = {}

    async def start(self) -> int:
        """Open the four connections, start or catch up the Application; returns its height.

        Errors: InvalidBlock "ahead" when the Application has blocks that this engine never decided.
        """
        for name in CONNECTIONS:
            self._clients[name] = await AbciClient.connect(self._path)
        info = await self._clients["query"].call("info", version="driver", abci_version="2.0.0")
        height = int(info.last_block_height)
        if height > len(self.log):
            raise InvalidBlock("ahead", f"the application is at {height}, the engine at {len(self.log)}")
        if height == 0:
            await self._init_chain()
        for block in self.log[height:]:
            await self._execute(block)
            await self._clients["consensus"].call("commit")
        return len(self.log)

    async def check(self, transactions: Sequence[bytes], *, again: bool = False) -> list[str]:
        """Offer transactions to the mempool; "ok" or the code of the rule for each."""
        kind = schema.CHECK_AGAIN if again else schema.CHECK_NEW
        requests = [{"tx": data, "type": kind} for data in transactions]
        answers = await self._clients["mempool"].call_many("check_tx", requests)
        return [answer.codespace for answer in answers]

    async def propose(self, transactions: Sequence[bytes], max_bytes: int = 1 << 20) -> list[bytes]:
        """What the Application would put into the next block."""
        answer = await self._clients["consensus"].call(
            "prepare_proposal", txs=list(transactions), max_tx_bytes=max_bytes, height=len(self.log) + 1
        )
        return list(answer.txs)

    async def judge(self, transactions: Sequence[bytes]) -> bool:
        """Whether the Application accepts a proposal with these transactions."""
        answer = await self._clients["consensus"].call(
            "process_proposal", txs=list(transactions), height=len(self.log) + 1
        )
        return bool(answer.status == schema.PROPOSAL_ACCEPT)

    async def run_block(
        self,
        transactions: Sequence[bytes] = (),
        *,
        absent: Sequence[bytes] = (),
        equivocators: Sequence[tuple[bytes, int]] = (),
        stop_after: Step = "committed",
    ) -> Driven | None:
        """Check, propose, judge, decide, execute, commit one block; None when told to stop before it is executed.

        `absent` and `equivocators` are consensus keys. A block counts as decided from "processed" on.
        """
        await self.check(transactions)
        chosen = await self.propose(transactions)
        if stop_after == "prepared":
            return None
        if not await self.judge(chosen):
            raise InvalidBlock("own-proposal", "the application rejects what it proposed itself")
        block = DrivenBlock(
            height=len(self.log) + 1,
            seconds=GENESIS_UNIX_SECONDS + BLOCK_SECONDS * (len(self.log) + 1),
            transactions=tuple(chosen),
            absent=tuple(compute_consensus_address(key) for key in absent),
            equivocators=tuple((compute_consensus_address(key), height) for key, height in equivocators),
        )
        self.log.append(block)
        if stop_after == "processed":
            return None
        driven = await self._execute(block)
        if stop_after == "committed":
            await self._clients["consensus"].call("commit")
        return driven

    async def query(self, key: bytes) -> Any:
        """The committed value of a key with its proof."""
        return await self._clients["query"].call("query", path="/state", data=key, prove=True)

    async def call(self, connection: str, verb: str, **fields: Any) -> Any:
        """Any verb on any of the four connections."""
        return await self._clients[connection].call(verb, **fields)

    async def close(self) -> None:
        """Hang up, as a crash of the engine does."""
        for client in self._clients.values():
            await client.close()
        self._clients.clear()

    async def _init_chain(self) -> None:
        validators = [
            make_message("ValidatorUpdate", pub_key=make_message("PublicKey", ed25519=key), power=power)
            for key, power in sorted(self.validators.powers.items())
        ]
        answer = await self._clients["consensus"].call(
            "init_chain", chain_id=self._chain_id, initial_height=1, validators=validators
        )
        self.validators = ValidatorSet([(update.pub_key.ed25519, update.power) for update in answer.validators])

    async def _execute(self, block: DrivenBlock) -> Driven:
        votes = [
            make_message("VoteInfo", validator=make_message("Validator", address=address), block_id_flag=flag)
            for address, flag in self._list_votes(block)
        ]
        misbehavior = [
            make_message(
                "Misbehavior",
                type=schema.DUPLICATE_VOTE,
                validator=make_message("Validator", address=address),
                height=height,
            )
            for address, height in block.equivocators
        ]
        answer = await self._clients["consensus"].call(
            "finalize_block",
            height=block.height,
            txs=list(block.transactions),
            time=make_message("Timestamp", seconds=block.seconds),
            decided_last_commit=make_message("CommitInfo", votes=votes),
            misbehavior=misbehavior,
        )
        self.validators.apply([(update.pub_key.ed25519, update.power) for update in answer.validator_updates])
        former = self.hashes.setdefault(block.height, answer.app_hash)
        if former != answer.app_hash:
            raise InvalidBlock("app-hash", f"height {block.height} executed twice gives two app hashes")
        return Driven(block.height, answer.app_hash, tuple(result.codespace for result in answer.tx_results))

    def _list_votes(self, block: DrivenBlock) -> list[tuple[bytes, int]]:
        return [
            (address, schema.FLAG_ABSENT if address in block.absent else schema.FLAG_COMMIT)
            for address in (compute_consensus_address(key) for key in sorted(self.validators.powers))
        ]
