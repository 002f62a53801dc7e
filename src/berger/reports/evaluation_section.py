"""What is said about an evaluation: every model on every task, and which differences are sure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
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
from berger.reports.decoding_section import confusions
from berger.reports.folders import Part, Run, mapping
from berger.reports.learning import learning_blocks
from berger.reports.regression_figures import SCORES, looks_with_chance
from berger.reports.scores import (
    EVERYBODY,
    KNOWN_PEOPLE,
    bootstrap_over,
    caveat,
    looks_of,
    marked,
    number,
)
from berger.reports.sleep import sleep_blocks
from berger.reports.style import Look

SEEN = " (seen in pretraining)"
UNKNOWN = " (pretrained on unknown people)"
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
            f"Of {counted(len(comparisons), 'comparison')}, {sure or 'none'} "
            f"{'show' if sure > 1 else 'shows'} a difference, corrected for their number."
        )
        numbers.append(
            Number(
                f"{sure} of {len(comparisons)}",
                "comparisons show a difference",
                "of a model from a baseline or another model, after Holm's correction",
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
    unknown = row.get("pretraining_people") == "unknown"
    return f"{row['title']}{SEEN if row['seen_in_pretraining'] else ''}{UNKNOWN * unknown}"


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
                str(row["shown"]),
                str(row["task"]),
                marked(str(row["people"]), mapping(described, row["task"])),
                f"{int(row['n_subjects']):,}",
                f"{int(row['n_seeds'])}",
                *(_with_interval(row, score) for score in scores),
            )
            for row in own.to_dict("records")
        ]
        numeric = ("people", "seeds", *scores.values())
        table = Table(
            ("model", "task", "tested on", *numeric),
            rows,
            frozenset(numeric),
            "Over all folds, means over seeds, with 95% intervals (bootstrap "
            f"{bootstrap_over(own)}). {what} Click a heading to sort.",
            sortable=True,
        )
        yield _without_sameness(table, "task", "tested on")
        yield from _published(described, names, scores)


def _published(
    described: dict[str, Any], tasks: Sequence[str], scores: Mapping[str, str]
) -> Iterator[Block]:
    """Show what tasks say that others have reported, a row for each model, split and source."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for task in tasks:
        for result in mapping(described, task).get("published") or ():
            key = (task, *(str(result[name]) for name in ("model", "split", "source")))
            spread = "" if result["spread"] is None else f" ± {result['spread']:g}"
            value = f"{result['value']:g}{spread}".replace("-", "−")
            rows.setdefault(key, {})[result["metric"]] = value
    reported = [score for score in scores if any(score in values for values in rows.values())]
    if rows:
        numeric = [scores[score] for score in reported]
        table = Table(
            ("published, not measured here", "task", *numeric, "split", "source"),
            [
                (model, task, *(values.get(score, "–") for score in reported), split, source)
                for (task, model, split, source), values in rows.items()
            ],
            frozenset(numeric),
            "Published by others and not measured here: with other splits, programs and perhaps "
            "people, so that a distance from a number above says nothing about models. As the "
            "task's file gives them; they are in no comparison.",
        )
        yield _without_sameness(table, "task")


def _without_sameness(table: Table, *columns: str) -> Table:
    """Leave columns out that say the same in every row, unless no strangers were tested."""
    kept = [
        place
        for place, column in enumerate(table.columns)
        if column not in columns
        or len({row[place] for row in table.rows}) > 1
        or any(row[place].endswith(tuple(KNOWN_PEOPLE)) for row in table.rows)
    ]
    rows = [tuple(row[place] for place in kept) for row in table.rows]
    return replace(table, columns=[table.columns[place] for place in kept], rows=rows)


