"""Facts of data sets: what is told of them, and whether a folder is as they say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from berger import telling
from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks import (
    FolderCheck,
    TaskConfig,
    catalogue,
    check_folder,
    cut_windows,
    load_task,
    part_of_it,
)
from tests.tasks.catalogue.made import corpus_of, write_edf
from tests.tasks.made import prepared, record, task_in

EYES = {"from": "annotations", "classes": {"open": "open", "closed": "closed"}}
FACTS = {
    "version": "1.0",
    "url": "https://nowhere.example",
    "subjects": 3,
    "recordings": 6,
    "sfreq": [100],
    "ch_names": ["Fz", "Cz"],
    "labels": {"open": 12, "closed": 6},
    "windows": [{"counts": {"all": 54}}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three people, two recordings each of 20 s: two stretches open (6 s), one closed (7 s)."""
    for person in range(3):
        for run in range(2):
            marks = [
                Annotation(0, 6, "open"),
                Annotation(6, 7, "closed"),
                Annotation(13, 6, "open"),
                Annotation(19, 1, "blink"),
            ]
            path = tmp_path / f"s{person}_run{run}.edf"
            record(path, 20, marks)
    return tmp_path


def eyes(folder: Path, **fields: Any) -> TaskConfig:
    pattern = r"(?P<subject>s\d)_run\d\.edf$"
    facts = {**FACTS, **fields.pop("facts", {})}
    return task_in(folder, EYES, subject_pattern=pattern, facts=facts, **fields)


def found(check: FolderCheck) -> dict[str, tuple[str, str, bool | None]]:
    rows = check.table.itertuples(index=False)
    return {row.fact: (row.expected, row.found, row.ok) for row in rows}


def wrong(check: FolderCheck) -> dict[str, tuple[str, str]]:
    """Return fact → expected and found of what differs."""
    return {fact: row[:2] for fact, row in found(check).items() if row[2] is False}


def test_a_folder_as_the_facts_say(folder: Path) -> None:
    check = check_folder(eyes(folder))
    assert check.holds
    assert check.difference == ""
    assert check.faults.empty
    assert found(check) == {
        "recordings": ("6", "6", True),
        "subjects": ("3", "3", True),
        "rates (Hz)": ("100", "100", True),
        "channels": ("Fz, Cz in every file", "all of them", True),
        "label open": ("12", "12", True),
        "label closed": ("6", "6", True),
        "windows, all": ("54", "54", True),
        "recordings or labels with a fault": ("0", "0", True),
    }


def test_as_many_windows_as_are_cut_of_a_corpus(folder: Path) -> None:
    task = eyes(folder)
    corpus = prepared(folder, folder / "corpus", subject_pattern=task.subject_pattern)
    cut = cut_windows(task, corpus)
    assert len(cut.table) == 54
    twice = eyes(folder, window_seconds=1.5, step_seconds=4, facts={"windows": []})
    assert len(cut_windows(twice, corpus).table) == 36
    assert found(check_folder(twice))["windows"] == ("", "36", None)
    longer = eyes(folder, window_seconds=7, facts={"windows": []})
    with pytest.raises(BergerError, match="no window of class open among 6 windows"):
        cut_windows(longer, corpus)
    check = check_folder(longer)
    assert wrong(check) == {"classes without windows": ("none", "open")}
    assert found(check)["windows"] == ("", "6", None)
    assert check.left_out.to_dict("records") == [
        {
            "n_recordings": 6,
            "n_windows": 12,
            "reason": "a labelled stretch is shorter than a window",
        }
    ]


@pytest.mark.parametrize(
    ("facts", "differs"),
    [
        ({"recordings": 7}, {"recordings": ("7", "6")}),
        ({"subjects": 4}, {"subjects": ("4", "3")}),
        ({"sfreq": [250, 128]}, {"rates (Hz)": ("128, 250", "100")}),
        ({"ch_names": ["Cz", "Pz"]}, {"channels": ("Cz, Pz in every file", "6 files without Pz")}),
        ({"labels": {"open": 13}}, {"label open": ("13", "12")}),
        ({"windows": [{"counts": {"all": 55}}]}, {"windows, all": ("55", "54")}),
        ({"unusable": 1}, {"recordings or labels with a fault": ("1", "0")}),
    ],
)
def test_each_difference_is_told(
    folder: Path, facts: dict[str, Any], differs: dict[str, tuple[str, str]]
) -> None:
    check = check_folder(eyes(folder, facts=facts))
    assert wrong(check) == differs
    assert not check.holds
    ((fact, (expected, there)),) = differs.items()
    assert f"differs from the facts of mine 1.0 ({fact}: {there}, not {expected})" in (
        check.difference
    )
    assert check.difference.endswith("is to be had from https://nowhere.example.")


