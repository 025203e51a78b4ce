"""A web page in one file: nothing is loaded, all text is escaped, light and dark, readable on a phone.

Functions here take text and escape it; only arguments called ``html`` are put in as they are.
"""

from __future__ import annotations

import html as markup
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpucnn.report.images import data_uri
from gpucnn.version import __version__

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Browsers load nothing for the page and run nothing in it, whatever names came with the data."""

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""What HTML does not allow, and halves of characters, which a file name may hold and UTF-8 does not."""

STYLE = """
:root { color-scheme: light dark; --paper: #f7f8f9; --panel: #fff; --ink: #1b2126; --quiet: #59636d; --line: #d9dee3;
  --right: 42 111 182; --wrong: 196 61 44; --train: #2a6fb6; --val: #b35c00; --test: #2e7d4f; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181c; --panel: #1c2127; --ink: #e4e8ec; --quiet: #a0abb5;
  --line: #363e46; --right: 82 150 222; --wrong: 232 104 84; --train: #6db0f2; --val: #f0a24b; --test: #6ccf93; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.25rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 0 0 .6rem; }
h3 { font-size: 1rem; margin: 0 0 .3rem; }
p { margin: 0 0 .6rem; }
.quiet, figcaption, caption { color: var(--quiet); font-size: .875rem; }
section { background: var(--panel); border: 1px solid var(--line); border-radius: .6rem; margin-top: 1rem; padding: 1rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; margin: 1rem 0 0; }
.cards div { background: var(--panel); border: 1px solid var(--line); border-radius: .6rem; padding: .6rem .8rem; }
.cards dt { color: var(--quiet); font-size: .8rem; }
.cards dd { margin: 0; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; }
.row > * { flex: 1 1 19rem; min-width: 0; }
figure { margin: 0; }
figcaption { margin-top: .3rem; }
img { display: block; max-width: 100%; height: auto; image-rendering: pixelated; border-radius: .25rem; }
svg { display: block; width: 100%; height: auto; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(5.5rem, 1fr)); gap: .75rem; margin: 0; padding: 0;
  list-style: none; }
.tiles img { width: 100%; }
.tiles b { color: rgb(var(--wrong)); }
.scroll { overflow-x: auto; overflow-wrap: normal; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .4rem; }
caption span { display: inline-block; position: sticky; left: 0; max-width: calc(100vw - 4.2rem); white-space: normal; }
th, td { padding: .25rem .55rem; text-align: right; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
tbody th { background: var(--panel); position: sticky; left: 0; }
tbody th, thead th:first-child, .facts td, .words td:nth-child(2), .words th:nth-child(2) { text-align: left; }
.facts { width: 100%; }
.facts th { width: 35%; font-weight: 400; color: var(--quiet); vertical-align: top; }
.facts td { overflow-wrap: anywhere; }
th bdi, td bdi, .tiles bdi { display: inline-block; max-width: 12rem; overflow: hidden; text-overflow: ellipsis;
  vertical-align: bottom; white-space: nowrap; }
.confusion th bdi { max-width: 8rem; }
.tiles bdi { max-width: 100%; }
.confusion td.right { background: rgb(var(--right) / calc(var(--share) * .5)); }
.confusion td.wrong { background: rgb(var(--wrong) / calc(var(--share) * .55)); }
.confusion td.none { color: var(--quiet); }
.bars { width: 100%; max-width: 40rem; }
.bars td:last-child { width: 60%; }
.bar { display: block; height: .9rem; min-width: 1px; width: calc(var(--share) * 100%); border-radius: .2rem;
  background: rgb(var(--right)); }
details { margin-top: .75rem; }
summary { cursor: pointer; color: var(--quiet); }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: 0 0 .25rem; padding: 0; list-style: none;
  font-size: .875rem; }
.legend svg { display: inline-block; width: 1.8rem; height: .7rem; margin-right: .35rem; }
.line { fill: none; stroke-width: 2.5; stroke-linejoin: round; stroke-linecap: round; }
.steps { stroke: var(--train); stroke-width: 1; opacity: .65; }
.train { stroke: var(--train); } .val { stroke: var(--val); stroke-dasharray: 7 5; }
.test { stroke: var(--test); stroke-dasharray: 1.5 5.5; }
circle.train { fill: var(--train); } circle.val { fill: var(--val); } circle.test { fill: var(--test); }
circle { stroke: none !important; }
.axis { stroke: var(--line); stroke-width: 1; }
svg text { fill: var(--quiet); font-size: 14px; font-family: inherit; }
@media (max-width: 40rem) { svg text { font-size: 18px; } }
footer { margin-top: 1.5rem; }
"""


