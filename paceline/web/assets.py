"""Static files: ours, and the chart library as its installed Python package carries it.

Refuses to know: pages. Invariant: the address of a file holds the hash of its bytes, so it may be cached for ever and
nothing is ever fetched from outside.
"""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from plotly.offline import get_plotlyjs
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from paceline.base.hashing import hash_blob

STATIC_FOLDER = Path(__file__).parent / "static"
CHART_LIBRARY = "plotly.min.js"
GZIP_LEVEL = 6
FOR_EVER = "public, max-age=31536000, immutable"
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Asset:
    """One file to serve."""

    name: str
    body: bytes

    @cached_property
    def path(self) -> str:
        """The address, with the hash of the content in it."""
        return f"/static/{hash_blob(self.body).hex()[:16]}/{self.name}"

    @cached_property
    def packed(self) -> bytes:
        """The content, compressed once. Effects: about a quarter of a second for the chart library."""
        return gzip.compress(self.body, GZIP_LEVEL, mtime=0)


class Assets:
    """All files that pages refer to; `load_assets` returns the one of this process."""

    def __init__(self) -> None:
        own = [Asset(path.name, path.read_bytes()) for path in sorted(STATIC_FOLDER.iterdir())]
        self._by_name = {asset.name: asset for asset in [*own, Asset(CHART_LIBRARY, get_plotlyjs().encode())]}

    def get_path(self, name: str) -> str:
        """Return the address of a file."""
        return self._by_name[name].path

    async def get_asset(self, request: Request, digest: str, name: str) -> Response:
        """Serve a file. Errors: 404 when the name is unknown or the content is another by now."""
        asset = self._by_name.get(name)
        if asset is None or asset.path != f"/static/{digest}/{name}":
            raise HTTPException(404)
        headers = {"cache-control": FOR_EVER, "vary": "accept-encoding", "x-content-type-options": "nosniff"}
        body = asset.body
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
            body = await asyncio.to_thread(lambda: asset.packed)
        return Response(body, headers=headers, media_type=MEDIA_TYPES[Path(name).suffix])


@cache
def load_assets() -> Assets:
    """Load the files. Effects: once in a process, since they are hashed and compressed."""
    return Assets()
