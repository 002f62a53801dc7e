"""Read the tables and hypnograms of a user's, and find those that lie beside recordings."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import edfio
import pandas as pd

from berger.errors import BergerError
from berger.recordings import Annotation, LayoutConfig, find_recordings


def read_table(path: Path, needed: Iterable[str | None] = ()) -> pd.DataFrame:
    """Read a table of texts: CSV, or TSV by its suffix; names of the columns in the first line.

    Parameters
    ----------
    path : Path
    needed : iterable of str or None
        Columns that must be there.

    Returns
    -------
    DataFrame of str
        Without white space around the values; "" where nothing stands.

    Raises
    ------
    BergerError
        If it is missing, no table, two columns have one name, or a column is not there.
    """
    try:
        cells = pd.read_csv(
            path,
            sep="\t" if path.suffix.lower() == ".tsv" else ",",
            header=None,  # pandas would rename columns of one name, and shift rows that are longer
            dtype=str,
            na_filter=False,
            skipinitialspace=True,
            encoding="utf-8-sig",
        )
    except OSError as error:
        raise BergerError(
            f"{path}: cannot be read ({error.strerror}); put the table there, or correct its path "
            "in the task."
        ) from error
    except ValueError as error:  # pandas' errors of form and Unicode's
        reason = " ".join(str(error).split()).rstrip(".")
        raise BergerError(
            f"{path}: is no table of columns separated by commas (.csv) or tabs (.tsv) in UTF-8 "
            f"({reason}); export it again."
        ) from error
    cells = cells.fillna("").map(str.strip)
    names, table = cells.iloc[0].tolist(), cells.iloc[1:].reset_index(drop=True)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BergerError(f"{path}: two columns are called {twice[0]!r}; rename one.")
    table.columns = pd.Index(names)
    for name in needed:
        if name is not None and name not in names:
            raise BergerError(
                f"{path}: has no column {name!r}, only {', '.join(map(repr, names))}; correct the "
                "task."
            )
    return table


def number_in(text: str) -> float | None:
    """Return the number that a cell holds; None if it holds none, or none that is finite."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


def seconds_in(table: pd.DataFrame, column: str, path: Path) -> list[float]:
    """Return a column of seconds.

    Raises
    ------
    BergerError
        If a cell is no number.
    """
    seconds = []
    for row, text in enumerate(table[column], start=2):  # as a spreadsheet counts its lines
        number = number_in(text)
        if number is None:
            raise BergerError(
                f"{path}: line {row} has {text!r} as {column}, which is no time in seconds; "
                "correct it."
            )
        seconds.append(number)
    return seconds


def places(paths: Iterable[Path], layout: LayoutConfig | None) -> dict[str, list[Path]]:
    """Return, by name, the files that may be a corpus's recordings."""
    found: dict[str, list[Path]] = {}
    for given in paths:
        for _, path in find_recordings([given], layout=layout):
            found.setdefault(path.name, []).append(path)
    return found


def place_of(recording: str, found: dict[str, list[Path]]) -> Path:
    """Return the file of a recording: the one whose path ends with the recording's id.

    Raises
    ------
    BergerError
        If there is none, or several.
    """
    parts = Path(recording).parts
    fitting = {
        path for path in found.get(parts[-1], []) if path.absolute().parts[-len(parts) :] == parts
    }
    if len(fitting) != 1:
        several = (
            f"several files ({', '.join(map(str, sorted(fitting)))})" if fitting else "no file"
        )
        raise BergerError(
            f"{recording}: {several} of the data folder may be it, so that what lies beside it is "
            "not known; give the folder that the corpus was prepared from by --data."
        )
    return fitting.pop()


def file_beside(path: Path, name: str, stem: str | None) -> Path | None:
    """Return the file of a given name beside a recording, None if there is none.

    Parameters
    ----------
    path : Path
        The recording.
    name : str
        With ``{stem}`` for the recording's stem, and wildcards.
    stem : str, optional
        Regular expression whose group ``stem`` is that instead.

    Raises
    ------
    BergerError
        If the recording's name does not fit `stem`, or several files fit.
    """
    own = path.stem
    if stem is not None:
        match = re.search(stem, path.name)
        if match is None:
            raise BergerError(f"{path}: its name does not fit labels.stem, {stem!r}; correct that.")
        own = match["stem"]
    literal = re.sub(r"([*?[])", r"[\1]", own)  # in the recording's name they are no wildcards
    fitting = sorted(path.parent.glob(name.replace("{stem}", literal)))
    # "._NAME" is what macOS keeps of a file on disks of others
    fitting = [file for file in fitting if file != path and not file.name.startswith("._")]
    if len(fitting) > 1:
        several = " and ".join(file.name for file in fitting)
        raise BergerError(
            f"{path}: {several} lie beside it and fit {name!r}; make labels.beside narrower."
        )
    return fitting[0] if fitting else None


def read_edf_hypnogram(path: Path, recording: Path) -> list[Annotation]:
    """Return the annotations of an EDF+ file that holds nothing else.

    Parameters
    ----------
    path : Path
    recording : Path
        The file that it is about; if this is EDF or BDF too, both must begin at one time.

    Raises
    ------
    BergerError
        If it cannot be read, or begins at another time.
    """
    try:
        marks = [
            Annotation(mark.onset, mark.duration or 0.0, mark.text)
            for mark in edfio.read_edf(path).annotations
        ]
    except Exception as error:  # edfio says of a damaged file whatever Python said
        reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
        raise BergerError(
            f"{path}: cannot be read as EDF+ annotations ({reason}); fetch or export it again."
        ) from error
    if recording.suffix.lower() in (".edf", ".bdf"):
        begins = [_begin(file) for file in (recording, path)]
        if begins[0] != begins[1]:
            raise BergerError(
                f"{path}: begins at {begins[1]}, but {recording.name} at {begins[0]}; export the "
                "hypnogram with the recording's start."
            )
    return marks


def _begin(path: Path) -> str:
    """Return date and time of an EDF file as its header has them."""
    with path.open("rb") as file:
        fixed = file.read(184)
    return f"{fixed[168:176].decode('latin-1')} {fixed[176:184].decode('latin-1')}"


def read_stage_lines(path: Path) -> list[str]:
    """Return the lines of a text file that has one stage a line.

    Raises
    ------
    BergerError
        If it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BergerError(
            f"{path}: cannot be read as text ({' '.join(str(error).split())}); export it again."
        ) from error
    while lines and not lines[-1].strip():
        lines.pop()
    return [line.strip() for line in lines]
