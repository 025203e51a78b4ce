"""Tables of text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from gpucnn.cli.terminal import printable, width
from gpucnn.formats import cut

LEAST = 8
"""Characters to which a column of names is cut before the table becomes wider than the terminal."""


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> list[str]:
    """Return the lines of a table. The first ``names`` columns are names, on the left, cut where the terminal is narrow.

    >>> text_table(["run", "accuracy"], [["a", "98 %"], ["bc", "7 %"]])
    ['run  accuracy', 'a        98 %', 'bc        7 %']
    """
    cells = [[printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    excess = sum(widths) + 2 * (len(widths) - 1) - width()
    for column in sorted(range(names), key=lambda column: -widths[column]):
        taken = min(max(excess, 0), max(widths[column] - max(LEAST, len(head[column])), 0))
        widths[column] -= taken
        excess -= taken
    lines = []
    for row in cells:
        parts = [
            f"{cut(cell, size):<{size}}" if column < names else f"{cell:>{size}}"
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    return lines
