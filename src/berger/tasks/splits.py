"""Who is tested by a model that learned from whom; nobody is on two sides.

But for `RecordingWithinSubject`, which asks another question: of each person alone, and then no
recording is on two sides.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from berger.configuration import Config
from berger.corpus import split_subjects, subject_folds
from berger.errors import BergerError
from berger.files import sha256
from berger.tasks.labels import with_group
from berger.tasks.tables import read_table

PARTS = ("train", "validation", "test")


FEWEST_RECORDINGS = 3
"""Of a person, to train, to choose and to test on."""


@dataclass(frozen=True)
class Fold:
    """Three parts that are disjoint by construction.

    Attributes
    ----------
    train, validation, test : tuple of str
        People; or recordings, if the fold is within a subject.
    within : str, optional
        The one person whose recordings the parts are.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    within: str | None = None

    @property
    def unit(self) -> Literal["subject", "recording"]:
        """What the parts name: a column of every table of windows."""
        return "subject" if self.within is None else "recording"

    @property
    def tested_people(self) -> tuple[str, ...]:
        """Whose windows are tested."""
        return self.test if self.within is None else (self.within,)


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
        elif problem := _problem(Fold(self.train, self.validation, self.test)):
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
    last : float, optional
        This share of the training people are the validation people instead: the last in
        alphabetical order.
    """

    by: Literal["file name"]
    pattern: str
    parts: dict[str, Literal["train", "validation", "test"]]
    last: float | None = Field(None, gt=0, lt=1)

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
        return self


AnySplit = (
    KFold
    | LeaveOneSubjectOut
    | LeaveOneSiteOut
    | RecordingWithinSubject
    | FixedSplit
    | FileNameSplit
)
Split = Annotated[AnySplit, Field(discriminator="by")]


def folds(
    split: AnySplit,
    subjects: Sequence[str],
    sites: Sequence[str | None],
    *,
    recordings: Sequence[str] = (),
    n_folds: int,
    validation_share: float,
    seed: int,
    folder: Path = Path(),
) -> list[Fold]:
    """Return the folds of a split.

    Parameters
    ----------
    split : KFold, LeaveOneSubjectOut, LeaveOneSiteOut, RecordingWithinSubject or FixedSplit
    subjects : sequence of str
        Of each recording that is used.
    sites : sequence of str or None
        Of each of these recordings.
    recordings : sequence of str
        Their ids; only `RecordingWithinSubject` and `FileNameSplit` need them.
    n_folds : int
        Of `KFold`; no more are made than there are people.
    validation_share : float
        Share of the people outside the test set by whom choices are made; within a subject it is
        one recording.
    seed : int
        Of all that is drawn.
    folder : Path
        Where the path of a table counts from.

    Returns
    -------
    list of Fold
        Parts of a fold are disjoint. But for a fixed split, every subject is tested once; within
        subjects, every recording.

    Raises
    ------
    BergerError
        If the subjects do not suffice or do not fit the split; if a subject was recorded at
        several sites, or a site is not known, and sites are left out.
    """
    people = sorted(set(subjects))
    if isinstance(split, KFold):
        return make_folds(people, min(n_folds, len(people)), validation_share, seed)
    if isinstance(split, LeaveOneSubjectOut):
        return make_folds(people, len(people), validation_share, seed)
    if isinstance(split, LeaveOneSiteOut):
        return _leave_one_site_out(subjects, sites, validation_share, seed)
    if isinstance(split, RecordingWithinSubject):
        return _within_subjects(dict(zip(recordings, subjects, strict=True)), seed)
    if isinstance(split, FileNameSplit):
        return _by_file_name(split, recordings, subjects, validation_share, seed)
    return _fixed(split, people, validation_share, seed, folder)


def make_folds(
    subjects: Sequence[str], n_folds: int, validation_share: float, seed: int
) -> list[Fold]:
    """Split people into folds such that everybody is tested once.

    Parameters
    ----------
    subjects : sequence of str
    n_folds : int
        At most the number of people, which leaves one out each time.
    validation_share : float
        Share of the people outside the test set by whom choices are made.
    seed : int

    Raises
    ------
    BergerError
        For fewer than three people, or a fold that leaves nobody to choose by.
    """
    people = sorted(set(subjects))
    if len(people) < 3:
        raise BergerError(
            f"recordings of {' and '.join(people)} only; folds by person need at "
            "least three people: to train, to choose and to test on."
        )
    made = []
    for test in subject_folds(people, n_folds, seed):
        others = sorted(set(people) - set(test))
        if len(others) < 2:
            raise BergerError(
                f"{n_folds} folds of {len(people)} people leave {others[0]} alone to "
                "train and to choose on; take more folds."
            )
        made.append(_with_validation(others, tuple(test), validation_share, seed))
    return made


def _with_validation(others: Sequence[str], test: tuple[str, ...], share: float, seed: int) -> Fold:
    """Draw validation people from at least two others."""
    parts = split_subjects(others, {"train": 1 - share, "validation": share}, seed)
    return Fold(parts["train"], parts["validation"], test)


def _leave_one_site_out(
    subjects: Sequence[str], sites: Sequence[str | None], share: float, seed: int
) -> list[Fold]:
    at: dict[str, str] = {}
    for subject, site in zip(subjects, sites, strict=True):
        if not isinstance(site, str):  # pandas has NaN for it
            raise BergerError(
                f"the site of {subject} is not known, but the split leaves sites out; name it in "
                "participants.tsv, by a group (?P<site>...) of subject_pattern, or split otherwise."
            )
        if at.setdefault(subject, site) != site:
            raise BergerError(
                f"{subject} was recorded at {at[subject]} and at {site}, so that leaving sites out "
                "would have one person on two sides; split otherwise, or leave one out."
            )
    made = []
    for site in sorted(set(at.values())):
        test = tuple(sorted(subject for subject in at if at[subject] == site))
        others = sorted(set(at) - set(test))
        if len(others) < 2:
            raise BergerError(
                f"without {site} recordings of {' and '.join(others) or 'nobody'} only are left; "
                "leaving sites out needs at least two people at the other sites."
            )
        made.append(_with_validation(others, test, share, seed))
    return made


def too_few_recordings(subjects: Mapping[str, str]) -> dict[str, int]:
    """Return the people who cannot be tested within themselves, and how many recordings they have.

    Parameters
    ----------
    subjects : mapping of str to str
        Recording → person.
    """
    counts = Counter(subjects.values())
    return {person: n for person, n in sorted(counts.items()) if n < FEWEST_RECORDINGS}


def _within_subjects(subjects: Mapping[str, str], seed: int) -> list[Fold]:
    """Leave out each recording of each person, in an order that the seed and the person decide."""
    if few := too_few_recordings(subjects):
        person, n = next(iter(few.items()))
        more = f" (and {len(few) - 1} others have too few)" if len(few) > 1 else ""
        raise BergerError(
            f"{person} has {n} recording{'s' if n > 1 else ''} with windows{more}, but within a "
            f"subject at least {FEWEST_RECORDINGS} are needed: to train, to choose and to test "
            "on; add some, set split.incomplete: true to leave such people out, or split by "
            "subject."
        )
    made = []
    for person in sorted(set(subjects.values())):
        own = sorted(recording for recording in subjects if subjects[recording] == person)
        order = random.Random(f"{seed} {person}").sample(own, len(own))
        chosen_by = dict(zip(order, [*order[1:], order[0]], strict=True))  # each once
        for test in own:
            train = tuple(name for name in own if name not in (test, chosen_by[test]))
            made.append(Fold(train, (chosen_by[test],), (test,), within=person))
    return made


def _by_file_name(
    split: FileNameSplit,
    recordings: Sequence[str],
    subjects: Sequence[str],
    share: float,
    seed: int,
) -> list[Fold]:
    part_of: dict[str, str] = {}
    for recording, subject in zip(recordings, subjects, strict=True):
        found = re.search(split.pattern, recording)
        part = split.parts.get(found["part"]) if found else None
        if part is None:
            raise BergerError(
                f"{recording}: its name does not say in which part of the split it is; correct "
                "split.pattern or split.parts, or leave the file out."
            )
        if part_of.setdefault(subject, part) != part:
            raise BergerError(
                f"{subject} has recordings in {part_of[subject]} and in {part}, but nobody may be "
                "on two sides; correct the folders, or subject_pattern."
            )
    train, validation, test = (
        tuple(sorted(subject for subject in part_of if part_of[subject] == part)) for part in PARTS
    )
    for name, people in (("train", train), ("test", test)):
        if len(people) < (2 if name == "train" and not validation else 1):
            raise BergerError(
                f"recordings of {' and '.join(people) or 'nobody'} only are in the part {name} of "
                "the split; correct split.pattern, or add recordings."
            )
    if validation:
        return [Fold(train, validation, test)]
    if split.last is not None:
        first = min(max(int((1 - split.last) * len(train) + 1e-9), 1), len(train) - 1)
        return [Fold(train[:first], train[first:], test)]
    return [_with_validation(train, test, share, seed)]


def _fixed(
    split: FixedSplit, people: list[str], share: float, seed: int, folder: Path
) -> list[Fold]:
    if split.table is None:
        named, where = [Fold(split.train, split.validation, split.test)], "the split"
    else:
        path = folder / split.table
        named, where = _folds_in_table(path, split.sha256), str(path)
    made = []
    for fold in named:
        everybody = {*fold.train, *fold.validation, *fold.test}
        if not split.incomplete:
            for lacking, complaint in (
                (everybody - set(people), "has no recording that is used"),
                (set(people) - everybody, "is in no part"),
            ):
                if lacking:
                    more = f" (and {len(lacking) - 1} others)" if len(lacking) > 1 else ""
                    raise BergerError(
                        f"{where}: {min(lacking)}{more} {complaint}; correct it, or set "
                        "split.incomplete: true."
                    )
        train, validation, test = (
            tuple(sorted(set(getattr(fold, part)) & set(people))) for part in PARTS
        )
        if not fold.validation and len(train) > 1:
            made.append(_with_validation(train, test, share, seed))
        else:
            made.append(Fold(train, validation, test))
        if lacking_parts := [part for part in PARTS if not getattr(made[-1], part)]:
            raise BergerError(
                f"{where}: nobody with recordings is in {' and '.join(lacking_parts)}; correct it."
            )
    return made


def _folds_in_table(path: Path, expected: str | None) -> list[Fold]:
    table = read_table(path, ("subject", "part"))
    found = sha256(path)
    if found != expected:
        says = "does not say" if expected is None else f"says {expected}"
        raise BergerError(
            f"{path}: its SHA-256 is {found}, but the task {says}; put it under split.sha256 once "
            "you have made sure of the table."
        )
    if unknown := sorted(set(table["part"]).difference(PARTS)):
        raise BergerError(
            f"{path}: {unknown[0]!r} is no part; the column part holds {', '.join(PARTS)}."
        )
    made = []
    number = table["fold"] if "fold" in table else table["part"].map(lambda _: "1")
    for _, rows in table.groupby(number, sort=False):
        train, validation, test = (tuple(rows["subject"][rows["part"] == part]) for part in PARTS)
        made.append(Fold(train, validation, test))
        if problem := _problem(made[-1]):
            raise BergerError(f"{path}: {problem}; correct it.")
    if not made:
        raise BergerError(f"{path}: names nobody; correct it.")
    return made


def _problem(fold: Fold) -> str | None:
    """Say what is wrong with the lists of a fold, if anything is."""
    if lacking := [part for part in ("train", "test") if not getattr(fold, part)]:
        return f"{lacking[0]} is missing: the list of its subjects"
    times = Counter((*fold.train, *fold.validation, *fold.test))
    if twice := [subject for subject, n in times.items() if n > 1]:
        return f"{twice[0]} is named {times[twice[0]]} times, but nobody may be on two sides"
    return None
