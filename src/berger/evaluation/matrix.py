"""Evaluate models × tasks × adaptations × seeds × folds, and say what differs from what.

::

    configuration ─► corpora ─► folds ─► pretraining in folds ─► features ─► cells ─► tables

Each arrow leaves files in the evaluation's folder, from which another start continues.
docs/decisions/0024-evaluation.md.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from tqdm import tqdm

from berger.adaptation.low_rank import require_peft
from berger.configuration import differences, load_config
from berger.corpus import open_corpus
from berger.corpus.executors import map_unordered
from berger.errors import BergerError
from berger.evaluation.baselines import baseline_title, check_installed
from berger.evaluation.cells import (
    Piece,
    embed_for,
    forget,
    fresh_contract,
    open_encoder,
    pretrain_for,
    read_cell,
    run_cell,
    write_cell,
)
from berger.evaluation.decoding import (
    PREDICTIONS_FILE,
    RESULTS_FILE,
    TaskWindows,
    prepare_task,
    read_task,
    task_preparation,
)
from berger.evaluation.networks import require_braindecode
from berger.evaluation.plan import (
    PLAN_FILE,
    Cell,
    EvaluationConfig,
    Plan,
    Reasons,
    corpus_key,
    corpus_keys,
    load_tasks,
    mark,
    plan_at,
    rows_of,
)
from berger.evaluation.published_models import network_of
from berger.evaluation.scoring import VALUES, compare, score
from berger.evaluation.statistics import interval_text
from berger.evaluation.transfer import corpora_of_transfers, read_windows
from berger.files import sha256, write_json, written_whole
from berger.models import AdapterConfig, InputContract
from berger.models.device import Device
from berger.pretraining import CONFIG_FILE, RECORD_FILE
from berger.tasks import TaskConfig, find_data
from berger.training.log import run_record

COMPARISONS_FILE, CELLS_FILE = "comparisons.parquet", "cells.parquet"


def evaluate(
    config: EvaluationConfig,
    out: Path,
    *,
    device: Device = "auto",
    workers: int = 1,
    quiet: bool = False,
    tell: Callable[[str], None] = lambda sentence: None,
) -> pd.DataFrame:
    """Work at every cell that is not finished yet, and write the tables.

    Parameters
    ----------
    config : EvaluationConfig
    out : Path
        The evaluation's folder: ``cells/TASK/MODEL/ADAPTATION/seed-S-fold-F/``, each with
        ``cell.json`` and, unless it failed, ``predictions.parquet``; the tables ``cells``,
        ``predictions``, ``results`` and ``comparisons`` (.parquet); ``corpora/``, ``features/``,
        ``pretrained/``, ``plan.json``, ``config.yaml``, ``run.json``.
    device : {"auto", "cpu", "cuda"}
    workers : int
        Processes that prepare recordings and work at cells.
    quiet : bool
        No progress bars.
    tell : callable, optional
        Called with the reason for which a recording is left out.

    Returns
    -------
    DataFrame
        Content of ``cells.parquet``: one row per cell with ``status``, ``reason`` and the like.

    Raises
    ------
    BergerError
        If `out` holds another evaluation, or its recordings, tasks, labels or checkpoints are
        others by now; a task or a package is missing; or every cell failed. One that fails beside
        others is a row with its reason.
    """
    began, record = time.monotonic(), run_record()
    out = Path(out)
    check_installed(config.baselines)
    if any(method.low_rank is not None for method in config.adaptations.values()):
        require_peft()
    for name, model in config.published_models.items():
        require_braindecode(network_of(name, model))
    tasks = load_tasks(config)
    inputs = _inputs(config, tasks)
    _claim(out, config, inputs)
    record |= {"kind": "evaluation", "inputs": inputs}
    write_json(out / RECORD_FILE, record | _described(config, tasks))
    forget()

    plan = plan_at(out, config, tasks)
    reasons = _prepare_corpora(plan, workers, quiet, tell)
    _check_windows(plan)
    reasons |= corpora_of_transfers(plan, reasons)
    reasons |= _make_folds(plan, reasons)
    write_json(out / PLAN_FILE, plan.content())
    forget()

    cells, impossible = _cells(plan, reasons)
    todo = [cell for cell in cells if read_cell(out, cell).get("status") != "ok"]
    failed = {cell: reasons[row] for cell in todo if (row := _row(cell)) in reasons}

    def stage(
        work: Callable[[Piece], tuple[Piece, str]],
        needed: Callable[[Cell], Path | None],
        what: str,
    ) -> None:
        """Make the files that cells share, each by the first cell that needs it."""
        sharing: dict[Path, list[Cell]] = {}
        for cell in todo:
            if cell not in failed and (path := needed(cell)) is not None and not path.exists():
                sharing.setdefault(path, []).append(cell)
        pieces = [Piece(out, cells[0], device) for cells in sharing.values()]
        found = in_parallel(work, pieces, workers, what, quiet)
        for cells in sharing.values():
            if reason := found.get(cells[0]):
                failed.update(dict.fromkeys(cells, reason))

    def pretrained(cell: Cell) -> Path | None:
        if cell.is_baseline or config.models[cell.model].pretraining is None:
            return None
        return plan.pretraining_folder(cell) / "checkpoint"

    def features(cell: Cell) -> Path | None:
        if cell.is_baseline or not config.adaptations[cell.adaptation].is_probe:
            return None
        return plan.features_file(cell)

    stage(pretrain_for, pretrained, "pretraining")
    stage(embed_for, features, "embedding")
    for cell, reason in failed.items():
        write_cell(out, cell, reason, {"seconds": 0.0})
    pieces = [Piece(out, cell, device) for cell in todo if cell not in failed]
    done = len(cells) - len(pieces)
    for cell, reason in in_parallel(run_cell, pieces, workers, "cell", quiet, done).items():
        known = read_cell(out, cell)
        if known.get("status") != "ok" and known.get("reason") != reason:  # its process ended
            write_cell(out, cell, reason, {})

    table = _collect(plan, cells, impossible)
    write_json(
        out / RECORD_FILE,
        record
        | _described(config, tasks)
        | {
            "n_cells": len(table),
            "n_failed": int((table["status"] == "failed").sum()),
            "corpora": plan.corpus_ids,
            "wall_seconds": round(time.monotonic() - began, 1),
        },
    )
    if (table["status"] == "failed").all():
        raise BergerError(
            f"{out}: all {len(table)} cells failed, the first because: {table['reason'].iloc[0]}"
        )
    return table


def in_parallel(
    work: Callable[[Piece], tuple[Piece, str]],
    pieces: Sequence[Piece],
    workers: int,
    what: str,
    quiet: bool,
    done: int = 0,
) -> dict[Cell, str]:
    """Do pieces of work in several processes; return why those failed that did.

    Where a process ends abruptly, what was under way has failed, and the others go on.
    """
    failed: dict[Cell, str] = {}
    left = {piece.cell: piece for piece in pieces}
    with tqdm(total=done + len(left), initial=done, unit=what, disable=quiet or not left) as bar:
        while left:
            for piece in left.values():  # of a start that was killed
                piece.running.unlink(missing_ok=True)
            try:
                for piece, reason in map_unordered(work, [*left.values()], workers):
                    del left[piece.cell]
                    bar.update()
                    if reason:
                        failed[piece.cell] = reason
            except BergerError:  # of a piece's own there is none
                lost = [cell for cell, piece in left.items() if piece.running.exists()]
                if not lost:
                    raise
                for cell in lost:
                    del left[cell]
                    bar.update()
                    failed[cell] = (
                        "its process, or one beside it, ended abruptly, probably for want of "
                        "memory; run again with fewer workers."
                    )
    return failed


def format_results(out: Path) -> str:
    """Return the numbers over folds and seeds as a table to print, task by task."""
    path = out / RESULTS_FILE
    if not path.is_file():
        return ""
    results = pd.read_parquet(path)
    rows = [("task", "model", "score", "95 % interval", "seeds")]
    whole = results[results["seed"].isna() & (results["fold"] == 0)]
    for row in whole.to_dict("records"):
        score = "balanced_accuracy"
        if score not in row or np.isnan(row[score]):
            score = "rmse"
        ends = (row[f"{score}_low"], row[f"{score}_high"])
        interval = interval_text(*ends, row["interval_over"])
        name = row["title"] + (f", {row['people']}" if row["people"] != "all" else "")
        if row["seen_in_pretraining"] and row["people"] == "all":
            name += " (seen in pretraining)"
        if row.get("pretraining_people") == "unknown":
            name += " (pretrained on unknown people)"
        kind = "" if score == "balanced_accuracy" else "RMSE "
        strangers = row["tested_on"] == "strangers"
        task = row["task"] + ("" if strangers else f" ({row['tested_on']})")
        rows.append((task, name, f"{kind}{row[score]:.3f}", interval, str(row["n_seeds"])))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _claim(out: Path, config: EvaluationConfig, inputs: dict[str, Any]) -> None:
    """Write the configuration into the folder, or check that what stands there is the same."""
    path = out / CONFIG_FILE
    if path.is_file():
        before = load_config(EvaluationConfig, path)
        if changed := differences(before, config):
            raise BergerError(
                f"{out}: was begun with another configuration ({'; '.join(changed)}); continue "
                "with the same one, or evaluate into another folder."
            )
        recorded = _yaml(out / RECORD_FILE).get("inputs", {})
        for name, now in inputs.items():
            then = recorded.get(name)
            if then is not None and then != now:
                raise BergerError(
                    f"{out}: {name} is another than when this evaluation was begun; restore it, "
                    "or evaluate into another folder."
                )
    elif any((out / name).exists() for name in (RECORD_FILE, PREDICTIONS_FILE, PLAN_FILE)):
        raise BergerError(f"{out}: holds a run already; choose another folder.")
    content = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    with written_whole(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def _inputs(config: EvaluationConfig, tasks: dict[str, TaskConfig]) -> dict[str, Any]:
    """Return by what checkpoints and tasks are known to be the same in another start."""
    found: dict[str, Any] = {}
    for name, source in config.models.items():
        if source.checkpoint is not None:
            weights = source.checkpoint / "model.safetensors"
            found[f"model {name}"] = sha256(weights) if weights.is_file() else None
    for name, model in config.published_models.items():
        file = model.weights
        found[f"weights of {name}"] = sha256(file) if file.is_file() else None
    # what only a report shows; and fields that an earlier Berger did not have are as they were
    told = {"title", "description", "licence", "paper", "source", "facts", "published"}
    told |= {"sleep_stages", "splits", "variants"}
    return found | {
        f"task {name}": task.model_dump(
            mode="json",
            exclude=told | {"sleep_stages", "splits", "variants"},
            exclude_defaults=True,
        )
        for name, task in tasks.items()
    }


def _described(config: EvaluationConfig, tasks: dict[str, TaskConfig]) -> dict[str, Any]:
    """Return what a report needs to know of models and tasks."""
    return {
        "seed": config.seeds[0],
        "tasks": {
            name: {
                **tasks[name].model_dump(mode="json", exclude={"labels"}),
                "tested_on": tasks[name].tested_on,
                "classes": [*tasks[name].classes],
                "sleep_stages": [*tasks[name].hypnogram],
                "shots": config.shots(name),
            }
            for name in config.evaluated
        },
        "models": {name: source.kind for name, source in config.models.items()},
        "baselines": [*config.baselines],
        "published_models": [*config.published],
        "allow_seen": [*config.allow_seen],
    }


def _prepare_corpora(plan: Plan, workers: int, quiet: bool, tell: Callable[[str], None]) -> Reasons:
    """Say in the plan which corpus each row of the table reads; prepare those that are lacking."""
    reasons: Reasons = {}
    contracts: dict[str, InputContract | str] = {}
    for name, source in plan.config.models.items():
        try:
            if source.checkpoint is None:
                contracts[name] = fresh_contract(source)
            else:
                contracts[name] = open_encoder(source.checkpoint).contract
        except BergerError as error:
            contracts[name] = str(error)
    rows = [*rows_of(plan.config, plan.config.tasks)]
    for task, model, adaptation in rows:
        if not adaptation:
            continue
        try:
            folder = _prepare_one(plan, task, contracts[model], adaptation, workers, quiet, tell)
            _remember(plan, folder)
            plan.corpora[corpus_key(task, model, adaptation)] = folder
            plan.corpora.setdefault(corpus_key(task, "", ""), folder)
        except BergerError as error:
            reasons[task, model, adaptation] = " ".join(str(error).split())
    for task, baseline, adaptation in rows:
        if adaptation or corpus_key(task, baseline, "") in plan.corpora:
            continue
        given = plan.config.tasks[task].corpus
        try:
            if given is None:
                raise BergerError(
                    f"the recordings of {task} could not be prepared for any model; see there."
                )
            _remember(plan, given)
            plan.corpora[corpus_key(task, baseline, "")] = given
        except BergerError as error:
            reasons[task, baseline, ""] = str(error)
    return reasons


def _prepare_one(
    plan: Plan,
    task: str,
    contract: InputContract | str,
    adaptation: str,
    workers: int,
    quiet: bool,
    tell: Callable[[str], None],
) -> str:
    """Return the folder of a task's corpus for a model, prepared if it is not there."""
    if isinstance(contract, str):
        raise BergerError(contract)
    source = plan.config.tasks[task]
    if source.corpus is not None:
        return source.corpus
    if contract.preprocessing is None:
        raise BergerError(
            f"task {task}: the model does not say how recordings are prepared for it; give the "
            "task a corpus, or a model that is no checkpoint a preparation."
        )
    adapter: AdapterConfig = plan.config.adaptations[adaptation].adapter
    needed = task_preparation(plan.tasks[task], contract.preprocessing, adapter)
    folder = plan.out / "corpora" / f"{task}-{mark(needed)}"
    if not (folder / "manifest.json").is_file():
        data = find_data(plan.tasks[task], source.task or task, source.data)
        summary = prepare_task(data, folder, needed, workers, quiet)
        for failure in summary.failures:
            tell(failure.reason)
    return str(folder)


