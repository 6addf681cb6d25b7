"""What each API key used, by hour and model; and whether its limits leave room for one more request.

Refuses to know: prompts and answers. Invariant: what is being answered counts as its estimate until it is done, so that
requests at the same time cannot pass a limit together. Units: amounts in nicoin; hours are Unix hours; days are those of UTC.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from paceline.node.api.database import ApiDatabase
from paceline.node.views import Account, KeyForbidden, KeyLimited

HOUR_SECONDS = 3600
DAY_SECONDS = 24 * HOUR_SECONDS
MINUTE_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What requests used together."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_nicoin: int = 0


@dataclass(frozen=True, kw_only=True)
class UsageRow:
    """One model in one hour."""

    hour: int
    model: str
    spent: Spent


class UsageBook:
    """The counts on disk."""

    def __init__(self, database: ApiDatabase) -> None:
        self._database = database

    def record(self, owner: str, model: str, spent: Spent, now: float) -> None:
        """Add to the running hour."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (owner, hour, model) DO UPDATE SET"
                " requests = requests + excluded.requests, prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
                " completion_tokens = completion_tokens + excluded.completion_tokens, cost = cost + excluded.cost",
                (
                    owner,
                    int(now) // HOUR_SECONDS,
                    model,
                    spent.requests,
                    spent.prompt_tokens,
                    spent.completion_tokens,
                    spent.cost_nicoin,
                ),
            )

    def rows(self, owner: str, first_hour: int, end_hour: int) -> list[UsageRow]:
        """Return the rows of a span, oldest first."""
        found = self._database.select(
            "SELECT hour, model, requests, prompt_tokens, completion_tokens, cost FROM usage"
            " WHERE owner = ? AND hour >= ? AND hour < ? ORDER BY hour, model",
            owner,
            first_hour,
            end_hour,
        )
        return [
            UsageRow(
                hour=hour,
                model=model,
                spent=Spent(requests=requests, prompt_tokens=read, completion_tokens=written, cost_nicoin=cost),
            )
            for hour, model, requests, read, written, cost in found
        ]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The most that a request is expected to use. Batches keep out of the limit on requests per minute."""

    model: str
    tokens: int
    price_nicoin: int
    counts_as_request: bool = True


class Lease:
    """Room that one request holds until it is done; `headers` tell the client what is left."""

    def __init__(self, meter: Meter, account: Account, estimate: Estimate, headers: dict[str, str]) -> None:
        self._meter = meter
        self._account = account
        self._estimate = estimate
        self._open = True
        self.headers = headers

    def settle(self, spent: Spent) -> None:
        """Count what was really used, once."""
        if self._open:
            self._open = False
            self._meter.close(self._account, self._estimate, spent)

    def release(self) -> None:
        """Give the room back unused; does nothing after `settle`."""
        self.settle(Spent())


class Meter:
    """Admits requests by their key's limits."""

    def __init__(self, book: UsageBook, now: Callable[[], float]) -> None:
        self._book = book
        self._now = now
        self._recent: dict[str, deque[float]] = {}
        self._held: dict[str, tuple[int, int]] = {}

    def admit(self, account: Account, estimate: Estimate) -> Lease:
        """Take room for one request.

        Errors: KeyForbidden when the key may not use the model, KeyLimited when a limit leaves no room.
        """
        limits, now = account.limits, self._now()
        if limits.models and estimate.model not in limits.models:
            raise KeyForbidden(f"This API key may use {', '.join(limits.models)}, not {estimate.model[:200]!r}.")
        headers: dict[str, str] = {}
        self._check_day(account, estimate, now, headers)
        if limits.requests_per_minute is not None and estimate.counts_as_request:
            self._check_minute(account, limits.requests_per_minute, now, headers)
        tokens, nicoin = self._held.get(account.key_id, (0, 0))
        held = (tokens + estimate.tokens, nicoin + estimate.tokens * estimate.price_nicoin)
        self._held[account.key_id] = held
        return Lease(self, account, estimate, headers)

    def close(self, account: Account, estimate: Estimate, spent: Spent) -> None:
        """Give an admitted request's room back and count what it used."""
        tokens, nicoin = self._held[account.key_id]
        left = (tokens - estimate.tokens, nicoin - estimate.tokens * estimate.price_nicoin)
        self._held[account.key_id] = left
        if left == (0, 0):
            del self._held[account.key_id]
        if spent != Spent():
            self._book.record(account.key_id, estimate.model, spent, self._now())

    def get_today(self, owner: str) -> Spent:
        """Return what a key used since midnight."""
        first = int(self._now()) // DAY_SECONDS * (DAY_SECONDS // HOUR_SECONDS)
        rows = self._book.rows(owner, first, first + DAY_SECONDS // HOUR_SECONDS)
        return Spent(
            requests=sum(row.spent.requests for row in rows),
            prompt_tokens=sum(row.spent.prompt_tokens for row in rows),
            completion_tokens=sum(row.spent.completion_tokens for row in rows),
            cost_nicoin=sum(row.spent.cost_nicoin for row in rows),
        )

    def _check_minute(self, account: Account, limit: int, now: float, headers: dict[str, str]) -> None:
        recent = self._recent.setdefault(account.key_id, deque())
        while recent and recent[0] <= now - MINUTE_SECONDS:
            recent.popleft()
        wait = int(recent[0] + MINUTE_SECONDS - now) + 1 if recent else 0
        left = limit - len(recent)
        headers |= _describe("requests", limit, max(0, left - 1), wait)
        if left <= 0:
            text = f"This key may send {limit} requests per minute."
            raise KeyLimited(text, "rate_limit_exceeded", wait, headers)
        recent.append(now)

    def _check_day(self, account: Account, estimate: Estimate, now: float, headers: dict[str, str]) -> None:
        limits = account.limits
        if limits.tokens_per_day is None and limits.nicoin_per_day is None:
            return
        used, held = self.get_today(account.key_id), self._held.get(account.key_id, (0, 0))
        wait = DAY_SECONDS - int(now) % DAY_SECONDS
        asked = (
            ("tokens", limits.tokens_per_day, used.prompt_tokens + used.completion_tokens, held[0], estimate.tokens),
        )
        cost = estimate.tokens * estimate.price_nicoin
        for name, limit, spent, reserved, more in (
            *asked,
            ("nicoin", limits.nicoin_per_day, used.cost_nicoin, held[1], cost),
        ):
            if limit is None:
                continue
            left = limit - spent - reserved
            headers |= _describe(name, limit, max(0, left - more), wait)
            if left < more:
                text = f"This key may use {limit} {name} a day; {max(0, left)} are left, this request may take {more}."
                raise KeyLimited(text, "daily_limit_exceeded", wait, headers)


def _describe(name: str, limit: int, left: int, wait: int) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{name}": str(limit),
        f"x-ratelimit-remaining-{name}": str(left),
        f"x-ratelimit-reset-{name}": f"{wait}s",
    }
