"""From a split to its folds: lists of people, recordings or trials for three parts."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from berger.corpus import split_subjects, subject_folds
from berger.errors import BergerError
from berger.files import sha256
from berger.tasks.splits import (
    PARTS,
    AnySplit,
    FileNameSplit,
    FixedSplit,
    Fold,
    KFold,
    LeaveOneSiteOut,
    LeaveOneSubjectOut,
    RecordingWithinSubject,
    TrialSplit,
    problem_of,
)
from berger.tasks.tables import read_table

Unit = TypeVar("Unit")

FEWEST_RECORDINGS = 3
"""Of a person, to train, to choose and to test on."""


def trial_name(recording: str, number: int) -> str:
    """Return what a trial of a recording is called in tables and folds."""
    return f"{recording}#{number}"


def folds(
    split: AnySplit,
    subjects: Sequence[str],
    sites: Sequence[str | None],
    *,
    recordings: Sequence[str] = (),
    trials: Collection[str] = (),
    n_folds: int,
    validation_share: float,
    seed: int,
    folder: Path = Path(),
) -> list[Fold]:
    """Return the folds of a split.

    Parameters
    ----------
    split : one of `berger.tasks.splits.AnySplit`
    subjects : sequence of str
        Of each recording that is used.
    sites : sequence of str or None
        Of each of these recordings.
    recordings : sequence of str
        Their ids; splits of recordings or trials need them.
    trials : collection of str
        `trial_name` of every trial that has windows, for splits that may be of trials.
    n_folds : int
        Of `KFold`; no more are made than there are people.
    validation_share : float
        Share of the people outside the test set by whom choices are made, or of each person's
        recordings or trials; of a `RecordingWithinSubject` it is one recording.
    seed : int
        Of all that is drawn.
    folder : Path
        Where the path of a table counts from.

    Returns
    -------
    list of Fold
        Parts of a fold are disjoint. Unless a split names its parts, every subject is tested once;
        within subjects, every recording; of groups of trials, every trial.

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
    if isinstance(split, FixedSplit):
        return _fixed(split, people, validation_share, seed, folder)
    of = dict(zip(recordings, subjects, strict=True))
    of_trials = {trial: of[recording_of(trial)] for trial in trials}
    if isinstance(split, TrialSplit):
        return _by_trial(split, of_trials, validation_share, seed)
    return _by_file_name(split, of, of_trials, validation_share, seed)


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
        chosen_by = _each_chosen_by(own, f"{seed} {person}")
        for test in own:
            train = tuple(name for name in own if name not in (test, chosen_by[test]))
            made.append(Fold(train, (chosen_by[test],), (test,), "recording", (person,)))
    return made


def _each_chosen_by(units: Sequence[Unit], seed: str) -> dict[Unit, Unit]:
    """Return for each unit that is tested another by which choices are made, each of them once."""
    order = random.Random(seed).sample(units, len(units))
    return dict(zip(order, [*order[1:], order[0]], strict=True))


def _by_file_name(
    split: FileNameSplit,
    subjects: Mapping[str, str],
    of_trials: Mapping[str, str],
    share: float,
    seed: int,
) -> list[Fold]:
    """`subjects` are by recording, and `of_trials` by trial."""
    part_of: dict[str, str] = {}
    lists: dict[str, str] = {}
    for recording in subjects:
        found = re.search(split.pattern, recording)
        part = split.parts.get(found["part"]) if found else None
        if found is None or part is None:
            raise BergerError(
                f"{recording}: its name does not say in which part of the split it is; correct "
                "split.pattern or split.parts, or leave the file out."
            )
        part_of[recording] = part
        lists[recording] = found.groupdict().get("list") or ""
    if split.people == "separate":
        return [_people_by_file_name(split, subjects, part_of, share, seed)]
    if split.people == "test separate":
        _check_test_people(subjects, part_of)
        if split.last is not None:
            part_of |= dict.fromkeys(_last_of_lists(subjects, part_of, lists, split.last), PARTS[1])
    if not split.draws_trials:
        return _own_folds(split.people, subjects, part_of, None, seed)
    trained = Counter(subjects[name] for name, part in part_of.items() if part == "train")
    lone = [person for person, n in sorted(trained.items()) if n == 1]
    if not lone:
        return _own_folds(split.people, subjects, part_of, share, seed)
    if not of_trials:
        raise BergerError(
            f"{lone[0]} has one recording to train on, whose trials have windows that overlap, so "
            "that none can be drawn to choose by; take shorter windows, or split otherwise."
        )
    part_of = {trial: part_of[recording_of(trial)] for trial in of_trials}
    return _own_folds(split.people, of_trials, part_of, share, seed, "trial")


def recording_of(trial: str) -> str:
    """Return of which recording a trial is."""
    return trial.rpartition("#")[0]


