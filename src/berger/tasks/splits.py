"""Who is tested by a model that learned from whom; nobody is on two sides.

But for splits that say so, which ask other questions: of each person alone, or of people who were
also learned from. Then no recording, or no trial, is on two sides.
docs/decisions/0030-shared-splits.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from berger.configuration import Config
from berger.tasks.labels import with_group

PARTS = ("train", "validation", "test")

TestedOn = Literal["strangers", "people also learned from", "within subject"]
"""What a test says something about."""


@dataclass(frozen=True)
class Fold:
    """Three parts that are disjoint by construction.

    Attributes
    ----------
    train, validation, test : tuple of str
        People, recordings or trials.
    unit : {"subject", "recording", "trial"}
        Which of these: a column of the table of windows.
    people : tuple of str
        Whose recordings or trials are tested.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    unit: Literal["subject", "recording", "trial"] = "subject"
    people: tuple[str, ...] = ()

    @property
    def of(self) -> str:
        """What the parts hold, in a sentence."""
        return "people" if self.unit == "subject" else f"{self.unit}s"

    @property
    def tested_people(self) -> tuple[str, ...]:
        """Whose windows are tested."""
        return self.test if self.unit == "subject" else self.people


class KFold(Config):
    """Everybody is tested once, in ``n_folds`` groups drawn by the seed."""

    by: Literal["k-fold"] = "k-fold"


class LeaveOneSubjectOut(Config):
    """Everybody is tested once, alone."""

    by: Literal["subject"]


class LeaveOneSiteOut(Config):
    """Every site is tested once, by what was learned at the others."""

    by: Literal["site"]


class RecordingWithinSubject(Config):
    """Every person alone: each recording is tested once, by what was learned from his others.

    One of the others is the validation recording, so that a person needs three with windows. It
    says how well a model serves a person whom it was calibrated on, and nothing of strangers.

    Attributes
    ----------
    incomplete : bool
        Whether people with fewer recordings may be left out; by default they are an error.
    """

    by: Literal["recording within subject"]
    incomplete: bool = False


class FixedSplit(Config):
    """Lists of subjects, e.g. of a published split.

    Attributes
    ----------
    train, validation, test : tuple of str
        Without validation people, a share of the training people is drawn by the seed.
    table : str, optional
        In place of the lists: a CSV or TSV table with the columns ``subject`` and ``part`` (train,
        validation, test), and ``fold`` where there are several; a relative path counts from the
        folder of the task's file.
    sha256 : str, optional
        Of the table, without which it is not used, so that a split cannot change unnoticed.
    incomplete : bool
        Whether split and recordings may lack one another's subjects; who is in no part is then
        neither learned from nor tested. By default that is an error.
    """

    by: Literal["fixed"]
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    table: str | None = None
    sha256: str | None = None
    incomplete: bool = False

    @model_validator(mode="after")
    def _is_a_split(self) -> Self:
        if self.table is not None:
            if self.train or self.validation or self.test:
                raise ValueError("give the subjects in the table or in lists, not in both")
        elif self.sha256 is not None:
            raise ValueError("sha256 belongs to table; give that too")
        elif problem := problem_of(Fold(self.train, self.validation, self.test)):
            raise ValueError(problem)
        return self


class FileNameSplit(Config):
    """What names of folders or files say, as of a data set that is distributed in parts.

    Attributes
    ----------
    pattern : str
        Regular expression with a group ``part``, searched in the recording's id.
    parts : dict of str to {"train", "validation", "test"}
        What the group finds → part. Without validation people, a share of the training people is
        drawn by the seed.
    people : {"separate", "test separate", "shared", "each alone"}
        Nobody is in two parts; those tested are in no other part, but others may be learned from
        and chosen by; recordings of the same people are in several parts, in one fold; a fold for
        each person. But for the first, the parts are of recordings, and without validation
        recordings a share of each person's training recordings is drawn by the seed, or, if
        somebody has a single one, of everybody's training trials.
    last : float, optional
        This share of the training people are the validation people instead: the last in
        alphabetical order. If people are "test separate" and the pattern has a group ``list``, it
        is the last of each list, by their recordings in it.
    """

    by: Literal["file name"]
    pattern: str
    parts: dict[str, Literal["train", "validation", "test"]]
    people: Literal["separate", "test separate", "shared", "each alone"] = "separate"
    last: float | None = Field(None, gt=0, lt=1)

    @property
    def draws_trials(self) -> bool:
        """Whether validation trials may be drawn."""
        drawn = self.last is None and "validation" not in self.parts.values()
        return drawn and self.people != "separate"

    @field_validator("pattern")
    @classmethod
    def _has_a_part(cls, pattern: str) -> str:
        return with_group(pattern, "part")

    @model_validator(mode="after")
    def _has_both(self) -> Self:
        if lacking := {"train", "test"} - {*self.parts.values()}:
            raise ValueError(f"parts name nobody to {min(lacking)}")
        if self.last is not None and "validation" in self.parts.values():
            raise ValueError("last and validation people among parts exclude each other")
        if self.last is not None and self.people in ("shared", "each alone"):
            raise ValueError(f"last is of people, who are {self.people}; remove one of both")
        return self