def test_a_part_of_a_data_set_is_told_by_the_number_of_its_files(folder: Path) -> None:
    assert part_of_it(eyes(folder)) == ""
    (folder / "s2_run1.edf").unlink()
    task = eyes(folder)
    assert f"{folder}: has 5 of the 6 recordings of mine; see `berger tasks`" in part_of_it(task)
    assert wrong(check_folder(task)) == {
        "recordings": ("6", "5"),
        "label open": ("12", "10"),
        "label closed": ("6", "5"),
        "windows, all": ("54", "45"),
    }
    record(folder / "s0_run7.edf", 10)
    record(folder / "s0_run8.edf", 10)
    assert "has 7 recordings, not 6, of mine;" in part_of_it(eyes(folder))
    without = task_in(folder, EYES)
    assert part_of_it(without) == ""


def test_files_that_cannot_be_used_are_told_and_the_others_counted(folder: Path) -> None:
    damaged, lacking, overlapping = (folder / f"s{n}_run0.edf" for n in range(3))
    damaged.write_bytes(damaged.read_bytes()[:-7])
    write_edf(lacking, {"Fz": 100, "Pz": 100}, 20, [Annotation(0, 6, "open")])
    record(overlapping, 20, [Annotation(0, 6, "open"), Annotation(5, 6, "closed")])
    check = check_folder(eyes(folder, channels=["Fz", "Cz"]))
    reasons = dict(check.faults.itertuples(index=False))
    assert [*reasons] == [damaged.name, lacking.name, overlapping.name]
    assert "cut short: it holds" in reasons[damaged.name]
    assert "lacks Cz" in reasons[lacking.name]
    assert "labelled annotations overlap at 5 s" in reasons[overlapping.name]
    table = found(check)
    assert table["recordings or labels with a fault"] == ("0", "3", False)
    assert table["subjects"] == ("3", "3", True)  # by the names of the files
    assert table["channels"][1] == "1 file without Cz"
    assert table["label open"][1] == "8"  # labels of the file that lacks a channel count
    assert table["windows, all"][1] == "27"


def test_nothing_in_the_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BergerError, match=r"nothing there fits Subject\*\.edf; give the folder"):
        check_folder("eegmat", tmp_path)


def test_tables_of_all_recordings(folder: Path) -> None:
    labels = {
        "from": "table",
        "table": "labels.csv",
        "recording": "file",
        "column": "eyes",
        "classes": {"o": "open", "c": "closed"},
    }
    names = [path.name for path in sorted(folder.glob("*.edf"))]
    lines = [f"{name},{'oc'[number % 2]}" for number, name in enumerate(names)]
    facts = {"labels": {"open": 3, "closed": 3}}
    task = task_in(folder, labels, facts=facts)
    assert "labels.csv: cannot be read" in check_folder(task).faults["reason"][0]
    (folder / "labels.csv").write_text("\n".join(["file,eyes", *lines]))
    check = check_folder(task)
    assert check.holds
    assert found(check)["windows"] == ("", "60", None)
    (folder / "labels.csv").write_text("\n".join(["file,eyes", *lines[:-1], f"{names[-1]},x"]))
    assert "'x' is not in labels.classes" in check_folder(task).faults["reason"][0]


def test_windows_are_counted_at_a_rate_that_they_fit(folder: Path) -> None:
    task = eyes(folder, window_seconds=0.125, facts={"windows": []})  # 12.5 samples at 100 Hz
    check = check_folder(task)
    assert check.faults.empty
    assert found(check)["windows"][1] == str(6 * (48 + 56 + 48))


def test_epochs_are_counted_of_hypnograms(tmp_path: Path) -> None:
    marks = [Annotation(0, 90, "Sleep stage W"), Annotation(90, 60, "Sleep stage 2")]
    record(tmp_path / "s1.edf", 150, marks)
    record(tmp_path / "s2.edf", 150, marks)
    facts = {"labels": {"W": 6, "N2": 4, "N3": 0}}
    task = task_in(tmp_path, {"from": "hypnogram"}, window_seconds=30, facts=facts)
    check = check_folder(task)
    assert wrong(check) == {"classes without windows": ("none", "N1, N3, R")}
    assert found(check)["label W"] == ("6", "6", True)


# --- Counts of windows that others have published -------------------------------------------

ELECTRODES = "FP1 FP2 F3 F4 C3 C4 P3 P4 O1 O2 F7 F8 T3 T4 T5 T6"
LABELS = [f"EEG {name}-REF" for name in ELECTRODES.split()]


