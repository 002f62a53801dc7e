"""What an evaluation consists of: its configuration, its cells, and what they have in common."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, PositiveFloat, field_validator, model_validator

from berger.adaptation.finetuning import FineTuningConfig
from berger.configuration import Config, load_config, locate, read_yaml, shipped_configs
from berger.evaluation.baselines import BAND_POWER, CHANCE, RANDOM, RIEMANN, Baseline
from berger.evaluation.decoding import AdaptationMethod
from berger.evaluation.protocol import Fold
from berger.models import list_models
from berger.preprocessing import PreprocessingConfig
from berger.pretraining import CONFIG_FILE, PretrainingConfig
from berger.tasks import TaskConfig, load_task
from berger.tasks.splits import PARTS

PLAN_FILE = "plan.json"
BASELINE: Final = "baseline"
"""The folder of the baselines' cells, where those of a model have its name."""

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
        people, without their labels; several experts are assembled. Not for tasks within subjects.
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
    """

    task: str | None = None
    data: Path | None = None
    corpus: str | None = None


class EvaluationConfig(Config):
    """Models × tasks × adaptations × seeds × folds.

    Attributes
    ----------
    models : dict of str to ModelSource
        May be empty where there are baselines.
    tasks : dict of str to TaskSource
    adaptations : dict of str to AdaptationMethod
        Inline, or the name or file of a configuration of `berger adapt`.
    baselines : tuple of str
        Run on the same folds; they read the recordings as prepared for the first model.
    penalties : tuple of float
        From which the validation people choose for the baselines.
    network_training : FineTuningConfig
        How EEGNet and ShallowConvNet are trained.
    seeds : tuple of int
        Of folds, fresh weights and trainings; the first one also of bootstrap and swaps.
    n_folds : int, optional
        Folds by person; default: each task's.
    validation_share : float
        Share of the people outside the test fold by whom choices are made.
    allow_seen : tuple of str
        Models that may be tested on people whom their pretraining has seen; marked in all tables.
    """

    models: dict[Name, ModelSource] = Field({}, validate_default=True)
    tasks: dict[Name, TaskSource] = Field(min_length=1)
    adaptations: dict[Name, AdaptationMethod] = {}
    baselines: tuple[Baseline, ...] = (CHANCE, BAND_POWER, RIEMANN)
    penalties: tuple[PositiveFloat, ...] = Field((1e-4, 1e-3, 1e-2, 1e-1, 1.0), min_length=1)
    network_training: FineTuningConfig = FineTuningConfig()
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0, 1, 2), min_length=1)
    n_folds: int | None = Field(None, ge=2)
    validation_share: float = Field(0.25, gt=0, lt=1)
    allow_seen: tuple[str, ...] = ()

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
        if not self.models and not self.baselines:
            raise ValueError("there is neither a model nor a baseline; name some")
        if not self.models and any(source.corpus is None for source in self.tasks.values()):
            raise ValueError("without a model nobody says how to prepare; give each task a corpus")
        if BASELINE in self.models:
            raise ValueError(f"a model cannot be called {BASELINE!r}; choose another name")
        if RANDOM in self.baselines:
            raise ValueError(f"{RANDOM!r}: give the model itself, as `model: NAME`")
        if unknown := sorted({*self.allow_seen} - {*self.models}):
            raise ValueError(f"allow_seen names {unknown[0]!r}, which is no model here")
        for name in ("seeds", "baselines"):
            if len({*getattr(self, name)}) < len(getattr(self, name)):
                raise ValueError(f"{name}: one is given twice; remove it")
        return self


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
        Names in the configuration; of a baseline, `adaptation` is empty.
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
            who = Path(BASELINE, re.sub(r"[^a-z0-9]+", "-", self.model.lower()))
        return Path("cells", self.task, who, f"seed-{self.seed}-fold-{self.fold}")


@dataclass(frozen=True, eq=False)
class Plan:
    """What the cells of an evaluation have in common, as it stands in its folder.

    Attributes
    ----------
    out : Path
        The evaluation's folder.
    config : EvaluationConfig
    tasks : dict of str to TaskConfig
    corpora : dict of str to str
        `corpus_key` → folder or address.
    corpus_ids : dict of str to str
        Folder or address of each corpus → its identity.
    folds : dict of str to dict of int to list of Fold
        By task and seed.
    people : dict of str to tuple of str
        By task, everybody who has windows in it.
    """

    out: Path
    config: EvaluationConfig
    tasks: dict[str, TaskConfig]
    corpora: dict[str, str]
    corpus_ids: dict[str, str]
    folds: dict[str, dict[int, list[Fold]]]
    people: dict[str, tuple[str, ...]]

    def corpus_of(self, cell: Cell) -> str:
        """Return the corpus that a cell reads."""
        return self.corpora[corpus_key(cell.task, cell.model, cell.adaptation)]

    def fold_of(self, cell: Cell) -> Fold:
        """Return the parts of a cell's fold."""
        return self.folds[cell.task][cell.seed][cell.fold - 1]

    def features_file(self, cell: Cell) -> Path:
        """Return where the features of a frozen probe are kept, for all cells that read them."""
        method = self.config.adaptations[cell.adaptation]
        kind = self.config.models[cell.model].kind
        name: str = method.pooling
        if method.euclidean_alignment is not None:
            name += f"-aligned-{mark(method.euclidean_alignment)}"
        if kind != "checkpoint":
            name += f"-seed-{cell.seed}"
        if kind == "pretrained in each fold":
            name += f"-fold-{cell.fold}"
        return self.out / "features" / cell.task / cell.model / f"{name}.npy"

    def pretraining_folder(self, cell: Cell) -> Path:
        """Return the run that pretrains a model for a fold."""
        fold = f"seed-{cell.seed}-fold-{cell.fold}"
        return self.out / "pretrained" / cell.task / cell.model / fold

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
        }


