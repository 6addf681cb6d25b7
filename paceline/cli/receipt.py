"""`paceline receipt get` and `paceline receipt verify`: an answer's proof as a file, and its check without any network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from paceline.base.errors import ConfigError
from paceline.cli.files import require_target, write_target
from paceline.cli.network import ControlClient
from paceline.cli.printing import print_found
from paceline.node.answers.receipt_check import ReceiptReport, verify_receipt
from paceline.node.answers.receipt_facts import decode_receipt
from paceline.node.control import ReceiptFile
from paceline.node.home import Home
from paceline.node.settings import load_settings
from paceline.protocol.params import NICOIN_PER_COIN

HASH_DIGITS = 64


def save_receipt(task: str, path: Path, home: Path) -> None:
    """Fetch the receipt of a task from the running network into a file.

    Errors: ConfigError in the network's words, or when the file cannot be written; TransportError when nothing runs.
    """
    require_target(path)
    place = Home(home)
    running = place.load_running()
    if running is None:
        raise ConfigError(f"nothing runs in {home}: receipts are fetched from the running network")
    client = ControlClient(running.web_url, place.load_token())
    try:
        found = client.get(f"/receipt/{task}", ReceiptFile)
    finally:
        client.close()
    write_target(path, found.data)
    print(f"{path}: receipt of task {task}, {len(found.data):,} bytes; it holds the prompt")


def print_receipt_verify(path: Path, home: Path, header_hash: str | None, *, as_json: bool) -> None:
    """Verify a receipt's file against the genesis of a home, and print what it proves.

    Errors: ConfigError for options and files that cannot be; InvalidClaim, InvalidBlock naming what does not hold.
    """
    print_found(check_receipt_file(path, home, header_hash), _describe, as_json=as_json)


def check_receipt_file(path: Path, home: Path, header_hash: str | None) -> ReceiptReport:
    """What the receipt in a file proves. Errors: as `print_receipt_verify`."""
    place = Home(home)
    genesis = place.load_genesis()
    engine = load_settings(place.node_path(place.node_names()[0]) / "node.toml").engine
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise ConfigError(f"{path} cannot be read: {problem}") from None
    return verify_receipt(decode_receipt(data), genesis, engine, _read_hash(header_hash))


def _read_hash(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) * 2 != HASH_DIGITS:
        raise ConfigError(f"--header-hash {text!r} is no hash of {HASH_DIGITS} hex digits")
    return found


def _describe(report: ReceiptReport) -> Iterator[str]:
    yield f"verified   task {report.task} of {report.chain_id}"
    yield f"signed     state of height {report.height}, by {report.signed_by}"
    yield f"model      {report.model}, weights {report.model_hash}"
    for turn in report.prompt:
        yield f"prompt     {turn}"
    yield f"answer     {report.text}"
    yield f"repeatable {'yes, by the seed of the user' if report.repeatable else 'no, drawn for this task'}"
    yield f"executor   {report.executor} ({report.executor_address}), {report.draw}"
    yield f"relay      {report.relay}"
    for checker in report.checkers:
        drawn = "drawn" if checker.drawn else "called by the dispute"
        yield f"checker    {checker.name}, {drawn}: {checker.outcome or 'has not spoken yet'} {checker.reason}".rstrip()
    if not report.checkers:
        yield "checker    none: no node was drawn to check this task, or not yet"
    refund = ", refunded" if report.refunded else ""
    yield (
        f"cost       {report.cost_nicoin / NICOIN_PER_COIN:.9f} coins for {report.prompt_tokens} + "
        f"{report.completion_tokens} tokens{refund}"
    )
    yield f"status     {report.status}"
