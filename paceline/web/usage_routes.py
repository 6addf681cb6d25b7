"""GET /v1/usage: what a key used, by hour or day and model, and what its limits leave.

Refuses to know: prompts. Invariant: a key sees its own use and no other's.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from paceline.node.api.usage import DAY_SECONDS, HOUR_SECONDS, Spent, UsageRow
from paceline.node.views import Account, RequestRefused
from paceline.web.entry import Entry, check_query, reply_json

WIDTHS = {"1h": HOUR_SECONDS, "1d": DAY_SECONDS}
DEFAULT_DAYS = 7
MAX_BUCKETS = 24 * 31
MAX_DIGITS = 12


class UsageRoutes:
    """The route of usage."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    async def get_usage(self, request: Request) -> Response:
        """Show what this key used between two moments."""
        account = self._entry.authenticate(request)
        query = check_query(request, {"start_time": "", "end_time": "", "bucket_width": "1d"})
        now = int(self._entry.desk.now())
        if query["bucket_width"] not in WIDTHS:
            raise RequestRefused("bucket_width", "invalid_value", "bucket_width must be 1h or 1d.")
        width = WIDTHS[query["bucket_width"]]
        start = _read_time(query, "start_time", now - DEFAULT_DAYS * DAY_SECONDS)
        end = _read_time(query, "end_time", now + 1)
        if not 0 < end - start <= MAX_BUCKETS * width:
            text = f"end_time must be after start_time, by at most {MAX_BUCKETS} buckets."
            raise RequestRefused("end_time", "conflicting_options", text)
        first_hour = start // width * (width // HOUR_SECONDS)
        rows = self._entry.desk.usage.rows(account.key_id, first_hour, -(-end // HOUR_SECONDS))
        buckets = [
            _show_bucket(list(group), first * width, width)
            for first, group in groupby(rows, lambda row: row.hour * HOUR_SECONDS // width)
        ]
        page = {"object": "page", "data": buckets, "has_more": False, "next_page": None}
        return reply_json({**page, "key": _show_key(account, self._entry.desk.meter.get_today(account.key_id))})


def _show_bucket(rows: list[UsageRow], start: int, width: int) -> dict[str, Any]:
    models = sorted({row.model for row in rows})
    results = [_show_result(model, [row.spent for row in rows if row.model == model]) for model in models]
    return {"object": "bucket", "start_time": start, "end_time": start + width, "results": results}


def _show_result(model: str, spent: list[Spent]) -> dict[str, Any]:
    return {
        "object": "usage.result",
        "model": model,
        "num_model_requests": sum(part.requests for part in spent),
        "input_tokens": sum(part.prompt_tokens for part in spent),
        "output_tokens": sum(part.completion_tokens for part in spent),
        "cost_nicoin": sum(part.cost_nicoin for part in spent),
    }


def _show_key(account: Account, today: Spent) -> dict[str, Any]:
    limits = account.limits
    return {
        "id": account.key_id,
        "name": account.name,
        "today": {
            "requests": today.requests,
            "tokens": today.prompt_tokens + today.completion_tokens,
            "cost_nicoin": today.cost_nicoin,
        },
        "limits": {
            "requests_per_minute": limits.requests_per_minute,
            "tokens_per_day": limits.tokens_per_day,
            "nicoin_per_day": limits.nicoin_per_day,
            "models": list(limits.models) or None,
        },
    }


def _read_time(query: dict[str, str], name: str, default: int) -> int:
    text = query[name]
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        raise RequestRefused(name, "invalid_value", f"{name} must be a time in Unix seconds.")
    return int(text)
