"""Damage files in ways that can be repeated, read them in processes apart, and judge the outcome.

A source is a recording and the files that belong to it, as bytes. `damage` derives a damaged copy
from a seed alone; `run` reads many, with a time limit and a memory limit for each; `faults` holds
an accepted one against what was not damaged.
"""

from __future__ import annotations

import gzip
import multiprocessing
import re
import resource
import struct
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from berger.errors import BergerError
from berger.recordings import LayoutConfig, Recording, read_recording

SECONDS = 10.0  # that reading one file may take
MEMORY = 3 << 30  # bytes that reading may reserve beyond what the process had before


@dataclass(frozen=True)
class Source:
    """A sound recording: its main file, all files by name, and how it is to be read."""

    main: str
    files: Mapping[str, bytes]
    ch_names: tuple[str, ...] | None = None
    layout: LayoutConfig | None = None


def source(path: Path, *companions: Path, **options) -> Source:
    """Take up a recording and its companions, or a folder."""
    if path.is_dir():
        inside = [file for file in sorted(path.rglob("*")) if file.is_file()]
        names = [f"{path.name}/{file.relative_to(path).as_posix()}" for file in inside]
    else:
        inside = [path, *companions]
        names = [file.name for file in inside]
    return Source(
        path.name,
        {name: file.read_bytes() for name, file in zip(names, inside, strict=True)},
        **options,
    )


class Damaged(NamedTuple):
    """What was done to which file."""

    file: str
    kind: str
    content: bytes
    changed: tuple[int, ...] | None  # the bytes that differ; None if the length does


KINDS = ("bytes", "head", "field", "number", "truncate", "insert", "delete", "swap", "lines")

_TEXTS = (
    b"",
    b"-1",
    b"0",
    b"1e9",
    b"999999999999",
    b"-99999999",
    b"nan",
    b"inf",
    b"1e-300",
    b"\xff",
)
_INTEGERS = (0, 1, -1, 2, 255, 2**15 - 1, -(2**15), 2**16, 10**9, 2**31 - 1, -(2**31), 2**31)
_FLOATS = (0.0, -1.0, float("nan"), float("inf"), 1e300, 1e-300, -1e9)


