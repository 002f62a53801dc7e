"""Find channels that are broken or unlike the others, and keep them out or interpolate them.

The measures are those of the PREP pipeline, on the filtered signal and without its iterations:
N. Bigdely-Shamlo et al., "The PREP pipeline: standardized preprocessing for large-scale EEG
analysis", Frontiers in Neuroinformatics 9 (2015) 16.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import mne
import numpy as np
import numpy.typing as npt

from berger.channels import canonical_name, positions
from berger.preprocessing.admission import is_unit_known, spread_within_seconds, taken
from berger.preprocessing.config import PreprocessingConfig
from berger.recordings import Recording, RejectedError

_FEWEST = 8  # channels of one kind from which one can tell what is usual
_MOST_SECONDS = 1000
_OTHER_UNIT = 300.0  # units differ by a thousand, electrodes of one kind by a few times


def find_broken(
    recording: Recording, config: PreprocessingConfig
) -> tuple[dict[int, str], dict[str, npt.NDArray[np.bool_]]]:
    """Find channels that the file marks as bad, or that are flat or not finite for too long.

    Returns
    -------
    bad : dict of int to str
        Channel → reason.
    unsound : dict of str to ndarray of bool, shape (n_chans, n_times)
        Cause → samples that are lost for it.
    """
    unsound = {"not finite": ~np.isfinite(recording.signal)}
    if config.flat_seconds is not None:
        shortest = max(math.ceil(config.flat_seconds * recording.sfreq), 2)
        unsound["flat"] = np.stack([_flat(row, shortest) for row in recording.signal])
    share = np.logical_or.reduce(list(unsound.values())).mean(axis=1)
    limit = 1.0 if config.bad_share is None else config.bad_share
    bad = {
        index: f"flat or not finite for {share[index]:.0%} of the recording"
        for index in np.flatnonzero(share > limit).tolist()
    }
    for name in recording.bads:
        bad[recording.ch_names.index(name)] = "marked as bad"
    return dict(sorted(bad.items())), unsound


def _flat(row: npt.NDArray[np.float64], shortest: int) -> npt.NDArray[np.bool_]:
    """Return which samples lie in a run of at least `shortest` equal values."""
    edges = np.concatenate([[0], np.flatnonzero(row[1:] != row[:-1]) + 1, [len(row)]])
    lengths = np.diff(edges)
    return np.repeat(lengths >= shortest, lengths)


def tell_still(recording: Recording, history: list[str]) -> None:
    """Note the channels that hold one value wherever they are finite, but were not called bad."""
    finite = [row[np.isfinite(row)] for row in recording.signal]
    still = [
        name
        for name, row in zip(recording.ch_names, finite, strict=True)
        if row.size and np.ptp(row) == 0
    ]
    if still:
        history.append(
            f"Left in what holds one value throughout: {', '.join(still)} (see flat_seconds and "
            "bad_share)."
        )


def check_one_unit(recording: Recording, config: PreprocessingConfig) -> None:
    """Raise RejectedError if a channel differs from others of its kind as if by its unit.

    Where channels that deviate are looked for (`max_deviation`) it will be one of them.
    """
    if is_unit_known(recording, config):
        return
    spread = spread_within_seconds(recording).T
    levels = [float(np.median(own)) if (own := row[~np.isnan(row)]).size else 0.0 for row in spread]
    kinds = kinds_of(recording)
    for kind in dict.fromkeys(kinds):
        group = [i for i, other in enumerate(kinds) if other == kind and levels[i] > 0]
        if config.max_deviation is not None and len(group) >= _FEWEST:
            continue
        # Of two, the one that is less like EEG.
        group.sort(key=lambda i: -abs(math.log(levels[i] / 10)))
        for i in group if len(group) > 1 else []:
            others = float(np.median([levels[j] for j in group if j != i]))
            if not 1 / _OTHER_UNIT < levels[i] / others < _OTHER_UNIT:
                name = recording.ch_names[i]
                raise RejectedError(
                    f"{recording.path}: {name} varies by {levels[i]:.3g} µV (standard deviation) "
                    f"within a second, the other channels of its kind by {others:.3g} µV, as if "
                    f"its unit were another; leave {name} out by `ch_names`, or set `unit` to "
                    "what the numbers of all really are."
                )


def find_deviating(
    recording: Recording,
    usable: npt.NDArray[np.bool_],
    config: PreprocessingConfig,
    history: list[str],
) -> dict[int, str]:
    """Find channels that are unlike the others of their kind.

    Measured in up to 1,000 seconds, spread evenly over those that are usable.

    Parameters
    ----------
    recording : Recording
        Filtered.
    usable : ndarray of bool, shape (n_times,)
        Where it may be measured.

    Returns
    -------
    dict of int to str
        Channel → reason.
    """
    if (config.max_deviation, config.min_correlation, config.max_noise) == (None, None, None):
        return {}
    second = round(recording.sfreq)
    whole = usable[: len(usable) // second * second].reshape(-1, second).all(axis=1)
    starts = np.flatnonzero(whole) * second
    starts = starts[np.unique(np.linspace(0, len(starts) - 1, _MOST_SECONDS).astype(int))]
    kinds = kinds_of(recording)
    groups = [
        [i for i, other in enumerate(kinds) if other == kind] for kind in dict.fromkeys(kinds)
    ]
    groups = [group for group in groups if len(group) >= _FEWEST]
    if not groups or not len(starts):
        history.append(
            f"Looked for no deviating channels: fewer than {_FEWEST} of one kind, or no second "
            "without a fault."
        )
    bad: dict[int, str] = {}
    for group in groups if len(starts) else []:
        reasons = _deviating([recording.signal[group, a : a + second] for a in starts], config)
        bad |= {group[place]: reason for place, reason in reasons.items()}
    return dict(sorted(bad.items()))


def _deviating(
    seconds: Sequence[npt.NDArray[np.float64]], config: PreprocessingConfig
) -> dict[int, str]:
    """Compare channels, given seconds of shape (n_chans, second); return place → reason."""
    second = seconds[0].shape[1]
    fast = np.fft.rfftfreq(second, 1 / second) > 50
    window = np.hanning(second)
    variances, noises, correlations = [], [], []
    for block in seconds:
        centred = block - block.mean(axis=1, keepdims=True)
        variances.append(centred.var(axis=1))
        if config.max_noise is not None:
            power = np.abs(np.fft.rfft(centred * window)) ** 2
            noises.append([power[:, fast].sum(axis=1), power[:, ~fast].sum(axis=1)])
        if config.min_correlation is not None:
            length = np.linalg.norm(centred, axis=1, keepdims=True)
            unit = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
            alike = np.abs(unit @ unit.T)
            np.fill_diagonal(alike, 0)
            correlations.append(alike.max(axis=1))
    bad = {}
    if config.max_noise is not None:
        above, below = np.median(noises, axis=0)
        z = _robust_z(_log(above) - _log(below))
        for place in np.flatnonzero(z > config.max_noise).tolist():
            bad[place] = f"noise above 50 Hz {z[place]:.1f} robust deviations above the others'"
    if config.min_correlation is not None and config.bad_share is not None:
        share = np.mean(np.array(correlations) < config.min_correlation, axis=0)
        for place in np.flatnonzero(share > config.bad_share).tolist():
            bad[place] = f"correlates with no other channel in {share[place]:.0%} of the seconds"
    if config.max_deviation is not None:
        z = _robust_z(_log(np.median(variances, axis=0)))
        for place in np.flatnonzero(np.abs(z) > config.max_deviation).tolist():
            bad[place] = f"variance {z[place]:+.1f} robust deviations from the others'"
    return bad


def _log(power: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the logarithm, of silence too."""
    return np.asarray(np.log(np.maximum(power, 1e-12)))


