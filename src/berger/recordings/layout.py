"""Read files of columns or arrays whose meaning is declared: CSV, MATLAB, NPZ.

No header says what these files hold, and nothing is guessed: a layout names where the signal is,
its axes, unit and rate.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.io
from pydantic import Field, model_validator

from berger.configuration import Config
from berger.errors import BergerError
from berger.recordings.matlab import check_matlab
from berger.recordings.recording import (
    MICROVOLTS,
    Annotation,
    Content,
    Gap,
    KeptOut,
    Unit,
    Wanted,
    choose_channels,
)


class LayoutConfig(Config):
    """Where things are in files that do not say so themselves.

    A key names a column of a CSV file or an array; in MATLAB structures with dots, "data.EEG".

    Attributes
    ----------
    suffix : {".csv", ".mat", ".npz"}
        Files of this suffix have this layout.
    signal : tuple of str
        Keys of the signal: the columns of a CSV, one array, or several arrays of a channel each.
    unit : {"V", "mV", "µV", "uV", "nV"}
        Of the numbers in the signal.
    axes : tuple of {"trials", "channels", "time"}
        Axes of the array in their order. Trials are joined, with a gap between each two.
    sfreq : float or str, optional
        Samples per second, or the key of this number.
    time : str, optional
        Key of the samples' times in seconds. It gives the rate where `sfreq` does not, and steps
        of more than `longest_step` are gaps.
    longest_step : float
        Seconds between two samples that are still one recording.
    ch_names : tuple of str or str, optional
        Names in the order of the signal, or the key of these; by default the keys of the signal.
    marker : str, optional
        Key of a value per sample, 0 or empty where nothing happens. Every run of another value
        is an annotation.
    onsets : str, optional
        Key of the events' onsets in seconds from the first sample.
    labels : str, optional
        Key of a label for each of `onsets`, or, without these, for each trial.
    separator, comment : str
        Of a CSV: between columns; at the beginning of a line to be passed over.
    """

    suffix: Literal[".csv", ".mat", ".npz"]
    signal: tuple[str, ...] = Field(min_length=1)
    unit: Unit
    axes: tuple[Literal["trials", "channels", "time"], ...] = ("time",)
    sfreq: float | str | None = None
    time: str | None = None
    longest_step: float = Field(0.1, gt=0)
    ch_names: tuple[str, ...] | str | None = None
    marker: str | None = None
    onsets: str | None = None
    labels: str | None = None
    separator: str = Field(",", min_length=1, max_length=1)
    comment: str | None = Field(None, min_length=1, max_length=1)

    @model_validator(mode="after")
    def _check_consistent(self) -> Self:
        if len(set(self.axes)) < len(self.axes) or "time" not in self.axes:
            raise ValueError("axes must hold 'time' and each axis once")
        if len(set(self.signal)) < len(self.signal):
            raise ValueError("signal names a key more than once")
        if len(self.signal) > 1 and "channels" in self.axes:
            raise ValueError("several keys of signal are a channel each: axes must lack 'channels'")
        if self.suffix == ".csv" and self.axes != ("time",):
            raise ValueError("the columns of a .csv have the one axis 'time'")
        if self.suffix == ".csv" and (self.onsets or self.labels or isinstance(self.sfreq, str)):
            raise ValueError("a .csv has columns only: give sfreq as a number, events by marker")
        if self.sfreq is None and self.time is None:
            raise ValueError("sfreq or time must be given")
        if isinstance(self.sfreq, float) and self.sfreq <= 0:
            raise ValueError("sfreq must be greater than 0")
        if "trials" in self.axes and (self.time or self.onsets):
            raise ValueError("with trials, neither time nor onsets can be read")
        if self.labels and not self.onsets and "trials" not in self.axes:
            raise ValueError("labels need onsets or the axis 'trials'")
        if self.axes == ("trials", "time") and isinstance(self.ch_names, str):
            raise ValueError("without the axis 'channels', ch_names must be written out")
        return self


def read_layout(path: Path, wanted: Wanted, unit: Unit | None, layout: LayoutConfig) -> Content:
    """Read a file as its layout says.

    Parameters
    ----------
    path : Path
        The file.
    wanted : Wanted
        As in `choose_channels`.
    unit : Unit or None
        Not used: the layout declares the unit.
    layout : LayoutConfig
        What is where.

    Raises
    ------
    BergerError
        If the file is damaged, lacks a key or holds something else there, and as in
        `choose_channels`.
    """
    source = _Source(path, layout)
    blocks = [_block(source, key, layout) for key in layout.signal]
    if len({block.shape for block in blocks}) > 1:
        shapes = ", ".join(f"{k} {b.shape}" for k, b in zip(layout.signal, blocks, strict=True))
        raise BergerError(f"{path}: the channels differ in length ({shapes}); correct `signal`.")
    trials = np.concatenate(blocks, axis=1)  # (trials, channels, time)
    n_trials, n_channels, n_times = trials.shape
    if not trials.size:
        raise BergerError(f"{path}: {', '.join(layout.signal)} is empty; take the file out.")
    names = _names(source, layout, n_channels)
    channels = choose_channels(path, names, {}, wanted)
    others = tuple(KeptOut(name, "not in the layout") for name in source.other_columns)

    gaps = [Gap(n_times * trial, None) for trial in range(1, n_trials)]
    sfreq = None
    if layout.time is not None:
        sfreq, gaps = _read_time(source, layout, n_times)
    if layout.sfreq is not None:
        sfreq = _agreed_rate(source, layout, sfreq)
    assert sfreq is not None  # the layout has one of both
    signal = trials[:, list(channels.taken)].transpose(1, 0, 2).reshape(len(channels.taken), -1)
    return Content(
        labels=names,
        channels=replace(channels, kept_out=channels.kept_out + others),
        signal=signal * MICROVOLTS[layout.unit],
        sfreq=sfreq,
        annotations=_annotations(source, layout, sfreq, trials.shape),
        patient_code=None,
        gaps=tuple(gaps),
        units=(layout.unit,) * n_channels,
    )


class _Source:
    """A file whose arrays are had by key."""

    def __init__(self, path: Path, layout: LayoutConfig) -> None:
        self.path = path
        self.other_columns: tuple[str, ...] = ()
        read = {".csv": self._read_csv, ".mat": _read_mat, ".npz": _read_npz}[layout.suffix]
        try:
            self._content: Mapping[str, Any] = read(path, layout)
        except (BergerError, MemoryError):
            raise
        except Exception as error:  # whatever the libraries raise for a damaged file
            reason = " ".join(str(error).split()).rstrip(".")
            raise BergerError(
                f"{path}: cannot be read as {layout.suffix} ({reason}); fetch or export it again."
            ) from error

    def _read_csv(self, path: Path, layout: LayoutConfig) -> Mapping[str, Any]:
        options: dict[str, Any] = {"sep": layout.separator, "comment": layout.comment}
        options |= {"skipinitialspace": True}
        columns = [str(name) for name in pd.read_csv(path, nrows=0, **options).columns]
        keys = {*layout.signal, layout.time, layout.marker}
        # pandas gives every name once: the second "Fp1" is "Fp1.1"
        first = pd.read_csv(path, header=None, nrows=1, dtype=str, na_filter=False, **options)
        counts = Counter(first.iloc[0])
        for name in {*columns} & keys:
            column = name if name in counts else name.rpartition(".")[0]
            if counts[column] > 1:
                raise BergerError(
                    f"{path}: has {counts[column]} columns called {column!r}; give each a name of "
                    "its own in the file."
                )
        self.other_columns = tuple(name for name in columns if name not in keys)
        table = pd.read_csv(
            path, usecols=[name for name in columns if name in keys], low_memory=False, **options
        )
        return {str(name): table[name].to_numpy() for name in table.columns}

    def get(self, key: str) -> Any:
        """Return what stands at a key; dots lead into structures."""
        value: Any = self._content
        for part in [key] if key in self._content else key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                there = ", ".join(map(str, value)) if isinstance(value, Mapping) else "no keys"
                raise BergerError(
                    f"{self.path}: has nothing called {key!r} ({there}); correct the layout."
                )
            value = value[part]
        return value

    def numbers(self, key: str) -> npt.NDArray[np.float64]:
        """Return an array of real numbers."""
        array = np.asarray(self.get(key))
        if array.dtype.kind not in "iufb":
            raise BergerError(
                f"{self.path}: {key!r} holds other things than numbers; correct the layout or the "
                "file."
            )
        return array.astype(np.float64)

    def texts(self, key: str) -> list[str]:
        """Return an array's entries as text; whole numbers without a decimal point."""
        entries = np.atleast_1d(np.asarray(self.get(key))).ravel().tolist()
        return [_text(entry) for entry in entries]


