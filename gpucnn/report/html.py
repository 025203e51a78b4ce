"""A web page in one file: it loads nothing, escapes all text, has light and dark colours, and is readable on a phone.

Functions here take text and escape it; only arguments called ``html`` are inserted unchanged.
"""

from __future__ import annotations

import html as markup
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

from gpucnn.formats import ABSENT, cut
from gpucnn.report.images import coloured, data_uri
from gpucnn.version import __version__

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Browsers load nothing for the page and run nothing in it, whatever names came with the data."""

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""What HTML does not allow, and halves of characters, which a file name may hold and UTF-8 does not."""

STYLE = resources.files("gpucnn.report").joinpath("style.css").read_text(encoding="utf-8")


LONGEST_NAME = 40
"""Characters of the longest name that is shown whole; the whole name is its tooltip."""

SHORT_NAME, KEPT_END = 12, 8
"""Characters of a name that always has room, and of the end of a longer one that is always shown."""

MOST_NARROW = 4
"""Columns of a table up to which it usually fits a phone."""


def text(value: Any) -> str:
    """Return anything as text, escaped for any position in a page.

    >>> text('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return markup.escape(UNPRINTABLE.sub("\ufffd", str(value)))


def name(value: Any) -> str:
    """Return a name that came with the data, whose writing direction does not affect the text around it.

    >>> name("a&b")
    '<bdi title="a&amp;b">a&amp;b</bdi>'

    A long name is in two pieces, of which the page cuts the first if there is little room: names often differ at the end.

    >>> name("a photograph of 0001.png")
    '<bdi class="long" title="a photograph of 0001.png"><span>a photograph of </span><span>0001.png</span></bdi>'
    """
    whole, shown = text(value), cut(str(value), LONGEST_NAME)
    if len(shown) <= SHORT_NAME:
        return f'<bdi title="{whole}">{text(shown)}</bdi>'
    start, end = text(shown[:-KEPT_END]), text(shown[-KEPT_END:])
    return f'<bdi class="long" title="{whole}"><span>{start}</span><span>{end}</span></bdi>'


def breakable(value: Any) -> str:
    """Return text that may be broken after a sign between words, and so need not be within one.

    >>> breakable("weight_decay"), breakable("resnet:width=8,blocks=1")
    ('weight_<wbr>decay', 'resnet:<wbr>width=8,<wbr>blocks=1')
    """
    return re.sub(r"([_.,:/])(?=\w)", r"\1<wbr>", text(value))


def page(title: str, head: str, sections: Sequence[tuple[str, str]], refresh: int | None = None) -> str:
    """Return a whole page: its ``head`` as HTML, a list of contents, and sections (title, HTML).

    refresh: seconds after which the browser loads the page again.

    >>> page("A & B", "<h1>hello</h1>", []).splitlines()[0]
    '<!doctype html>'
    """
    reload = "" if refresh is None else f'<meta http-equiv="refresh" content="{refresh:d}">\n'
    links = "".join(f'<li><a href="#{_anchor(name)}">{text(name)}</a></li>' for name, _ in sections)
    contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>' if len(sections) > 1 else ""
    main = "\n".join(section(name, html) for name, html in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n{reload}'
        f'<link rel="icon" href="data:,">\n<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n'
        f'<body>\n<a class="skip" href="#main">Skip to the content</a>\n<header>{head}</header>\n{contents}\n'
        f'<main id="main">\n{main}\n</main>\n<footer class="quiet">Made by gpucnn {__version__}. '
        "This page loads nothing from elsewhere.</footer>\n</body>\n</html>\n"
    )


def exactly(value: Any, form: Callable[[Any], str]) -> str:
    """Return a number as formatted by ``form``, with the exact value for programs; a dash for None.

    >>> exactly(0.5, lambda value: f"{value:.0%}")
    '<data value="0.5">50%</data>'
    """
    return ABSENT if value is None else f'<data value="{value!r}">{form(value)}</data>'


def section(title: str, html: str) -> str:
    """Return a part of a page under its heading.

    >>> section("All of it", "<p>b</p>")
    '<section aria-labelledby="all-of-it"><h2 id="all-of-it">All of it</h2>\\n<p>b</p></section>'
    """
    anchor = _anchor(title)
    return f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{text(title)}</h2>\n{html}</section>'


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


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


def colour_bar(colours: Any, low: str, high: str, alt: str) -> str:
    """Return the scale of colours (K, 3) between the values of its ends.

    >>> "0.5</div>" in colour_bar([[0, 0, 0], [255, 0, 0]], "0", "0.5", "from black to red")
    True
    """
    pixels = coloured(np.linspace(0, 1, 64)[None], colours)
    return f'<div class="scale">{text(low)} <img src="{data_uri(pixels)}" alt="{text(alt)}"> {text(high)}</div>'


def scrolling(label: str, html: str, wide: bool = False) -> str:
    """Return wide content in a box of its own that scrolls, also with the keyboard. wide: certainly wider than a phone.

    >>> scrolling("Numbers", "<p>1</p>").startswith('<div class="scroll" role="region" aria-label="Numbers" tabindex="0">')
    True
    """
    hint = '<p class="hint">Wider than a phone: scroll sideways.</p>' if wide else ""
    return f'<div class="scroll" role="region" aria-label="{text(label)}" tabindex="0">{html}</div>{hint}'


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
    return scrolling(caption, f"{html}<tbody>{body}</tbody></table>", len(head) > MOST_NARROW)


def folded(words: str, html: str) -> str:
    """Return content that is opened by a click or a key on ``words``.

    >>> folded("All numbers", "<p>1</p>")
    '<details><summary>All numbers</summary><p>1</p></details>'
    """
    return f"<details><summary>{text(words)}</summary>{html}</details>"


def facts(caption: str, values: Mapping[str, Any]) -> str:
    """Return names and values as a table; nested mappings are named ``outer.inner``, lists by commas.

    >>> "<th scope=\\"row\\">a.<wbr>b</th><td>1</td>" in facts("Settings", {"a": {"b": 1}})
    True
    """
    rows = "".join(
        f'<tr><th scope="row">{breakable(key)}</th><td>{text(value)}</td></tr>' for key, value in flattened(values)
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