def _people_by_file_name(
    split: FileNameSplit,
    subjects: Mapping[str, str],
    part_of_recording: Mapping[str, str],
    share: float,
    seed: int,
) -> Fold:
    part_of: dict[str, str] = {}
    for recording, part in part_of_recording.items():
        subject = subjects[recording]
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
        return Fold(train, validation, test)
    if split.last is not None:
        first = _first_of_last(len(train), split.last)
        return Fold(train[:first], train[first:], test)
    return _with_validation(train, test, share, seed)


def _first_of_last(n: int, last: float) -> int:
    """Return where the last share of several begins, of whom some stay before it."""
    return min(max(int((1 - last) * n + 1e-9), 1), n - 1)


def _check_test_people(subjects: Mapping[str, str], part_of: Mapping[str, str]) -> None:
    tested = {subjects[name] for name, part in part_of.items() if part == "test"}
    for recording, part in part_of.items():
        if part != "test" and subjects[recording] in tested:
            raise BergerError(
                f"{subjects[recording]} has recordings in {part} and in test, but nobody who is "
                "tested may be on another side; correct the folders, or subject_pattern."
            )


def _last_of_lists(
    subjects: Mapping[str, str], part_of: Mapping[str, str], lists: Mapping[str, str], last: float
) -> list[str]:
    """Return the training recordings of the last people of each list."""
    chosen: list[str] = []
    trained = [name for name, part in part_of.items() if part == "train"]
    for one in sorted({lists[name] for name in trained}):
        own = [name for name in trained if lists[name] == one]
        people = sorted({subjects[name] for name in own})
        after = {*people[_first_of_last(len(people), last) :]} if len(people) > 1 else set()
        chosen += [name for name in own if subjects[name] in after]
    return chosen


def _by_trial(
    split: TrialSplit, of_trials: Mapping[str, str], share: float, seed: int
) -> list[Fold]:
    """Put the trials of everybody, or of each person, into parts by their numbers."""
    if not of_trials:
        raise BergerError("no trial has windows, so that nothing can be split; see the labels.")
    group_of = {number: place for place, own in enumerate(split.numbers) for number in own}
    place_of: dict[str, int] = {}
    for trial in of_trials:
        number = int(trial.rpartition("#")[2])
        if number not in group_of:
            raise BergerError(
                f"{recording_of(trial)}: trial {number} is in no part of the split; name it there, "
                "or correct the labels."
            )
        place_of[trial] = group_of[number]
    if not split.groups:
        part_of = {trial: PARTS[place] for trial, place in place_of.items()}
        return _own_folds(
            split.people, of_trials, part_of, None if split.validation else share, seed, "trial"
        )
    made = []
    whose = sorted(set(of_trials.values())) if split.people == "each alone" else [""]
    for person in whose:
        own = {trial: who for trial, who in of_trials.items() if person in ("", who)}
        places = range(len(split.groups))
        for test, validation in sorted(_each_chosen_by(places, f"{seed} {person}").items()):
            parts = {validation: "validation", test: "test"}
            part_of = {trial: parts.get(place_of[trial], "train") for trial in own}
            made += _own_folds(split.people, own, part_of, None, seed, "trial")
    return made


def _own_folds(
    people: str,
    units: Mapping[str, str],
    part_of: Mapping[str, str],
    share: float | None,
    seed: int,
    unit: Literal["recording", "trial"] = "recording",
) -> list[Fold]:
    """Return a fold of all recordings or trials (unit → person), or one for each person.

    With a share, as many of each person's for training become those for validation.
    """
    made = []
    everybody = tuple(sorted(set(units.values())))
    for whose in [(one,) for one in everybody] if people == "each alone" else [everybody]:
        own = {name: part_of[name] for name in units if units[name] in whose}
        if share is not None:
            for person in whose:
                known = sorted(
                    name for name in own if own[name] == "train" and units[name] == person
                )
                n_drawn = min(max(round(share * len(known)), 1), len(known) - 1)
                drawn = random.Random(f"{seed} {person}").sample(known, max(n_drawn, 0))
                own |= dict.fromkeys(drawn, "validation")
        train, validation, test = (
            tuple(sorted(name for name in own if own[name] == part)) for part in PARTS
        )
        made.append(Fold(train, validation, test, unit, tuple(sorted({units[n] for n in test}))))
        if lacking := [part for part in PARTS if not getattr(made[-1], part)]:
            alone = people == "each alone"
            raise BergerError(
                f"no {unit}{f' of {whose[0]}' * alone} with windows is left for "
                f"{' and '.join(lacking)}, which the split needs; add some"
                f"{', leave this person out' * alone}, or split otherwise."
            )
    return made


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
        if problem := problem_of(made[-1]):
            raise BergerError(f"{path}: {problem}; correct it.")
    if not made:
        raise BergerError(f"{path}: names nobody; correct it.")
    return made
