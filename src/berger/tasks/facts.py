"""What is known of a data set, and whether a folder is that data set."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from berger.configuration import Config
from berger.tasks.downloads import Download


class Facts(Config):
    """What a folder must hold.

    Attributes
    ----------
    version : str
        The distribution that the numbers are of.
    url : str
        Where it is to be had.
    access : {"open", "agreement", "private"}
    apply : str
        Where to ask for it, if not open.
    download : Download, optional
        How `berger fetch` gets it.
    test_people : str
        Where names of the test people mean nothing outside of the data set: why, as the end of a
        sentence. By default they are those of the recordings that it was made from.
    subjects, recordings : int, optional
    sfreq : tuple of float
        Rates of the files, in Hz.
    ch_names : tuple of str
        Channels that every file has, by their names there.
    labels : dict of str to int
        Class → how many labelled stretches, events or epochs there are.
    """

    version: str = ""
    url: str = ""
    access: Literal["open", "agreement", "private"] = "open"
    apply: str = ""
    download: Download | None = None
    test_people: str = ""
    subjects: int | None = Field(None, ge=1)
    recordings: int | None = Field(None, ge=1)
    sfreq: tuple[float, ...] = ()
    ch_names: tuple[str, ...] = ()
    labels: dict[str, int] = {}
