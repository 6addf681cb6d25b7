"""What commands that verify with a light client share: whom they trust, whom they ask, how long they wait.

Names and bounds only; what is verified is for `engine/light*`.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import httpx

from paceline.base.errors import ConfigError
from paceline.engine.light import LightClient, TrustRules, load_trusted
from paceline.engine.light_blocks import HASH_BYTES
from paceline.engine.light_query import HttpStateProvider
from paceline.engine.light_reader import Patience, PatientProvider, ReadRules, StateReader
from paceline.engine.light_rpc import HttpLightProvider
from paceline.network.settings import get_unix_milliseconds

TRUSTING_PERIOD_SECONDS: Final = 86_400
CLOCK_DRIFT_SECONDS: Final = 10
MAX_AGE_SECONDS: Final = 60
WAIT_SECONDS: Final = 30.0
"""How long the header after a state is waited for: several blocks of any network."""
POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class TrustOptions:
    """The header to start from, and the nodes to ask."""

    url: str
    trust_height: int
    trust_hash: str
    trusting_period_seconds: int = TRUSTING_PERIOD_SECONDS
    clock_drift_seconds: int = CLOCK_DRIFT_SECONDS
    max_age_seconds: int = MAX_AGE_SECONDS
    witnesses: tuple[str, ...] = ()


def check_trust(options: TrustOptions) -> None:
    """Look at the options before anybody is asked.

    Errors: ConfigError for options that cannot be.
    """
    _read_trust_hash(options.trust_hash)
    for url in (options.url, *options.witnesses):
        _check_url(url)
    if options.url in options.witnesses:
        raise ConfigError(f"{options.url} cannot be its own witness: name another node with --witness")


def open_light_client(stack: ExitStack, options: TrustOptions) -> tuple[LightClient, HttpLightProvider]:
    """A client that trusts the named header, and the RPC that it asks first.

    Errors: as `load_trusted`.
    """
    rules = TrustRules(
        trusting_period_seconds=options.trusting_period_seconds, clock_drift_seconds=options.clock_drift_seconds
    )
    rpc, *others = [_open(stack, url) for url in (options.url, *options.witnesses)]
    trusted = load_trusted(rpc, options.trust_height, _read_trust_hash(options.trust_hash))
    patience = Patience(attempts=round(WAIT_SECONDS / POLL_SECONDS), pause=lambda: time.sleep(POLL_SECONDS))
    provider, *witnesses = [PatientProvider(found, patience) for found in (rpc, *others)]
    return LightClient(trusted, provider, rules, witnesses), rpc


def open_reader(client: LightClient, rpc: HttpLightProvider, max_age_seconds: int) -> StateReader:
    """Reads what the node of this RPC proves under the client's headers."""
    rules = ReadRules(max_age_seconds=max_age_seconds, get_unix_milliseconds=get_unix_milliseconds)
    return StateReader(client, HttpStateProvider(rpc), rules)


def read_hex(option: str, text: str) -> bytes:
    """The bytes of an option. Errors: ConfigError when it is not hex."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ConfigError(f"{option} {text!r} is not hex") from None


def _read_trust_hash(text: str) -> bytes:
    trust_hash = read_hex("--trust-hash", text)
    if len(trust_hash) != HASH_BYTES:
        raise ConfigError(f"--trust-hash has {len(trust_hash)} bytes; a header hash has {HASH_BYTES}")
    return trust_hash


def _check_url(url: str) -> None:
    try:
        found = httpx.URL(url)
    except httpx.InvalidURL as problem:
        raise ConfigError(f"{url!r} is not an address ({problem}): write http://host:port") from None
    if found.scheme not in {"http", "https"} or not found.host:
        raise ConfigError(f"{url!r} is not an address: write http://host:port")


def _open(stack: ExitStack, url: str) -> HttpLightProvider:
    provider = HttpLightProvider(url)
    stack.callback(provider.close)
    return provider