Number = Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^[1-9]\d{0,5}-[1-9]\d{0,5}$")]
"""Of a trial, or of the first and the last of several, as "6-10"."""


class TrialSplit(Config):
    """Trials of every recording, by their number; people are in all parts.

    A trial is a labelled stretch, e.g. a film; they are counted from 1 by their onset, also those
    whose class is left out.

    Attributes
    ----------
    train, validation, test : tuple of int or str
        Numbers, or "6-10". Without validation trials, a share of each person's training trials is
        drawn by the seed.
    groups : tuple of tuple of int or str
        In their place: each group is tested once by what was learned from the others, one of
        which, drawn by the seed, is what choices are made by.
    people : {"shared", "each alone"}
        One fold of everybody, or a fold for each person.
    """

    by: Literal["trial"]
    train: tuple[Number, ...] = ()
    validation: tuple[Number, ...] = ()
    test: tuple[Number, ...] = ()
    groups: tuple[tuple[Number, ...], ...] = ()
    people: Literal["shared", "each alone"] = "shared"

    @property
    def numbers(self) -> tuple[frozenset[int], ...]:
        """The numbers of each group, or of the three parts."""
        parts = self.groups or (self.train, self.validation, self.test)
        return tuple(frozenset(_numbers(part)) for part in parts)

    @model_validator(mode="after")
    def _is_a_split(self) -> Self:
        if self.groups:
            if self.train or self.validation or self.test:
                raise ValueError("give the trials in groups or in parts, not in both")
            if len(self.groups) < 3:
                raise ValueError("groups must be three at least: to train, to choose and to test")
        elif lacking := [part for part in ("train", "test") if not getattr(self, part)]:
            raise ValueError(f"{lacking[0]} is missing: the numbers of its trials")
        parts = self.groups or (self.train, self.validation, self.test)
        times = Counter(number for part in parts for number in _numbers(part))
        if twice := [number for number, n in times.items() if n > 1]:
            raise ValueError(f"trial {twice[0]} is named {times[twice[0]]} times")
        return self


def _numbers(part: Iterable[Number]) -> list[int]:
    numbers: list[int] = []
    for one in part:
        first, _, last = str(one).partition("-")
        if int(last or first) < int(first):
            raise ValueError(f"{one!r} ends before it begins")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


AnySplit = (
    KFold
    | LeaveOneSubjectOut
    | LeaveOneSiteOut
    | RecordingWithinSubject
    | FixedSplit
    | FileNameSplit
    | TrialSplit
)
Split = Annotated[AnySplit, Field(discriminator="by")]


def tested_on(split: AnySplit) -> TestedOn:
    """Return whether a split tests strangers, or people whom the tested model learned from."""
    if isinstance(split, RecordingWithinSubject):
        return "within subject"
    people = split.people if isinstance(split, FileNameSplit | TrialSplit) else "separate"
    if people == "each alone":
        return "within subject"
    return "people also learned from" if people == "shared" else "strangers"


def may_draw_trials(split: AnySplit) -> bool:
    """Return whether parts of a split may be of trials, which windows then have to name."""
    return isinstance(split, TrialSplit) or (
        isinstance(split, FileNameSplit) and split.draws_trials
    )


def problem_of(fold: Fold) -> str | None:
    """Say what is wrong with the lists of a fold, if anything is."""
    if lacking := [part for part in ("train", "test") if not getattr(fold, part)]:
        return f"{lacking[0]} is missing: the list of its subjects"
    times = Counter((*fold.train, *fold.validation, *fold.test))
    if twice := [subject for subject, n in times.items() if n > 1]:
        return f"{twice[0]} is named {times[twice[0]]} times, but nobody may be on two sides"
    return None
