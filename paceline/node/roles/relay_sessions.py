"""The sessions on the ledger under which a relay promises requests: one in use for each model, the next opened before it runs dry.

It refuses to know requests and who answers them. Invariant: an index is promised once, and a session that another one followed
is closed when nothing is under way in it any more.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass

from paceline.base.errors import InvalidTransaction, TransportError
from paceline.base.keys import AccountKey
from paceline.ledger import compute_credits, nodes, prices
from paceline.ledger.accounts import get_account
from paceline.ledger.sessions import SESSIONS, Session, compute_session_id, compute_task_id, get_executors
from paceline.node.context import Context
from paceline.node.dummies.injector import NoDummies
from paceline.node.views import Busy, OutOfFunds, UpstreamFailed
from paceline.protocol.credits import UseCredits
from paceline.protocol.fields import MAX_SUPPLY
from paceline.protocol.messages import MAX_SKIPS, CloseSession
from paceline.protocol.openings import OpenSession
from paceline.protocol.params import NICOIN_PER_COIN

LOG = logging.getLogger(__name__)
DEPOSIT = 200 * NICOIN_PER_COIN
"""What one session holds, and one channel."""
READY_SECONDS = 60.0
REOPEN_SHARE = 4
"""A session is followed by a new one, and a channel ends, when less than a quarter of the deposit is left, or of its tasks."""
ENDING_SHARE = 8
"""A session takes no new requests in the last eighth of its time."""
RETRY_AFTER_SECONDS = 2


@dataclass
class OpenedSession:
    """A session of ours with what this relay has promised under it."""

    session_id: bytes
    session: Session
    total: int = 0
    """Maximum costs of all vouchers, as the next one has to say."""
    freed: int = 0
    """What the ledger says that receipts left of these maximum costs."""
    next_index: int = 0
    active: int = 0
    """Requests under way."""
    retired: bool = False
    """A newer session took over; closed once nothing is under way."""

    @property
    def left(self) -> int:
        """Nicoin not yet promised."""
        return self.session.deposit + self.freed - self.total

    @property
    def token_price(self) -> int:
        """Nicoin a token, to the session's end."""
        return self.session.token_price

    @property
    def tasks_left(self) -> int:
        """Requests that may still be made."""
        return self.session.max_tasks - self.next_index


@dataclass(frozen=True)
class Placed:
    """A request that has its index, its voucher's limits and its drawn order."""

    opened: OpenedSession
    index: int
    task_id: bytes
    max_cost: int
    total: int
    executors: list[bytes]


