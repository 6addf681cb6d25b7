"""`paceline light verify`: a later header from a trusted one, and a value of the state under it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
from rich.console import Console

from paceline.base.errors import ConfigError
from paceline.cli.light_values import ProvenValue, Question, answer_question, list_lines, make_fetch
from paceline.engine.light import LightClient, TrustRules, Verified, load_trusted
from paceline.engine.light_blocks import HASH_BYTES
from paceline.engine.light_rpc import HttpLightProvider
from paceline.engine.light_state import StateProof, decode_state_proof, verify_state_value
from paceline.network.settings import get_unix_milliseconds


@dataclass(frozen=True, kw_only=True)
class LightOptions:
    """What the command was asked."""

    url: str
    trust_height: int
    trust_hash: str
    trusting_period_seconds: int
    clock_drift_seconds: int
    witnesses: tuple[str, ...] = ()
    height: int | None = None
    key: str | None = None
    proof: Path | None = None
    account: str | None = None
    node: str | None = None
    group: bool = False


class SilentWitness(msgspec.Struct, frozen=True, kw_only=True):
    """A witness that did not answer, and why."""

    url: str
    reason: str


class StateValue(msgspec.Struct, frozen=True, kw_only=True):
    """A proven value (None: there is none) as of a height, in hex."""

    key: str
    value: str | None
    height: int


class LightReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was verified. The hash serves as `--trust-hash` of the next call."""

    chain_id: str
    height: int
    header_hash: str
    app_hash: str
    path: list[int]
    agreeing: list[str]
    silent: list[SilentWitness]
    state: StateValue | None
    described: list[str]
    """What the value says, in words."""


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The options, read and found to fit each other."""

    trust_hash: bytes
    height: int | None
    question: Question
    proof: StateProof | None


def print_light_verify(options: LightOptions, *, as_json: bool) -> None:
    """Verify and print.

    Errors: as `verify_light`.
    """
    report = verify_light(options)
    if as_json:
        print(msgspec.json.encode(report).decode())
        return
    console = Console(soft_wrap=True)
    for line in _describe(report):
        console.print(line, markup=False, highlight=False)


def verify_light(options: LightOptions) -> LightReport:
    """Verify what the options ask for.

    Errors: ConfigError for options that cannot be; InvalidBlock with the broken rule; TransportError when a node does
    not answer.
    """
    asked = _read_options(options)
    rules = TrustRules(
        trusting_period_seconds=options.trusting_period_seconds, clock_drift_seconds=options.clock_drift_seconds
    )
    with ExitStack() as stack:
        provider, *witnesses = [_open(stack, url) for url in (options.url, *options.witnesses)]
        trusted = load_trusted(provider, options.trust_height, asked.trust_hash)
        client = LightClient(trusted, provider, rules, witnesses)
        if asked.question.is_asked and asked.proof is None:
            answer = answer_question(asked.question, make_fetch(client, provider))
            return _make_report(answer.proven.verified, _describe_value(answer.proven), list(list_lines(answer)))
        verified = client.verify_height(asked.height, get_unix_milliseconds())
    state = _verify_state(asked, verified)
    return _make_report(verified, state, [])


def _describe_value(proven: ProvenValue) -> StateValue:
    value = None if proven.value is None else proven.value.hex()
    return StateValue(key=proven.key.hex(), value=value, height=proven.height)


def _read_options(options: LightOptions) -> _Asked:
    trust_hash = _read_hex("--trust-hash", options.trust_hash)
    if len(trust_hash) != HASH_BYTES:
        raise ConfigError(f"--trust-hash has {len(trust_hash)} bytes; a header hash has {HASH_BYTES}")
    for url in (options.url, *options.witnesses):
        _check_url(url)
    if options.url in options.witnesses:
        raise ConfigError(f"{options.url} cannot be its own witness: name another node with --witness")
    question = _read_question(options)
    if options.proof is None:
        return _Asked(trust_hash=trust_hash, height=options.height, question=question, proof=None)
    proof = decode_state_proof(_read_file(options.proof))
    # The app hash after a height stands in the next header.
    height = proof.height + 1
    if options.height not in {None, height}:
        raise ConfigError(f"the proof is of height {proof.height}, so it needs --height {height} or none")
    return _Asked(trust_hash=trust_hash, height=height, question=question, proof=proof)


def _read_question(options: LightOptions) -> Question:
    key = None if options.key is None else _read_hex("--key", options.key)
    given = [options.key is not None, options.account is not None, options.node is not None, options.group]
    if sum(given) > 1:
        raise ConfigError("--key, --account, --node and --group: give one of them")
    if options.proof is not None and key is None:
        raise ConfigError("--proof is the proof of a --key: give both")
    if any(given) and options.proof is None and options.height is not None:
        raise ConfigError("nodes keep their last state only: leave --height out, or give a --proof with --key")
    return Question(key=key, account=options.account, node=options.node, group=options.group)


def _read_hex(option: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ConfigError(f"{option} {text!r} is not hex") from None


def _check_url(url: str) -> None:
    try:
        found = httpx.URL(url)
    except httpx.InvalidURL as problem:
        raise ConfigError(f"{url!r} is not an address ({problem}): write http://host:port") from None
    if found.scheme not in {"http", "https"} or not found.host:
        raise ConfigError(f"{url!r} is not an address: write http://host:port")


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise ConfigError(f"--proof {path} cannot be read: {problem.strerror}") from None


def _open(stack: ExitStack, url: str) -> HttpLightProvider:
    provider = HttpLightProvider(url)
    stack.callback(provider.close)
    return provider


def _verify_state(asked: _Asked, verified: Verified) -> StateValue | None:
    proof = asked.proof
    if proof is None:
        return None
    assert asked.question.key is not None
    verify_state_value(verified.block.header, asked.question.key, proof.value_bytes, proof.trie_proof)
    return StateValue(key=asked.question.key.hex(), value=proof.value, height=proof.height)


def _make_report(verified: Verified, state: StateValue | None, described: list[str]) -> LightReport:
    header = verified.block.header
    return LightReport(
        chain_id=header.chain_id,
        height=header.height,
        header_hash=header.compute_hash().hex(),
        app_hash=header.app_hash.hex(),
        path=list(verified.path),
        agreeing=list(verified.agreeing),
        silent=[SilentWitness(url=url, reason=reason) for url, reason in verified.silent],
        state=state,
        described=described,
    )


def _describe(report: LightReport) -> Iterator[str]:
    yield f"verified   height {report.height} of {report.chain_id}"
    yield f"hash       {report.header_hash}"
    yield f"app hash   {report.app_hash} (state of height {report.height - 1})"
    yield f"by way of  {', '.join(map(str, report.path)) or 'the trusted header itself'}"
    for url in report.agreeing:
        yield f"witness    {url} has the same header"
    for silent in report.silent:
        yield f"witness    {silent.url} did not answer: {silent.reason}"
    if not report.agreeing:
        yield "witness    none compared: a fork signed by more than a third would not show; add --witness URL"
    yield from report.described
    if report.state is not None and not report.described:
        shown = "no value" if report.state.value is None else report.state.value
        yield f"state      {report.state.key} = {shown} as of height {report.state.height}"
