"""Whom a task is tested on, so that a corpus for pretraining can be made without them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from berger.corpus.exclusion import Exclusion
from berger.errors import BergerError
from berger.preprocessing import PreprocessingConfig
from berger.recordings import find_recordings, identify
from berger.tasks.splits import FileNameSplit, FixedSplit
from berger.tasks.task import TaskConfig, load_task, recordings_of

UNKNOWN = "unknown"
_SESSION = re.compile(r"s\d{3}_\d{4}_\d{2}_\d{2}")
"""Folder of a session in the corpora of Temple University Hospital."""

Recordings = Mapping[str, Sequence[Path]]
"""Of each person, by what the paths call him, in lower case."""


def exclusions(
    given: Sequence[str],
    paths: Sequence[str | Path],
    config: PreprocessingConfig,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[Exclusion, ...]:
    """Find out whom a corpus shall leave out.

    Parameters
    ----------
    given : sequence of str
        Each ``TASK=PLACE``, where TASK may name a split behind an @, and PLACE is the folder of the
        task's data, a text file that names a person a line, or "unknown".
    paths : sequence of path
        What the corpus is made from.
    config : PreprocessingConfig
        Its `subject_pattern` and `layout` are used.
    tell : callable
        Is told, in a sentence, how many of the people are among the recordings.

    Returns
    -------
    tuple of Exclusion
        Their people are called as in `paths`.

    Raises
    ------
    BergerError
        If a task has no people who are always tested, or they cannot be found by name; if
        recordings and task call people in different ways.
    """
    if not given:
        return ()
    here = _people(
        [path for _, path in find_recordings(paths, layout=config.layout)], config.subject_pattern
    )
    return tuple(_exclusion(text, here, tell) for text in given)


def _exclusion(text: str, here: Recordings, tell: Callable[[str], None]) -> Exclusion:
    name, has_place, place = text.partition("=")
    if not (name and has_place and place):
        raise BergerError(
            f"--exclude {text}: must be TASK=FOLDER, TASK=LIST.txt or TASK={UNKNOWN}, e.g. "
            "tuab=FOLDER."
        )
    data = Path(place)
    task = load_task(name, data if data.is_dir() else None)
    of = task.name if task.split_name is None else f"{task.name}@{task.split_name}"
    if place == UNKNOWN:
        tell(f"{of}: its evaluation people are not known and are not left out.")
        return Exclusion(of=of, how=UNKNOWN)
    if data.is_file():
        how, tested = "a list", {person: list[Path]() for person in _listed(data)}
    elif data.is_dir():
        how, tested = "the names of its files", _tested(name, task, of, data, tell)
    else:
        raise BergerError(f"{place}: is neither a folder nor a list of people; correct --exclude.")
    people = [*tested]
    if not {*map(_form, people)} & {*map(_form, here)}:
        how, people = f"{how}, numbers turned into letters", _as_letters(of, tested, here)
    exclusion = Exclusion.listed(of, how, people)
    found = sum(person in here for person in exclusion.people)
    tell(
        f"{of}: {found} of its {len(exclusion.people)} evaluation people are among the recordings "
        "and are left out."
    )
    return exclusion


def _tested(
    name: str, task: TaskConfig, of: str, data: Path, tell: Callable[[str], None]
) -> dict[str, list[Path]]:
    """Return the people of a task's test part, with their recordings."""
    if task.facts.test_people:
        raise BergerError(
            f"{of}: its evaluation people cannot be found by name, since {task.facts.test_people}; "
            f"give a list of them, {task.name}=LIST.txt, or say {task.name}={UNKNOWN}, to go on "
            "with them perhaps among the others."
        )
    if task.splits and task.split_name is None:
        return _tested_by_all(name, task, data, tell)
    whose = {}
    for path in recordings_of(task):
        found = identify(path, None, task.subject_pattern)
        if found.source != "pattern":
            raise BergerError(f"{path}: its name does not say whose it is; give a list of people.")
        whose[path] = found.subject
    if len(whose) != (known := task.facts.recordings or len(whose)):
        tell(
            f"{of}: {data} has {len(whose):,} recordings and the data set {known:,}; whoever is "
            "not there is not left out."
        )
    if isinstance(task.split, FileNameSplit):
        parts = {path: _part(path, task.split, data) for path in whose}
        people = {person for path, person in whose.items() if parts[path] == "test"}
    elif isinstance(task.split, FixedSplit):
        folds = task.folds(
            [*whose.values()],
            [None] * len(whose),
            validation_share=0.2,  # of those who are not tested
            seed=0,
        )
        people = {person for fold in folds for person in fold.test}
    else:
        raise BergerError(
            f"--exclude {of}: tests everybody in turn, so that nobody would be left; name a split "
            "whose test people are always the same."
        )
    if not people:
        raise BergerError(f"{data}: has no recordings of the test part of {of}; give all of it.")
    return _by_person({path: person for path, person in whose.items() if person in people})