def _task(run: Run, task: str) -> Iterator[Block]:
    overall = _overall(run, task)
    if overall.empty:
        yield Note("No model was tested with every fold of a seed.")
        return
    facts = mapping(run.record, "tasks", task)
    title = str(facts.get("title") or task).rstrip(".")
    description = str(facts.get("description") or "")
    yield Text(f"{title}. {description}".strip())
    if known := caveat(facts):
        yield Note(known)
    if shots := facts.get("shots"):
        kind = "in all" if facts.get("kind") == "regression" else "of each class"
        yield Note(
            f"Few-shot: everything was fitted to {counted(int(shots), 'window')} {kind} of the "
            "training part of a fold, and chosen by as many of the validation part."
        )
    everybody = overall[overall["people"] == EVERYBODY]
    marked = overall["seen_in_pretraining"].any()
    caption = (
        "Over all folds, means over seeds; lines are 95% intervals (bootstrap "
        f"{bootstrap_over(overall)})."
    )
    if facts.get("kind") == "regression":
        caption += " Chance is the mean of the people learned from: its correlation has no meaning."
    if marked:
        caption += " Hollow marks count only people unseen in pretraining."
    if facts.get("kind") == "regression":
        by_title = everybody.set_index("shown")
        models = looks_with_chance(by_title.index)
        images = [regression_figures.forest(by_title, models, s) for s in ("pearson", "rmse")]
        yield Figure(tuple(images), caption)
        yield from _sites(run, task)
        yield from _learning(run, task, overall)
        return
    chance = 1 / max(len(facts.get("classes") or ()), 1)
    shown = overall.drop(columns="model").rename(columns={"shown": "model"})
    models = looks_of(everybody["shown"])
    image = decoding_figures.forest(shown, models, chance)
    yield Figure((image,), f"{caption} Dashed is chance ({chance:.2f}).")
    yield from _sites(run, task)
    if facts.get("sleep_stages") and models:
        yield from topic("", lambda: _sleep(run, task, models, overall)).blocks
    if models:
        classes = [str(name) for name in facts.get("classes") or ()]
        confusion = topic("", lambda: [confusions(_predictions(run, task), classes)])
        yield Details("Confusion matrices", confusion.blocks)
    yield from _learning(run, task, overall)


def _sites(run: Run, task: str) -> Iterator[Block]:
    """Yield the scores at each site that was left out, where sites were."""
    results = run.table("results.parquet", (*KEYS, "seen_in_pretraining"))
    rows = results[(results["task"] == task) & (results["people"] == EVERYBODY)]
    if "site" not in rows or rows["site"].isna().all():
        return
    values = mapping(run.record, "tasks", task).get("kind") == "regression"
    rows = rows.dropna(subset="site")
    rows = rows.assign(shown=[_marked(row) for row in rows.to_dict("records")])
    score = "rmse" if values else "balanced_accuracy"
    means = rows.pivot_table(score, "shown", "site", "mean", sort=False)
    people = rows.groupby("site")["n_subjects"].max()
    heads = [f"{site} ({counted(int(people[site]), 'person', 'people')})" for site in means]
    yield Table(
        ("model", *heads),
        [
            (str(model), *map(number, row))
            for model, row in zip(means.index, means.to_numpy().tolist(), strict=True)
        ],
        frozenset(heads),
        f"{'RMSE' if values else 'Balanced accuracy'} at each site, of models that learned at the "
        "others; means over seeds.",
    )


def _learning(run: Run, task: str, overall: pd.DataFrame) -> Iterator[Block]:
    shown = dict(zip(overall["title"], overall["shown"], strict=True))
    if blocks := topic("", lambda: learning_blocks(run, task, shown)).blocks:
        yield Details("Learning curves", blocks)


def _predictions(run: Run, task: str) -> pd.DataFrame:
    """Return a task's predictions, with the title in the place of the model's name, as shown."""
    columns = ("task", "title", "seed", "fold", "truth", "prediction", "seen_in_pretraining")
    predictions = run.table("predictions.parquet", columns)
    predictions = predictions[predictions["task"] == task]
    seen = predictions.groupby("title")["seen_in_pretraining"].transform("any").astype(bool)
    rows = predictions.assign(seen_in_pretraining=seen).to_dict("records")
    return predictions.assign(model=[_marked(row) for row in rows])


