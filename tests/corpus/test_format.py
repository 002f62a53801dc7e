from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from berger.corpus import Corpus, prepare, verify_corpus
from berger.corpus.format import LARGEST_VALUE, quantise, read_manifest
from berger.errors import BergerError
from berger.preprocessing import PreprocessingConfig


@given(
    arrays(np.float64, (2, 40), elements=st.floats(-1, 1)),
    st.floats(-6, 6),
    st.lists(st.integers(0, 40), min_size=2, max_size=6, unique=True),
    st.floats(-1e9, 1e9) | st.sampled_from([np.nan, np.inf]),
)
def test_no_usable_sample_is_off_by_a_tenth_of_a_microvolt(
    shape: np.ndarray, magnitude: float, edges: list[int], artefact: float
) -> None:
    stretches = list(zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False))
    usable = np.zeros(40, bool)
    for start, stop in stretches:
        usable[start:stop] = True
    signal = np.where(usable, shape * 10**magnitude, artefact)

    samples, scale, kept, n_dropped = quantise(signal, stretches)
    restored = samples.T * scale[:, None]
    assert restored.dtype == np.float32
    assert (scale > 0).all()
    for start, stop in kept:
        assert np.abs(restored - signal)[:, start:stop].max() < 0.1
    n_usable = sum(stop - start for start, stop in kept)
    assert n_usable + n_dropped == usable.sum()
    assert n_dropped == (usable & (np.abs(signal) > LARGEST_VALUE).any(0)).sum()


def test_an_artefact_in_a_rejected_stretch_costs_no_precision() -> None:
    signal = np.random.default_rng(0).normal(0, 20, (3, 1000))
    clean = quantise(signal, [(0, 400), (600, 1000)])[1]
    signal[1, 400:600] = 1e7
    samples, scale, _, _ = quantise(signal, [(0, 400), (600, 1000)])
    error = np.r_[(samples.T * scale[:, None] - signal)[:, :400].ravel()]
    np.testing.assert_array_equal(scale, clean)
    assert np.sqrt(np.mean(error**2)) < 0.001
    assert (samples[400:600, 1] == 32767).all()


def test_values_that_the_coarsest_step_cannot_hold_leave_the_stretches() -> None:
    signal = np.zeros((2, 100))
    signal[0, 30] = LARGEST_VALUE * 1.01
    signal[1, 60] = np.nan
    signal[1, 61] = -LARGEST_VALUE
    _, scale, stretches, n_dropped = quantise(signal, [(0, 50), (50, 90), (95, 100)])
    assert stretches == [(0, 30), (31, 50), (50, 60), (61, 90), (95, 100)]
    assert n_dropped == 2
    assert scale[1] == np.float32(0.199)


def test_the_manifest_names_its_content(corpus: Corpus) -> None:
    manifest = read_manifest(corpus.folder)
    assert manifest.id == manifest.identified().id
    other = manifest.model_copy(update={"shards": ()})
    assert other.identified().id != manifest.id
    with pytest.raises(ValueError, match="frozen"):
        manifest.id = ""  # type: ignore[misc]


def test_the_id_can_be_computed_as_the_format_says(
    raw: Path, tmp_path: Path, config: PreprocessingConfig
) -> None:
    page = Path(__file__).parents[2] / "docs" / "corpus-format.md"
    (command,) = re.findall(r"^    (.*sha256sum)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    species = 'ἵππος, "𝄞"\n'  # escaped, one with two code units
    config = config.model_copy(update={"species": species, "max_amplitude": 1e16})
    prepare([raw], tmp_path / "corpus", config, progress=False)
    told = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path / "corpus", capture_output=True, check=True
    )
    assert told.stdout.decode().split()[0] == read_manifest(tmp_path / "corpus").id


def test_a_manifest_from_before_an_option_was_added_is_as_written(corpus: Corpus) -> None:
    path = corpus.folder / "manifest.json"
    content = json.loads(path.read_text())
    del content["preprocessing"]["max_noise"], content["id"]
    text = json.dumps(content, sort_keys=True)
    content["id"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(content))
    assert verify_corpus(corpus.folder) == []
    content["preprocessing"]["sfreq"] = 129.0
    path.write_text(json.dumps(content))
    assert verify_corpus(corpus.folder) == [
        f"{corpus.folder}: the manifest has changed, its id is not that of its content."
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"version": 2},
            "from another format version.*prepare the recordings into another folder",
        ),
        ({"format": "zarr"}, "is not the manifest of a corpus"),
        ({"colour": "blue"}, "is damaged or from a newer Berger"),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(
    corpus: Corpus, change: dict[str, object], message: str
) -> None:
    path = corpus.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BergerError, match=message):
        read_manifest(corpus.folder)


def test_a_manifest_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BergerError, match="is damaged"):
        read_manifest(tmp_path)
