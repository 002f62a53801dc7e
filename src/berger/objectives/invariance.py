"""How far a window's features stay the same under other masks, against other windows' features.

    window ─┬─ mask 1 ─► encoder ─┐
            └─ mask 2 ─► encoder ─┴─ alike? and more alike than to the other windows?

A measure, no loss: masks are given an overlap, from the same mask to hardly any overlap, and what
follows says at which overlap the features of a window can no longer be told to be of one window.
Every measure is of features scaled to length 1 (T. Wang & P. Isola, "Understanding contrastive
representation learning through alignment and uniformity on the hypersphere", ICML 2020).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from berger.corpus import WindowDataset
from berger.errors import BergerError
from berger.masking.gaussian import Bumps, GaussianMaskConfig, draw_bumps, lay_on, mask_signal
from berger.masking.views import ViewsConfig, draw_views
from berger.models import DareEEG, Encoder
from berger.objectives.dual_alignment import pooled
from berger.spectral import map_shape

OVERLAPS = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
"""Wanted intersection over union of the two masks."""
SAME_STEPS, OWN_STEPS, MAPS = "same steps", "own steps", "time-frequency maps"
"""Kinds of pairs of masks."""
MEASURES = ("alignment", "uniformity", "retrieval", "cosine_within", "cosine_between")


class Pair(NamedTuple):
    """Features of the same windows under two masks.

    Attributes
    ----------
    kind : str
        `SAME_STEPS`, `OWN_STEPS` or `MAPS`.
    wanted, overlap : float
        Intersection over union of what the two masks show (patches) or hide (maps): as asked for,
        and as drawn.
    one, other : Tensor, shape (n_windows, dim)
    """

    kind: str
    wanted: float
    overlap: float
    one: Tensor
    other: Tensor


@torch.inference_mode()
def invariance(
    encoder: Encoder,
    windows: WindowDataset,
    masks: ViewsConfig | GaussianMaskConfig,
    *,
    seed: int,
    overlaps: Sequence[float] = OVERLAPS,
    n_draws: int = 4,
    batch_size: int = 32,
) -> pd.DataFrame:
    """Compare windows under pairs of masks of falling overlap.

    Windows are compared with those of the same montage, from which only the signal tells them
    apart; a window that is the only one of its montage is not compared.

    Parameters
    ----------
    encoder : Encoder
        Used in evaluation mode, on the device where it is.
    windows : WindowDataset
    masks : ViewsConfig or GaussianMaskConfig
        Views are for a `DareEEG`: all windows are masked alike, once with the same time steps
        in both views and once with steps of their own, whatever `masks.same_steps` says. An
        overlap of 1 is the same mask, and left out with steps of their own; any other two views
        of more than one electrode differ in at least one of a step. With steps of their own the
        overlap is meant within the steps that both see. Gaussian masks are for any encoder: each
        window has its own, and the two share bumps.
    seed : int
        Of the masks; what is drawn does not depend on the encoder, so that two see the same.
    overlaps : sequence of float
    n_draws : int
        Draws of masks over which the measures are averaged.
    batch_size : int

    Returns
    -------
    DataFrame
        One row for each ``masks`` (the kind of pair) and ``wanted`` overlap: the realised
        ``overlap``, ``n_windows``, ``chance`` (of retrieval), and the measures of `compare`,
        averaged over windows and draws. Empty if no two windows have the same montage.

    Raises
    ------
    BergerError
        If views are asked of another encoder, or windows cannot be masked.
    """
    if isinstance(masks, ViewsConfig) and not isinstance(encoder, DareEEG):
        raise BergerError(
            f"a {type(encoder).__name__} sees whole signals and no patches; give Gaussian masks."
        )
    encoder.eval()
    rows: list[dict[str, Any]] = []
    for some in _by_montage(windows):
        batches = [(b.signal(_device(encoder)), b.ch_names) for b in some.batches(batch_size)]
        for draw in range(n_draws):
            if isinstance(masks, ViewsConfig):
                pairs = _pairs_of_views(encoder, batches, masks, seed + draw, overlaps)
            else:
                pairs = _pairs_of_maps(encoder, batches, masks, seed + draw, overlaps)
            for pair in pairs:
                facts = {"masks": pair.kind, "wanted": pair.wanted, "overlap": pair.overlap}
                number = {"n_windows": len(pair.one), "chance": 1 / len(pair.one)}
                rows.append(facts | number | compare(pair.one, pair.other))
    columns = ["masks", "wanted", "overlap", "n_windows", "chance", *MEASURES]
    table = pd.DataFrame(rows, columns=columns)
    weight = table["n_windows"].astype(float)
    averaged = [name for name in columns[2:] if name != "n_windows"]
    sums = table[averaged].mul(weight, axis=0).assign(n_windows=weight)
    sums = sums.groupby([table["masks"], table["wanted"]], sort=False).sum().reset_index()
    sums[averaged] = sums[averaged].div(sums["n_windows"], axis=0)
    sums["n_windows"] = (sums["n_windows"] / n_draws).astype(int)
    return sums[columns].sort_values(["masks", "wanted"], ascending=False, ignore_index=True)


def compare(one: Tensor, other: Tensor) -> dict[str, float]:
    """Measure how alike two tables of features of the same windows are.

    Parameters
    ----------
    one, other : Tensor, shape (n_windows, dim)
        Row i of both is of one window; at least two windows.

    Returns
    -------
    dict of str to float
        With all rows scaled to length 1:

        - ``alignment``: mean squared distance of a window's two rows; 0 if they are the same;
        - ``uniformity``: logarithm of the mean of exp(−2 d²), d the distance of two different
          windows' rows in the same table; 0 if all are the same, the lower the more spread;
        - ``retrieval``: share of rows of either table whose nearest row of the other one is of the
          same window; of rows that are equally near one counts, as by a fair die;
        - ``cosine_within``: mean cosine of a window's two rows;
        - ``cosine_between``: that of rows of different windows, one of each table.
    """
    one, other = (F.normalize(rows.double(), dim=-1) for rows in (one, other))
    n_windows = len(one)
    cosine = one @ other.T
    different = ~torch.eye(n_windows, dtype=torch.bool, device=one.device)
    own = cosine.diagonal()
    # squared distance of two rows of length 1: 2 − 2 · cosine
    spread = torch.stack([(4 * (rows @ rows.T)[different] - 4).exp() for rows in (one, other)])
    found = []
    for rows in (cosine, cosine.T):
        nearest = rows >= rows.max(1, keepdim=True).values - 1e-12
        found.append((nearest.diagonal() / nearest.sum(1)).mean())
    measured = (
        (one - other).square().sum(1).mean(),
        spread.mean().log(),
        torch.stack(found).mean(),
        own.mean(),
        cosine[different].mean(),
    )
    return {name: float(value) for name, value in zip(MEASURES, measured, strict=True)}


def _pairs_of_views(
    encoder: Encoder,
    batches: list[tuple[Tensor, tuple[str, ...]]],
    config: ViewsConfig,
    seed: int,
    overlaps: Sequence[float],
) -> Iterator[Pair]:
    """Yield features under two views, with the same steps and with steps of their own."""
    assert isinstance(encoder, DareEEG)
    signal, ch_names = batches[0]
    n_chans, n_steps = len(ch_names), signal.shape[-1] // encoder.config.patch_size

    def features(visible: Tensor) -> Tensor:
        # as the mask alignment reads them: averaged over steps, streams side by side
        return torch.cat(
            [pooled(encoder.encoder(*encoder.prepare(x, names), visible)) for x, names in batches]
        )

    known: dict[bytes, Tensor] = {}
    for kind, same_steps in ((SAME_STEPS, True), (OWN_STEPS, False)):
        for wanted in overlaps:
            if wanted == 1 and not same_steps:
                continue
            fixed = {"overlap": (wanted, wanted), "jitter": 0.0, "same_steps": same_steps}
            views = draw_views(
                n_steps,
                n_chans,
                config.model_copy(update=fixed),
                torch.Generator().manual_seed(seed),  # the same first view at every overlap
                signal.device,
            )
            key = views.visible1.cpu().numpy().tobytes()
            if key not in known:
                known = {key: features(views.visible1)}
            if same_steps and wanted == 1:
                yield Pair(kind, wanted, 1.0, known[key], known[key])
            else:
                yield Pair(kind, wanted, views.overlap, known[key], features(views.visible2))


def _pairs_of_maps(
    encoder: Encoder,
    batches: list[tuple[Tensor, tuple[str, ...]]],
    config: GaussianMaskConfig,
    seed: int,
    overlaps: Sequence[float],
) -> Iterator[Pair]:
    """Yield features under two Gaussian masks, which share bumps."""
    n_windows, n_times = sum(len(x) for x, _ in batches), batches[0][0].shape[-1]
    sfreq, device = encoder.contract.sfreq, batches[0][0].device
    generator = torch.Generator().manual_seed(seed)
    shape = map_shape(n_times, config.n_fft, config.hop)
    first, second = (
        draw_bumps(n_windows, shape, sfreq, config, generator, device) for _ in range(2)
    )
    pick = torch.rand(first.centre_bin.shape, generator=generator).to(device)

    def features(gain: Tensor) -> Tensor:
        gains = torch.split(gain, [len(x) for x, _ in batches])
        return torch.cat(
            [
                encoder.forward_features(mask_signal(x, own, config), names).summary
                for (x, names), own in zip(batches, gains, strict=True)
            ]
        )

    gain, _ = lay_on(first, shape, config)
    one = features(gain)
    for wanted in overlaps:
        # of two sets of equal size, the share in common that gives this intersection over union
        shared = pick < 2 * wanted / (1 + wanted)
        mixed = Bumps(*(torch.where(shared, *both) for both in zip(first, second, strict=True)))
        other, _ = lay_on(mixed, shape, config)
        hidden = torch.stack((1 - gain, 1 - other))
        overlap = float(hidden.amin(0).sum() / hidden.amax(0).sum())
        yield Pair(MAPS, wanted, overlap, one, features(other))


def _by_montage(windows: WindowDataset) -> Iterator[WindowDataset]:
    """Yield the windows of each montage that has two at least."""
    montage = [windows.blocks[block].ch_names for block in windows.of_block]
    for ch_names in dict.fromkeys(montage):
        own = np.flatnonzero([names == ch_names for names in montage])
        if len(own) > 1:
            yield windows.take(own)


def _device(encoder: Encoder) -> torch.device:
    return next(encoder.parameters()).device