def _text(entry: object) -> str:
    if isinstance(entry, float) and entry.is_integer():
        return str(int(entry))
    return str(entry).strip()


def _read_npz(path: Path, _: LayoutConfig) -> Mapping[str, Any]:
    """Read the arrays of an NPZ file; pickled objects are refused."""
    if not zipfile.is_zipfile(path):
        raise BergerError(f"{path}: is no NPZ file; fetch it again, or take it out.")
    with np.load(path, allow_pickle=False) as archive:
        if damaged := archive.zip.testzip():  # before an array of the size it claims is reserved
            raise ValueError(f"{damaged} has a wrong sum")
        content = {}
        for name in archive.files:
            try:
                content[name] = archive[name]
            except ValueError as error:
                if "pickle" not in str(error):
                    raise
                content[name] = np.array("a pickled object, which is never loaded")
    return content


def _read_mat(path: Path, _: LayoutConfig) -> Mapping[str, Any]:
    """Read a MATLAB file: up to version 7 by SciPy, version 7.3 by h5py."""
    check_matlab(path)
    try:
        content = scipy.io.loadmat(path, simplify_cells=True, appendmat=False)
    except NotImplementedError:  # version 7.3 is HDF5
        return _read_hdf5(path)
    return {name: value for name, value in content.items() if not name.startswith("__")}


