"""Use a trained model on new recordings: embeddings, predictions, annotations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import edfio
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from tqdm import tqdm

from berger.adaptation.alignment import alignment_filter
from berger.errors import BergerError
from berger.files import written_whole
from berger.models import Classifier, EEGModel, Encoder, load_checkpoint
from berger.models.device import Device, compute_device
from berger.models.heads import pooled_features
from berger.preprocessing import preprocess
from berger.recordings import find_recordings, read_recording

FAILURES_FILE = "failures.csv"


@dataclass(frozen=True, eq=False)
class CutRecording:
    """A recording as the model expects it, cut into windows.

    Attributes
    ----------
    recording : str
        Id.
    path : Path
        The source file.
    ch_names : tuple of str
        Its electrodes.
    starts : ndarray, shape (n_windows,)
        Seconds from the file's first sample.
    usable : ndarray of bool, shape (n_windows,)
        False where preprocessing would have rejected the window.
    windows : Tensor, float32, shape (n_windows, n_chans, n_times)
        Microvolts; aligned if the model's contract says so.
    """

    recording: str
    path: Path
    ch_names: tuple[str, ...]
    starts: npt.NDArray[np.float64]
    usable: npt.NDArray[np.bool_]
    windows: torch.Tensor


def embed(
    checkpoint: Path,
    paths: Sequence[Path],
    out: Path,
    *,
    device: Device = "auto",
    quiet: bool = False,
) -> pd.DataFrame:
    """Write one row of features per window.

    Parameters
    ----------
    checkpoint : Path
        A pretrained or an adapted one; its encoder is used, behind its adapter.
    paths : sequence of Path
        Recordings or folders.
    out : Path
        Parquet file: ``recording, start`` (s), ``usable``, ``feature_0`` …
    device : {"auto", "cpu", "cuda"}
    quiet : bool
        No progress bar.

    Returns
    -------
    DataFrame
        The failures, ``recording, reason``; written beside `out` if there are any.

    Raises
    ------
    BergerError
        If no recording could be used.
    """
    place = compute_device(device)
    model = load_checkpoint(checkpoint).to(place)
    if not isinstance(model, (Encoder, Classifier)):
        raise BergerError(f"{checkpoint}: holds no encoder that can embed.")
    tables = []
    failures: list[tuple[str, str]] = []
    for cut in _cut_recordings(model, checkpoint, paths, failures, quiet):
        embed_batch = partial(pooled_features, model, pooling="mean", ch_names=cut.ch_names)
        features = _by_batch(embed_batch, cut.windows, place)
        columns = [f"feature_{i}" for i in range(features.shape[1])]
        table = pd.DataFrame(features, columns=columns)
        table.insert(0, "recording", cut.recording)
        table.insert(1, "start", cut.starts)
        table.insert(2, "usable", cut.usable)
        tables.append(table)
    _raise_if_none(tables, failures)
    with written_whole(out) as temporary:
        pd.concat(tables, ignore_index=True).to_parquet(temporary, index=False)
    return _write_failures(failures, out.parent / f"{out.stem}-{FAILURES_FILE}")


def predict(
    checkpoint: Path,
    paths: Sequence[Path],
    out: Path,
    *,
    device: Device = "auto",
    quiet: bool = False,
) -> pd.DataFrame:
    """Write, per file, a table of scores and annotations that EDF+ viewers open.

    Parameters
    ----------
    checkpoint : Path
        An adapted one.
    paths : sequence of Path
        Recordings or folders.
    out : Path
        Folder: for each recording ``<id>.csv`` with ``start`` (s), ``duration`` (s), ``usable``,
        ``prediction``, ``score_<class>``, and, if windows are usable, ``<id>_annotations.edf`` with
        their classes or values: EDF+ without signals, which viewers and `mne.read_annotations`
        read. A prediction is a class, without scores a value in the unit of the model's target.
    device : {"auto", "cpu", "cuda"}
    quiet : bool
        No progress bar.

    Returns
    -------
    DataFrame
        The failures, ``recording, reason``.

    Raises
    ------
    BergerError
        If the checkpoint is not adapted to a task or no recording could be used.
    """
    place = compute_device(device)
    model = load_checkpoint(checkpoint).to(place)
    if not model.is_adapted:
        raise BergerError(f"{checkpoint}: is not adapted to a task; run `berger adapt` first.")
    seconds = model.contract.window_seconds
    done = []
    failures: list[tuple[str, str]] = []
    for cut in _cut_recordings(model, checkpoint, paths, failures, quiet):
        answer = partial(model, ch_names=cut.ch_names) if isinstance(model, Classifier) else model
        found = torch.from_numpy(_by_batch(answer, cut.windows, place))
        table = pd.DataFrame({"start": cut.starts, "duration": seconds, "usable": cut.usable})
        if model.classes:
            scores = found.softmax(-1).numpy()
            table["prediction"] = np.array(model.classes)[scores.argmax(1)]
            for index, name in enumerate(model.classes):
                table[f"score_{name}"] = scores[:, index]
            text = table["prediction"]
        else:
            table["prediction"] = found[:, 0].numpy()
            text = table["prediction"].map(lambda value: f"{model.target}: {value:.4g}")
        with written_whole(out / f"{cut.recording}.csv") as temporary:
            table.to_csv(temporary, index=False)
        annotations = [
            edfio.EdfAnnotation(row.start, row.duration, text[row.Index])
            for row in table[table["usable"]].itertuples()
        ]
        if annotations:
            with written_whole(out / f"{cut.recording}_annotations.edf") as temporary:
                edfio.Edf([], annotations=annotations).write(temporary)
        done.append(table)
    _raise_if_none(done, failures)
    return _write_failures(failures, out / FAILURES_FILE)


def _cut_recordings(
    model: EEGModel,
    checkpoint: Path,
    paths: Sequence[Path],
    failures: list[tuple[str, str]],
    quiet: bool,
) -> Iterator[CutRecording]:
    """Prepare recordings as the model's corpus was; what cannot be used goes to `failures`."""
    contract = model.contract
    if contract.preprocessing is None or contract.window_seconds is None:
        raise BergerError(
            f"{checkpoint}: does not say how its recordings were prepared; give a checkpoint that "
            "`berger pretrain` or `berger adapt` made."
        )
    if not paths:
        raise BergerError("no recordings given; name files or folders.")
    # people who want to use a model want every window; what training would have left out is marked
    limit = contract.preprocessing.max_amplitude or np.inf
    changes: dict[str, Any] = {"cut_start": 0.0, "cut_end": 0.0, "min_duration": 0.0}
    changes |= {"max_amplitude": None, "unit": None}
    if (
        contract.ch_names and contract.preprocessing.bipolar is None
    ):  # pairs are no channels to find
        changes["ch_names"] = contract.ch_names
    config = contract.preprocessing.model_copy(update=changes)
    found = find_recordings(list(paths), layout=config.layout)
    for recording_id, path in tqdm(found, unit="file", disable=quiet):
        try:
            recording = read_recording(
                path,
                subject_pattern=config.subject_pattern,
                ch_names=config.ch_names,
                besides=config.besides,
                layout=config.layout,
            )
            prepared = preprocess(recording, config)
            contract.check(prepared.recording.sfreq, prepared.recording.ch_names, path)
            model.check_montage(prepared.recording.ch_names, path)
        except BergerError as error:
            failures.append((recording_id, str(error)))
            continue
        signal, sfreq = prepared.recording.signal, prepared.recording.sfreq
        n_times = round(contract.window_seconds * sfreq)
        starts = np.arange(0, signal.shape[1] - n_times + 1, n_times)
        if not len(starts):
            reason = f"{path}: shorter than a window of {contract.window_seconds:g} s."
            failures.append((recording_id, reason))
            continue
        stretches = np.array(prepared.stretches).reshape(-1, 2)
        inside = (stretches[:, 0] <= starts[:, None]) & (
            starts[:, None] + n_times <= stretches[:, 1]
        )
        whole = np.asarray(inside.any(1))  # spans no gap
        windows = np.stack([signal[:, start : start + n_times] for start in starts])
        usable = whole & (np.abs(windows).max((1, 2)) < limit)
        if contract.euclidean_alignment is not None:
            own, alignment = windows[usable], contract.euclidean_alignment
            try:
                windows = alignment_filter(own, sfreq, alignment, path) @ windows
            except BergerError as error:
                failures.append((recording_id, str(error)))
                continue
        yield CutRecording(
            recording=recording_id,
            path=path,
            ch_names=prepared.recording.ch_names,
            starts=starts / sfreq + prepared.offset,
            usable=usable,
            windows=torch.from_numpy(windows).float(),
        )


@torch.inference_mode()
def _by_batch(
    function: Callable[[torch.Tensor], torch.Tensor],
    windows: torch.Tensor,
    place: torch.device,
    batch_size: int = 16,
) -> npt.NDArray[np.float32]:
    rows = [function(batch.to(place)).cpu() for batch in torch.split(windows, batch_size)]
    result: npt.NDArray[np.float32] = torch.cat(rows).numpy()
    return result


def _raise_if_none(done: Sequence[object], failures: Sequence[tuple[str, str]]) -> None:
    if not done:
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise BergerError(f"no recording could be used: {failures[0][1]}{more}")


def _write_failures(failures: list[tuple[str, str]], path: Path) -> pd.DataFrame:
    table = pd.DataFrame(failures, columns=["recording", "reason"])
    path.unlink(missing_ok=True)  # of an earlier run
    if failures:
        with written_whole(path) as temporary:
            table.to_csv(temporary, index=False)
    return table