def corpus_key(task: str, model: str, adaptation: str) -> str:
    """Return by what `Plan.corpora` knows a corpus; all baselines of a task share one."""
    return f"{task}/{model}/{adaptation}" if adaptation else f"{task}/{BASELINE}"


def mark(config: Config) -> str:
    """Return eight digits that tell configurations apart."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:8]


def load_tasks(config: EvaluationConfig) -> dict[str, TaskConfig]:
    """Read the tasks; raises BergerError for one that is not there or is wrong."""
    return {
        name: load_task(source.task or name, source.data) for name, source in config.tasks.items()
    }


def plan_at(out: Path, config: EvaluationConfig, tasks: dict[str, TaskConfig]) -> Plan:
    """Return the plan as far as it stands in a folder; of a new one it is empty."""
    path = out / PLAN_FILE
    content: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    folds = {
        task: {int(seed): [_fold(one) for one in made] for seed, made in own.items()}
        for task, own in content.get("folds", {}).items()
    }
    people = {task: tuple(who) for task, who in content.get("people", {}).items()}
    corpora, ids = (dict(content.get(name, {})) for name in ("corpora", "corpus_ids"))
    return Plan(out, config, tasks, corpora, ids, folds, people)


def _fold(content: Mapping[str, Any]) -> Fold:
    train, validation, test = (tuple(content[part]) for part in PARTS)
    return Fold(train, validation, test, content.get("within"))


@lru_cache(maxsize=1)
def read_plan(out: Path) -> Plan:
    """Read an evaluation's plan, for a process that works at its cells."""
    config = load_config(EvaluationConfig, out / CONFIG_FILE)
    return plan_at(out, config, load_tasks(config))


def rows_of(config: EvaluationConfig) -> Iterator[tuple[str, str, str]]:
    """Yield task, model, adaptation of each row of the table: baselines, then models."""
    for task in config.tasks:
        yield from ((task, baseline, "") for baseline in config.baselines)
        for model in config.models:
            yield from ((task, model, adaptation) for adaptation in config.adaptations)
