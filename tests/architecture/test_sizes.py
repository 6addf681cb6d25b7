"""The size check: boundaries of lines, and every way to catch everything."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def sizes(load_script):
    return load_script("check_sizes")


def function_of(lines):
    return "def f():\n" + "    x = 1\n" * (lines - 1)


def problems_of(sizes, source, seams=None):
    return sizes.find_problems("paceline/a.py", sizes.measure_module(source), seams or {})


def test_a_module_at_the_limit_passes_and_one_line_more_does_not(sizes):
    assert problems_of(sizes, "x = 1\n" * 500) == []
    assert problems_of(sizes, "x = 1\n" * 501) == ["paceline/a.py: 501 lines, at most 500"]


def test_a_function_at_the_limit_passes_and_one_line_more_does_not(sizes):
    assert problems_of(sizes, function_of(60)) == []
    assert problems_of(sizes, function_of(61)) == ["paceline/a.py:1: f has 61 lines, at most 60"]


def test_methods_and_inner_functions_are_measured(sizes):
    source = "class A:\n" + "".join(f"    {line}\n" for line in function_of(61).splitlines())
    assert problems_of(sizes, source) == ["paceline/a.py:2: f has 61 lines, at most 60"]


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    f()\nexcept:\n    pass",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept BaseException as error:\n    log(error)",
        "try:\n    f()\nexcept (ValueError, Exception):\n    pass",
        "try:\n    f()\nexcept builtins.Exception:\n    pass",
        "try:\n    f()\nexcept Exception:\n    raise Other from None",
        "with contextlib.suppress(Exception):\n    f()",
        "app.add_exception_handler(Exception, handler)",
        "Starlette(exception_handlers={Exception: handler})",
        "@app.exception_handler(Exception)\ndef handler(): pass",
    ],
)
def test_invalid_broad_handlers_are_counted(sizes, source):
    assert len(problems_of(sizes, source)) == 1
    assert problems_of(sizes, source, {"paceline/a.py": 1}) == []


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    f()\nexcept ValueError:\n    pass",
        "try:\n    f()\nexcept Exception:\n    clean_up()\n    raise",
        "class PacelineError(Exception): pass",
        "with contextlib.suppress(KeyError):\n    f()",
    ],
)
def test_narrow_handlers_and_those_that_raise_again_pass(sizes, source):
    assert problems_of(sizes, source) == []


def test_invalid_second_handler_at_a_seam_is_caught(sizes):
    source = "try:\n    f()\nexcept Exception:\n    pass\n" * 2
    assert "2 times (lines 3, 7), 1 allowed" in problems_of(sizes, source, {"paceline/a.py": 1})[0]


def test_invalid_seam_that_is_gone_is_caught(sizes):
    assert "no longer there" in problems_of(sizes, "x = 1\n", {"paceline/a.py": 1})[0]


def test_the_report_states_the_median_and_a_missing_seam_fails(sizes, tmp_path, capsys, monkeypatch):
    (tmp_path / "paceline").mkdir()
    (tmp_path / "paceline" / "a.py").write_text(function_of(4) + function_of(10))
    monkeypatch.setattr(sizes, "SEAMS", {})
    assert sizes.main(tmp_path) == 0
    assert "median 7 lines, longest 10" in capsys.readouterr().out
    monkeypatch.setattr(sizes, "SEAMS", {"paceline/gone.py": 1})
    assert sizes.main(tmp_path) == 1
