"""A model on new recordings: every window of every file that can be used."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
import torch

from berger import load_checkpoint
from berger.adaptation.probe import embed_windows
from berger.configuration import Config
from berger.corpus import open_corpus
from berger.errors import BergerError
from berger.inference import _cut_recordings, embed, predict
from berger.models import EEGModel, SpecHiNet
from berger.models.contract import InputContract
from berger.preprocessing import PreprocessingConfig, preprocess
from berger.recordings import Recording, read_recording
from berger.simulation import write_edf


@pytest.fixture
def mixed(tiny_recordings: Path, tmp_path: Path) -> Path:
    """Two good recordings, a truncated one, a damaged one and one that is too short."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in ("sub-01_eyes.edf", "sub-02_eyes.edf"):
        shutil.copy(tiny_recordings / name, folder)
    content = (folder / "sub-01_eyes.edf").read_bytes()
    (folder / "truncated.edf").write_bytes(content[: len(content) // 2])
    (folder / "damaged.edf").write_bytes(content.replace(b"\n", b"\r\n")[:3000])
    recording = read_recording(folder / "sub-02_eyes.edf")
    short = Recording(
        signal=recording.signal[:, :750],
        ch_names=recording.ch_names,
        sfreq=recording.sfreq,
        subject="short",
        subject_source="simulation",
        session=None,
        path=folder,
        original_ch_names=recording.ch_names,
        annotations=(),
    )
    write_edf(short, folder / "short.edf")
    return folder


BROKEN = ["mixed/damaged.edf", "mixed/short.edf", "mixed/truncated.edf"]


def assert_broken(failures: pd.DataFrame, table: Path) -> None:
    """The failures are told, and stand in a table."""
    assert list(failures.columns) == ["recording", "reason"]
    assert failures["recording"].tolist() == BROKEN
    for row in failures.itertuples():
        assert str(Path(row.recording).name) in row.reason
        assert "\n" not in row.reason
    pd.testing.assert_frame_equal(pd.read_csv(table), failures)


# embeddings


def test_a_row_of_features_a_window(
    tiny_checkpoint: Path, tiny_recordings: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    """The same as of the corpus that was made from these files."""
    failures = embed(tiny_checkpoint, [tiny_recordings], tmp_path / "f.parquet", quiet=True)
    assert failures.empty
    assert {path.name for path in tmp_path.iterdir()} == {"f.parquet"}
    table = pd.read_parquet(tmp_path / "f.parquet")
    assert list(table.columns) == [
        *("recording", "start", "usable"),
        *(f"feature_{index}" for index in range(8)),
    ]
    windows = open_corpus(tiny_corpus).windows(4)
    places = windows.table
    assert table["recording"].tolist() == places["recording"].tolist()
    assert (100 * table["start"]).round().tolist() == places["start"].tolist()
    encoder = load_checkpoint(tiny_checkpoint)
    assert isinstance(encoder, SpecHiNet)
    # the corpus rounds to counts
    np.testing.assert_allclose(
        table.filter(like="feature").to_numpy(),
        embed_windows(encoder, windows, "mean"),
        rtol=0.02,
        atol=0.02,
    )


def test_the_encoder_of_an_adapted_checkpoint_embeds_alike(
    tiny_checkpoint: Path, tiny_adaptation: Path, tiny_recordings: Path, tmp_path: Path
) -> None:
    for name, folder in (("a", tiny_checkpoint), ("b", tiny_adaptation / "checkpoint")):
        embed(folder, [tiny_recordings / "sub-02_eyes.edf"], tmp_path / name, quiet=True)
    one, other = (pd.read_parquet(tmp_path / name) for name in "ab")
    pd.testing.assert_frame_equal(one, other)


def test_embedding_goes_on_where_files_are_broken(
    tiny_checkpoint: Path, mixed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "features.parquet"
    failures = embed(tiny_checkpoint, [mixed], out, quiet=True)
    assert_broken(failures, out.parent / "features-failures.csv")
    assert set(pd.read_parquet(out)["recording"]) == {
        "mixed/sub-01_eyes.edf",
        "mixed/sub-02_eyes.edf",
    }
    # a later run without failures leaves no table of them
    embed(tiny_checkpoint, [mixed / "sub-01_eyes.edf"], out, quiet=True)
    assert {path.name for path in out.parent.iterdir()} == {"features.parquet"}


# predictions


def test_predictions_are_the_models(
    tiny_adaptation: Path, tiny_recordings: Path, tmp_path: Path
) -> None:
    checkpoint = tiny_adaptation / "checkpoint"
    assert predict(checkpoint, [tiny_recordings], tmp_path, quiet=True).empty
    table = pd.read_csv(tmp_path / "recordings" / "sub-01_eyes.edf.csv")
    assert list(table.columns) == [
        *("start", "duration", "usable", "prediction", "score_open", "score_closed")
    ]
    assert table["start"].tolist() == [4.0 * window for window in range(8)]
    assert set(table["duration"]) == {4.0}
    assert table["usable"].all()
    model = load_checkpoint(checkpoint)
    config = model.contract.preprocessing
    assert config is not None
    prepared = preprocess(read_recording(tiny_recordings / "sub-01_eyes.edf"), config)
    signal = torch.from_numpy(prepared.recording.signal).float().unfold(1, 400, 400).movedim(1, 0)
    with torch.inference_mode():
        scores = model(signal).softmax(-1).numpy()
    np.testing.assert_allclose(table[["score_open", "score_closed"]], scores, atol=1e-5)
    assert table["prediction"].tolist() == [("open", "closed")[i] for i in scores.argmax(1)]


def test_annotations_are_opened_by_mne(
    tiny_adaptation: Path, tiny_recordings: Path, tmp_path: Path
) -> None:
    file = tiny_recordings / "sub-02_eyes.edf"
    predict(tiny_adaptation / "checkpoint", [file], tmp_path, quiet=True)
    table = pd.read_csv(tmp_path / "sub-02_eyes.edf.csv")
    annotations = mne.read_annotations(tmp_path / "sub-02_eyes.edf_annotations.edf")
    np.testing.assert_allclose(annotations.onset, table["start"])
    np.testing.assert_allclose(annotations.duration, 4)
    assert annotations.description.tolist() == table["prediction"].tolist()
    raw = mne.io.read_raw_edf(file, verbose="ERROR")
    raw.set_annotations(annotations)
    assert len(raw.annotations) == len(table)


def test_predicting_goes_on_where_files_are_broken(
    tiny_adaptation: Path, mixed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    failures = predict(tiny_adaptation / "checkpoint", [mixed], out, quiet=True)
    assert_broken(failures, out / "failures.csv")
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        "failures.csv",
        "mixed/sub-01_eyes.edf.csv",
        "mixed/sub-01_eyes.edf_annotations.edf",
        "mixed/sub-02_eyes.edf.csv",
        "mixed/sub-02_eyes.edf_annotations.edf",
    }


def test_names_that_are_alike_do_not_write_over_each_other(
    tiny_adaptation: Path, tiny_recordings: Path, tmp_path: Path
) -> None:
    source = tiny_recordings / "sub-02_eyes.edf"
    for name in ("a_b.edf", "a_b.EDF", "a/b.edf"):
        target = tmp_path / "raw" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    predict(tiny_adaptation / "checkpoint", [tmp_path / "raw"], tmp_path / "out", quiet=True)
    assert len(list((tmp_path / "out").rglob("*.csv"))) == 3


def change_contract(checkpoint: Path, copy: Path, **changes: object) -> Path:
    shutil.copytree(checkpoint, copy)
    config = json.loads((copy / "config.json").read_text())
    config["contract"] |= changes
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def preparation(**changes: object) -> dict[str, object]:
    config = PreprocessingConfig(sfreq=100, highpass=1, lowpass=40, max_amplitude=None)
    return config.model_copy(update=changes).model_dump(mode="json")


def test_every_window_is_predicted_and_what_is_unusable_is_marked(
    tiny_adaptation: Path, tiny_recordings: Path, tmp_path: Path
) -> None:
    """Nothing is cut, whatever the corpus lost at its ends; artefacts are named, not hidden."""
    prepared = preparation(max_amplitude=60, cut_start=8.0, cut_end=8.0, min_duration=900)
    checkpoint = change_contract(
        tiny_adaptation / "checkpoint", tmp_path / "copy", preprocessing=prepared
    )
    assert predict(checkpoint, [tiny_recordings], tmp_path / "out", quiet=True).empty
    tables = {
        path: pd.read_csv(path, quoting=csv.QUOTE_MINIMAL)
        for path in sorted((tmp_path / "out").rglob("*.csv"))
    }
    assert all(len(table) == 8 for table in tables.values())
    usable = [bool(value) for table in tables.values() for value in table["usable"]]
    assert 0 < sum(usable) < len(usable)
    for path, table in tables.items():
        annotated = path.with_name(f"{path.stem}_annotations.edf")
        n_usable = int(table["usable"].sum())
        assert annotated.exists() == (n_usable > 0)
        if n_usable:
            annotations = mne.read_annotations(annotated)
            np.testing.assert_allclose(annotations.onset, table[table["usable"]]["start"])


def test_a_montage_that_the_model_is_made_for_is_picked_by_name(
    tiny_recordings: Path, tiny_adaptation: Path, tmp_path: Path
) -> None:
    """From a larger one in another order; a recording that lacks an electrode is a failure."""
    eight = ["O2", "O1", "P8", "P7", "C4", "C3", "Fp2", "Fp1"]
    checkpoint = change_contract(tiny_adaptation / "checkpoint", tmp_path / "a", ch_names=eight)
    both = [tiny_recordings / "sub-01_eyes.edf", tiny_recordings / "sub-02_eyes.edf"]
    assert predict(checkpoint, both, tmp_path / "out", quiet=True).empty
    frontal = change_contract(
        tiny_adaptation / "checkpoint", tmp_path / "b", ch_names=["Fz", "Fp1"]
    )
    failures = predict(frontal, both, tmp_path / "out2", quiet=True)
    assert failures["recording"].tolist() == ["sub-02_eyes.edf"]
    assert "Fz" in failures["reason"][0]


# what is refused


def test_where_nothing_can_be_used(tiny_adaptation: Path, mixed: Path, tmp_path: Path) -> None:
    for name in ("sub-01_eyes.edf", "sub-02_eyes.edf"):
        (mixed / name).unlink()
    for use in (embed, predict):
        with pytest.raises(BergerError, match=r"no recording could be used: .* \(and 2 more\)"):
            use(tiny_adaptation / "checkpoint", [mixed], tmp_path / "out", quiet=True)
        with pytest.raises(BergerError, match="no recordings given; name files or folders"):
            use(tiny_adaptation / "checkpoint", [], tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_classes_does_not_predict(
    tiny_checkpoint: Path, tiny_recordings: Path, tmp_path: Path
) -> None:
    with pytest.raises(BergerError, match="is not adapted to a task; run `berger adapt` first"):
        predict(tiny_checkpoint, [tiny_recordings], tmp_path / "out", quiet=True)


@pytest.mark.parametrize("missing", ["preprocessing", "window_seconds"])
def test_a_checkpoint_that_does_not_say_how_to_prepare(
    missing: str, tiny_checkpoint: Path, tiny_recordings: Path, tmp_path: Path
) -> None:
    copy = change_contract(tiny_checkpoint, tmp_path / "copy", **{missing: None})
    with pytest.raises(BergerError, match=r"copy: does not say how its recordings were prepared"):
        embed(copy, [tiny_recordings], tmp_path / "out", quiet=True)


def test_pairs_and_references_are_made_from_the_electrodes_of_new_recordings(
    tmp_path: Path,
) -> None:
    names = ("Fp1", "F7", "T7", "M1", "M2")
    signal = np.random.default_rng(0).normal(0, 10, (5, 40 * 200))
    recording = Recording(
        signal=signal,
        ch_names=names,
        sfreq=200.0,
        subject="S1",
        subject_source="simulation",
        session=None,
        path=tmp_path,
        original_ch_names=names,
    )
    write_edf(recording, tmp_path / "new.edf")
    for options, ch_names in (
        ({"bipolar": (("Fp1", "F7"), ("F7", "T3"))}, ("Fp1-F7", "F7-T7")),
        ({"reference": ("M1", "M2")}, ("Fp1", "F7", "T7")),
    ):
        contract = InputContract(
            sfreq=200,
            ch_names=ch_names,
            window_seconds=4,
            preprocessing=PreprocessingConfig(**options),
        )
        model = EEGModel(Config(), contract)
        failures: list[tuple[str, str]] = []
        cuts = list(_cut_recordings(model, tmp_path, [tmp_path / "new.edf"], failures, True))
        assert failures == []
        assert cuts[0].windows.shape == (10, len(ch_names), 800)
