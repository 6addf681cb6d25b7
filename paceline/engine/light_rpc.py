"""Light blocks from a CometBFT node's RPC: `/commit` and the pages of `/validators`.

Trusts nothing it hears: sizes are bounded before parsing, every range is checked, and what the hashes do not bind
(proposer priorities, addresses beside keys) is compared or left out. Whether a block is true is for `light`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, TypeVar

import httpx
import msgspec
from msgspec import Meta

from paceline.base.errors import InvalidBlock, TransportError
from paceline.engine.light_blocks import (
    ABSENT,
    MAX_VALIDATORS,
    BlockId,
    Commit,
    Header,
    LightBlock,
    Validator,
    Vote,
    decode_light_block,
    encode_light_block,
)

CALL_SECONDS = 10.0
PER_PAGE: Final = 100
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
_KEY_TYPE = "tendermint/PubKeyEd25519"
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_TIME = "0001-01-01T00:00:00Z"

T = TypeVar("T")


class _Parts(msgspec.Struct):
    total: int
    hash: str


class _BlockId(msgspec.Struct):
    hash: str
    parts: _Parts


class _Version(msgspec.Struct):
    block: int
    app: int = 0


class _Header(msgspec.Struct):
    version: _Version
    chain_id: str
    height: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    time: str
    last_block_id: _BlockId
    last_commit_hash: str
    data_hash: str
    validators_hash: str
    next_validators_hash: str
    consensus_hash: str
    app_hash: str
    last_results_hash: str
    evidence_hash: str
    proposer_address: str


class _Vote(msgspec.Struct):
    block_id_flag: int
    validator_address: str
    timestamp: str
    signature: bytes | None


class _Commit(msgspec.Struct):
    height: int
    round: int
    block_id: _BlockId
    signatures: list[_Vote]


class _SignedHeader(msgspec.Struct):
    header: _Header
    commit: _Commit


class _CommitAnswer(msgspec.Struct):
    signed_header: _SignedHeader


class _Key(msgspec.Struct):
    type: str
    value: bytes


class _Validator(msgspec.Struct):
    address: str
    pub_key: _Key
    voting_power: int


class _ValidatorsAnswer(msgspec.Struct):
    block_height: int
    validators: list[_Validator]
    total: Annotated[int, Meta(ge=1, le=MAX_VALIDATORS)]


class HttpLightProvider:
    """One node's RPC as a provider."""

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        self._url = url.rstrip("/")
        self._http = httpx.Client(timeout=CALL_SECONDS, trust_env=False, transport=transport)

    @property
    def name(self) -> str:
        """Its address."""
        return self._url

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def get_light_block(self, height: int | None) -> LightBlock:
        """The block of a height, or the node's latest.

        Errors: TransportError when the node does not answer or has no such height; InvalidBlock malformed.
        """
        params = {} if height is None else {"height": height}
        commit = self.ask("commit", params, _CommitAnswer)
        validators = self._ask_validators(commit.signed_header.header.height)
        return self._convert(commit.signed_header, validators)

    def _ask_validators(self, height: int) -> list[_Validator]:
        found: list[_Validator] = []
        page = 1
        while True:
            params = {"height": height, "page": page, "per_page": PER_PAGE}
            answer = self.ask("validators", params, _ValidatorsAnswer)
            # Only full pages, so that nobody can make this ask ten thousand times.
            if answer.block_height != height or len(answer.validators) != min(PER_PAGE, answer.total - len(found)):
                raise self._refuse(f"page {page} of the validators of height {height} does not fit the others")
            found += answer.validators
            if len(found) == answer.total:
                return found
            page += 1

    def _convert(self, signed: _SignedHeader, validators: list[_Validator]) -> LightBlock:
        try:
            block = LightBlock(
                header=_convert_header(signed.header),
                commit=_convert_commit(signed.commit),
                validators=tuple(map(_convert_validator, validators)),
            )
            # Records check their ranges when they are decoded, so that these checks stand in one place.
            return decode_light_block(encode_light_block(block))
        except (ValueError, OverflowError) as problem:
            raise self._refuse(str(problem)) from None
        except InvalidBlock as problem:
            raise self._refuse(problem.message) from None

    def ask(self, method: str, params: Mapping[str, int | str], kind: type[T]) -> T:
        """The result of one call, of this shape.

        Errors: TransportError when the node does not answer or refuses; InvalidBlock malformed.
        """
        result = self._read_result(self._fetch(method, params))
        try:
            return msgspec.convert(result, kind, strict=False)
        except msgspec.ValidationError as problem:
            raise self._refuse(f"/{method}: {problem}") from None

    def _read_result(self, content: bytes) -> Any:
        try:
            answer = msgspec.json.decode(content, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise TransportError(f"{self.name} does not speak CometBFT's RPC") from None
        if "result" not in answer:
            raise TransportError(f"{self.name} refuses: {answer.get('error', 'no reason given')}")
        return answer["result"]

    def _fetch(self, method: str, params: Mapping[str, int | str]) -> bytes:
        content = bytearray()
        try:
            with self._http.stream("GET", f"{self._url}/{method}", params=params) as response:
                for piece in response.iter_bytes():
                    content += piece
                    if len(content) > MAX_ANSWER_BYTES:
                        raise self._refuse(f"/{method} answers more than {MAX_ANSWER_BYTES} bytes")
        except (httpx.HTTPError, httpx.InvalidURL) as problem:
            raise TransportError(f"{self.name} does not answer: {problem!r}") from None
        return bytes(content)

    def _refuse(self, message: str) -> InvalidBlock:
        return InvalidBlock("malformed", f"{self.name}: {message}")


def _convert_header(found: _Header) -> Header:
    return Header(
        block_version=found.version.block,
        app_version=found.version.app,
        chain_id=found.chain_id,
        height=found.height,
        unix_nanoseconds=parse_time(found.time),
        last_block_id=_convert_block_id(found.last_block_id),
        last_commit_hash=bytes.fromhex(found.last_commit_hash),
        data_hash=bytes.fromhex(found.data_hash),
        validators_hash=bytes.fromhex(found.validators_hash),
        next_validators_hash=bytes.fromhex(found.next_validators_hash),
        consensus_hash=bytes.fromhex(found.consensus_hash),
        app_hash=bytes.fromhex(found.app_hash),
        last_results_hash=bytes.fromhex(found.last_results_hash),
        evidence_hash=bytes.fromhex(found.evidence_hash),
        proposer_address=bytes.fromhex(found.proposer_address),
    )


def _convert_block_id(found: _BlockId) -> BlockId:
    return BlockId(
        header_hash=bytes.fromhex(found.hash),
        parts_total=found.parts.total,
        parts_hash=bytes.fromhex(found.parts.hash),
    )


def _convert_commit(found: _Commit) -> Commit:
    return Commit(
        height=found.height,
        round_number=found.round,
        block_id=_convert_block_id(found.block_id),
        votes=tuple(map(_convert_vote, found.signatures)),
    )


def _convert_vote(found: _Vote) -> Vote:
    is_empty = found.block_id_flag == ABSENT and found.timestamp == _NO_TIME
    return Vote(
        kind=found.block_id_flag,
        address=bytes.fromhex(found.validator_address),
        unix_nanoseconds=0 if is_empty else parse_time(found.timestamp),
        signature=found.signature or b"",
    )


def _convert_validator(found: _Validator) -> Validator:
    validator = Validator(public_key=found.pub_key.value, voting_power=found.voting_power)
    if found.pub_key.type != _KEY_TYPE:
        raise ValueError(f"a key of type {found.pub_key.type!r}; only ed25519 keys are read")
    if bytes.fromhex(found.address) != validator.address:
        raise ValueError(f"address {found.address} does not belong to its key")
    return validator


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 of a time as the engine writes it.

    Errors: ValueError when it is no such time, or before 1970.
    """
    matched = _TIME.fullmatch(text)
    if matched is None:
        raise ValueError(f"{text!r} is not a time in UTC")
    seconds = (datetime.fromisoformat(f"{matched[1]}+00:00") - _EPOCH) // timedelta(seconds=1)
    if seconds < 0:
        raise ValueError(f"{text} is before 1970")
    return seconds * 1_000_000_000 + int((matched[2] or "").ljust(9, "0"))
