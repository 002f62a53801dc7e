"""Where the labels of a task may come from: the part of its YAML file under ``labels:``."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from berger.configuration import Config
from berger.tasks.readers import READERS

Classes = dict[str, str | None]
"""What stands in the data → the name of the class, or None to leave it out."""

STAGES: Classes = {
    f"{prefix}{name}": stage
    for prefix in ("", "Sleep stage ")
    for stage, names in {
        "W": ("W", "Wake"),
        "N1": ("N1", "1"),
        "N2": ("N2", "2"),
        "N3": ("N3", "3", "4"),  # stages 3 and 4 of Rechtschaffen and Kales are one since 2007
        "R": ("R", "REM"),
        None: ("?",),
    }.items()
    for name in names
    if prefix or not name.isdigit()  # a bare 4 is N3 in some tables and REM in others
} | {"Movement time": None}
"""Names of sleep stages as EDF+ and common scoring programs write them → stages of the AASM."""


FROM_THE_TOP = ("W", "Wake", "R", "REM", "N1", "N2", "N3", "NREM")
"""Sleep stages, of people and of animals, as the rows of a hypnogram."""


def with_group(pattern: str, group: str) -> str:
    """Return a regular expression that has a group; raises ValueError for what is none."""
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        raise ValueError(f"no regular expression ({error})") from error
    if group not in groups:
        raise ValueError(f"must hold a group (?P<{group}>...)")
    return pattern


class FileNameLabels(Config):
    """One label for a whole recording, read from its name.

    Attributes
    ----------
    pattern : str
        Regular expression with a group ``label``, searched in the recording's id: the file's name,
        and before it the folders below the one that a corpus was prepared from.
    classes : dict of str to str or None
        What the group finds → class. Recordings with anything else are left out.
    """

    origin: Literal["file name"] = Field(alias="from")
    pattern: str
    classes: Classes

    @field_validator("pattern")
    @classmethod
    def _has_a_label(cls, pattern: str) -> str:
        return with_group(pattern, "label")


class AnnotationLabels(Config):
    """A label for each annotation, the events of a BIDS root included.

    Attributes
    ----------
    classes : dict of str to str or None
        Description of the annotation → class. Other annotations are not used.
    """

    origin: Literal["annotations"] = Field(alias="from")
    classes: Classes


class _Beside(Config):
    """A file beside each recording.

    Attributes
    ----------
    beside : str
        Its name, in which ``{stem}`` stands for the recording's name without its suffix; ``*``
        and ``?`` stand for any characters, as long as one file fits.
    stem : str, optional
        Regular expression with a group ``stem``, searched in the recording's name: what
        ``{stem}`` stands for instead.
    """

    beside: str | None = None
    stem: str | None = None

    @field_validator("stem")
    @classmethod
    def _has_a_stem(cls, stem: str | None) -> str | None:
        return stem and with_group(stem, "stem")

    @field_validator("beside")
    @classmethod
    def _is_a_name(cls, beside: str | None) -> str | None:
        if beside is not None and ("{stem}" not in beside or "/" in beside):
            raise ValueError("must be the name of a file beside the recording that has {stem}")
        return beside

    @model_validator(mode="after")
    def _has_its_file(self) -> Self:
        if self.stem and not self.beside:
            raise ValueError("stem belongs to beside, the name of a file; give that too")
        return self


class TableLabels(_Beside):
    """Labels or numbers in CSV or TSV tables.

    Attributes
    ----------
    table : str, optional
        One table for all recordings; a relative path counts from the data folder. Either this or
        `beside`.
    beside, stem : str, optional
        A table for each recording.
    recording, subject : str, optional
        The column of `table` that says whose a row is, one of both: a recording by its id, its
        file's name or that without the suffix; or a subject, all of whose recordings it is about.
    column : str
        Holds the labels, or the numbers of a regression.
    onset : str, optional
        Column of seconds from the beginning of the file, by the clock. With it, a row is about a
        stretch of the recording or an event; without, about a whole recording.
    duration : str or float, optional
        Column of seconds, or the seconds of every row.
    classes : dict of str to str or None, optional
        What stands in the column → class. A value that is not here is an error.
    incomplete : bool
        Whether table and recordings may lack one another, and rows their label; what lacks it is
        left out and counted. By default that is an error.
    """

    origin: Literal["table"] = Field(alias="from")
    table: str | None = None
    recording: str | None = None
    subject: str | None = None
    column: str
    onset: str | None = None
    duration: str | Annotated[float, Field(gt=0)] | None = None
    classes: Classes | None = None
    incomplete: bool = False

    @model_validator(mode="after")
    def _is_clear(self) -> Self:
        if (self.table is None) == (self.beside is None):
            raise ValueError("give one of both, table or beside")
        keys = [key for key in (self.recording, self.subject) if key is not None]
        if self.table is not None and len(keys) != 1:
            raise ValueError(
                "recording or subject is missing: the column of the table that says whose a row "
                "is, one of both"
            )
        if self.beside is not None and (keys or self.onset is None):
            raise ValueError("a table beside the recording needs onset, not recording or subject")
        if self.onset is not None and self.subject is not None:
            raise ValueError("onset needs rows by recording, since a subject may have several")
        if self.duration is not None and self.onset is None:
            raise ValueError("duration belongs to onset, the column of seconds; give that too")
        return self


class ParticipantLabels(Config):
    """A label or number for each subject, from the ``participants.tsv`` of a BIDS root.

    Attributes
    ----------
    column : str
        Of ``participants.tsv``, as it was when the corpus was prepared.
    classes : dict of str to str or None, optional
        What stands in the column → class. A value that is not here is an error.
    incomplete : bool
        Whether subjects without a row or a value may be left out and counted.
    """

    origin: Literal["participants"] = Field(alias="from")
    column: str
    classes: Classes | None = None
    incomplete: bool = False


class HypnogramLabels(_Beside):
    """Sleep stages.

    Attributes
    ----------
    beside, stem : str, optional
        The file that has them: EDF+ annotations (.edf), a table (.csv, .tsv), or a text of one
        stage a line (.txt). By default they are annotations of the recording itself.
    column : str, optional
        Of the table.
    onset : str, optional
        Column of seconds from the beginning of the recording. By default the rows are epochs, one
        after the other, from the beginning.
    duration : str, optional
        Column of seconds; by default every row lasts an epoch.
    epoch_seconds : float
        Length of an epoch.
    classes : dict of str to str or None
        What stands there → stage; by default `STAGES`. A value in a file beside the recording that
        is not here is an error; other annotations of a recording itself are not used.
    incomplete : bool
        Whether recordings without such a file may be left out and counted.
    """

    origin: Literal["hypnogram"] = Field(alias="from")
    column: str | None = None
    onset: str | None = None
    duration: str | None = None
    epoch_seconds: float = Field(30.0, gt=0)
    classes: Classes = STAGES
    incomplete: bool = False

    @model_validator(mode="after")
    def _fits_its_file(self) -> Self:
        kind = None if self.beside is None else self.beside.lower().rpartition(".")[2]
        columns = [self.column, self.onset, self.duration]
        if kind not in (None, "edf", "csv", "tsv", "txt"):
            raise ValueError("beside must end with .edf, .csv, .tsv or .txt")
        if kind in ("csv", "tsv"):
            if self.column is None:
                raise ValueError("column is missing: the one that has the stages")
        elif any(columns):
            raise ValueError("column, onset and duration belong to a table beside the recording")
        if self.duration is not None and self.onset is None:
            raise ValueError("duration belongs to onset, the column of seconds; give that too")
        return self


class ReaderLabels(Config):
    """Labels in a form of their own, which a reader of Berger's knows.

    Attributes
    ----------
    reader : str
        One of `berger.tasks.readers.READERS`.
    classes : dict of str to str or None, optional
        What the reader tells → class. A value that is not here is an error. None in a regression.
    incomplete : bool
        Whether recordings of which nothing is told may be left out and counted.
    """

    origin: Literal["reader"] = Field(alias="from")
    reader: str
    classes: Classes | None = None
    incomplete: bool = False

    @field_validator("reader")
    @classmethod
    def _is_known(cls, reader: str) -> str:
        if reader not in READERS:
            raise ValueError(f"there are {', '.join(READERS)}")
        return reader


Labels = Annotated[
    FileNameLabels
    | AnnotationLabels
    | TableLabels
    | ParticipantLabels
    | HypnogramLabels
    | ReaderLabels,
    Field(discriminator="origin"),
]
