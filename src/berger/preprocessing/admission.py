"""Refuse what cannot be made comparable, and choose channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from berger.channels import canonical_name, electrodes_of
from berger.preprocessing.config import PreprocessingConfig
from berger.recordings import MICROVOLTS, KeptOut, LayoutConfig, Recording, RejectedError

_PLAUSIBLE = (0.05, 3000.0)  # µV, standard deviation within a second


def check_admitted(recording: Recording, config: PreprocessingConfig) -> None:
    """Raise RejectedError for what can be seen before anything is done."""
    path = recording.path
    if recording.duration < config.min_duration:
        raise RejectedError(
            f"{path}: lasts {recording.duration:.1f} s, less than min_duration, "
            f"{config.min_duration:g} s."
        )
    # As lowpass lies below half of sfreq, this also keeps it below what was recorded.
    if recording.sfreq < config.sfreq * (1 - 1e-6):
        holds_band = config.lowpass is not None and config.lowpass < recording.sfreq / 2
        if not config.upsample or not holds_band:
            also = f", or upsample: true, which the low-pass of {config.lowpass:g} Hz allows"
            raise RejectedError(
                f"{path}: was sampled at {recording.sfreq:g} Hz and would be upsampled to "
                f"{config.sfreq:g} Hz; set sfreq to {recording.sfreq:g} or less, and lowpass below "
                f"half of that{also if holds_band else ''}."
            )


def check_plausible(recording: Recording, config: PreprocessingConfig) -> None:
    """Raise RejectedError if the signal is a thousand times too large or small for EEG.

    From the scalp it is some 10 µV, from within the brain or a rodent's some 100 µV. Whoever gives
    `unit` knows.
    """
    spread = spread_within_seconds(recording)
    if is_unit_known(recording, config) or np.isnan(spread).all():
        return
    typical = float(np.nanmedian(spread))
    if not _PLAUSIBLE[0] < typical < _PLAUSIBLE[1]:
        much = "little" if typical < 1 else "much"
        which, remedy = "it", "set `unit` to what its numbers really are"
        if (layout := _layout_of(recording, config)) is not None:
            which = "that its layout"
            remedy = f"correct `layout.unit`, or, if it is right, set `unit` to {layout.unit} too"
        raise RejectedError(
            f"{recording.path}: varies by {typical:.3g} µV (standard deviation) within a second, "
            f"too {much} for the unit {which} declares; {remedy}."
        )


def spread_within_seconds(recording: Recording) -> npt.NDArray[np.float64]:
    """Return the standard deviation in up to 100 seconds, in µV, shape (n_seconds, n_chans).

    Within single seconds, so that drifts of DC amplifiers do not count. NaN where a channel is not
    finite, or stands still: it has no unit to be wrong then.
    """
    second = max(round(recording.sfreq), 2)
    n_seconds = recording.signal.shape[1] // second
    chosen = np.linspace(0, n_seconds - 1, 100).astype(int) if n_seconds else np.zeros(0, int)
    blocks = [recording.signal[:, s * second : (s + 1) * second] for s in np.unique(chosen)]
    with np.errstate(invalid="ignore"):  # infinite values
        rows = [np.where(np.ptp(block, axis=1) > 0, block.std(axis=1), np.nan) for block in blocks]
    return np.array(rows).reshape(-1, len(recording.signal))


def is_unit_known(recording: Recording, config: PreprocessingConfig) -> bool:
    """Return whether the unit that was read in is the one that the configuration vouches for."""
    layout = _layout_of(recording, config)
    if config.unit is None or layout is None:
        return config.unit is not None
    return MICROVOLTS[config.unit] == MICROVOLTS[layout.unit]


def _layout_of(recording: Recording, config: PreprocessingConfig) -> LayoutConfig | None:
    """Return the layout that a recording was read by, if any."""
    layout = config.layout
    laid_out = layout is not None and recording.path.name.lower().endswith(layout.suffix)
    return layout if laid_out else None


def pick(recording: Recording, ch_names: Sequence[str], besides: Sequence[str]) -> Recording:
    """Keep exactly these, by canonical name or name in the file, in this order, and `besides`."""
    places = {name: index for index, name in enumerate(recording.original_ch_names)}
    places |= {name: index for index, name in enumerate(recording.ch_names)}
    wanted = {name: places.get(name, places.get(canonical_name(name) or "")) for name in ch_names}
    missing = [name for name, index in wanted.items() if index is None]
    if missing:
        raise RejectedError(
            f"{recording.path}: lacks {', '.join(missing)} of `ch_names`; it has "
            f"{', '.join(recording.ch_names)}."
        )
    picks = [index for index in wanted.values() if index is not None]
    picks += [
        index for name in besides for index in places_of(recording, name) if index not in picks
    ]
    others = set(range(len(recording.ch_names))) - set(picks)
    return taken(recording, picks, dict.fromkeys(sorted(others), "not asked for"))


def places_of(recording: Recording, electrode: str) -> list[int]:
    """Return where an electrode is, ears and mastoids included, by its name or a label."""
    labels = recording.original_ch_names
    exact = [i for i, label in enumerate(labels) if electrode in (label, recording.ch_names[i])]
    (known,) = electrodes_of([electrode])
    return exact or [
        i for i, name in enumerate(electrodes_of(labels)) if name is not None and name == known
    ]


def taken(recording: Recording, picks: list[int], out: dict[int, str]) -> Recording:
    """Return the recording with these channels; the others are kept out for a reason."""
    names = tuple(recording.ch_names[index] for index in picks)
    return replace(
        recording,
        signal=recording.signal[picks],
        ch_names=names,
        original_ch_names=tuple(recording.original_ch_names[index] for index in picks),
        kinds=tuple(recording.kinds[index] for index in picks) if recording.kinds else (),
        bads=tuple(name for name in names if name in recording.bads),
        kept_out=recording.kept_out
        + tuple(KeptOut(recording.original_ch_names[i], reason) for i, reason in out.items()),
    )
