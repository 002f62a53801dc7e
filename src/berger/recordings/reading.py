"""From paths to recordings: find files, read them, know whose they are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from berger.errors import BergerError
from berger.recordings.bids import (
    apply_sidecars,
    is_root,
    read_sidecars,
    recording_folders,
    unknown_formats,
)
from berger.recordings.formats import FORMATS, Reader, format_of, is_companion, reader_of
from berger.recordings.layout import LayoutConfig
from berger.recordings.recording import Recording, Unit, Wanted

_LAID_OUT: tuple[str, ...] = get_args(LayoutConfig.model_fields["suffix"].annotation)


def find_recordings(
    paths: Sequence[str | Path], root: Path | None = None, *, layout: LayoutConfig | None = None
) -> list[tuple[str, Path]]:
    """List the recordings in files and folders.

    Parameters
    ----------
    paths : sequence of path
        Files, and folders that are searched to any depth, links to folders too. Hidden files
        are passed over. Of a
        BIDS root (a folder with a dataset_description.json, given or found in one given), the
        recordings are those in its subjects' folders eeg and ieeg: derivatives and sourcedata
        are searched only if they are given.
    root : Path, optional
        A folder above all files that are given directly; their ids count from it.
    layout : LayoutConfig, optional
        With it, files of its suffix are recordings too.

    Returns
    -------
    list of (str, Path)
        Recording id and file, sorted by id. The id is the file's path from the given folder's
        parent on ("eegmat/Subject00_1.edf"), or the bare name of a file given directly.

    Raises
    ------
    BergerError
        For a path that does not exist, a file of no known format, a folder without recordings or
        with a folder in it that cannot be read, and two files of the same id.
    """
    known = ", ".join([*FORMATS, *([layout.suffix] if layout else [])])
    found: dict[str, Path] = {}
    for given in paths:
        # Not `resolve`: the links inside annexed data sets point to names without meaning.
        path = Path(os.path.normpath(Path(given).absolute()))
        if path.is_dir():
            files = [path] if format_of(path) else list(_search(path, layout))
            if not files:
                place = " in its subjects' folders eeg and ieeg" if is_root(path) else ""
                raise BergerError(
                    f"{path}: holds no recording{place} ({known}){_undeclared(path) or ';'} give "
                    "another folder."
                )
            ids = {file.relative_to(path.parent).as_posix(): file for file in files}
        else:
            _reader_of(path, layout)
            ids = {path.relative_to(root.absolute()).as_posix() if root else path.name: path}
        for recording_id, file in ids.items():
            if found.setdefault(recording_id, file) != file:
                raise BergerError(
                    f"{file}: would be called {recording_id!r} like {found[recording_id]}; "
                    "rename a folder, or give the folder that holds both."
                )
    return sorted(found.items())


def read_recording(
    path: str | Path,
    *,
    subject_pattern: str | None = None,
    ch_names: Sequence[str] | None = None,
    besides: Sequence[str] = (),
    layout: LayoutConfig | None = None,
    unit: Unit | None = None,
    samples: bool = True,
) -> Recording:
    """Read the EEG of one file, and what a BIDS root that it lies in says about it.

    Parameters
    ----------
    path : str or Path
        A file of a known format; the folder, for .mff.
    subject_pattern : str, optional
        Regular expression with a named group ``subject`` and optionally ``session`` and
        ``site``, searched in the file's absolute path (with forward slashes). By default BIDS
        roots and names, TUH names and names that begin with subject, subj, sub, patient,
        participant, s or p and digits are understood, then the header's patient code, then the
        file's name is the subject.
    ch_names : sequence of str, optional
        The channels to take as EEG, named as in the file or canonically, whatever they seem to
        hold. By default the channels that are named as electrodes of the 10–5 system.
    besides : sequence of str
        Electrodes to take as well where the file has them, e.g. the mastoids that the others are
        to be referenced to.
    layout : LayoutConfig, optional
        What is where in a file of its suffix (.csv, .mat, .npz), which does not say so itself.
    unit : {"V", "mV", "µV", "uV", "nV"}, optional
        What the numbers in the file really are, where it declares another unit or none. Files
        with a layout have theirs there.
    samples : bool
        Whether to read the signal. Without, it is NaN throughout and takes no memory, and of EDF
        and most other formats no more is read than header and annotations; files with a layout
        are read whole all the same. Damage among the samples is then not found.

    Returns
    -------
    Recording
        With the channels in the order of the file.

    Raises
    ------
    BergerError
        For a file that is missing, damaged, truncated or of another format, that has no EEG
        channel, two of the same name or EEG at two sampling rates, or whose path does not match
        `subject_pattern`; in a BIDS root for tables that cannot be read or contradict the file.
    """
    path = Path(path)
    reader = _reader_of(path, layout)
    sidecars = read_sidecars(path)
    wanted = Wanted(
        None if ch_names is None else tuple(ch_names),
        tuple(besides),
        sidecars.channels if sidecars else None,
        samples,
    )
    content = reader(path, wanted, unit)
    channels = content.channels
    whose = identify(path, content.patient_code, subject_pattern)
    said: dict[str, Any] = {"notes": content.notes}
    if sidecars is not None:
        content, notes = apply_sidecars(path, content, sidecars, unit)
        said["notes"] += notes
        said |= {"run": sidecars.run, "task": sidecars.task, "participant": sidecars.participant}
        said["species"] = sidecars.species
        site = whose.site or sidecars.site
        whose = whose._replace(site=site)
        if subject_pattern is None:
            whose = Identity(sidecars.subject, "bids", sidecars.session, site)
    return Recording(
        signal=content.signal,
        ch_names=tuple(channels.taken.values()),
        sfreq=content.sfreq,
        subject=whose.subject,
        subject_source=whose.source,
        session=whose.session,
        site=whose.site,
        path=path,
        original_ch_names=tuple(content.labels[index] for index in channels.taken),
        kept_out=channels.kept_out,
        annotations=content.annotations,
        gaps=content.gaps,
        kinds=channels.kinds,
        bads=channels.bads,
        **said,
    )


def _undeclared(folder: Path) -> str:
    """Say which files in a folder could be recordings by a layout."""
    names = [name.lower() for _, _, files in os.walk(folder) for name in files if name[0] != "."]
    counts = {suffix: sum(name.endswith(suffix) for name in names) for suffix in _LAID_OUT}
    there = " and ".join(f"{n} {suffix}" for suffix, n in counts.items() if n)
    if not there or is_root(folder):
        return ""
    return (
        f", but {there} files, which do not say what is where in them; declare that as `layout` in "
        "the configuration (examples: berger configs), or"
    )


def _search(
    folder: Path, layout: LayoutConfig | None, above: tuple[str, ...] = ()
) -> Iterator[Path]:
    """Yield the recordings in a folder, at any depth; `above` are the folders that it lies in."""
    place = os.path.realpath(folder)
    if place in above:
        return  # a link to a folder that is being searched
    above = (*above, place)
    try:
        if is_root(folder):
            inside = recording_folders(folder)
            others = [path for recordings in inside for path in unknown_formats(recordings)]
        else:
            with os.scandir(folder) as entries:
                shown = [entry for entry in entries if not entry.name.startswith(".")]
            # A folder may be a recording (.mff); what lies in it is not searched.
            inside = [
                path
                for entry in shown
                if entry.is_dir() and not format_of(path := folder / entry.name)
            ]
            # Not `is_file`: a link to data that were never fetched is a failure to report.
            files = {folder / entry.name for entry in shown} - {*inside}
            others = [path for path in files if format_of(path, layout) and not is_companion(path)]
    except OSError as error:
        # which is what is looked for first in a folder
        where = str(error.filename or folder).removesuffix("/dataset_description.json")
        raise BergerError(
            f"{where}: cannot be searched ({error.strerror}); make the folder readable, or give "
            "others that do not hold it."
        ) from error
    yield from others
    for path in inside:
        yield from _search(path, layout, above)


# Default patterns, searched in the file's name. Alone "s" and "p" count only where the name
# begins, and "P300" is a brain response rather than patient 300.
_SUBJECT_PATTERNS = (
    r"^(?P<subject>sub-[a-z0-9]+)(_(?P<session>ses-[a-z0-9]+))?",  # BIDS
    r"^(?P<subject>[a-z]{8})_(?P<session>s\d{3}_t\d{3})\.",  # TUH EEG
    r"(^|[_ -])(?P<subject>(subject|subj|sub|patient|participant)[_ -]?\d+)[_ -]?(?P<session>.*)\.",
    r"^(?P<subject>(s|p(?!300))\d+)[_ -]?(?P<session>.*)\.",
)


class Identity(NamedTuple):
    """Whose a recording is; the fields as in `Recording`."""

    subject: str
    source: str
    session: str | None = None
    site: str | None = None


def identify(
    path: Path, patient_code: str | None = None, subject_pattern: str | None = None
) -> Identity:
    """Tell whose a recording is.

    Parameters
    ----------
    path : Path
        The recording's file; it need not exist.
    patient_code : str, optional
        What the file's header says.
    subject_pattern : str, optional
        As in `read_recording`.

    Raises
    ------
    BergerError
        For a pattern that is no regular expression, has no group ``subject`` or is not found.
    """
    if subject_pattern is None:
        found = (re.search(known, path.name, re.IGNORECASE) for known in _SUBJECT_PATTERNS)
        match = next(filter(None, found), None)
    else:
        match = compile_subject_pattern(subject_pattern).search(path.absolute().as_posix())
        if match is None or not match["subject"]:
            raise BergerError(
                f"{path}: subject_pattern {subject_pattern!r} is not found in this path; "
                "correct the pattern."
            )
    if match is not None:
        groups = match.groupdict()
        session, site = (groups.get(name) or None for name in ("session", "site"))
        return Identity(match["subject"], "pattern", session, site)
    if patient_code:
        return Identity(patient_code, "header")
    return Identity(path.stem, "file name")


def compile_subject_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a regular expression that must have a named group ``subject``.

    Raises
    ------
    BergerError
        If it is none, or lacks the group.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise BergerError(
            f"subject_pattern {pattern!r}: is no regular expression ({error}); correct it."
        ) from error
    if "subject" not in compiled.groupindex:
        raise BergerError(f"subject_pattern {pattern!r}: must hold a group (?P<subject>...).")
    return compiled


def _reader_of(path: Path, layout: LayoutConfig | None) -> Reader:
    """Return the function that reads files of this suffix."""
    if not path.exists():
        link = "a link to data that are not here; fetch them" if path.is_symlink() else None
        raise BergerError(f"{path}: {link or 'does not exist; correct the path'}.")
    suffix = format_of(path, layout)
    if suffix is None:
        if path.suffix.lower() in _LAID_OUT:
            raise BergerError(
                f"{path}: a {path.suffix} file does not say what is where in it; declare it as "
                f"`layout` (suffix: {path.suffix.lower()}) in the configuration."
            )
        known = ", ".join(FORMATS)
        raise BergerError(f"{path}: no known format; known are {known}, by the file's suffix.")
    return reader_of(suffix, layout)
