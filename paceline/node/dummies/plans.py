"""What a relay promises before a session is drawn, and how it shows later which of its tasks were dummies.

A plan holds hashes only: prompts stay in memory, so that a stolen disk tells what was a dummy and not what users asked.
It refuses to know traffic and time. Invariant: what a plan promises fills the whole tree, however many dummies there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec

from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.base.merkle import build_path, compute_root
from paceline.ledger.sessions import Session
from paceline.network.sealing import Lock
from paceline.node.ceremony import CeremonyKey
from paceline.node.home import write_whole
from paceline.protocol.codec import Record, decode_own, encode
from paceline.protocol.dummies import LEAST_PAYOUTS, LEAVES, DummyEntry, compute_draw_message, compute_leaf

MOST_PARTS = 6
"""Accounts that one reveal is split over, at most."""


class Used(Record, frozen=True):
    """An index that carried a dummy, and where its prompt stands."""

    index: int
    place: int
    shown: bool = False


class Due(Record, frozen=True):
    """A new account of a reveal, by its number, and the height at which its coins move on."""

    number: int
    height: int


class Plan(Record, frozen=True, kw_only=True):
    """One session's promise. `nonce` makes its salts."""

    nonce: bytes
    hashes: tuple[bytes, ...]
    used: tuple[Used, ...] = ()
    due: tuple[Due, ...] = ()

    def compute_leaves(self) -> list[bytes]:
        """The leaves under the root."""
        return [compute_leaf(digest, self.get_salt(place)) for place, digest in enumerate(self.hashes)]

    def compute_root(self) -> bytes:
        """What opens the session."""
        return compute_root(self.compute_leaves())

    def get_salt(self, place: int) -> bytes:
        """Keeps whoever guesses a prompt from finding it under the root."""
        return hash_parts("dummy-salt", self.nonce, place.to_bytes(4, "big"))


def make_plan(hashes: Sequence[bytes], nonce: bytes) -> Plan:
    """A plan over prompts by their hashes; places without one are filled with what no prompt hashes to."""
    filler = [hash_parts("dummy-filler", nonce, place.to_bytes(4, "big")) for place in range(len(hashes), LEAVES)]
    return Plan(nonce=nonce, hashes=(*hashes, *filler))


def make_entry(
    plan: Plan, key: CeremonyKey, chain_id: str, session: bytes, *, seed: bytes, index: int, place: int
) -> DummyEntry:
    """What shows one dummy: prompt under the root, and the draw."""
    lot = key.draw_lot(compute_draw_message(chain_id, session, seed, index))
    return DummyEntry(
        index=index,
        place=place,
        salt=plan.get_salt(place),
        path=tuple(build_path(plan.compute_leaves(), place)),
        point=lot.point,
        proof=lot.proof,
    )


def compute_point(key: CeremonyKey, chain_id: str, session_id: bytes, session: Session, index: int) -> bytes:
    """The point of the lot of an index of a drawn session."""
    return key.compute_lot_point(compute_draw_message(chain_id, session_id, session.seed, index))


def split_amount(total: int, random: Random) -> list[int]:
    """An amount in two to `MOST_PARTS` parts of at least one, so that no part names a task's cost."""
    count = min(total, random.randint(LEAST_PAYOUTS, MOST_PARTS))
    cuts = sorted(random.sample(range(1, total), count - 1))
    return [high - low for low, high in zip([0, *cuts], [*cuts, total], strict=True)]


def derive_payout_key(user: AccountKey, number: int) -> AccountKey:
    """The key of a new account: found again after a restart, unknown to everybody else."""
    return AccountKey.from_secret(hash_parts("dummy-payout", user.secret, number.to_bytes(8, "big")))


class PlanStore:
    """The plans of one relay, a locked file for each session."""

    def __init__(self, folder: Path, key: AccountKey) -> None:
        self._folder = folder
        self._lock = Lock(key, "dummies")
        folder.mkdir(parents=True, exist_ok=True)
        self._plans = {
            bytes.fromhex(path.stem): decode_own(Plan, self._lock.open(path.read_bytes()))
            for path in sorted(folder.glob("*.plan"))
        }

    def list_plans(self) -> list[tuple[bytes, Plan]]:
        """Sessions with their plans."""
        return sorted(self._plans.items())

    def get(self, session: bytes) -> Plan | None:
        """The plan of a session."""
        return self._plans.get(session)

    def put(self, session: bytes, plan: Plan) -> None:
        """Keep a plan; on disk once it says something."""
        self._plans[session] = plan
        if plan.used or plan.due:
            write_whole(self._locate(session), self._lock.close(encode(plan)), mode=0o600)

    def add_used(self, session: bytes, index: int, place: int) -> None:
        """Note that an index carries a dummy now."""
        plan = self._plans[session]
        self.put(session, msgspec.structs.replace(plan, used=(*plan.used, Used(index, place))))

    def forget(self, session: bytes) -> None:
        """Drop what nothing is left of."""
        del self._plans[session]
        self._locate(session).unlink(missing_ok=True)

    def _locate(self, session: bytes) -> Path:
        return self._folder / f"{session.hex()}.plan"
