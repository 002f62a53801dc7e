"""What a corpus looks like on disk: names, columns, the manifest, and counts for microvolts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from berger.configuration import Config
from berger.corpus.exclusion import Exclusion
from berger.errors import BergerError
from berger.files import sha256, written_whole
from berger.preprocessing import PreprocessingConfig

FORMAT: Literal["berger-corpus"] = "berger-corpus"
VERSION: Literal[1] = 1

MANIFEST = "manifest.json"
RECORDINGS = "recordings.parquet"
WINDOWS = "windows.parquet"
LOG = "prepare.jsonl"
STAGING = ".staging"
LOCK = ".lock"

SAMPLE = np.dtype("<i2")
_SAMPLES_AT_ONCE = 2**14  # quantised at once, so that it takes no second copy of a recording
LARGEST_COUNT = 32767
SMALLEST_STEP, LARGEST_STEP = 1e-6, 0.199
"""µV per count. Half the largest step, float32's own rounding included, is below 0.1 µV."""
LARGEST_VALUE = LARGEST_STEP * LARGEST_COUNT
"""µV."""

RECORDING_COLUMNS = pa.schema(
    {
        "recording": pa.string(),  # id: path from the parent of the folder that was given
        "status": pa.string(),  # ok | failed (not read) | rejected (by configuration, as a twin)
        "reason": pa.string(),  # why not ok
        "subject": pa.string(),
        "subject_source": pa.string(),  # pattern | bids | header | file name
        "session": pa.string(),
        "site": pa.string(),  # where it was recorded, if known
        "source_bytes": pa.int64(),
        "source_sha256": pa.string(),  # of the file, as `berger.recordings.hash_of`
        "source_sfreq": pa.float64(),  # Hz, of the file
        "sfreq": pa.float64(),  # Hz, of the corpus
        "ch_names": pa.list_(pa.string()),
        "original_ch_names": pa.list_(pa.string()),  # the same channels by their names in the file
        "kept_out": pa.list_(pa.struct({"name": pa.string(), "reason": pa.string()})),
        "interpolated": pa.list_(pa.string()),  # electrodes computed from others
        "n_times": pa.int64(),  # 0 unless ok
        "shard": pa.string(),  # file name
        "offset": pa.int64(),  # of the block's first sample in the shard, in int16 elements
        "scale": pa.list_(pa.float32()),  # µV per count, per channel
        "offset_seconds": pa.float64(),  # cut from the file's start
        "seconds": pa.float64(),  # of the file
        "seconds_kept": pa.float64(),  # within usable stretches
        "dropped": pa.list_(pa.struct({"cause": pa.string(), "seconds": pa.float64()})),
        # onset and duration in seconds, from the block's first sample
        "annotations": pa.list_(
            pa.struct({"onset": pa.float64(), "duration": pa.float64(), "description": pa.string()})
        ),
        "history": pa.list_(pa.string()),  # what was done, in sentences
        # time that was not recorded: seconds (null if unknown) before a sample of the block
        "gaps": pa.list_(pa.struct({"start": pa.int64(), "seconds": pa.float64()})),
        "kinds": pa.list_(pa.string()),  # what each of ch_names is: scalp, EMG, name as given, ...
        "species": pa.string(),  # as the BIDS root or the configuration says
        "run": pa.string(),  # of a BIDS root, as the next two
        "task": pa.string(),
        # what participants.tsv says of the subject
        "participant": pa.list_(pa.struct({"name": pa.string(), "value": pa.string()})),
    }
)
WINDOW_COLUMNS = pa.schema(
    {"recording": pa.string(), "start": pa.int64(), "stop": pa.int64()}  # samples of the block
)


