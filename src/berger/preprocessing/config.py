"""How recordings are made comparable: the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from berger.channels import canonical_name, electrodes_of
from berger.configuration import Config
from berger.errors import BergerError
from berger.recordings import LayoutConfig, Unit, compile_subject_pattern

_CHAINS = (
    ("Fp1", "F7", "T7", "P7", "O1"),
    ("Fp2", "F8", "T8", "P8", "O2"),
    ("Fp1", "F3", "C3", "P3", "O1"),
    ("Fp2", "F4", "C4", "P4", "O2"),
)
_ACROSS = ("A1", "T7", "C3", "Cz", "C4", "T8", "A2")

BIPOLAR_SETS: Mapping[str, tuple[tuple[str, str], ...]] = MappingProxyType(
    {
        "double banana": tuple(pair for chain in _CHAINS for pair in pairwise(chain)),
        "tcp": tuple(pair for chain in (*_CHAINS, _ACROSS) for pair in pairwise(chain)),
    }
)
"""Sets of bipolar channels by name.

"double banana" has the 16 pairs of the two chains along each side. "tcp" adds the six from ear to
ear, 22 in all: the temporal central parasagittal montage of the TUH EEG Corpus (S. López et al.,
"An analysis of two common reference points for EEGs", IEEE Signal Processing in Medicine and
Biology Symposium, 2016).
"""


class PreprocessingConfig(Config):
    """How recordings are made comparable.

    Attributes
    ----------
    sfreq : float
        Sampling rate of the result in Hz.
    upsample : bool
        Whether recordings of a lower rate are brought to it, which adds no frequencies: only those
        whose own band holds all below `lowpass`. By default they are rejected.
    highpass, lowpass : float or None
        Edges of the pass band in Hz. The response falls outside them: to −6 dB at half the
        high-pass (for one of up to 2 Hz) and at most 12.5 % above the low-pass. Without a
        low-pass, 90 % of the new Nyquist frequency serves where the rate is lowered.
    notch : float, "auto" or None
        Mains frequency in Hz. It and its harmonics inside the band are removed. "auto" looks for
        50 or 60 Hz in each recording (see `berger.preprocessing.filtering.find_mains`).
    reference : {"as recorded", "average"} or tuple of str
        "average" subtracts the mean of the scalp electrodes that are well, names of electrodes
        (("M1", "M2"), or ("Cz",)) their mean. Channels of other kinds, e.g. EMG, stay as they
        were recorded; the reference electrodes themselves are kept out.
    bipolar : {"double banana", "tcp"}, tuple of pairs of str, or None
        Make these differences of two electrodes, and keep nothing else; see `BIPOLAR_SETS`.
    ch_names : tuple of str or None
        Keep exactly these, in this order; recordings that lack one are rejected.
    max_amplitude : float or None
        Samples at which any channel reaches this many µV (after filtering) are not usable.
    flat_seconds : float or None
        Time in which a channel of the raw recording holds one value for this many seconds or
        longer (disconnected, or saturated) is not usable. By default it is not looked for.
    bad_channels : {"drop", "interpolate"}
        What becomes of channels that the file marks as bad, and of those found by the next four:
        they are kept out (and if `ch_names` asks for one, the recording is rejected), or, on the
        scalp, computed from the others by spherical splines.
    bad_share : float or None
        A channel that is flat (see `flat_seconds`) or not finite for more than this share of the
        recording is bad; so is one that `min_correlation` finds for more than this share.
    max_deviation : float or None
        A channel is bad if the logarithm of its variance lies this many robust standard
        deviations from the median over channels, e.g. 5.
    min_correlation : float or None
        A second of a channel counts as bad if it correlates with none of the others by this much,
        e.g. 0.4.
    max_noise : float or None
        A channel is bad if its power above 50 Hz, against that below, lies this many robust
        standard deviations above the median over channels, e.g. 5.
    max_interpolated : float
        Recordings with a larger share of bad scalp electrodes are rejected, if these would be
        interpolated.
    cut_start, cut_end : float
        Seconds to cut at the ends.
    min_duration : float
        Recordings shorter than this many seconds, before cutting, are rejected.
    subject_pattern, layout, unit
        As in `berger.recordings.read_recording`. Recordings whose amplitude is implausible for
        the unit that they, or their layout, declare are rejected, unless `unit` is given (with a
        layout: the same as there). So are those of which one channel differs by a factor of
        hundreds from the others of its kind.
    species : str or None
        Who was recorded, e.g. "human" or "mouse"; noted with every recording.
    """

    sfreq: float = Field(200.0, gt=0)
    upsample: bool = False
    highpass: float | None = Field(0.3, gt=0)
    lowpass: float | None = Field(75.0, gt=0)
    notch: Literal["auto"] | Annotated[float, Field(gt=0)] | None = None
    reference: Literal["as recorded", "average"] | tuple[str, ...] = "as recorded"
    bipolar: Literal["double banana", "tcp"] | tuple[tuple[str, str], ...] | None = None
    ch_names: tuple[str, ...] | None = Field(None, min_length=1)
    max_amplitude: float | None = Field(100.0, gt=0)
    flat_seconds: float | None = Field(None, gt=0)
    bad_channels: Literal["drop", "interpolate"] = "drop"
    bad_share: float | None = Field(None, gt=0, lt=1)
    max_deviation: float | None = Field(None, gt=0)
    min_correlation: float | None = Field(None, gt=0, lt=1)
    max_noise: float | None = Field(None, gt=0)
    max_interpolated: float = Field(0.2, gt=0, lt=1)
    cut_start: float = Field(0.0, ge=0)
    cut_end: float = Field(0.0, ge=0)
    min_duration: float = Field(0.0, ge=0)
    subject_pattern: str | None = None
    layout: LayoutConfig | None = None
    unit: Unit | None = None
    species: str | None = Field(None, min_length=1)

    @field_validator("ch_names")
    @classmethod
    def _check_names(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        known = [canonical_name(name) or name for name in names or ()]
        twice = sorted({name for name in known if known.count(name) > 1})
        if twice:
            raise ValueError(f"names {', '.join(twice)} more than once")
        return names

    @field_validator("subject_pattern")
    @classmethod
    def _check_pattern(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                compile_subject_pattern(pattern)
            except BergerError as error:
                raise ValueError(str(error)) from error
        return pattern

    @field_validator("notch", "reference", "bipolar", mode="wrap")
    @classmethod
    def _check_choice(
        cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        """Say in one sentence what pydantic says once for each member of a union."""
        try:
            return handler(value)
        except ValidationError as error:
            raise ValueError(f"must be {_CHOICES[str(info.field_name)]}") from error

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        if isinstance(self.reference, tuple):
            if not self.reference:
                raise ValueError("reference names no electrode")
            asked = {_electrode(name) for name in self.ch_names or ()}
            if both := asked & {_electrode(name) for name in self.reference}:
                raise ValueError(
                    f"ch_names holds {', '.join(sorted(both))}, which the reference takes away"
                )
        if self.bipolar is not None:
            if self.ch_names is not None:
                raise ValueError("bipolar gives the channels already; leave out ch_names")
            if self.reference != "as recorded":
                raise ValueError("bipolar channels have no other reference; leave out reference")
            pairs = [tuple(map(_electrode, pair)) for pair in self.bipolar_pairs]
            if not pairs or len(set(pairs)) < len(pairs) or any(a == b for a, b in pairs):
                raise ValueError("bipolar needs pairs of two different electrodes, each pair once")
        if self.min_correlation is not None and self.bad_share is None:
            raise ValueError("min_correlation needs bad_share, the share of seconds, e.g. 0.01")
        if self.max_noise is not None and (self.lowpass or self.sfreq / 2) <= 55:
            raise ValueError("max_noise needs a band that reaches beyond 55 Hz")
        return self

    @model_validator(mode="after")
    def _check_band(self) -> Self:
        if self.lowpass is not None and self.lowpass >= self.sfreq / 2:
            raise ValueError(f"lowpass must lie below half of sfreq, {self.sfreq / 2:g} Hz")
        if self.highpass is not None and self.highpass >= (self.lowpass or self.sfreq / 2):
            raise ValueError("highpass must lie below lowpass")
        return self

    @property
    def bipolar_pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs of electrodes that `bipolar` stands for."""
        return BIPOLAR_SETS[self.bipolar] if isinstance(self.bipolar, str) else self.bipolar or ()

    @property
    def besides(self) -> tuple[str, ...]:
        """Electrodes that must be read for `reference` and `bipolar`, as for `read_recording`."""
        electrodes = [name for pair in self.bipolar_pairs for name in pair]
        if isinstance(self.reference, tuple):
            electrodes += self.reference
        return tuple(dict.fromkeys(electrodes))


def _electrode(name: str) -> str:
    """Return the canonical name where a name has one."""
    return electrodes_of([name])[0] or name


_CHOICES = {
    "notch": "'auto', a frequency above 0 Hz, or null",
    "reference": "'as recorded', 'average' or a list of electrodes",
    "bipolar": f"{', '.join(map(repr, BIPOLAR_SETS))}, a list of pairs of electrodes, or null",
}