def text(value: Any) -> str:
    """Return anything as text that a page shows as it is, wherever it stands in the page.

    >>> text('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return markup.escape(UNPRINTABLE.sub("\ufffd", str(value)))


def name(value: Any) -> str:
    """Return a name that came with the data: its writing direction does not reach beyond it.

    >>> name("a&b")
    '<bdi title="a&amp;b">a&amp;b</bdi>'
    """
    return f'<bdi title="{text(value)}">{text(value)}</bdi>'


def page(title: str, html: str, refresh: int | None = None) -> str:
    """Return a whole page. refresh: seconds after which the browser loads it again.

    >>> page("A & B", "<p>hello").splitlines()[0]
    '<!doctype html>'
    """
    reload = "" if refresh is None else f'<meta http-equiv="refresh" content="{refresh:d}">\n'
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n{reload}'
        f'<link rel="icon" href="data:,">\n<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n'
        f'<body>\n{html}\n<footer class="quiet">Made by gpucnn {__version__}. '
        "This page loads nothing from elsewhere.</footer>\n</body>\n</html>\n"
    )


def section(title: str, html: str) -> str:
    """Return a part of a page under its heading.

    >>> section("A", "<p>b")
    '<section><h2>A</h2>\\n<p>b</section>'
    """
    return f"<section><h2>{text(title)}</h2>\n{html}</section>"


def picture(pixels: Any, alt: str, caption: str = "", width: int | None = None) -> str:
    """Return uint8 pixels, as ``png`` takes them, as a figure. alt: the text alternative.

    >>> import numpy as np
    >>> picture(np.zeros((2, 4), np.uint8), "a dot").partition(" alt=")[2]
    '"a dot" width="4" height="2"></figure>'
    """
    H, W = pixels.shape[:2]
    wide = W if width is None else width
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    size = f'width="{wide}" height="{round(H * wide / W)}"'
    return f'<figure><img src="{data_uri(pixels)}" alt="{text(alt)}" {size}>{below}</figure>'


def scrolling(label: str, html: str) -> str:
    """Return wide content in a box of its own that scrolls, also with the keyboard.

    >>> scrolling("Numbers", "<p>1")
    '<div class="scroll" role="region" aria-label="Numbers" tabindex="0"><p>1</div>'
    """
    return f'<div class="scroll" role="region" aria-label="{text(label)}" tabindex="0">{html}</div>'


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Return a table that scrolls; the cells of ``rows`` are HTML, the first of each row its heading.

    >>> table("T", ["a", "b"], [["1", "2"]]).partition("<tbody>")[2]
    '<tr><th scope="row">1</th><td>2</td></tr></tbody></table></div>'
    """
    heads = "".join(f'<th scope="col">{text(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    html = f'<table class="{kind}"><caption><span>{text(caption)}</span></caption><thead><tr>{heads}</tr></thead>'
    return scrolling(caption, f"{html}<tbody>{body}</tbody></table>")


def facts(caption: str, values: Mapping[str, Any]) -> str:
    """Return names and values as a table; nested mappings are named ``outer.inner``, lists by commas.

    >>> "<th scope=\\"row\\">a.b</th><td>1</td>" in facts("Settings", {"a": {"b": 1}})
    True
    """
    rows = "".join(
        f'<tr><th scope="row">{text(key)}</th><td>{text(value)}</td></tr>' for key, value in flattened(values)
    )
    return f'<table class="facts"><caption>{text(caption)}</caption><tbody>{rows}</tbody></table>'


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield (name, value) of mappings in mappings, as ``facts`` shows them.

    >>> dict(flattened({"a": {"b": 1, "c": [2, 3]}}))
    {'a.b': 1, 'a.c': '2, 3'}
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
