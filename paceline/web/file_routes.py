"""/v1/files: what users keep here for batches.

Refuses to know: disks. Invariant: a file is seen, read and deleted only with the key that brought it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from paceline.node.api.files import Page, StoredFile
from paceline.node.views import RequestRefused
from paceline.web.entry import Entry, check_content_type, check_query, reply_json
from paceline.web.multipart import split_form

PURPOSES = ("batch",)
OUTPUT_PURPOSE = "batch_output"
MAX_FILENAME_CHARS = 255
MAX_PAGE = 100
PAGE_QUERY = {"limit": "20", "after": "", "order": "desc"}


class FileRoutes:
    """The routes of files."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._files = entry.desk.files

    async def add_file(self, request: Request) -> Response:
        """Keep a file."""
        account = self._entry.authenticate(request)
        header = check_content_type(request, "multipart/form-data")
        refuse_foreign_page(request)
        body = await self._entry.read_body(request, self._entry.settings.file_limit_bytes)
        form = split_form(header, body)
        for name in form:
            if name not in {"file", "purpose"}:
                raise RequestRefused(name[:256], "unknown_parameter", f"{name[:256]} is not supported here.")
        for name in ("file", "purpose"):
            if name not in form:
                raise RequestRefused(name, "missing_required_parameter", f"{name} is required.")
        purpose = form["purpose"].content.decode("utf-8", "replace")
        if purpose not in PURPOSES:
            raise RequestRefused("purpose", "unsupported_option", f"purpose must be {', '.join(PURPOSES)} here.")
        name = form["file"].filename or "file"
        now = int(self._entry.desk.now())
        content = form["file"].content
        if not content:
            raise RequestRefused("file", "invalid_value", "The file is empty.")
        # A large file takes the disk longer than other requests should wait.
        kept = await asyncio.to_thread(
            self._files.add, account.key_id, name[:MAX_FILENAME_CHARS], purpose, content, now
        )
        return reply_json(show_file(kept))

    async def list_files(self, request: Request) -> Response:
        """List files, newest first unless asked otherwise."""
        account = self._entry.authenticate(request)
        query = check_query(request, {**PAGE_QUERY, "purpose": ""})
        found, more = self._files.list_page(account.key_id, read_page(query), query["purpose"] or None)
        return reply_json(show_page([show_file(kept) for kept in found], more=more))

    async def get_file(self, request: Request, file_id: str) -> Response:
        """Describe a file."""
        account = self._entry.authenticate(request)
        return reply_json(show_file(self._files.get(account.key_id, file_id)))

    async def read_file(self, request: Request, file_id: str) -> Response:
        """Return the content of a file."""
        account = self._entry.authenticate(request)
        content = await asyncio.to_thread(self._files.read, account.key_id, file_id)
        # Never as a page: what is inside came from outside.
        headers = {"x-content-type-options": "nosniff", "content-disposition": "attachment"}
        return Response(content, headers=headers, media_type="application/octet-stream")

    async def delete_file(self, request: Request, file_id: str) -> Response:
        """Forget a file."""
        account = self._entry.authenticate(request)
        self._files.delete(account.key_id, file_id)
        return reply_json({"id": file_id, "object": "file", "deleted": True})


def refuse_foreign_page(request: Request) -> None:
    """Refuse a form that a browser sends for another site: it asks nobody before it posts forms to a local port."""
    if request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        raise RequestRefused(None, "cross_site_request", "A page of another site may not send files.", 403)


def show_file(kept: StoredFile) -> dict[str, Any]:
    """Return a file under OpenAI's names."""
    return {
        "id": kept.file_id,
        "object": "file",
        "bytes": kept.size_bytes,
        "created_at": kept.created,
        "expires_at": None,
        "filename": kept.name,
        "purpose": kept.purpose,
        "status": "processed",
        "status_details": None,
    }


def show_page(entries: list[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    """Return a part of a list; clients go on with the last id while `has_more`."""
    first, last = (entries[0]["id"], entries[-1]["id"]) if entries else (None, None)
    return {"object": "list", "data": entries, "first_id": first, "last_id": last, "has_more": more}


def read_page(query: dict[str, str]) -> Page:
    """Return which part of a list is asked for.

    Errors: RequestRefused naming the parameter.
    """
    limit = query["limit"]
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 4 and 1 <= int(limit) <= MAX_PAGE):
        raise RequestRefused("limit", "invalid_value", f"limit must be 1 to {MAX_PAGE}.")
    if query["order"] not in {"asc", "desc"}:
        raise RequestRefused("order", "invalid_value", "order must be asc or desc.")
    return Page(limit=int(limit), after=query["after"] or None, newest_first=query["order"] == "desc")
