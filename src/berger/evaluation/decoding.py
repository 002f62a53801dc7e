"""Adapt a checkpoint to a labelled task and test it on people that it was not adapted on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import yaml
from pydantic import Field, PositiveFloat, model_validator

from berger.adaptation.alignment import align
from berger.adaptation.finetuning import FineTuningConfig
from berger.adaptation.low_rank import LowRankConfig, require_peft
from berger.configuration import Config
from berger.corpus import Corpus, PreparationSummary, WindowDataset, open_corpus, prepare
from berger.errors import BergerError
from berger.evaluation.baselines import (
    BAND_POWER,
    CHANCE,
    RANDOM,
    Baseline,
    baseline_title,
    check_installed,
    learn_baseline,
)
from berger.evaluation.few_shot import draw_shots
from berger.evaluation.protocol import Fold, class_numbers, run_folds, summarise
from berger.evaluation.seen import Known, knows_people, people_seen
from berger.evaluation.statistics import interval_text
from berger.evaluation.strategies import FineTuning, FrozenProbe, Question, Strategy
from berger.files import write_json, written_whole
from berger.models import (
    AdapterConfig,
    Encoder,
    EuclideanAlignment,
    InputContract,
    MixtureConfig,
    load_checkpoint,
)
from berger.models.device import Device, compute_device
from berger.models.encoders import build_encoder
from berger.models.heads import HeadConfig, LinearHeadConfig, Pooling, check_pooling
from berger.preprocessing import PreprocessingConfig
from berger.pretraining import CONFIG_FILE, RECORD_FILE
from berger.tasks import TaskConfig, cut_windows, preparation
from berger.training.log import JsonLinesLog, run_record
from berger.training.state import has_state

PREDICTIONS_FILE, RESULTS_FILE = "predictions.parquet", "results.parquet"
PROBE: Final = "frozen probe"
RIDGE_PROBE: Final = "ridge probe"
LOW_RANK: Final = "low-rank"
FINE_TUNED: Final = "fine-tuned"
CONV_PROBE: Final = "conv-linear probe"
FROZEN: Final = "frozen encoder"
UNKNOWN_PEOPLE: Final = (
    "The checkpoint does not say whose recordings it was pretrained on; people who are tested may "
    "be among them."
)


class AdaptationMethod(Config):
    """One way to adapt an encoder, whatever the folds and seeds.

    Attributes
    ----------
    strategy : {"frozen probe", "ridge probe", "fine-tuning"}
        The encoder stays as it is and a logistic regression reads its features; or a ridge
        regression reads them, in closed form (values are always read by one); or encoder and a new
        head are trained together.
    fine_tuning : FineTuningConfig
    low_rank : LowRankConfig, optional
        Layers of low rank that are trained inside an encoder that is fine-tuned, in place of its
        own weights, and are part of these in the end.
    adapter : AdapterConfig
        What is trained in front of an encoder that is fine-tuned, so that recordings of another
        montage or rate can be read; by default nothing.
    head : LinearHeadConfig, StepsHeadConfig, MlpHeadConfig or AttentionHeadConfig
        What is trained behind it.
    mixture : MixtureConfig
        The new gate and head when a SpecMoE is fine-tuned.
    pooling : {"mean", "electrodes"}
        Features of a window; "electrodes" keeps each electrode's own and needs one montage. A
        SpecMoE that is fine-tuned pools as `mixture` says.
    euclidean_alignment : EuclideanAlignment, optional
        Whiten each recording by its own covariance before the encoder sees it; the baselines that
        have no encoder read the recordings as they are.
    penalties : tuple of float
        Strengths of the L2 penalty from which the validation people choose.
    batch_size : int
        Windows that the encoder sees at once; on a processor few are faster than many.
    """

    strategy: Literal["frozen probe", "ridge probe", "fine-tuning"] = "frozen probe"
    fine_tuning: FineTuningConfig = FineTuningConfig()
    low_rank: LowRankConfig | None = None
    adapter: AdapterConfig = AdapterConfig()
    head: HeadConfig = LinearHeadConfig()
    mixture: MixtureConfig = MixtureConfig()
    pooling: Pooling = "mean"
    euclidean_alignment: EuclideanAlignment | None = None
    penalties: tuple[PositiveFloat, ...] = Field((1e-4, 1e-3, 1e-2, 1e-1, 1.0), min_length=1)
    batch_size: int = Field(16, ge=1)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        check_pooling(self.head, self.pooling)
        if self.is_probe and (self.adapter.is_on or self.head.name != "linear"):
            raise ValueError(
                f"a {self.strategy} has neither adapter nor another head; set strategy to "
                "fine-tuning and, for an encoder that stays frozen, fine_tuning.unfreeze to null"
            )
        if self.low_rank is not None and (self.is_probe or self.fine_tuning.stays_frozen):
            raise ValueError(
                "low_rank is trained inside an encoder; set strategy to fine-tuning and "
                "fine_tuning.unfreeze to the epoch from which it is trained"
            )
        return self

    @property
    def is_probe(self) -> bool:
        """Whether features are worked out once, and read by a regression."""
        return self.strategy != "fine-tuning"

    @property
    def model_name(self) -> str:
        """What the adapted model is called in tables."""
        if self.is_probe:
            return PROBE if self.strategy == "frozen probe" else RIDGE_PROBE
        if self.low_rank is not None:
            return LOW_RANK
        if not self.fine_tuning.stays_frozen:
            return FINE_TUNED
        return CONV_PROBE if self.head.name == "steps" else FROZEN


class AdaptationConfig(AdaptationMethod):
    """How a checkpoint is adapted and tested; beside what `AdaptationMethod` says.

    Attributes
    ----------
    n_folds : int, optional
        Folds by person; default: the task's.
    validation_share : float
        Share of the people outside the test fold by whom the penalty is chosen.
    baselines : tuple of str
        What is run beside it on the same folds, of `berger.evaluation.baselines.Baseline`.
    network_training : FineTuningConfig
        How EEGNet and ShallowConvNet are trained when they are among the baselines.
    shots : int, optional
        Few-shot: of the training people every model, baselines too, reads so many windows of each
        class (of a regression: in all), and of the validation people as many. So does what is
        fitted to everybody in the end.
    seed : int
        Of folds, shots, random weights and bootstrap.
    """

    n_folds: int | None = Field(None, ge=2)
    validation_share: float = Field(0.25, gt=0, lt=1)
    baselines: tuple[Baseline, ...] = (BAND_POWER, RANDOM, CHANCE)
    network_training: FineTuningConfig = FineTuningConfig()
    shots: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)


@dataclass(frozen=True, eq=False)
class TaskWindows:
    """The labelled windows that a task has in a corpus.

    Attributes
    ----------
    task : TaskConfig
    corpus : Corpus
    table : DataFrame
        As `berger.tasks.LabelledWindows.table`; ``start`` in the corpus' samples.
    left_out : DataFrame
        Recordings and windows that the task does not use, and why.
    windows : WindowDataset
        Their signals, in the same order.
    labels : ndarray, shape (n_windows,)
        Place of the class in `task.classes`, or a value.
    """

    task: TaskConfig
    corpus: Corpus
    table: pd.DataFrame
    left_out: pd.DataFrame
    windows: WindowDataset
    labels: npt.NDArray[Any]

    @property
    def subjects(self) -> tuple[str, ...]:
        """Everybody who has windows, sorted."""
        return tuple(sorted(set(self.table["subject"])))

    @property
    def corpora(self) -> tuple[Corpus, ...]:
        """The corpus, where several may be asked for."""
        return (self.corpus,)

    def folds(self, n_folds: int | None, validation_share: float, seed: int) -> list[Fold]:
        """Return the folds of the task's split; see `berger.tasks.TaskConfig.folds`."""
        used = self.corpus.recordings["recording"].isin(self.table["recording"])
        rows = self.corpus.recordings[used]
        return self.task.folds(
            [*rows["subject"]],
            [*rows["site"]],
            recordings=[*rows["recording"]],
            trials=[*self.table["trial"].unique()] if "trial" in self.table else (),
            n_folds=n_folds,
            validation_share=validation_share,
            seed=seed,
        )

    def sites(self, folds: Sequence[Fold]) -> tuple[str, ...]:
        """Return where the tested people of folds were recorded that leave sites out."""
        rows = self.corpus.recordings[self.corpus.recordings["status"] == "ok"]
        at = dict(zip(rows["subject"], rows["site"], strict=True))
        return tuple(str(at[fold.test[0]]) for fold in folds)

    def ask(self, contract: InputContract, method: AdaptationMethod | None = None) -> Question:
        """Return the question for a model; signals are as recorded, aligned by nobody.

        Parameters
        ----------
        contract : InputContract
            Of the encoder.
        method : AdaptationMethod, optional
            How it will be adapted.
        """
        method = method or AdaptationMethod()
        one_montage = method.pooling == "electrodes" or method.adapter.needs_montage
        preprocessing = self.corpus.manifest.preprocessing
        own = contract.model_copy(
            update={
                "sfreq": preprocessing.sfreq,
                "window_seconds": self.task.window_seconds,
                "preprocessing": preprocessing,
                "ch_names": self.windows.blocks[0].ch_names if one_montage else None,
                "euclidean_alignment": method.euclidean_alignment,
            }
        )
        target = self.task.target or self.task.name
        classification = self.task.kind == "classification"
        return Question(
            self.windows,
            self.labels,
            self.task.classes,
            own,
            None if classification else str(target),
        )

    def align(self, question: Question, quiet: bool) -> tuple[Question, dict[str, int]]:
        """Align a question's recordings as its contract says; also return empty directions."""
        how = question.contract.euclidean_alignment
        if how is None:
            return question, {}
        usable = self.corpus.windows(self.task.window_seconds)
        aligned, empty_directions = align(self.windows, usable, how, quiet=quiet)
        return replace(question, windows=aligned), empty_directions

    def in_seconds(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """Turn ``start`` into seconds from the first sample of the file.

        The corpus may have cut a part of it.
        """
        rows = self.corpus.recordings.set_index("recording").loc[predictions["recording"]]
        start = predictions["start"] / rows["sfreq"].to_numpy() + rows["offset_seconds"].to_numpy()
        return predictions.assign(start=start)

    def seen_by(self, encoder: Encoder) -> set[str]:
        """Return the people whom pretraining saw; see `berger.evaluation.seen.people_seen`."""
        return people_seen(encoder.provenance, self.corpus) & set(self.subjects)


def read_task(task: TaskConfig, corpus: Corpus) -> TaskWindows:
    """Find the labelled windows of a task in a corpus.

    Raises
    ------
    BergerError
        If there are none, or they do not suffice.
    """
    cut = cut_windows(task, corpus)
    windows = corpus.windows_at(cut.table, task.window_seconds)
    labels: npt.NDArray[Any] = (
        class_numbers(cut.table, task.classes)
        if task.classes
        else cut.table["label"].to_numpy(np.float64)
    )
    return TaskWindows(task, corpus, cut.table, cut.left_out, windows, labels)


def adapt(
    config: AdaptationConfig,
    checkpoint: Path,
    task: TaskConfig,
    out: Path,
    *,
    data: list[Path] | None = None,
    corpus_folder: Path | str | None = None,
    device: Device = "auto",
    workers: int = 1,
    quiet: bool = False,
    tell: Callable[[str], None] = lambda sentence: None,
) -> pd.DataFrame:
    """Adapt a pretrained encoder to a task and test it, by the folds of the task's split.

    Parameters
    ----------
    config : AdaptationConfig
    checkpoint : Path
        Folder of a pretrained encoder.
    task : TaskConfig
    out : Path
        The run's folder: ``predictions.parquet``, ``results.parquet``, ``checkpoint/`` (encoder
        and a head fitted to everybody), ``config.yaml``, ``run.json``.
    data : list of Path, optional
        The task's recordings; they are prepared into ``out/corpus`` as the checkpoint expects.
    corpus_folder : Path or str, optional
        A corpus made from them already, or its address; one of both is needed.
    device : {"auto", "cpu", "cuda"}
    workers : int
        Processes that prepare recordings.
    quiet : bool
        No progress bars.
    tell : callable, optional
        Called with a sentence on what was trained.

    Returns
    -------
    DataFrame
        The rows of ``results.parquet``.

    Raises
    ------
    BergerError
        If checkpoint, task and recordings do not fit together, or `out` holds another run.
    """
    began, record = time.monotonic(), run_record()
    if (out / RECORD_FILE).exists() or has_state(out):
        raise BergerError(f"{out}: holds a run already; choose another folder.")
    check_installed(config.baselines)
    if config.low_rank is not None:
        require_peft()
    place = compute_device(device)
    if config.n_folds is not None and task.split.by != "k-fold":
        raise BergerError(
            f"task {task.name}: its split is by {task.split.by}, which makes its own folds; leave "
            "n_folds out."
        )
    encoder = load_checkpoint(checkpoint)
    if not isinstance(encoder, Encoder) or encoder.is_adapted:
        raise BergerError(f"{checkpoint}: is adapted already; give a pretrained checkpoint.")
    if corpus_folder is None:
        needed = encoder.contract.preprocessing
        if not data or needed is None:
            raise BergerError(f"task {task.name}: give its recordings by --data, or a --corpus.")
        corpus_folder = out / "corpus"
        preprocessing = task_preparation(task, needed, config.adapter)
        prepare_task(data, corpus_folder, preprocessing, workers, quiet)
    corpus = open_corpus(corpus_folder, progress=not quiet)
    check_preparation(encoder, config.adapter, corpus, corpus_folder, task)
    read = read_task(task, corpus)
    table, classes = read.table, task.classes
    seen = read.seen_by(encoder)
    folds = read.folds(config.n_folds, config.validation_share, config.seed)
    as_recorded = read.ask(encoder.contract, config)
    question, empty_directions = read.align(as_recorded, quiet)
    used = np.ones(len(table), bool)
    run = partial(run_folds, shots=config.shots, seed=config.seed)
    if config.shots is not None:
        rng = np.random.default_rng(config.seed)
        used = draw_shots(table, used, classes, config.shots, rng, f"the people of {task.name}")
        tell(few_shot_sentence(config.shots, classes))
    out.mkdir(parents=True, exist_ok=True)
    with closing(JsonLinesLog(out / "log.jsonl")) as log:
        name = config.model_name

        def strategy_of(encoder: Encoder, name: str) -> Strategy:
            return build_strategy(
                encoder.to(place),
                question,
                config,
                seed=config.seed,
                tell=lambda line: log.write(model=name, **line),
                quiet=quiet,
            )

        strategy = strategy_of(encoder, name)
        tested = {name: run(name, table, classes, folds, strategy.learn)}
        tell(
            f"{name}: trains {strategy.n_trained:,} parameters; the pretrained encoder has "
            f"{encoder.n_parameters:,}."
        )
        adapted = strategy.finish(tested[name].choices, used)
        if RANDOM in config.baselines:
            torch.manual_seed(config.seed)
            random = build_encoder(encoder.config, encoder.contract)
            learn = strategy_of(random, RANDOM).learn
            tested[RANDOM] = run(RANDOM, table, classes, folds, learn)
    for name in dict.fromkeys(config.baselines):
        if name != RANDOM:
            baseline = learn_baseline(
                name,
                as_recorded,
                penalties=config.penalties,
                training=config.network_training,
                seed=config.seed,
                device=place,
                quiet=quiet,
            )
            title = baseline_title(name, question.is_regression)
            tested[title] = run(title, table, classes, folds, baseline)
    predictions = pd.concat([model.predictions for model in tested.values()], ignore_index=True)
    predictions["seen_in_pretraining"] = predictions["subject"].isin(seen)
    predictions["tested_on"] = task.tested_on
    predictions = read.in_seconds(predictions)
    known: Known = "known" if knows_people(encoder.provenance) else "unknown"
    results = summarise(predictions, classes, config.seed)
    results["pretraining_people"] = [
        known if model == config.model_name else "nobody" for model in results["model"]
    ]
    if known == "unknown":
        tell(UNKNOWN_PEOPLE)

    record |= {
        "kind": "adaptation",
        "seed": config.seed,
        "shots": config.shots,
        "device": str(place),
        "task": {
            **task.model_dump(mode="json", exclude={"labels"}),
            "tested_on": task.tested_on,
            "classes": list(classes),
        },
        "checkpoint": {
            "name": encoder.config.model_dump()["name"],
            "n_parameters": encoder.n_parameters,
            "trained_parameters": strategy.n_trained,
            "corpus_id": encoder.provenance.get("corpus", {}).get("id"),
            "pretraining_people": known,
            "pretraining_subjects": encoder.provenance.get("subjects", {}).get("train", []),
        },
        "corpus": {
            "id": corpus.manifest.id,
            "hours": corpus.hours,
            "preprocessing": corpus.manifest.preprocessing.model_dump(mode="json"),
        },
        "euclidean_alignment": config.euclidean_alignment
        and config.euclidean_alignment.model_dump() | {"empty_directions": empty_directions},
        "left_out": read.left_out.to_dict("records"),
        "folds": [vars(fold) for fold in folds],
        "choices": {name: model.choices for name, model in tested.items()},
        "seen_in_pretraining": sorted(seen),
    }
    adapted.save_checkpoint(out / "checkpoint", record)
    with written_whole(out / CONFIG_FILE) as temporary:
        temporary.write_text(
            yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8"
        )
    for name, content in ((PREDICTIONS_FILE, predictions), (RESULTS_FILE, results)):
        with written_whole(out / name) as temporary:
            content.to_parquet(temporary, index=False)
    write_json(out / RECORD_FILE, record | {"wall_seconds": round(time.monotonic() - began, 1)})
    return results


def few_shot_sentence(shots: int, classes: Sequence[str]) -> str:
    """Return what few shots mean for a table's rows."""
    kind = "of each class" if classes else "in all"
    return (
        f"few-shot: every model and baseline reads {shots} windows {kind} of the training people, "
        "and chooses by as many of the validation people."
    )


def format_results(results: pd.DataFrame) -> str:
    """Return the numbers over all folds as a table to print."""
    score, title, other = ("balanced_accuracy", "balanced accuracy", "auroc")
    if "rmse" in results:
        score, title, other = "rmse", "RMSE", "pearson"
    rows = [("", title, "95 % interval", "Pearson r" if other == "pearson" else "AUROC")]
    for row in results[results["fold"] == 0].to_dict("records"):
        who = f"{row['model']}, {row['people']}" if row["people"] != "all" else row["model"]
        if row.get("pretraining_people") == "unknown":
            who += " (pretrained on unknown people)"
        low, high = row[f"{score}_low"], row[f"{score}_high"]
        if row["tested_on"] != "strangers":
            who += f", {row['tested_on']}"
        interval = interval_text(low, high, row["interval_over"])
        rows.append((who, f"{row[score]:.3f}", interval, f"{row[other]:.3f}"))
    width = max(len(who) for who, *_ in rows)
    return "\n".join(f"{who:<{width}}  {a:>17}  {b:<14}  {c}" for who, a, b, c in rows)


def task_preparation(
    task: TaskConfig, contract: PreprocessingConfig, adapter: AdapterConfig
) -> PreprocessingConfig:
    """Return how a task's recordings are prepared for an encoder trained on `contract`.

    The model's channels are not chosen where an adapter projects whichever were recorded; the
    task's are.
    """
    needed = preparation(task, contract)
    return needed.model_copy(update={"ch_names": task.channels}) if adapter.targets else needed


def prepare_task(
    data: Sequence[Path], folder: Path, config: PreprocessingConfig, workers: int, quiet: bool
) -> PreparationSummary:
    """Prepare the recordings of a task, which are called by their paths from where all lie."""
    folders = [os.path.normpath(path.parent.absolute()) for path in data]
    return prepare(
        data,
        folder,
        config,
        root=Path(os.path.commonpath(folders)),
        workers=workers,
        progress=not quiet,
    )


def check_preparation(
    encoder: Encoder, adapter: AdapterConfig, corpus: Corpus, source: object, task: TaskConfig
) -> None:
    """Raise BergerError unless a corpus was prepared as the encoder's, adapter and task demand."""
    recorded, own = corpus.manifest.preprocessing, encoder.contract.preprocessing
    besides = adapter.absorbs(own, recorded) if own else set()
    besides |= {step for step in task.without if getattr(recorded, step) is None}
    if task.bipolar is not None or task.reference is not None:
        besides |= {"reference", "bipolar"}
    encoder.contract.check_preprocessing(recorded, source, besides)
    if not adapter.resample:  # also of an encoder that does not say how its corpus was prepared
        InputContract(sfreq=encoder.contract.sfreq).check(recorded.sfreq, (), source)


def build_strategy(
    encoder: Encoder,
    question: Question,
    method: AdaptationMethod,
    *,
    seed: int,
    tell: Callable[[dict[str, Any]], None],
    quiet: bool,
    features: npt.NDArray[np.float64] | None = None,
) -> Strategy:
    """Return the strategy that a method names.

    Parameters
    ----------
    encoder : Encoder
        On the device where it shall compute.
    question : Question
    method : AdaptationMethod
    seed : int
        Of new weights, order of the windows and dropout.
    tell : callable
        Called with each line of a training's log.
    quiet : bool
        No progress bars.
    features : ndarray, shape (n_windows, n_features), optional
        What a frozen probe reads, where it has been worked out already.
    """
    if method.is_probe:
        return FrozenProbe(
            encoder,
            question,
            method.pooling,
            method.penalties,
            classes_by="ridge" if method.strategy == "ridge probe" else "logistic",
            batch_size=method.batch_size,
            quiet=quiet,
            features=features,
        )
    return FineTuning(
        encoder,
        question,
        method.pooling,
        method.adapter,
        method.head,
        method.mixture,
        method.fine_tuning,
        low_rank=method.low_rank,
        seed=seed,
        tell=tell,
        quiet=quiet,
    )
