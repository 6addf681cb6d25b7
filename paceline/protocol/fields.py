"""Fields of messages and records: integers and bytes with their bounds, names and links with their form. Bounded at decode."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

MAX_SUPPLY = 10**18
PARTIAL_BYTES = 48

AddressBytes = Annotated[bytes, Meta(min_length=20, max_length=20)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
KeyBytes = Annotated[bytes, Meta(min_length=32, max_length=32)]
GroupKeyBytes = Annotated[bytes, Meta(min_length=48, max_length=48)]
ProofBytes = Annotated[bytes, Meta(min_length=64, max_length=64)]
PartialBytes = Annotated[bytes, Meta(min_length=PARTIAL_BYTES, max_length=PARTIAL_BYTES)]
SignatureBytes = Annotated[bytes, Meta(min_length=64, max_length=64)]
Id = Annotated[bytes, Meta(min_length=16, max_length=16)]
Amount = Annotated[int, Meta(ge=0, le=MAX_SUPPLY)]
Height = Annotated[int, Meta(ge=0, le=2**48)]
Count = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Word = Annotated[int, Meta(ge=0)]
# Unlike `$`, `\Z` lets no last newline pass.
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9._-]*\Z")]
Url = Annotated[str, Meta(max_length=200, pattern=r"^(https?://[!-~]+)?\Z")]
Link = Annotated[str, Meta(max_length=200, pattern=r"^([0-9a-f]{40}@[!-~]+)?\Z")]
Outcome = Annotated[str, Meta(pattern=r"^(accepted|rejected|undecided)\Z")]
Reason = Annotated[str, Meta(max_length=160, pattern=r"^[ -~]*\Z")]
