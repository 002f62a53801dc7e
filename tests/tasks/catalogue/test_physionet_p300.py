"""PhysioNet-P300, on a miniature of its tree at an eighth of its rate."""

from __future__ import annotations

from pathlib import Path

import pytest

from berger.corpus import Corpus
from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks import cut_windows, load_task
from berger.tasks.readers import READERS, Told
from tests.tasks.catalogue.made import corpus_of, folds_of, write_edf

ELECTRODES = load_task("physionet-p300").facts.ch_names
CHANNELS = dict.fromkeys((*ELECTRODES, "EARL", "EARR", "VEOGL", "HEOGR"), 256)
FLASHES = ["AGMSY5", "STUVWX", "YZ1234", "DJPV28"]  # U is in the second alone
PEOPLE = ["s01", "s02", "s08", "s11"]


def run_of(letter: str | None) -> list[Annotation]:
    told = [] if letter is None else [Annotation(0, 0, f"#Tgt{letter}_RC01_SOA150")]
    flashes = [
        Annotation(round(1.2 + 0.15 * place, 3), 0.1, letters)
        for place, letters in enumerate(FLASHES)
    ]
    return [*told, Annotation(1, 0, "#start"), *flashes, Annotation(3.9, 0, "#end")]


def miniature(folder: Path) -> Path:
    folder = folder / "erpbci-1.0.0"
    for person in PEOPLE:
        write_edf(folder / person / "rc01.edf", CHANNELS, 5, run_of("U"))
        write_edf(folder / person / "rc03.edf", CHANNELS, 5, run_of("5"))
    write_edf(folder / "s02" / "rc04.edf", CHANNELS, 5, run_of(None))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("p300"))


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return corpus_of(load_task("physionet-p300"), folder, folder.parent / "corpus")


def test_a_window_for_each_flash(folder: Path, corpus: Corpus) -> None:
    cut = cut_windows(load_task("physionet-p300", folder), corpus)
    found = [(row.recording, row.subject, row.start, row.label) for row in cut.table.itertuples()]
    assert found == [
        (f"{person}/{run}.edf", person, 110 + 15 * place, kind)
        for person in PEOPLE
        for run, target in (("rc01", 1), ("rc03", 0))
        for place in range(4)
        for kind in ("target" if place == target else "other",)
    ]
    assert cut.left_out.to_dict("records") == [
        {"recording": "s02/rc04.edf", "n_windows": 0, "reason": "nothing is told of it"}
    ]
    assert corpus.recordings["ch_names"][0] == list(ELECTRODES)


def test_splits(folder: Path, corpus: Corpus) -> None:
    loso = folds_of(load_task("physionet-p300@loso", folder), corpus)
    assert sorted(fold.test for fold in loso) == [(person,) for person in PEOPLE]


def test_the_nine_people_of_bendr() -> None:
    people = [f"s{number:02d}" for number in range(1, 13)]
    task = load_task("physionet-p300+bendr@bendr")
    made = task.folds(people, [None] * 12, validation_share=0.2, seed=0)
    nine = sorted({*people} - {"s08", "s10", "s12"})
    assert [fold.test for fold in made] == [(person,) for person in nine]
    for fold in made:
        assert sorted((*fold.train, *fold.validation, *fold.test)) == nine
        assert len(fold.validation) >= 1


@pytest.mark.parametrize(
    ("marks", "told"),
    [
        ([], []),
        ([("ABCDEF", 1.0)], []),  # whose letter is not said
        (
            [("#Tgt__RC12_SOA150", 0), ("56789_", 1), ("#end", 2)],
            [Told(1, 0.1, "target", False)],
        ),
        ([("#TgtA_RC02_SOA200", 0), ("56789_", 1)], [Told(1, 0.1, "other", False)]),
    ],
)
def test_flashes(marks: list[tuple[str, float]], told: list[Told]) -> None:
    annotations = [Annotation(onset, 0.1, text) for text, onset in marks]
    assert READERS["physionet-p300"](Path("s01/rc01.edf"), annotations) == told


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["#TgtA_RC01", "#TgtB_RC01"], "has the targets A and B, but a run is of one letter"),
        (["#TgtA_RC01", "ABCDE"], "the annotation 'ABCDE' at 1 s names no row or column of 6"),
        (["#TgtA_RC01", "AAAAAA"], "the annotation 'AAAAAA' at 1 s names no row or column"),
    ],
)
def test_annotations_that_are_wrong(texts: list[str], words: str) -> None:
    marks = [Annotation(float(second), 0.0, text) for second, text in enumerate(texts)]
    with pytest.raises(BergerError, match=rf"rc01\.edf: {words}"):
        READERS["physionet-p300"](Path("s01/rc01.edf"), marks)
