"""Answers that are kept for the key that paid for them: `/v1/responses` to go on from, and repeats under one idempotency key.

Refuses to know: what an answer says. Invariant: within a day one idempotency key of one API key stands for one request.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from paceline.node.api.database import ApiDatabase
from paceline.node.api.files import no_such

REPEAT_SECONDS = 24 * 3600
REPLY_SECONDS = 30 * 24 * 3600
MAX_REPLIES = 10_000
MAX_REPEATS = 10_000


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """A whole reply under an idempotency key; `digest` is the hash of the request that it answers."""

    digest: bytes
    headers: dict[str, str]
    body: bytes


class ReplyStore:
    """Kept answers of all keys; the oldest go first when a key keeps too many."""

    def __init__(self, database: ApiDatabase) -> None:
        self._database = database

    def add(self, owner: str, reply_id: str, shown: bytes, turns: bytes, now: int) -> None:
        """Keep an answer: what is shown of it, and the conversation up to and with it."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM replies WHERE owner = ? AND created < ?", (owner, now - REPLY_SECONDS))
            connection.execute(
                "DELETE FROM replies WHERE owner = ? AND id IN (SELECT id FROM replies WHERE owner = ?"
                " ORDER BY created DESC LIMIT -1 OFFSET ?)",
                (owner, owner, MAX_REPLIES - 1),
            )
            connection.execute("INSERT INTO replies VALUES (?, ?, ?, ?, ?)", (reply_id, owner, now, shown, turns))

    def get(self, owner: str, reply_id: str) -> tuple[bytes, bytes]:
        """Return what is shown and the conversation. Errors: RequestRefused with status 404."""
        rows = self._database.select("SELECT shown, turns FROM replies WHERE owner = ? AND id = ?", owner, reply_id)
        if not rows:
            raise no_such("response", reply_id)
        shown, turns = rows[0]
        return shown, turns

    def delete(self, owner: str, reply_id: str) -> None:
        """Forget an answer. Errors: RequestRefused with status 404."""
        with self._database.transaction() as connection:
            gone = connection.execute("DELETE FROM replies WHERE owner = ? AND id = ?", (owner, reply_id)).rowcount
        if not gone:
            raise no_such("response", reply_id)

    def get_repeat(self, owner: str, key: str, now: int) -> Repeat | None:
        """Return the reply that was given under this key within a day."""
        rows = self._database.select(
            "SELECT digest, headers, body FROM repeats WHERE owner = ? AND key = ? AND created > ?",
            owner,
            key,
            now - REPEAT_SECONDS,
        )
        if not rows:
            return None
        digest, headers, body = rows[0]
        return Repeat(digest=digest, headers=msgspec.msgpack.decode(headers, type=dict[str, str]), body=body)

    def add_repeat(self, owner: str, key: str, repeat: Repeat, now: int) -> None:
        """Keep a reply for repeats of its request."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM repeats WHERE owner = ? AND created <= ?", (owner, now - REPEAT_SECONDS))
            connection.execute(
                "DELETE FROM repeats WHERE owner = ? AND key IN (SELECT key FROM repeats WHERE owner = ?"
                " ORDER BY created DESC LIMIT -1 OFFSET ?)",
                (owner, owner, MAX_REPEATS - 1),
            )
            connection.execute(
                "INSERT OR REPLACE INTO repeats VALUES (?, ?, ?, ?, ?, ?)",
                (owner, key, repeat.digest, now, msgspec.msgpack.encode(repeat.headers), repeat.body),
            )
