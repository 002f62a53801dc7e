"""Read files of columns or arrays whose meaning is declared: CSV, MATLAB, NPZ.

No header says what these files hold, and nothing is guessed: a layout names where the signal is,
its axes, unit and rate.
"""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
    unread,
)


class LayoutConfig(Config):
    """Where things are in files that do not say so themselves.

    A key names a column of a CSV file or an array; in MATLAB structures with dots, "data.EEG", and
    in cells by their numbers, "data.1.EEG". A ``*`` stands for any characters: one array must fit,
    but see `signal`.

    Attributes
    ----------
    suffix : {".csv", ".mat", ".npz"}
        Files of this suffix have this layout.
    signal : tuple of str
        Keys of the signal: the columns of a CSV, one array, or several arrays of a channel each.
        Where `axes` lacks the trials, each array that one key with a ``*`` fits is a trial, by the
        last number in its name or that of its cell; they may differ in length.
    unit : {"V", "mV", "µV", "uV", "nV"}
        Of the numbers in the signal.
    axes : tuple of {"trials", "channels", "time"}
        Axes of the array in their order. Trials are joined, with a gap between each two; without
        `labels`, each is an annotation "trial 1", "trial 2", ... .
    sfreq : float or str, optional
        Samples per second, or the key of this number.
    time : str, optional
        Key of the samples' times in seconds. It gives the rate where `sfreq` does not, and steps
        of more than `longest_step` are gaps.
    longest_step : float
        Seconds between two samples that are still one recording.
    ch_names : tuple of str or str, optional
        Names in the order of the signal, or the key of these; by default the keys of the signal.
    either : dict of str to tuple of str
        Name → channels of which the first that is there is called so, where not every recording
        has the same.
    marker : str, optional
        Key of a value per sample, 0 or empty where nothing happens. Every run of another value
        is an annotation.
    onsets : str, optional
        Key of the events' onsets from the first sample.
    onsets_in : {"seconds", "samples from 0", "samples from 1"}
        What `onsets` counts, and from where; MATLAB's first sample is 1.
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
    either: dict[str, tuple[str, ...]] = {}
    marker: str | None = None
    onsets: str | None = None
    onsets_in: Literal["seconds", "samples from 0", "samples from 1"] = "seconds"
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
        if self.array_per_trial and "channels" not in self.axes:
            raise ValueError("a * in signal needs the axis 'channels' or 'trials'")
        if self.has_trials and (self.time or self.onsets):
            raise ValueError("with trials, neither time nor onsets can be read")
        if self.labels and not self.onsets and not self.has_trials:
            raise ValueError("labels need onsets or the axis 'trials'")
        if self.onsets is None and self.onsets_in != "seconds":
            raise ValueError("onsets_in belongs to onsets; give that too")
        if self.axes == ("trials", "time") and isinstance(self.ch_names, str):
            raise ValueError("without the axis 'channels', ch_names must be written out")
        return self

    @property
    def array_per_trial(self) -> bool:
        """Whether every array that fits the key of the signal is a trial."""
        return "trials" not in self.axes and any("*" in key for key in self.signal)

    @property
    def has_trials(self) -> bool:
        """Whether what is joined is not one recording."""
        return "trials" in self.axes or self.array_per_trial


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
    trials = _trials(source, layout)
    n_channels = len(next(iter(trials.values()), ()))
    lengths = [trial.shape[1] for trial in trials.values()]
    if not n_channels or not all(lengths):
        raise BergerError(f"{path}: {', '.join(layout.signal)} is empty; take the file out.")
    names = _names(source, layout, n_channels)
    channels = choose_channels(path, _called(names, layout.either), {}, wanted)
    others = tuple(KeptOut(name, "not in the layout") for name in source.other_columns)

    edges = np.cumsum([0, *lengths])
    gaps = [Gap(edge, None) for edge in edges[1:-1].tolist()]
    sfreq = None
    if layout.time is not None:
        sfreq, gaps = _read_time(source, layout, int(edges[-1]))
    if layout.sfreq is not None:
        sfreq = _agreed_rate(source, layout, sfreq)
    assert sfreq is not None  # the layout has one of both
    if wanted.samples:
        taken = list(channels.taken)
        signal = np.concatenate([trial[taken] for trial in trials.values()], axis=1)
        signal = signal * MICROVOLTS[layout.unit]
    else:
        signal = unread(len(channels.taken), int(edges[-1]))
    return Content(
        labels=names,
        channels=replace(channels, kept_out=channels.kept_out + others),
        signal=signal,
        sfreq=sfreq,
        annotations=_annotations(source, layout, sfreq, edges, list(trials)),
        patient_code=None,
        gaps=tuple(gaps),
        units=(layout.unit,) * n_channels,
    )


class _Source:
    """A file whose arrays are had by key."""

    def __init__(self, path: Path, layout: LayoutConfig) -> None:
        self.path = path
        self.other_columns: tuple[str, ...] = ()
        readers: Mapping[str, Callable[[], Mapping[str, Any]]] = {
            ".csv": lambda: self._read_csv(path, layout),
            ".mat": lambda: _read_mat(path),
            ".npz": lambda: _read_npz(path),
        }
        self._content = _whole(path, layout.suffix, readers[layout.suffix])

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

    def find(self, key: str) -> list[tuple[str, Any]]:
        """Return name and value of all that fits a key; dots lead into structures."""
        found: list[tuple[str, Any]] = [("", self._content)]
        for part in [key] if key in self._content else key.split("."):
            inside = [
                (f"{above}.{name}" if above.isdigit() else name, name, item)
                for above, value in found
                for name, item in _inside(value).items()
            ]
            fits = re.compile(re.escape(part).replace(r"\*", ".*")).fullmatch
            found = [(called, item) for called, name, item in inside if fits(name)]
            if not found:
                there = ", ".join(called for called, _, _ in inside) or "no keys"
                raise BergerError(
                    f"{self.path}: has nothing called {key!r} ({there}); correct the layout."
                )
        return found

    def get(self, key: str) -> Any:
        """Return the one thing that stands at a key."""
        found = self.find(key)
        if len(found) > 1:
            names = " or ".join(name for name, _ in found[:4])
            raise BergerError(
                f"{self.path}: {key!r} may be {names}; write more of it in the layout."
            )
        return found[0][1]

    def numbers(self, key: str) -> npt.NDArray[np.float64]:
        """Return an array of real numbers."""
        return self.as_numbers(key, self.get(key))

    def as_numbers(self, name: str, value: Any) -> npt.NDArray[np.float64]:
        """Return a value as an array of real numbers."""
        array = np.asarray(value)
        if array.dtype.kind not in "iufb":
            raise BergerError(
                f"{self.path}: {name!r} holds other things than numbers; correct the layout or the "
                "file."
            )
        return array.astype(np.float64)

    def texts(self, key: str) -> list[str]:
        """Return an array's entries as text; whole numbers without a decimal point."""
        entries = np.atleast_1d(np.asarray(self.get(key))).ravel().tolist()
        return [_text(entry) for entry in entries]


