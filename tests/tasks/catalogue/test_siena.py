"""Siena: lists of seizures typed by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from berger.errors import BergerError
from berger.tasks import load_task
from berger.tasks.readers import Told, siena
from tests.tasks.catalogue.made import (
    corpus_of,
    counts,
    unfiltered,
    windows_of,
    write_edf,
)

NINETEEN = "Fp1 F3 C3 P3 O1 F7 T3 T5 Fz Cz Pz FP2 F4 C4 P4 O2 F8 T4 T6".split()  # noqa: SIM905
ALL = [*NINETEEN, *"Fc1 Fc5 Cp1 Cp5 F9 FC2 Fc6 CP2 Cp6 F10".split()]  # noqa: SIM905
CHANNELS = {f"EEG {name}": 256 for name in ALL} | {"EKG EKG": 256, "1": 256, "2": 256, "SPO2": 256}
HEAD = (
    "PN99\r\nData Sampling Rate: 512 Hz\r\n****\r\nChannels in EDF files:\r\nChannel 1: Fp1  \r\n"
)


def edf(folder: Path, name: str, seconds: int, start: str) -> Path:
    return write_edf(folder / name[:4] / name, CHANNELS, seconds, start=start)


def entry(file: str, begin: str, start: str, end: str) -> str:
    return (
        f"\r\nSeizure n 1\r\nFile name: {file}  \r\nRegistration start time: {begin}\r\n"
        f"Registration end time: 01.00.00\r\nSeizure start time: {start}\r\n"
        f"Seizure end time: {end}\r\n"
    )


def listed(folder: Path, patient: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"Seizures-list-{patient}.txt").write_text(HEAD + text, encoding="latin-1")


def miniature(folder: Path) -> Path:
    """Four patients; a seizure that fills windows, ends at a border, and lies past midnight."""
    folder = folder / "siena-scalp-eeg-database-1.0.0"
    for name, seconds, start in (
        ("PN00-1.edf", 65, "19:39:33"),
        ("PN01-1.edf", 60, "23:59:40"),
        ("PN10-4.5.6.edf", 40, "12:11:21"),
        ("PN13-1.edf", 40, "08:00:00"),
    ):
        edf(folder, name, seconds, start)
    listed(folder / "PN00", "PN00", entry("PN00-1.edf", "19.39.33", "19.39.48", "19.40.17"))
    listed(folder / "PN01", "PN01", entry("PN01.edf", "23.59.40", "00.00.20", "00.00.25"))
    listed(folder / "PN10", "PN10", entry("PN10-4.5.6.edf", "12.11.21", "12.11.31", "12.11.41"))
    listed(folder / "PN13", "PN13", entry("PN13-1.edf", "08.00.00", "08.00.00", "08.00.01"))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("siena"))


def test_windows_that_a_seizure_touches_at_all(data: Path, tmp_path: Path) -> None:
    task = load_task("siena@specmoe", data)
    windows = windows_of("siena@specmoe", data, 64, tmp_path / "c")
    assert counts(windows.table) == {
        "PN00": {"seizure": 4, "no seizure": 2},  # from 15 to 44 s; 5 s are left over
        "PN01": {"seizure": 1, "no seizure": 5},  # from 40 to 45 s
        "PN10": {"seizure": 1, "no seizure": 3},  # exactly the second window
        "PN13": {"seizure": 1, "no seizure": 3},
    }
    seizures = windows.table.query("label == 'seizure'")
    assert (seizures["start"] // 64).tolist() == [10, 20, 30, 40, 40, 10, 0]
    people = ["PN00", "PN01", "PN10", "PN13"]
    (fold,) = task.folds(people, [None] * 4, validation_share=0.3, seed=0)
    assert fold.test == ("PN13",)


def test_variants(data: Path, tmp_path: Path) -> None:
    windows = windows_of("siena+without-pn10@loso", data, 64, tmp_path / "w")
    assert sorted(counts(windows.table)) == ["PN00", "PN01", "PN13"]
    task = load_task("siena+19-electrodes@loso", data)
    corpus = corpus_of(task, data, tmp_path / "n", unfiltered(64))
    assert len(corpus.recordings["ch_names"].iloc[0]) == 19
    assert load_task("siena+second-readings@loso", data).labels.reader == "siena-second"


# the list of the one, the seconds that must come of it
CASES = {
    "colons": (entry("PN99-1.edf", "10:00:00", "10:00:05", "10:00.09"), [(5, 4)]),
    "no blank after the colon": (
        "File name:PN99-1.edf\nRegistration start time:10.00.00\n"
        "Seizure start time:10.00.05\nSeizure end time:10.00.09\n",
        [(5, 4)],
    ),
    "a blank in the number": (entry("PN99-1.edf", "1 0.00.00", "10.00.05", "10.00.09"), [(5, 4)]),
    "no number in the file name": (entry("PN99.edf", "10.00.00", "10.00.05", "10.00.09"), [(5, 4)]),
    "a hyphen alone": (entry("PN99-.edf", "10.00.00", "10.00.05", "10.00.09"), [(5, 4)]),
    "one file for both, no 'Seizure'": (
        "File name: PN99.edf\nRegistration start time: 10.00.00\nSeizure n 1\n"
        "Start time: 10.00.05\nEnd time: 10.00.09\nSeizure n 2\n"
        "Start time: 10.00.20\nEnd time: 10.00.22\n",
        [(5, 4), (20, 2)],
    ),
    "no registration": (
        entry("PN99-1.edf", "10.00.00", "10.00.05", "10.00.09")
        + "Seizure n 2\nFile name: PN99-1.edf\nSeizure start time: 10.00.30\n"
        "Seizure end time: 10.00.31\n",
        [(5, 4), (30, 1)],
    ),
    "of another file": (
        entry("PN99-2.edf", "11.00.00", "11.00.05", "11.00.09")
        + entry("PN99-1.edf", "10.00.00", "10.00.05", "10.00.09"),
        [(5, 4)],
    ),
    "one onset by name": (
        entry("PN99-1.edf", "10.00.00", "10.00.05 (CLINICAL ONSET)", "10.00.09"),
        [(5, 4)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_lists_as_they_are(tmp_path: Path, name: str) -> None:
    text, expected = CASES[name]
    path = edf(tmp_path, "PN99-1.edf", 60, "10:00:00")
    listed(path.parent, "PN99", text)
    told = [Told(onset, duration, "seizure") for onset, duration in expected]
    assert siena.read(path, []) == siena.read_second(path, []) == told


def test_two_times_for_one(tmp_path: Path) -> None:
    path = edf(tmp_path, "PN10-3.edf", 60, "15:43:50")
    both = "15.43.53 (CLINICAL ONSET); 15.43.59 (ELECTRIC ONSET)"
    listed(path.parent, "PN10", entry("PN10-3.edf", "15.43.50", both, "15.44.04 opure 15.44.02"))
    assert siena.read(path, []) == [Told(3, 11, "seizure")]
    assert siena.read_second(path, []) == [Told(9, 3, "seizure")]


@pytest.mark.parametrize(
    ("name", "begin", "text", "told"),
    [
        ("PN06-1.edf", "04:21:22", entry("PNO6-1.edf", "04.21.22", "04.21.23", "04.21.25"), (1, 2)),
        (
            "PN00-3.edf",
            "18:28:20",
            entry("PN00-3.edf", "18.28.20", "18.28.29", "19.29.29"),
            (9, 60),
        ),
        (
            "PN14-3.edf",
            "19:17:45",
            entry("PN14-3.edf", "16.17.45", "19.18.05", "19.18.10"),
            (20, 5),
        ),
        (
            "PN05-3.edf",
            "06:01:13",
            entry("PN05-3.edf", "06.01.23", "06.01.33", "06.01.34"),
            (20, 1),
        ),
    ],
)
def test_what_was_mistyped(
    tmp_path: Path, name: str, begin: str, text: str, told: tuple[int, int]
) -> None:
    path = edf(tmp_path, name, 75, begin)
    listed(path.parent, name[:4], text)
    assert siena.read(path, []) == [Told(*told, "seizure")]


GOOD = entry("PN99-1.edf", "10.00.00", "10.00.05", "10.00.09")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, r"Seizures-list-PN99\.txt: cannot be read \(No such file"),
        ("", r"names no seizure of PN99-1\.edf, only of no file"),
        (GOOD.replace("-1", "-2"), r"names no seizure of PN99-1\.edf, only of PN99-2\.edf"),
        (GOOD.replace("10.00.00", "09.00.00"), r"line 9 has PN99-1\.edf begin at 09\.00\.00, but"),
        (GOOD.replace("10.00.09", "10.02.09"), r"line 11 has a seizure from 10\.00\.05 to 10\.02"),
        (GOOD.replace("10.00.09", "10.00.05"), r"line 11 has a seizure from 10\.00\.05 to 10\.00"),
        (
            GOOD.replace("10.00.05", "10.61.05"),
            r"line 11 has '10\.61\.05', which is no time of day",
        ),
        (GOOD.replace("10.00.05", "soon"), r"line 11 has 'soon', which is no time of day"),
        (GOOD.replace("Seizure end", "Seizure stop"), "line 12 is not understood: 'Seizure stop"),
        (GOOD.partition("Seizure end")[0], "line 11 begins a seizure that has no end"),
        (GOOD.replace("Seizure start time: 10.00.05", ""), "line 12 has .* without its start"),
        (GOOD.replace("Seizure end", "Seizure start"), "line 12 has .* without its end before"),
        ("Start time: 10.00.05\n", "line 6 has .* without its file before"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, text: str | None, complaint: str) -> None:
    path = edf(tmp_path, "PN99-1.edf", 60, "10:00:00")
    if text is not None:
        listed(path.parent, "PN99", text)
    with pytest.raises(BergerError, match=complaint) as caught:
        siena.read(path, [])
    assert "\n" not in str(caught.value)


def test_a_file_without_a_header_or_the_electrodes(tmp_path: Path) -> None:
    path = tmp_path / "PN99-1.edf"
    path.write_bytes(b"0       ")
    with pytest.raises(BergerError, match=r"PN99-1\.edf: its header does not say when it begins"):
        siena.read(path, [])
    few = {"EEG Fp1": 64, "EEG F3": 64}
    write_edf(tmp_path / "d" / "PN99" / "PN99-1.edf", few, 20)
    with pytest.raises(BergerError, match=r"PN99-1\.edf: lacks C3, P3"):
        windows_of("siena@loso", tmp_path / "d", 64, tmp_path / "c")
