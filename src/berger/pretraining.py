"""Compose one pretraining run: corpus, model, objective, training, and a look at the result.

SpecMoE's experts are runs of their own, each on its part of the windows (docs/decisions/0015).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
import torch
import yaml
from pydantic import Discriminator, Field, Tag, model_validator

from berger.configuration import Config, differences, load_config
from berger.corpus import Corpus, WindowDataset, open_corpus, split_subjects
from berger.corpus.windows import count_samples
from berger.errors import BergerError
from berger.files import held, remove_unfinished, write_json, written_whole
from berger.models import (
    DareConfig,
    EEGModel,
    InputContract,
    SpecHiNetConfig,
    SpecHiNetPublishedConfig,
    load_checkpoint,
)
from berger.models.encoders import build_encoder
from berger.objectives.aligned_restoration import AlignedRestoration, AlignedRestorationConfig
from berger.objectives.dual_alignment import DualAlignment, DualAlignmentConfig
from berger.objectives.restoration import Restoration, RestorationConfig
from berger.training.devices import Strategy, wait_for_all
from berger.training.energy import Meter
from berger.training.log import run_record
from berger.training.loop import fit, is_of_memory
from berger.training.processes import is_first, world
from berger.training.run import TooManySkippedError, TrainingConfig
from berger.training.sinks import SinkName, make_sinks
from berger.training.state import has_state, last_good, read_state
from berger.watching import look, look_at_invariance, validation_losses

CONFIG_FILE, RECORD_FILE = "config.yaml", "run.json"
PART_FILE = "part.parquet"
LAST_GOOD = "checkpoint-last-good"
DIVISION = "windows, shuffled"
"""How windows are divided among experts; stands in every expert's provenance."""


def _name_or(usual: str) -> Callable[[Any], str]:
    """Tell what is described by its name; a description without one is of the usual thing."""

    def name(described: Any) -> str:
        given = described.get("name") if isinstance(described, dict) else described.name
        return str(given or usual)

    return name


NetworkConfig = Annotated[
    Annotated[SpecHiNetConfig, Tag("spechinet")]
    | Annotated[SpecHiNetPublishedConfig, Tag("spechinet-published")]
    | Annotated[DareConfig, Tag("dare")],
    Discriminator(_name_or("spechinet")),
]
ObjectiveConfig = Annotated[
    Annotated[RestorationConfig, Tag("restoration")]
    | Annotated[AlignedRestorationConfig, Tag("aligned-restoration")]
    | Annotated[DualAlignmentConfig, Tag("dual-alignment")],
    Discriminator(_name_or("restoration")),
]
Objective = Restoration | AlignedRestoration | DualAlignment
OBJECTIVES: dict[type[Config], type[Any]] = {
    RestorationConfig: Restoration,
    AlignedRestorationConfig: AlignedRestoration,
    DualAlignmentConfig: DualAlignment,
}


