"""The tasks in docs/tasks, on recordings as they describe them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import edfio
import numpy as np
import pandas as pd
import pytest

from berger.configuration import field_names
from berger.corpus import open_corpus, prepare
from berger.preprocessing import PreprocessingConfig
from berger.recordings import Annotation
from berger.simulation import EIGHT, simulate_recording, write_edf
from berger.tasks import LabelledWindows, TaskConfig, cut_windows, find_data, load_task, preparation
from tests.tasks.made import record

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = {file.stem: file for file in sorted((DOCS / "tasks").glob("*.yaml"))}
MODEL = PreprocessingConfig(sfreq=100, highpass=None, lowpass=None)
EVENTS = ["left_hand", "right_hand", "other"]


def bids_root(root: Path) -> None:
    """Write six people at three sites, with 40 s each and an event every 6 s."""
    participants = ["participant_id\tgroup\tsite"]
    for number, site in enumerate(["Bonn", "Bonn", "Ulm", "Ulm", "Kiel", "Kiel"], start=1):
        subject = f"sub-{number:02d}"
        group = "excluded" if number == 3 else ["control", "patient"][number % 2]
        participants.append(f"{subject}\t{group}\t{site}")
        path = root / subject / "eeg" / f"{subject}_task-hands_eeg.edf"
        recording, _ = simulate_recording(
            subject,
            [Annotation(0, 40, "eyes open")],
            ch_names=EIGHT,
            sfreq=128.0,
            seed=number,
            artefacts=False,
        )
        write_edf(recording, path)
        events = ["onset\tduration\ttrial_type"]
        events += [
            f"{onset}\t1\t{kind}"
            for onset, kind in zip(range(0, 40, 6), itertools.cycle(EVENTS), strict=False)
        ]
        table = path.with_name(f"{subject}_task-hands_events.tsv")
        table.write_text("\n".join(events) + "\n")
    (root / "participants.tsv").write_text("\n".join(participants) + "\n")
    (root / "dataset_description.json").write_text('{"Name": "hands", "BIDSVersion": "1.8.0"}')


def nights(folder: Path) -> None:
    """Write three nights of 6 min as Sleep-EDF names them."""
    for number in range(3):
        record(folder / f"SC40{number}1E0-PSG.edf", 360)
        stages = ["W", "W", "1", "2", "3", "4", "R", "2", "?", "Movement time", "W", "W"]
        marks = [
            edfio.EdfAnnotation(30 * i, 30, s if len(s) > 1 else f"Sleep stage {s}")
            for i, s in enumerate(stages)
        ]
        edfio.Edf([], annotations=marks).write(folder / f"SC40{number}1EC-Hypnogram.edf")


def people_and_vigilance(folder: Path) -> None:
    """Write three people of 40 s, and a number per 8 s."""
    rng = np.random.default_rng(0)
    rows = []
    for name in ("p01.edf", "p02.edf", "p03.edf"):
        record(folder / name, 40)
        rows += [{"file": name, "begin": 8 * i, "vigilance": rng.uniform()} for i in range(5)]
    pd.DataFrame(rows).to_csv(folder / "vigilance.csv", index=False, float_format="%.3f")


def people_and_diagnoses(folder: Path) -> None:
    """Write six people of 12 s, and their diagnoses."""
    rows = ["file,diagnosis"]
    for number, diagnosis in enumerate(["healthy", "AD", "FTD"] * 2, start=1):
        record(folder / f"p{number:02d}.edf", 12)
        rows.append(f"p{number:02d},{diagnosis}")
    (folder / "diagnoses.csv").write_text("\n".join(rows) + "\n")


def people_and_days(folder: Path) -> None:
    """Write two people on three days each, with a cue every 5 s."""
    for person, day in itertools.product((1, 2), (1, 2, 3)):
        cues = [Annotation(5 * i, 4, ["left", "right"][i % 2]) for i in range(4)]
        record(folder / f"P{person}_day{day}.edf", 22, cues)


MADE: dict[str, Callable[[Path], None]] = {
    "events": bids_root,
    "hypnogram": nights,
    "participants": bids_root,
    "regression": people_and_vigilance,
    "table": people_and_diagnoses,
    "within-subject": people_and_days,
}


@pytest.fixture(scope="module", params=list(MADE))
def cut(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, TaskConfig, LabelledWindows, pd.DataFrame]:
    """Go from an example's file through a corpus to its windows."""
    name = request.param
    folder = tmp_path_factory.mktemp(name) / "data"
    folder.mkdir()
    MADE[name](folder)
    task = load_task(EXAMPLES[name], folder)
    data = find_data(task, EXAMPLES[name], folder)
    out = folder.parent / "corpus"
    prepare(data, out, preparation(task, MODEL), root=folder.parent, progress=False)
    corpus = open_corpus(out)
    return name, task, cut_windows(task, corpus), corpus.recordings


