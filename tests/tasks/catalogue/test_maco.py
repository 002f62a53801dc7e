from __future__ import annotations

from pathlib import Path

import pytest

from berger.errors import BergerError
from berger.tasks import cut_windows, load_task
from tests.tasks.catalogue.matlab import prepared
from tests.tasks.made import record

ROWS = {("a1_d1", 0): 3, ("a1_d1", 60): 0, ("a2_d1", 90.5): 4, ("a3_d1", 120): 1, ("a4_d2", 120): 2}


def write(folder: Path, more: str = "") -> None:
    for animal in {name for name, _ in ROWS}:
        record(folder / f"{animal}.edf", 181)
    rows = [f"{name}.edf,{onset},{label}" for (name, onset), label in ROWS.items()]
    (folder / "labels.csv").write_text("\n".join(["recording,onset,label", *rows]) + "\n" + more)


def test_every_row_is_a_minute(tmp_path: Path) -> None:
    write(tmp_path)
    task = load_task("maco", tmp_path)
    corpus = prepared(task, tmp_path / "corpus", sfreq=100)
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
    write(tmp_path, more)
    task = load_task("maco", tmp_path)
    corpus = prepared(task, tmp_path / "corpus", sfreq=100)
    with pytest.raises(BergerError, match=message):
        cut_windows(task, corpus)
