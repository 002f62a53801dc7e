"""What is said about an evaluation: every model on every task, and which differences are sure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from berger.errors import BergerError
from berger.reports import decoding_figures, regression_figures
from berger.reports.blocks import (
    Block,
    Details,
    Figure,
    Note,
    Number,
    Section,
    Table,
    Text,
    Topic,
    counted,
    enumeration,
    topic,
)
from berger.reports.folders import Part, Run, mapping
from berger.reports.regression_figures import SCORES, looks_with_chance
from berger.reports.scores import (
    EVERYBODY,
    WITHIN,
    bootstrap_over,
    looks_of,
    tested_on,
    within_subject,
)

SEEN = " (seen in pretraining)"
KEYS = ("task", "model", "adaptation", "title", "people", "seed", "fold", "n_seeds")


def evaluation_section(part: Part) -> Section:
    """Report an evaluation, finished or not."""
    run = part.run
    tasks = mapping(run.record, "tasks")
    lead = f"{counted(len(tasks), 'task')}: {enumeration(tasks)}. "
    numbers: list[Number] = []
    try:
        cells = _cells(run)
    except BergerError:
        lead += "This evaluation has not ended; there are no numbers yet."
        return Section("Evaluation", part.name, lead)
    failed = cells[cells["status"] == "failed"]
    lead += f"{len(cells) - len(failed):,} of {counted(len(cells), 'cell')} worked. "
    try:
        comparisons = _comparisons(run)
    except BergerError:
        lead += "No models could be compared."
    else:
        sure = (comparisons["verdict"] != "no difference").sum()
        lead += (
            f"Of {counted(len(comparisons), 'comparison')}, {sure} "
            f"{'is' if sure == 1 else 'are'} a difference that is sure, corrected for their number."
        )
        numbers.append(
            Number(
                f"{sure} of {len(comparisons)}",
                "sure differences",
                "between a model and a baseline or another model, after Holm's correction",
            )
        )
    if len(failed):
        numbers.append(Number(f"{len(failed):,}", "failed cells", "each with its reason below"))
    topics = [topic("All models", lambda: _table(run))]
    for name in tasks:
        topics.append(topic(str(name), lambda name=name: _task(run, name)))  # type: ignore[misc]
    topics.append(topic("Comparisons", lambda: _compared(run)))
    if len(failed):
        topics.append(Topic("Failed cells", [*_failures(failed)]))
    return Section("Evaluation", part.name, lead, numbers, topics)


def _cells(run: Run) -> pd.DataFrame:
    return run.table("cells.parquet", ("task", "title", "seed", "fold", "status", "reason"))


def _comparisons(run: Run) -> pd.DataFrame:
    columns = ("task", "model", "other", "difference", "low", "high", "p", "p_holm", "verdict")
    return run.table("comparisons.parquet", columns)


def _overall(run: Run, task: str | None = None) -> pd.DataFrame:
    """Return the rows over all folds and seeds; who was seen in pretraining is marked."""
    results = run.table("results.parquet", (*KEYS, "seen_in_pretraining"))
    rows = results[results["seed"].isna() & (results["fold"] == 0)]
    if task is not None:
        rows = rows[rows["task"] == task]
    return rows.assign(shown=[_marked(row) for row in rows.to_dict("records")])


def _marked(row: dict[str, Any]) -> str:
    return f"{row['title']}{SEEN if row['seen_in_pretraining'] else ''}"


def _table(run: Run) -> Iterator[Block]:
    overall = _overall(run)
    described = mapping(run.record, "tasks")
    for kind, scores, what in (
        (
            "classification",
            {
                "balanced_accuracy": "balanced accuracy",
                "auroc": "ROC-AUC",
                "auprc": "PR-AUC",
                "kappa": "kappa",
                "f1_weighted": "F1",
                "calibration_error": "calibration error",
            },
            "ROC-AUC and PR-AUC: areas under the receiver operating characteristic and under "
            "precision over recall; kappa: Cohen's; F1: weighted by class; calibration error: how "
            "far confidence lies from accuracy.",
        ),
        ("regression", SCORES, "R²: 1 is perfect, 0 as good as the mean of the true values."),
    ):
        names = [name for name in described if mapping(described, name).get("kind") == kind]
        own = overall[overall["task"].isin(names)]
        if own.empty:
            continue
        rows = [
            (
                str(row["task"]),
                str(row["shown"]),
                tested_on(str(row["people"]), within_subject(mapping(described, row["task"]))),
                f"{int(row['n_subjects']):,}",
                f"{int(row['n_seeds'])}",
                *(_with_interval(row, score) for score in scores),
            )
            for row in own.to_dict("records")
        ]
        numeric = ("people", "seeds", *scores.values())
        yield Table(
            ("task", "model", "tested on", *numeric),
            rows,
            frozenset(numeric),
            "Over all folds, means over seeds, with 95% intervals (bootstrap "
            f"{bootstrap_over(own)}). {what} Click a heading to sort.",
            sortable=True,
        )


def _task(run: Run, task: str) -> Iterator[Block]:
    overall = _overall(run, task)
    if overall.empty:
        yield Note("No model was tested with every fold of a seed.")
        return
    facts = mapping(run.record, "tasks", task)
    title = str(facts.get("title") or task).rstrip(".")
    description = str(facts.get("description") or "")
    yield Text(f"{title}. {description}".strip())
    if within_subject(facts):
        yield Note(WITHIN)
    everybody = overall[overall["people"] == EVERYBODY]
    marked = overall["seen_in_pretraining"].any()
    caption = (
        "Over all folds, means over seeds; lines are 95% intervals (bootstrap "
        f"{bootstrap_over(overall)})."
    )
    if marked:
        caption += " Hollow marks count only people unseen in pretraining."
    if facts.get("kind") == "regression":
        by_title = everybody.set_index("shown")
        models = looks_with_chance(by_title.index)
        images = [regression_figures.forest(by_title, models, s) for s in ("pearson", "rmse")]
        yield Figure(tuple(images), caption)
        return
    chance = 1 / max(len(facts.get("classes") or ()), 1)
    shown = overall.drop(columns="model").rename(columns={"shown": "model"})
    image = decoding_figures.forest(shown, looks_of(everybody["shown"]), chance)
    yield Figure((image,), f"{caption} Dashed is chance ({chance:.2f}).")
    yield from _confusion(run, task, [str(name) for name in facts.get("classes") or ()])


def _confusion(run: Run, task: str, classes: list[str]) -> Iterator[Block]:
    columns = ("task", "title", "truth", "prediction", "seen_in_pretraining")
    predictions = run.table("predictions.parquet", columns)
    predictions = predictions[predictions["task"] == task]
    seen = predictions.groupby("title")["seen_in_pretraining"].transform("any")
    shown = predictions["title"].where(~seen.astype(bool), predictions["title"] + SEEN)
    images = []
    for model, look in looks_of(shown).items():
        part = predictions[shown == model]
        counts = pd.crosstab(part["truth"], part["prediction"])
        counts = counts.reindex(index=classes, columns=classes, fill_value=0)
        images.append(decoding_figures.confusion(counts, model, look))
    if images:
        caption = (
            "Rows are what a window was, columns what it was taken for, over all folds and seeds: "
            "share of the row, and number of windows. A perfect model fills the diagonal."
        )
        yield Details("Confusion matrices", [Figure(tuple(images), caption)])


def _compared(run: Run) -> Iterator[Block]:
    comparisons = _comparisons(run)
    overall = _overall(run)
    described = mapping(run.record, "tasks")
    shown = dict(zip(overall["title"], overall["shown"], strict=True))
    rows = [
        (
            tested_on(str(row["task"]), within_subject(mapping(described, row["task"]))),
            shown.get(row["model"], row["model"]),
            shown.get(row["other"], row["other"]),
            str(row["verdict"]),
            _signed(row["difference"]),
            f"{_signed(row['low'])} to {_signed(row['high'])}"
            if np.isfinite([row["low"], row["high"]]).all()
            else "–",
            _number(row["p"]),
            _number(row["p_holm"]),
        )
        for row in comparisons.to_dict("records")
    ]
    yield Text(
        "Tested on the same people. If two models are alike, it does not matter which of them "
        "answered for a person; p is how often swapping them person by person makes a difference "
        "as large as the one found. Corrected after Holm for the number of comparisons of a task; "
        "“no difference” means that none is shown, not that there is none."
    )
    if "recordings" in set(comparisons.get("interval_over", ())):
        yield Text(
            "Where one person is tested within subject, his recordings take the place of people. "
            "p of few recordings cannot be small: of three, a quarter at best."
        )
    numeric = ("difference", "95% interval", "p", "p, corrected")
    yield Table(
        ("task", "model", "against", "verdict", *numeric),
        rows,
        frozenset(numeric),
        "Difference of balanced accuracies, or of root mean squared errors, where less is better; "
        "means over seeds. Click a heading to sort.",
        sortable=True,
    )


def _failures(failed: pd.DataFrame) -> Iterator[Block]:
    groups = failed.groupby(["task", "title", "reason"], sort=False).size()
    rows = [
        (str(task), str(title), f"{count:,}", str(reason))
        for (task, title, reason), count in groups.items()
    ]
    yield Text("They are tried again when the evaluation is started again.")
    yield Table(("task", "model", "cells", "reason"), rows, frozenset({"cells"}))


def _with_interval(row: dict[str, Any], score: str) -> str:
    value = float(row.get(score, np.nan))
    ends = [float(row.get(f"{score}_{end}", np.nan)) for end in ("low", "high")]
    if not np.isfinite(ends).all():
        return _number(value)
    return f"{_number(value)} ({_number(ends[0])} to {_number(ends[1])})"


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", "−") if np.isfinite(value) else "–"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−") if np.isfinite(value) else "–"
