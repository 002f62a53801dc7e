from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berger.corpus import split_subjects, subject_folds
from berger.errors import BergerError

people = st.lists(st.text(max_size=3), max_size=40)
seeds = st.integers(0, 2**32)
shares = st.lists(st.integers(1, 20), min_size=1, max_size=5).map(
    lambda parts: {f"part {i}": part / sum(parts) for i, part in enumerate(parts)}
)


@given(people, shares, seeds)
def test_split_is_disjoint_covers_all_and_leaves_no_part_empty(
    subjects: list[str], fractions: dict[str, float], seed: int
) -> None:
    split = split_subjects(subjects, fractions, seed)
    together = [subject for part in split.values() for subject in part]
    assert list(split) == list(fractions)
    assert sorted(together) == sorted(set(subjects))
    if len(together) >= len(split):
        assert all(split.values())


@given(people, shares, seeds)
def test_split_depends_on_who_and_seed_alone(
    subjects: list[str], fractions: dict[str, float], seed: int
) -> None:
    again = split_subjects([*reversed(subjects), *subjects], fractions, seed)
    assert again == split_subjects(subjects, fractions, seed)


def test_split_has_the_sizes_asked_for() -> None:
    split = split_subjects(map(str, range(36)), {"train": 28 / 36, "val": 4 / 36, "test": 1 / 9}, 0)
    assert [len(part) for part in split.values()] == [28, 4, 4]
    assert split != split_subjects(map(str, range(36)), {"train": 28 / 36, "val": 8 / 36}, 1)


@pytest.mark.parametrize("fractions", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": float("nan")}])
def test_split_refuses_shares_that_are_no_partition(fractions: dict[str, float]) -> None:
    with pytest.raises(BergerError, match="positive and sum to 1"):
        split_subjects(["a", "b"], fractions, 0)


@given(st.sets(st.text(max_size=3), min_size=2, max_size=40), st.data(), seeds)
def test_folds_are_disjoint_cover_all_and_are_even(
    subjects: set[str], data: st.DataObject, seed: int
) -> None:
    n_folds = data.draw(st.integers(2, len(subjects)))
    folds = subject_folds(subjects, n_folds, seed)
    together = [subject for fold in folds for subject in fold]
    assert len(folds) == n_folds
    assert sorted(together) == sorted(subjects)
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    assert folds == subject_folds(sorted(subjects), n_folds, seed)


@pytest.mark.parametrize("n_folds", [1, 4])
def test_folds_refuses_what_cannot_be(n_folds: int) -> None:
    with pytest.raises(BergerError, match="folds of 3 subjects"):
        subject_folds(["a", "b", "c"], n_folds, 0)
