"""Scores and comparisons from the predictions of an evaluation's cells."""

from __future__ import annotations

import pandas as pd

from berger.evaluation.plan import Plan
from berger.evaluation.protocol import summarise
from berger.evaluation.statistics import compare_models, intervals

VALUES = {"truth": "true_value", "prediction": "predicted_value"}
"""Columns of predicted values; classes and numbers cannot share one in a file of several tasks."""

COUNTS = ("n_subjects", "n_recordings", "n_windows")


def of_task(predictions: pd.DataFrame, task: str, classes: tuple[str, ...]) -> pd.DataFrame:
    """Return a task's rows of the table of all predictions, with its own columns."""
    own = predictions[predictions["task"] == task]
    if not classes:
        own = own.drop(columns=["truth", "prediction"], errors="ignore")
        own = own.rename(columns={new: old for old, new in VALUES.items()})
    return own.assign(name=own["model"], model=own["title"])


def complete(plan: Plan, own: pd.DataFrame, task: str) -> dict[str, list[int]]:
    """Return the seeds of each model of which no fold is lacking, by title."""
    found: dict[str, list[int]] = {}
    for (title, seed), rows in own.groupby(["title", "seed"], sort=False):
        if rows["fold"].nunique() == len(plan.folds[task][int(seed)]):
            found.setdefault(str(title), []).append(int(seed))
    return found


def score(plan: Plan, predictions: pd.DataFrame) -> pd.DataFrame:
    """Score every row of the table: each fold and seed, and the mean over seeds.

    Parameters
    ----------
    plan : Plan
    predictions : DataFrame
        Of all cells that did not fail.

    Returns
    -------
    DataFrame
        One row per ``task, model, adaptation, title``, ``people`` ("all" or "unseen in
        pretraining"), ``seed`` and ``fold``; ``tested_on`` and ``interval_over`` as in
        `berger.evaluation.protocol.summarise`. Fold 0 is all folds together, and only there where
        none is lacking. Without a seed it is the mean of the scores over seeds, whose number is
        ``n_seeds``, with intervals from drawing people, or recordings, with all their seeds.
        Whether pretraining has seen somebody (``seen_in_pretraining``), and of whose recordings the
        weights were made before they were adapted (``pretraining_people``): nobody's, known or
        unknown people's. ``site`` is what a fold tests where sites are left out.
    """
    tables = []
    draw = plan.config.seeds[0]
    for task in dict.fromkeys(predictions["task"]):
        classes = plan.tasks[task].classes
        own = of_task(predictions, task, classes)
        seeds = complete(plan, own, task)
        singles = []
        for (title, seed), part in own.groupby(["title", "seed"], sort=False):
            rows = summarise(part.drop(columns="seed"), classes, draw)
            if seed not in seeds.get(title, ()):
                rows = rows[rows["fold"] > 0]
            singles.append(rows.assign(seed=seed, n_seeds=1))
        rows = pd.concat(singles, ignore_index=True)
        whole = rows[rows["fold"] == 0]
        means = []
        for (title, people), group in whole.groupby(["model", "people"], sort=False):
            part = own[(own["title"] == title) & own["seed"].isin(seeds[title])]
            if people != "all":
                part = part[~part["seen_in_pretraining"].astype(bool)]
            words = ["model", "people", "seed", "fold", "n_seeds", "tested_on", "interval_over"]
            numbers = group.drop(columns=words)
            mean = numbers.mean(skipna=False).to_dict()
            mean |= {
                f"{name}_{end}": value
                for name, interval in intervals(part, classes, draw).items()
                for end, value in zip(("low", "high"), interval, strict=True)
            }
            means.append(
                mean
                | {"model": title, "people": people, "fold": 0, "n_seeds": len(group)}
                | {name: int(group[name].max()) for name in COUNTS}
                | {name: group[name].iloc[0] for name in ("tested_on", "interval_over")}
            )
        rows = pd.concat([pd.DataFrame(means), rows], ignore_index=True)
        names = own.drop_duplicates("title").set_index("title")
        seen = own.groupby("title")["seen_in_pretraining"].any()
        rows = rows.rename(columns={"model": "title"})
        sites = dict(enumerate(plan.sites.get(task, ()), start=1))
        tables.append(
            rows.assign(
                task=task,
                site=rows["fold"].map(sites).astype(object),
                model=rows["title"].map(names["name"]),
                adaptation=rows["title"].map(names["adaptation"]),
                seen_in_pretraining=rows["title"].map(seen),
                pretraining_people=rows["title"].map(names["pretraining_people"]),
            )
        )
    table = pd.concat(tables, ignore_index=True)
    table["seed"] = table["seed"].astype("Int64")
    first = ["task", "model", "adaptation", "title", "people", "seed", "fold", "n_seeds"]
    return table[first + [name for name in table if name not in first]]


def compare(plan: Plan, predictions: pd.DataFrame) -> pd.DataFrame:
    """Compare each model with each baseline and each other model, task by task.

    Returns
    -------
    DataFrame
        ``task``, ``tested_on`` and what `berger.evaluation.statistics.compare_models`
        returns, whose correction is for the comparisons of one task. Models that lack a fold of a
        seed are not compared.
    """
    tables = []
    for task in dict.fromkeys(predictions["task"]):
        own = of_task(predictions, task, plan.tasks[task].classes)
        seeds = complete(plan, own, task)
        whole = [title for title, found in seeds.items() if len(found) == len(plan.config.seeds)]
        own = own[own["title"].isin(whole)]
        baselines = {*own.loc[own["adaptation"] == "", "title"]}
        models = [title for title in whole if title not in baselines]
        pairs = [
            (model, other)
            for place, model in enumerate(models)
            for other in (*models[place + 1 :], *(title for title in whole if title in baselines))
        ]
        if pairs:
            classes = plan.tasks[task].classes
            made = compare_models(own, classes, plan.config.seeds[0], pairs=pairs)
            tables.append(made.assign(task=task, tested_on=plan.tasks[task].tested_on))
    columns = ["task", "model", "other", "difference", "low", "high", "p", "p_holm", "verdict"]
    columns += ["tested_on", "interval_over"]
    return pd.concat(tables)[columns] if tables else pd.DataFrame(columns=columns)