class PretrainingConfig(Config):
    """One pretraining run.

    Attributes
    ----------
    model : SpecHiNetConfig, SpecHiNetPublishedConfig or DareConfig
        The published layout is for comparison; its auxiliary heads are not trained.
    objective : RestorationConfig, AlignedRestorationConfig or DualAlignmentConfig
        Any model learns to restore, with or without alignment; dual alignment hides patches, which
        only a DARE-EEG has.
    training : TrainingConfig
    window_seconds : float
        Length of the windows.
    window_step : float, optional
        Seconds from the start of one window to that of the next in training; None: their length. A
        shorter one gives windows that overlap, which is to crop at random, to this precision.
    validation_by : {"subject", "time"}
        What training never sees: people, or the end of every recording, where there is but one
        person. Losses and errors on the latter say nothing of people whom a model does not know.
    validation_share : float
        Share of the people, or of each recording, whom training never sees; losses and restoration
        errors are reported on them. Nothing is chosen by them: the weights of the last step are
        kept.
    max_validation_windows : int
        Evenly spaced windows of those that are looked at.
    experts : int
        Number of experts, each trained on a part of its own of the training windows.
    start_from : str, optional
        A checkpoint of the same model, whose weights are the first; all else begins anew, unlike
        when a run is resumed. Whom it has seen counts as seen.
    seed : int
        Of everything random, also of who is watched and of the division among the experts.
    """

    model: NetworkConfig = SpecHiNetConfig()
    objective: ObjectiveConfig = RestorationConfig()
    training: TrainingConfig = TrainingConfig(epochs=50)
    window_seconds: float = Field(30.0, gt=0)
    window_step: float | None = Field(None, gt=0)
    validation_by: Literal["subject", "time"] = "subject"
    validation_share: float = Field(0.1, gt=0, lt=1)
    max_validation_windows: int = Field(256, ge=1)
    experts: int = Field(1, ge=1)
    start_from: str | None = None
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if isinstance(self.model, DareConfig):
            if self.model.parts != "all":
                raise ValueError("pretraining needs the whole model; set model.parts to all")
            if self.experts > 1:
                raise ValueError("only SpecHi-Nets are experts; set experts to 1")
        elif isinstance(self.objective, DualAlignmentConfig):
            raise ValueError(
                "dual-alignment hides patches, which only the model dare has; set objective.name "
                "to restoration or aligned-restoration"
            )
        if self.window_step is not None and self.experts > 1:
            raise ValueError("experts have windows of their own; leave out window_step")
        if isinstance(self.objective, RestorationConfig):
            without = {
                "spechinet-published": "the auxiliary heads of spechinet-published have no targets",
                "dare": "the model dare has no auxiliary heads",
            }.get(self.model.name)
            if without and any(self.objective.auxiliary_weights):
                raise ValueError(
                    f"{without}; to restore, set objective.auxiliary_weights to [0, 0]"
                )
        elif self.model.restores != "signal":
            raise ValueError(
                "dual-alignment draws patches that it has hidden, there is nothing to correct; set "
                "model.restores to signal"
            )
        if getattr(self.objective, "mask_alignment", 0) and self.training.batch_size == 1:
            raise ValueError(
                "mask alignment tells the windows of a batch apart; set training.batch_size to 2 "
                "or more, or objective.mask_alignment to 0"
            )
        return self


