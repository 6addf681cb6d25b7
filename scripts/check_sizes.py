"""Keeps modules and functions small and broad `except` at its seams.

Counts lines of syntax trees; it knows nothing of what the code does. A function runs from its `def` to its last line,
docstring included. A handler that ends in a bare `raise` swallows nothing and does not count as broad.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 60
FOLDERS = ("paceline", "scripts", "bench", "examples")
# Where an unforeseen error must end one request, not the process; and how often each module may catch everything.
SEAMS = {
    "paceline/engine/abci/server.py": 1,
    "paceline/network/server.py": 1,
    "paceline/web/app.py": 1,
    "paceline/web/batch_runner.py": 1,
}
_BROAD = frozenset({"Exception", "BaseException"})
_CATCHING_CALLS = frozenset({"suppress", "exception_handler", "add_exception_handler"})


class ModuleReport(NamedTuple):
    """What one file counts."""

    lines: int
    functions: list[tuple[str, int, int]]
    """Name, line of the `def`, length in lines."""
    broad: list[int]
    """Lines that catch everything."""


def measure_module(source: str) -> ModuleReport:
    """Counts of one file.

    Errors: SyntaxError when the text is not Python.
    """
    tree = ast.parse(source)
    functions = [
        (node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return ModuleReport(len(source.splitlines()), functions, sorted(_find_broad(tree)))


def find_problems(path: str, report: ModuleReport, seams: dict[str, int]) -> list[str]:
    """What is too long, and what catches everything beyond the allow-list."""
    problems = []
    if report.lines > MAX_MODULE_LINES:
        problems.append(f"{path}: {report.lines} lines, at most {MAX_MODULE_LINES}")
    for name, line, length in report.functions:
        if length > MAX_FUNCTION_LINES:
            problems.append(f"{path}:{line}: {name} has {length} lines, at most {MAX_FUNCTION_LINES}")
    allowed = seams.get(path, 0)
    if len(report.broad) > allowed:
        places = ", ".join(map(str, report.broad))
        problems.append(f"{path}: catches everything {len(report.broad)} times (lines {places}), {allowed} allowed")
    if len(report.broad) < allowed:
        problems.append(f"{path}: a seam of SEAMS that is no longer there; take it off the list")
    return problems


def main(root: Path) -> int:
    """Check the folders under `root`. 0 clean, 1 problems."""
    paths = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    reports = {path.relative_to(root).as_posix(): measure_module(path.read_text(encoding="utf-8")) for path in paths}
    problems = [problem for path, report in reports.items() for problem in find_problems(path, report, SEAMS)]
    problems += [f"{path}: named in SEAMS, but there is no such file" for path in SEAMS if path not in reports]
    for problem in problems:
        print(problem)
    package = {path: report for path, report in reports.items() if path.startswith("paceline/")}
    lengths = [length for report in package.values() for _, _, length in report.functions]
    longest = max(report.lines for report in package.values())
    print(
        f"{len(package)} modules, longest {longest} lines; {len(lengths)} functions,"
        f" median {statistics.median(lengths):g} lines, longest {max(lengths)}"
    )
    return 1 if problems else 0


def _find_broad(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            if (node.type is None or _names_broad(node.type)) and not _reraises(node):
                yield node.lineno
        elif isinstance(node, ast.Call) and _name_of(node.func) in _CATCHING_CALLS:
            if any(_names_broad(argument) for argument in node.args):
                yield node.lineno
        elif isinstance(node, ast.Dict) and any(key is not None and _names_broad(key) for key in node.keys):
            yield node.lineno


def _names_broad(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple):
        return any(_names_broad(part) for part in node.elts)
    return _name_of(node) in _BROAD


def _name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _reraises(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent))
