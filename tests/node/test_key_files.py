"""Keys from words against published vectors, and keys in sealed files: what does not fit is named, nothing is overwritten."""

from __future__ import annotations

import stat

import pytest
from mnemonic import Mnemonic

from paceline.base.errors import ConfigError
from paceline.base.keys import AccountKey
from paceline.node.home import Home
from paceline.node.membership.contacts import add_contact
from paceline.node.membership.key_files import KEY_FILE, add_key, export_key, open_key
from paceline.node.membership.mnemonics import COIN_TYPE, derive_account_secret, derive_secret, make_words, read_words
from paceline.node.membership.sealed import FileKind, InvalidBackup, KeyCost, open_value

CHEAP = KeyCost(passes=1, memory_bytes=8192)
PASSPHRASE = "correct horse battery"
ABANDON = "abandon " * 11 + "about"
# SLIP-0010, test vectors 1 and 2 for ed25519: seed, path, secret, public key without its leading zero byte.
LONG_SEED = "fffcf9f6f3f0edeae7e4e1dedbd8d5d2cfccc9c6c3c0bdbab7b4b1aeaba8a5a29f9c999693908d8a8784817e7b7875726f6c696663605d5a5754514e4b484542"
SLIP_0010 = [
    (
        "000102030405060708090a0b0c0d0e0f",
        (),
        "2b4be7f19ee27bbf30c667b642d5f4aa69fd169872f8fc3059c08ebae2eb19e7",
        "a4b2856bfec510abab89753fac1ac0e1112364e7d250545963f135f2a33188ed",
    ),
    (
        "000102030405060708090a0b0c0d0e0f",
        (0,),
        "68e0fe46dfb67e368c75379acec591dad19df3cde26e63b93a8e704f1dade7a3",
        "8c8a13df77a28f3445213a0f432fde644acaa215fc72dcdf300d5efaa85d350c",
    ),
    (
        "000102030405060708090a0b0c0d0e0f",
        (0, 1, 2, 2, 1_000_000_000),
        "8f94d394a8e8fd6b1bc2f3f49f5c47e385281d5c17e65324b0f62483e37e8793",
        "3c24da049451555d51a7014a37337aa4e12d41e485abccfa46b47dfb2af54b7a",
    ),
    (
        LONG_SEED,
        (),
        "171cb88b1b3c1db25add599712e36245d75bc65a1a5c9e18d76f9f2b1eab4012",
        "8fe9693f8fa62a4305a140b9764c5ee01e455963744fe18204b4fb948249308a",
    ),
    (
        LONG_SEED,
        (0, 2_147_483_647, 1, 2_147_483_646, 2),
        "551d333177df541ad876a60ea71f00447931c0a9da16f227c11ea080d7391b8d",
        "47150c75db263559a70d5778bf36abbab30fb061ad69f69ece61a72b0cfa4fc0",
    ),
]


@pytest.mark.parametrize(("seed", "path", "secret", "public_key"), SLIP_0010)
def test_derived_secrets_are_those_of_slip_0010(seed, path, secret, public_key):
    found = derive_secret(bytes.fromhex(seed), path)
    assert found.hex() == secret and AccountKey.from_secret(found).public_key.hex() == public_key


def test_the_seed_of_words_is_that_of_bip_39_and_accounts_differ():
    seed = Mnemonic.to_seed(ABANDON)
    assert seed.hex().startswith("5eb00bbddcf069084889a8ab9155568165f5c453ccb85e70811aaed6f6da5fc1")
    assert derive_account_secret(ABANDON, 0) == derive_secret(seed, (44, COIN_TYPE, 0, 0))
    assert len({derive_account_secret(ABANDON, account) for account in range(5)}) == 5


def test_made_words_read_back_however_they_are_typed():
    for count in (12, 24):
        words = make_words(count)
        assert len(words.split()) == count and make_words(count) != words
        assert read_words("\n  " + words.upper().replace(" ", "\t ")) == words
    with pytest.raises(ConfigError, match="12 or 24"):
        make_words(13)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "0 words were given"),
        ("abandon " * 13, "13 words were given"),
        (ABANDON.replace("about", "abuot"), "word 12 of 12, 'abuot', is not of the list: perhaps about"),
        ("zzzz " + "abandon " * 11, "word 1 of 12, 'zzzz', is not of the list$"),
        ("abandon " * 12, "checksum does not fit"),
        ("about " + "abandon " * 11, "checksum does not fit"),
    ],
)
def test_invalid_words_are_named(words, told):
    with pytest.raises(ConfigError, match=told):
        read_words(words)


def test_a_key_travels_in_a_sealed_file(tmp_path):
    home, file = Home(tmp_path / "home"), tmp_path / "cold.key"
    key = add_key(home, "cold", b"c" * 32)
    assert home.key_names() == ["cold"] and home.load_key("cold") == key
    assert stat.S_IMODE(home.key_path("cold").stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match="at least 12"):
        export_key(file, "cold", key, "short", CHEAP)
    assert not file.exists()
    export_key(file, "cold", key, PASSPHRASE, CHEAP)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and key.secret not in file.read_bytes()
    opened = open_key(file, PASSPHRASE)
    assert (opened.name, opened.secret) == ("cold", key.secret)
    with pytest.raises(ConfigError, match="overwrites nothing"):
        export_key(file, "cold", key, PASSPHRASE, CHEAP)


def test_invalid_key_files(tmp_path):
    file, key = tmp_path / "f", AccountKey.from_secret(b"c" * 32)
    export_key(file, "cold", key, PASSPHRASE, CHEAP)
    data = file.read_bytes()
    with pytest.raises(InvalidBackup, match="not-opened"):
        open_key(file, PASSPHRASE + "!")
    # Sealed for one kind of file, it opens as no other, whatever its first bytes say.
    other = FileKind(magic=KEY_FILE.magic, purpose="key-backup", written_by="x", limit_bytes=KEY_FILE.limit_bytes)
    with pytest.raises(InvalidBackup, match="not-opened"):
        open_value(other, file, PASSPHRASE, {1: object})
    for place in range(len(KEY_FILE.magic), len(data), 7):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(InvalidBackup):
            open_key(file, PASSPHRASE)
    file.write_bytes(b"paceline-keys\n" + data[len(KEY_FILE.magic) :])
    with pytest.raises(InvalidBackup, match="paceline keys export"):
        open_key(file, PASSPHRASE)


def test_a_name_means_one_account(tmp_path):
    home = Home(tmp_path / "home")
    add_key(home, "cold", b"c" * 32)
    home.node_path("node-1").mkdir(parents=True)
    add_contact(home, "bob", "11" * 20, home.key_names())
    for name, told in (
        ("cold", "none is ever overwritten"),
        ("user", "an account of this home"),
        ("node-1", "an account of this home"),
        ("bob", "a contact of this home"),
        ("../x", "is no name"),
        ("Cold", "is no name"),
    ):
        with pytest.raises(ConfigError, match=told):
            add_key(home, name, b"d" * 32)
    assert home.load_key("cold").secret == b"c" * 32
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "keys").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        add_key(Home(tmp_path / "full"), "cold", b"c" * 32)