def with_counts(name: str, folder: Path, *counts: dict[str, Any]) -> TaskConfig:
    """Return a shipped task with other counts, and facts of a miniature."""
    task = load_task(name, folder)
    facts = task.facts.model_dump(mode="json")
    facts |= {"windows": list(counts), "subjects": None, "recordings": None, "labels": {}}
    return task.model_copy(update={"facts": type(task.facts).model_validate(facts)})


def test_windows_of_tuab(tmp_path: Path) -> None:
    for name, seconds in {
        "train/normal/01_tcp_ar/aaaaaaab_s001_t000.edf": 21,
        "train/normal/01_tcp_ar/aaaaaaac_s001_t000.edf": 20,
        "train/abnormal/01_tcp_ar/aaaaaaad_s001_t000.edf": 30,
        "train/abnormal/01_tcp_ar/aaaaaaae_s001_t000.edf": 9,
        "eval/abnormal/01_tcp_ar/aaaaaaag_s001_t000.edf": 20,
    }.items():
        write_edf(tmp_path / name, dict.fromkeys(LABELS, 250), seconds)
    count = {"split": "given", "counts": {"train + validation": 7, "test": 2}}
    check = check_folder(with_counts("tuab", tmp_path, count))
    assert check.holds
    assert found(check)["windows, train + validation (given)"] == ("7", "7", True)
    assert found(check)["windows, test (given)"] == ("2", "2", True)
    assert check.left_out["reason"].tolist() == ["the recording is shorter than a window"]
    count = {"split": "given", "counts": {"train + validation": 8, "test": 2}}
    check = check_folder(with_counts("tuab", tmp_path, count))
    assert wrong(check) == {"windows, train + validation (given)": ("8", "7")}
    lacking = [label for label in LABELS if "T5" not in label]
    write_edf(
        tmp_path / "train/normal/01_tcp_ar/aaaaaaac_s001_t000.edf",
        dict.fromkeys(lacking, 250),
        20,
    )
    check = check_folder(with_counts("tuab", tmp_path, count))
    assert "lacks P7 of `bipolar`" in check.faults["reason"][0]
    assert found(check)["windows, train + validation (given)"] == ("8", "5", False)
    shutil.rmtree(tmp_path / "eval")
    check = check_folder(with_counts("tuab", tmp_path, count))
    told = found(check)["windows by parts (given)"]
    assert told[0] == "train + validation 8, test 2"
    assert told[1].startswith("not told: abnormal/01_tcp_ar/aaaaaaad_s001_t000.edf: its name does")
    assert told[2] is False
    assert check.difference.endswith(
        "is to be had from https://isip.piconepress.com/projects/nedc/html/tuh_eeg/; apply: the "
        "form on that page, signed and mailed to help@nedcdata.org."
    )


def test_windows_of_tuev_and_of_which_version_they_are(tmp_path: Path) -> None:
    codes = iter([1, 2, 3, 4, 5, 6, 6, 1, 2])
    for name, onsets in {
        "train/aaaaaaar/aaaaaaar_00000001": (1, 5, 5),
        "train/aaaaaaas/aaaaaaas_00000001": (8, 9, 18),
        "train/aaaaaaat/aaaaaaat_00000001": (10,),
        "eval/000/bckg_000_a_": (3, 4),
    }.items():
        path = tmp_path / f"{name}.edf"
        write_edf(path, dict.fromkeys(LABELS, 250), 20)
        lines = [f"{n},{onset},{onset + 1},{next(codes)}" for n, onset in enumerate(onsets)]
        path.with_suffix(".rec").write_text("\n".join(lines))
    own = {"split": "cbramod", "version": "new", "beyond": True}
    new = own | {"counts": {"train": 6, "validation": 1, "test": 2}}
    old = new | {"version": "old", "counts": {"train": 4, "validation": 2, "test": 1}}
    check = check_folder(with_counts("tuev", tmp_path, old, new))
    assert check.holds
    assert found(check)["windows, validation (cbramod, new)"] == ("1", "1", True)
    assert check.left_out.to_dict("records") == [
        {"n_recordings": 2, "n_windows": 2, "reason": "it reaches beyond the recording"}
    ]
    # those that published programs fill up are not among the windows of the task
    check = check_folder(with_counts("tuev", tmp_path, new | {"beyond": False}))
    assert wrong(check) == {"windows, train (cbramod, new)": ("6", "4")}
    (tmp_path / "eval/000/bckg_000_a_.rec").write_text("0,3,4,7")
    (tmp_path / "train/aaaaaaat/aaaaaaat_00000001.rec").unlink()
    reasons = check_folder(with_counts("tuev", tmp_path, new)).faults["reason"].tolist()
    assert "bckg_000_a_.edf at 3 s: '7' is not in labels.classes" in reasons[0]
    assert "aaaaaaat_00000001.rec, which has its events, does not lie beside it" in reasons[1]


