"""What an evaluation consists of: its configuration, its cells, and what they have in common."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, PositiveFloat, field_validator, model_validator

from berger.adaptation.finetuning import FineTuningConfig
from berger.configuration import Config, load_config, locate, read_yaml, shipped_configs
from berger.errors import BergerError
from berger.evaluation.baselines import BAND_POWER, CHANCE, RANDOM, RIEMANN, Baseline
from berger.evaluation.decoding import AdaptationMethod
from berger.evaluation.networks import NETWORKS
from berger.evaluation.protocol import Fold
from berger.evaluation.published_models import PublishedModel, network_of, published_title
from berger.models import list_models
from berger.preprocessing import PreprocessingConfig
from berger.pretraining import CONFIG_FILE, PretrainingConfig
from berger.tasks import TaskConfig, load_task
from berger.tasks.splits import PARTS, KFold

PLAN_FILE = "plan.json"
BASELINE: Final = "baseline"
"""The folder of the baselines' cells, where those of a model have its name."""

ARROW: Final = " → "
"""Between the tasks of a transfer, in tables."""

Reasons = dict[tuple[str, str, str], str]
"""Task, model, adaptation → why no cell of it can be worked at."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""What stands in tables and is the name of a folder."""


def _content(given: Any) -> Any:
    """Return what the shipped configuration of that name, or a file, holds."""
    if not isinstance(given, str):
        return given
    return read_yaml(locate(given, shipped_configs(), "configuration"))


class ModelSource(Config):
    """Where a model comes from: one of the first three.

    Attributes
    ----------
    checkpoint : Path, optional
        Folder of a pretrained model.
    model : str, optional
        A name of `berger.list_models`: fresh weights, drawn by the cell's seed.
    pretraining : PretrainingConfig, optional
        Pretrained in each fold, with the cell's seed, on the recordings of the fold's training
        people, without their labels; several experts are assembled. Not where people are in
        several parts.
    preparation : PreprocessingConfig, optional
        How recordings are prepared for a model that is no checkpoint; a checkpoint says itself.
        Not needed for tasks whose corpus is given.

    Notes
    -----
    Configurations may be given inline, or as a file or the name of a shipped one.
    """

    checkpoint: Path | None = None
    model: str | None = None
    pretraining: PretrainingConfig | None = None
    preparation: PreprocessingConfig | None = None

    _read = field_validator("pretraining", "preparation", mode="before")(_content)

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        given = [self.checkpoint is not None, self.model is not None, self.pretraining is not None]
        if sum(given) != 1:
            raise ValueError("give one of checkpoint, model and pretraining")
        if self.checkpoint is not None and self.preparation is not None:
            raise ValueError("a checkpoint says how recordings are prepared; remove preparation")
        if self.model is not None and self.model not in list_models():
            raise ValueError(f"no model is called {self.model!r}; see `berger models`")
        return self

    @property
    def kind(self) -> Literal["checkpoint", "fresh", "pretrained in each fold"]:
        """What its weights are."""
        if self.checkpoint is not None:
            return "checkpoint"
        return "fresh" if self.model is not None else "pretrained in each fold"


class TaskSource(Config):
    """A task and its recordings.

    Attributes
    ----------
    task : str, optional
        Name or YAML file; default: the name by which it stands in the evaluation.
    data : Path, optional
        Folder of its recordings, as in `berger adapt`.
    corpus : str, optional
        In its place a corpus that is ready; every model reads this one.
    shots : int, optional
        Few-shot: of the training people every model and baseline reads so many windows of each
        class (of a regression: in all), and of the validation people as many. For several numbers
        of shots in one evaluation, name the task several times.
    only_transfers : bool
        It has a part in transfers, and is not evaluated by its own split.
    """

    task: str | None = None
    data: Path | None = None
    corpus: str | None = None
    shots: int | None = Field(None, ge=1)
    only_transfers: bool = False


