"""What the tables of an adaptation run say: scores, comparisons, each person's accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from berger.errors import BergerError
from berger.reports.blocks import enumeration
from berger.reports.decoding_figures import VALUES
from berger.reports.folders import Run, mapping
from berger.reports.style import Look, looks

CHANCE = "chance"
BASELINES = (
    "band power + logistic regression",
    "Riemannian tangent space + logistic regression",
    *(f"{features} + ridge regression" for features in ("band power", "Riemannian tangent space")),
    "EEGNet",
    "ShallowConvNet",
    "same network, random weights",
    CHANCE,
)
EVERYBODY, UNSEEN = "all", "unseen in pretraining"
STRANGERS = "strangers"
KNOWN_PEOPLE = {
    "within subject": "Within subject: each person was tested by a model that had learned from "
    "other recordings or trials of the same person, which says nothing of people whom a model does "
    "not know.",
    "people also learned from": "The people tested were also learned from, by other recordings or "
    "trials, which says nothing of people whom a model does not know.",
}
"""What a result says and what not, where no strangers were tested."""


def number(value: float) -> str:
    """Write a score; a dash where there is none."""
    return f"{value:.3f}".replace("-", "−") if np.isfinite(value) else "–"


def read_results(run: Run) -> pd.DataFrame:
    """Read the table of results; raises BergerError if that is not possible."""
    columns = ("model", "people", "fold", "n_subjects", "n_windows", *VALUES, "auroc")
    return run.table("results.parquet", columns)


def read_predictions(run: Run) -> pd.DataFrame:
    """Read the table of predictions; raises BergerError if that is not possible."""
    return run.table("predictions.parquet", ("model", "fold", "subject", "truth", "prediction"))


def scores_of(results: pd.DataFrame, people: str) -> pd.DataFrame:
    """Return the rows over all folds together for "all" or "unseen" people, by model."""
    rows = results[(results["fold"] == 0) & (results["people"] == people)]
    return rows.drop_duplicates("model").set_index("model")


def in_order(models: Iterable[str]) -> list[str]:
    """Return each model once: the adapted ones first, then the baselines, chance last."""
    rank = {name: place for place, name in enumerate(BASELINES, 1)}
    return sorted(dict.fromkeys(models), key=lambda model: rank.get(model, 0))


def looks_of(models: Iterable[str]) -> dict[str, Look]:
    """Return the look of every model that is drawn; chance is a line."""
    return looks(model for model in in_order(models) if model != CHANCE)


def tested_on(task: Mapping[str, Any]) -> str:
    """Return whom a task, as a record describes it, tests: strangers, or whom of `KNOWN_PEOPLE`."""
    within = mapping(task, "split").get("by") == "recording within subject"
    # earlier runs say it by their split alone
    return str(task.get("tested_on") or ("within subject" if within else STRANGERS))


def marked(name: str, task: Mapping[str, Any]) -> str:
    """Return what a table says of who was tested, or of a task."""
    return name if tested_on(task) == STRANGERS else f"{name}, {tested_on(task)}"


def caveat(task: Mapping[str, Any]) -> str:
    """Return what the results of a task do not say, where no strangers were tested."""
    return KNOWN_PEOPLE.get(tested_on(task), "")


def bootstrap_over(results: pd.DataFrame) -> str:
    """Return over what the intervals of results, or of comparisons, are."""
    if "interval_over" in results and (results["interval_over"] == "recordings").any():
        several = results["interval_over"].nunique() > 1
        return f"over {'people, or over ' if several else ''}the recordings of the one person"
    return "over people"


def class_names(run: Run, found: Iterable[str] = ()) -> list[str]:
    """Return the task's classes in its order, then those found that it does not name."""
    classes = [str(name) for name in mapping(run.record, "task").get("classes") or ()]
    return [*classes, *sorted(set(found) - set(classes))]


def chance_level(run: Run) -> float:
    """Return the balanced accuracy of guessing: 1 / number of classes."""
    classes = class_names(run)
    if not classes:
        try:
            classes = class_names(run, read_predictions(run)["truth"])
        except BergerError:
            return 0.5
    return 1 / max(len(classes), 1)


def comparison(results: pd.DataFrame, chance: float) -> str:
    """Say where the adapted models stand beside the baselines and chance, by their intervals.

    Parameters
    ----------
    results : DataFrame
        Content of ``results.parquet``.
    chance : float
        Balanced accuracy of guessing.
    """
    overall = scores_of(results, EVERYBODY)
    sentences = []
    for model in in_order(overall.index):
        if model in BASELINES:
            continue
        value, low, high = overall.loc[model, list(VALUES)].astype(float)
        reaches = f"The {model} reaches a balanced accuracy of {value:.2f}"
        if not np.isfinite([low, high]).all():
            sentences.append(f"{reaches}, without an interval.")
            continue
        level = (
            "above chance"
            if low > chance
            else "below chance"
            if high < chance
            else "no difference from chance"
        )
        sentences.append(f"{reaches} (95% interval {low:.2f}–{high:.2f}), {level} ({chance:.2f}).")
        sentences += _relations(overall, model)
    return " ".join(sentences)


def _relations(overall: pd.DataFrame, model: str) -> list[str]:
    """Say how a model stands to those behind it but chance, the same relations together."""
    groups: dict[str, list[str]] = {"better": [], "worse": [], "alike": []}
    ordered = in_order(overall.index)
    for other in ordered[ordered.index(model) + 1 :]:
        value, low, high = overall.loc[other, list(VALUES)].astype(float)
        stands = relation(overall, model, other)
        if other != CHANCE and stands:
            groups[stands].append(f"{other} ({value:.2f}, {low:.2f}–{high:.2f})")
    sentences = {
        "better": "It is better than {}, without overlap of the intervals.",
        "worse": "It is worse than {}, without overlap of the intervals.",
        "alike": "No difference is shown from {}: the intervals overlap.",
    }
    return [
        sentences[stands].format(enumeration(names)) for stands, names in groups.items() if names
    ]


def relation(overall: pd.DataFrame, model: str, other: str) -> str:
    """Return how a model's interval lies to another's: "better", "worse" or "alike"; or ""."""
    (_, low, high), (_, other_low, other_high) = (
        overall.loc[name, list(VALUES)].astype(float) for name in (model, other)
    )
    if not np.isfinite([low, high, other_low, other_high]).all():
        return ""
    return "better" if low > other_high else "worse" if high < other_low else "alike"


def own_accuracies(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return each person's balanced accuracy: ``model, subject, seen, accuracy, n_classes``.

    It is the share classified correctly, averaged over the classes that the person has windows of.
    Chance is left out.
    """
    table = predictions[predictions["model"] != CHANCE]
    table = table.assign(right=table["truth"] == table["prediction"])
    if "seen_in_pretraining" not in table:
        table["seen_in_pretraining"] = False
    recall = table.groupby(["model", "subject", "truth"], sort=False)["right"].mean()
    by_person = recall.groupby(["model", "subject"], sort=False)
    seen = table.groupby(["model", "subject"], sort=False)["seen_in_pretraining"].any()
    columns = {"accuracy": by_person.mean(), "n_classes": by_person.size(), "seen": seen}
    return pd.DataFrame(columns).reset_index()
