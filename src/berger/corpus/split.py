"""Split by subject: nobody is on two sides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from berger.errors import BergerError


def split_subjects(
    subjects: Iterable[str], fractions: Mapping[str, float], seed: int
) -> dict[str, tuple[str, ...]]:
    """Divide subjects among parts of given size.

    Parameters
    ----------
    subjects : iterable of str
        Order and repetitions do not matter.
    fractions : mapping of str to float
        Part → its share, e.g. ``{"train": 0.8, "validation": 0.2}``; the shares sum to 1.
    seed : int
        The same seed gives the same split.

    Returns
    -------
    dict of str to tuple of str
        Part → its subjects, sorted. Every subject is in exactly one part. No part is empty as
        long as there are as many subjects as parts; else the later parts are.

    Raises
    ------
    BergerError
        For shares that are not positive or do not sum to 1.
    """
    shares = np.array(list(fractions.values()), dtype=float)
    if not (shares > 0).all() or not np.isclose(shares.sum(), 1, rtol=0, atol=1e-6):
        raise BergerError(f"fractions {dict(fractions)}: must be positive and sum to 1.")
    shuffled = _shuffled(subjects, seed)
    # One for each part first, as far as they go; then always to the part that lacks most.
    sizes = (np.arange(len(shares)) < len(shuffled)).astype(int)
    for _ in range(len(shuffled) - sizes.sum()):
        sizes[np.argmax(shares * len(shuffled) - sizes)] += 1
    stops = np.cumsum(sizes)
    return {
        part: tuple(sorted(shuffled[stop - size : stop]))
        for part, size, stop in zip(fractions, sizes, stops, strict=True)
    }


def subject_folds(subjects: Iterable[str], n_folds: int, seed: int) -> list[tuple[str, ...]]:
    """Divide subjects into folds, each to be held out once while the others are trained on.

    Parameters
    ----------
    subjects : iterable of str
        Order and repetitions do not matter.
    n_folds : int
        From 2 to the number of subjects; that number means leave-one-subject-out.
    seed : int
        The same seed gives the same folds.

    Returns
    -------
    list of tuple of str
        The subjects of each fold, sorted. Every subject is in exactly one fold; the sizes differ
        by one at most.

    Raises
    ------
    BergerError
        For fewer than 2 folds, or fewer subjects than folds.
    """
    shuffled = _shuffled(subjects, seed)
    if not 2 <= n_folds <= len(shuffled):
        raise BergerError(
            f"{n_folds} folds of {len(shuffled)} subjects: choose from 2 to as many folds as "
            "there are subjects."
        )
    return [tuple(sorted(shuffled[fold::n_folds])) for fold in range(n_folds)]


def _shuffled(subjects: Iterable[str], seed: int) -> list[str]:
    """Return the distinct subjects in an order that only they and the seed decide."""
    known = sorted(set(subjects))
    return [known[index] for index in np.random.default_rng(seed).permutation(len(known))]