@pytest.mark.parametrize("name", ["tuab", "tuev"])
def test_published_windows_of_the_real_data(name: str, real_data: Path) -> None:
    folder = real_data / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: {name} is by agreement, and its folder has that name")
    check = check_folder(name, folder)
    told = check.table[check.table["fact"].str.startswith("windows, ")]
    assert len(told) >= 2
    assert told["ok"].all(), told.to_string()


# --- What is shipped ------------------------------------------------------------------------


@pytest.mark.parametrize("name", catalogue())
def test_every_task_and_variant_tells_its_facts(name: str) -> None:
    task = load_task(name)
    told = telling.describe_task(task)
    for fact in (task.title, task.licence, task.paper, task.source, task.facts.version):
        assert fact in told
    for split in task.splits:
        assert f"split       {split}: " in told
    assert told.count("\nvariant ") == len(task.variants)
    assert told.count("\npublished ") == len(task.published)
    assert task.facts.access == "open" or task.facts.apply in told
    assert task.facts.access == "private" or task.facts.url.startswith("https://")
    for variant in task.variants:
        telling.describe_task(load_task(f"{name}+{variant}"))


def test_a_line_for_every_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "hmc").mkdir()
    monkeypatch.setenv("BERGER_DATA", str(tmp_path))
    header, *lines = telling.describe_tasks().split("\n\n")[0].splitlines()
    assert header.split() == ["task", "question", "species", "people", "access", "data", "here"]
    assert [line.split()[0] for line in lines] == [*catalogue()]
    by_name = {line.split()[0]: line.split() for line in lines}
    assert by_name["hmc"][-4:] == ["human", "151", "open", "yes"]
    assert by_name["maco"][-4:] == ["mouse", "?", "private", "no"]
    monkeypatch.delenv("BERGER_DATA")
    assert "$BERGER_DATA, which is not set" in telling.describe_tasks()


@pytest.mark.parametrize(
    ("facts", "complaint"),
    [
        ({"windows": [{"counts": {"train": 3}}]}, "None is none of the splits"),
        ({"windows": [{"split": "mine", "counts": {"all": 3}}]}, "'mine' is none of the splits"),
        ({"labels": {"shut": 3}}, "'shut' is no class of labels.classes"),
        ({"windows": [{"counts": {"all": 0}}]}, "greater than 0"),
    ],
)
def test_facts_that_do_not_fit_the_task(
    tmp_path: Path, facts: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(BergerError, match=complaint):
        task_in(tmp_path, EYES, facts=facts)


# --- Real recordings ------------------------------------------------------------------------


def test_24_people_of_eegmat(real_data: Path) -> None:
    check = check_folder("eegmat", real_data / "eegmat")
    table = found(check)
    assert table["recordings"] == ("72", "48", False)
    assert table["subjects"] == ("36", "24", False)
    assert table["rates (Hz)"] == ("500", "500", True)
    assert table["channels"] == ("21 in every file", "all of them", True)
    assert table["label rest"] == ("36", "24", False)
    assert table["label arithmetic"] == ("36", "24", False)
    assert table["windows, all"] == ("1707", "1151", False)  # 863 of rest, 12 of each arithmetic
    assert check.faults.empty
    assert "recordings: 48, not 72; subjects: 24, not 36" in check.difference
    assert "has 48 of the 72 recordings" in part_of_it(load_task("eegmat", real_data / "eegmat"))


def test_one_person_of_the_motor_imagery(real_data: Path) -> None:
    folder = real_data / "eegmmidb"
    table = found(check_folder("physionet-mi", folder))
    counts = {name: int(table[f"label {name}"][1]) for name in ("left", "right", "fists", "feet")}
    assert counts == {"left": 23, "right": 22, "fists": 21, "feet": 24}
    assert table["windows"] == ("", "90", None)
    assert table["rates (Hz)"] == ("128, 160", "160", True)
    assert table["channels"][2]
    table = found(check_folder("eegmmidb", folder))
    assert table["recordings"] == ("327", "3", False)
    assert (table["label left"][1], table["label right"][1]) == ("23", "22")


def test_as_many_windows_of_the_real_data_as_are_cut(real_data: Path, tmp_path: Path) -> None:
    task = load_task("eegmmidb", real_data / "eegmmidb")
    corpus = corpus_of(task, real_data / "eegmmidb", tmp_path / "corpus")
    assert len(cut_windows(task, corpus).table) == 45
    assert found(check_folder(task))["windows"] == ("", "45", None)
