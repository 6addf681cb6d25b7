"""A light client: from one trusted header to a later one by the power that signed it, never by replaying blocks.

It knows no socket and no clock: blocks come from providers, time is an argument. Invariant: a block becomes trusted
only when more than two thirds of its own validators' power signed it, and either its set is the one that the trusted
header before it names, or more than a third of the trusted power signed it too (less than a third is ever dishonest).
Source: CometBFT 0.38, spec/light-client/verification; decision 015.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from paceline.base.errors import InvalidBlock, TransportError
from paceline.engine.light_blocks import FOR_BLOCK, LightBlock, Validator, check_light_block
from paceline.engine.light_votes import verify_votes

NOT_TRUSTED_YET: Final = "not-enough-trusted-power"
"""The one code that a block in between may mend."""
_NANOSECONDS: Final = 1_000_000_000
_NANOSECONDS_PER_MILLISECOND: Final = 1_000_000


class LightProvider(Protocol):
    """Somebody who hands out light blocks, and may lie."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def get_light_block(self, height: int | None) -> LightBlock:
        """The block of a height, or its latest.

        Errors: TransportError when it cannot answer; InvalidBlock malformed when it answers nonsense.
        """


@dataclass(frozen=True, kw_only=True)
class TrustRules:
    """How long a header stays trusted, and how far a header may be ahead of this clock.

    The period must be shorter than the time after which a validator who left can no longer be punished.
    """

    trusting_period_seconds: int
    clock_drift_seconds: int = 10

    def __post_init__(self) -> None:
        assert self.trusting_period_seconds > 0 and self.clock_drift_seconds >= 0


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A header to rely on: which heights led to it, which witnesses agree, and which said nothing and why."""

    block: LightBlock
    path: tuple[int, ...]
    agreeing: tuple[str, ...]
    silent: tuple[tuple[str, str], ...]


class LightClient:
    """Follows one chain from a trusted block, asking one provider and comparing with witnesses."""

    def __init__(
        self, trusted: LightBlock, provider: LightProvider, rules: TrustRules, witnesses: Sequence[LightProvider] = ()
    ) -> None:
        self.trusted = trusted
        self._provider = provider
        self._rules = rules
        self._witnesses = tuple(witnesses)

    def verify_height(self, height: int | None, now_unix_milliseconds: int) -> Verified:
        """Trust the block of a later height (None: the provider's latest) and return it.

        Errors: InvalidBlock with the code of the broken rule, divergence among them; TransportError when the provider,
        or every witness, does not answer.
        Effects: on success the client continues from this block.
        """
        target = fetch_light_block(self._provider, height)
        path = _verify_from(self.trusted, target, self._provider, self._rules, now_unix_milliseconds)
        agreeing, silent = self._ask_witnesses(target, now_unix_milliseconds)
        self.trusted = target
        return Verified(
            block=target, path=tuple(block.height for block in path), agreeing=tuple(agreeing), silent=tuple(silent)
        )

    def _ask_witnesses(self, target: LightBlock, now: int) -> tuple[list[str], list[tuple[str, str]]]:
        agreeing: list[str] = []
        silent: list[tuple[str, str]] = []
        for witness in self._witnesses:
            try:
                seen = fetch_light_block(witness, target.height)
                self._compare(target, seen, witness, now)
            except TransportError as problem:
                silent.append((witness.name, str(problem)))
            else:
                agreeing.append(witness.name)
        if self._witnesses and not agreeing:
            raise TransportError(f"no witness could be asked about height {target.height}: {silent}")
        return agreeing, silent

    def _compare(self, target: LightBlock, seen: LightBlock, witness: LightProvider, now: int) -> None:
        ours, theirs = target.header.compute_hash(), seen.header.compute_hash()
        if ours == theirs:
            return
        try:
            _verify_from(self.trusted, seen, witness, self._rules, now)
            told = "both follow from the trusted header, so more than a third of the power signed twice"
        except InvalidBlock as problem:
            told = f"the witness's does not follow from the trusted header ({problem.code})"
        raise InvalidBlock(
            "divergence",
            f"height {target.height} is {ours.hex()} for {self._provider.name}, {theirs.hex()} for {witness.name}; {told}",
        )


def fetch_light_block(provider: LightProvider, height: int | None) -> LightBlock:
    """A provider's block, when it is of this height and its parts belong together.

    Errors: InvalidBlock that names the provider; TransportError from the provider.
    """
    block = provider.get_light_block(height)
    try:
        check_light_block(block)
    except InvalidBlock as problem:
        raise InvalidBlock(problem.code, f"{provider.name}: {problem.message}") from None
    if height not in {None, block.height}:
        raise InvalidBlock("wrong-height", f"{provider.name}: asked for {height}, got {block.height}")
    return block


def load_trusted(provider: LightProvider, height: int, header_hash: bytes) -> LightBlock:
    """The block of a height whose header hash came from a trusted source.

    Errors: InvalidBlock wrong-header when the provider has another one, and whatever makes a block invalid.
    """
    block = fetch_light_block(provider, height)
    found = block.header.compute_hash()
    if found != header_hash:
        raise InvalidBlock(
            "wrong-header", f"{provider.name} has {found.hex()} at height {height}, trusted is {header_hash.hex()}"
        )
    _check_own_power(block, verify_votes(block))
    return block


def verify_light_block(trusted: LightBlock, block: LightBlock, rules: TrustRules, now_unix_milliseconds: int) -> None:
    """One step: from a trusted block to a later one, adjacent or skipping.

    Errors: InvalidBlock expired-trust, wrong-chain, wrong-height, time-not-monotonic, from-the-future,
    validators-mismatch, not-enough-power, bad-signature, those of `check_light_block`, and not-enough-trusted-power,
    after which a block in between may help.
    """
    now = now_unix_milliseconds * _NANOSECONDS_PER_MILLISECOND
    _check_period(trusted, rules, now)
    check_light_block(block)
    _check_order(trusted, block)
    if block.header.unix_nanoseconds >= now + rules.clock_drift_seconds * _NANOSECONDS:
        raise InvalidBlock(
            "from-the-future", f"height {block.height} is of {block.header.unix_nanoseconds} ns, it is now {now} ns"
        )
    adjacent = block.height == trusted.height + 1
    if adjacent and block.header.validators_hash != trusted.header.next_validators_hash:
        raise InvalidBlock(
            "validators-mismatch",
            f"header {trusted.height} names the next set {trusted.header.next_validators_hash.hex()}, "
            f"header {block.height} has {block.header.validators_hash.hex()}",
        )
    # What votes claim is compared first: whoever lacks power on paper costs no signature check.
    claimed = _get_claimed(block)
    if not adjacent:
        _check_trusted_power(trusted, block, claimed)
    _check_own_power(block, claimed)
    signers = verify_votes(block)
    if not adjacent:
        _check_trusted_power(trusted, block, signers)
    _check_own_power(block, signers)


def _verify_from(
    trusted: LightBlock, target: LightBlock, provider: LightProvider, rules: TrustRules, now: int
) -> list[LightBlock]:
    """The blocks trusted one after another up to the target, by halving the distance where power moved too far."""
    if target.height <= trusted.height:
        return _check_not_later(trusted, target, rules, now)
    path, waiting = [], [target]
    while waiting:
        block = waiting[-1]
        try:
            verify_light_block(trusted, block, rules, now)
        except InvalidBlock as problem:
            if problem.code != NOT_TRUSTED_YET:
                raise
            waiting.append(fetch_light_block(provider, (trusted.height + block.height) // 2))
        else:
            trusted = waiting.pop()
            path.append(trusted)
    return path


def _check_not_later(trusted: LightBlock, target: LightBlock, rules: TrustRules, now: int) -> list[LightBlock]:
    if target.height < trusted.height:
        raise InvalidBlock("wrong-height", f"height {target.height} is before the trusted height {trusted.height}")
    _check_period(trusted, rules, now * _NANOSECONDS_PER_MILLISECOND)
    ours, theirs = trusted.header.compute_hash(), target.header.compute_hash()
    if ours != theirs:
        raise InvalidBlock("divergence", f"height {target.height} is {theirs.hex()}, trusted is {ours.hex()}")
    _check_own_power(target, verify_votes(target))
    return []


def _check_period(trusted: LightBlock, rules: TrustRules, now: int) -> None:
    expires = trusted.header.unix_nanoseconds + rules.trusting_period_seconds * _NANOSECONDS
    if expires <= now:
        raise InvalidBlock(
            "expired-trust",
            f"header {trusted.height} was to be trusted until {expires} ns, it is now {now} ns; get a newer one",
        )


def _check_order(trusted: LightBlock, block: LightBlock) -> None:
    old, new = trusted.header, block.header
    if new.chain_id != old.chain_id:
        raise InvalidBlock("wrong-chain", f"chain {new.chain_id!r}, trusted is {old.chain_id!r}")
    if new.height <= old.height:
        raise InvalidBlock("wrong-height", f"height {new.height} does not come after {old.height}")
    if new.unix_nanoseconds <= old.unix_nanoseconds:
        raise InvalidBlock(
            "time-not-monotonic",
            f"height {new.height} is of {new.unix_nanoseconds} ns, {old.height} of {old.unix_nanoseconds} ns",
        )


def _get_claimed(block: LightBlock) -> list[Validator]:
    pairs = zip(block.commit.votes, block.validators, strict=True)
    return [validator for vote, validator in pairs if vote.kind == FOR_BLOCK]


def _check_trusted_power(trusted: LightBlock, block: LightBlock, signers: Sequence[Validator]) -> None:
    """More than a third of the power as it was in the trusted set; a signer's new power does not matter."""
    signed_keys = {validator.public_key for validator in signers}
    signed = _sum_power(validator for validator in trusted.validators if validator.public_key in signed_keys)
    total = _sum_power(trusted.validators)
    if 3 * signed <= total:
        raise InvalidBlock(
            NOT_TRUSTED_YET,
            f"{signed} of {total} trusted at height {trusted.height} signed height {block.height}; over 1/3 is needed",
        )


def _check_own_power(block: LightBlock, signers: Sequence[Validator]) -> None:
    signed, total = _sum_power(signers), _sum_power(block.validators)
    if 3 * signed <= 2 * total:
        raise InvalidBlock(
            "not-enough-power", f"{signed} of {total} signed height {block.height}; more than 2/3 is needed"
        )


def _sum_power(validators: Iterable[Validator]) -> int:
    return sum(validator.voting_power for validator in validators)