def _remember(plan: Plan, folder: str) -> None:
    """Note a corpus' identity; raise BergerError if it was another when the evaluation began."""
    found = open_corpus(folder, progress=False).manifest.id
    if plan.corpus_ids.setdefault(folder, found) != found:
        raise BergerError(
            f"{folder}: is another corpus than when this evaluation was begun; restore it, or "
            "evaluate into another folder."
        )


def _check_windows(plan: Plan) -> None:
    """Note the windows of each task; raise BergerError if they were others, or labelled otherwise.

    Labels may come from files beside the task's.
    """
    read = {(key.split("/")[0], folder) for key, folder in plan.corpora.items()}
    for task, folder in sorted(read):
        if task not in plan.config.tasks:  # a transfer, whose tasks are here themselves
            continue
        try:
            table = read_task(plan.tasks[task], open_corpus(folder, progress=False)).table
        except BergerError:  # its cells will say so
            continue
        found = hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()
        if plan.windows.setdefault(f"{task} in {folder}", found) != found:
            raise BergerError(
                f"{folder}: the labels of {task}, or the windows that it cuts, are others than "
                "when this evaluation was begun; restore them, or evaluate into another folder."
            )


def _make_folds(plan: Plan, reasons: Reasons) -> Reasons:
    """Make the folds of each task, unless they stand; return why those of a task could not be."""
    config, found = plan.config, Reasons()
    for task in config.evaluated:
        keys = corpus_keys(config, task, "", "")
        if task in plan.folds or not {*keys} <= plan.corpora.keys():
            continue
        try:
            corpora = [plan.corpora[key] for key in keys]
            read = read_windows(config, plan.tasks, task, corpora)
            plan.folds[task] = {
                seed: read.folds(config.n_folds, config.validation_share, seed)
                for seed in config.seeds
            }
            plan.people[task] = read.subjects
            if isinstance(read, TaskWindows) and read.task.split.by == "site":
                plan.sites[task] = read.sites(plan.folds[task][config.seeds[0]])
        except BergerError as error:
            rows = [row for row in rows_of(config, [task]) if row not in reasons]
            found |= dict.fromkeys(rows, " ".join(str(error).split()))
    return found


