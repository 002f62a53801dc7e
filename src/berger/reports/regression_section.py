"""What is said about an adaptation run that predicts values, beside the baselines."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from berger.errors import BergerError
from berger.reports import regression_figures as figures
from berger.reports.blocks import (
    Block,
    Details,
    Figure,
    Number,
    Section,
    Table,
    Text,
    counted,
    topic,
)
from berger.reports.folders import Part, Run, mapping
from berger.reports.regression_figures import SCORES, looks_with_chance
from berger.reports.scores import (
    EVERYBODY,
    STRANGERS,
    UNSEEN,
    bootstrap_over,
    caveat,
    in_order,
    marked,
    scores_of,
    tested_on,
)
from berger.reports.training import epoch_blocks, was_trained

MOST_PEOPLE = 200
"""People listed one by one."""


def regression_section(part: Part) -> Section:
    """Report an adaptation run to values, finished or not."""
    run = part.run
    task = mapping(run.record, "task")
    lead = f"{str(task.get('title') or task.get('name')).rstrip('.')}. "
    if known := caveat(task):
        lead += f"{known} "
    numbers: list[Number] = []
    try:
        everybody = scores_of(_results(run), EVERYBODY)
    except BergerError:
        lead += "Its results are not known yet."
    else:
        model = in_order(everybody.index)[0]
        row = everybody.loc[model]
        r, error = (_with_interval(row, score) for score in ("pearson", "rmse"))
        lead += f"The {model} predicts {target_of(run)} with a correlation of {r}."
        numbers = [
            Number(_number(row["pearson"]), "Pearson r", f"{model}; {r}; 0 without a relation"),
            Number(_number(row["rmse"]), "root mean squared error", f"{model}; {error}"),
            Number(
                f"{int(row['n_subjects']):,}",
                "people tested",
                f"{counted(int(row['n_windows']), 'window')}, each tested by a model that saw "
                + ("no number of" if tested_on(task) == STRANGERS else "other numbers of")
                + " that person",
            ),
        ]
    topics = [
        topic("Correlation and error", lambda: _scores(run)),
        topic("Predicted and true values", lambda: _values(run)),
        topic("Person by person", lambda: _people(run)),
    ]
    if was_trained(run):
        topics.append(topic("Training", lambda: epoch_blocks(run)))
    return Section("Decoding", part.name, lead, numbers, topics)


def target_of(run: Run) -> str:
    """Return what is predicted, with its unit."""
    task = mapping(run.record, "task")
    target = mapping(task, "target")
    name = str(target.get("name") or task.get("name") or "the value")
    return f"{name} ({target['unit']})" if target.get("unit") else name


def _results(run: Run) -> pd.DataFrame:
    intervals = [f"{score}_{end}" for score in SCORES for end in ("low", "high")]
    columns = ("model", "people", "fold", "n_subjects", "n_windows", *SCORES, *intervals)
    return run.table("results.parquet", columns)


def _predictions(run: Run) -> pd.DataFrame:
    return run.table("predictions.parquet", ("model", "subject", "truth", "prediction"))


def _scores(run: Run) -> Iterator[Block]:
    results = _results(run)
    everybody, unseen = (scores_of(results, people) for people in (EVERYBODY, UNSEEN))
    if description := mapping(run.record, "task").get("description"):
        yield Text(str(description))
    models = looks_with_chance(everybody.index)
    yield Figure(
        tuple(figures.forest(everybody, models, score) for score in ("pearson", "rmse")),
        "Over all folds together; lines are 95% intervals (bootstrap "
        f"{bootstrap_over(results[results['fold'] == 0])}). Chance is the mean of what was learned "
        "from: its error is what is reached without looking at the "
        "signal, and its correlation has no meaning.",
    )
    rows = [
        (
            model,
            marked(people, mapping(run.record, "task")),
            f"{int(row['n_subjects']):,}",
            f"{int(row['n_windows']):,}",
            *(_with_interval(row, score) for score in SCORES),
        )
        for people, scores in ((EVERYBODY, everybody), (UNSEEN, unseen))
        for model, row in ((name, scores.loc[name]) for name in in_order(scores.index))
    ]
    numeric = ("people", "windows", *SCORES.values())
    yield Table(
        ("model", "tested on", *numeric),
        rows,
        frozenset(numeric),
        f"With 95% intervals. R²: 1 is perfect, 0 as good as the mean of the tested people's "
        f"values. The error is in the unit of {target_of(run)}.",
    )


def _values(run: Run) -> Iterator[Block]:
    predictions = _predictions(run)
    models = looks_with_chance(predictions["model"])
    yield Figure(
        tuple(
            figures.scatter(predictions[predictions["model"] == model], model, look, target_of(run))
            for model, look in models.items()
        ),
        "A mark for each window. On the line, prediction and truth are equal.",
    )


def _people(run: Run) -> Iterator[Block]:
    predictions = _predictions(run)
    error = (predictions["prediction"] - predictions["truth"]) ** 2
    own = np.sqrt(error.groupby([predictions["subject"], predictions["model"]]).mean()).unstack()
    models = in_order(own.columns)
    spread = own[models[0]]
    if len(spread) > 1:
        yield Text(
            f"The root mean squared error of the {models[0]} differs between people: from "
            f"{_number(spread.min())} ({spread.idxmin()}) to {_number(spread.max())} "
            f"({spread.idxmax()})."
        )
    else:
        yield Text("One person was tested, from whom nothing follows for others.")
    caption = "Root mean squared error of each person."
    if len(own) > MOST_PEOPLE:
        caption += f" The first {MOST_PEOPLE} of {len(own):,}."
    rows = [
        (str(name), *(_number(row[model]) for model in models))
        for name, row in own.head(MOST_PEOPLE).iterrows()
    ]
    table = Table(("subject", *models), rows, frozenset(models), caption)
    yield Details(f"Each of {counted(len(own), 'person', 'people')}", [table])


def _with_interval(row: pd.Series, score: str) -> str:
    value, low, high = (float(row[name]) for name in (score, f"{score}_low", f"{score}_high"))
    if not np.isfinite([low, high]).all():
        return _number(value)
    return f"{_number(value)} ({_number(low)} to {_number(high)})"


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−") if np.isfinite(value) else "–"
