"""Few labelled windows: as many of each class, from people as evenly as they allow."""

from __future__ import annotations

from itertools import chain, zip_longest

import numpy as np
import numpy.typing as npt
import pandas as pd

from berger.errors import BergerError


def draw_shots(
    windows: pd.DataFrame,
    part: npt.NDArray[np.bool_],
    classes: tuple[str, ...],
    shots: int,
    rng: np.random.Generator,
    whose: str,
) -> npt.NDArray[np.bool_]:
    """Draw windows of some people: of each class as many, one person after another.

    The order of the people is the same for all classes, so that who gives a window of one class
    gives, if they have it, one of the others too.

    Parameters
    ----------
    windows : DataFrame
        ``subject, label``.
    part : ndarray of bool, shape (n_windows,)
        Which windows are those of the people.
    classes : tuple of str
        None in a regression, where all windows are of one kind.
    shots : int
        Windows of each class.
    rng : numpy.random.Generator
    whose : str
        Who the people are, for the message.

    Returns
    -------
    ndarray of bool, shape (n_windows,)
        ``shots`` of each class. No person has given two more of a class than another who had more.

    Raises
    ------
    BergerError
        If a class has fewer.
    """
    subject, labels = windows["subject"].to_numpy(), windows["label"].to_numpy()
    people = rng.permutation(np.unique(subject[part]))
    drawn = np.zeros(len(windows), bool)
    for label in classes or (None,):
        own = part if label is None else part & (labels == label)
        if (n_windows := int(own.sum())) < shots:
            raise BergerError(
                f"{whose} have {n_windows} windows{f' of {label}' if label else ''}, fewer than "
                f"shots: {shots}; take fewer shots, or another n_folds or validation_share."
            )
        of_each = [rng.permutation(np.flatnonzero(own & (subject == who))) for who in people]
        in_turn = [row for row in chain(*zip_longest(*of_each)) if row is not None]
        drawn[in_turn[:shots]] = True
    return drawn
