"""HMC: nights with tables of stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks import load_task
from berger.tasks.readers import Told, hmc
from tests.tasks.catalogue.made import counts, lost, windows_of, write_edf, write_hypnogram

SIGNALS = ("EEG F4-M1", "EEG C4-M1", "EEG O2-M1", "EEG C3-M2", "EMG chin", "EOG E1-M2")
CHANNELS = dict.fromkeys((*SIGNALS, "EOG E2-M2", "ECG"), 256)
HEADER = "Date, Time, Recording onset, Duration, Annotation, Linked channel"
STAGES = ("W", "N1", "N2", "N2", "N3", "R", "W")


def table(*rows: str, header: str = HEADER) -> str:
    return "\n".join([header, *(f"2018-03-05, 22.41.10.000, {row}, " for row in rows)]) + "\n"


def night(stages: tuple[str, ...] = STAGES) -> list[str]:
    rows = [f"{30 * epoch}, 30, Sleep stage {stage}" for epoch, stage in enumerate(stages)]
    rows.insert(2, "40.5, 0, Lights off, EEG F4-A1")
    return [*rows, "190, 0, Lights on, EEG F4-A1"]


def miniature(folder: Path) -> Path:
    """Three nights of 7 epochs and one whose table goes on for one more."""
    folder = folder / "hmc-sleep-staging"
    for person in (1, 2, 3, 13):
        path = write_edf(folder / "recordings" / f"SN{person:03d}.edf", CHANNELS, 211)
        write_hypnogram(
            path.with_name(f"{path.stem}_sleepscoring.edf"), [Annotation(0, 30, "Sleep stage W")]
        )
        rows = night((*STAGES, "N2")) if person == 13 else night()
        path.with_name(f"{path.stem}_sleepscoring.txt").write_text(table(*rows))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("hmc"))


def test_epochs_of_the_tables(data: Path, tmp_path: Path) -> None:
    windows = windows_of("hmc@k-fold", data, 256, tmp_path / "c")
    each = {"W": 2, "N1": 1, "N2": 2, "N3": 1, "R": 1}
    assert counts(windows.table) == dict.fromkeys(["SN001", "SN002", "SN003", "SN013"], each)
    assert windows.table["start"].iloc[:3].tolist() == [0, 30 * 256, 60 * 256]
    assert lost(windows) == {
        "it reaches beyond the recording": 1,
        "labels.classes leaves out 'Lights off'": 4,
        "labels.classes leaves out 'Lights on'": 4,
    }


def test_the_time_between_lights(data: Path) -> None:
    task = load_task("hmc+lights@k-fold", data)
    assert task.labels.reader == "hmc-lights"
    told = hmc.read_between_lights(data / "recordings" / "SN001.edf", [])
    stages = [row.value for row in told if not row.value.startswith("Lights")]
    between = [f"Sleep stage {stage}" for stage in ("N2", "N2", "N3", "R")]
    assert stages == [hmc.OUTSIDE] * 2 + between + [hmc.OUTSIDE]
    assert {row.value for row in told} <= {*task.labels.classes}


def test_the_split_is_that_of_version_1_1() -> None:
    people = [f"SN{number:03d}" for number in range(1, 155) if number not in (14, 64, 135)]
    (fold,) = load_task("hmc@neurolm", Path()).folds(
        people, [None] * 151, validation_share=0.2, seed=0
    )
    assert fold.train == tuple(people[:100])
    assert fold.validation == tuple(people[100:125])
    assert fold.test == tuple(people[125:])
    with pytest.raises(BergerError, match=r"SN014 .*is in no part"):  # version 1.0.1
        load_task("hmc@neurolm", Path()).folds(
            [*people, "SN014", "SN064", "SN135"], [None] * 154, validation_share=0.2, seed=0
        )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (table("0, 30, Sleep stage W"), [Told(0, 30, "Sleep stage W")]),
        (
            f"\ufeff{HEADER}\r\nd, t, 30.5, 30, Sleep stage N2\r\n\r\n",
            [Told(30.5, 30, "Sleep stage N2")],
        ),
        (table("12, 0, Lights off, EEG F4-A1, more"), [Told(12, 0, "Lights off")]),
        (
            "Recording onset,Annotation,Duration\n60,Sleep stage R,30\n",
            [Told(60, 30, "Sleep stage R")],
        ),
    ],
)
def test_tables_as_they_may_be(tmp_path: Path, text: str, told: list[Told]) -> None:
    (tmp_path / "SN001_sleepscoring.txt").write_text(text, encoding="utf-8")
    assert hmc.read(tmp_path / "SN001.edf", []) == told


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, r"SN001_sleepscoring\.txt: cannot be read .* put the table of SN001\.edf there"),
        ("", "line 1 names no column 'Recording onset'"),
        (table(header="Date, Time, Recording onset, Length, Annotation"), "column 'Duration'"),
        (table("x, 30, Sleep stage W"), "line 2 has 'x' and '30' as onset and duration"),
        (table("0, 30, Sleep stage W", "30, -30, Sleep stage W"), "line 3 has '30' and '-30'"),
        (table("0"), "line 2 has '0' and '' as onset"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str | None, complaint: str) -> None:
    if text is not None:
        (tmp_path / "SN001_sleepscoring.txt").write_text(text)
    with pytest.raises(BergerError, match=complaint) as caught:
        hmc.read(tmp_path / "SN001.edf", [])
    assert "\n" not in str(caught.value)


def test_lights_that_are_not_told_are_refused(tmp_path: Path) -> None:
    (tmp_path / "SN001_sleepscoring.txt").write_text(table("9, 0, Lights on", "9, 0, Lights off"))
    with pytest.raises(BergerError, match="has no 'Lights off' with a 'Lights on' after it"):
        hmc.read_between_lights(tmp_path / "SN001.edf", [])


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "d" / "SN001.edf", CHANNELS, 31)
    beside = path.with_name("SN001_sleepscoring.txt")
    beside.write_text(table("0, 30, Sleep stage 2"))
    with pytest.raises(BergerError, match=r"'Sleep stage 2' is not in labels\.classes"):
        windows_of("hmc@k-fold", tmp_path / "d", 256, tmp_path / "c")
    beside.write_text(table("15, 30, Sleep stage W"))
    with pytest.raises(BergerError, match="no window of class W or N1 or N2 or N3 or R among 0"):
        windows_of("hmc@k-fold", tmp_path / "d", 256, tmp_path / "c")
    write_edf(path, {"EEG F4-M1": 256, "EEG C4-M1": 256}, 31)
    with pytest.raises(BergerError, match=r"SN001\.edf: lacks O2, C3; correct"):
        windows_of("hmc@k-fold", tmp_path / "d", 256, tmp_path / "c2")
