"""A corpus of TUEG without the people whom TUAB and TUEV are tested on, on miniature trees."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from berger import cli, open_corpus
from berger.configuration import load_config
from berger.corpus import Corpus, prepare, verify_corpus
from berger.corpus.exclusion import Exclusion
from berger.errors import BergerError
from berger.preprocessing import PreprocessingConfig
from berger.reports import build_report
from berger.tasks.exclusion import _letters, exclusions
from tests.tasks.catalogue.made import write_edf

LABELS = ["EEG FP1-REF", "EEG FP2-REF", "EEG C3-REF"]
CONFIG = PreprocessingConfig(sfreq=100, highpass=None, lowpass=40)
# three sessions of the evaluation people of TUAB, two of others
TUEG = [
    "000/aaaaaaaf/s001_2010_01_01/01_tcp_ar/aaaaaaaf_s001_t000.edf",
    "000/aaaaaaaf/s002_2012_05_06/02_tcp_le/aaaaaaaf_s002_t001.edf",
    "000/aaaaaaag/s001_2011_02_03/01_tcp_ar/aaaaaaag_s001_t000.edf",
    "000/aaaaaaab/s001_2010_03_03/01_tcp_ar/aaaaaaab_s001_t000.edf",
    "001/aaaaaahz/s001_2010_04_04/01_tcp_ar/aaaaaahz_s001_t000.edf",
]
EXCLUDED = TUEG[:3]
TUAB = [
    "edf/train/normal/01_tcp_ar/aaaaaaab_s001_t000.edf",
    "edf/eval/normal/01_tcp_ar/aaaaaaaf_s001_t000.edf",
    "edf/eval/abnormal/01_tcp_ar/aaaaaaag_s001_t000.edf",
]
# 5 and 6 are f and g
NUMBERED = [
    "edf/train/normal/01_tcp_ar/000/00000001/s001_2010_03_03/00000001_s001_t000.edf",
    "edf/eval/normal/01_tcp_ar/000/00000005/s002_2012_05_06/00000005_s002_t001.edf",
    "edf/eval/abnormal/01_tcp_ar/000/00000006/s001_2011_02_03/00000006_s001_t000.edf",
]


def tree(folder: Path, names: list[str]) -> Path:
    """Lay out empty files: who is excluded is known by names alone."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture(scope="module")
def tueg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tueg") / "v2.0.1" / "edf"
    for name in TUEG:
        write_edf(folder / name, dict.fromkeys(LABELS, 250), 5)
    return folder


@pytest.fixture
def tuab(tmp_path: Path) -> Path:
    return tree(tmp_path / "tuab" / "v3.0.1", TUAB)


@pytest.fixture
def tuev(tmp_path: Path) -> Path:
    return tree(
        tmp_path / "tuev",
        ["edf/train/aaaaaaar/aaaaaaar_00000001.edf", "edf/eval/000/bckg_000_a_.edf"],
    )


def people(*given: str, tueg: Path) -> list[tuple[str, ...]]:
    return [exclusion.people for exclusion in exclusions(given, [tueg], CONFIG)]


def rows(corpus: Corpus) -> dict[str, str]:
    table = corpus.recordings
    return {
        "/".join(name.split("/")[1:]): status
        for name, status in zip(table["recording"], table["status"], strict=True)
    }