class SessionPool:
    """The sessions of one account for one model through this relay."""

    def __init__(self, context: Context, model_id: str, user: AccountKey, injector: NoDummies) -> None:
        self._context = context
        self._model_id = model_id
        self._user = user
        self._injector = injector
        self.current: OpenedSession | None = None
        self._opening: asyncio.Task[OpenedSession] | None = None

    def release(self, placed: Placed) -> None:
        """A request has ended, well or not."""
        placed.opened.active -= 1
        self._close_if_done(placed.opened)
        self.open_ahead()

    async def stop(self) -> None:
        """Give up what is being opened."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)

    async def place(self, tokens: int) -> Placed:
        """An index for a request of at most so many tokens, with its drawn order, in a session that is opened if none can pay.

        Errors: OutOfFunds, UpstreamFailed, Busy.
        """
        opened = self.current
        if opened is None or not self.is_usable(opened) or self.count_left(opened) < tokens:
            opened = await self._open(tokens)
            self._take_over(opened)
        return self.take_index(opened, tokens)

    def take_index(self, opened: OpenedSession, tokens: int) -> Placed:
        """The next index of a session, promised to a request of at most so many tokens."""
        max_cost = tokens * opened.token_price
        index = opened.next_index
        opened.next_index += 1
        opened.active += 1
        opened.total += max_cost
        task_id = compute_task_id(opened.session_id, index)
        executors = get_executors(self._context.chain.read(), opened.session, task_id)[: MAX_SKIPS + 1]
        return Placed(opened, index, task_id, max_cost, opened.total, executors)

    def is_usable(self, opened: OpenedSession) -> bool:
        """True when the session may take another request."""
        state = self._context.chain.read()
        fresh = opened.session.version == nodes.get_version(state)
        # Near the end a request that one node leaves unanswered would reach the next one too late.
        ending = max(1, self._context.params.session_blocks // ENDING_SHARE)
        return fresh and opened.tasks_left > 0 and state.height < self._get_end(opened) - ending

    def _get_end(self, opened: OpenedSession) -> int:
        """The session's end as the ledger has it now: too many late marks end it early."""
        session = SESSIONS.get(self._context.chain.read(), opened.session_id)
        return opened.session.expires_at if session is None else session.expires_at

    def count_left(self, opened: OpenedSession) -> int:
        """Tokens that the session pays for, by what the ledger says of former requests."""
        session = SESSIONS.get(self._context.chain.read(), opened.session_id)
        if session is not None:
            opened.freed = session.freed
        return opened.left // opened.token_price

    def open_ahead(self) -> None:
        """Open another session in the background when this one runs low."""
        opened = self.current
        low = opened is None or not self.is_usable(opened)
        if opened is not None and not low:
            low = (
                opened.tasks_left * REOPEN_SHARE < opened.session.max_tasks
                or self.count_left(opened) * opened.token_price * REOPEN_SHARE < DEPOSIT
            )
        if low and self._opening is None:
            self._opening = asyncio.create_task(self._open_session(DEPOSIT))
            self._opening.add_done_callback(self._keep_opened)

    def _keep_opened(self, opening: asyncio.Task[OpenedSession]) -> None:
        self._opening = None
        if opening.cancelled():
            return
        problem = opening.exception()
        if problem is None:
            self._take_over(opening.result())
        else:
            LOG.warning("could not open a session ahead: %s", problem)

    def _take_over(self, opened: OpenedSession) -> None:
        former, self.current = self.current, opened
        if former is not None and former is not opened:
            former.retired = True
            self._close_if_done(former)

    def _close_if_done(self, opened: OpenedSession) -> None:
        """Close a retired session, so that its unspent deposit returns soon and not only when it expires."""
        if opened.retired and opened.active == 0:
            self._injector.drop(opened.session_id)
            closing = CloseSession(opened.session_id)
            self._context.duties.start(("close", opened.session_id), lambda: self._close(closing))

    async def _close(self, closing: CloseSession) -> None:
        await self._context.chain.send(closing, key=self._user)

    async def _open(self, tokens: int) -> OpenedSession:
        if self._opening is not None:
            opened = await asyncio.shield(self._opening)
            if self.count_left(opened) >= tokens:
                return opened
        state, params = self._context.chain.read(), self._context.params
        price = compute_credits.get_token_price(state, params, self._user.address, self._model_id)
        opened = await self._open_session(max(DEPOSIT, tokens * price))
        if self.count_left(opened) < tokens:
            raise Busy("the price rose while a session was opened", RETRY_AFTER_SECONDS)
        return opened

    async def _open_session(self, deposit: int) -> OpenedSession:
        chain = self._context.chain
        fee = self._context.params.transfer_fee
        prepared = self._injector.prepare()
        # A price that rises before the block does is seen by the next try, and never paid unseen.
        price = prices.get_token_price(chain.read(), self._context.params, self._model_id)
        opening = OpenSession(self._context.address, self._model_id, deposit, prepared.root, price)
        message = compute_credits.pay_with(chain.read(), self._user.address, opening)
        needed = fee if isinstance(message, UseCredits) else deposit + fee
        balance = get_account(chain.read(), self._user.address).balance
        if balance < needed or deposit > MAX_SUPPLY:
            raise OutOfFunds(f"the account holds {balance} nicoin; this request may cost {deposit}")
        try:
            digest, _ = await chain.send(message, key=self._user)
        except (InvalidTransaction, TransportError) as problem:
            if isinstance(problem, InvalidTransaction) and problem.code == "price-moved":
                raise Busy("the price rose while a session was opened", RETRY_AFTER_SECONDS) from None
            raise UpstreamFailed(f"no session could be opened: {problem}") from None
        session_id = compute_session_id(self._user.address, digest)
        opened = OpenedSession(session_id, await self._wait_ready(session_id))
        self._injector.adopt(session_id, prepared)
        return opened

    async def _wait_ready(self, session_id: bytes) -> Session:
        try:
            async with asyncio.timeout(READY_SECONDS), aclosing(self._context.chain.watch()) as heights:
                async for _ in heights:
                    session = SESSIONS.get(self._context.chain.read(), session_id)
                    if session is not None and session.seed:
                        return session
        except TimeoutError:
            pass
        raise Busy("the beacon has not drawn the session yet", RETRY_AFTER_SECONDS)
