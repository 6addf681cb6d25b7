"""Answers the lines of batches in the background, one batch after the other, some lines at a time.

Refuses to know: how a line is answered; it takes the way of any other request. Invariant: a line whose result is on disk is
never asked again, also after a restart; a line that was under way when the node stopped is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from paceline.base.errors import PacelineError
from paceline.node.api import batches as states
from paceline.node.api.batches import Batch, BatchProblem
from paceline.node.views import Account, Busy, KeyLimited
from paceline.web.entry import Entry, Operation, Recorder
from paceline.web.errors import INTERNAL_ERROR, get_api_error
from paceline.web.fields import decode_object
from paceline.web.file_routes import OUTPUT_PURPOSE

LOG = logging.getLogger(__name__)
MAX_LINES = 10_000
MAX_PROBLEMS = 20
LINES_AT_ONCE = 4
MAX_CUSTOM_ID_CHARS = 512
DAILY = "daily_limit_exceeded"

Pause = Callable[[float], Awaitable[None]]


class BatchLine(msgspec.Struct, forbid_unknown_fields=True):
    """One line of an input file."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


@dataclass(frozen=True)
class Result:
    """What one line gave."""

    failed: bool
    line: bytes


class BatchRunner:
    """Runs all open batches of a node. `pause` waits between tries of a line that found every node busy."""

    def __init__(self, entry: Entry, operations: Mapping[str, Operation], pause: Pause = asyncio.sleep) -> None:
        self._entry = entry
        self._operations = operations
        self._pause = pause
        self._store = entry.desk.batches
        self._wake = asyncio.Event()
        self.endpoints = tuple(sorted(operations))

    def wake(self) -> None:
        """Tell that a batch was added or cancelled."""
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._wake.clear()
            await self.run_open()
            await self._wake.wait()

    async def run_open(self) -> None:
        """Run every batch that is open now to its end."""
        for batch in self._store.list_open():
            await self._run_batch(batch.owner, batch.batch_id)

    async def _run_batch(self, owner: str, batch_id: str) -> None:
        batch = self._store.get(owner, batch_id)
        if batch.status == states.VALIDATING:
            batch = self._validate(batch)
        if batch.status == states.IN_PROGRESS:
            await self._run_lines(batch)
            batch = self._store.get(owner, batch_id)
        if batch.status in states.OPEN:
            self._finish(batch)

    def _validate(self, batch: Batch) -> Batch:
        lines, problems = self._read_input(batch)
        if problems:
            batch = msgspec.structs.replace(batch, problems=tuple(problems)).enter(states.FAILED, self._now())
        else:
            batch = msgspec.structs.replace(batch, total=len(lines)).enter(states.IN_PROGRESS, self._now())
        # It may have been cancelled meanwhile; nothing else ran since it was read, as this part waits for nothing.
        self._store.save(batch)
        return batch

    def _read_input(self, batch: Batch) -> tuple[list[BatchLine], list[BatchProblem]]:
        try:
            content = self._entry.desk.files.read(batch.owner, batch.input_file_id)
        except PacelineError as error:
            return [], [BatchProblem("file_not_found", str(error))]
        return read_lines(content, batch.endpoint)

    async def _run_lines(self, batch: Batch) -> None:
        lines, problems = self._read_input(batch)
        done = self._store.read_lines(batch.batch_id)
        waiting = iter([number for number in range(len(lines)) if number not in done]) if not problems else iter(())

        async def work() -> None:
            for number in waiting:
                if not self._goes_on(batch):
                    return
                result = await self._answer(batch, lines[number], number)
                self._store.save_line(batch.batch_id, number, result.line, failed=result.failed)

        async with asyncio.TaskGroup() as group:
            for _ in range(LINES_AT_ONCE):
                group.create_task(work())

    def _goes_on(self, batch: Batch) -> bool:
        now = self._store.get(batch.owner, batch.batch_id)
        return now.status == states.IN_PROGRESS and self._now() < batch.expires_at

    async def _answer(self, batch: Batch, line: BatchLine, number: int) -> Result:
        """Answer one line; while all nodes are busy, or the key's minute is full, wait as told."""
        request_id = f"{batch.batch_id}_{number}"
        while True:
            try:
                # Looked up for each line: a key that was revoked meanwhile pays for nothing more.
                account = self._entry.gateway.find_account(batch.owner)
                return await self._ask(account, batch, line, request_id)
            except (Busy, KeyLimited) as error:
                ended = isinstance(error, KeyLimited) and error.code == DAILY
                if ended or not self._goes_on(batch):
                    return _make_result(line, request_id, get_api_error(error).status, get_api_error(error).encode())
                await self._pause(error.retry_after_seconds)
            except PacelineError as error:
                return _make_result(line, request_id, get_api_error(error).status, get_api_error(error).encode())
            except Exception:
                LOG.exception("batch line failed: %s", request_id)
                return _make_result(line, request_id, INTERNAL_ERROR.status, INTERNAL_ERROR.encode())

    async def _ask(self, account: Account, batch: Batch, line: BatchLine, request_id: str) -> Result:
        work = self._operations[batch.endpoint].prepare(account, bytes(line.body), in_batch=True)
        recorder = Recorder()
        await self._entry.run(account, work, recorder, in_batch=True)
        if not recorder.is_whole:
            return _make_result(line, request_id, INTERNAL_ERROR.status, INTERNAL_ERROR.encode())
        return _make_result(line, request_id, recorder.status, bytes(recorder.body))

    def _finish(self, batch: Batch) -> None:
        """Write both files and close the batch; after a kill in between it is done again."""
        results = self._store.read_lines(batch.batch_id)
        good = b"".join(line + b"\n" for failed, line in results.values() if not failed)
        bad = b"".join(line + b"\n" for failed, line in results.values() if failed)
        status = states.COMPLETED
        if batch.status == states.CANCELLING:
            status = states.CANCELLED
        elif len(results) < batch.total:
            status = states.EXPIRED
        batch = batch.enter(states.FINALIZING, self._now())
        failed_lines = sum(failed for failed, _ in results.values())
        self._store.save(
            msgspec.structs.replace(
                batch,
                output_file_id=self._keep(batch, "output", good),
                error_file_id=self._keep(batch, "errors", bad),
                completed=len(results) - failed_lines,
                failed=failed_lines,
            ).enter(status, self._now())
        )
        self._store.drop_lines(batch.batch_id)

    def _keep(self, batch: Batch, kind: str, content: bytes) -> str | None:
        if not content:
            return None
        name = f"{batch.batch_id}_{kind}.jsonl"
        return self._entry.desk.files.add_output(batch.owner, name, OUTPUT_PURPOSE, content, self._now()).file_id

    def _now(self) -> int:
        return int(self._entry.desk.now())


