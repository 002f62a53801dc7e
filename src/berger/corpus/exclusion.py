"""People who shall not be in a corpus, such as those whom its models will be tested on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from berger.configuration import Config
from berger.recordings import RejectedError


class Exclusion(Config):
    """Whom a corpus leaves out.

    Attributes
    ----------
    of : str
        The task that is tested on them, with its split.
    how : str
        By what they are known; "unknown" if they are not, and then they may be in the corpus.
    people : tuple of str
        As the recordings call them; upper and lower case are the same.
    sha256 : str
        Of their list: sorted, one a line.
    """

    of: str
    how: str
    people: tuple[str, ...] = ()
    sha256: str = ""

    @classmethod
    def listed(cls, of: str, how: str, people: Iterable[str]) -> Self:
        """Make one of people in any order."""
        ordered = tuple(sorted({person.casefold() for person in people}))
        lines = "".join(f"{person}\n" for person in ordered)
        return cls(
            of=of, how=how, people=ordered, sha256=hashlib.sha256(lines.encode()).hexdigest()
        )

    def __contains__(self, subject: str | None) -> bool:
        return subject is not None and subject.casefold() in self.people


def refuse_excluded(
    path: Path, subject: str, subject_source: str, excluded: Sequence[Exclusion]
) -> None:
    """Raise RejectedError for a recording of somebody who is left out, or of nobody knows whom."""
    for exclusion in excluded:
        if subject in exclusion:
            raise RejectedError(
                f"{path}: {subject} is one of the evaluation people of {exclusion.of}, who are "
                "left out."
            )
    # What a header calls somebody need not be what the lists call him.
    known = subject_source in ("pattern", "bids")
    if not known and any(exclusion.people for exclusion in excluded):
        raise RejectedError(
            f"{path}: its name does not tell whether it is of one of the evaluation people who "
            "are left out; set subject_pattern."
        )
