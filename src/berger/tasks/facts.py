"""What is known of a data set, by which a folder of it is checked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from berger.configuration import Config
from berger.tasks.downloads import Download
from berger.tasks.published_results import Metric

Part = Literal["train", "validation", "train + validation", "test", "all"]


class WindowCount(Config):
    """How many windows others count.

    Attributes
    ----------
    counts : dict of {"train", "validation", "train + validation", "test", "all"} to int
    split : str, optional
        Of the task, in which the parts are; "all" needs none. Where validation people are drawn by
        the seed, "train + validation" can be compared, and neither of both.
    version : str
        The distribution that they were counted in, where there are several.
    beyond : bool
        Whether windows were counted that reach beyond the recording.
    source : str
    """

    counts: dict[Part, PositiveInt] = Field(min_length=1)
    split: str | None = None
    version: str = ""
    beyond: bool = False
    source: str = ""


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
    unusable : int
        How many of the recordings are known to be left out, as for want of a channel.
    sfreq : tuple of float
        Rates of the files, in Hz.
    ch_names : tuple of str
        Channels that every file has, by their names there.
    labels : dict of str to int
        Class → how many labelled stretches, events or epochs there are.
    windows : tuple of WindowCount
        Of one split there may be those of several versions.
    metrics : tuple of str
        The scores by which papers compare models on it.
    """

    version: str = ""
    url: str = ""
    access: Literal["open", "agreement", "private"] = "open"
    apply: str = ""
    download: Download | None = None
    test_people: str = ""
    subjects: int | None = Field(None, ge=1)
    recordings: int | None = Field(None, ge=1)
    unusable: int = Field(0, ge=0)
    sfreq: tuple[float, ...] = ()
    ch_names: tuple[str, ...] = ()
    labels: dict[str, int] = {}
    windows: tuple[WindowCount, ...] = ()
    metrics: tuple[Metric, ...] = ()