def _inside(value: Any) -> Mapping[str, Any]:
    """Return what a structure holds, or by number what a row of MATLAB's cells holds."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.ravel().tolist()
    if isinstance(value, list):
        return {str(number): cell for number, cell in enumerate(value, start=1)}
    return value if isinstance(value, Mapping) else {}


def _whole(path: Path, kind: str, read: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return what is read; whatever the libraries raise for a damaged file is a BergerError."""
    try:
        return read()
    except (BergerError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise BergerError(
            f"{path}: cannot be read as {kind} ({reason}); fetch or export it again."
        ) from error


def _text(entry: object) -> str:
    if isinstance(entry, float) and entry.is_integer():
        return str(int(entry))
    return str(entry).strip()


def _read_npz(path: Path) -> Mapping[str, Any]:
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


def read_matlab(path: Path) -> Mapping[str, Any]:
    """Read the variables of a MATLAB file: up to version 7 by SciPy, version 7.3 by h5py.

    Returns
    -------
    mapping of str
        Arrays with MATLAB's order of axes and without those of length 1; structures as mappings.

    Raises
    ------
    BergerError
        If it is missing or damaged, or h5py is needed and not installed.
    """
    return _whole(path, ".mat", lambda: _read_mat(path))


def _read_mat(path: Path) -> Mapping[str, Any]:
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


def _trials(source: _Source, layout: LayoutConfig) -> dict[int, npt.NDArray[np.float64]]:
    """Return number → trial (channels, time); what has no trials is the first."""
    if layout.array_per_trial:
        (key,) = layout.signal
        trials: dict[int, npt.NDArray[np.float64]] = {}
        for name, value in source.find(key):
            number = int((re.findall(r"\d+", name) or [0])[-1])
            if not number or number in trials:
                raise BergerError(
                    f"{source.path}: {name!r} has no number of its own, from 1, by which trials "
                    "are in order; correct `signal`."
                )
            (trials[number],) = _block(source, name, value, layout)
        if len({len(trial) for trial in trials.values()}) > 1:
            shapes = ", ".join(f"{n} {trial.shape}" for n, trial in sorted(trials.items())[:4])
            raise BergerError(
                f"{source.path}: the trials differ in channels ({shapes}); correct `signal`."
            )
        return dict(sorted(trials.items()))
    blocks = [_block(source, key, source.get(key), layout) for key in layout.signal]
    if len({block.shape for block in blocks}) > 1:
        shapes = ", ".join(f"{k} {b.shape}" for k, b in zip(layout.signal, blocks, strict=True))
        raise BergerError(
            f"{source.path}: the channels differ in length ({shapes}); correct `signal`."
        )
    return dict(enumerate(np.concatenate(blocks, axis=1), start=1))


def _block(source: _Source, name: str, value: Any, layout: LayoutConfig) -> npt.NDArray[np.float64]:
    """Return one array of the signal as (trials, channels, time)."""
    array = source.as_numbers(name, value)
    if array.ndim != len(layout.axes) and layout.axes == ("time",):
        array = array.squeeze()
    if array.ndim != len(layout.axes):
        raise BergerError(
            f"{source.path}: {name!r} has the shape {array.shape}, but the layout says "
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


def _called(names: Sequence[str], either: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names, with that of `either` where a channel is the first of several."""
    first = {
        next((one for one in several if one in names), None): name
        for name, several in either.items()
    }
    return [first.get(name, name) for name in names]


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
    source: _Source,
    layout: LayoutConfig,
    sfreq: float,
    edges: npt.NDArray[np.int64],
    numbers: Sequence[int],
) -> tuple[Annotation, ...]:
    """Return events from the marker, from lists of onsets and labels, and of trials."""
    marks = []
    if layout.marker is not None:
        marks += _marked(source, layout.marker, sfreq, int(edges[-1]))
    if layout.onsets is not None or layout.has_trials:
        if layout.onsets is not None:
            onsets = source.numbers(layout.onsets).ravel()
            if layout.onsets_in != "seconds":
                onsets = (onsets - float(layout.onsets_in[-1])) / sfreq
            durations = np.zeros(len(onsets))
            labels = ["event"] * len(onsets)
        else:
            onsets, durations = edges[:-1] / sfreq, np.diff(edges) / sfreq
            labels = [f"trial {number}" for number in numbers]
        if layout.labels is not None:
            labels = source.texts(layout.labels)
        if len(labels) != len(onsets) or not np.isfinite(onsets).all():
            raise BergerError(
                f"{source.path}: has {len(labels)} labels for {len(onsets)} events, or onsets that "
                "are not finite; correct `labels` or `onsets`."
            )
        marks += [
            Annotation(onset, duration, label)
            for onset, duration, label in zip(
                onsets.tolist(), durations.tolist(), labels, strict=True
            )
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