def _cells(plan: Plan, reasons: Reasons) -> tuple[list[Cell], list[dict[str, Any]]]:
    """Return all cells, and rows of the table for those of tasks that have no folds."""
    cells: list[Cell] = []
    impossible = []
    for task, model, adaptation in rows_of(plan.config, plan.config.evaluated):
        regression = plan.tasks[task].kind == "regression"
        title = f"{model}, {adaptation}" if adaptation else baseline_title(model, regression)
        for seed in plan.config.seeds:
            n_folds = len(plan.folds.get(task, {}).get(seed, ()))
            row = (task, model, adaptation, title, seed)
            cells += [Cell(*row, fold) for fold in range(1, n_folds + 1)]
            if not n_folds:
                reason = reasons[task, model, adaptation]
                impossible.append({**vars(Cell(*row, 0)), "status": "failed", "reason": reason})
    return cells, impossible


def _row(cell: Cell) -> tuple[str, str, str]:
    return cell.task, cell.model, cell.adaptation


def _collect(plan: Plan, cells: list[Cell], impossible: list[dict[str, Any]]) -> pd.DataFrame:
    """Write the tables from what stands in the cells' folders."""
    known = [read_cell(plan.out, cell) for cell in cells]
    columns = [*Cell.__dataclass_fields__, "status", "reason", "choice", "n_trained", "seconds"]
    columns.append("pretraining_people")
    table = pd.DataFrame([*known, *impossible]).reindex(columns=columns)
    parts = []
    for cell, facts in zip(cells, known, strict=True):
        if facts["status"] != "ok":
            continue
        part = pd.read_parquet(plan.out / cell.folder / PREDICTIONS_FILE)
        if plan.tasks[cell.task].kind == "regression":
            part = part.rename(columns=VALUES)
        # of a cell from before this was noted it is not known whether it was known
        people = facts.get("pretraining_people")
        parts.append(part.assign(**vars(cell), pretraining_people=people))
    tested_on = {name: task.tested_on for name, task in plan.tasks.items()}
    table["tested_on"] = table["task"].map(tested_on)
    tables = {CELLS_FILE: table}
    if parts:
        predictions = pd.concat(parts, ignore_index=True)
        predictions["tested_on"] = predictions["task"].map(tested_on)
        first = [*Cell.__dataclass_fields__]
        predictions = predictions[first + [name for name in predictions if name not in first]]
        tables[PREDICTIONS_FILE] = predictions
        tables[RESULTS_FILE] = score(plan, predictions)
        tables[COMPARISONS_FILE] = compare(plan, predictions)
    for name in (PREDICTIONS_FILE, RESULTS_FILE, COMPARISONS_FILE, CELLS_FILE):
        if name not in tables:
            (plan.out / name).unlink(missing_ok=True)
            continue
        with written_whole(plan.out / name) as temporary:
            tables[name].to_parquet(temporary, index=False)
    return table


def _yaml(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content if isinstance(content, dict) else {}
