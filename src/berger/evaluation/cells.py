"""The work of an evaluation, piece by piece; each piece may be done by another process.

A process reads what it needs from the evaluation's folder. Whatever goes wrong in a piece is its
result: a sentence, and the rest goes on.
"""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch

from berger.assembling import pretrain_experts
from berger.errors import BergerError
from berger.evaluation.baselines import learn_baseline
from berger.evaluation.decoding import (
    PREDICTIONS_FILE,
    TaskWindows,
    build_strategy,
    check_preparation,
)
from berger.evaluation.plan import Cell, ModelSource, Plan, read_plan
from berger.evaluation.protocol import Array, Learn, Mask, run_folds
from berger.evaluation.published_models import learn_published, network_of
from berger.evaluation.seen import Known, knows_people
from berger.evaluation.strategies import FrozenProbe
from berger.evaluation.transfer import TransferWindows, own_names, read_windows
from berger.files import write_json, written_whole
from berger.models import MODELS, Encoder, InputContract, load_checkpoint
from berger.models.device import Device, compute_device
from berger.models.encoders import build_encoder
from berger.pretraining import CONFIG_FILE, pretrain
from berger.tasks.splits import PARTS
from berger.training.state import has_state

CELL_FILE: Final = "cell.json"
RUNNING: Final = ".running"
"""Folder of marks of the pieces under way, by which one is known that ended its process."""


@dataclass(frozen=True)
class Piece:
    """A piece of work: what the function does for this cell, and for all that share it."""

    out: Path
    cell: Cell
    device: Device

    @property
    def running(self) -> Path:
        """The mark that stands while it is under way."""
        return self.out / RUNNING / hashlib.sha256(str(self.cell).encode()).hexdigest()[:16]


def pretrain_for(piece: Piece) -> tuple[Piece, str]:
    """Pretrain a cell's model on the training people of its fold; return why not, if it failed."""

    def work(plan: Plan, cell: Cell) -> None:
        folder = plan.pretraining_folder(cell)
        source = plan.config.models[cell.model]
        assert source.pretraining is not None
        if plan.fold_of(cell).unit != "subject":
            raise BergerError(
                f"{cell.model} is pretrained on other people in each fold, but the folds of "
                f"{cell.task} are of {plan.fold_of(cell).of}, whose people are in several parts; "
                "give a checkpoint or fresh weights."
            )
        corpora = plan.corpora_of(cell)
        _check_people(plan, cell, task_windows(plan.out, cell.task, corpora))
        several = source.pretraining.experts > 1
        train = pretrain_experts if several else pretrain
        train(
            source.pretraining.model_copy(update={"seed": cell.seed}),
            corpora[0],  # of a transfer: of the task that is learned
            folder,
            subjects=own_names(plan.config.transfer(cell.task), plan.fold_of(cell).train),
            resume=(folder / CONFIG_FILE).is_file() if several else has_state(folder),
            device=piece.device,
            quiet=True,
        )

    return _attempted(piece, work)


def embed_for(piece: Piece) -> tuple[Piece, str]:
    """Write the features that a probe reads; return why not, if it failed."""

    def work(plan: Plan, cell: Cell) -> None:
        read = task_windows(plan.out, cell.task, plan.corpora_of(cell))
        encoder, _ = _encoder_for(plan, cell, read)
        method = plan.config.adaptations[cell.adaptation]
        question, _ = read.align(read.ask(encoder.contract, method), quiet=True)
        features = FrozenProbe(
            encoder.to(compute_device(piece.device)),
            question,
            method.pooling,
            method.penalties,
            batch_size=method.batch_size,
            quiet=True,
        ).features
        with written_whole(plan.features_file(cell)) as temporary, temporary.open("wb") as file:
            np.save(file, features, allow_pickle=False)

    return _attempted(piece, work)


def run_cell(piece: Piece) -> tuple[Piece, str]:
    """Work at a cell and write its folder, whole; return why it failed, if it did."""
    if read_cell(piece.out, piece.cell).get("status") == "ok":
        return piece, ""
    began = time.monotonic()
    facts: dict[str, Any] = {}
    lines: list[dict[str, Any]] = []
    found: list[pd.DataFrame] = []

    def work(plan: Plan, cell: Cell) -> None:
        found.append(_predict(plan, cell, piece.device, facts, lines))

    _, reason = _attempted(piece, work)
    facts["seconds"] = round(time.monotonic() - began, 2)
    write_cell(piece.out, piece.cell, reason, facts, found[0] if found else None, lines)
    return piece, reason


