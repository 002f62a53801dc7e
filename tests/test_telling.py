"""What the terminal is told of tasks."""

from __future__ import annotations

import pytest

from berger.tasks import catalogue, load_task
from berger.telling import describe_split


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("tuab@given", "train to learn from, eval tested; some of train to choose by"),
        (
            "tuab@cbramod",
            "the last 20% of the people of each list of train to choose by; some people are both "
            "learned from and chosen by",
        ),
        (
            "bcic2020-3@given",
            "Training to learn from, Validation to choose by, Test tested; people tested were also "
            "learned from",
        ),
        ("bcic2020-3@competition", "Test tested; each person alone"),
        (
            "seed-v@trials-5-5-5",
            "trials of every recording by number: 1-5 to learn from, 6-10 to choose by, 11-15 "
            "tested; people tested were also learned from",
        ),
        ("seed-v@threefold", "by number: 1-5 | 6-10 | 11-15, each tested once; each person alone"),
        (
            "seed-iv@trials-16-8",
            "1-16 to learn from, some of them to choose by, 17-24 tested; each",
        ),
        ("siena@specmoe", "10 people to learn from, some of them to choose by, 4 tested"),
        ("seed-v@subjects-5-5-5", "5 people to learn from, 5 to choose by, 5 tested"),
    ],
)
def test_a_split_says_who_is_tested_by_what_was_learned_from_whom(task: str, words: str) -> None:
    assert words in describe_split(load_task(task).split)


def test_whoever_does_not_test_strangers_says_so() -> None:
    for name in catalogue():
        task = load_task(name)
        for split in task.splits or [None]:
            chosen = load_task(f"{name}@{split}") if split else task
            told = describe_split(chosen.split)
            assert ("people tested were also learned from" in told) == (
                chosen.tested_on == "people also learned from"
            )
            assert ("each person alone" in told) == (chosen.tested_on == "within subject")
