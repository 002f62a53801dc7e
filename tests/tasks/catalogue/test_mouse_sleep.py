"""Sleep of mice: a BIDS root with states of 4-s epochs, from laboratories with other channels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from berger.errors import BergerError
from berger.tasks import cut_windows, load_task
from tests.tasks.catalogue.made import (
    corpus_of,
    counts,
    lost,
    unfiltered,
    windows_of,
    write_edf,
)

STATES = "1112223314"


def events(states: str) -> str:
    rows = [f"{4 * epoch}\t4\t{state}" for epoch, state in enumerate(states)]
    return "\n".join(["onset\tduration\tstage", *rows]) + "\n"


def mouse(
    root: Path,
    name: str,
    channels: list[str],
    *,
    runs: int = 1,
    seconds: int = 40,
    states: str = STATES,
) -> None:
    folder = root / name / "eeg"
    for run in range(1, runs + 1):
        stem = f"{name}_task-sleep_run-{run}"
        write_edf(folder / f"{stem}_eeg.edf", dict.fromkeys(channels, 128), seconds, unit="V")
        (folder / f"{stem}_events.tsv").write_text(events(states))
    rows = [f"{channel}\t{channel.rstrip('1234')}\tV" for channel in channels]
    (folder / f"{name}_task-sleep_channels.tsv").write_text("\n".join(["name\ttype\tunits", *rows]))


def miniature(folder: Path) -> Path:
    root = folder / "ds006366"
    mouse(root, "sub-001", ["EEG1", "EMG"], states=STATES + "2")  # one more than was recorded
    mouse(root, "sub-038", ["EEG1", "EEG2", "EMG"], seconds=46)  # and less
    mouse(root, "sub-070", ["EEG1", "EEG2", "EEG3", "EEG4", "EMG"], runs=2)
    mouse(root, "sub-087", ["EEG1", "EEG2", "EMG"])
    described = {"Name": "Mouse Sleep Staging Validation", "BIDSVersion": "1.10.0"}
    (root / "dataset_description.json").write_text(json.dumps(described))
    mice = "sub-001\tlab_1\nsub-038\tlab_3\nsub-070\tlab_2\nsub-087\tlab_5\n"
    (root / "participants.tsv").write_text("participant_id\tlab\n" + mice)
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("mouse"))


def test_states_of_mice(data: Path, tmp_path: Path) -> None:
    task = load_task("mouse-sleep@k-fold", data)
    corpus = corpus_of(task, data, tmp_path / "c", unfiltered(128))
    windows = cut_windows(task, corpus)
    each = {"WAKE": 4, "NREM": 3, "REM": 2}
    twice = {label: 2 * n for label, n in each.items()}
    expected = dict.fromkeys(["sub-001", "sub-038", "sub-087"], each) | {"sub-070": twice}
    assert counts(windows.table) == expected
    assert lost(windows) == {
        "labels.classes leaves out '4'": 5,
        "it reaches beyond the recording": 1,
    }
    assert task.hypnogram == ("WAKE", "REM", "NREM")
    assert {*corpus.recordings["species"]} == {"mouse"}
    assert {*map(tuple, corpus.recordings["ch_names"])} == {("EEG1", "EMG")}
    artefacts = load_task("mouse-sleep+artefacts@k-fold", data)
    assert artefacts.classes == ("WAKE", "NREM", "REM", "artefact")


def test_the_splits() -> None:
    mice = [f"sub-{number:03d}" for number in range(1, 93)]
    by_laboratory, by_quality = (
        load_task(f"mouse-sleep@{name}", Path()).folds(
            mice, [None] * 92, validation_share=0.2, seed=0
        )
        for name in ("laboratories", "quality")
    )
    assert [len(fold.test) for fold in by_laboratory] == [37, 32, 17, 6]
    assert sorted(name for fold in by_laboratory for name in fold.test) == mice
    assert [len(fold.test) for fold in by_quality] == [4, 6, 4, 6]
    assert {len(fold.train) + len(fold.validation) + len(fold.test) for fold in by_quality} == {20}


@pytest.mark.parametrize(
    ("states", "complaint"),
    [
        (events("125"), r"run-1_events\.tsv at 8 s: '5' is not in labels\.classes"),
        (events("12").replace("stage", "state"), r"has no column 'stage', only"),
        (events("12").replace("4\t4", "x\t4"), "'x'"),
        (None, r"no file \{stem\}_events\.tsv lies beside it"),
        (events("22"), "no window of class WAKE or REM among 2"),
    ],
)
def test_states_that_are_refused(tmp_path: Path, states: str | None, complaint: str) -> None:
    root = tmp_path / "ds"
    mouse(root, "sub-001", ["EEG1", "EMG"], seconds=12)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    path = root / "sub-001" / "eeg" / "sub-001_task-sleep_run-1_events.tsv"
    path.unlink() if states is None else path.write_text(states)
    with pytest.raises(BergerError, match=complaint) as caught:
        windows_of("mouse-sleep@k-fold", root, 128, tmp_path / "c")
    assert "\n" not in str(caught.value)


def test_data_that_were_not_fetched_and_other_channels(tmp_path: Path) -> None:
    root = tmp_path / "ds"
    mouse(root, "sub-001", ["EEG1", "EEG2"], seconds=12)
    with pytest.raises(BergerError, match=r"run-1_eeg\.edf: lacks EMG"):
        windows_of("mouse-sleep@k-fold", root, 128, tmp_path / "c1")
    path = root / "sub-001" / "eeg" / "sub-001_task-sleep_run-1_eeg.edf"
    path.unlink()
    path.symlink_to("../../.git/annex/objects/x.edf")  # as a clone without its data has it
    with pytest.raises(BergerError, match="a link to data that are not here; fetch them"):
        windows_of("mouse-sleep@k-fold", root, 128, tmp_path / "c2")
