"""The whole road on simulated recordings: what `berger demo` does."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from berger.configuration import differences, load_config
from berger.corpus import prepare
from berger.errors import BergerError
from berger.evaluation.decoding import AdaptationConfig, adapt
from berger.files import written_whole
from berger.preprocessing import PreprocessingConfig
from berger.pretraining import CONFIG_FILE, RECORD_FILE, PretrainingConfig, pretrain
from berger.reports import build_report
from berger.simulation import simulate_dataset
from berger.tasks import find_data, load_task
from berger.training.state import has_state

TASK = """\
# Eyes open against eyes closed, labelled by the annotations in the simulated files. A task of your
# own is a file like this one.
name: eyes
title: Eyes open versus eyes closed
description: Simulated recordings; posterior alpha grows when the eyes are closed.
recordings: ["recordings/*.edf"]
labels:
  from: annotations
  classes: {"eyes open": open, "eyes closed": closed}
window_seconds: 5
n_folds: 6
species: simulated
source: berger.simulation
"""


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int = 1,
    quiet: bool = False,
) -> Path:
    """Simulate, prepare, pretrain, probe and report; finished stages are not done again.

    Parameters
    ----------
    out : Path
        Folder for everything: ``recordings/``, ``corpus/``, ``pretrain/``, ``task.yaml``,
        ``adapt/``, ``report.html``.
    seed : int
    device : {"auto", "cpu", "cuda"}
    workers : int
        Processes that prepare recordings.
    quiet : bool
        No progress bars.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    BergerError
        If `out` holds a demo of another seed or configuration, or something else.
    """
    recordings, corpus = out / "recordings", out / "corpus"
    if not recordings.is_dir():
        with written_whole(recordings) as temporary:
            simulate_dataset(temporary, seed=seed)
    prepare([recordings], corpus, PreprocessingConfig(), workers=workers, progress=not quiet)

    run = out / "pretrain"
    config = load_config(PretrainingConfig, "spechinet-demo", {"seed": seed})
    if not (run / RECORD_FILE).is_file():
        resume = has_state(run)
        pretrain(config, corpus, run, resume=resume, device=device, quiet=quiet)
    elif changed := differences(load_config(PretrainingConfig, run / CONFIG_FILE), config):
        raise BergerError(
            f"{out}: holds a demo that was made otherwise ({'; '.join(changed)}); choose another "
            "folder."
        )

    task_file, adapted = out / "task.yaml", out / "adapt"
    if not (adapted / RECORD_FILE).is_file():
        with written_whole(task_file) as temporary:
            temporary.write_text(TASK, encoding="utf-8")
        task = load_task(task_file)
        adapt(
            load_config(AdaptationConfig, "probe", {"seed": seed}),
            run / "checkpoint",
            task,
            adapted,
            data=find_data(task, task_file, None),
            device=device,
            workers=workers,
            quiet=quiet,
        )
    return build_report(out)
