"""What is done to a good file, as strategies: to its bytes, and to the values in it."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    127,
    128,
    255,
    256,
    2**15 - 1,
    2**15,
    2**16 - 1,
    2**16,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63,
)
"""Numbers at which readers of files go wrong."""

PIECES = (
    b"\0" * 16,
    b"\xff" * 16,
    b"{" * 50,
    b"[" * 20_000,
    b"\x1b[2J",
    b'"' * 3,
    b"\r\n",
    b"NaN",
    b"1e999",
    b"9" * 5000,
    b"\\u0000",
)

Tree = Any
"""What JSON and TOML hold."""


@st.composite
def damaged(draw: st.DrawFn, contents: Sequence[bytes], most: int = 4) -> bytes:
    """Return one of the contents with up to ``most`` edits; many of them near its beginning or end, where headers are."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(0, most))):
        size = len(content)
        near = min(size, 128)
        place = draw(st.one_of(st.integers(0, near), st.integers(0, size), st.integers(size - near, size)))
        edit = draw(st.sampled_from(["bit", "number", "cut", "delete", "insert", "repeat", "zero"]))
        if edit == "bit" and place < size:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif edit == "number":
            width = draw(st.sampled_from([1, 2, 4, 8]))
            number = draw(st.sampled_from(NUMBERS)) % 256**width
            content[place : place + width] = number.to_bytes(width, draw(st.sampled_from(["little", "big"])))
        elif edit == "cut":
            del content[place:]
        elif edit == "delete":
            del content[place : place + draw(st.integers(1, 64))]
        elif edit == "insert":
            content[place:place] = draw(st.one_of(st.binary(max_size=8), st.sampled_from(PIECES)))
        elif edit == "repeat":
            piece = content[place : place + draw(st.integers(1, 64))]
            content[place:place] = piece * draw(st.sampled_from([1, 2, 100]))
        elif edit == "zero":
            length = len(content[place : place + 16])
            content[place : place + length] = bytes(length)
    return bytes(content)


def nested(depth: int) -> Tree:
    """Return lists in lists."""
    tree: Tree = []
    for _ in range(depth):
        tree = [tree]
    return tree


HOSTILE = st.one_of(
    st.sampled_from([
        None, True, False, -1, 0, 1, 0.5, -0.0, math.nan, math.inf, -math.inf, 1e308, 1e-320, 2**31, 2**53 + 1, 2**63, 2**64,
        10**400, 30_000, "", "0", "nan", "inf", "\0", "\x1b[2J", "\ud800", "../..", "x" * 5000, [], {}, [0], [None],
        ["a", "b"], {"a": 1}, nested(40), "auto", "cuda:99", "model.py:net",
    ]),
    st.integers(-3, 70_000),
    st.floats(),
    st.text(max_size=8),
).map(copy.deepcopy)  # fmt: skip
"""Values that a stranger could put anywhere. Each is a copy: what is drawn is changed, and the next draw must not see it."""


@st.composite
def damaged_tree(draw: st.DrawFn, trees: Sequence[Tree], most: int = 3) -> Tree:
    """Return a copy of one of the trees in which up to ``most`` values are replaced, left out, doubled or moved."""
    tree = copy.deepcopy(draw(st.sampled_from(trees)))
    for _ in range(draw(st.integers(0, most))):
        holders = list(_holders(tree))
        if not holders:
            return draw(HOSTILE)
        holder, key = draw(st.sampled_from(holders))
        edit = draw(st.sampled_from(["replace", "replace", "leave out", "double", "move", "rename"]))
        if edit == "replace":
            holder[key] = draw(HOSTILE)
        elif edit == "leave out":
            del holder[key]
        elif edit == "double":
            if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            else:
                holder[str(draw(st.text(max_size=4)))] = copy.deepcopy(holder[key])
        elif edit == "move":
            other, place = draw(st.sampled_from(holders))
            if isinstance(other, dict) or place < len(other):
                holder[key] = (
                    copy.deepcopy(other[place]) if place in range(len(other)) or isinstance(other, dict) else None
                )
        elif isinstance(holder, dict):
            holder[draw(st.sampled_from(["", "layer", "children", "name", "x" * 300, "\x1b"]))] = holder.pop(key)
    return tree


def _holders(tree: Tree) -> Any:
    """Yield each place of a value as (list or dict, index or key)."""
    waiting = [tree]
    while waiting:
        holder = waiting.pop()
        entries = holder.items() if isinstance(holder, dict) else enumerate(holder) if isinstance(holder, list) else ()
        for key, value in list(entries):
            yield holder, key
            waiting.append(value)


def as_json(tree: Tree) -> bytes:
    """Return a tree as JSON, with the constants that Python's reader takes."""
    return json.dumps(tree).encode()


def as_toml(values: dict[str, Any]) -> bytes:
    """Return a flat dict as TOML; what TOML cannot hold is written as JSON would, which is damage too."""
    lines = []
    for key, value in values.items():
        word = repr(value).replace("'", '"') if isinstance(value, float) else json.dumps(value)
        lines.append(f"{json.dumps(key) if not key.isidentifier() else key} = {word}")
    return "\n".join(lines).encode(errors="surrogatepass")