def _read_hdf5(path: Path) -> Mapping[str, Any]:
    """Read a MATLAB 7.3 file; its arrays lie transposed in HDF5."""
    try:
        import h5py
    except ImportError as error:
        raise BergerError(
            f"{path}: is a MATLAB 7.3 file, which the package h5py reads; install "
            "`berger[formats]`, or save it by `save(..., '-v7')`."
        ) from error

    def value_of(node: Any) -> Any:
        if isinstance(node, h5py.Group):
            return {name: value_of(node[name]) for name in node if name != "#refs#"}
        kind = node.attrs.get("MATLAB_class", b"")
        if "MATLAB_empty" in node.attrs:
            return np.zeros(0)
        if kind == b"char":
            return "".join(map(chr, node[()].ravel().tolist()))
        if kind == b"cell":
            return [value_of(node.file[reference]) for reference in node[()].T.ravel()]
        return np.squeeze(node[()].T)  # as SciPy simplifies other versions

    with h5py.File(path, "r") as file:
        return dict(value_of(file))


def _block(source: _Source, key: str, layout: LayoutConfig) -> npt.NDArray[np.float64]:
    """Return one array of the signal as (trials, channels, time)."""
    array = source.numbers(key)
    if array.ndim != len(layout.axes) and layout.axes == ("time",):
        array = array.squeeze()
    if array.ndim != len(layout.axes):
        raise BergerError(
            f"{source.path}: {key!r} has the shape {array.shape}, but the layout says "
            f"({', '.join(layout.axes)}); correct `axes`."
        )
    missing = [axis for axis in ("trials", "channels", "time") if axis not in layout.axes]
    array = array.reshape(*array.shape, *[1] * len(missing))
    order = [*layout.axes, *missing]
    return array.transpose([order.index(axis) for axis in ("trials", "channels", "time")])


def _names(source: _Source, layout: LayoutConfig, n_channels: int) -> tuple[str, ...]:
    """Return the channels' names in the order of the signal."""
    if isinstance(layout.ch_names, str):
        names = source.texts(layout.ch_names)
    elif layout.ch_names is not None:
        names = list(layout.ch_names)
    elif "channels" not in layout.axes:
        names = [key.rpartition(".")[2] for key in layout.signal]
    else:
        raise BergerError(
            f"{source.path}: the layout names no channels; give `ch_names`, {n_channels} names or "
            "their key."
        )
    if len(names) != n_channels:
        raise BergerError(
            f"{source.path}: the layout has {len(names)} names for {n_channels} channels; correct "
            "`ch_names` or `axes`."
        )
    return tuple(names)


