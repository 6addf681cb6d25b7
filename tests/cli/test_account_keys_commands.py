"""`paceline keys new`, `import` and `export` as a person types them."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from paceline.cli.main import app
from paceline.node.home import Home, NewHome, create_home
from paceline.node.membership import key_files
from paceline.node.membership.sealed import KeyCost

ABANDON = "abandon " * 11 + "about"


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    """What a guess costs is tested where it is decided; here it would only cost time."""
    monkeypatch.setattr(key_files, "USUAL_COST", KeyCost(passes=1, memory_bytes=8192))


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def run(home, *words, typed=None):
    done = CliRunner().invoke(app, ["keys", *map(str, words), "--home", str(home.path)], input=typed)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout + done.stderr


def read_shown(told):
    found = dict(re.findall(r"(\d+) ([a-z]+)", told.split("cold: account")[0].partition("\n")[2]))
    return " ".join(found[str(place)] for place in range(1, len(found) + 1))


def test_words_are_shown_once_and_bring_the_key_back(home, tmp_path):
    code, told = run(home, "new", "cold", "--words", 12)
    assert code == 0, told
    words, secret = read_shown(told), home.load_key("cold").secret
    assert len(words.split()) == 12 and secret.hex() not in told
    assert words not in "".join(path.read_text() for path in home.path.rglob("*") if path.is_file())
    code, listed = run(home, "list")
    assert code == 0 and home.load_key("cold").address.hex() in listed and secret.hex() not in listed

    other = Home(tmp_path / "other")
    code, told = run(other, "import", "again", typed=words.upper() + "\n")
    assert code == 0 and other.load_key("again").secret == secret and words.split()[0] not in told
    code, told = run(other, "import", "second", "--account", 1, typed=words + "\n")
    assert code == 0 and other.load_key("second").secret != secret


def test_a_confirmed_key_is_kept_only_when_the_words_were_typed(home):
    code, told = run(home, "new", "cold", "--confirm", typed=ABANDON + "\n")
    assert code == 2 and "no key was kept" in told and home.key_names() == []
    code, told = run(home, "new", "cold", "--confirm", typed="abandon\n")
    assert code == 2 and "1 words were given" in told and home.key_names() == []


def test_a_key_moves_in_a_file(home, tmp_path):
    words, passphrase, file = tmp_path / "words", tmp_path / "passphrase", tmp_path / "cold.key"
    words.write_text(ABANDON + "\nmore\n")
    passphrase.write_text("correct horse battery\n")
    assert run(home, "import", "cold", "--words-file", words)[0] == 0
    code, told = run(home, "export", "cold", "--to", file, "--passphrase-file", passphrase)
    assert code == 0 and "holds the key of cold" in told
    assert run(home, "export", "cold", "--to", file, "--passphrase-file", passphrase)[0] == 2
    code, told = run(home, "import", "warm", "--keyfile", file, "--passphrase-file", passphrase)
    assert code == 0 and home.load_key("warm") == home.load_key("cold")
    passphrase.write_text("correct horse batterx\n")
    code, told = run(home, "import", "hot", "--keyfile", file, "--passphrase-file", passphrase)
    assert code == 1 and "not-opened" in told and "hot" not in home.key_names()
    network = create_home(tmp_path / "network", NewHome(nodes=1, seed=1))
    passphrase.write_text("correct horse battery\n")
    for name in ("user", "node-1"):
        place = tmp_path / name
        assert run(network, "export", name, "--to", place, "--passphrase-file", passphrase)[0] == 0
        assert run(home, "import", f"{name}-copy", "--keyfile", place, "--passphrase-file", passphrase)[0] == 0
        assert home.load_key(f"{name}-copy") == network.load_key(name)
    assert run(network, "import", "cold", "--keyfile", file, "--passphrase-file", passphrase)[0] == 0
    assert "\ncold\n" in run(network, "list")[1]


@pytest.mark.parametrize(
    ("words", "typed", "told"),
    [
        (("new", "user"), None, "an account of this home already"),
        (("new", "a b"), None, "is no name"),
        (("new", "x", "--words", "11"), None, "12 or 24"),
        (("import", "x"), ABANDON.replace("about", "abot") + "\n", "word 12 of 12, 'abot'"),
        (("import", "x"), "abandon " * 12 + "\n", "checksum does not fit"),
        (("import", "x", "--words-file", "/nowhere"), None, "--words-file: /nowhere cannot be read"),
        (("import", "x", "--passphrase-file", "/nowhere"), None, "words have none here"),
        (("import", "x", "--keyfile", "/nowhere", "--account", "1"), None, "do not go with it"),
        (("import", "x", "--keyfile", "/nowhere", "--words-file", "/y"), None, "do not go with it"),
        (("import", "x", "--keyfile", "/nowhere"), None, "/nowhere cannot be read"),
        (("export", "x", "--to", "/tmp/never"), None, "this home has no key"),
    ],
)
def test_invalid_words_are_one_clear_line(home, words, typed, told):
    code, found = run(home, *words, typed=typed)
    assert code == 2 and told in found and not home.path.exists(), found
