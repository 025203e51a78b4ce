"""What sources above ``backend`` may not do: name an array module, make a device current, compute on raw arrays.

A raw array is what has the annotation ``Array``, is some object's ``.array``, or is returned by an operation. Whatever is
done with it is an operation (``gpucnn.backend.ops``), which runs on the right device; asking for its shape is not work.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import gpucnn

ROOT = Path(gpucnn.__file__).parent
ABOVE = sorted(
    path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] not in ("backend", "data", "distributed")
)
ASKED = {"shape", "dtype", "ndim", "size", "nbytes", "itemsize", "flags", "device"}
"""What may be asked of a raw array."""
HOLDS_DEVICE = {"autograd/tape.py"}
"""Who may make a device current, once for many operations: the tape, around the code of operations, a user's own too."""
EXCEPTIONS: dict[str, set[str]] = {}
"""By file, the lines that may stay until they are mended."""


def is_operation(node: ast.expr) -> bool:
    """Whether it is a call of ``ops.something``."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "ops"


def is_raw_annotation(node: ast.expr | None) -> bool:
    return node is not None and ast.unparse(node) in ("Array", "Array | None")


class Function(ast.NodeVisitor):
    """What one function does wrong; functions within know the names of those around them."""

    def __init__(self, raw: set[str], found: list[tuple[int, str]]) -> None:
        self.raw, self.found = set(raw), found

    def is_raw(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Name):
            return node.id in self.raw
        if isinstance(node, ast.Attribute):
            return node.attr == "array"
        if isinstance(node, ast.Subscript):
            return self.is_raw(node.value)
        return is_operation(node)

    def note(self, node: ast.AST, what: str) -> None:
        self.found.append((getattr(node, "lineno", 0), what))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        inner = Function(self.raw, self.found)
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            inner.raw.discard(argument.arg)
            if is_raw_annotation(argument.annotation):
                inner.raw.add(argument.arg)
        for statement in node.body:
            inner.visit(statement)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Name):
                (self.raw.add if self.is_raw(node.value) else self.raw.discard)(target.id)
            if isinstance(target, ast.Subscript) and self.is_raw(target.value):
                self.note(node, "assigns into an array")

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.generic_visit(node)
        if self.is_raw(node.target):
            self.note(node, "changes an array")

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self.generic_visit(node)
        if self.is_raw(node.left) or self.is_raw(node.right):
            self.note(node, "computes on an array")

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self.generic_visit(node)
        if self.is_raw(node.operand) and not isinstance(node.op, ast.Not):
            self.note(node, "computes on an array")

    def visit_Compare(self, node: ast.Compare) -> None:
        self.generic_visit(node)
        compares = [op for op in node.ops if not isinstance(op, (ast.Is, ast.IsNot, ast.In, ast.NotIn))]
        if compares and any(self.is_raw(side) for side in (node.left, *node.comparators)):
            self.note(node, "compares an array")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        if node.attr == "xp":
            self.note(node, "names an array module")
        is_own = node.attr.startswith("__")  # protocols of exchange, which do no work
        if self.is_raw(node.value) and node.attr not in ASKED and not is_own:
            self.note(node, f"uses .{node.attr} of an array")


def faults(text: str, name: str = "") -> list[str]:
    """Return what a module does wrong, by line."""
    found: list[tuple[int, str]] = []
    tree = ast.parse(text)
    Function(set(), found).visit(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.withitem) and name not in HOLDS_DEVICE and "active(" in ast.unparse(node.context_expr):
            found.append((node.context_expr.lineno, "makes a device current"))
    lines = text.splitlines()
    allowed = EXCEPTIONS.get(name, set())
    return [f"{name}:{line} {what}" for line, what in sorted(set(found)) if lines[line - 1].strip() not in allowed]


@pytest.mark.parametrize("path", ABOVE, ids=[str(path.relative_to(ROOT)) for path in ABOVE])
def test_nothing_above_the_backend_computes_on_raw_arrays(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT).as_posix())) == []


PLANTED = {
    "a sum": ("def f(x: Array) -> Array:\n    return x + 1", "computes on an array"),
    "a sign": ("def f(x: Array | None) -> Array:\n    return -x", "computes on an array"),
    "a comparison": ("def f(x: Array) -> Array:\n    return x > 0", "compares an array"),
    "an assignment": ("def f(t: Tensor) -> None:\n    t.array[...] = 1", "assigns into an array"),
    "a change": ("def f(t: Tensor) -> None:\n    t.array += 1", "changes an array"),
    "a change of a part": ("def f(x: Array) -> None:\n    x[0] *= 2", "changes an array"),
    "a method": ("def f(x: Array) -> Array:\n    return x.sum()", "uses .sum of an array"),
    "of a result": ("def f(b: Backend, x: Array) -> Array:\n    y = ops.exp(b, x)\n    return y * 2", "computes"),
    "in a function within": ("def f(x: Array) -> Any:\n    return lambda dy: dy * x", "computes on an array"),
    "a module": ("def f(b: Backend) -> Any:\n    return b.xp", "names an array module"),
    "a device": ("def f(b: Backend) -> None:\n    with b.active():\n        pass", "makes a device current"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(name: str) -> None:
    text, words = PLANTED[name]
    assert any(words in fault for fault in faults(text))


def test_what_is_no_work_is_let_be() -> None:
    text = """
def f(backend: Backend, x: Array, b: Array | None, count: int) -> Any:
    shape, size = x.shape, x.size * 2
    if b is None or not x.size or x.ndim > 2:
        return x[...]
    y = ops.add(backend, x, b)
    x = 3
    return y, x + count, lambda dy: ops.multiply(backend, dy, y)
"""
    assert faults(text) == []
