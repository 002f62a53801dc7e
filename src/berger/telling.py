"""What commands print of corpora, and what they say on stderr of things left out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from berger.configuration import shipped_configs
from berger.errors import BergerError
from berger.training import LONGEST_WAIT

if TYPE_CHECKING:
    import pandas as pd

    from berger.corpus import Corpus, PreparationSummary
    from berger.tasks import FolderCheck, TaskConfig
    from berger.tasks.facts import WindowCount
    from berger.tasks.splits import AnySplit, TrialSplit

MOST_FAILURES = 10
SHORT_WAITING = 10.0
"""Seconds for which a training may wait for data at its start."""


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


def describe_models() -> str:
    """Return a line for each model that can be made by name."""
    from berger.models import MODELS, count_parameters

    return "\n".join(
        f"{name:<20} {count_parameters(config):>12,} parameters" for name, config in MODELS.items()
    )


def describe_configs() -> str:
    """Return a line for each configuration that is shipped with Berger."""
    rows = []
    for name, path in shipped_configs().items():
        lines = path.read_text(encoding="utf-8").splitlines()
        header = " ".join(line[1:].strip() for line in takewhile(lambda x: x[:2] == "# ", lines))
        sentence = header.split(". ")[0].removesuffix(".")
        rows.append(f"{name:<18} {path.parent.name:<12} {sentence}")
    return "\n".join(rows)


def describe_tasks() -> str:
    """Return a line for each shipped task, and whether its data is below ``$BERGER_DATA``."""
    from berger.tasks import catalogue, load_task

    root = os.environ.get("BERGER_DATA")
    rows = [("task", "question", "", "species", "people", "access", "data here")]
    for name in catalogue():
        task = load_task(name)
        people = str(task.facts.subjects or "?")
        here = "yes" if task.has_data else "no"
        rows.append(
            (name, task.title, _question(task), task.species, people, task.facts.access, here)
        )
    below = f"$BERGER_DATA, {root}" if root else "$BERGER_DATA, which is not set"
    return f"{_aligned(rows)}\n\nData here: below {below}. `berger tasks NAME` tells all of one."


def describe_task(task: TaskConfig) -> str:
    """Return all facts of a task, with what others have published."""
    facts = task.facts
    lines = [
        ("task", task.name),
        ("title", task.title),
        ("description", task.description),
        ("question", _question(task)),
        ("classes", ", ".join(task.classes)),
        ("target", str(task.target or "")),
        ("hypnogram", ", ".join(task.hypnogram)),
        ("window", _window(task)),
        ("metrics", ", ".join(facts.metrics)),
        ("species", task.species),
        ("subjects", str(facts.subjects or "")),
        ("recordings", str(facts.recordings or "")),
        ("unusable", str(facts.unusable or "")),
        ("rates", " or ".join(f"{rate:g} Hz" for rate in facts.sfreq)),
        ("channels", ", ".join(facts.ch_names)),
        ("read", _montage(task)),
        ("labels", ", ".join(f"{name} {n}" for name, n in facts.labels.items())),
        *(("windows", _counted(count)) for count in facts.windows),
        *(("split", f"{name}: {describe_split(split)}") for name, split in task.splits.items()),
        ("split", "" if task.splits else describe_split(task.split)),
        *(
            ("variant", f"{name}: {' '.join(str(fields.get('about', '')).split())}")
            for name, fields in task.variants.items()
        ),
        ("licence", task.licence),
        ("paper", task.paper),
        ("source", task.source),
        ("version", facts.version),
        ("access", _access(task)),
    ]
    for result in task.published:
        spread = "" if result.spread is None else f" ± {result.spread:g}"
        told = f"{result.model}: {result.metric} {result.value:g}{spread} (not measured by Berger; "
        lines.append(("published", f"{told}{result.split}; {result.source})"))
    return "\n".join(f"{name:<12}{fact}" for name, fact in lines if fact)


def describe_split(split: AnySplit) -> str:
    """Return in words who is tested by what was learned from whom."""
    if split.by == "k-fold":
        return "everybody is tested once, in groups drawn by the seed"
    if split.by == "subject":
        return "everybody is tested once, alone"
    if split.by == "site":
        return "every site is tested once"
    if split.by == "recording within subject":
        return "each person alone: every recording is tested once"
    if split.by == "fixed" and split.table is not None:
        return f"lists of people, {split.table} (SHA-256 {str(split.sha256)[:16]})"
    if split.by == "fixed":
        n_chosen = len(split.validation)
        chosen = f", {n_chosen} to choose by" if n_chosen else ", some of them to choose by"
        return f"{len(split.train)} people to learn from{chosen}, {len(split.test)} tested"
    if split.by == "trial":
        return f"trials of every recording by number: {_trials(split)}{_PEOPLE[split.people]}"
    names = {
        part: ", ".join(name for name, its in split.parts.items() if its == part)
        for part in split.parts.values()
    }
    told = f"by names of folders or files: {names['train']} to learn from"
    if "validation" in names:
        told += f", {names['validation']} to choose by"
    told += f", {names['test']} tested"
    if split.last is not None:
        of = "each list of train" if "(?P<list>" in split.pattern else "train"
        told += f"; the last {split.last:.0%} of the people of {of} to choose by"
    elif "validation" not in names:
        told += "; some of train to choose by"
    return f"{told}{_PEOPLE[split.people]}"


_PEOPLE = {
    "separate": "",
    "test separate": "; some people are both learned from and chosen by",
    "shared": "; people tested were also learned from",
    "each alone": "; each person alone",
}


def _trials(split: TrialSplit) -> str:
    if split.groups:
        return (
            f"{' | '.join(', '.join(map(str, group)) for group in split.groups)}, each tested once"
        )
    train, validation, test = (
        ", ".join(map(str, part)) for part in (split.train, split.validation, split.test)
    )
    chosen = f", {validation} to choose by" if validation else ", some of them to choose by"
    return f"{train} to learn from{chosen}, {test} tested"


def describe_check(check: FolderCheck) -> str:
    """Return what was found in a folder, beside what was expected."""
    told = {True: "yes", False: "NO", None: ""}
    rows = [("fact", "expected", "found", "ok")]
    rows += [(row.fact, row.expected, row.found, told[row.ok]) for row in check.table.itertuples()]
    lines = [f"{check.folder}, by headers and labels:", _aligned(rows)]
    for row in check.left_out.itertuples():
        of = f"{row.n_recordings} recording{'s' * (row.n_recordings > 1)}"
        windows = f"{row.n_windows} window{'s' * (row.n_windows > 1)} in {of}"
        lines.append(f"left out: {windows if row.n_windows else of}: {row.reason}")
    return "\n".join(lines)


def show_task(name: str, data: Path | None, *, quiet: bool) -> None:
    """Print the facts of a task and, where there is a folder of it, what that holds.

    Raises
    ------
    BergerError
        If the folder is not as the facts say.
    """
    from berger.tasks import catalogue, check_folder, load_task

    task = load_task(name, data)
    print(describe_task(task))
    if data is None and (task.name not in catalogue() or not task.has_data):
        return
    check = check_folder(task, progress=not quiet)
    print(f"\n{describe_check(check)}")
    tell_failures(check.faults["reason"].tolist(), "cannot be used: ")
    if check.difference:
        raise BergerError(check.difference)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _question(task: TaskConfig) -> str:
    asked = f"{len(task.classes)} classes" if task.classes else "a number"
    return f"{asked}, windows of {task.window_seconds:g} s"


def _window(task: TaskConfig) -> str:
    if task.window is not None:
        return f"from {task.window.tmin:g} to {task.window.tmax:g} s of each event"
    step = task.step_seconds or task.window_seconds
    each = "" if step == task.window_seconds else f", one every {step:g} s"
    through = ", through the whole recording" if task.background else ""
    return f"{task.window_seconds:g} s{each}{through}"


def _montage(task: TaskConfig) -> str:
    """Return which channels the task takes, where it does not leave that to the model."""
    if task.bipolar is not None:
        pairs = task.bipolar
        told = pairs if isinstance(pairs, str) else ", ".join(f"{a}-{b}" for a, b in pairs)
        return f"bipolar: {told}"
    return f"{len(task.channels)} of these" if task.channels else ""


def _counted(count: WindowCount) -> str:
    of = ", ".join(name for name in (count.split, count.version, count.source) if name)
    return f"{', '.join(f'{part} {n}' for part, n in count.counts.items())}{of and f' ({of})'}"


def _access(task: TaskConfig) -> str:
    facts = task.facts
    where = {
        "open": f"open, {facts.url}" if facts.url else "open",
        "agreement": f"by agreement; apply: {facts.apply}; {facts.url}",
        "private": f"private; ask {facts.apply}",
    }
    return where[facts.access]


def tell_parts(tasks: Mapping[str, Path | None]) -> None:
    """Say on stderr which folders have other numbers of recordings than their tasks' facts.

    Parameters
    ----------
    tasks : mapping of str to Path or None
        Task → folder, as for `berger.tasks.load_task`.
    """
    from berger.tasks import load_task, part_of_it

    for name, data in tasks.items():
        with suppress(BergerError):  # whoever needs the folder says so
            if told := part_of_it(load_task(name, data)):
                print(f"berger: {told}", file=sys.stderr)


def tell_failures(reasons: Sequence[str], how: str = "left out ") -> None:
    """Say on stderr which recordings were left out and why; of very many, the first."""
    for reason in reasons[:MOST_FAILURES]:
        print(f"berger: {how}{reason}", file=sys.stderr)
    if len(reasons) > MOST_FAILURES:
        print(f"berger: and {len(reasons) - MOST_FAILURES} more, see the table", file=sys.stderr)


def tell_training(out: Path, workers: int, say: Callable[[str], None]) -> None:
    """Say how long a pretraining took and waited, and on stderr what to do if it waited long.

    Parameters
    ----------
    out : Path
        The run's folder, of all experts if there are several.
    workers : int
        Processes that read windows.
    say : callable
        Gets what is no warning.
    """
    paths = sorted(out.glob("expert-*/run.json")) or [out / "run.json"]
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    steps, skipped = (sum(one[key] for one in records) for key in ("steps", "skipped_steps"))
    seconds = sum(one["training_seconds"] for one in records)
    waited = sum(one["data_wait"] * one["training_seconds"] for one in records)
    share = waited / seconds if seconds else 0.0
    say(
        f"{steps:,} steps in {seconds:,.0f} s; waited for data {100 * share:.1f} % of the time"
        + (f"; {skipped:,} steps skipped, log.jsonl tells why." if skipped else ".")
    )
    if share > LONGEST_WAIT and waited > SHORT_WAITING:
        print(
            f"berger: training waited for data {100 * share:.1f} % of the time; give more "
            f"--workers than {workers}, as long as there are cores for them, or put the corpus on "
            "a faster disk.",
            file=sys.stderr,
        )


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