def test_every_example_is_run() -> None:
    assert set(EXAMPLES) == set(MADE)


def test_the_windows_of_the_examples(
    cut: tuple[str, TaskConfig, LabelledWindows, pd.DataFrame],
) -> None:
    name, task, windows, _ = cut
    counts = windows.table.groupby("label").size().to_dict()
    lost = windows.left_out.groupby("reason")["n_windows"].sum().to_dict()
    if name == "events":
        # events at 0 (too early), 6, 12 (other), 18, 24, 30 (other) and 36 s
        assert counts == {"left": 12, "right": 12}
        assert lost == {"it reaches beyond the recording": 6}
        assert sorted(set(windows.table["start"])) == [550, 1750, 2350, 3550]
    elif name == "hypnogram":
        stages = {"W": 4, "N1": 1, "N2": 2, "N3": 2, "R": 1}
        assert counts == {stage: 3 * n for stage, n in stages.items()}
        assert sum(lost.values()) == 6
        assert set(windows.table["subject"]) == {"SC400", "SC401", "SC402"}
    elif name == "participants":
        assert counts == {"control": 30, "patient": 20}
        assert lost == {"labels.classes leaves out 'excluded'": 10}
        assert (windows.table.groupby("subject")["label"].nunique() == 1).all()
    elif name == "regression":
        assert len(windows.table) == 15
        assert windows.table["label"].dtype == np.float64
        assert windows.table["label"].between(0, 1).all()
        assert task.target is not None
        assert task.target.name == "vigilance"
    elif name == "within-subject":
        assert counts == {"left": 12, "right": 12}
        assert set(windows.table["subject"]) == {"P1", "P2"}
    else:
        assert counts == {"healthy": 6, "dementia": 12}


def test_the_splits_of_the_examples(
    cut: tuple[str, TaskConfig, LabelledWindows, pd.DataFrame],
) -> None:
    name, task, windows, recordings = cut
    used = recordings[recordings["recording"].isin(windows.table["recording"])]
    folds = task.folds(
        [*used["subject"]],
        [*used["site"]],
        recordings=[*used["recording"]],
        validation_share=0.25,
        seed=0,
    )
    sizes = [(len(fold.train), len(fold.validation), len(fold.test)) for fold in folds]
    assert (
        sizes
        == {
            "events": [(4, 1, 1)] * 6,
            "hypnogram": [(1, 1, 1)] * 3,
            "participants": [(2, 1, 2), (2, 1, 2), (3, 1, 1)],
            "regression": [(1, 1, 1)] * 3,
            "table": [(3, 1, 2)],
            "within-subject": [(1, 1, 1)] * 6,
        }[name]
    )


def test_an_example_is_adapted_to(tmp_path: Path, tiny_checkpoint: Path) -> None:
    from berger.cli import main

    bids_root(tmp_path / "study")
    arguments = ["adapt", "probe", "--checkpoint", tiny_checkpoint, "--task", EXAMPLES["events"]]
    arguments += ["--data", tmp_path / "study", "--out", tmp_path / "run", "--quiet"]
    arguments += ["--device", "cpu", "--baselines", "[chance]", "--penalties", "[0.1]"]
    main([*map(str, arguments)])
    predictions = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    probe = predictions[predictions["model"] == "frozen probe"]
    assert sorted(set(probe["start"])) == [5.5, 17.5, 23.5, 35.5]
    assert len(probe) == 24
    assert (tmp_path / "run" / "checkpoint").is_dir()


def test_the_page_explains_every_field() -> None:
    page = (DOCS / "tasks.md").read_text()
    names = {name.split(".")[-1] for name in field_names(TaskConfig)}
    told = set(re.findall(r"\w+", " ".join(re.findall("`[^`]+`", page))))
    assert names - told == set()
    assert all(f"tasks/{file.name}" in page for file in EXAMPLES.values())
