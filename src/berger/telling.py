"""What commands print of corpora, and what they say on stderr of things left out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from berger.corpus import Corpus, PreparationSummary
    from berger.tasks import TaskConfig

MOST_FAILURES = 10


def describe_corpus(corpus: Corpus) -> str:
    """Return what is in a corpus, line by line."""
    counts = corpus.manifest.counts
    lines = [
        f"corpus      {corpus.manifest.id[:16]}",
        f"recordings  {counts.ok} ok, {counts.failed} failed, {counts.rejected} rejected",
        f"subjects    {len(corpus.subjects)}",
        f"hours       {corpus.hours:.2f} usable, {counts.seconds_dropped / 3600:.2f} dropped",
        f"rate        {corpus.manifest.preprocessing.sfreq:g} Hz",
    ]
    lines += [
        f"site        {site}: {hours:.2f} hours" for site, hours in corpus.hours_by_site.items()
    ]
    lines += [
        f"left out    {len(exclusion.people) or 'unknown'} evaluation people of {exclusion.of}"
        for exclusion in corpus.manifest.excluded
    ]
    lines += [
        f"montage     {montage.recordings} recordings: {' '.join(montage.ch_names)}"
        for montage in corpus.manifest.montages
    ]
    return "\n".join(lines)


def describe_tasks(name: str | None = None) -> str:
    """Return a line for each shipped task; or all facts of one, with what others have published.

    Parameters
    ----------
    name : str, optional
        A shipped task, or a YAML file.
    """
    from berger.tasks import catalogue, load_task

    if name is None:
        known = {name: load_task(name) for name in catalogue()}
        return "\n".join(
            f"{name:<12} {task.title} ({_question(task)}; {task.licence}; {task.source})"
            for name, task in known.items()
        )
    task = load_task(name)
    facts = {
        "task": task.name,
        "title": task.title,
        "description": task.description,
        "question": _question(task),
        "classes": ", ".join(task.classes),
        "target": str(task.target or ""),
        "hypnogram": ", ".join(task.hypnogram),
        "licence": task.licence,
        "paper": task.paper,
        "source": task.source,
    }
    lines = [f"{name:<12}{fact}" for name, fact in facts.items() if fact]
    for result in task.published:
        spread = "" if result.spread is None else f" ± {result.spread:g}"
        lines.append(
            f"{'published':<12}{result.model}: {result.metric} {result.value:g}{spread} (not "
            f"measured by Berger; {result.split}; {result.source})"
        )
    return "\n".join(lines)


def _question(task: TaskConfig) -> str:
    asked = f"{len(task.classes)} classes" if task.classes else "a number"
    return f"{task.species}, {asked}, windows of {task.window_seconds:g} s"


def tell_failures(reasons: Sequence[str]) -> None:
    """Say on stderr which recordings were left out and why; of very many, the first."""
    for reason in reasons[:MOST_FAILURES]:
        print(f"berger: left out {reason}", file=sys.stderr)
    if len(reasons) > MOST_FAILURES:
        print(f"berger: and {len(reasons) - MOST_FAILURES} more, see the table", file=sys.stderr)


def tell_failed_cells(cells: pd.DataFrame) -> None:
    """Say on stderr how many cells of an evaluation failed, and why the first one did."""
    failed = cells[cells["status"] == "failed"]
    if len(failed):
        first = failed.iloc[0]
        print(
            f"berger: {len(failed)} of {len(cells)} cells failed and are tried again by the same "
            f"command, see cells.parquet; the first, {first['title']} on {first['task']}: "
            f"{first['reason']}",
            file=sys.stderr,
        )


def tell_doubts(summary: PreparationSummary) -> None:
    """Say on stderr who was recorded, where that is not certain."""
    if summary.unknown_people > 1:
        print(
            f"berger: {summary.unknown_people} recordings do not tell who was recorded, and each "
            "is taken as a person of its own; if one person has several, set --subject_pattern.",
            file=sys.stderr,
        )
    if summary.shared_subjects:
        _tell_shared_subjects(summary.shared_subjects)


def _tell_shared_subjects(shared: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Say on stderr which subjects several folders have; of very many, the first."""
    subjects = [subject for subject, _ in shared]
    folders = sorted({folder for _, several in shared for folder in several})
    codes, places = (
        ", ".join([*names[:3], *(["..."] if len(names) > 3 else [])])
        for names in (subjects, folders)
    )
    print(
        f"berger: several folders ({places}) have recordings of the same subjects ({codes}), and "
        "each of these is taken as one person; if they are different people, set --subject_pattern "
        r"so that it takes the folder too, e.g. '(?P<subject>[^/]+/s\d+)'.",
        file=sys.stderr,
    )
