"""Sleep-EDF: nights with their hypnograms, and half an hour of wake around them."""

from __future__ import annotations

from pathlib import Path

import pytest

from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks import load_task
from berger.tasks.readers import Told, sleep_edfx
from tests.tasks.catalogue.made import (
    counts,
    lost,
    windows_of,
    write_edf,
    write_hypnogram,
)

CASSETTE = {
    "EEG Fpz-Cz": 100,
    "EEG Pz-Oz": 100,
    "EOG horizontal": 100,
    "EMG submental": 1,
    "Event marker": 1,
}


def stages(*rows: tuple[float, str]) -> list[Annotation]:
    """Return stages that follow each other, by their seconds and texts."""
    marks, onset = [], 0.0
    for seconds, text in rows:
        text = text if text == "Movement time" else f"Sleep stage {text}"
        marks.append(Annotation(onset, seconds, text))
        onset += seconds
    return marks


NIGHT = stages(
    (2400, "W"),  # 600 s of it before the half hour
    (60, "1"),
    (90, "2"),
    (30, "3"),
    (60, "4"),
    (60, "R"),  # ends at 2700, the half hour at 4500
    (30, "Movement time"),
    (2100, "W"),  # from 2730
    (3000, "?"),  # from 4830, beyond the recording
)
SHORT = stages((90, "W"), (30, "1"), (60, "2"), (30, "4"), (30, "R"))


def miniature(folder: Path) -> Path:
    folder = folder / "sleep-edf-database-expanded-1.0.0"
    cassette, telemetry = folder / "sleep-cassette", folder / "sleep-telemetry"
    nights = (("SC4001E", "C", NIGHT), ("SC4002E", "C", SHORT), ("SC4191F", "P", SHORT))
    nights += (("SC4201F", "C", SHORT),)
    for name, scorer, marks in nights:
        seconds = 4860 if marks is NIGHT else 240
        write_edf(cassette / f"{name}0-PSG.edf", CASSETTE, seconds, start="16:13:00")
        write_hypnogram(cassette / f"{name}{scorer}-Hypnogram.edf", marks, start="16:13:00")
    write_edf(telemetry / "ST7011J0-PSG.edf", {"EEG Fpz-Cz": 100, "EEG Pz-Oz": 100}, 240)
    write_hypnogram(telemetry / "ST7011JP-Hypnogram.edf", SHORT)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("sleep"))


def test_nights_and_half_an_hour_around_them(data: Path, tmp_path: Path) -> None:
    windows = windows_of("sleep-edfx@loso", data, 100, tmp_path / "c")
    short = {"W": 3, "N1": 1, "N2": 2, "N3": 1, "R": 1}
    both = {"W": 60 + 59 + 3, "N1": 3, "N2": 5, "N3": 4, "R": 3}
    assert counts(windows.table) == {"SC400": both, "SC419": short, "SC420": short}
    assert lost(windows) == {
        "labels.classes leaves out 'Movement time'": 1,
        "labels.classes leaves out 'Sleep stage ?'": 100,
        "labels.classes leaves out 'wake more than 30 min from sleep'": 20 + 11,
    }
    first = windows.table.query("subject == 'SC400' and label == 'N1'")["start"].iloc[0]
    assert first == 2400 * 100


def test_all_wake_and_other_people(data: Path, tmp_path: Path) -> None:
    whole = windows_of("sleep-edfx+whole@loso", data, 100, tmp_path / "whole")
    assert counts(whole.table)["SC400"]["W"] == 80 + 70 + 3
    twenty = windows_of("sleep-edfx+sc20@loso", data, 100, tmp_path / "twenty")
    assert sorted(counts(twenty.table)) == ["SC400", "SC419"]
    drug = windows_of("sleep-edfx+telemetry@loso", data, 100, tmp_path / "drug")
    assert counts(drug.table) == {"ST701": {"W": 3, "N1": 1, "N2": 2, "N3": 1, "R": 1}}


def test_the_folds_of_eegpt() -> None:
    task = load_task("sleep-edfx@eegpt", Path())
    people = [f"SC4{number:02d}" for number in range(83)]
    folds = task.folds(people, [None] * 83, validation_share=0.2, seed=0)
    assert [len(fold.test) for fold in folds] == [6] * 10
    assert {len(fold.train) + len(fold.validation) for fold in folds} == {58}
    assert folds[0].test == ("SC400", "SC402", "SC404", "SC405", "SC406", "SC407")
    assert not {"SC476", "SC477", "SC481", "SC482"} & {name for fold in folds for name in fold.test}


@pytest.mark.parametrize(
    ("marks", "told"),
    [
        (stages((60, "W"), (30, "2")), [(0, 60, "Sleep stage W"), (60, 30, "Sleep stage 2")]),
        (
            stages((1860, "W"), (30, "R"), (30, "W")),
            [
                (0, 60, sleep_edfx.FAR_FROM_SLEEP),
                (60, 1800, "Sleep stage W"),
                (1860, 30, "Sleep stage R"),
                (1890, 30, "Sleep stage W"),
            ],
        ),
        (  # wake around noon, wholly far from sleep, and a night without any
            stages((30, "1"), (1800, "W"), (30, "?"), (60, "W")),
            [
                (0, 30, "Sleep stage 1"),
                (30, 1800, "Sleep stage W"),
                (1830, 30, "Sleep stage ?"),
                (1860, 60, sleep_edfx.FAR_FROM_SLEEP),
            ],
        ),
        (stages((300, "W")), [(0, 300, sleep_edfx.FAR_FROM_SLEEP)]),
    ],
)
def test_what_is_told_of_a_night(
    tmp_path: Path, marks: list[Annotation], told: list[tuple[float, float, str]]
) -> None:
    night = write_edf(tmp_path / "SC4001E0-PSG.edf", {"EEG Fpz-Cz": 1}, 2)
    write_hypnogram(tmp_path / "SC4001EC-Hypnogram.edf", marks)
    assert sleep_edfx.read(night, []) == [Told(*row) for row in told]


def test_what_does_not_fit_is_refused(tmp_path: Path, data: Path) -> None:
    night = write_edf(tmp_path / "d" / "SC4001E0-PSG.edf", CASSETTE, 60)
    with pytest.raises(BergerError, match=r"no file SC4001\?\?-Hypnogram\.edf lies beside it"):
        sleep_edfx.read(night, [])
    hypnogram = tmp_path / "d" / "SC4001EC-Hypnogram.edf"
    write_hypnogram(hypnogram, stages((30, "W")), start="01:00:00")
    with pytest.raises(BergerError, match=r"Hypnogram\.edf: begins at .* 01\.00\.00, but SC4001E0"):
        sleep_edfx.read(night, [])
    write_hypnogram(hypnogram, stages((30, "W"), (30, "5")))
    with pytest.raises(BergerError, match=r"'Sleep stage 5' is not in labels\.classes"):
        windows_of("sleep-edfx@loso", tmp_path / "d", 100, tmp_path / "c5")
    write_hypnogram(hypnogram, stages((15, "W"), (15, "1")))
    with pytest.raises(BergerError, match="no window of class W or N1 or N2 or N3 or R among 0"):
        windows_of("sleep-edfx@loso", tmp_path / "d", 100, tmp_path / "c6")
    write_edf(night, {"EEG Fpz-Cz": 100, "EOG horizontal": 100}, 60)
    with pytest.raises(BergerError, match=r"SC4001E0-PSG\.edf: lacks EEG Pz-Oz"):
        windows_of("sleep-edfx@loso", tmp_path / "d", 100, tmp_path / "c7")
