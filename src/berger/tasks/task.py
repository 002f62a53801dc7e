"""What a task is, which tasks there are, and where their recordings lie."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from glob import glob
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from berger.configuration import Config, load_config, locate
from berger.errors import BergerError
from berger.preprocessing import PreprocessingConfig
from berger.recordings import LayoutConfig, species_name
from berger.tasks.facts import Facts
from berger.tasks.folds import folds
from berger.tasks.labels import (
    FROM_THE_TOP,
    FileNameLabels,
    HypnogramLabels,
    Labels,
    ParticipantLabels,
    ReaderLabels,
    TableLabels,
)
from berger.tasks.published_results import PublishedResult
from berger.tasks.splits import Fold, KFold, Split, TestedOn, may_draw_trials, tested_on

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""Of a split or variant: what may stand behind @ and +."""


class EventWindow(Config):
    """One window for each event.

    Attributes
    ----------
    tmin, tmax : float
        First and last second, from the event's onset.
    repeats : {"refuse", "once", "keep"}
        Where two labelled events begin at the same sample, as when an event is noted of several
        electrodes: an error; one window, and none where their labels contradict each other; or a
        window for each, so that it counts as often.
    """

    origin: Literal["event"] = Field(alias="from")
    tmin: float
    tmax: float
    repeats: Literal["refuse", "once", "keep"] = "refuse"

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if self.tmax <= self.tmin:
            raise ValueError("tmax must be greater than tmin")
        return self

    @property
    def seconds(self) -> float:
        """Its length."""
        return round(self.tmax - self.tmin, 9)  # 0.7 - 0.1 is no whole number of samples else


class Target(Config):
    """What a regression predicts, for tables and figures.

    Attributes
    ----------
    name, unit : str
    """

    name: str
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name


