"""Open a corpus, here or on a server, verify it, and list its windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from berger.corpus.format import (
    RECORDING_COLUMNS,
    RECORDINGS,
    WINDOWS,
    CorpusManifest,
    misfits,
    read_manifest,
    read_table,
)
from berger.corpus.remote import fetch_manifest, is_remote, local_file, misfits_at
from berger.corpus.windows import Block, WindowDataset, count_samples
from berger.errors import BergerError


def open_corpus(folder: str | Path, *, progress: bool = True) -> Corpus:
    """Open a corpus, having made sure that all its files are there.

    Of a corpus on a server manifest and tables are fetched now, the manifest every time, and each
    shard when it is first read; see `berger.corpus.remote` for where the copies are kept.

    Parameters
    ----------
    folder : path or str
        As made by `prepare`; or its address, e.g. ``https://…``, ``s3://…`` or ``gs://…``.
    progress : bool
        Show a bar while a shard is fetched from a server.

    Raises
    ------
    BergerError
        If it is no corpus, unfinished, of another format version, or a file is missing or not
        of its size. `verify_corpus` looks at every byte. If a server cannot be reached.
    """
    if is_remote(folder):
        url = str(folder).rstrip("/")
        return Corpus(url, fetch_manifest(url), progress=progress)
    folder = Path(folder)
    manifest = read_manifest(folder)
    problems = misfits(folder, manifest.shards, content=False) + misfits(folder, manifest.tables)
    if problems:
        raise BergerError(
            f"{problems[0]}; if a preparation was interrupted run it again, else restore the file."
        )
    return Corpus(folder, manifest)


def verify_corpus(folder: str | Path, *, progress: bool = True) -> list[str]:
    """Compare every byte of a corpus with its manifest.

    A corpus on a server is read from there, whatever copies are kept.

    Parameters
    ----------
    folder : path or str
        Of the corpus, or its address.
    progress : bool
        Show a bar while a shard is fetched from a server.

    Returns
    -------
    list of str
        What is wrong, a sentence each; empty if nothing is.

    Raises
    ------
    BergerError
        If a server stops answering.
    """
    folder = str(folder).rstrip("/") if is_remote(folder) else Path(folder)
    try:
        manifest = fetch_manifest(folder) if isinstance(folder, str) else read_manifest(folder)
    except BergerError as error:
        return [str(error)]
    files = (*manifest.tables, *manifest.shards)
    if isinstance(folder, str):
        problems = misfits_at(folder, files, progress=progress)
    else:
        problems = misfits(folder, files)
    if not manifest.is_as_written:
        problems.append(f"{folder}: the manifest has changed, its id is not that of its content")
    return [f"{problem}." for problem in problems]


class Corpus:
    """Prepared recordings, opened by `open_corpus`.

    Attributes
    ----------
    folder : Path or str
        Where it lies; a str if that is an address.
    manifest : CorpusManifest
    recordings : DataFrame
        One row per source file, the columns as in `berger.corpus.format.RECORDING_COLUMNS`.
    stretches : DataFrame
        The usable stretches: recording, start, stop in samples.
    """

    def __init__(
        self, folder: Path | str, manifest: CorpusManifest, *, progress: bool = False
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        rows = self._table(RECORDINGS).to_pylist()
        self.recordings = pd.DataFrame(rows, columns=RECORDING_COLUMNS.names)
        self.stretches: pd.DataFrame = self._table(WINDOWS).to_pandas(use_threads=False)
        content = {shard.file: shard.sha256 for shard in manifest.shards}
        self._blocks = {
            row["recording"]: Block(
                recording=row["recording"],
                subject=row["subject"],
                ch_names=tuple(row["ch_names"]),
                sfreq=row["sfreq"],
                n_times=row["n_times"],
                scale=np.array(row["scale"], dtype=np.float32),
                shard=f"{folder}/{row['shard']}",
                content=content[row["shard"]],
                offset=row["offset"],
                progress=progress,
            )
            for row in rows
            if row["status"] == "ok"
        }

    def __repr__(self) -> str:
        return (
            f"<Corpus {self.folder}: {len(self._blocks)} recordings of {len(self.subjects)} "
            f"subjects, {self.hours:.2f} usable hours>"
        )

    def _table(self, name: str) -> pa.Table:
        (sha256,) = (entry.sha256 for entry in self.manifest.tables if entry.file == name)
        with local_file(f"{self.folder}/{name}", sha256) as path:
            return read_table(path)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return Path(self.folder).resolve().name

    @property
    def subjects(self) -> tuple[str, ...]:
        """Who has data in the corpus, sorted."""
        return tuple(sorted({block.subject for block in self._blocks.values()}))

    @property
    def hours(self) -> float:
        """Length of all usable stretches."""
        return self.manifest.counts.seconds_kept / 3600

    @property
    def hours_by_site(self) -> dict[str, float]:
        """Usable hours of each site, "unknown" last; empty if no recording tells its site."""
        ok = self.recordings[self.recordings["status"] == "ok"]
        hours: dict[str, float] = (ok.groupby("site")["seconds_kept"].sum() / 3600).to_dict()
        unknown = ok["seconds_kept"][ok["site"].isna()].sum() / 3600
        return hours | {"unknown": float(unknown)} if hours and unknown else hours

    def read(self, recording: str, start: int, n_times: int) -> npt.NDArray[np.float32]:
        """Read any piece of a recording, usable or not.

        Parameters
        ----------
        recording : str
            Its id.
        start, n_times : int
            First sample and length in samples.

        Returns
        -------
        ndarray of float32, shape (n_chans, n_times)
            Microvolts.

        Raises
        ------
        BergerError
            For an unknown recording, or samples that it does not have.
        """
        block = self._blocks.get(recording)
        if block is None:
            raise BergerError(f"{self.folder}: holds no data of {recording!r}; see `recordings`.")
        if start < 0 or n_times < 0 or start + n_times > block.n_times:
            raise BergerError(
                f"{recording}: samples {start} to {start + n_times} are not within its "
                f"{block.n_times}; ask for fewer."
            )
        return block.window(start, n_times).signal

    def windows(
        self, seconds: float, step: float | None = None, subjects: Sequence[str] | None = None
    ) -> WindowDataset:
        """List the windows of one length.

        Windows start every `step` from the first sample of each recording. Those that do not
        lie wholly within a usable stretch are left out.

        Parameters
        ----------
        seconds : float
            Length of a window.
        step : float, optional
            From start to start, in seconds; by default the length, so that windows do not overlap.
        subjects : sequence of str, optional
            Whose windows; by default everybody's.

        Raises
        ------
        BergerError
            For a length or step that is not a whole number of samples, an unknown subject, or
            if there is no such window.
        """
        wanted = set(self.subjects if subjects is None else subjects)
        if unknown := sorted(wanted.difference(self.subjects)):
            raise BergerError(f"{self.folder}: has no subjects {unknown}; see `Corpus.subjects`.")
        blocks = [block for block in self._blocks.values() if block.subject in wanted]
        number = {block.recording: index for index, block in enumerate(blocks)}
        stretches = self.stretches[self.stretches["recording"].isin(number)]
        of_block = stretches["recording"].map(number).to_numpy(np.int64)

        spans = (seconds, seconds if step is None else step)
        length, stride = (
            np.array([count_samples(span, block.sfreq) for block in blocks])[of_block]
            for span in spans
        )
        first = -(-stretches["start"].to_numpy() // stride)
        last = (stretches["stop"].to_numpy() - length) // stride
        counts = np.maximum(last - first + 1, 0)
        if not counts.sum():
            raise BergerError(
                f"{self.folder}: no usable stretch holds a window of {seconds:g} s; "
                "choose shorter windows."
            )
        within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        starts = (np.repeat(first, counts) + within) * np.repeat(stride, counts)
        return WindowDataset(blocks, np.repeat(of_block, counts), starts, seconds)

    def windows_at(self, table: pd.DataFrame, seconds: float) -> WindowDataset:
        """List windows by their places.

        Parameters
        ----------
        table : DataFrame
            ``recording`` and ``start`` (first sample) of each window.
        seconds : float
            Length of a window.

        Raises
        ------
        BergerError
            For an unknown recording, or a window that is not wholly within its recording.
        """
        ids, of_block = np.unique(table["recording"].to_numpy(str), return_inverse=True)
        if unknown := [name for name in ids if name not in self._blocks]:
            raise BergerError(f"{self.folder}: holds no data of {unknown[0]!r}; see `recordings`.")
        blocks = [self._blocks[name] for name in ids]
        starts = table["start"].to_numpy(np.int64)
        last = np.array([block.n_times - count_samples(seconds, block.sfreq) for block in blocks])
        if outside := np.flatnonzero((starts < 0) | (starts > last[of_block])).tolist():
            row = table.iloc[outside[0]]
            raise BergerError(
                f"{row['recording']}: a window of {seconds:g} s from sample {row['start']} is not "
                "within the recording."
            )
        return WindowDataset(blocks, of_block, starts, seconds)
