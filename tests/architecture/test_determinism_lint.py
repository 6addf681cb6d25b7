"""The determinism lint: what it must accept, and one planted violation for each thing that it must catch."""

from __future__ import annotations

import textwrap

import pytest


@pytest.fixture(scope="session")
def lint(load_script):
    return load_script("check_determinism")


def rules_of(lint, source):
    return [violation.rule for violation in lint.find_violations(textwrap.dedent(source))]


@pytest.mark.parametrize(
    "source",
    [
        "x = 7 // 2",
        "x = 2 ** 64 - 1",
        "x //= 3",
        "for key in sorted({3, 1}): print(key)",
        "x = 3 in {1, 2, 3}",
        "x = len(set([1, 1]))",
        "x = sum(set([1, 2]))",
        "x = min({1, 2})",
        "for key in {'b': 1}: print(key)",
        "def f(names: list[str]): return [name for name in names]",
        "import math\nx = math.isqrt(10)",
        "from math import gcd",
        "import hashlib\nimport msgspec\nfrom collections.abc import Mapping",
        "name.encode('ascii')",
        "stack = [1]\nstack.pop()",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pathlib import Path",
        "def f():\n    seen = set()\n    return seen\ndef g():\n    seen = [1]\n    return [x for x in seen]",
        "def f(): return self.identity, 'a float in words / here'",
    ],
)
def test_exact_code_is_accepted(lint, source):
    assert rules_of(lint, source) == []


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("x = 0.5", "float-literal"),
        ("x = 1e9", "float-literal"),
        ("x = 2j", "float-literal"),
        ("x = 7 / 2", "true-division"),
        ("x /= 2", "true-division"),
        ("x = 10 ** -9", "true-division"),
        ("from operator import truediv", "true-division"),
        ("x = float(3)", "forbidden-name"),
        ("def f(x: float) -> int: return x", "forbidden-name"),
        ("x = round(y)", "forbidden-name"),
        ("x = hash(b'')", "forbidden-name"),
        ("x = sorted(y, key=id)", "forbidden-name"),
        ("x = open('f')", "forbidden-name"),
        ("import math\nx = math.sqrt(2)", "forbidden-import"),
        ("from math import log", "forbidden-import"),
        ("name.upper()", "unicode-method"),
        ("name.lower()", "unicode-method"),
        ("text.isdigit()", "unicode-method"),
        ("async def f(): return 1", "async"),
    ],
)
def test_invalid_arithmetic_and_names_are_caught(lint, source, rule):
    assert rules_of(lint, source) == [rule]


@pytest.mark.parametrize(
    "module",
    [
        *("time", "random", "asyncio", "socket", "sqlite3", "threading", "os", "os.path", "uuid", "datetime"),
        *("secrets", "json", "pickle", "numpy", "torch", "logging"),
    ],
)
def test_invalid_imports_are_caught_at_every_depth(lint, module):
    assert rules_of(lint, f"import {module}") == ["forbidden-import"]
    assert rules_of(lint, f"from {module} import x") == ["forbidden-import"]
    assert rules_of(lint, f"def f():\n    import {module} as y") == ["forbidden-import"]


@pytest.mark.parametrize(
    "source",
    [
        "for key in {1, 2}: pass",
        "for key in set(x): pass",
        "for key in frozenset(x): pass",
        "y = [key for key in {1, 2}]",
        "y = [key for key in {k for k in x}]",
        "y = list({1, 2})",
        "y = tuple(set(x) - set(z))",
        "y = [*{1, 2}]",
        "y = ','.join({'a', 'b'})",
        "a, b = {1, 2}",
        "y = next(iter({1, 2}))",
        "y = dict.fromkeys({1, 2})",
        "y = sorted({(1, 2)}, key=f)",
        "y = min({(1, 2)}, key=f)",
        "def f():\n    seen = set()\n    for key in seen: pass",
        "def f():\n    seen = set()\n    return seen.pop()",
        "def f():\n    a = set()\n    b = a | other\n    for key in b: pass",
        "def f():\n    a = set()\n    for key in a.union(other): pass",
        "def f(seen: set[bytes]):\n    for key in seen: pass",
        "def f(seen: 'frozenset[bytes] | None'):\n    for key in seen: pass",
        "def f():\n    seen: set[int] = build()\n    for key in seen: pass",
        "def f(*, seen: AbstractSet[int]):\n    return list(seen)",
        "class A:\n    seen: set[int]\n    def f(self):\n        for key in self.seen: pass",
        "class A:\n    def f(self):\n        self.seen: set[int] = x\n        return list(self.seen)",
        "def f():\n    yield from {1, 2}",
        "NAMES = {1, 2}\ndef f():\n    return [name for name in NAMES]",
    ],
)
def test_invalid_set_order_is_caught(lint, source):
    assert rules_of(lint, source) == ["set-order"]


def test_the_line_of_a_violation_is_named(lint):
    assert lint.find_violations("x = 1\ny = 0.5\n")[0].line == 2


def test_the_exit_code_tells_clean_from_caught_from_nothing_to_check(lint, tmp_path, capsys):
    room = tmp_path / "room"
    room.mkdir()
    assert lint.main([str(room)]) == 2
    (room / "a.py").write_text("x = 1\n")
    assert lint.main([str(room)]) == 0
    (room / "b.py").write_text("x = 1 / 2\n")
    assert lint.main([str(room)]) == 1
    assert "b.py:1: true-division" in capsys.readouterr().out
