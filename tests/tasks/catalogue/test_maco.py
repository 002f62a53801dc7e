from __future__ import annotations

from pathlib import Path

import pytest

from berger.errors import BergerError
from berger.tasks import cut_windows, load_task
from tests.tasks.catalogue.made import write_edf
from tests.tasks.catalogue.matlab import prepared

CHANNELS = ("EEG1", "EEG2")
ROWS = {("a1_d1", 0): 3, ("a1_d1", 60): 0, ("a2_d1", 90.5): 4, ("a3_d1", 120): 1, ("a4_d2", 120): 2}


def miniature(folder: Path, more: str = "") -> Path:
    for animal in {name for name, _ in ROWS}:
        write_edf(folder / f"{animal}.edf", dict.fromkeys(CHANNELS, 256), 181)
    rows = [f"{name}.edf,{onset},{label}" for (name, onset), label in ROWS.items()]
    (folder / "labels.csv").write_text("\n".join(["recording,onset,label", *rows]) + "\n" + more)
    return folder


def test_every_row_is_a_minute(tmp_path: Path) -> None:
    miniature(tmp_path)
    task = load_task("maco", tmp_path)
    corpus = prepared(task, tmp_path / "corpus", sfreq=100, ch_names=CHANNELS)
    table = cut_windows(task, corpus).table
    found = {
        (Path(row.recording).stem, row.start / 100): int(row.label[-1])
        for row in table.itertuples()
    }
    assert found == ROWS
    assert set(corpus.recordings["species"]) == {"mouse"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("a2_d1.edf,0,5\n", "'5' is not in labels.classes"),
        ("a9_d1.edf,0,1\n", "'a9_d1.edf' in line 7 is no recording"),
    ],
)
def test_rows_that_cannot_be_are_refused(tmp_path: Path, more: str, message: str) -> None:
    miniature(tmp_path, more)
    task = load_task("maco", tmp_path)
    corpus = prepared(task, tmp_path / "corpus", sfreq=100, ch_names=CHANNELS)
    with pytest.raises(BergerError, match=message):
        cut_windows(task, corpus)
