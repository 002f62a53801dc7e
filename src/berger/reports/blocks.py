"""What a report is made of, before it becomes HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from berger.errors import BergerError

NARROW = 50
"""Characters that stand beside each other on a narrow screen."""


@dataclass(frozen=True)
class Image:
    """A picture inside the file.

    Attributes
    ----------
    uri : str
        ``data:`` URI.
    alt : str
        What it shows, for those who cannot see it.
    width : int
        Width in CSS pixels at which its text has the size of the captions.
    """

    uri: str
    alt: str
    width: int


@dataclass(frozen=True)
class Figure:
    """Pictures side by side, or below each other on a narrow screen, and how to read them."""

    kind: ClassVar[str] = "figure"
    images: tuple[Image, ...]
    caption: str


@dataclass(frozen=True)
class Table:
    """Rows of text; numeric columns are aligned to the right, and may have several lines.

    Attributes
    ----------
    columns : sequence of str
        Headings.
    rows : sequence of sequence of str
    numeric : set of str
        Headings of the columns that hold numbers.
    caption : str
    sortable : bool
        Whether a click on a heading sorts by it.
    """

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[str] = frozenset()
    caption: str = ""
    sortable: bool = False

    @property
    def is_wide(self) -> bool:
        """Whether it is too wide for a narrow screen, where its rows are then cards."""
        headings = [max(heading.split(), key=len, default="") for heading in self.columns]
        columns = zip(headings, *self.rows, strict=True)
        widths = (
            max(len(line) for cell in column for line in cell.split("\n")) for column in columns
        )
        return sum(2 + max(8, width) for width in widths) > NARROW


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Note:
    """Something that is missing or needs care."""

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True)
class Source:
    """Text shown as it stands in a file."""

    kind: ClassVar[str] = "source"
    text: str


@dataclass(frozen=True)
class Copyable:
    """Paragraphs with a button that copies them."""

    kind: ClassVar[str] = "copyable"
    paragraphs: tuple[str, ...]
    references: tuple[str, ...]


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away at first."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: Sequence[Block]


Block = Figure | Table | Text | Note | Source | Copyable | Details


@dataclass(frozen=True)
class Number:
    """A number that matters and what it means."""

    value: str
    label: str
    meaning: str


@dataclass(frozen=True)
class Topic:
    """A part of a section under a heading of its own."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes
    ----------
    title, name : str
        What is reported, and the folder's name where it is about a folder.
    lead : str
        What was found, in a sentence or two.
    numbers : sequence of Number
        The most important first.
    topics : sequence of Topic
    """

    title: str
    name: str = ""
    lead: str = ""
    numbers: Sequence[Number] = field(default_factory=list)
    topics: Sequence[Topic] = field(default_factory=list)


def topic(title: str, make: Callable[[], Iterable[Block]]) -> Topic:
    """Make a topic; what cannot be shown is said instead, and the rest of the report goes on."""
    try:
        return Topic(title, list(make()))
    except BergerError as error:
        return Topic(title, [Note(str(error))])


def enumeration(words: Iterable[str], last: str = "and") -> str:
    """Join words as a sentence does: "a, b and c"."""
    *rest, final = list(words) or [""]
    return f"{', '.join(rest)} {last} {final}" if rest else final


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return "1 person", "2 people", "1,024 windows"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
