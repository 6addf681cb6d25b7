"""Error families. The class says who must act; the message says on what.

`Invalid…` is deterministic (the same bytes fail everywhere), `TransportError` means try again or try another
peer, `WorkError` means a piece of work failed and nobody is to blame yet, `ConfigError` means refuse to start.
"""

from __future__ import annotations


class PacelineError(Exception):
    """Root of every error that this package raises on purpose."""


class Invalid(PacelineError):
    """An input breaks a rule. Deterministic: every honest node refuses the same bytes with the same code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class InvalidTransaction(Invalid):
    """A transaction is refused; the state is unchanged except for what the rules say a failure costs."""


class InvalidBlock(Invalid):
    """A block does not follow from the chain this node holds; the node stops before committing it."""


class InvalidClaim(Invalid):
    """Evidence of work does not hold together (wrong path, wrong order, wrong shape)."""


class TransportError(PacelineError):
    """A peer could not be reached or broke off. Retry, or ask another peer."""


class WorkError(PacelineError):
    """A piece of work failed here (missing blob, out of memory, cancelled). No blame yet."""


class ConfigError(PacelineError):
    """Settings that cannot work. The message names the setting and what to do."""


class UpgradeNeeded(ConfigError):
    """The network goes on by rules that this software does not have. Starting it again changes nothing."""