def _tested_by_all(
    name: str, task: TaskConfig, data: Path, tell: Callable[[str], None]
) -> dict[str, list[Path]]:
    """Return the people whom every split tests, if all test the same."""
    if all(isinstance(split, FileNameSplit | FixedSplit) for split in task.splits.values()):
        ones = [load_task(f"{name}@{split}", data) for split in task.splits]
        first = _tested(name, ones[0], task.name, data, tell)
        others = [_tested(name, one, task.name, data, lambda said: None) for one in ones[1:]]
        if all(other.keys() == first.keys() for other in others):
            return first
    raise BergerError(
        f"--exclude {name}: its splits test different people; say by which split, as "
        f"{task.name}@{next(iter(task.splits))}={data}."
    )


def _part(path: Path, split: FileNameSplit, data: Path) -> str:
    """Return the part that a recording is in; raise if its name does not say it."""
    found = re.search(split.pattern, path.relative_to(data).as_posix())
    if found is None or found["part"] not in split.parts:
        raise BergerError(
            f"{path}: its name does not say in which part of the split it is; give the folder "
            "above the parts."
        )
    return split.parts[found["part"]]


def _listed(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BergerError(f"{path}: cannot be read as a list of people ({error}).") from error
    people = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    wrong = [person for person in people if len(person.split()) > 1 or "," in person]
    if wrong or not people:
        raise BergerError(
            f"{path}: must name a person a line"
            f"{f', but has {wrong[0]!r}' if wrong else ', but names nobody'}."
        )
    return [person.casefold() for person in people]


def _people(paths: Sequence[Path], pattern: str | None) -> dict[str, list[Path]]:
    """Sort recordings by whose they are; those whose names do not tell it are rejected later."""
    whose = {}
    for path in paths:
        with suppress(BergerError):  # the pattern is not found
            found = identify(path, None, pattern)
            if found.source == "pattern":
                whose[path] = found.subject
    return _by_person(whose)


def _by_person(whose: Mapping[Path, str]) -> dict[str, list[Path]]:
    people: dict[str, list[Path]] = {}
    for path, person in whose.items():
        people.setdefault(person.casefold(), []).append(path)
    return people


def _form(person: str) -> str:
    """Return what codes of one kind have in common: "aaaaaaaq" is as "aaaaaaab", not as "001"."""
    return re.sub(r"\d+", lambda digits: f"<{len(digits[0])}>", re.sub("[a-z]", "a", person))


def _as_letters(of: str, people: Mapping[str, list[Path]], here: Recordings) -> list[str]:
    """Turn the numbers of earlier releases of the TUH corpora into the letters of later ones.

    The rule, 26 letters in place of ten digits, is not written down by those who made it. So it is
    taken only if it leads, for every person, to somebody who has sessions of the same numbers and
    days.
    """
    letters = {person: _letters(person) for person in people if re.fullmatch(r"\d{8}", person)}
    fits = len(letters) == len(people) and all(
        _sessions(people[person]) and _sessions(people[person]) <= _sessions(here.get(code, ()))
        for person, code in letters.items()
    )
    if not fits:
        raise BergerError(
            f"{of}: calls people as {min(people)}, and the recordings as {min(here, default='?')}; "
            "use releases that call them alike (TUAB v3 with TUEG v2), or set --subject_pattern."
        )
    return sorted(letters.values())


def _letters(number: str) -> str:
    left, code = int(number), ""
    for _ in range(8):
        left, place = divmod(left, 26)
        code = chr(ord("a") + place) + code
    return code


def _sessions(recordings: Sequence[Path]) -> set[str]:
    return {part for path in recordings for part in path.parts if _SESSION.fullmatch(part)}
