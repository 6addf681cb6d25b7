"""Files that users of the API keep on this node: the input and output of batches.

Refuses to know: what is inside. Invariant: a file is visible to the key it belongs to and to no other, and all files of a
key together stay within its quota.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from paceline.node.api.database import ApiDatabase
from paceline.node.views import RequestRefused

DEFAULT_QUOTA_BYTES = 256 << 20
_COLUMNS = "id, name, purpose, created, size"


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One file without its content. Units: created in Unix seconds."""

    file_id: str
    name: str
    purpose: str
    created: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Page:
    """Which part of a list is asked for: `limit` entries behind the one called `after`."""

    limit: int = 20
    after: str | None = None
    newest_first: bool = True


class FileStore:
    """All files of all keys."""

    def __init__(self, database: ApiDatabase, quota_bytes: int = DEFAULT_QUOTA_BYTES) -> None:
        self._database = database
        self._quota_bytes = quota_bytes

    def add(self, owner: str, name: str, purpose: str, content: bytes, now: int) -> StoredFile:
        """Keep a file.

        Errors: RequestRefused when the key's files would outgrow its quota.
        """
        return self._insert(owner, name, purpose, content, now, self._quota_bytes)

    def add_output(self, owner: str, name: str, purpose: str, content: bytes, now: int) -> StoredFile:
        """Keep what a batch gave. It is paid for, so no quota refuses it; new uploads have to make room for it."""
        return self._insert(owner, name, purpose, content, now, None)

    def _insert(self, owner: str, name: str, purpose: str, content: bytes, now: int, quota: int | None) -> StoredFile:
        file_id = f"file-{secrets.token_hex(12)}"
        with self._database.transaction() as connection:
            (used,) = connection.execute(
                "SELECT coalesce(sum(size), 0) FROM files WHERE owner = ?", (owner,)
            ).fetchone()
            if quota is not None and used + len(content) > quota:
                text = f"This key keeps {used} of {quota} bytes; delete files to make room for {len(content)} more."
                raise RequestRefused("file", "file_quota_exceeded", text)
            connection.execute(
                "INSERT INTO files (id, owner, name, purpose, created, size, content) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (file_id, owner, name, purpose, now, len(content), content),
            )
        return StoredFile(file_id=file_id, name=name, purpose=purpose, created=now, size_bytes=len(content))

    def get(self, owner: str, file_id: str) -> StoredFile:
        """Errors: RequestRefused with status 404."""
        rows = self._database.select(f"SELECT {_COLUMNS} FROM files WHERE owner = ? AND id = ?", owner, file_id)  # noqa: S608 - a constant
        if not rows:
            raise no_such("file", file_id)
        return _make_file(rows[0])

    def read(self, owner: str, file_id: str) -> bytes:
        """Return the content. Errors: RequestRefused with status 404."""
        rows = self._database.select("SELECT content FROM files WHERE owner = ? AND id = ?", owner, file_id)
        if not rows:
            raise no_such("file", file_id)
        content: bytes = rows[0][0]
        return content

    def list_page(self, owner: str, page: Page, purpose: str | None) -> tuple[list[StoredFile], bool]:
        """Return a part of the list, and whether there is more. Errors: RequestRefused when `after` is unknown."""
        rows, more = select_page(self._database, "files", _COLUMNS, owner, page, ("purpose", purpose))
        return [_make_file(row) for row in rows], more

    def delete(self, owner: str, file_id: str) -> None:
        """Forget a file. Errors: RequestRefused with status 404."""
        with self._database.transaction() as connection:
            gone = connection.execute("DELETE FROM files WHERE owner = ? AND id = ?", (owner, file_id)).rowcount
        if not gone:
            raise no_such("file", file_id)


def select_page(
    database: ApiDatabase, table: str, columns: str, owner: str, page: Page, only: tuple[str, str | None] = ("id", None)
) -> tuple[list[tuple[Any, ...]], bool]:
    """Return rows of one key's list, and whether more follow. Table, columns and `only`'s name are ours, never a client's."""
    where, values = "owner = ?", [owner]
    if only[1] is not None:
        where, values = f"{where} AND {only[0]} = ?", [*values, only[1]]
    order, sign = ("DESC", "<") if page.newest_first else ("ASC", ">")
    if page.after is not None:
        found = database.select(f"SELECT number FROM {table} WHERE owner = ? AND id = ?", owner, page.after)  # noqa: S608
        if not found:
            raise RequestRefused("after", "invalid_value", f"after: {page.after[:100]!r} is not in this list.")
        where, values = f"{where} AND number {sign} ?", [*values, found[0][0]]
    text = f"SELECT {columns} FROM {table} WHERE {where} ORDER BY number {order} LIMIT ?"  # noqa: S608
    rows = database.select(text, *values, page.limit + 1)
    return rows[: page.limit], len(rows) > page.limit


def no_such(kind: str, name: str) -> RequestRefused:
    """Say that this key owns nothing of that name."""
    return RequestRefused("id", f"{kind}_not_found", f"No {kind} {name[:100]!r} belongs to this key.", 404)


def _make_file(row: tuple[Any, ...]) -> StoredFile:
    file_id, name, purpose, created, size = row
    return StoredFile(file_id=file_id, name=name, purpose=purpose, created=created, size_bytes=size)