class Transfer(Config):
    """Learn one task and be tested on another, which asks for the same classes or numbers.

    Attributes
    ----------
    train : str
        Task whose people are learned from, and, by seed, chosen by.
    test : str
        Task whose people are all tested, once a seed.
    same_people : bool
        Whether equal names in both tasks are of one person, from whom then nothing is learned.
    """

    train: str
    test: str
    same_people: bool = False

    @model_validator(mode="after")
    def _is_between_two(self) -> Self:
        if self.train == self.test:
            raise ValueError("a transfer is from one task to another; name two")
        return self

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return f"{self.train}{ARROW}{self.test}"


class EvaluationConfig(Config):
    """Models × tasks and transfers × adaptations × seeds × folds.

    Attributes
    ----------
    models : dict of str to ModelSource
        May be empty where there are baselines.
    tasks : dict of str to TaskSource
    transfers : tuple of Transfer
        From task to task; of one fold.
    adaptations : dict of str to AdaptationMethod
        Inline, or the name or file of a configuration of `berger adapt`.
    baselines : tuple of str
        Run on the same folds; they read the recordings as prepared for the first model.
    penalties : tuple of float
        From which the validation people choose for the baselines.
    published_models : dict of str to PublishedModel
        Published networks with their weights, run as the baselines are.
    network_training : FineTuningConfig
        How EEGNet and ShallowConvNet are trained, and published networks fine-tuned.
    seeds : tuple of int
        Of folds, fresh weights and trainings; the first one also of bootstrap and swaps.
    n_folds : int, optional
        Of tasks whose split is k-fold; default: each task's. Other splits make their own.
    validation_share : float
        Share of the people outside the test fold by whom choices are made.
    allow_seen : tuple of str
        Models that may be tested on people whom their pretraining has seen; marked in all tables.
    """

    models: dict[Name, ModelSource] = Field({}, validate_default=True)
    tasks: dict[Name, TaskSource] = Field(min_length=1)
    transfers: tuple[Transfer, ...] = ()
    adaptations: dict[Name, AdaptationMethod] = {}
    baselines: tuple[Baseline, ...] = (CHANCE, BAND_POWER, RIEMANN)
    penalties: tuple[PositiveFloat, ...] = Field((1e-4, 1e-3, 1e-2, 1e-1, 1.0), min_length=1)
    published_models: dict[Name, PublishedModel] = {}
    network_training: FineTuningConfig = FineTuningConfig()
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0, 1, 2), min_length=1)
    n_folds: int | None = Field(None, ge=2)
    validation_share: float = Field(0.25, gt=0, lt=1)
    allow_seen: tuple[str, ...] = ()

    @property
    def published(self) -> dict[str, tuple[str, str]]:
        """Title of each row of a published model → its name and how it is adapted."""
        return {
            published_title(name, how): (name, how)
            for name, model in self.published_models.items()
            for how in model.adaptations
        }

    @property
    def seeded(self) -> frozenset[str]:
        """Baselines and rows of published models that have random weights, drawn by the seed."""
        tuned = {title for title, (_, how) in self.published.items() if how == "fine-tuning"}
        return frozenset(NETWORKS) | tuned

    @field_validator("tasks", mode="before")
    @classmethod
    def _nothing_is_a_shipped_task(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {name: {} if source is None else source for name, source in given.items()}

    @field_validator("adaptations", mode="before")
    @classmethod
    def _read_adaptations(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {name: _method(name, source) for name, source in given.items()}

    @model_validator(mode="after")
    def _is_a_matrix(self) -> Self:
        if bool(self.models) != bool(self.adaptations):
            raise ValueError("models need adaptations, and adaptations need models; give both")
        if not self.models and not self.baselines and not self.published_models:
            raise ValueError("there is neither a model nor a baseline; name some")
        if not self.models and any(source.corpus is None for source in self.tasks.values()):
            raise ValueError("without a model nobody says how to prepare; give each task a corpus")
        if BASELINE in self.models:
            raise ValueError(f"a model cannot be called {BASELINE!r}; choose another name")
        if RANDOM in self.baselines:
            raise ValueError(f"{RANDOM!r}: give the model itself, as `model: NAME`")
        if unknown := sorted({*self.allow_seen} - {*self.models}):
            raise ValueError(f"allow_seen names {unknown[0]!r}, which is no model here")
        for name, model in self.published_models.items():
            network_of(name, model)
        if len({_baseline_folder(title) for title in self.published}) < len(self.published):
            raise ValueError("published_models: two names differ in case or marks only; rename one")
        for name in ("seeds", "baselines"):
            if len({*getattr(self, name)}) < len(getattr(self, name)):
                raise ValueError(f"{name}: one is given twice; remove it")
        return self

    @model_validator(mode="after")
    def _transfers_are_between_tasks(self) -> Self:
        named = {task for one in self.transfers for task in (one.train, one.test)}
        if unknown := sorted(named - {*self.tasks}):
            raise ValueError(f"transfers name {unknown[0]!r}, which is no task here")
        learned = {one.train for one in self.transfers}
        for name, task in self.tasks.items():
            if task.shots is not None and task.only_transfers and name not in learned:
                raise ValueError(
                    f"task {name} has shots, but is only tested; give them to the task that a "
                    "transfer learns"
                )
        if len({one.name for one in self.transfers}) < len(self.transfers):
            raise ValueError("transfers: one is given twice; remove it")
        idle = [name for name, task in self.tasks.items() if task.only_transfers]
        if lacking := sorted({*idle} - named):
            raise ValueError(f"task {lacking[0]} is only for transfers, but is in none; name one")
        return self

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Names of what has rows in the tables: tasks, then transfers."""
        own = [name for name, source in self.tasks.items() if not source.only_transfers]
        return (*own, *(one.name for one in self.transfers))

    def shots(self, task: str) -> int | None:
        """Return of how many windows of each class is learned; in a transfer, of the first task."""
        return self.tasks[self.parts_of(task)[0]].shots

    def transfer(self, task: str) -> Transfer | None:
        """Return the transfer of that name, None if it is a task."""
        return next((one for one in self.transfers if one.name == task), None)

    def parts_of(self, task: str) -> tuple[str, ...]:
        """Return the tasks whose recordings are read: itself, or a transfer's two."""
        one = self.transfer(task)
        return (task,) if one is None else (one.train, one.test)


def _baseline_folder(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def _method(name: str, given: Any) -> Any:
    """Return the fields of a method; a file for `adapt` may say more, but not for nothing."""
    content = _content(given)
    if content is given or not isinstance(content, dict):
        return given
    more = [key for key in content if key not in AdaptationMethod.model_fields]
    if ours := [key for key in more if key != "baselines"]:
        raise ValueError(
            f"{given} sets {' and '.join(ours)}, which the evaluation itself says; give the other "
            f"fields inline under adaptations.{name}"
        )
    return {key: value for key, value in content.items() if key not in more}


@dataclass(frozen=True)
class Cell:
    """One model or baseline, adapted one way to one task, with one seed, in one fold.

    Attributes
    ----------
    task, model, adaptation : str
        Names in the configuration; a task may be a transfer, and of a baseline `adaptation` is
        empty.
    title : str
        What it is called in tables: "model, adaptation", or the baseline.
    seed : int
    fold : int
        From 1.
    """

    task: str
    model: str
    adaptation: str
    title: str
    seed: int
    fold: int

    def __str__(self) -> str:
        return f"{self.task}, {self.title}, seed {self.seed}, fold {self.fold}"

    @property
    def is_baseline(self) -> bool:
        """Whether it is one of the baselines."""
        return not self.adaptation

    @property
    def folder(self) -> Path:
        """Where it stands below the evaluation's folder."""
        who = Path(self.model, self.adaptation)
        if self.is_baseline:
            who = Path(BASELINE, _baseline_folder(self.model))
        return Path("cells", folder_name(self.task), who, f"seed-{self.seed}-fold-{self.fold}")


@dataclass(frozen=True, eq=False)
class Plan:
    """What the cells of an evaluation have in common, as it stands in its folder.

    Attributes
    ----------
    out : Path
        The evaluation's folder.
    config : EvaluationConfig
    tasks : dict of str to TaskConfig
        Of a transfer, the task that is learned, under the transfer's name.
    corpora : dict of str to str
        `corpus_key` → folder or address.
    corpus_ids : dict of str to str
        Folder or address of each corpus → its identity.
    folds : dict of str to dict of int to list of Fold
        By task and seed.
    sites : dict of str to tuple of str
        By task that leaves sites out, the site that each fold tests.
    people : dict of str to tuple of str
        By task, everybody who has windows in it; of a transfer as in `TransferWindows`.
    windows : dict of str to str
        By task and corpus, SHA-256 of the task's windows there and their labels.
    """

    out: Path
    config: EvaluationConfig
    tasks: dict[str, TaskConfig]
    corpora: dict[str, str]
    corpus_ids: dict[str, str]
    folds: dict[str, dict[int, list[Fold]]]
    people: dict[str, tuple[str, ...]]
    sites: dict[str, tuple[str, ...]]
    windows: dict[str, str]

    def corpora_of(self, cell: Cell) -> tuple[str, ...]:
        """Return the corpora that a cell reads: one, or those of a transfer's two tasks."""
        keys = corpus_keys(self.config, cell.task, cell.model, cell.adaptation)
        return tuple(self.corpora[key] for key in keys)

    def fold_of(self, cell: Cell) -> Fold:
        """Return the parts of a cell's fold."""
        return self.folds[cell.task][cell.seed][cell.fold - 1]

    def features_file(self, cell: Cell) -> Path:
        """Return where the features that a probe reads are kept, for all cells that read them."""
        method = self.config.adaptations[cell.adaptation]
        kind = self.config.models[cell.model].kind
        name: str = method.pooling
        if method.euclidean_alignment is not None:
            name += f"-aligned-{mark(method.euclidean_alignment)}"
        if kind != "checkpoint":
            name += f"-seed-{cell.seed}"
        if kind == "pretrained in each fold":
            name += f"-fold-{cell.fold}"
        return self.out / "features" / folder_name(cell.task) / cell.model / f"{name}.npy"

    def pretraining_folder(self, cell: Cell) -> Path:
        """Return the run that pretrains a model for a fold."""
        fold = f"seed-{cell.seed}-fold-{cell.fold}"
        return self.out / "pretrained" / folder_name(cell.task) / cell.model / fold

    def content(self) -> dict[str, Any]:
        """Return what goes into ``plan.json``."""
        return {
            "corpora": self.corpora,
            "corpus_ids": self.corpus_ids,
            "folds": {
                task: {str(seed): [asdict(fold) for fold in folds] for seed, folds in own.items()}
                for task, own in self.folds.items()
            },
            "people": {task: list(people) for task, people in self.people.items()},
            "sites": {task: list(sites) for task, sites in self.sites.items()},
            "windows": self.windows,
        }


def corpus_key(task: str, model: str, adaptation: str) -> str:
    """Return by what `Plan.corpora` knows a corpus; all baselines of a task share one."""
    return f"{task}/{model}/{adaptation}" if adaptation else f"{task}/{BASELINE}"


def corpus_keys(
    config: EvaluationConfig, task: str, model: str, adaptation: str
) -> tuple[str, ...]:
    """Return by what `Plan.corpora` knows the corpora of a row of the table.

    The baselines of a transfer have two of their own, which must be prepared alike.
    """
    parts = config.parts_of(task)
    if len(parts) > 1 and not adaptation:
        parts = tuple(f"{folder_name(task)}/{part}" for part in parts)
    return tuple(corpus_key(part, model, adaptation) for part in parts)


def folder_name(task: str) -> str:
    """Return what the folder of a task or a transfer is called; no task's name has a plus."""
    return task.replace(ARROW, "+")


def mark(config: Config) -> str:
    """Return eight digits that tell configurations apart."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:8]


def load_tasks(config: EvaluationConfig) -> dict[str, TaskConfig]:
    """Read the tasks, and say for each transfer what it asks.

    Raises
    ------
    BergerError
        If a task is not there or is wrong, or two tasks of a transfer do not ask the same.
    """
    tasks = {
        name: load_task(source.task or name, source.data) for name, source in config.tasks.items()
    }
    return tasks | {one.name: _transferred(one, tasks) for one in config.transfers}


def _transferred(transfer: Transfer, tasks: dict[str, TaskConfig]) -> TaskConfig:
    train, test = tasks[transfer.train], tasks[transfer.test]
    for what, one, other, alike in (
        ("kinds", train.kind, test.kind, train.kind == test.kind),
        (
            "classes",
            ", ".join(train.classes),
            ", ".join(test.classes),
            {*train.classes} == {*test.classes},
        ),
        ("targets", train.target, test.target, train.target == test.target),
        (
            "windows",
            f"{train.window_seconds:g} s",
            f"{test.window_seconds:g} s",
            train.window_seconds == test.window_seconds,
        ),
    ):
        if not alike:
            raise BergerError(
                f"transfer {transfer.name}: the tasks have other {what} ({one}; {other}); what is "
                "learned on one can only be tested on the other if both ask the same."
            )
    if train.kind == "regression" and train.target is None:
        raise BergerError(
            f"transfer {transfer.name}: neither task says what its numbers are, so that they may "
            "differ; give both the same target."
        )
    species = (train.species, test.species)
    return train.model_copy(
        update={
            "name": transfer.name,
            "title": f"Learned on {transfer.train}, tested on {transfer.test}",
            "description": f"{transfer.train}: {train.title or train.name}. "
            f"{transfer.test}: {test.title or test.name}.",
            "species": ARROW.join(dict.fromkeys(species)),
            "split": KFold(by="k-fold"),  # by its own rule, whatever the tasks say
            "published": (),
        }
    )


def plan_at(out: Path, config: EvaluationConfig, tasks: dict[str, TaskConfig]) -> Plan:
    """Return the plan as far as it stands in a folder; of a new one it is empty."""
    path = out / PLAN_FILE
    content: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    folds = {
        task: {int(seed): [_fold(one) for one in made] for seed, made in own.items()}
        for task, own in content.get("folds", {}).items()
    }
    people, sites = (
        {task: tuple(names) for task, names in content.get(what, {}).items()}
        for what in ("people", "sites")
    )
    corpora, ids, windows = (
        dict(content.get(name, {})) for name in ("corpora", "corpus_ids", "windows")
    )
    return Plan(out, config, tasks, corpora, ids, folds, people, sites, windows)


def _fold(content: Mapping[str, Any]) -> Fold:
    train, validation, test = (tuple(content[part]) for part in PARTS)
    return Fold(train, validation, test, content["unit"], tuple(content["people"]))


@lru_cache(maxsize=1)
def read_plan(out: Path) -> Plan:
    """Read an evaluation's plan, for a process that works at its cells."""
    config = load_config(EvaluationConfig, out / CONFIG_FILE)
    return plan_at(out, config, load_tasks(config))


def rows_of(config: EvaluationConfig, tasks: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yield task, model, adaptation of each row: baselines, published models, then models."""
    for task in tasks:
        yield from ((task, title, "") for title in (*config.baselines, *config.published))
        for model in config.models:
            yield from ((task, model, adaptation) for adaptation in config.adaptations)
