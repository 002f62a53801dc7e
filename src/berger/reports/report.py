"""From a folder to one HTML file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from berger import __version__
from berger.errors import BergerError
from berger.files import written_whole
from berger.reports.blocks import Note, Number, Section, Topic
from berger.reports.corpus_section import corpus_section
from berger.reports.decoding_section import decoding_section
from berger.reports.evaluation_section import evaluation_section
from berger.reports.exact import exact_section
from berger.reports.folders import Kind, Part, find_parts
from berger.reports.methods import methods_section
from berger.reports.pretraining_section import pretraining_section
from berger.reports.style import report_style

MOST_NUMBERS = 4

_UNIT = re.compile(r"(?<=\d) (?=(?:s|h|Hz|µV|min|people|person|animals?|subjects?)\b|%)")

_RUNS: dict[Kind, Callable[[Part], Section]] = {
    "pretraining": pretraining_section,
    "adaptation": decoding_section,
    "evaluation": evaluation_section,
}


@dataclass(frozen=True)
class _Finding:
    """A line of the summary: a section's lead."""

    anchor: str
    title: str
    text: str


def build_report(folder: Path, *, out: Path | None = None, seed: int = 0) -> Path:
    """Write the report of a corpus, a run, or a folder that directly holds some of these.

    The file needs nothing beside it and no network. The same folder gives the same bytes. What an
    unfinished run lacks is said where it would stand.

    Parameters
    ----------
    folder : Path
        Of a corpus, of a pretraining, an adaptation or an evaluation, or one level above some of
        these.
    out : Path, optional
        The file; by default ``report.html`` in `folder`.
    seed : int
        Which windows of a corpus are shown as traces.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    BergerError
        If nothing in the folder is recognised, or its only content is a corpus that cannot be
        opened.
    """
    folder = Path(folder)
    parts = find_parts(folder)
    with report_style():
        sections = [_section(part, seed, alone=len(parts) == 1) for part in parts]
    html = _render(folder.resolve().name, sections, parts)
    target = folder / "report.html" if out is None else Path(out)
    with written_whole(target) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return target


def _section(part: Part, seed: int, *, alone: bool) -> Section:
    try:
        return corpus_section(part, seed) if part.kind == "corpus" else _RUNS[part.kind](part)
    except BergerError as error:
        if alone:
            raise
        title = {
            "corpus": "Recordings and corpus",
            "pretraining": "Pretraining",
            "adaptation": "Decoding",
            "evaluation": "Evaluation",
        }[part.kind]
        return Section(title, part.name, topics=[Topic("Not shown", [Note(str(error))])])


def _render(name: str, sections: list[Section], parts: list[Part]) -> str:
    environment = Environment(
        loader=PackageLoader("berger.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tied"] = tied
    findings = [
        _Finding(f"section-{number}", f"{section.title}{_which(section, sections)}", section.lead)
        for number, section in enumerate(sections, 1)
        if section.lead
    ]
    return environment.get_template("report.html").render(
        name=name,
        numbers=key_numbers(sections),
        findings=findings,
        sections=[*sections, methods_section(parts), exact_section(parts)],
        version=__version__,
    )


def tied(text: str) -> str:
    """Keep numbers and their units on one line."""
    return re.sub(_UNIT, "\u00a0", text)


def key_numbers(sections: list[Section]) -> list[Number]:
    """Choose the numbers for the top: the first of each section, then the second, in road order.

    The end of the road matters most, so that where there are too many sections the first ones
    have to do without.
    """
    ranked = sorted(
        (rank, -place)
        for place, section in enumerate(sections)
        for rank in range(len(section.numbers))
    )[:MOST_NUMBERS]
    chosen = sorted((-place, rank) for rank, place in ranked)
    return [
        replace(number, label=f"{number.label}{_which(sections[place], sections)}")
        for place, rank in chosen
        for number in [sections[place].numbers[rank]]
    ]


def _which(section: Section, sections: list[Section]) -> str:
    """Return what tells a section from others of its title: the name of its folder."""
    alike = [other for other in sections if other.title == section.title]
    return f" · {section.name}" if len(alike) > 1 else ""
