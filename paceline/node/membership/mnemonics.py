"""Keys of accounts from words: BIP-39 words become a seed, SLIP-0010 derives the ed25519 secret, and words are read back.

The list of words, their checksum and the seed are those of the library `mnemonic`; deriving is a few lines here. It stores
nothing. Invariant: the same words and number of an account give the same key on every machine.
Source: BIP-39; SLIP-0010 (ed25519 has hardened steps only); decision 041.
"""

from __future__ import annotations

import difflib
import hashlib
import hmac
import unicodedata

from mnemonic import Mnemonic

from paceline.base.errors import ConfigError

HARDENED = 2**31
COIN_TYPE = int.from_bytes(b"PCL", "big")
"""Not registered: a number of its own, so that words that other programs use as well give other keys here."""
BITS = {12: 128, 24: 256}
"""Words by strength."""
LENGTHS = (12, 15, 18, 21, 24)
MAX_ACCOUNT = HARDENED - 1

_english = Mnemonic("english")


def make_words(count: int) -> str:
    """Words nobody has seen, from the system's chance. Errors: ConfigError for another count than 12 or 24."""
    if count not in BITS:
        raise ConfigError(f"--words {count}: 12 or 24 are made")
    return _english.generate(BITS[count])


def read_words(text: str) -> str:
    """The words as they count, from what somebody typed.

    Errors: ConfigError naming the word that is none, or saying that the checksum does not fit.
    """
    words = unicodedata.normalize("NFKD", text).lower().split()
    if len(words) not in LENGTHS:
        raise ConfigError(
            f"{len(words)} words were given; there are {', '.join(map(str, LENGTHS[:-1]))} or {LENGTHS[-1]}"
        )
    for place, word in enumerate(words, start=1):
        if word not in _english.wordlist:
            near = difflib.get_close_matches(word, _english.wordlist, n=3, cutoff=0.6)
            hint = f": perhaps {' or '.join(near)}" if near else ""
            raise ConfigError(f"word {place} of {len(words)}, {word!r}, is not of the list{hint}")
    if not _english.check(" ".join(words)):
        raise ConfigError(
            "every word is of the list, but their checksum does not fit: one of them is another word, or two changed places"
        )
    return " ".join(words)


def derive_account_secret(words: str, account: int) -> bytes:
    """32 bytes of an account's secret, by m/44'/COIN_TYPE'/account'/0'."""
    return derive_secret(Mnemonic.to_seed(words), (44, COIN_TYPE, account, 0))


def derive_secret(seed: bytes, path: tuple[int, ...]) -> bytes:
    """The ed25519 secret at a path of hardened steps. Source: SLIP-0010."""
    digest = hmac.digest(b"ed25519 seed", seed, hashlib.sha512)
    for step in path:
        assert 0 <= step < HARDENED
        data = b"\0" + digest[:32] + (HARDENED + step).to_bytes(4, "big")
        digest = hmac.digest(digest[32:], data, hashlib.sha512)
    return digest[:32]
