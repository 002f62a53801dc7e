"""What is said about an adaptation run: how well classes are decoded, beside the baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

from berger.errors import BergerError
from berger.reports import decoding_figures as figures
from berger.reports.blocks import (
    Block,
    Details,
    Figure,
    Note,
    Number,
    Section,
    Table,
    Text,
    counted,
    enumeration,
    topic,
)
from berger.reports.decoding_figures import VALUES
from berger.reports.folders import Part, Run, mapping, tested_people
from berger.reports.regression_section import regression_section
from berger.reports.scores import (
    CHANCE,
    EVERYBODY,
    STRANGERS,
    UNSEEN,
    bootstrap_over,
    caveat,
    chance_level,
    class_names,
    comparison,
    in_order,
    looks_of,
    marked,
    number,
    own_accuracies,
    read_predictions,
    read_results,
    relation,
    scores_of,
    tested_on,
)
from berger.reports.training import epoch_blocks, was_trained

MOST_PEOPLE = 200
"""People listed one by one."""


def decoding_section(part: Part) -> Section:
    """Report an adaptation run, finished or not."""
    run = part.run
    task = mapping(run.record, "task")
    if task.get("kind") == "regression":
        return regression_section(part)
    lead = "" if run.record else "This run has not ended; what it has left so far is shown. "
    if title := task.get("title") or task.get("name"):
        lead += f"{str(title).rstrip('.')}. "
    if known := caveat(task):
        lead += f"{known} "
    numbers: list[Number] = []
    try:
        results = read_results(run)
    except BergerError:
        lead += "Its results are not known yet."
    else:
        lead += comparison(results, chance_level(run))
        numbers = _numbers(results, chance_level(run), tested_on(task))
    if mapping(run.record, "checkpoint").get("pretraining_people") == "unknown":
        lead += " The checkpoint does not say whose recordings it was pretrained on."
    topics = [
        topic("Balanced accuracy", lambda: _accuracy(run)),
        topic("Person by person", lambda: _people(run)),
        topic("Fold by fold", lambda: _folds(run)),
        topic("Confusion matrices", lambda: _confusion(run)),
    ]
    if was_trained(run):
        topics.append(topic("Training", lambda: epoch_blocks(run)))
    return Section("Decoding", part.name, lead, numbers, topics)


def _numbers(results: pd.DataFrame, chance: float, whom: str) -> list[Number]:
    overall = scores_of(results, EVERYBODY)
    if overall.empty:
        return []
    model, *others = in_order(overall.index)
    row = overall.loc[model]
    value, low, high = row[list(VALUES)].astype(float)
    interval = f"95% interval {low:.2f}–{high:.2f}; " if np.isfinite([low, high]).all() else ""
    numbers = [
        Number(f"{value:.2f}", "balanced accuracy", f"{model}; {interval}chance {chance:.2f}")
    ]
    if others and others[0] != CHANCE:
        stands = {
            "better": f"; worse than the {model}",
            "worse": f"; better than the {model}",
            "alike": f"; no difference from the {model}",
            "": "",
        }[relation(overall, model, others[0])]
        other = float(overall.loc[others[0], "balanced_accuracy"])
        numbers.append(Number(f"{other:.2f}", others[0], f"balanced accuracy{stands}"))
    if np.isfinite(row["auroc"]):
        meaning = f"{model}; how often a window of a class scores above one of another; chance 0.50"
        numbers.append(Number(f"{row['auroc']:.2f}", "area under the ROC curve", meaning))
    people, windows = int(row["n_subjects"]), int(row["n_windows"])
    whose = {
        STRANGERS: "without labels of that person",
        "within subject": "of other recordings or trials of that person",
    }.get(whom, "that had learned from others of that person too")
    meaning = f"{counted(windows, 'window')}, each tested by a model {whose}"
    return [*numbers, Number(f"{people:,}", "people tested", meaning)]


def _accuracy(run: Run) -> Iterator[Block]:
    results = read_results(run)
    chance = chance_level(run)
    everybody, unseen = (scores_of(results, people) for people in (EVERYBODY, UNSEEN))
    if description := mapping(run.record, "task").get("description"):
        yield Text(str(description))
    yield Text(comparison(results, chance))
    models = looks_of(everybody.index)
    images = [figures.forest(results[results["fold"] == 0], models, chance)]
    caption = (
        "Balanced accuracy: the share of windows classified correctly, averaged over classes. "
        f"Dashed is chance ({chance:.2f}). Lines are 95% intervals (bootstrap "
        f"{bootstrap_over(results[results['fold'] == 0])}) around the value over all folds together"
    )
    caption += "; hollow marks count only people unseen in pretraining." if len(unseen) else "."
    with suppress(BergerError):  # the next topic says what is missing
        own = own_accuracies(read_predictions(run))
        images.append(figures.people(own[own["model"].isin(models)], models, chance))
        caption += " The other chart has a mark for each person, and their mean in black"
        seen = "; filled marks were seen in pretraining, hollow ones were not."
        caption += seen if own["seen"].any() else "."
    if len(models) > 1:
        caption += (
            " Overlapping intervals: no difference is shown. That is a cautious rule, as all "
            "models were tested on the same people."
        )
    yield Figure(tuple(images), caption)
    yield from _seen(run, unseen)
    yield _table(everybody, unseen, mapping(run.record, "task"))


def _table(everybody: pd.DataFrame, unseen: pd.DataFrame, task: Mapping[str, Any]) -> Table:
    rows = []
    for people, scores in ((EVERYBODY, everybody), (UNSEEN, unseen)):
        for model in in_order(scores.index):
            row = scores.loc[model]
            value, low, high = row[list(VALUES)].astype(float)
            rows.append(
                (
                    model,
                    marked(people, task),
                    f"{int(row['n_subjects']):,}",
                    f"{int(row['n_windows']):,}",
                    number(value),
                    f"{low:.3f}–{high:.3f}" if np.isfinite([low, high]).all() else "–",
                    *(number(row.get(name, np.nan)) for name in ("auroc", "kappa", "f1_weighted")),
                )
            )
    numeric = ("people", "windows", "balanced accuracy", "95% interval", "ROC-AUC", "kappa", "F1")
    return Table(
        ("model", "tested on", *numeric),
        rows,
        frozenset(numeric),
        "All folds together. ROC-AUC: area under the receiver operating characteristic; kappa: "
        "Cohen's; F1: weighted by class.",
    )


def _seen(run: Run, unseen: pd.DataFrame) -> Iterator[Block]:
    """Say who was in pretraining, and what the others' numbers are."""
    if "seen_in_pretraining" not in run.record:
        return
    seen = run.record["seen_in_pretraining"]
    if not seen:
        yield Text("No recording of a tested person was in pretraining.")
        return
    tested = tested_people(run.record)
    who = f"{len(seen)} of {len(tested)}" if tested else f"{len(seen)}"
    sentence = (
        f"Recordings of {who} people tested were in pretraining, without labels. That may make "
        "the task easier for the pretrained network than it would be with strangers"
    )
    numbers = [
        f"{model} {unseen.loc[model, 'balanced_accuracy']:.2f}"
        for model in in_order(unseen.index)
        if model != CHANCE and np.isfinite(unseen.loc[model, "balanced_accuracy"])
    ]
    if numbers:
        others = f"the {int(unseen['n_subjects'].max())} others alone"
        sentence += f": balanced accuracy on {others} is {enumeration(numbers)}."
    else:
        sentence += ", and no number for people unseen in pretraining can be given."
    yield Note(sentence)