def test_all_sessions_of_the_evaluation_people_are_left_out(
    tueg: Path, tuab: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    excluded = exclusions([f"tuab={tuab}"], [tueg], CONFIG, told.append)
    assert told[-1] == (
        "tuab: 2 of its 2 evaluation people are among the recordings and are left out."
    )
    assert "has 3 recordings and the data set 2,993; whoever is not there" in told[0]
    out = tmp_path / "corpus"
    summary = prepare([tueg], out, CONFIG, exclude=excluded, progress=False)
    assert (summary.ok, summary.rejected, summary.excluded, summary.failures) == (2, 3, 3, ())
    assert "3 of these are of evaluation people" in str(summary)
    corpus = open_corpus(out)
    assert corpus.subjects == ("aaaaaaab", "aaaaaahz")
    assert rows(corpus) == {name: "rejected" if name in EXCLUDED else "ok" for name in sorted(TUEG)}
    left = corpus.recordings[corpus.recordings["status"] == "rejected"]
    assert (left["n_times"] == 0).all()
    assert (
        left["reason"].str.endswith("one of the evaluation people of tuab, who are left out.").all()
    )
    (noted,) = corpus.manifest.excluded
    assert noted.people == ("aaaaaaaf", "aaaaaaag")
    assert noted.sha256 == hashlib.sha256(b"aaaaaaaf\naaaaaaag\n").hexdigest()
    assert corpus.manifest.is_as_written
    assert verify_corpus(out) == []

    # the same again is nothing to do; other lists are refused, and so is none
    assert prepare([tueg], out, CONFIG, exclude=excluded, progress=False).prepared == 0
    fewer = [Exclusion.listed("tuab@given", "a list", ["aaaaaaaf"])]
    for other in ([], fewer):
        with pytest.raises(BergerError, match=r"leaves out the evaluation people of tuab \(2\)"):
            prepare([tueg], out, CONFIG, exclude=other, progress=False)


def test_what_is_unfinished_cannot_go_on_with_others(
    tueg: Path, tuab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    excluded = exclusions([f"tuab={tuab}"], [tueg], CONFIG)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("berger.corpus.writer.write_tables_and_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare([tueg], tmp_path / "corpus", CONFIG, exclude=excluded, progress=False)
    with pytest.raises(BergerError, match=r"is now to leave out those of nobody"):
        prepare([tueg], tmp_path / "corpus", CONFIG, progress=False)
    prepare([tueg], tmp_path / "corpus", CONFIG, exclude=excluded, progress=False)
    prepare([tueg], tmp_path / "other", CONFIG, exclude=excluded, progress=False)
    one, other = (open_corpus(tmp_path / name).manifest.id for name in ("corpus", "other"))
    assert one == other


def test_whose_name_is_not_known_is_kept_out(tueg: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    for name in ("AAAAAAAF_s009_t000.edf", "aaaaaaab_s001_t000.edf", "of somebody.edf"):
        write_edf(folder / name, dict.fromkeys(LABELS, 250), 5)
    listed = tmp_path / "people.txt"
    listed.write_text("# of TUEV\naaaaaaaf\n\n")
    excluded = exclusions([f"tuev@given={listed}"], [folder], CONFIG)
    assert (excluded[0].how, excluded[0].people) == ("a list", ("aaaaaaaf",))
    summary = prepare([folder], tmp_path / "corpus", CONFIG, exclude=excluded, progress=False)
    assert rows(open_corpus(tmp_path / "corpus")) == {
        "AAAAAAAF_s009_t000.edf": "rejected",  # capitals do not save him
        "aaaaaaab_s001_t000.edf": "ok",
        "of somebody.edf": "rejected",
    }
    (failure,) = summary.failures
    assert "its name does not tell whether it is of one of the evaluation people" in failure.reason


def test_tuev_is_refused_without_a_list(tueg: Path, tuev: Path) -> None:
    with pytest.raises(
        BergerError, match="cannot be found by name, since the sessions of eval are"
    ):
        people(f"tuev@given={tuev}", tueg=tueg)
    told: list[str] = []
    (exclusion,) = exclusions(["tuev@given=unknown"], [tueg], CONFIG, told.append)
    assert (exclusion.people, exclusion.how) == ((), "unknown")
    assert told == ["tuev@given: its evaluation people are not known and are not left out."]


def test_numbers_become_letters_only_if_every_session_agrees(tueg: Path, tmp_path: Path) -> None:
    assert (_letters("00000000"), _letters("00000021")) == ("aaaaaaaa", "aaaaaaav")
    numbered = tree(tmp_path / "v2.0.0", NUMBERED)
    assert people(f"tuab={numbered}", tueg=tueg) == [("aaaaaaaf", "aaaaaaag")]
    day = NUMBERED[1].replace("2012_05_06", "2012_05_07")
    other_day = tree(tmp_path / "other", [NUMBERED[0], day, NUMBERED[2]])
    with pytest.raises(
        BergerError, match="calls people as 00000005, and the recordings as aaaaaaab"
    ):
        people(f"tuab={other_day}", tueg=tueg)
    unknown = NUMBERED[2].replace("00000006", "00000099")
    nobody = tree(tmp_path / "nobody", [*NUMBERED[:2], unknown])
    with pytest.raises(BergerError, match="use releases that call them alike"):
        people(f"tuab={nobody}", tueg=tueg)
    listed = tmp_path / "numbers.txt"
    listed.write_text("00000005\n")  # without sessions nothing can be compared
    with pytest.raises(BergerError, match="use releases that call them alike"):
        people(f"tuab={listed}", tueg=tueg)


def test_indices_of_sessions_are_no_people(tueg: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("000\n032\n")
    with pytest.raises(BergerError, match="calls people as 000, and the recordings as aaaaaaab"):
        people(f"tuev@given={listed}", tueg=tueg)


def test_a_part_of_tueg_may_have_none_of_them(tueg: Path, tuab: Path) -> None:
    told: list[str] = []
    exclusions([f"tuab={tuab}"], [tueg / "001"], CONFIG, told.append)
    assert "0 of its 2 evaluation people are among the recordings" in told[-1]


def test_test_people_of_any_fixed_split(tmp_path: Path) -> None:
    data = tmp_path / "own"
    task = data / "own.yaml"
    names = [f"sub-{number}_eeg.edf" for number in range(4)]
    tree(data, names)
    task.write_text(
        "name: own\nrecordings: ['*.edf']\nwindow_seconds: 1\n"
        "subject_pattern: '(?P<subject>sub-\\d)_'\n"
        "labels: {from: annotations, classes: {a: a, b: b}}\n"
        "splits:\n"
        "  lists: {by: fixed, train: [sub-0, sub-1], validation: [sub-2], test: [sub-3]}\n"
        "  turns: {by: subject}\n"
    )
    assert people(f"{task}@lists={data}", tueg=data) == [("sub-3",)]
    with pytest.raises(BergerError, match="own@turns: tests everybody in turn"):
        people(f"{task}@turns={data}", tueg=data)
    with pytest.raises(BergerError, match="say by which split, as own@lists="):
        people(f"{task}={data}", tueg=data)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("tuab", "must be TASK=FOLDER, TASK=LIST.txt or TASK=unknown"),
        ("=x", "must be TASK=FOLDER"),
        ("tuab=nowhere", "nowhere: is neither a folder nor a list of people"),
        ("tuba=unknown", "did you mean 'tuab'"),
    ],
)
def test_what_is_written_wrongly(tueg: Path, given: str, words: str) -> None:
    with pytest.raises(BergerError, match=words):
        people(given, tueg=tueg)


def test_lists_as_windows_writes_them(tueg: Path, tmp_path: Path) -> None:
    listed = tmp_path / "people.txt"
    listed.write_bytes(b"\xef\xbb\xbfaaaaaaaf\r\naaaaaaag\r\n")
    assert people(f"tuab={listed}", tueg=tueg) == [("aaaaaaaf", "aaaaaaag")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "but names nobody"),
        (b"aaaaaaaf, aaaaaaag\n", "but has 'aaaaaaaf, aaaaaaag'"),
        (b"\xff\xfe\n", "cannot be read as a list of people"),
    ],
)
def test_lists_that_are_none(tueg: Path, tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(BergerError, match=words):
        people(f"tuab={tmp_path / 'list'}", tueg=tueg)


def test_evaluation_folders_that_are_not_whole(tueg: Path, tmp_path: Path) -> None:
    only_train = tree(tmp_path / "train only", TUAB[:1])
    with pytest.raises(BergerError, match="has no recordings of the test part of tuab"):
        people(f"tuab={only_train}", tueg=tueg)
    nameless = tree(tmp_path / "x", [*TUAB, "edf/eval/normal/01_tcp_ar/somebody.edf"])
    with pytest.raises(BergerError, match=r"somebody\.edf: subject_pattern"):
        people(f"tuab={nameless}", tueg=tueg)


def test_by_one_option_and_told_in_the_report(
    tueg: Path, tuab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "corpus"
    settings = ["--sfreq", "100", "--highpass", "null", "--lowpass", "40", "--workers", "1"]
    excluding = ["--exclude", f"tuab={tuab}", "tuev@given=unknown"]
    cli.main(["prepare", str(tueg), *excluding, "--out", str(out), *settings])
    told = capsys.readouterr()
    assert "2 of its 2 evaluation people are among the recordings" in told.out
    assert told.err.count("left out") == 0  # what was asked for is no failure
    cli.main(["corpus", "info", str(out)])
    said = capsys.readouterr().out
    assert "left out    2 evaluation people of tuab" in said
    assert "left out    unknown evaluation people of tuev@given" in said
    page = build_report(out).read_text().replace("\xa0", " ")
    assert "The 2 people whom tuab is tested on, known by the names of its files" in page
    assert "were left out with all their recordings, 3 of 2 people here" in page
    assert "The people whom tuev@given is tested on are not known; they were not left out" in page
    manifest = json.loads((out / "manifest.json").read_text())
    assert [each["of"] for each in manifest["excluded"]] == ["tuab", "tuev@given"]


def test_the_shipped_preparation_knows_people_of_both_generations(tmp_path: Path) -> None:
    config = load_config(PreprocessingConfig, "tueg")
    paper = load_config(PreprocessingConfig, "specmoe")
    own = {"subject_pattern", "species"}
    assert config.model_dump(exclude=own) == paper.model_dump(exclude=own)
    old = tree(tmp_path, ["edf/01_tcp_ar/099/00009932/s004_2014_09_30/00009932_s004_t013.edf"])
    tuab = tree(tmp_path / "tuab", NUMBERED)
    (exclusion,) = exclusions([f"tuab={tuab}"], [old / "edf"], config)
    assert exclusion.people == ("00000005", "00000006")
