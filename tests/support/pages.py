"""Web pages as a program reads them: elements, tables, images, by the standard library's parser."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import numpy as np

VOID = {"meta", "link", "img", "line", "polyline", "br", "wbr"}


@dataclass
class Element:
    """A tag, its attributes, and what is inside."""

    tag: str
    attributes: dict[str, str]
    inside: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in self.inside)

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Return the elements of this tag inside, at any depth, with these attributes."""
        found = []
        for part in self.inside:
            if isinstance(part, Element):
                if part.tag == tag and attributes.items() <= part.attributes.items():
                    found.append(part)
                found += part.all(tag, **attributes)
        return found

    def tags(self) -> set[str]:
        inner = (part.tags() for part in self.inside if isinstance(part, Element))
        return {self.tag}.union(*inner)

    def figures(self) -> list[Element]:
        """Return the images of the figures inside."""
        return [image for figure in self.all("figure") for image in figure.all("img")]

    def section(self, title: str) -> Element:
        (found,) = [part for part in self.all("section") if part.all("h2")[0].text == title]
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attributes})
        self.open[-1].inside.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.open[-1].inside.append(Element(tag, {key: value or "" for key, value in attributes}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].inside.append(data)


def read(html: str) -> Element:
    """Return the page; AssertionError where tags are not closed in their order."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert len(reader.open) == 1, f"<{reader.open[-1].tag}> is not closed"
    return reader.open[0]


def table(element: Element, place: int = 0) -> list[list[str]]:
    """Return the texts of a table's cells, row by row."""
    rows = element.all("table")[place].all("tr")
    return [[cell.text for cell in row.inside if isinstance(cell, Element)] for row in rows]


def pixels(image: Element) -> Any:
    """Return what an image of the page shows, as Pillow reads it."""
    from PIL import Image

    head, _, content = image.attributes["src"].partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as picture:
        return np.asarray(picture)
