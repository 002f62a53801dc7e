"""Splits: nobody on two sides, and each way of leaving people out.

But for splits that say so: then no recording, or no trial, is on two sides.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from berger.errors import BergerError
from berger.tasks.folds import folds
from berger.tasks.splits import (
    FileNameSplit,
    FixedSplit,
    Fold,
    KFold,
    LeaveOneSiteOut,
    LeaveOneSubjectOut,
    RecordingWithinSubject,
    Split,
    TrialSplit,
)
from berger.tasks.splits import tested_on as whom_tested

PEOPLE = [f"p{number}" for number in range(1, 7)]
SITES = ["Bonn", "Bonn", "Ulm", "Ulm", "Kiel", "Kiel"]


def made(split: Split, people: list[str] = PEOPLE, sites: list[str] = SITES) -> list[Fold]:
    return folds(split, people, sites, n_folds=3, validation_share=0.25, seed=0)


def fixed(**fields: object) -> FixedSplit:
    return FixedSplit.model_validate({"by": "fixed"} | fields)


@given(
    at=st.dictionaries(st.text("abcdef", min_size=1), st.sampled_from("XYZ"), min_size=4),
    split=st.sampled_from([KFold(), LeaveOneSubjectOut(by="subject"), LeaveOneSiteOut(by="site")]),
    n_recordings=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_people_never_cross_and_everybody_is_tested_once(
    at: dict[str, str], split: Split, n_recordings: int, seed: int
) -> None:
    people, sites = [*at] * n_recordings, [*at.values()] * n_recordings
    counts = [len(at) - [*at.values()].count(site) for site in set(at.values())]
    assume(not isinstance(split, LeaveOneSiteOut) or min(counts) >= 2)
    found = folds(split, people, sites, n_folds=3, validation_share=0.3, seed=seed)
    for fold in found:
        parts = [set(fold.train), set(fold.validation), set(fold.test)]
        assert all(parts)
        assert sum(map(len, parts)) == len(set().union(*parts)) == len(at)
    assert sorted(subject for fold in found for subject in fold.test) == sorted(at)


IDS = [f"x/t/{who}_s1.edf" for who in PEOPLE[:4]]


def by_name(ids: list[str], **fields: object) -> list[Fold]:
    given = {
        "pattern": "/(?P<part>t|v|e)/",
        "parts": {"t": "train", "v": "validation", "e": "test"},
    }
    split = FileNameSplit.model_validate({"by": "file name"} | given | fields)
    people = [name.split("/")[-1].split("_")[0] for name in ids]
    nowhere = [None] * len(ids)
    return folds(split, people, nowhere, recordings=ids, n_folds=3, validation_share=0.25, seed=0)


def test_folders_tell_the_parts() -> None:
    ids = [*IDS, "x/v/p5_s1.edf", "x/e/p6_s1.edf", "x/e/p6_s2.edf"]
    assert by_name(ids) == [Fold(("p1", "p2", "p3", "p4"), ("p5",), ("p6",))]
    (drawn,) = by_name([*ids[:4], *ids[5:]])
    assert (len(drawn.train), len(drawn.validation), drawn.test) == (3, 1, ("p6",))
    assert {*drawn.train, *drawn.validation} == {"p1", "p2", "p3", "p4"}


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (["x/t/p1_1.edf", "x/e/p1_2.edf"], "p1 has recordings in train and in test"),
        (["x/t/p1_1.edf", "x/other/p2_2.edf"], "x/other/p2_2.edf: its name does not say"),
        (["x/t/p1_1.edf", "x/e/p2_2.edf"], "recordings of p1 only are in the part train"),
        (["x/t/p1_1.edf", "x/t/p2_2.edf"], "recordings of nobody only are in the part test"),
    ],
)
def test_names_that_do_not_make_a_split(ids: list[str], words: str) -> None:
    with pytest.raises(BergerError, match=words):
        by_name(ids)


def within(subjects: dict[str, str], seed: int = 0) -> list[Fold]:
    return folds(
        RecordingWithinSubject(by="recording within subject"),
        [*subjects.values()],
        [None] * len(subjects),
        recordings=[*subjects],
        n_folds=3,
        validation_share=0.3,
        seed=seed,
    )


@given(
    counts=st.dictionaries(st.text("abc", min_size=1), st.integers(3, 6), min_size=1, max_size=4),
    seed=st.integers(0, 9),
)
def test_within_subjects_no_recording_crosses_and_each_is_tested_once(
    counts: dict[str, int], seed: int
) -> None:
    subjects = {f"{who}/{n}": who for who, several in counts.items() for n in range(several)}
    found = within(subjects, seed)
    for fold in found:
        assert fold.unit == "recording"
        (person,) = fold.tested_people
        parts = [set(fold.train), set(fold.validation), set(fold.test)]
        assert all(parts)
        own = {recording for recording, who in subjects.items() if who == person}
        assert set().union(*parts) == own
        assert sum(map(len, parts)) == len(own)
    for part in ("test", "validation"):
        named = [recording for fold in found for recording in getattr(fold, part)]
        assert sorted(named) == sorted(subjects)
    first = min(counts)
    alone = {recording: who for recording, who in subjects.items() if who == first}
    assert within(alone, seed) == [fold for fold in found if fold.people == (first,)]


def test_the_seed_decides_which_recording_is_chosen_by() -> None:
    subjects = dict.fromkeys("abcd", "p")
    assert within(subjects, 0) == within(subjects, 0)
    assert len({tuple(within(subjects, seed)) for seed in range(9)}) > 1


def test_too_few_recordings_of_a_person() -> None:
    subjects = dict.fromkeys("abc", "p") | dict.fromkeys("de", "q")
    with pytest.raises(
        BergerError, match=r"^q has 2 recordings with windows, but within a subject"
    ):
        within(subjects)
    with pytest.raises(BergerError, match=r"^q has 2 .* \(and 1 others have too few\)"):
        within(subjects | {"f": "r"})


def test_the_sizes_of_what_is_left_out() -> None:
    assert [len(fold.test) for fold in made(KFold())] == [2, 2, 2]
    assert sorted(fold.test for fold in made(LeaveOneSubjectOut(by="subject"))) == [
        (name,) for name in PEOPLE
    ]
    by_site = made(LeaveOneSiteOut(by="site"))
    assert [fold.test for fold in by_site] == [("p1", "p2"), ("p5", "p6"), ("p3", "p4")]
    assert len(made(KFold(), PEOPLE[:3])) == 3


def test_sites_must_tell_people_apart() -> None:
    split = LeaveOneSiteOut(by="site")
    with pytest.raises(BergerError, match="p1 was recorded at Bonn and at Ulm"):
        made(split, [*PEOPLE, "p1"], [*SITES, "Ulm"])
    for unknown in (None, float("nan")):
        with pytest.raises(BergerError, match="the site of p6 is not known"):
            made(split, PEOPLE, [*SITES[:5], unknown])  # type: ignore[list-item]
    with pytest.raises(BergerError, match="without Bonn recordings of nobody only are left"):
        made(split, PEOPLE, ["Bonn"] * 6)


def test_a_fixed_split_is_as_written() -> None:
    split = fixed(train=["p1", "p2", "p3"], validation=["p4"], test=["p6", "p5"])
    assert made(split) == [Fold(("p1", "p2", "p3"), ("p4",), ("p5", "p6"))]
    (fold,) = made(fixed(train=PEOPLE[:4], test=PEOPLE[4:]))
    assert sorted((*fold.train, *fold.validation)) == PEOPLE[:4]
    assert len(fold.validation) == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"train": PEOPLE[:4], "test": ["p5"]}, "the split: p6 is in no part"),
        ({"train": PEOPLE[:3], "test": ["p5"]}, r"p4 \(and 1 others\) is in no part"),
        ({"train": PEOPLE, "test": ["p7"]}, "p7 has no recording that is used"),
        (
            {"train": PEOPLE, "test": ["p7"], "incomplete": True},
            "nobody with recordings is in test",
        ),
        ({"train": ["p1"], "test": PEOPLE[1:]}, "nobody with recordings is in validation"),
    ],
)
def test_a_fixed_split_that_does_not_fit(fields: dict[str, object], words: str) -> None:
    with pytest.raises(BergerError, match=words):
        made(fixed(**fields))


def test_an_incomplete_split_leaves_people_out() -> None:
    split = fixed(train=["p1", "p9"], validation=["p2"], test=["p3", "p8"], incomplete=True)
    assert made(split) == [Fold(("p1",), ("p2",), ("p3",))]


def test_a_split_in_a_table(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    parts = {1: ["train"] * 4 + ["validation", "test"], 2: ["test"] * 3 + ["train"] * 3}
    rows = ["fold,subject,part"] + [
        f"{number},{subject},{part}"
        for number, several in parts.items()
        for subject, part in zip(PEOPLE, several, strict=True)
    ]
    path.write_text("\n".join(rows))
    sha = hashlib.sha256(path.read_bytes()).hexdigest()

    def read(**fields: object) -> list[Fold]:
        split = fixed(table="split.csv", **fields)
        return folds(split, PEOPLE, SITES, n_folds=3, validation_share=0.4, seed=0, folder=tmp_path)

    first, second = read(sha256=sha)
    assert first == Fold(("p1", "p2", "p3", "p4"), ("p5",), ("p6",))
    assert second.test == ("p1", "p2", "p3")
    assert sorted((*second.train, *second.validation)) == ["p4", "p5", "p6"]

    with pytest.raises(BergerError, match=f"SHA-256 is {sha}, but the task does not say; put it"):
        read()
    path.write_text("\n".join(rows[:-1]))
    with pytest.raises(BergerError, match=f"but the task says {sha}; put it"):
        read(sha256=sha)
    for text, words in (
        ("subject,part\np1,train\np1,test\n", "p1 is named 2 times"),
        ("subject,part\np1,training\n", "'training' is no part; the column part holds train"),
        ("subject,part\n", "names nobody"),
        ("subject,role\np1,train\n", "has no column 'part'"),
    ):
        path.write_text(text)
        with pytest.raises(BergerError, match=words):
            read(sha256=hashlib.sha256(path.read_bytes()).hexdigest())


# people in several parts


def of_names(names: list[str], n_trials: int = 0, seed: int = 0, **fields: object) -> list[Fold]:
    """Folds of recordings PART/PERSON_N by name, or of their trials by number."""
    given: dict[str, object] = {
        "by": "file name",
        "pattern": "^(?P<part>t|v|e)/",
        "parts": {"t": "train", "e": "test"},
    }
    split: FileNameSplit | TrialSplit = (
        TrialSplit.model_validate(fields)
        if fields.get("by") == "trial"
        else FileNameSplit.model_validate(given | fields)
    )
    people = [name.split("/")[1].split("_")[0] for name in names]
    trials = [f"{name}#{number}" for name in names for number in range(1, n_trials + 1)]
    return folds(
        split,
        people,
        [None] * len(names),
        recordings=names,
        trials=trials,
        n_folds=3,
        validation_share=0.25,
        seed=seed,
    )


def person_of(unit: str) -> str:
    return unit.split("/")[1].split("_")[0]


@given(
    shape=st.dictionaries(st.sampled_from("pqrs"), st.tuples(*[st.integers(1, 3)] * 2), min_size=1),
    people=st.sampled_from(["shared", "each alone"]),
    n_trials=st.integers(2, 9),
    seed=st.integers(0, 9),
)
def test_recordings_and_trials_never_cross(
    shape: dict[str, tuple[int, int]], people: str, n_trials: int, seed: int
) -> None:
    names = [
        f"{part}/{who}_{n}"
        for who, counts in shape.items()
        for part, count in zip("te", counts, strict=True)
        for n in range(count)
    ]
    found = of_names(names, n_trials, seed, people=people)
    assert found == of_names(names[::-1], n_trials, seed, people=people)
    assert len(found) == (len(shape) if people == "each alone" else 1)
    lone = any(n_train == 1 for n_train, _ in shape.values())
    for fold in found:
        assert fold.unit == ("trial" if lone else "recording")
        parts = [set(fold.train), set(fold.validation), set(fold.test)]
        assert all(parts)
        assert sum(map(len, parts)) == len(set().union(*parts))
        assert {person_of(one) for part in parts for one in part} == {*fold.people}
        assert {one[0] for one in fold.test} == {"e"}  # nothing of the test is chosen by
        assert {one[0] for one in (*fold.train, *fold.validation)} == {"t"}
        for who in fold.people:  # of everybody something is learned from, and something chosen by
            assert who in {person_of(one) for one in fold.train}
            assert who in {person_of(one) for one in fold.validation}
    units = [
        one for fold in found for part in (fold.train, fold.validation, fold.test) for one in part
    ]
    assert len(units) == len(names) * (n_trials if lone else 1)


def test_given_parts_of_the_same_people() -> None:
    names = [f"{part}/{who}_1" for part in "tve" for who in ("p1", "p2")]
    parts = {"t": "train", "v": "validation", "e": "test"}
    (fold,) = of_names(names, people="shared", parts=parts)
    expected = (("t/p1_1", "t/p2_1"), ("v/p1_1", "v/p2_1"), ("e/p1_1", "e/p2_1"))
    assert fold == Fold(*expected, "recording", ("p1", "p2"))
    one, two = of_names(names, people="each alone", parts=parts)
    assert one == Fold(("t/p1_1",), ("v/p1_1",), ("e/p1_1",), "recording", ("p1",))
    assert two.tested_people == ("p2",)


def test_the_people_tested_may_be_the_only_ones_that_are_separate() -> None:
    """The last fifth of each of two lists, in which one person may be twice."""
    lists = {"a": ["p1", "p2", "p3", "p4", "p5"], "b": ["p3", "p5", "p6", "p7", "p8"]}
    names = [f"t/{who}_{one}" for one, people in lists.items() for who in people]
    names += ["e/p9_a", "e/p0_b"]
    fields = {"pattern": "^(?P<part>t|e)/.*_(?P<list>.)$", "people": "test separate", "last": 0.2}
    (fold,) = of_names(names, **fields)
    assert fold.validation == ("t/p5_a", "t/p8_b")
    assert "t/p5_b" in fold.train
    assert (fold.unit, fold.tested_people) == ("recording", ("p0", "p9"))
    with pytest.raises(BergerError, match="p2 has recordings in train and in test, but nobody who"):
        of_names([*names, "e/p2_1"], **fields)


def test_groups_of_trials_are_each_tested_once() -> None:
    names = ["x/p1_1", "x/p1_2", "x/p2_1"]
    groups = [["1-2"], [3, 4], ["5-6"]]
    found = of_names(names, 6, by="trial", groups=groups, people="each alone")
    assert [fold.people for fold in found] == [("p1",)] * 3 + [("p2",)] * 3
    tested = sorted(one for fold in found for one in fold.test)
    assert tested == sorted(f"{name}#{n}" for name in names for n in range(1, 7))
    for fold in found:
        numbers = [
            {int(one[-1]) for one in part} for part in (fold.train, fold.validation, fold.test)
        ]
        assert sorted(map(sorted, numbers)) == [[1, 2], [3, 4], [5, 6]]
    assert sorted(one for fold in found for one in fold.validation) == tested
    pooled = of_names(names, 6, by="trial", groups=groups)
    assert [fold.people for fold in pooled] == [("p1", "p2")] * 3
    assert sorted(one for fold in pooled for one in fold.test) == tested


def test_numbers_of_trials() -> None:
    fields: dict[str, object] = {"by": "trial", "train": ["1-4"], "test": [5, "6-7"]}
    (fold,) = of_names(["x/p_1"], 7, **fields)
    assert fold.test == ("x/p_1#5", "x/p_1#6", "x/p_1#7")
    assert (len(fold.train), len(fold.validation)) == (3, 1)
    (given_parts,) = of_names(["x/p_1"], 3, by="trial", train=[1], validation=[3], test=[2])
    assert given_parts.validation == ("x/p_1#3",)
    with pytest.raises(BergerError, match=r"^x/p_1: trial 8 is in no part of the split; name it"):
        of_names(["x/p_1"], 8, **fields)
    with pytest.raises(BergerError, match=r"^no trial has windows, so that"):
        of_names(["x/p_1"], 0, **fields)
    with pytest.raises(BergerError, match="no trial of p with windows is left for test, which"):
        of_names(["x/p_1"], 4, **fields, people="each alone")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"train": ["1-4"], "test": [4, 5]}, "trial 4 is named 2 times"),
        ({"train": ["4-1"], "test": [5]}, "'4-1' ends before it begins"),
        ({"train": [1]}, "test is missing: the numbers"),
        ({"groups": [[1], [2]]}, "groups must be three at least"),
        ({"groups": [[1], [2], [1]]}, "trial 1 is named 2 times"),
        ({"groups": [[1], [2], [3]], "test": [4]}, "in groups or in parts, not in both"),
        ({"train": ["0-4"], "test": [5]}, "should match pattern"),
        ({"train": [1], "test": [2], "people": "separate"}, "'shared' or 'each alone'"),
    ],
)
def test_numbers_that_are_no_split(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TrialSplit.model_validate({"by": "trial"} | fields)


@pytest.mark.parametrize(
    ("names", "n_trials", "people", "words"),
    [
        (["t/p_1", "e/p_1"], 0, "shared", "p has one recording to train on, whose trials have"),
        (["t/p_1", "e/p_1"], 1, "shared", "no trial with windows is left for validation, which"),
        (["t/p_1", "t/p_2", "e/q_1"], 1, "each alone", "no recording of p .* left for test, which"),
        (["t/p_1", "e/q_1"], 4, "each alone", "no trial of p .* is left for test"),
    ],
)
def test_recordings_that_do_not_suffice(
    names: list[str], n_trials: int, people: str, words: str
) -> None:
    with pytest.raises(BergerError, match=words):
        of_names(names, n_trials, people=people)


def test_each_split_says_whom_it_tests() -> None:
    def name(people: str) -> FileNameSplit:
        parts = {"a": "train", "b": "test"}
        given = {"by": "file name", "pattern": "(?P<part>.)", "parts": parts, "people": people}
        return FileNameSplit.model_validate(given)

    def trial(people: str) -> TrialSplit:
        given = {"by": "trial", "train": [1], "test": [2], "people": people}
        return TrialSplit.model_validate(given)

    told = {
        "strangers": [
            KFold(),
            name("separate"),
            name("test separate"),
            fixed(train=["a"], test=["b"]),
        ],
        "people also learned from": [name("shared"), trial("shared")],
        "within subject": [
            name("each alone"),
            trial("each alone"),
            RecordingWithinSubject(by="recording within subject"),
        ],
    }
    for words, splits in told.items():
        assert {whom_tested(split) for split in splits} == {words}
    with pytest.raises(ValidationError, match="last is of people, who are shared"):
        FileNameSplit.model_validate(name("shared").model_dump() | {"last": 0.5})
