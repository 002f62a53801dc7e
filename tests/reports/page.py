"""What tests see of a report: its elements, texts and pictures."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """A parsed report; fails on elements that are not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.parts: list[str] = []
        self._open: list[str] = []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self._open):
            self.parts.append(data)

    @property
    def text(self) -> str:
        """What a reader sees, with plain single spaces."""
        return re.sub(r"\s+", " ", "".join(self.parts))

    def all(self, *tags: str) -> list[dict[str, str]]:
        """Attributes of every element of these kinds."""
        return [attributes for tag, attributes in self.elements if tag in tags]

    def svgs(self) -> list[str]:
        """Every embedded SVG."""
        prefix = "data:image/svg+xml;base64,"
        sources = [image["src"] for image in self.all("img")]
        return [
            base64.b64decode(source.removeprefix(prefix)).decode()
            for source in sources
            if source.startswith(prefix)
        ]
