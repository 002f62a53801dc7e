"""What may stand in a task's YAML file, and what is said of what may not."""

from __future__ import annotations

import pytest

from berger.configuration import load_config
from berger.errors import BergerError
from berger.tasks import TaskConfig
from berger.tasks.labels import STAGES

MARKS = {"from": "annotations", "classes": {"a": "A", "b": "B"}}
TABLE = {"from": "table", "table": "t.csv", "recording": "file", "column": "x"}
BESIDE = {"from": "table", "beside": "{stem}.csv", "onset": "t", "duration": 2, "column": "x"}
PEOPLE = {"from": "participants", "column": "age"}
SLEEP = {"from": "hypnogram"}
CLASSES = {"classes": {"a": "A", "b": "B"}}
EVENT = {"from": "event", "tmin": -0.5, "tmax": 3.5}


def task_of(labels: dict[str, object], **fields: object) -> TaskConfig:
    default: dict[str, object] = {"name": "mine", "window_seconds": 2}
    given = default | {"labels": labels} | fields
    return load_config(TaskConfig, None, {k: v for k, v in given.items() if v is not ...})


@pytest.mark.parametrize(
    ("labels", "fields", "words"),
    [
        # a table
        (TABLE | CLASSES | {"beside": "{stem}.csv"}, {}, "one of both, table or beside"),
        ({"from": "table", "column": "x"} | CLASSES, {}, "one of both, table or beside"),
        (TABLE | CLASSES | {"subject": "who"}, {}, "recording or subject is missing"),
        (BESIDE | CLASSES | {"recording": "file"}, {}, "needs onset, not recording or subject"),
        (TABLE | CLASSES | {"duration": 3}, {}, "duration belongs to onset"),
        (TABLE | CLASSES | {"onset": "t"}, {}, "labels.duration is missing"),
        (
            {"from": "table", "table": "t", "subject": "s", "column": "x", "onset": "t"} | CLASSES,
            {},
            "onset needs rows by recording",
        ),
        (BESIDE | CLASSES | {"beside": "stages.csv"}, {}, "that has {stem}"),
        (BESIDE | CLASSES | {"beside": "../{stem}.csv"}, {}, "that has {stem}"),
        (BESIDE | CLASSES | {"stem": "_(.)"}, {}, "must hold a group (?P<stem>...)"),
        (TABLE | CLASSES | {"stem": "(?P<stem>.)"}, {}, "stem belongs to beside"),
        (TABLE, {}, "labels.classes is missing"),
        (TABLE | {"classes": {"a": "A", "b": None}}, {}, "at least two classes"),
        (TABLE | {"classes": {1: "A", 2: "B"}}, {}, "must be text, write it in quotes"),
        (TABLE | CLASSES | {"colum": "x"}, {}, "unknown key 'labels.colum'; did you mean"),
        # a hypnogram
        (SLEEP | {"beside": "{stem}.mat"}, {}, "beside must end with .edf, .csv, .tsv or .txt"),
        (SLEEP | {"beside": "{stem}.csv"}, {}, "column is missing: the one that has the stages"),
        (SLEEP | {"column": "stage"}, {}, "belong to a table beside the recording"),
        (
            SLEEP | {"beside": "{stem}.csv", "column": "x", "duration": "y"},
            {},
            "duration belongs to onset",
        ),
        # windows per event
        (MARKS, {"window": EVENT}, "window goes in the place of window_seconds"),
        (
            MARKS,
            {"window": EVENT, "window_seconds": ..., "step_seconds": 1},
            "goes in the place of window_seconds and step_seconds",
        ),
        (MARKS, {"window": EVENT | {"tmax": -1}, "window_seconds": ...}, "'window': tmax must be"),
        (MARKS, {"window": {"from": "event"}, "window_seconds": ...}, "'window.tmin' is missing"),
        (SLEEP, {"window": EVENT, "window_seconds": ...}, "needs labels with an onset"),
        (TABLE | CLASSES, {"window": EVENT, "window_seconds": ...}, "needs labels with an onset"),
        (MARKS, {"window_seconds": ...}, "'window_seconds' is missing"),
        # a regression
        (MARKS, {"kind": "regression"}, "takes its numbers from a table, participants or a reader"),
        (TABLE | CLASSES, {"kind": "regression"}, "labels.classes belong to a classification"),
        (MARKS, {"target": {"name": "age"}}, "target belongs to `kind: regression`"),
        # a split
        (MARKS, {"split": {"by": "site"}, "n_folds": 3}, "n_folds belongs to the split k-fold"),
        (MARKS, {"split": {"by": "people"}}, "'by' must be one of 'k-fold', 'subject', 'site'"),
        (MARKS, {"split": {"by": "fixed", "train": ["a"]}}, "test is missing"),
        (
            MARKS,
            {"split": {"by": "fixed", "train": ["a", "b"], "test": ["a"]}},
            "a is named 2 times, but nobody may be on two sides",
        ),
        (
            MARKS,
            {"split": {"by": "fixed", "train": ["a"], "table": "t.csv"}},
            "in the table or in lists, not in both",
        ),
        (MARKS, {"split": {"by": "fixed", "sha256": "0"}}, "sha256 belongs to table"),
        (MARKS, {"split": {"by": "fixed", "train": [1], "test": ["b"]}}, "write it in quotes"),
        (MARKS, {"channels": []}, "'channels' = []"),
    ],
)
def test_what_does_not_go_together_is_explained(
    labels: dict[str, object], fields: dict[str, object], words: str
) -> None:
    with pytest.raises(BergerError) as caught:
        task_of(labels, **fields)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_window_per_event_has_the_length_from_tmin_to_tmax() -> None:
    task = task_of(MARKS, window=EVENT | {"tmin": 0.1, "tmax": 0.7}, window_seconds=...)
    assert task.window_seconds == 0.6
    again = TaskConfig.model_validate(task.model_dump(by_alias=True))
    assert again == task


def test_a_regression_has_no_classes() -> None:
    for labels in (TABLE, PEOPLE, BESIDE):
        assert task_of(labels, kind="regression").classes == ()
    assert task_of(PEOPLE | CLASSES).classes == ("A", "B")


def test_classes_that_are_left_out_are_none() -> None:
    labels = MARKS | {"classes": {"x": None, "b": "B", "a": "A", "c": "B"}}
    assert task_of(labels).classes == ("B", "A")


def test_stages_have_the_names_of_the_aasm() -> None:
    assert task_of(SLEEP).classes == ("W", "N1", "N2", "N3", "R")
    names = {"Sleep stage 4": "N3", "Sleep stage R": "R", "REM": "R", "N2": "N2", "Wake": "W"}
    assert {name: STAGES[name] for name in names} == names
    assert STAGES["Sleep stage ?"] is STAGES["Movement time"] is None
    assert "4" not in STAGES  # N3 in some tables, REM in others