class TaskConfig(Config):
    """A labelled data set and the question asked of it.

    Attributes
    ----------
    name, title, description : str
    recordings : tuple of str
        Paths or glob patterns; relative ones count from the data folder.
    channels : tuple of str, optional
        Keep exactly these, in this order; recordings that lack one are left out. Default: as the
        model was trained.
    bipolar : {"double banana", "tcp"} or tuple of pairs of str, optional
        In place of `channels`: make these differences of two electrodes and keep nothing else, as
        in `berger.preprocessing.PreprocessingConfig`, whatever the model was trained on.
    reference : {"as recorded", "average"} or tuple of str, optional
        In place of the model's own, as in `berger.preprocessing.PreprocessingConfig`.
    without : tuple of {"highpass", "notch"}
        Filters of the model's that these recordings do not allow, being trials that are shorter.
    layout : LayoutConfig, optional
        What is where in recordings that do not say so themselves. Default: as the model was
        trained.
    kind : {"classification", "regression"}
    labels : one of `berger.tasks.labels.Labels`
    target : Target, optional
        What the numbers of a regression are.
    window_seconds, step_seconds : float
        Length of a window, and from one window to the next (default: the length).
    window : EventWindow, optional
        One window per event, in place of `window_seconds` and `step_seconds`.
    background : str, optional
        Class of the windows that no label touches. Windows then follow each other through the whole
        recording, and one that a label touches at all has that label, e.g. of a seizure.
    subject_pattern : str, optional
        Regular expression with a group ``subject``, searched in the path; default: Berger's own
        rules for file names and headers.
    max_amplitude : float, optional
        In µV; windows that reach it are left out. None keeps all.
    upsample : bool
        Whether recordings of a lower rate than the model's are brought to it, which adds no
        frequencies; their own band must hold all below the model's low-pass.
    split : one of `berger.tasks.splits.AnySplit`
        Who is tested by a model that learned from whom.
    n_folds : int
        Folds by person, of the split "k-fold" or of that among `splits`.
    splits : dict of str to split
        In place of `split`: those that are in use, by name, none of which is silently taken.
    split_name : str, optional
        Which of them; of the only one, its name.
    variants : dict of str to dict
        Name → fields that others set otherwise, and under ``about`` who and why.
    variant : str, optional
        Which of them this is.
    facts : Facts
        By which a folder of the data set is checked.
    sleep_stages : tuple of str, optional
        The classes, if they are sleep stages, in the order of a hypnogram's rows from the top.
        Needed only where labels are not from hypnograms, or their stages have names of their own.
    published : tuple of PublishedResult
        What others have reported, for the report to show beside what is measured.
    species : str
        Who was recorded, noted with every recording that is prepared for the task.
    licence, paper, source : str
        Facts for the report.
    """

    name: str
    title: str = ""
    description: str = ""
    recordings: tuple[str, ...] = ("**/*.edf",)
    channels: tuple[str, ...] | None = Field(None, min_length=1)
    bipolar: Literal["double banana", "tcp"] | tuple[tuple[str, str], ...] | None = None
    reference: Literal["as recorded", "average"] | tuple[str, ...] | None = None
    without: tuple[Literal["highpass", "notch"], ...] = ()
    layout: LayoutConfig | None = None
    kind: Literal["classification", "regression"] = "classification"
    labels: Labels
    target: Target | None = None
    window_seconds: float = Field(gt=0)
    step_seconds: float | None = Field(None, gt=0)
    window: EventWindow | None = None
    background: str | None = None
    subject_pattern: str | None = None
    max_amplitude: float | None = Field(None, gt=0)
    upsample: bool = False
    split: Split = KFold(by="k-fold")
    n_folds: int = Field(6, ge=2)
    splits: dict[Name, Split] = {}
    split_name: str | None = None
    variants: dict[Name, dict[str, Any]] = {}
    variant: str | None = None
    facts: Facts = Facts()
    sleep_stages: tuple[str, ...] | None = None
    published: tuple[PublishedResult, ...] = ()
    species: str = "human"
    licence: str = ""
    paper: str = ""
    source: str = ""

    # Where relative paths count from: `load_task` knows. No fields, since a record of a run
    # should read alike whatever machine it was made on.
    _data: Path | None = PrivateAttr(Path())
    _own_folder: Path = PrivateAttr(Path())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order in which they are given; none in a regression."""
        names = [*(self.labels.classes or {}).values(), self.background]
        return tuple(dict.fromkeys(name for name in names if name is not None))

    @property
    def hypnogram(self) -> tuple[str, ...]:
        """The classes as the rows of a hypnogram, from the top; none if they are no sleep stages.

        Labels from hypnograms are sleep stages, and so is what `sleep_stages` names.
        """
        if self.sleep_stages is not None or not isinstance(self.labels, HypnogramLabels):
            return self.sleep_stages or ()
        rank = {name.casefold(): place for place, name in enumerate(FROM_THE_TOP)}
        if not {name.casefold() for name in self.classes} <= {*rank}:
            return self.classes
        return tuple(sorted(self.classes, key=lambda name: rank[name.casefold()]))

    @property
    def tested_on(self) -> TestedOn:
        """Strangers, or people whom the tested model learned from."""
        return tested_on(self.split)

    @property
    def data_folder(self) -> Path:
        """Where relative paths of recordings and labels count from.

        Raises
        ------
        BergerError
            For a shipped task whose data nobody has said the place of.
        """
        if self._data is None:
            raise BergerError(
                f"task {self.name}: where is the data? Give --data FOLDER with the files from "
                f"{self.source or 'its source'}, or --corpus with a corpus made from them."
            )
        return self._data

    @property
    def has_data(self) -> bool:
        """Whether its data folder is known and there."""
        return self._data is not None and self._data.is_dir()

    def folds(
        self,
        subjects: Sequence[str],
        sites: Sequence[str | None],
        *,
        recordings: Sequence[str] = (),
        trials: Collection[str] = (),
        validation_share: float,
        seed: int,
        n_folds: int | None = None,
    ) -> list[Fold]:
        """Return the folds of its split; see `berger.tasks.splits.folds`.

        Parameters
        ----------
        subjects, sites : sequence of str
            Of each recording that is used.
        recordings : sequence of str
            Their ids, which splits of recordings or trials need.
        trials : collection of str
            What stands in the column ``trial`` of the task's windows, where there is one.
        validation_share : float
        seed : int
        n_folds : int, optional
            In place of the task's own, of the split "k-fold".

        Raises
        ------
        BergerError
            As `folds`; and if there are several splits and none was chosen.
        """
        if self.splits and self.split_name is None:
            named = ", ".join(f"{self.name}@{name}" for name in self.splits)
            raise BergerError(
                f"task {self.name}: has several splits in use, whose numbers cannot be compared; "
                f"name one, as {named}."
            )
        return folds(
            self.split,
            subjects,
            sites,
            recordings=recordings,
            trials=trials,
            n_folds=n_folds or self.n_folds,
            validation_share=validation_share,
            seed=seed,
            folder=self._own_folder,
        )

    @model_validator(mode="before")
    @classmethod
    def _length_of_the_event_window(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("window") is None or "window_seconds" in given:
            return given
        try:
            seconds = EventWindow.model_validate(given["window"]).seconds
        except ValidationError:  # `window` itself will say so
            seconds = 1.0
        return given | {"window_seconds": seconds}

    @model_validator(mode="before")
    @classmethod
    def _split_of_that_name(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("split_name") is None or "split" in given:
            return given
        splits = given.get("splits")
        if not isinstance(splits, dict) or given["split_name"] not in splits:
            return given  # `_has_one_split` will say so
        return given | {"split": splits[given["split_name"]]}

    @model_validator(mode="after")
    def _has_one_montage(self) -> Self:
        _demand(
            self.channels is None or self.bipolar is None,
            "channels and bipolar exclude each other; remove one",
        )
        # says what is wrong with pairs or reference
        PreprocessingConfig(
            bipolar=self.bipolar,
            ch_names=self.channels,
            reference=self.reference or "as recorded",
        )
        return self

    @model_validator(mode="after")
    def _has_windows(self) -> Self:
        if self.window is None:
            if isinstance(self.labels, TableLabels) and self.labels.onset:
                _demand(
                    self.labels.duration is not None,
                    "labels.duration is missing, within which windows lie; or give one window per "
                    "event by `window: {from: event, tmin: ..., tmax: ...}`",
                )
            return self
        _demand(
            self.window_seconds == self.window.seconds and self.step_seconds is None,
            "window goes in the place of window_seconds and step_seconds; give it alone",
        )
        whole = isinstance(self.labels, FileNameLabels | ParticipantLabels | HypnogramLabels) or (
            isinstance(self.labels, TableLabels) and self.labels.onset is None
        )
        _demand(
            not whole,
            "one window per event needs labels with an onset: annotations, or a table with onset",
        )
        return self

    @model_validator(mode="after")
    def _has_a_question(self) -> Self:
        if self.kind == "regression":
            _demand(
                isinstance(self.labels, TableLabels | ParticipantLabels | ReaderLabels),
                "a regression takes its numbers from a table, participants or a reader",
            )
            _demand(
                self.labels.classes is None,
                "labels.classes belong to a classification; remove them, or `kind: regression`",
            )
            return self
        _demand(
            self.background is None or self.window is None,
            "background and window exclude each other; remove one",
        )
        _demand(self.target is None, "target belongs to `kind: regression`; remove it")
        _demand(
            self.labels.classes is not None,
            "labels.classes is missing: what stands in the column → name of the class",
        )
        _demand(len(self.classes) >= 2, "labels.classes must name at least two classes")
        return self

    @model_validator(mode="after")
    def _has_its_stages(self) -> Self:
        if self.sleep_stages is not None:
            _demand(
                sorted(self.sleep_stages) == sorted(self.classes) and self.kind == "classification",
                "sleep_stages must name each class once, from the top row of a hypnogram down",
            )
            _demand(
                self.window is None,
                "sleep_stages belong to windows that follow each other; remove them, or `window`",
            )
        return self

    @model_validator(mode="after")
    def _has_fitting_published_results(self) -> Self:
        for result in self.published:
            _demand(
                result.kind == self.kind,
                f"published: {result.metric} of {result.model} is no score of a {self.kind}",
            )
        return self

    @model_validator(mode="after")
    def _has_fitting_facts(self) -> Self:
        for count in self.facts.windows:
            _demand(
                count.split in self.splits or (count.split is None and {*count.counts} == {"all"}),
                f"facts.windows: {count.split!r} is none of the splits, of which the counts are",
            )
        for name in self.facts.labels:
            _demand(name in self.classes, f"facts.labels: {name!r} is no class of labels.classes")
        return self

    @model_validator(mode="after")
    def _has_one_split(self) -> Self:
        _demand(
            self.split_name is None or self.split_name in self.splits,
            f"split_name: {self.split_name!r} is none of splits, but "
            f"{', '.join(self.splits) or 'there are none'}",
        )
        _demand(
            not self.splits or self.split_name is not None or "split" not in self.model_fields_set,
            "split and splits exclude each other; remove one",
        )
        _demand(
            any(isinstance(split, KFold) for split in (self.split, *self.splits.values()))
            or "n_folds" not in self.model_fields_set,
            f"n_folds belongs to the split k-fold, not {self.split.by!r}; remove it",
        )
        _demand(
            self.tested_on == "strangers" or not isinstance(self.labels, ParticipantLabels),
            "a person has one label in participants, so that nothing can be learned within a "
            "subject; split otherwise",
        )
        _demand(
            self.background is None or not may_draw_trials(self.split),
            "windows of a background lie in no trial; split otherwise, or remove background",
        )
        return self


def _demand(holds: bool, complaint: str) -> None:
    if not holds:
        raise ValueError(complaint)


def catalogue() -> dict[str, Path]:
    """Return name → file of every task that is shipped with the package."""
    folder = Path(str(resources.files("berger") / "tasks" / "catalogue"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def load_task(task: str | Path, data: Path | None = None) -> TaskConfig:
    """Return the shipped task of that name, or read a user's YAML file.

    Parameters
    ----------
    task : str or Path
        Behind a + may stand one of its variants, then behind an @ one of its splits, as
        "tuab@official" or "hmc+cbramod@cbramod".
    data : Path, optional
        Folder that holds the data set. Default: the YAML file's folder, or for a shipped task the
        folder of the task's name below ``$BERGER_DATA``.

    Raises
    ------
    BergerError
        If there is no such task, variant or split, or the file is wrong.
    """
    task, variant, split = _named(task)
    path = locate(task, catalogue(), "task")
    config = load_config(TaskConfig, path)
    config = _as_chosen(config, path, variant or config.variant, split or config.split_name)
    config._data = _data_folder(config, task, data)
    config._own_folder = path.parent
    return config


def _named(task: str | Path) -> tuple[str | Path, str | None, str | None]:
    """Return task, variant and split of what may name all three; a file's name is left whole."""
    if Path(task).is_file():
        return task, None, None
    rest, _, split = str(task).partition("@")
    name, _, variant = rest.partition("+")
    return name, variant or None, split or None


