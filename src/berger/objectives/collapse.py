"""Tell whether features are worth something; no gradient follows what is found."""

from __future__ import annotations

import torch
from torch import Tensor


def spread(tokens: Tensor) -> dict[str, Tensor]:
    """Tell whether features differ from each other, and in how many ways.

    Parameters
    ----------
    tokens : Tensor, shape (..., dim)

    Returns
    -------
    dict of str to Tensor
        - ``feature_std``: standard deviation of the tokens, averaged over dimensions; 0 if they
          have collapsed to a point;
        - ``effective_rank``: see `effective_rank`.
    """
    rows = tokens.detach().flatten(0, -2).float()
    return {
        "feature_std": rows.std(0, correction=0).mean(),
        "effective_rank": effective_rank(rows),
    }


def effective_rank(rows: Tensor) -> Tensor:
    """Count the dimensions that a table of features spans, small ones in part.

    The exponential of the entropy of the eigenvalues of the rows' covariance, each taken as a
    share of their sum (after Roy & Vetterli, EUSIPCO 2007): d if d dimensions vary alike and
    without correlation, 1 if all rows lie on a line or a point.

    Parameters
    ----------
    rows : Tensor, shape (n, dim)

    Returns
    -------
    Tensor
        Scalar; no number if a row holds one that is not finite.
    """
    centred = (rows - rows.mean(0)).double()
    if not torch.isfinite(centred).all():  # which has no eigenvalues
        return centred.new_tensor(torch.nan)
    values = torch.linalg.eigvalsh(centred.T @ centred).clamp_min(0)
    shares = values / values.sum().clamp_min(torch.finfo(torch.double).tiny)
    rank: Tensor = torch.special.entr(shares).sum().exp()
    return rank