def read_lines(content: bytes, endpoint: str) -> tuple[list[BatchLine], list[BatchProblem]]:
    """Take an input file apart; what is wrong with it is told by line, counted from 1."""
    texts = content.splitlines()
    if len(texts) > MAX_LINES:
        return [], [
            BatchProblem("too_many_lines", f"The file has {len(texts)} lines, at most {MAX_LINES} are allowed.")
        ]
    lines: list[BatchLine] = []
    problems: list[BatchProblem] = []
    seen: set[str] = set()
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            line = msgspec.json.decode(text, type=BatchLine)
            decode_object(bytes(line.body))
        except (msgspec.DecodeError, PacelineError, UnicodeDecodeError, RecursionError) as error:
            problems.append(BatchProblem("invalid_json_line", f"The line cannot be read: {error}", number))
            continue
        problem = _find_problem(line, endpoint, seen)
        if problem is not None:
            problems.append(BatchProblem(problem[0], problem[1], number, problem[2]))
        seen.add(line.custom_id)
        lines.append(line)
    if not lines and not problems:
        problems.append(BatchProblem("empty_file", "The file has no lines."))
    return lines, problems[:MAX_PROBLEMS]


def _find_problem(line: BatchLine, endpoint: str, seen: set[str]) -> tuple[str, str, str] | None:
    if not 1 <= len(line.custom_id) <= MAX_CUSTOM_ID_CHARS:
        return "invalid_custom_id", f"custom_id must have 1 to {MAX_CUSTOM_ID_CHARS} characters.", "custom_id"
    if line.custom_id in seen:
        return "duplicate_custom_id", "An earlier line has the same custom_id.", "custom_id"
    if line.method != "POST":
        return "invalid_method", "method must be POST.", "method"
    if line.url != endpoint:
        return "mismatched_endpoint", f"url must be the batch's endpoint, {endpoint}.", "url"
    return None


def _make_result(line: BatchLine, request_id: str, status: int, body: bytes) -> Result:
    failed = status >= 400
    shown: dict[str, Any] = {
        "id": request_id,
        "custom_id": line.custom_id,
        "response": {"status_code": status, "request_id": request_id, "body": msgspec.Raw(body)},
        "error": None,
    }
    return Result(failed, msgspec.json.encode(shown))