def _robust_z(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return distances from the median in robust standard deviations, these of 0.1 at least.

    Channels that differ by a tenth are alike, however much more alike the others are.
    """
    away = values - np.median(values)
    return np.asarray(away / max(1.4826 * float(np.median(np.abs(away))), 0.1))


def kinds_of(recording: Recording) -> tuple[str, ...]:
    """Return the channels' kinds, by their names where nobody has said."""
    return recording.kinds or tuple(
        "scalp" if canonical_name(name) else "name as given" for name in recording.ch_names
    )


def check_bad(
    recording: Recording, bad: Mapping[int, str], config: PreprocessingConfig
) -> list[int]:
    """Return the bad channels that are to be interpolated; the others are to be kept out.

    Raises
    ------
    RejectedError
        If a channel that is bad was asked for, no channel is left, or too many are bad to
        interpolate them.
    """
    scalp = [i for i, kind in enumerate(kinds_of(recording)) if kind == "scalp"]
    filled = [i for i in scalp if i in bad] if config.bad_channels == "interpolate" else []
    # What is read for a reference beside `ch_names` may go; the reference will be missed there.
    asked = {name for given in config.ch_names or () for name in (given, canonical_name(given))}
    labels = zip(recording.ch_names, recording.original_ch_names, strict=True)
    lost = [
        i for i, names in enumerate(labels) if i in bad and i not in filled and {*names} & asked
    ]
    if lost:
        raise RejectedError(
            f"{recording.path}: {_listed(recording, bad, lost)}; leave the channel out of "
            "`ch_names`, or let it be interpolated (bad_channels), or loosen what counts as bad, "
            "e.g. bad_share."
        )
    if len(bad) == len(recording.ch_names):
        raise RejectedError(
            f"{recording.path}: no channel is left: {_listed(recording, bad, bad)}."
        )
    n_good = len(scalp) - len(filled)
    if filled and (n_good < _FEWEST or len(filled) > config.max_interpolated * len(scalp)):
        raise RejectedError(
            f"{recording.path}: {len(filled)} of {len(scalp)} scalp electrodes are bad: "
            f"{_listed(recording, bad, filled)}; they are interpolated from {_FEWEST} good ones at "
            f"least, and up to a share of max_interpolated, {config.max_interpolated:g}."
        )
    return filled


def treat_bad(
    recording: Recording, bad: Mapping[int, str], config: PreprocessingConfig, history: list[str]
) -> tuple[Recording, tuple[str, ...]]:
    """Keep bad channels out or interpolate them; return also the names of those interpolated.

    Parameters
    ----------
    recording : Recording
        Whatever stands in its bad channels is not used.
    bad : mapping of int to str
        Channel → reason.
    config, history
        As everywhere.

    Raises
    ------
    RejectedError
        As `check_bad`.
    """
    if not bad:
        return recording, ()
    filled = check_bad(recording, bad, config)
    names = recording.ch_names
    if filled:
        kinds = kinds_of(recording)
        good = [i for i, kind in enumerate(kinds) if kind == "scalp" and i not in bad]
        weights = interpolation_weights([names[i] for i in good], [names[i] for i in filled])
        signal = recording.signal.copy()
        signal[filled] = weights @ signal[good]
        recording = replace(recording, signal=signal)
        history.append(
            f"Interpolated {_listed(recording, bad, filled)} from {len(good)} electrodes by "
            "spherical splines."
        )
    out = {i: reason for i, reason in bad.items() if i not in filled}
    if out:
        history.append(f"Kept out {_listed(recording, bad, out)}.")
        recording = taken(recording, [i for i in range(len(names)) if i not in out], out)
    return recording, tuple(names[i] for i in filled)


def _listed(recording: Recording, bad: Mapping[int, str], some: Iterable[int]) -> str:
    """List bad channels with their reasons."""
    return ", ".join(f"{recording.ch_names[i]} ({bad[i]})" for i in some)


def interpolation_weights(good: Sequence[str], bad: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return how electrodes follow from others by spherical splines.

    F. Perrin et al., "Spherical splines for scalp potential and current density mapping",
    Electroencephalography and Clinical Neurophysiology 72 (1989) 184-187, as MNE does it.

    Parameters
    ----------
    good, bad : sequence of str
        Names of electrodes of the 10-5 system.

    Returns
    -------
    ndarray, shape (n_bad, n_good)
        The signals of `bad` are this times those of `good`.
    """
    names = [*good, *bad]
    info = mne.create_info(names, 1.0, "eeg")
    places = dict(zip(names, 0.095 * positions(names), strict=True))
    info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"))
    info["bads"] = list(bad)
    # One sample for each good electrode, at which it is 1 and all others 0.
    raw = mne.io.RawArray(np.eye(len(names), len(good)), info, verbose="ERROR")
    raw.interpolate_bads(origin=(0.0, 0.0, 0.0), method="spline", verbose="ERROR")
    return np.asarray(raw.get_data()[len(good) :])
