"""Refuses code that could give two nodes different results, in the rooms whose output is hashed.

Reads syntax trees only: no float, no true division, no iteration in set order, no clock, chance, disk or thread, no
text rules that follow a Unicode version. It knows nothing of types beyond what annotations and assignments in the
same file say, so it catches slips, not malice. Invariant: whatever it accepts uses integers, bytes and ordered
containers, as far as one file can show.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOMS = ("base", "protocol", "economy", "ledger")

_IMPORT_GROUPS = {
    "a clock": ("calendar", "datetime", "sched", "time", "zoneinfo"),
    "chance": ("random", "secrets", "uuid"),
    "a disk": ("glob", "io", "os", "pathlib", "shelve", "shutil", "sqlite3", "tempfile"),
    "a socket": ("select", "selectors", "socket", "socketserver", "ssl"),
    "a thread or process": ("asyncio", "concurrent", "multiprocessing", "queue", "signal", "subprocess", "threading"),
    "inexact numbers": ("array", "cmath", "decimal", "fractions", "numpy", "scipy", "statistics", "torch"),
    "a second encoding": ("json", "marshal", "pickle"),
    "the interpreter": ("ctypes", "gc", "importlib", "inspect", "locale", "platform", "sys", "unicodedata", "weakref"),
    "output": ("logging",),
}
FORBIDDEN_IMPORTS = {module: group for group, modules in _IMPORT_GROUPS.items() for module in modules}
EXACT_MATH = frozenset({"comb", "factorial", "gcd", "isqrt", "lcm", "perm", "prod"})
FORBIDDEN_NAMES = {
    "float": "float is not exact",
    "complex": "complex is not exact",
    "round": "round halves to even and meets floats; state the floor",
    "hash": "hash differs between processes",
    "id": "id is an address in memory",
    "open": "the rules never touch a disk",
    "input": "the rules never ask",
    "eval": "the rules never run text",
    "exec": "the rules never run text",
    "__import__": "imports stand at the top",
}
UNICODE_METHODS = frozenset(
    {"upper", "lower", "casefold", "title", "capitalize", "swapcase", "normalize"}
    | {"isalpha", "isalnum", "isdigit", "isdecimal", "isnumeric"}
)
SET_TYPES = frozenset({"set", "frozenset", "AbstractSet", "MutableSet", "Set", "FrozenSet"})
SET_METHODS = frozenset({"union", "intersection", "difference", "symmetric_difference", "copy"})
ORDER_TAKERS = frozenset({"list", "tuple", "iter", "enumerate", "zip", "map", "filter", "reversed", "deque", "dict"})
KEYED_ORDER = frozenset({"sorted", "min", "max"})

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Violation(NamedTuple):
    """One place that must change."""

    line: int
    rule: str
    message: str


def find_violations(source: str) -> list[Violation]:
    """All violations of one file, by line.

    Errors: SyntaxError when the text is not Python.
    """
    tree = ast.parse(source)
    walker = _Walker(_find_set_attributes(tree))
    walker.visit(tree)
    return sorted(walker.found)


def main(arguments: list[str]) -> int:
    """Check the named folders, by default the rooms of the package. 0 clean, 1 violations, 2 nothing to check."""
    folders = [Path(name) for name in arguments] or [Path("paceline") / room for room in ROOMS]
    files = 0
    bad = 0
    for folder in folders:
        paths = sorted(folder.rglob("*.py"))
        if not paths:
            print(f"{folder}: no Python file here; name a folder that exists")
            return 2
        for path in paths:
            files += 1
            for violation in find_violations(path.read_text(encoding="utf-8")):
                bad += 1
                print(f"{path}:{violation.line}: {violation.rule}: {violation.message}")
    print(f"{files} files, {bad} violations")
    return 1 if bad else 0


class _Walker(ast.NodeVisitor):
    """Collects violations; `_scopes` holds the names known to be sets, innermost last."""

    def __init__(self, set_attributes: frozenset[str]) -> None:
        self.found: list[Violation] = []
        self._set_attributes = set_attributes
        self._scopes: list[frozenset[str]] = [frozenset()]

    def visit_Module(self, node: ast.Module) -> None:
        self._visit_scope(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_scope(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._report(node, "async", "the order in which tasks run is no rule")
        self._visit_scope(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, float | complex):
            self._report(node, "float-literal", f"{node.value!r} is not an integer")

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self._check_operator(node, node.op, node.right)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._check_operator(node, node.op, node.value)
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._check_import(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        self._check_import(node, module)
        if module == "math":
            for alias in node.names:
                self._check_math(node, alias.name)
        if module == "operator" and any(alias.name == "truediv" for alias in node.names):
            self._report(node, "true-division", "truediv gives a float")

    def visit_If(self, node: ast.If) -> None:
        # What is imported for types alone is not there when the code runs.
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in FORBIDDEN_NAMES and isinstance(node.ctx, ast.Load):
            self._report(node, "forbidden-name", FORBIDDEN_NAMES[node.id])

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and node.value.id == "math":
            self._check_math(node, node.attr)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self._check_iteration(node.iter)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self._check_iteration(node.iter)
        self.generic_visit(node)

    def visit_Starred(self, node: ast.Starred) -> None:
        self._check_iteration(node.value)
        self.generic_visit(node)

    def visit_YieldFrom(self, node: ast.YieldFrom) -> None:
        self._check_iteration(node.value)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(target, ast.Tuple | ast.List) for target in node.targets):
            self._check_iteration(node.value)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name):
            self._check_function_call(node, node.func.id)
        elif isinstance(node.func, ast.Attribute):
            self._check_method_call(node, node.func)
        self.generic_visit(node)

    def _visit_scope(self, node: ast.Module | Function) -> None:
        known = self._scopes[-1] | _find_set_names(node, self._is_set)
        self._scopes.append(known)
        # A set built from another set is found on the second look.
        self._scopes[-1] = known | _find_set_names(node, self._is_set)
        self.generic_visit(node)
        self._scopes.pop()

    def _check_operator(self, node: ast.AST, operator: ast.operator, right: ast.expr) -> None:
        if isinstance(operator, ast.Div):
            self._report(node, "true-division", "`/` gives a float; `//` states the floor")
        negative = isinstance(right, ast.UnaryOp) and isinstance(right.op, ast.USub)
        if isinstance(operator, ast.Pow) and negative:
            self._report(node, "true-division", "a negative power gives a float")

    def _check_import(self, node: ast.AST, module: str) -> None:
        group = FORBIDDEN_IMPORTS.get(module.partition(".")[0])
        if group is not None:
            self._report(node, "forbidden-import", f"{module} brings in {group}")

    def _check_math(self, node: ast.AST, name: str) -> None:
        if name not in EXACT_MATH:
            self._report(
                node, "forbidden-import", f"math.{name} is not exact; allowed: {', '.join(sorted(EXACT_MATH))}"
            )

    def _check_function_call(self, node: ast.Call, name: str) -> None:
        if name in ORDER_TAKERS:
            for argument in node.args:
                self._check_iteration(argument)
        keyed = any(keyword.arg == "key" for keyword in node.keywords)
        if name in KEYED_ORDER and keyed and node.args and self._is_set(node.args[0]):
            self._report(node, "set-order", f"{name} with a key keeps the set's order among equals")

    def _check_method_call(self, node: ast.Call, function: ast.Attribute) -> None:
        if function.attr in UNICODE_METHODS:
            self._report(node, "unicode-method", f".{function.attr}() follows the interpreter's Unicode version")
        if function.attr == "pop" and not node.args and self._is_set(function.value):
            self._report(node, "set-order", ".pop() takes whichever comes first")
        if function.attr in {"join", "extend", "fromkeys", "from_iterable"}:
            for argument in node.args:
                self._check_iteration(argument)

    def _check_iteration(self, node: ast.expr) -> None:
        if self._is_set(node):
            self._report(node, "set-order", "a set has no order of its own; sort it first")

    def _is_set(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Name):
            return node.id in self._scopes[-1]
        if isinstance(node, ast.Attribute):
            return node.attr in self._set_attributes
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd | ast.BitXor | ast.Sub):
            return self._is_set(node.left) or self._is_set(node.right)
        if isinstance(node, ast.IfExp):
            return self._is_set(node.body) or self._is_set(node.orelse)
        if isinstance(node, ast.Call):
            return self._is_set_call(node.func)
        return isinstance(node, ast.Set | ast.SetComp)

    def _is_set_call(self, function: ast.expr) -> bool:
        if isinstance(function, ast.Name):
            return function.id in {"set", "frozenset"}
        return isinstance(function, ast.Attribute) and function.attr in SET_METHODS and self._is_set(function.value)

    def _report(self, node: ast.AST, rule: str, message: str) -> None:
        self.found.append(Violation(getattr(node, "lineno", 0), rule, message))


def _find_set_attributes(tree: ast.Module) -> frozenset[str]:
    """Attribute names annotated as sets anywhere in the file, in a class body or on `self`."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            names += [
                part.target.id
                for part in node.body
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and _says_set(part.annotation)
            ]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute) and _says_set(node.annotation):
            names.append(node.target.attr)
    return frozenset(names)


def _find_set_names(scope: ast.Module | Function, is_set: Callable[[ast.expr], bool]) -> frozenset[str]:
    """Names that a parameter, an annotation or an assignment of this scope makes a set."""
    names = []
    if not isinstance(scope, ast.Module):
        arguments = (*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs)
        names += [arg.arg for arg in arguments if arg.annotation and _says_set(arg.annotation)]
    for node in _walk_scope(scope):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _says_set(node.annotation):
            names.append(node.target.id)
        if isinstance(node, ast.Assign) and is_set(node.value):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        if isinstance(node, ast.NamedExpr) and is_set(node.value):
            names.append(node.target.id)
    return frozenset(names)


def _walk_scope(scope: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `scope` that are not inside a function of their own."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _walk_scope(child)


def _says_set(annotation: ast.expr) -> bool:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if isinstance(annotation, ast.BinOp):
        return _says_set(annotation.left) or _says_set(annotation.right)
    if isinstance(annotation, ast.Subscript):
        annotation = annotation.value
    if isinstance(annotation, ast.Attribute):
        return annotation.attr in SET_TYPES
    return isinstance(annotation, ast.Name) and annotation.id in SET_TYPES


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