def pretrain(
    config: PretrainingConfig,
    corpus_folder: Path | str,
    out: Path,
    *,
    expert: int | None = None,
    subjects: Sequence[str] | None = None,
    resume: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    strategy: Strategy = "ddp",
    workers: int = 0,
    quiet: bool = False,
    profile: bool = False,
    log_to: Sequence[SinkName] = (),
) -> Path:
    """Pretrain a model, or one expert of several, on a corpus.

    Parameters
    ----------
    config : PretrainingConfig
    corpus_folder : Path or str
        Made by `berger.prepare`; or its address.
    out : Path
        The run's folder: ``checkpoint/``, ``log.jsonl``, ``config.yaml``, ``run.json`` and, to
        resume from, ``state.ckpt``; after restoration also ``restoration.parquet`` and
        ``example.npz``, after dual alignment ``invariance.parquet``; for one of several experts
        also ``part.parquet``, recording and start in samples of its windows.
    expert : int, optional
        Which of `config.experts`, from 0; may be left out where there is one only.
    subjects : sequence of str, optional
        See nobody else, neither to train nor to watch; default: everybody.
    resume : bool
        Continue an interrupted run in `out`.
    device : {"auto", "cpu", "cuda"}
    strategy : {"ddp", "fsdp"}
        On several devices: the whole model on each, or a part of it.
    workers : int
        Processes that read windows, on each device.
    quiet : bool
        No progress bar.
    profile : bool
        Write ``trace.json`` of a few of the first steps.
    log_to : sequence of {"tensorboard", "wandb"}
        Where the log's numbers go besides ``log.jsonl``.

    Returns
    -------
    Path
        The checkpoint's folder.

    Raises
    ------
    BergerError
        If corpus and model do not fit, there is no such expert, `out` holds another run, or there
        is nothing to resume; and as `berger.training.loop.fit`.
    StoppedError
        If the process was told to stop, after the state is saved.
    """
    sinks = make_sinks(log_to, config.model_dump(mode="json"))
    meter, record = Meter(), run_record()
    if expert is None and config.experts > 1:
        raise BergerError(f"the configuration has {config.experts} experts; say which by --expert.")
    expert = expert or 0
    if not 0 <= expert < config.experts:
        known = "is 0" if config.experts == 1 else f"are 0 to {config.experts - 1}"
        raise BergerError(f"--expert {expert}: there {known}; see `experts` in the configuration.")
    corpus = open_corpus(corpus_folder, progress=not quiet and is_first())
    everybody = corpus.subjects if subjects is None else tuple(subjects)
    people, everything, validation = _divided(config, corpus, corpus_folder, everybody)
    if len(everything) < config.experts:
        raise BergerError(
            f"{corpus_folder}: has {len(everything)} windows to train on, too few for "
            f"{config.experts} experts; choose fewer experts or shorter windows."
        )
    train = divide(everything, config.experts, config.seed)[expert]
    preprocessing = corpus.manifest.preprocessing
    contract = InputContract(
        sfreq=config.model.sfreq,
        window_seconds=config.window_seconds,
        preprocessing=preprocessing,
    )
    contract.check(preprocessing.sfreq, (), corpus_folder)
    seed = expert_seed(config.seed, expert)
    fresh = partial(fresh_objective, config, contract, seed)
    earlier = None if config.start_from is None else _earlier(config.model, config.start_from)
    objective = fresh(earlier)
    _check_montages(objective, everything, validation)
    watched = validation.take(_evenly(len(validation), config.max_validation_windows))
    how = {"batch_size": config.training.batch_size, "seed": config.seed}
    recordings = corpus.recordings[corpus.recordings["status"] == "ok"]
    trained = recordings[recordings["subject"].isin(people["train"])]
    record |= {
        "kind": "pretraining",
        "seed": config.seed,
        "processes": world()[0],
        **({"strategy": strategy} if world()[0] > 1 else {}),
        "corpus": {
            "id": corpus.manifest.id,
            "name": corpus.name,
            "hours": corpus.hours,
            "excluded": [
                {
                    "of": each.of,
                    "how": each.how,
                    "n_people": len(each.people),
                    "sha256": each.sha256,
                }
                for each in corpus.manifest.excluded
            ],
        },
        "subjects": {name: list(names) for name, names in people.items()},
        "validation_by": config.validation_by,
        "training_files": file_marks(trained),
        "training_contents": file_contents(trained),
        "n_parameters": objective.model.n_parameters,
        "batch_size": config.training.batch_size * config.training.accumulate,
        "window_seconds": config.window_seconds,
        "training_windows": len(train),
        "validation_windows": len(watched),
        "part": {
            "division": DIVISION,
            "seed": config.seed,
            "experts": config.experts,
            "expert": expert,
            "windows_sha256": windows_mark(train.table),
            "divided_sha256": windows_mark(everything.table),
        },
    }
    if earlier is not None:
        record["earlier"] = dict(earlier.provenance)

    with claimed(out, config, resume):
        try:
            fitted = fit(
                objective,
                train,
                config.training,
                out,
                seed=seed,
                device=device,
                strategy=strategy,
                workers=workers,
                resume=resume,
                quiet=quiet,
                profile=profile,
                sinks=sinks,
                meter=meter,
                validate=lambda: validation_losses(objective, watched, **how),
            )
        except TooManySkippedError as error:
            kept = _keep_last_good(out, error.skipped, fresh(), record) if is_first() else ""
            wait_for_all()  # who ends first has the others ended
            raise TooManySkippedError(f"{error}{kept}", error.skipped) from error
        if not is_first():
            wait_for_all()
            return out / "checkpoint"
        place = objective.device
        objective = _as_saved(fresh(), read_state(out)).to(place)  # not spread over devices
        record |= {
            "started": meter.started,
            "resumed": meter.resumed,
            "device": str(place),
            "steps": fitted.steps,
            "skipped_steps": fitted.skipped,
            "training_seconds": fitted.seconds,
            "data_wait": fitted.data_wait,
            "energy": meter.energy(),
        }
        if config.experts > 1:
            with written_whole(out / PART_FILE) as temporary:
                train.table[["recording", "start"]].to_parquet(temporary, index=False)
        objective.pretrained().save_checkpoint(out / "checkpoint", record)

        _look(objective, fresh().to(place).eval(), watched, recordings, out, how)
        write_json(out / RECORD_FILE, record | {"wall_seconds": round(meter.seconds, 1)})
    wait_for_all()
    return out / "checkpoint"


def _as_saved(objective: Objective, state: Mapping[str, Any]) -> Objective:
    """Give an objective the weights of a state."""
    objective.load_state_dict(state["objective"])
    return objective.eval()


def _keep_last_good(
    out: Path, skipped: frozenset[int], objective: Objective, record: Mapping[str, Any]
) -> str:
    """Write the last good weights as a checkpoint, if there are any, and say where they are."""
    state = last_good(out, skipped)
    if state is None:
        return ""
    model = _as_saved(objective, state).pretrained()
    model.save_checkpoint(out / LAST_GOOD, {**record, "steps": state["step"]})
    return (
        f" The last good weights, of step {state['step']}, are in {out / LAST_GOOD}, from which "
        "--start_from begins."
    )