def _sleep(run: Run, task: str, models: dict[str, Look], overall: pd.DataFrame) -> Iterator[Block]:
    """Show hypnograms, of the model with the highest κ first."""
    facts = mapping(run.record, "tasks", task)
    kappa = overall[overall["people"] == EVERYBODY].set_index("shown")["kappa"]
    order = sorted(models, key=lambda model: -np.nan_to_num(float(kappa[model]), nan=-2.0))
    window = float(facts["window_seconds"])
    yield from sleep_blocks(
        _predictions(run, task),
        {model: models[model] for model in order},
        [str(stage) for stage in facts["sleep_stages"]],
        window,
        int(run.record.get("seed", 0)),
    )


def _compared(run: Run) -> Iterator[Block]:
    comparisons = _comparisons(run)
    overall = _overall(run)
    described = mapping(run.record, "tasks")
    errors = {name for name in described if mapping(described, name).get("kind") == "regression"}
    titles = zip(overall["task"], overall["title"], strict=True)
    shown = dict(zip(titles, overall["shown"], strict=True))
    rows = [
        (
            *(shown.get((row["task"], row[name]), row[name]) for name in ("model", "other")),
            marked(str(row["task"]), mapping(described, row["task"])),
            str(row["verdict"]),
            _signed(row["difference"], row["task"] in errors),
            f"{_signed(row['low'], row['task'] in errors)} to "
            f"{_signed(row['high'], row['task'] in errors)}"
            if np.isfinite([row["low"], row["high"]]).all()
            else "–",
            number(row["p"]),
            number(row["p_holm"]),
        )
        for row in comparisons.to_dict("records")
    ]
    yield Text(
        "Tested on the same people. If two models are alike, it does not matter which of them "
        "answered for a person; p is how often swapping them person by person makes a difference "
        "as large as the one found. Corrected after Holm for the number of comparisons of a task, "
        "it must be below 0.05; “no difference” means that none is shown, not that there is none. "
        "Intervals are each of one comparison, not corrected."
    )
    overs = comparisons.get("interval_over", pd.Series("people", comparisons.index))
    if "recordings" in set(overs):
        yield Text(
            "Where one person is tested who was also learned from, recordings take the place of "
            "people. "
            "p of few recordings cannot be small: of three, a quarter at best."
        )
    for task, own in comparisons.groupby("task", sort=False):
        one = set(overs[own.index]) == {"recordings"}
        over = ("recording", "recordings") if one else ("person", "people")
        count = "n_recordings" if one else "n_subjects"
        n_swapped = int(overall.loc[overall["task"] == task, count].max())
        if len(own) * 2 ** (1 - n_swapped) >= 0.05:  # all swapped and none are as large as it is
            yield Note(
                f"{task}: with {counted(n_swapped, *over)} and "
                f"{counted(len(own), 'comparison')} none could show a difference, however large."
            )
    numeric = ("difference", "95% interval", "p", "p, corrected")
    table = Table(
        ("model", "against", "task", "verdict", *numeric),
        rows,
        frozenset(numeric),
        "Difference of balanced accuracies, or of root mean squared errors, where less is better; "
        "means over seeds. Click a heading to sort.",
        sortable=True,
    )
    yield _without_sameness(table, "task")


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
    write = _error if score == "rmse" else number
    if not np.isfinite(ends).all():
        return write(value)
    return f"{write(value)}\n({write(ends[0])} to {write(ends[1])})"


def _error(value: float) -> str:
    """Write a root mean squared error, which may have any unit."""
    return f"{value:.3g}" if np.isfinite(value) else "–"


def _signed(value: float, is_error: bool) -> str:
    """Write a difference, of scores or of root mean squared errors."""
    text = f"{value:+.3g}" if is_error else f"{value:+.3f}"
    return text.replace("-", "−") if np.isfinite(value) else "–"
