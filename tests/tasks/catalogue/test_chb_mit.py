"""CHB-MIT: summaries of a case's files, and one girl under two names."""

from __future__ import annotations

from pathlib import Path

import pytest

from berger.errors import BergerError
from berger.recordings import identify
from berger.tasks import load_task
from berger.tasks.readers import Told, chb_mit
from tests.tasks.catalogue.made import (
    corpus_of,
    counts,
    unfiltered,
    windows_of,
    write_edf,
)

TASK = load_task("chb-mit@loso", Path())
PAIRS = TASK.channels or ()
SIGNALS = [(name, 256) for name in (*PAIRS, "FZ-CZ", "CZ-PZ", "-", "T8-P8", "-", "ECG")]
HEAD = (
    "Data Sampling Rate: 256 Hz\n*****\n\nChannels in EDF Files:\n*****\nChannel 1: FP1-F7\n"
    "Channels changed:\nChannel 24: -\n\n"
)


def listed(name: str, *seizures: tuple[int, int], number: bool = False) -> str:
    text = f"File Name: {name}\nFile Start Time: 25:00:13\nFile End Time: 5:00:21\n"
    text += f"Number of Seizures in File: {len(seizures)}\n"
    for place, (start, end) in enumerate(seizures, start=1):
        which = f"Seizure {place}" if number else "Seizure"
        text += f"{which} Start Time:  \t {start} seconds\n{which} End Time: {end} seconds\n"
    return text + "\n"


def case(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}-summary.txt").write_text(HEAD + text)


def miniature(folder: Path) -> Path:
    """Five cases of four people."""
    folder = folder / "chb-mit-scalp-eeg-database-1.0.0"
    for name in ("chb01_03", "chb02_16", "chb02_16+", "chb17a_03", "chb21_01", "chb24_02"):
        write_edf(folder / name[:5] / f"{name}.edf", SIGNALS, 45)
    case(folder / "chb01", "chb01", listed("chb01_03.edf", (12, 31)))
    both = listed("chb02_16.edf") + listed("chb02_16+.edf", (20, 30))
    case(folder / "chb02", "chb02", both)
    case(folder / "chb17", "chb17", listed("chb17a_03.edf", (1, 2), (38, 45), number=True))
    case(folder / "chb21", "chb21", listed("chb21_01.edf"))
    case(folder / "chb24", "chb24", "File Name: chb24_01.edf\nNumber of Seizures in File: 0\n")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("chb"))


def test_windows_that_a_seizure_touches_at_all(data: Path, tmp_path: Path) -> None:
    windows = windows_of("chb-mit@loso", data, 64, tmp_path / "c")
    assert counts(windows.table) == {
        "1": {"seizure": 3, "no seizure": 1 + 4},  # chb01 from 12 to 31 s, and chb21
        "chb02": {"seizure": 1, "no seizure": 3 + 4},  # the third window of 16+, no other
        "chb17": {"seizure": 2, "no seizure": 2},
        "chb24": {"no seizure": 4},
    }
    assert windows.left_out.empty


def test_variants(data: Path, tmp_path: Path) -> None:
    windows = windows_of("chb-mit+chb24-listed@loso", data, 64, tmp_path / "l")
    assert sorted(counts(windows.table)) == ["1", "chb02", "chb17"]
    windows = windows_of("chb-mit+biot-paper@loso", data, 64, tmp_path / "p")
    assert sorted(counts(windows.table)) == ["1", "chb02", "chb17"]
    windows = windows_of("chb-mit+biot@loso", data, 64, tmp_path / "b")
    assert sorted(counts(windows.table)) == ["1", "chb02", "chb24"]
    assert not windows.table["recording"].str.contains("+", regex=False).any()
    task = load_task("chb-mit+18-channels@loso", data)
    corpus = corpus_of(task, data, tmp_path / "n", unfiltered(64))
    assert [*corpus.recordings["ch_names"].iloc[0]] == [*PAIRS, "FZ-CZ", "CZ-PZ"]


def test_the_girl_of_two_cases_is_one_person() -> None:
    cases = {f"chb{number:02d}": f"chb{number:02d}" for number in range(1, 25)}
    cases |= {"chb01": "1", "chb21": "1"}
    for name, subject in cases.items():
        for file in (f"{name}_05.edf", f"{name}a_05.edf", f"{name}_16+.edf"):
            path = Path("/data/chb01-copy") / name / file
            assert identify(path, None, TASK.subject_pattern).subject == subject
    assert len({*cases.values()}) == TASK.facts.subjects == 23


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("chb03_01.edf", listed("chb03_01.edf"), []),
        ("chb03_01.edf", listed("chb03_01.edf", (1, 5)), [(1, 4)]),
        ("chb06_01.edf", listed("chb06_01.edf", (1, 5), (8, 9), number=True), [(1, 4), (8, 1)]),
        (  # the second end has the number of the first
            "chb09_08.edf",
            listed("chb09_08.edf", (1, 5), (8, 9), number=True).replace("2 End", "1 End"),
            [(1, 4), (8, 1)],
        ),
        ("chb03_01.edf", listed("chb03_01.edf", (15, 40)), [(15, 25)]),  # goes on in the next file
        ("chb03_01.edf", listed("chb03_01+.edf", (1, 5)) + listed("chb03_01.edf"), []),
        ("chb24_02.edf", listed("chb24_01.edf", (1, 5)), []),
    ],
)
def test_summaries_as_they_are(
    tmp_path: Path, name: str, text: str, told: list[tuple[int, int]]
) -> None:
    path = write_edf(tmp_path / name, {"FP1-F7": 1}, 20)
    case(tmp_path, name[:5], text)
    assert chb_mit.read(path, []) == [Told(*row, "seizure") for row in told]


GOOD = listed("chb03_01.edf", (1, 5))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, r"chb03-summary\.txt: cannot be read .* put the summary of chb03 there"),
        (listed("chb03_02.edf"), r"does not list chb03_01\.edf"),
        (GOOD.replace("File: 1", "File: 2"), r"says that chb03_01\.edf has 2 seizures, but"),
        (GOOD.replace("End Time: 5", "Start Time: 5"), "has 1 seizures, but does not list"),
        (GOOD.replace("5 seconds", "1 seconds"), "line 14 has a seizure from 1 to 1 s"),
        (listed("chb03_01.edf", (20, 25)), r"from 20 to 25 s, which does not begin in chb03_01"),
        (
            GOOD.replace("5 seconds", "5 minutes"),
            "line 15 is not understood: 'Seizure End Time: 5 m",
        ),
    ],
)
def test_summaries_that_are_refused(tmp_path: Path, text: str | None, complaint: str) -> None:
    path = write_edf(tmp_path / "chb03_01.edf", {"FP1-F7": 1}, 20)
    if text is not None:
        case(tmp_path, "chb03", text)
    with pytest.raises(BergerError, match=complaint) as caught:
        chb_mit.read(path, [])
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BergerError, match=r"is not called like chb01_03\.edf"):
        chb_mit.read(tmp_path / "sub-01_eeg.edf", [])
    case(tmp_path, "chb03", listed("chb03_01.edf"))
    path = tmp_path / "chb03_01.edf"
    path.write_bytes(b"0      ")
    with pytest.raises(BergerError, match="its header does not say how long it is"):
        chb_mit.read(path, [])
    electrodes = write_edf(tmp_path / "d" / "chb12_28.edf", {"FP1": 64, "F7": 64}, 20)
    with pytest.raises(BergerError, match=r"chb12_28\.edf: lacks FP1-F7"):
        windows_of("chb-mit@loso", electrodes.parent, 64, tmp_path / "c")
