"""Learn one task and be tested on another: two data sets, of other people, maybe another species.

::

    windows of A ─► people of A ─► train, validation ─┐
                                                      ├─► the protocol, one fold
    windows of B ─► people of B ─► test ──────────────┘

People are told apart by their task: `01` of A and `01` of B are two, unless the user says that they
are one. docs/decisions/0026-transfer.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from berger.corpus import Corpus, open_corpus, split_subjects
from berger.corpus.windows import join
from berger.errors import BergerError
from berger.evaluation.decoding import AdaptationMethod, TaskWindows, read_task
from berger.evaluation.plan import (
    EvaluationConfig,
    Plan,
    Reasons,
    Transfer,
    corpus_key,
    corpus_keys,
    rows_of,
)
from berger.evaluation.protocol import Fold, class_numbers
from berger.evaluation.seen import people_seen
from berger.evaluation.strategies import Question
from berger.models import Encoder, InputContract
from berger.tasks import TaskConfig

BETWEEN = ": "
"""Between a task and the name of one of its people, where there are two tasks."""


def own_names(transfer: Transfer | None, people: Iterable[str]) -> list[str]:
    """Return what people are called by their own task."""
    if transfer is None:
        return [*people]
    return [person.partition(BETWEEN)[2] for person in people]


@dataclass(frozen=True, eq=False)
class TransferWindows:
    """The labelled windows of two tasks, as `TaskWindows` has those of one.

    Attributes
    ----------
    transfer : Transfer
    trained, tested : TaskWindows
        Of the task that is learned and of the one that is tested.

    Raises
    ------
    BergerError
        If their corpora were prepared otherwise, or hold one and the same recording.
    """

    transfer: Transfer
    trained: TaskWindows
    tested: TaskWindows

    def __post_init__(self) -> None:
        one, other = self.trained.corpus, self.tested.corpus
        expected = one.manifest.preprocessing
        contract = InputContract(sfreq=expected.sfreq, preprocessing=expected)
        contract.check_preprocessing(other.manifest.preprocessing, other.folder)
        _check_twins(self.transfer, *(self._recordings(read) for read in self._both))

    @property
    def _both(self) -> tuple[TaskWindows, TaskWindows]:
        return self.trained, self.tested

    @cached_property
    def _learned(self) -> npt.NDArray[np.bool_]:
        """Which windows of the learned task are used: not those of people who are tested."""
        people = self.trained.table["subject"]
        if not self.transfer.same_people:
            return np.ones(len(people), bool)
        return np.asarray(~people.isin(self.tested.subjects))

    @property
    def corpora(self) -> tuple[Corpus, Corpus]:
        """Of both tasks."""
        return self.trained.corpus, self.tested.corpus

    @cached_property
    def table(self) -> pd.DataFrame:
        """As `TaskWindows.table`; the subject is task and name."""
        names = (self.transfer.train, self.transfer.test)
        tables = (self.trained.table[self._learned], self.tested.table)
        return pd.concat(
            [
                table.assign(subject=[f"{name}{BETWEEN}{who}" for who in table["subject"]])
                for name, table in zip(names, tables, strict=True)
            ],
            ignore_index=True,
        )

    @property
    def subjects(self) -> tuple[str, ...]:
        """Everybody who has windows, sorted."""
        return tuple(sorted(set(self.table["subject"])))

    def folds(self, n_folds: int | None, validation_share: float, seed: int) -> list[Fold]:
        """Return the one fold: all people of one task to learn, all of the other to test.

        Parameters
        ----------
        n_folds : int, optional
            Is of no account, the tasks' own splits neither.
        validation_share : float
            Share of the learned task's people by whom choices are made.
        seed : int
            Of who they are.

        Raises
        ------
        BergerError
            If there are fewer than two people to learn from.
        """
        tested = {f"{self.transfer.test}{BETWEEN}{who}" for who in self.tested.subjects}
        others = sorted(set(self.subjects) - tested)
        if len(others) < 2:
            besides = " who is not tested" if self.transfer.same_people else ""
            raise BergerError(
                f"transfer {self.transfer.name}: {self.transfer.train} has recordings of "
                f"{' and '.join(own_names(self.transfer, others)) or 'nobody'}{besides}, but at "
                "least two people are needed, to train and to choose by."
            )
        shares = {"train": 1 - validation_share, "validation": validation_share}
        parts = split_subjects(others, shares, seed)
        return [Fold(parts["train"], parts["validation"], tuple(sorted(tested)))]

    def ask(self, contract: InputContract, method: AdaptationMethod | None = None) -> Question:
        """As `TaskWindows.ask`."""
        return self._asked(*(read.ask(contract, method) for read in self._both))

    def align(self, question: Question, quiet: bool) -> tuple[Question, dict[str, int]]:
        """As `TaskWindows.align`; the recordings of each task by themselves."""
        how = question.contract.euclidean_alignment
        if how is None:
            return question, {}
        both = [read.align(replace(question, windows=read.windows), quiet) for read in self._both]
        aligned = self._asked(*(one for one, _ in both))
        return aligned, both[0][1] | both[1][1]

    def in_seconds(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """As `TaskWindows.in_seconds`; the tested people are called as in their own task."""
        named = own_names(self.transfer, predictions["subject"])
        return self.tested.in_seconds(predictions.assign(subject=named))

    def seen_by(self, encoder: Encoder) -> set[str]:
        """Return the tested people whom pretraining saw."""
        others = () if self.transfer.same_people else (self.trained.corpus,)
        seen = people_seen(encoder.provenance, self.tested.corpus, others)
        return {f"{self.transfer.test}{BETWEEN}{who}" for who in seen} & set(self.subjects)

    def _asked(self, one: Question, other: Question) -> Question:
        """Put the windows of two questions behind each other; labels are the learned task's."""
        learned = np.flatnonzero(self._learned)
        return replace(
            one,
            windows=join([one.windows.take(learned), other.windows]),
            labels=np.concatenate([self.trained.labels[learned], self._tested_labels()]),
        )

    def _tested_labels(self) -> npt.NDArray[Any]:
        """The classes may stand in another order in the other task."""
        classes = self.trained.task.classes
        return class_numbers(self.tested.table, classes) if classes else self.tested.labels

    def _recordings(self, read: TaskWindows) -> pd.DataFrame:
        """Return the rows of the recordings that are used."""
        table = read.table[self._learned] if read is self.trained else read.table
        rows = read.corpus.recordings
        return rows[rows["recording"].isin(table["recording"])]