def _as_chosen(task: TaskConfig, path: Path, variant: str | None, split: str | None) -> TaskConfig:
    """Return the variant of a task, with one of its splits."""
    chosen: dict[str, Any] = {}
    for what, name, known in (("variant", variant, task.variants), ("split", split, task.splits)):
        if name is not None and name not in known:
            raise BergerError(
                f"task {task.name}: has no {what} {name!r}, only {', '.join(known) or 'the plain'};"
                " see `berger tasks`."
            )
    if variant is not None:
        given = {key: value for key, value in task.variants[variant].items() if key != "about"}
        chosen |= {**given, "variant": variant}
    if split is None and len(task.splits) == 1:
        (split,) = task.splits
    if split is not None:
        chosen |= {"split": task.splits[split].model_dump(mode="json"), "split_name": split}
    return load_config(TaskConfig, path, chosen) if chosen else task


def find_data(task: TaskConfig, origin: str | Path, data: Path | None) -> list[Path]:
    """Return the recordings of a task.

    Parameters
    ----------
    task : TaskConfig
    origin : str or Path
        As given to `load_task`: a file's patterns count from its own folder.
    data : Path, optional
        As in `load_task`.

    Raises
    ------
    BergerError
        If the folder is not known or nothing in it fits.
    """
    placed = task.model_copy()
    placed._data = _data_folder(task, origin, data)
    return recordings_of(placed)


