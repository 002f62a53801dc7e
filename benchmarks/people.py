"""What the comparisons on EEGMAT share: who was held out, and figures person by person.

Everybody's figure is a mean over the seeds that held this person out; intervals are percentiles
of 2,000 draws of the people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from berger.adaptation.probe import fit_probe
from berger.configuration import load_config
from berger.corpus import Corpus, split_subjects
from berger.evaluation.protocol import choose_penalty, class_numbers
from berger.evaluation.strategies import Question
from berger.models import InputContract, load_checkpoint
from berger.pretraining import PretrainingConfig
from berger.tasks import labelled_windows, load_task

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
Rows = list[tuple[str, str, float]]
"""Kind of run, person, value."""


def kind_of(run: Path) -> str:
    return run.name.rpartition("-")[0]


def config_of(run: Path) -> PretrainingConfig:
    return load_config(PretrainingConfig, run / "config.yaml")


def held_out(run: Path) -> list[str]:
    model = load_checkpoint(run / "checkpoint")
    return list(model.provenance["subjects"]["validation"])


def interval(values: npt.NDArray[np.float64], sign: str = "") -> str:
    """Mean over people and its interval, as text; "+" as sign for a difference."""
    drawn = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    low, high = np.percentile(values[drawn].mean(1), [2.5, 97.5])
    return f"{values.mean():{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def questions(corpus: Corpus, run: Path) -> tuple[Question, npt.NDArray[np.str_], list[str]]:
    """The task's windows, whose each is, and who was held out."""
    task = load_task("eegmat@k-fold")
    table = labelled_windows(task, corpus)
    windows = corpus.windows_at(table, task.window_seconds)
    contract = InputContract(sfreq=corpus.manifest.preprocessing.sfreq)
    question = Question(windows, class_numbers(table, task.classes), task.classes, contract)
    return question, table["subject"].to_numpy(str), held_out(run)


def split(
    subject: npt.NDArray[np.str_], test: list[str], seed: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    known = sorted(set(subject) - set(test))
    parts = split_subjects(known, {"train": 0.75, "validation": 0.25}, seed)
    return tuple(np.isin(subject, part) for part in (parts["train"], parts["validation"], test))


def by_person(
    right: npt.NDArray[np.bool_], truth: npt.NDArray[np.int64], subject: npt.NDArray[np.str_]
) -> Iterator[tuple[str, float]]:
    """Balanced accuracy of each person."""
    for person in np.unique(subject):
        own = subject == person
        yield person, float(np.mean([right[own & (truth == c)].mean() for c in (0, 1)]))


def probed(
    features: Mapping[str, npt.NDArray[np.float64]],
    question: Question,
    subject: npt.NDArray[np.str_],
    test: list[str],
    seed: int,
) -> Iterator[tuple[str, str, float]]:
    """Balanced accuracy of each person held out, by the name of the features that were probed."""
    train, validation, unseen = split(subject, test, seed)
    for name, x in features.items():
        model, _ = choose_penalty(
            *(x, question.labels, train, validation),
            lambda x, y, penalty: fit_probe(x, y, 2, penalty).probabilities,
            PENALTIES,
        )
        truth = question.labels[unseen]
        right = model(x[unseen]).argmax(1) == truth
        for person in by_person(right, truth, subject[unseen]):
            yield name, *person


def compare(
    rows: Iterable[tuple[str, str, float]],
    references: Callable[[str], Iterable[str]],
    quantity: str = "balanced accuracy",
) -> None:
    """Print everybody's mean by kind, and differences to references."""
    table = pd.DataFrame(rows, columns=["kind", "person", "value"])
    people = table.groupby(["kind", "person"], sort=False)["value"].mean().unstack("kind")
    kinds = list(dict.fromkeys(table["kind"]))
    for kind in kinds:
        print(f"{kind}: {quantity} {interval(people[kind].dropna().to_numpy())}")
    for kind in kinds:
        for other in references(kind):
            if other in people and other != kind:
                difference = (people[kind] - people[other]).dropna().to_numpy()
                print(f"{kind} − {other}: {interval(difference, '+')}, {len(difference)} people")