def _check_twins(transfer: Transfer, learned: pd.DataFrame, tested: pd.DataFrame) -> None:
    """Raise BergerError if a file is in both data sets, so that somebody is on two sides."""
    known = dict(zip(tested["source_sha256"], tested["recording"], strict=True))
    for row in learned.itertuples():
        if row.source_sha256 is not None and row.source_sha256 in known:
            raise BergerError(
                f"transfer {transfer.name}: {row.recording} of {transfer.train} and "
                f"{known[row.source_sha256]} of {transfer.test} are the same file, so that one "
                "person would be learned from and tested; take it out of one of the tasks, or, "
                "if both call everybody alike, set same_people: true."
            )


def read_windows(
    config: EvaluationConfig,
    tasks: Mapping[str, TaskConfig],
    task: str,
    corpora: Sequence[str],
) -> TaskWindows | TransferWindows:
    """Read the labelled windows of a task, or of a transfer's two tasks.

    Parameters
    ----------
    config : EvaluationConfig
    tasks : mapping of str to TaskConfig
    task : str
        Name of a task or of a transfer.
    corpora : sequence of str
        Of each of `EvaluationConfig.parts_of`.

    Raises
    ------
    BergerError
        As `berger.evaluation.decoding.read_task` and `TransferWindows` do.
    """
    read = [
        read_task(tasks[part], open_corpus(corpus, progress=False))
        for part, corpus in zip(config.parts_of(task), corpora, strict=True)
    ]
    transfer = config.transfer(task)
    return read[0] if transfer is None else TransferWindows(transfer, *read)


def corpora_of_transfers(plan: Plan, reasons: Reasons) -> Reasons:
    """Say in the plan which corpora each transfer's baselines read: of the first model with both.

    Parameters
    ----------
    plan : Plan
        With the corpora of all tasks.
    reasons : dict
        Why rows of tasks lack theirs.

    Returns
    -------
    dict
        Why rows of transfers lack one.
    """
    config, found = plan.config, Reasons()
    for one in config.transfers:
        parts = config.parts_of(one.name)
        own = corpus_keys(config, one.name, "", "")
        for model, adaptation in [*product(config.models, config.adaptations), ("", "")]:
            keys = [corpus_key(part, model, adaptation) for part in parts]
            if own[0] not in plan.corpora and {*keys} <= plan.corpora.keys():
                plan.corpora.update(zip(own, [plan.corpora[key] for key in keys], strict=True))
        for row in rows_of(config, [one.name]):
            lacking = [part for part in parts if (part, *row[1:]) in reasons]
            if lacking:
                found[row] = reasons[lacking[0], *row[1:]]
            elif not {*corpus_keys(config, *row)} <= plan.corpora.keys():
                found[row] = "no model's preparation fits the recordings of both tasks; see there."
    return found