def recordings_of(task: TaskConfig) -> list[Path]:
    """Return what fits the patterns of a task, from its data folder.

    Raises
    ------
    BergerError
        If the folder is not known or nothing in it fits.
    """
    data = task.data_folder
    found = sorted(
        {
            data / path
            for pattern in task.recordings
            for path in glob(pattern, root_dir=data, recursive=True)  # noqa: PTH207 - absolute too
        }
    )
    if not found:
        raise BergerError(
            f"{data}: nothing there fits {' or '.join(task.recordings)}; give the folder "
            f"that holds the recordings of {task.name} by --data."
        )
    return found


def _data_folder(task: TaskConfig, origin: str | Path, data: Path | None) -> Path | None:
    if data is not None:
        return data
    origin = _named(origin)[0]
    if str(origin) not in catalogue():
        return Path(origin).parent
    root = os.environ.get("BERGER_DATA")
    return Path(root) / task.name if root else None


def preparation(task: TaskConfig, contract: PreprocessingConfig) -> PreprocessingConfig:
    """Return how a task's recordings are prepared for a model trained on `contract`.

    Of another species than the model's corpus, they are noted as of their own; where the task does
    not say which, as of none.
    """
    species = species_name(task.species) if "species" in task.model_fields_set else None
    if species == species_name(contract.species or "human"):
        species = contract.species
    montage: dict[str, Any] = {"ch_names": task.channels or contract.ch_names}
    if task.bipolar is not None:  # in which any common reference cancels out
        montage = {"ch_names": None, "bipolar": task.bipolar, "reference": "as recorded"}
    elif task.reference is not None:
        montage |= {"bipolar": None, "reference": task.reference}
    return contract.model_copy(
        update=montage
        | dict.fromkeys(task.without)
        | {
            "layout": task.layout or contract.layout,
            "max_amplitude": task.max_amplitude,
            "upsample": task.upsample,
            "subject_pattern": task.subject_pattern,
            "species": species,
            "cut_start": 0.0,
            "cut_end": 0.0,
            "min_duration": 0.0,
            "unit": None,
        }
    )