def shard_name(index: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{index:05d}.npy"


class FileEntry(Config):
    """A file of the corpus and how to tell that it is as written."""

    file: str
    bytes: int
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @classmethod
    def of(cls, path: Path) -> Self:
        """Describe a file that stands."""
        return cls(file=path.name, bytes=path.stat().st_size, sha256=sha256(path))


class Montage(Config):
    """Channels in one order, and how many recordings have them."""

    ch_names: tuple[str, ...]
    recordings: int


class Counts(Config):
    """Files by status, subjects and seconds of those that are ok."""

    ok: int
    failed: int
    rejected: int
    subjects: int
    seconds_kept: float
    seconds_dropped: float


class CorpusManifest(Config):
    """What is in a corpus; no times and no absolute paths, so that equal contents are equal bytes.

    Attributes
    ----------
    id : str
        SHA-256 over everything else that stands here, and so, through the hashes of the files,
        over the whole content.
    preprocessing : PreprocessingConfig
        How every recording was made comparable.
    excluded : tuple of Exclusion
        Whose recordings were left out.
    counts : Counts
    montages : tuple of Montage
        The most frequent first.
    shards, tables : tuple of FileEntry
    """

    format: Literal["berger-corpus"] = FORMAT
    version: Literal[1] = VERSION
    id: str = ""
    preprocessing: PreprocessingConfig
    excluded: tuple[Exclusion, ...] = ()
    counts: Counts
    montages: tuple[Montage, ...]
    shards: tuple[FileEntry, ...]
    tables: tuple[FileEntry, ...]

    def identified(self) -> Self:
        """Return the manifest with the id that its content has."""
        return self.model_copy(update={"id": self._content_id()})

    @property
    def is_as_written(self) -> bool:
        """Whether what was read has the id that stands there.

        What an earlier Berger did not write is not counted, whatever it is by default today.
        """
        return self._content_id(exclude_unset=True) == self.id

    def _content_id(self, *, exclude_unset: bool = False) -> str:
        content = self.model_dump(mode="json", exclude={"id"}, exclude_unset=exclude_unset)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> CorpusManifest:
    """Read the manifest of a corpus.

    Raises
    ------
    BergerError
        If there is none, the preparation was not finished, or it is of another version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / STAGING).is_dir():
            raise BergerError(
                f"{folder}: this corpus is unfinished; run `berger prepare` again with the same "
                "arguments, it continues."
            )
        raise BergerError(f"{folder}: is no corpus (no {MANIFEST}); make one by `berger prepare`.")
    return parse_manifest(path.read_bytes(), path)


def parse_manifest(content: bytes, source: Path | str) -> CorpusManifest:
    """Read what stands in a manifest; `source` says where that was.

    Raises
    ------
    BergerError
        If it is none, is damaged, or is of another version.
    """
    try:
        fields = json.loads(content)
        if not isinstance(fields, dict) or fields.get("format") != FORMAT:
            raise BergerError(f"{source}: is not the manifest of a corpus; give a corpus folder.")
        if (version := fields.get("version")) != VERSION:
            raise BergerError(
                f"{source}: a corpus from another format version ({version!r}, this Berger reads "
                f"{VERSION}); prepare the recordings into another folder, or use the Berger that "
                "wrote it."
            )
        return CorpusManifest.model_validate(fields)
    except (ValueError, ValidationError) as error:
        raise BergerError(
            f"{source}: is damaged or from a newer Berger; restore it, or prepare the corpus anew."
        ) from error


def misfits(folder: Path, entries: Iterable[FileEntry], *, content: bool = True) -> list[str]:
    """Say which files are missing or not as they were written; `content` reads every byte."""
    problems = []
    for entry in entries:
        path = folder / entry.file
        if not path.is_file():
            problems.append(f"{path}: is missing")
        elif (size := path.stat().st_size) != entry.bytes:
            problems.append(f"{path}: has {size} bytes instead of {entry.bytes}")
        elif content and sha256(path) != entry.sha256:
            problems.append(f"{path}: is not as it was written, bytes have changed")
    return problems


def read_table(path: Path) -> pa.Table:
    """Read a table.

    Raises
    ------
    BergerError
        If it is missing or damaged.
    """
    try:
        # Without threads, which would not survive a fork, e.g. into the workers of a DataLoader.
        with pq.ParquetFile(path, pre_buffer=False) as file:
            return file.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise BergerError(
            f"{path}: cannot be read as a table; restore it, or prepare the corpus anew."
        ) from error


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], columns: pa.Schema) -> FileEntry:
    """Write a table, whole or not at all."""
    with written_whole(path) as temporary:
        table = pa.Table.from_pylist(list(rows), schema=columns)
        pq.write_table(table, temporary, compression="zstd")
    return FileEntry.of(path)


def quantise(
    signal: npt.NDArray[np.float64], stretches: Sequence[tuple[int, int]], shortest: float = 1
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32], list[tuple[int, int]], int]:
    """Turn microvolts into counts, no sample of a usable stretch off by 0.1 µV or more.

    A channel's step is its largest value within usable stretches / 32767. Where that would be
    too coarse, the samples beyond ±6.5 mV leave the usable stretches, and so does what they
    leave shorter than `shortest`. Samples outside of these are clipped.

    Parameters
    ----------
    signal : ndarray, shape (n_chans, n_times)
        Microvolts.
    stretches : sequence of (start, stop)
        The usable stretches, in samples.
    shortest : float
        Number of samples that a usable stretch must have.

    Returns
    -------
    samples : ndarray of int16, shape (n_times, n_chans)
    scale : ndarray of float32, shape (n_chans,)
        Microvolts per count.
    stretches : list of (start, stop)
        Those given, less the samples out of range, and none below `shortest`.
    n_dropped : int
        Number of samples out of range.
    """
    usable: list[tuple[int, int]] = []
    peak = np.zeros(len(signal))
    n_dropped = 0
    for start, stop in stretches:
        height = np.abs(signal[:, start:stop])
        holds = (height <= LARGEST_VALUE).all(0)  # False for NaN
        # Each stretch on its own: two that touch are apart for a reason, e.g. a gap in time.
        edges = np.flatnonzero(np.diff(holds, prepend=False, append=False))
        n_dropped += int(np.count_nonzero(~holds))
        for first, last in edges.reshape(-1, 2).tolist():
            if last - first >= shortest:
                usable.append((start + first, start + last))
                peak = np.maximum(peak, height[:, first:last].max(1))

    # The smallest step serves a silent channel, whose peak says nothing.
    scale = np.clip(peak / LARGEST_COUNT, SMALLEST_STEP, LARGEST_STEP).astype(np.float32)
    samples = np.empty(signal.T.shape, SAMPLE)
    for first in range(0, len(samples), _SAMPLES_AT_ONCE):
        part = slice(first, first + _SAMPLES_AT_ONCE)
        counts = signal[:, part].T / scale
        np.nan_to_num(np.rint(counts, out=counts), copy=False)
        samples[part] = counts.clip(-LARGEST_COUNT, LARGEST_COUNT, out=counts)
    return samples, scale, usable, n_dropped
