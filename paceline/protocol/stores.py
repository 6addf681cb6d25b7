"""What the rooms above may ask of a store: committed state with its blocks, and blobs by address.

Knows nothing of files or databases; any object with these methods will do. A reader sees committed state only, and
a commit takes effect as a whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path


class StateStore(Protocol):
    """The state after one block, the blocks that led there, and a stage for the next one."""

    @property
    def height(self) -> int:
        """Height of the last committed block; 0 before the first."""

    @property
    def app_hash(self) -> bytes:
        """Root of the committed state (32 bytes)."""

    def get(self, key: bytes) -> bytes | None:
        """The committed value of a key."""

    def iterate(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Committed pairs whose key starts with `prefix`, sorted by key. To be read to its end before the next commit."""

    def stage(self, changes: Mapping[bytes, bytes | None]) -> bytes:
        """The app hash that the state would have with these changes (None deletes).

        Effects: persists nothing; replaces what was staged before.
        """

    def commit(self, height: int, block: bytes) -> None:
        """Make the staged changes and the block permanent in one step.

        Errors: WorkError when the disk refuses; nothing has changed then, and the stage is kept.
        """

    @property
    def first_block_height(self) -> int:
        """Lowest height whose block is kept; one above the height when none is."""

    def prune(self, retain_height: int) -> None:
        """Drop blocks below a height, never the last one."""

    def get_block(self, height: int) -> bytes | None:
        """The bytes of one block; None when it is pruned or not there yet."""

    def get_blocks(self, first: int, limit: int, max_bytes: int) -> list[bytes]:
        """Up to `limit` consecutive blocks from height `first`, `max_bytes` together.

        The first block is returned whatever its size, so that a reader always gets on.
        """


class PartialBlob(Protocol):
    """A blob on its way in: bytes are appended until the whole can be verified."""

    @property
    def size(self) -> int:
        """How many bytes are there already."""

    def append(self, data: bytes) -> None:
        """Add the next bytes. Errors: WorkError when the disk refuses or the blob grows beyond the limit."""

    def finish(self) -> bool:
        """True when the bytes hash to the address and now stand in the store; otherwise they are thrown away."""

    def discard(self) -> None:
        """Throw the bytes away and start at zero."""

    def close(self) -> None:
        """Let go, keeping the bytes for a later attempt."""


class Blobs(Protocol):
    """Immutable byte strings by address (`hash_blob` of the bytes)."""

    @property
    def max_blob_bytes(self) -> int:
        """The largest blob that this store takes."""

    def put(self, data: bytes) -> bytes:
        """Keep the bytes and return their address. Errors: WorkError when too large or when the disk refuses."""

    def get(self, digest: bytes) -> bytes:
        """The bytes of an address. Errors: WorkError when they are missing or damaged."""

    def has(self, digest: bytes) -> bool:
        """True when the address is held."""

    def get_path(self, digest: bytes) -> Path | None:
        """The file that holds an address, for serving; its bytes are not verified."""

    def open_partial(self, digest: bytes) -> PartialBlob:
        """Go on with the bytes that an earlier attempt left. Errors: WorkError when another attempt is under way."""