def _look(
    objective: Objective,
    untrained: Objective,
    watched: WindowDataset,
    recordings: pd.DataFrame,
    out: Path,
    how: Mapping[str, int],
) -> None:
    """Write what a report shows of windows that training never saw."""
    try:
        if isinstance(objective, Restoration):
            assert isinstance(untrained, Restoration)
            offsets = dict(zip(recordings["recording"], recordings["offset_seconds"], strict=True))
            look(objective, untrained, watched, offsets, out, **how)
        else:
            assert isinstance(untrained, DualAlignment)
            look_at_invariance(objective, untrained, watched, out, **how)
    except (MemoryError, RuntimeError) as error:
        if not is_of_memory(error):
            raise
        raise BergerError(
            f"{out}: is trained, but memory did not suffice to look at what came of it; continue "
            "with --resume where there is more, or with --device cpu."
        ) from error


def _divided(
    config: PretrainingConfig, corpus: Corpus, source: Path | str, everybody: Sequence[str]
) -> tuple[dict[str, tuple[str, ...]], WindowDataset, WindowDataset]:
    """Return people by part, windows to train on, and windows that training never sees."""
    share = config.validation_share
    if config.validation_by == "subject":
        people = split_subjects(everybody, {"train": 1 - share, "validation": share}, config.seed)
        if not people["train"] or not people["validation"]:
            raise BergerError(
                f"{source}: recordings of {' '.join(everybody) or 'nobody'} only; pretraining "
                "needs at least two people, one of them to watch it on; of one, set "
                "validation_by: time to watch it on the end of each recording."
            )
        train = corpus.windows(config.window_seconds, config.window_step, people["train"])
        return people, train, corpus.windows(config.window_seconds, subjects=people["validation"])
    train = corpus.windows(config.window_seconds, config.window_step, everybody)
    validation = corpus.windows(config.window_seconds, subjects=everybody)
    train = train.take(np.flatnonzero(_ends(train) <= _borders(train, share)))
    validation = validation.take(np.flatnonzero(validation.starts >= _borders(validation, share)))
    if not len(train) or not len(validation):
        part = "the last" if len(train) else "all but the last"
        raise BergerError(
            f"{source}: no window of {config.window_seconds:g} s lies within {part} {share:.0%} of "
            "a recording, by which validation_by: time divides it; choose another "
            "validation_share or shorter windows."
        )
    return {"train": tuple(sorted(everybody)), "validation": ()}, train, validation


def _borders(windows: WindowDataset, share: float) -> np.ndarray[Any, Any]:
    """First sample, for each window, of the end of its recording."""
    ends = np.array([math.ceil(block.n_times * (1 - share)) for block in windows.blocks])
    first: np.ndarray[Any, Any] = ends[windows.of_block]
    return first


def _ends(windows: WindowDataset) -> np.ndarray[Any, Any]:
    """Sample, for each window, after its last."""
    lengths = [count_samples(windows.seconds, block.sfreq) for block in windows.blocks]
    ends: np.ndarray[Any, Any] = windows.starts + np.array(lengths)[windows.of_block]
    return ends


def fresh_objective(
    config: PretrainingConfig, contract: InputContract, seed: int, earlier: EEGModel | None = None
) -> Objective:
    """Make the objective as it stands before the first step, its model perhaps with weights."""
    torch.manual_seed(seed)
    model = build_encoder(config.model, contract)
    if earlier is not None:  # before the objective copies them
        model.load_state_dict(earlier.state_dict())
    objective: Objective = OBJECTIVES[type(config.objective)](model, config.objective)
    return objective


def _earlier(wanted: Config, folder: str) -> EEGModel:
    """Load the checkpoint that a run starts from, if it is of the same architecture."""
    earlier = load_checkpoint(folder)
    if earlier.config != wanted:
        told = (
            "; ".join(differences(earlier.config, wanted))
            if type(earlier.config) is type(wanted)
            else f"{type(earlier).__name__} there, {wanted.name} here"  # type: ignore[attr-defined]
        )
        raise BergerError(
            f"{folder}: is of another model ({told}); set the configuration's model alike, or "
            "start from another checkpoint."
        )
    return earlier