def write_cell(
    out: Path,
    cell: Cell,
    reason: str,
    facts: dict[str, Any],
    predictions: pd.DataFrame | None = None,
    lines: list[dict[str, Any]] | None = None,
) -> None:
    """Write a cell's folder; with a reason it has failed and holds no predictions."""
    status = "failed" if reason else "ok"
    with written_whole(out / cell.folder) as temporary:
        temporary.mkdir()
        if predictions is not None and not reason:
            predictions.to_parquet(temporary / PREDICTIONS_FILE, index=False)
        if lines:
            log = "".join(json.dumps(line) + "\n" for line in lines)
            (temporary / "log.jsonl").write_text(log, encoding="utf-8")
        content = asdict(cell) | {"status": status, "reason": reason} | facts
        write_json(temporary / CELL_FILE, content)


def read_cell(out: Path, cell: Cell) -> dict[str, Any]:
    """Return what is known of a cell; nothing if it has not been worked at."""
    path = out / cell.folder / CELL_FILE
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


@lru_cache(maxsize=2)
def task_windows(out: Path, task: str, corpora: tuple[str, ...]) -> TaskWindows | TransferWindows:
    """Read the labelled windows of a task or a transfer; kept for the next cell of this process."""
    plan = read_plan(out)
    return read_windows(plan.config, plan.tasks, task, corpora)


def _baseline(
    out: Path,
    task: str,
    corpora: tuple[str, ...],
    name: str,
    seed: int,
    device: Device,
    tell: Callable[[dict[str, Any]], None] = lambda line: None,
) -> tuple[Learn, dict[str, Any]]:
    """Return a baseline and facts for its cells."""
    config = read_plan(out).config
    read = task_windows(out, task, corpora)
    question = read.ask(InputContract(sfreq=read.corpora[0].manifest.preprocessing.sfreq))
    how: dict[str, Any] = {
        "penalties": config.penalties,
        "training": config.network_training,
        "seed": seed,
        "device": compute_device(device),
        "tell": tell,
    }
    if name in config.published:
        own, adaptation = config.published[name]
        model = config.published_models[own]
        learn, weights = learn_published(network_of(own, model), model, adaptation, question, **how)
        return learn, {"weights": weights}
    return learn_baseline(name, question, **how), {}


_kept_baseline = lru_cache(maxsize=2)(_baseline)
"""A baseline, whose features of all windows are kept for the next fold."""


def forget() -> None:
    """Read anew what this process has kept of evaluations."""
    for kept in (read_plan, task_windows, _kept_baseline):
        kept.cache_clear()


def fresh_contract(source: ModelSource) -> InputContract:
    """Return what a model that is no checkpoint expects, as far as the configuration says it."""
    config = source.pretraining.model if source.pretraining else MODELS[str(source.model)]
    return InputContract(sfreq=config.sfreq, preprocessing=source.preparation)


def open_encoder(source: Path) -> Encoder:
    """Load a pretrained encoder; raises BergerError if it is another kind of model."""
    encoder = load_checkpoint(source)
    if not isinstance(encoder, Encoder) or encoder.is_adapted:
        raise BergerError(f"{source}: is adapted already; give a pretrained checkpoint.")
    return encoder


def _predict(
    plan: Plan, cell: Cell, device: Device, facts: dict[str, Any], lines: list[dict[str, Any]]
) -> pd.DataFrame:
    """Go through the protocol for one fold; what becomes known on the way goes into `facts`."""
    corpora = plan.corpora_of(cell)
    read = task_windows(plan.out, cell.task, corpora)
    _check_people(plan, cell, read)
    fold = plan.fold_of(cell)
    own = partial(own_names, plan.config.transfer(cell.task))
    seen: set[str] = set()
    known: Known = "nobody"
    if cell.is_baseline:
        which = (plan.out, cell.task, corpora, cell.model)
        if cell.model in plan.config.seeded:
            learn, more = _baseline(*which, cell.seed, device, lines.append)
        else:  # without random weights: what they have worked out serves every seed
            learn, more = _kept_baseline(*which, plan.config.seeds[0], device)
        facts |= more
        known = "unknown" if cell.model in plan.config.published else "nobody"
        strategy = None
    else:
        encoder, seen = _encoder_for(plan, cell, read)
        if plan.config.models[cell.model].kind != "fresh":
            known = "known" if knows_people(encoder.provenance) else "unknown"
        method = plan.config.adaptations[cell.adaptation]
        question = read.ask(encoder.contract, method)
        features = None
        if method.is_probe:
            features = np.load(plan.features_file(cell), allow_pickle=False)
        else:
            question, _ = read.align(question, quiet=True)
        strategy = build_strategy(
            encoder.to(compute_device(device)),
            question,
            method,
            seed=cell.seed,
            tell=lines.append,
            quiet=True,
            features=features,
        )
        learn = strategy.learn

    def noting(train: Mask, validation: Mask) -> tuple[Callable[[Mask], Array], float]:
        facts["n_windows"] = {"train": int(train.sum()), "validation": int(validation.sum())}
        answer, choice = learn(train, validation)

        def answer_once(test: Mask) -> Array:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            facts["test_read"] = {
                "at": now,
                "people": own(fold.tested_people),
                "n_windows": int(test.sum()),
            }
            if fold.unit != "subject":
                facts["test_read"][fold.of] = [*fold.test]
            return answer(test)

        return answer_once, choice

    tested = run_folds(
        cell.title,
        read.table,
        plan.tasks[cell.task].classes,
        [fold],
        noting,
        shots=plan.config.shots(cell.task),
        seed=cell.seed,
    )
    facts |= {
        "choice": tested.choices[0],
        "n_trained": None if strategy is None else strategy.n_trained,
        "seen_in_pretraining": own(sorted(seen & {*fold.tested_people})),
        "pretraining_people": known,
    }
    predictions = tested.predictions.drop(columns=["model", "fold"])
    predictions["seen_in_pretraining"] = predictions["subject"].isin(seen)
    return read.in_seconds(predictions)