def _read_time(source: _Source, layout: LayoutConfig, n_times: int) -> tuple[float, list[Gap]]:
    """Return the mean rate within pieces, and the gaps, by the times of the samples."""
    assert layout.time is not None
    time = source.numbers(layout.time).ravel()
    if len(time) != n_times or n_times < 2:
        raise BergerError(
            f"{source.path}: has {len(time)} times for {n_times} samples; correct `time`."
        )
    steps = np.diff(time)
    if not (steps >= 0).all():  # NaN too
        row = int(np.argmin(steps >= 0)) + 1
        raise BergerError(
            f"{source.path}: the time does not go on at sample {row} ({time[row - 1]:g} to "
            f"{time[row]:g} s); put the samples in order, or leave out `time`."
        )
    within = steps <= layout.longest_step
    if not steps[within].sum():
        raise BergerError(
            f"{source.path}: all times lie more than {layout.longest_step:g} s apart or at one "
            "moment; correct `time` (seconds) or `longest_step`."
        )
    sfreq = float(within.sum() / steps[within].sum())
    late = np.flatnonzero(~within)
    return sfreq, [Gap(int(i) + 1, float(steps[i] - 1 / sfreq)) for i in late]


def _agreed_rate(source: _Source, layout: LayoutConfig, measured: float | None) -> float:
    """Return the declared rate, which must be that of the times where there are any."""
    declared = layout.sfreq
    if isinstance(declared, str):
        numbers = np.unique(source.numbers(declared))
        if len(numbers) != 1 or not numbers[0] > 0:
            raise BergerError(
                f"{source.path}: {declared!r} is not one sampling rate ({numbers[:4]}); correct "
                "`sfreq`."
            )
        declared = float(numbers[0])
    assert declared is not None
    if measured is not None and abs(measured / declared - 1) > 0.01:
        raise BergerError(
            f"{source.path}: the times give {measured:g} samples a second, but the layout says "
            f"{declared:g}; correct `sfreq`, `time` or `longest_step`."
        )
    return float(declared)


def _annotations(
    source: _Source, layout: LayoutConfig, sfreq: float, shape: tuple[int, ...]
) -> tuple[Annotation, ...]:
    """Return events from the marker, from lists of onsets and labels, and of trials."""
    n_trials, _, n_times = shape
    marks = []
    if layout.marker is not None:
        marks += _marked(source, layout.marker, sfreq, n_trials * n_times)
    if layout.onsets is not None or layout.labels is not None:
        if layout.onsets is not None:
            onsets, duration = source.numbers(layout.onsets).ravel(), 0.0
        else:
            onsets, duration = np.arange(n_trials) * n_times / sfreq, n_times / sfreq
        labels = source.texts(layout.labels) if layout.labels else ["event"] * len(onsets)
        if len(labels) != len(onsets) or not np.isfinite(onsets).all():
            raise BergerError(
                f"{source.path}: has {len(labels)} labels for {len(onsets)} events, or onsets that "
                "are not finite; correct `labels` or `onsets`."
            )
        marks += [
            Annotation(float(onset), duration, label)
            for onset, label in zip(onsets, labels, strict=True)
        ]
    return tuple(sorted(marks, key=lambda mark: mark.onset))


def _marked(source: _Source, key: str, sfreq: float, n_samples: int) -> list[Annotation]:
    """Return an annotation for every run of samples with the same mark."""
    values = pd.Series(np.asarray(source.get(key)).ravel())
    if len(values) != n_samples:
        raise BergerError(
            f"{source.path}: has {len(values)} marks for {n_samples} samples; correct `marker`."
        )
    marked = values.notna() & ~values.isin([0, "0", ""])
    texts = [_text(value) if here else "" for value, here in zip(values, marked, strict=True)]
    changes = [i for i, text in enumerate(texts) if i == 0 or text != texts[i - 1]]
    ends = [*changes[1:], n_samples]
    return [
        Annotation(start / sfreq, (end - 1 - start) / sfreq, texts[start])
        for start, end in zip(changes, ends, strict=True)
        if texts[start]
    ]