def _check_montages(objective: Objective, *datasets: WindowDataset) -> None:
    """Raise BergerError unless the model can read every montage that there are windows of."""
    for windows in datasets:
        montages = {windows.blocks[b].ch_names: windows.blocks[b] for b in set(windows.of_block)}
        for block in montages.values():
            try:
                objective.check(count_samples(windows.seconds, block.sfreq), block.ch_names)
            except BergerError as error:
                raise BergerError(f"{block.recording}: {error}") from error


@contextmanager
def claimed(out: Path, config: PretrainingConfig, resume: bool) -> Iterator[None]:
    """Have a run's folder alone; of processes that train together, the first claims it.

    The configuration is written, or checked to be the one that stands. What a process left there
    unfinished when it was killed is removed.

    Raises
    ------
    BergerError
        If the folder holds a run, or experts, that are not to be resumed; if there is nothing to
        resume, or something of another configuration; if another command trains there.
    """
    if not is_first():
        yield
        return
    _check(out, config, resume)  # nothing is left in a folder that is refused
    lock = out / ".lock"
    # some file systems keep that of a machine that died
    otherwise = f"wait until it has ended or, if there is none, remove {lock}"
    with held(lock, f"{out}: another command trains there; {otherwise}."):
        _check(out, config, resume)  # another may just have ended
        remove_unfinished(out)
        content = config.model_dump(mode="json")
        with written_whole(out / CONFIG_FILE) as temporary:
            temporary.write_text(
                yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8"
            )
        yield


def _check(out: Path, config: PretrainingConfig, resume: bool) -> None:
    if resume:
        if not (out / CONFIG_FILE).is_file():
            raise BergerError(f"{out}: nothing to resume there; start without --resume.")
        before = load_config(PretrainingConfig, out / CONFIG_FILE)
        if before != config:
            raise BergerError(
                f"{out}: was started with another configuration "
                f"({'; '.join(differences(before, config))}); resume with the same one, or start "
                "a new run in another folder."
            )
    elif (out / RECORD_FILE).exists() or _is_begun(out):  # else nothing to lose
        raise BergerError(
            f"{out}: holds a run already; continue it with --resume or choose another folder."
        )


def how_to_continue(out: Path) -> str:
    """Say how a run that was stopped goes on."""
    return "continue it with --resume" if _is_begun(out) else "the same command begins it again"


def _is_begun(out: Path) -> bool:
    """Whether a run, or one of its experts, has something to resume from."""
    return any(map(has_state, (out, *out.glob("expert-*"))))


def divide(windows: WindowDataset, n_parts: int, seed: int) -> list[WindowDataset]:
    """Divide windows into disjoint parts whose sizes differ by one at most.

    The windows are shuffled first, as in the paper, so that each part is a sample of all people.

    Parameters
    ----------
    windows : WindowDataset
    n_parts, seed : int
        The same numbers give the same parts.

    Returns
    -------
    list of WindowDataset
        Together they hold every window once, each in the order of `windows`.
    """
    shuffled = np.random.default_rng([seed, n_parts]).permutation(len(windows))
    return [windows.take(np.sort(part)) for part in np.array_split(shuffled, n_parts)]


def windows_mark(table: pd.DataFrame) -> str:
    """Return the SHA-256 of the windows in a table: their recordings and starts in samples."""
    rows = zip(table["recording"], table["start"], strict=True)
    return hashlib.sha256(
        "".join(f"{name}\t{start}\n" for name, start in rows).encode()
    ).hexdigest()


def expert_seed(seed: int, expert: int) -> int:
    """Return the seed of an expert's weights, order of windows, masks and dropout.

    Experts that started alike would differ by their windows alone. The first has the run's seed.
    """
    return seed if expert == 0 else int(np.random.SeedSequence([seed, expert]).generate_state(1)[0])


def file_marks(recordings: pd.DataFrame) -> list[str]:
    """Return name and size of each recording's file, by which it is known in other corpora."""
    names = recordings["recording"].str.rsplit("/").str[-1]
    return [
        f"{name}, {size} bytes"
        for name, size in zip(names, recordings["source_bytes"], strict=True)
    ]


def file_contents(recordings: pd.DataFrame) -> list[str | None]:
    """Return the first 16 digits of the SHA-256 of each recording's file, None if not known."""
    return [sha[:16] if isinstance(sha, str) else None for sha in recordings["source_sha256"]]


def _evenly(n_windows: int, at_most: int) -> np.ndarray[Any, Any]:
    """Indices of at most `at_most` windows, evenly spaced."""
    return np.linspace(0, n_windows - 1, min(at_most, n_windows)).round().astype(int)