def _check_people(plan: Plan, cell: Cell, read: TaskWindows | TransferWindows) -> None:
    """Raise BergerError unless a corpus has windows of the very people that the folds are of.

    And of the very recordings or trials, if the folds are of these.
    """
    expected, found = set(plan.people[cell.task]), set(read.subjects)
    unit = plan.fold_of(cell).unit
    if expected == found and unit != "subject":
        folds = plan.folds[cell.task][cell.seed]
        expected = {one for fold in folds for part in PARTS for one in getattr(fold, part)}
        found = set(read.table[unit]) if unit in read.table else set()
    if expected != found:
        one = min(expected ^ found)
        where = " or ".join(plan.corpora_of(cell))
        raise BergerError(
            f"{where}: {'lacks' if one in expected else 'also has'} windows of "
            f"{one}, unlike the corpus that the folds of {cell.task} were made from; models are "
            "compared on the same people, so that both must be prepared from the same recordings."
        )


def _encoder_for(
    plan: Plan, cell: Cell, read: TaskWindows | TransferWindows
) -> tuple[Encoder, set[str]]:
    """Return a cell's encoder before it is adapted, and whom its pretraining has seen.

    Raises
    ------
    BergerError
        If it does not fit the corpus, or has seen people that it would be tested on.
    """
    source = plan.config.models[cell.model]
    folds = [plan.fold_of(cell)]
    if source.checkpoint is not None:
        encoder = open_encoder(source.checkpoint)
        folds = [fold for made in plan.folds[cell.task].values() for fold in made]
    elif source.pretraining is not None:
        encoder = open_encoder(plan.pretraining_folder(cell) / "checkpoint")
    else:
        torch.manual_seed(cell.seed)
        encoder = build_encoder(MODELS[str(source.model)], fresh_contract(source))
    adapter = plan.config.adaptations[cell.adaptation].adapter
    for part in (read,) if isinstance(read, TaskWindows) else (read.trained, read.tested):
        check_preparation(encoder, adapter, part.corpus, part.corpus.folder, part.task)
    seen = read.seen_by(encoder)
    tested = seen & {person for fold in folds for person in fold.tested_people}
    if tested and cell.model not in plan.config.allow_seen:
        (own_name,) = own_names(plan.config.transfer(cell.task), [min(tested)])
        more = f" and {len(tested) - 1} others" if len(tested) > 1 else ""
        raise BergerError(
            f"the pretraining of {cell.model} has seen {own_name}{more} of the people that "
            f"{cell.task} tests on; evaluate it on others, or name it under allow_seen, and every "
            "table will mark it."
        )
    return encoder, seen


def _attempted(piece: Piece, work: Callable[[Plan, Cell], None]) -> tuple[Piece, str]:
    """Do the work of a piece; return why it failed, in one sentence, or nothing."""
    piece.running.parent.mkdir(exist_ok=True)
    piece.running.touch()
    try:
        work(read_plan(piece.out), piece.cell)
    except BergerError as error:
        return piece, " ".join(str(error).split())
    except Exception as error:  # a fault of ours in one cell must not take the others with it
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = " ".join(str(error).split()) or "no message"
        where = f"{Path(place.filename).name}:{place.lineno}"
        return piece, f"a fault of Berger's: {type(error).__name__}, {what} ({where}); report it."
    finally:
        piece.running.unlink(missing_ok=True)
    return piece, ""