def damage(source: Source, seed: int) -> Damaged:
    """Damage one file of a source."""
    rng = np.random.default_rng([4711, seed])
    names = sorted(source.files)
    name = source.main if source.main in names and rng.random() < 0.6 else str(rng.choice(names))
    original = source.files[name]
    kind = str(rng.choice(KINDS))
    head = min(len(original), 2000)
    content = bytearray(original)
    if kind in ("bytes", "head"):
        reach = head if kind == "head" else len(content)
        for _ in range(int(rng.integers(1, 12))):
            content[rng.integers(reach)] = rng.integers(256)
    elif kind == "field":  # a number written as text; half of the time its width is kept
        fields = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(content[: 4 * head])))
        if fields:
            field = fields[rng.integers(len(fields))]
            text = _TEXTS[rng.integers(len(_TEXTS))]
            if rng.random() < 0.7:
                text = text[: len(field[0])].ljust(len(field[0]))
            content[field.start() : field.end()] = text
    elif kind == "number":  # a number as bytes
        width = int(rng.choice([2, 4, 8]))
        order = "<>"[rng.integers(2)]
        if rng.random() < 0.7 or width == 2:
            number = _INTEGERS[rng.integers(len(_INTEGERS))] & (2 ** (8 * width) - 1)
            packed = struct.pack(order + {2: "H", 4: "I", 8: "Q"}[width], number)
        else:
            number = np.float64(_FLOATS[rng.integers(len(_FLOATS))])
            with np.errstate(over="ignore", under="ignore"):
                packed = number.astype(f"{order}f{width}").tobytes()
        at = int(rng.integers(max(head - width, 1)))
        content[at : at + width] = packed
        del content[len(original) :]
    elif kind == "truncate":
        del content[rng.integers(len(content)) :]
    elif kind == "insert":
        at = int(rng.integers(len(content) + 1))
        content[at:at] = rng.integers(0, 256, rng.integers(1, 300), dtype=np.uint8).tobytes()
    elif kind == "delete":
        at = int(rng.integers(len(content)))
        del content[at : at + int(rng.integers(1, 300))]
    elif kind == "swap":
        length = int(rng.integers(1, max(len(content) // 4, 2)))
        first = int(rng.integers(max(len(content) - 2 * length, 1)))
        second = int(rng.integers(first + length, max(len(content) - length, first + length) + 1))
        one, other = content[first : first + length], content[second : second + length]
        if len(one) == len(other):
            content[first : first + length], content[second : second + length] = other, one
    else:
        content = bytearray(bytes(content).replace(b"\n", b"\r\n"))
    changed = None
    if len(content) == len(original):
        differs = np.frombuffer(bytes(content), np.uint8) != np.frombuffer(original, np.uint8)
        changed = tuple(np.flatnonzero(differs).tolist())
    return Damaged(name, kind, bytes(content), changed)


def lay_out(source: Source, folder: Path, damaged: Damaged | None = None) -> Path:
    """Write a source into a folder, one file damaged, and return its main file."""
    for name, content in source.files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(damaged.content if damaged and name == damaged.file else content)
    return folder / source.main


# --- Where the samples are ---------------------------------------------------------------


def sample_bytes(source: Source, name: str) -> range:
    """Return the bytes of a file that are samples and nothing else, an empty range if unknown."""
    content, suffix = source.files[name], Path(name).suffix.lower()
    if suffix == ".eeg" and content[:4] == b"EEG-":
        return range(0x17FE + 0x27 + 20, len(content))
    if suffix in (".fdt", ".dat", ".eeg"):
        return range(len(content))
    if suffix in (".edf", ".bdf") and b"Annotations" not in content[:20000]:
        return range(256 * (int(content[252:256]) + 1), len(content))
    if suffix == ".gdf":
        return range(256 * (content[252] + 1), len(content) - 22)
    if suffix == ".cnt" and content[:4] != b"RIFF" and content[:4] != b"RF64":
        return range(900 + 150, len(content) - 17)
    if suffix == ".raw":
        return range(40, len(content))
    if name.endswith("signal1.bin"):
        return range(100, len(content))
    return range(0)


# --- Judging -----------------------------------------------------------------------------

# In these a line more or less is another text, not a file that is not whole.
_TEXT_FILES = (".vhdr", ".vmrk", ".lay", ".21e", ".xml", ".csv")


def faults(source: Source, damaged: Damaged, sound: Recording, found: Recording) -> list[str]:
    """Return what cannot be true of a recording that was accepted."""
    said = []
    n_chans, n_times = found.signal.shape
    if (n_chans, found.signal.dtype) != (len(found.ch_names), np.float64) or not n_times:
        said.append("a signal that is no signal of the channels named")
    if not (np.isfinite(found.sfreq) and found.sfreq > 0):
        said.append(f"a rate of {found.sfreq}")
    if len(set(found.ch_names)) != n_chans:
        said.append("two channels of one name")
    if not all(np.isfinite([mark.onset, mark.duration]).all() for mark in found.annotations):
        said.append("an annotation at no time")
    if any(not 0 < gap.start < n_times for gap in found.gaps):
        said.append("a gap beyond the samples")
    if damaged.changed is None:
        if Path(damaged.file).suffix.lower() not in _TEXT_FILES and not _is_unread(source, damaged):
            said.append("a file of another length")
        return said
    if found.signal.shape[1] != sound.signal.shape[1]:
        said.append(f"{n_times} samples instead of {sound.signal.shape[1]}")
    where = sample_bytes(source, damaged.file)
    if where and all(at in where for at in damaged.changed):
        same = (found.ch_names, found.sfreq) == (sound.ch_names, sound.sfreq)
        if not same or found.signal.shape != sound.signal.shape:
            said.append("another head, though samples alone were changed")
        else:
            equal = (found.signal == sound.signal) | (
                np.isnan(found.signal) & np.isnan(sound.signal)
            )
            if (~equal).sum() > len(damaged.changed):
                said.append("more samples changed than bytes")
    return said


def _is_unread(source: Source, damaged: Damaged) -> bool:
    """Return whether bytes were put in or taken out where nothing is read.

    That is behind the events of a Neuroscan file, in what belongs to a Nihon Kohden file, and in
    the head of a gzip file. Persyst, and BrainVision where it leaves out the number of samples,
    have no way to say that whole samples are missing.
    """
    suffix, original = Path(damaged.file).suffix.lower(), source.files[damaged.file]
    return (
        damaged.content == original
        or suffix in (".pnt", ".log")
        or (suffix == ".gz" and gzip.decompress(damaged.content) == gzip.decompress(original))
        or (suffix == ".dat" and len(damaged.content) % _frame(source) == 0)
        or (source.main == "unsized.vhdr" and suffix == ".eeg" and len(damaged.content) % 6 == 0)
        or (suffix == ".cnt" and damaged.content.startswith(original))
    )


def _frame(source: Source) -> int:
    """Return the bytes of one sample of all channels of a Persyst file."""
    return 8 if b"DataType=7" in source.files[source.main] else 4


# --- Reading in processes apart ----------------------------------------------------------


class Outcome(NamedTuple):
    """What came of one seed."""

    seed: int
    source: str
    file: str
    kind: str
    result: str  # "read", "refused", "fault"
    text: str
    seconds: float


def run(
    sources: Sequence[Source], seeds: Sequence[int], folder: Path, n_workers: int = 2
) -> Iterator[Outcome]:
    """Yield the outcome of every seed, in any order; seed i takes source i modulo their number."""
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(seeds))
    busy: dict[connection.Connection, tuple[multiprocessing.process.BaseProcess, int, float]] = {}

    def start() -> None:
        near, far = context.Pipe()
        place = folder / f"worker-{len(list(folder.glob('worker-*')))}"
        place.mkdir(parents=True)
        worker = context.Process(target=_work, args=(far, sources, place), daemon=True)
        worker.start()
        far.close()
        busy[near] = (worker, -1, time.monotonic() + 120)  # it says so when it is ready

    for _ in range(n_workers):
        start()
    while busy:
        for pipe in connection.wait(list(busy), timeout=0.2):
            assert isinstance(pipe, connection.Connection)
            worker, seed, _ = busy.pop(pipe)
            try:
                outcome = pipe.recv()
            except EOFError:  # it died
                worker.join()
                yield _lost(sources, seed, f"the process ended ({worker.exitcode})")
                if waiting:
                    start()
                continue
            if outcome is not None:
                yield outcome
            if waiting:
                following = waiting.pop()
                pipe.send(following)
                busy[pipe] = (worker, following, time.monotonic() + SECONDS)
            else:
                pipe.send(None)
                worker.join()
        for pipe, (worker, seed, deadline) in list(busy.items()):
            if time.monotonic() > deadline:
                worker.kill()
                worker.join()
                del busy[pipe]
                yield _lost(sources, seed, f"took more than {SECONDS:g} s")
                if waiting:
                    start()


def _lost(sources: Sequence[Source], seed: int, text: str) -> Outcome:
    chosen = sources[seed % len(sources)]
    damaged = damage(chosen, seed)
    return Outcome(seed, chosen.main, damaged.file, damaged.kind, "fault", text, SECONDS)


def _work(pipe: connection.Connection, sources: Sequence[Source], folder: Path) -> None:
    """Read damaged files as seeds come in."""
    warnings.simplefilter("ignore")
    sound = []
    for index, whole in enumerate(sources):
        path = lay_out(whole, folder / f"sound-{index}")
        sound.append(read_recording(path, ch_names=whole.ch_names, layout=whole.layout))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    pipe.send(None)
    while (seed := pipe.recv()) is not None:
        index = seed % len(sources)
        chosen, damaged = sources[index], damage(sources[index], seed)
        path = lay_out(chosen, folder / f"damaged-{index}", damaged)
        began = time.monotonic()
        try:
            found = read_recording(path, ch_names=chosen.ch_names, layout=chosen.layout)
        except BergerError as error:
            text = str(error)
            result = "refused"
            if "memory" in text or str(path.name) not in text or "\n" in text:
                result = "fault"
        except Exception as error:
            result, text = "fault", f"{type(error).__name__}: {error}"
        else:
            text = "; ".join(faults(chosen, damaged, sound[index], found))
            result = "fault" if text else "read"
        seconds = time.monotonic() - began
        pipe.send(Outcome(seed, chosen.main, damaged.file, damaged.kind, result, text, seconds))
