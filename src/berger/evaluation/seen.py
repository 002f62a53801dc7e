"""Whom a checkpoint's pretraining has seen, among the people of a corpus.

A checkpoint knows its corpus, the names of its training people, and of their files name, size and
content. docs/decisions/0026-transfer.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from berger.corpus import Corpus
from berger.pretraining import file_contents, file_marks

Known = Literal["nobody", "known", "unknown"]
"""Of whose recordings the weights were made: of none, of people with names, or nobody can say."""


def knows_people(provenance: Mapping[str, Any]) -> bool:
    """Whether weights that were made from recordings say whose these were."""
    return "subjects" in provenance and all(map(knows_people, _earlier(provenance)))


def people_seen(
    provenance: Mapping[str, Any], corpus: Corpus, others: Sequence[Corpus] = ()
) -> set[str]:
    """Return the people of a corpus whom a pretraining saw.

    Parameters
    ----------
    provenance : mapping
        Of a checkpoint.
    corpus : Corpus
        Whose people may have been seen.
    others : sequence of Corpus
        Data sets of other people, some of whom may be called alike: what these explain is no sign
        of the people in `corpus`.

    Notes
    -----
    In the pretraining's own corpus people are known by name; if the checkpoint does not say whom
    it saw, it counts as having seen everybody there. If its corpus is one of `others`, those of
    `corpus` were seen of whom a recording has the very content of one that was trained on. In
    any other corpus a name, a file of the same name and size, and a file of the same content
    count, which errs on the careful side, unless one of `others` explains the name or the file.
    Weights that were started from others' have seen whom these have.
    """
    before = [people_seen(earlier, corpus, others) for earlier in _earlier(provenance)]
    return set().union(_seen_by_itself(provenance, corpus, others), *before)


def _earlier(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what is known of the weights that a training, or those of experts, began with."""
    own = (provenance, *provenance.get("experts", ()))
    return [one["earlier"] for one in own if "earlier" in one]


def _seen_by_itself(
    provenance: Mapping[str, Any], corpus: Corpus, others: Sequence[Corpus]
) -> set[str]:
    """Return the people of a corpus whom a pretraining saw, not those before it."""
    origin = provenance.get("corpus", {}).get("id")
    everybody = set(corpus.subjects)
    names = set(provenance.get("subjects", {}).get("train", ()))
    if origin == corpus.manifest.id:
        return names & everybody if "subjects" in provenance else everybody
    own = _readable(corpus)
    for other in others:
        if other.manifest.id == origin:
            theirs = _readable(other)
            trained = theirs[theirs["subject"].isin(names)] if "subjects" in provenance else theirs
            return {*own["subject"][own["source_sha256"].isin(trained["source_sha256"].dropna())]}
    marks = [*provenance.get("training_files", ())]
    contents = [*provenance.get("training_contents", [None] * len(marks))]
    explained_names, explained_files = _explained(marks, contents, others)
    left = {
        mark
        for mark, content in zip(marks, contents, strict=True)
        if (mark, content) not in explained_files
    }
    by_file = [
        mark in left or (content is not None and content in contents)
        for mark, content in zip(file_marks(own), file_contents(own), strict=True)
    ]
    return {*own["subject"][by_file], *(names - explained_names)} & everybody


def _explained(
    marks: list[str], contents: list[str | None], others: Sequence[Corpus]
) -> tuple[set[str], set[tuple[str, str | None]]]:
    """Return names and files of a pretraining that other data sets hold, known by their content."""
    files = {(mark, content) for mark, content in zip(marks, contents, strict=True) if content}
    by_content = {content for _, content in files}
    names: set[str] = set()
    held: set[str | None] = set()
    for other in others:
        rows = _readable(other)
        found = [content in by_content for content in file_contents(rows)]
        names |= {*rows["subject"][found]}
        held |= {*file_contents(rows)}
    return names, {(mark, content) for mark, content in files if content in held}


def _readable(corpus: Corpus) -> pd.DataFrame:
    rows = corpus.recordings
    return rows[rows["status"] == "ok"]