def _people(run: Run) -> Iterator[Block]:
    own = own_accuracies(read_predictions(run))
    wide = own.pivot_table(index="subject", columns="model", values="accuracy")
    models = in_order(wide.columns)
    if not models:
        yield Text("There are no predictions of a model.")
        return
    if not (run.folder / "results.parquet").is_file():  # else it stands beside the intervals
        chart = figures.people(own, looks_of(models), chance_level(run))
        yield Figure((chart,), "A mark for each person, and the mean over people in black.")
    spread = wide[models[0]].dropna()
    worst, best = spread.idxmin(), spread.idxmax()
    if len(spread) > 1:
        yield Text(
            f"The balanced accuracy of the {models[0]} differs between people: from "
            f"{spread[worst]:.2f} ({worst}) to {spread[best]:.2f} ({best})."
        )
    else:
        yield Text("One person was tested, from whom nothing follows for others.")
    if (single_class := own["n_classes"] < 2).any():
        who = counted(own.loc[single_class, "subject"].nunique(), "person", "people")
        yield Note(
            f"{who} had windows of one class only; that number is the share of these classified "
            "correctly."
        )
    seen = dict(zip(own["subject"], own["seen"], strict=True))
    caption = "Balanced accuracy of each person; in pretraining: recordings, without labels."
    if len(wide) > MOST_PEOPLE:
        caption += f" The first {MOST_PEOPLE} of {len(wide):,}."
    table = Table(
        ("subject", "in pretraining", *models),
        [
            (str(name), "yes" if seen[name] else "no", *(number(row[model]) for model in models))
            for name, row in wide.head(MOST_PEOPLE).iterrows()
        ],
        frozenset(models),
        caption,
    )
    yield Details(f"Each of {counted(len(wide), 'person', 'people')}", [table])


def _folds(run: Run) -> Iterator[Block]:
    results = read_results(run)
    chance = chance_level(run)
    single = results[(results["fold"] > 0) & (results["people"] == EVERYBODY)]
    single = single[single["model"] != CHANCE]
    if single.empty:
        yield Text("There is no result of a single fold.")
        return
    tested, lines, depends = (
        (
            "test part",
            "; lines are 95% intervals (bootstrap over the recordings of the fold's person, where "
            "there are two at least)",
            "what",
        )
        if tested_on(mapping(run.record, "task")) == "within subject"
        else (
            "people",
            "; lines are 95% intervals (bootstrap over the fold's people, where there are two at "
            "least)",
            "who",
        )
    )
    yield Figure(
        (figures.folds(single, looks_of(single["model"]), chance),),
        f"Balanced accuracy on the {tested} of each fold{lines}. How far the marks of one model "
        f"lie apart says how much its number depends on {depends} happens to be tested. "
        f"Dashed is chance ({chance:.2f}).",
    )


def _confusion(run: Run) -> Iterator[Block]:
    predictions = read_predictions(run)
    yield confusions(
        predictions, class_names(run, {*predictions["truth"], *predictions["prediction"]})
    )


def confusions(predictions: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Show how the windows of each class were classified (``model, truth, prediction``)."""
    images = []
    for model, look in looks_of(predictions["model"]).items():
        part = predictions[predictions["model"] == model]
        counts = pd.crosstab(part["truth"], part["prediction"])
        counts = counts.reindex(index=classes, columns=classes, fill_value=0)
        images.append(figures.confusion(counts, model, look))
    seeds = " and seeds" if "seed" in predictions else ""
    return Figure(
        tuple(images),
        f"Rows are what a window was, columns what it was taken for, over all folds{seeds}: share "
        "of the row, and number of windows. A perfect model fills the diagonal.",
    )
