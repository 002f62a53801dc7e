"""The electrodes that DARE-EEG has an embedding of, and how a montage finds its own among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from berger.channels import canonical_names, positions
from berger.errors import BergerError

_TABLE = """
                Fp1 Fpz Fp2
            AF7 AF3     AF4 AF8
     F7  F5  F3  F1  Fz  F2  F4  F6  F8
    FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8
     T7  C5  C3  C1  Cz  C2  C4  C6  T8
    TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8
     P7  P5  P3  P1  Pz  P2  P4  P6  P8
        PO7 PO5 PO3 POz PO4 PO6 PO8
                 O1  Oz  O2
"""
ELECTRODES = tuple(_TABLE.split())
"""Electrodes that have an embedding, in the order of the table."""


def find_places(
    ch_names: Sequence[str], nearest: bool = False
) -> tuple[list[int], list[tuple[str, int]]]:
    """Find electrodes in the table of embeddings.

    Parameters
    ----------
    ch_names : sequence of str
        Names or labels that `berger.channels.canonical_names` understands.
    nearest : bool
        Electrodes that are not in it take the place of the nearest one that is.

    Returns
    -------
    list of int
        Places in `ELECTRODES`.
    list of (str, int)
        The electrodes that are not in it, and whose places they took.

    Raises
    ------
    BergerError
        If a channel has no place, or two have the same.
    """
    known = {name: place for place, name in enumerate(ELECTRODES)}
    found = [known.get(name or "") for name in canonical_names(ch_names)]
    unknown = [name for name, place in zip(ch_names, found, strict=True) if place is None]
    borrowed = []
    if nearest:
        for name, where in zip(unknown, positions(unknown), strict=True):
            if np.isfinite(where).all():
                distance = np.linalg.norm(positions(ELECTRODES) - where, axis=1)
                borrowed.append((name, int(distance.argmin())))
        unknown = [name for name in unknown if name not in dict(borrowed)]
    if unknown:
        located = np.isfinite(positions(unknown)).all(axis=1).any()
        hint = ", set unknown_electrodes: nearest" if located and not nearest else ""
        why = "" if located else " and no position"
        raise BergerError(
            f"the model has no embedding{why} for {', '.join(unknown)}; prepare the recordings "
            f"with ch_names that keep them out{hint}, or pretrain a model with these names as "
            "model.electrodes."
        )
    places = [
        dict(borrowed)[name] if place is None else place
        for name, place in zip(ch_names, found, strict=True)
    ]
    for place in places:
        if places.count(place) > 1:
            both = [name for name, own in zip(ch_names, places, strict=True) if own == place]
            raise BergerError(
                f"{' and '.join(both)} would share the embedding of {ELECTRODES[place]}; prepare "
                "the recordings with ch_names that keep one of them."
            )
    return places, borrowed


def named_places(ch_names: Sequence[str], known: Sequence[str]) -> list[int]:
    """Find channels among names that are not those of the 10-20 system.

    Parameters
    ----------
    ch_names, known : sequence of str
        Names in `known` differ; a channel has the very name that stands there.

    Returns
    -------
    list of int
        Places in `known`.

    Raises
    ------
    BergerError
        If a channel has no place, or two have the same.
    """
    if unknown := [name for name in ch_names if name not in known]:
        raise BergerError(
            f"the model has no embedding for {', '.join(unknown)}, only for {', '.join(known)}; "
            "prepare the recordings with ch_names that keep them out."
        )
    if len(set(ch_names)) < len(ch_names):
        raise BergerError(f"channels are named twice: {', '.join(ch_names)}; keep one of each.")
    return [list(known).index(name) for name in ch_names]
