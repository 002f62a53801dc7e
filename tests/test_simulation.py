from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.signal import welch

from berger.preprocessing import PreprocessingConfig, preprocess
from berger.recordings import Annotation, find_recordings, read_recording
from berger.simulation import (
    EIGHT,
    TEN_TWENTY,
    alternating_blocks,
    simulate_dataset,
    simulate_recording,
    write_edf,
)

BLOCKS = alternating_blocks(4, 15.0)


@pytest.fixture(scope="module")
def simulated():
    return simulate_recording("S1", BLOCKS, seed=3, artefacts=False)


def power(signal, sfreq):
    return welch(signal, sfreq, nperseg=round(4 * sfreq))


# --- Laws --------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_recording_and_another_seed_another():
    blocks = alternating_blocks(2, 5.0)
    first, truth = simulate_recording("A", blocks, ch_names=EIGHT, seed=[1, 2])
    again, same_truth = simulate_recording("B", blocks, ch_names=EIGHT, seed=[1, 2])
    other, _ = simulate_recording("A", blocks, ch_names=EIGHT, seed=[1, 3])
    np.testing.assert_array_equal(first.signal, again.signal)
    assert truth == same_truth
    assert np.abs(first.signal - other.signal).max() > 1


def test_numpys_global_generator_is_left_as_it_was():
    np.random.seed(5)  # noqa: NPY002 - the global generator is what is tested
    expected = np.random.rand(3)  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    simulate_recording("A", alternating_blocks(2, 3.0), ch_names=EIGHT)
    np.testing.assert_array_equal(np.random.rand(3), expected)  # noqa: NPY002


def test_neighbouring_electrodes_correlate_more_than_distant_ones(simulated):
    recording, _ = simulated
    index = {name: i for i, name in enumerate(recording.ch_names)}
    correlation = np.corrcoef(recording.signal)
    near = correlation[index["F3"], index["Fz"]]
    far = correlation[index["F3"], index["P4"]]
    assert near > far + 0.2
    assert near < 0.98


# --- The truth is in the signal ----------------------------------------------------------


def test_alpha_is_posterior_at_the_true_frequency_and_stronger_with_eyes_closed(simulated):
    recording, truth = simulated
    index = {name: i for i, name in enumerate(recording.ch_names)}
    sfreq = recording.sfreq
    block = round(15 * sfreq)
    parts = {"eyes open": [], "eyes closed": []}
    for number, mark in enumerate(recording.annotations):
        part = recording.signal[:, number * block : (number + 1) * block]
        parts[mark.description].append(power(part, sfreq)[1])
    frequencies = power(recording.signal, sfreq)[0]
    is_open, closed = (np.mean(parts[state], axis=0) for state in ("eyes open", "eyes closed"))
    alpha = np.abs(frequencies - truth.person.alpha_frequency) < 1.5
    posterior = [index["O1"], index["O2"]]
    assert closed[posterior][:, alpha].mean() > 1.5 * is_open[posterior][:, alpha].mean()
    frontal = [index["Fp1"], index["Fp2"]]
    assert closed[posterior][:, alpha].mean() > 3 * closed[frontal][:, alpha].mean()
    # The peak over the background, which falls.
    range_ = (frequencies > 7) & (frequencies < 14)
    flat = (closed[posterior].mean(axis=0) * frequencies**truth.person.exponent)[range_]
    assert frequencies[range_][flat.argmax()] == pytest.approx(
        truth.person.alpha_frequency, abs=0.6
    )


def test_the_background_has_the_true_exponent():
    for seed in range(3):
        recording, truth = simulate_recording(
            "S1", [Annotation(0.0, 60.0, "eyes open")], ch_names=("F8", "T8"), seed=seed,
            artefacts=False,
        )  # fmt: skip
        frequencies, spectrum = power(recording.signal, recording.sfreq)
        fitted = (frequencies > 2) & (frequencies < 30)
        fitted &= (frequencies < 4) | (frequencies > 13)  # beside the rhythms
        slope = np.polyfit(np.log(frequencies[fitted]), np.log(spectrum.mean(0)[fitted]), 1)[0]
        assert -slope == pytest.approx(truth.person.exponent, abs=0.3)


def test_artefacts_are_where_the_truth_says():
    clean, _ = simulate_recording("S1", BLOCKS, seed=3, artefacts=False)
    recording, truth = simulate_recording("S1", BLOCKS, seed=3)
    index = {name: i for i, name in enumerate(recording.ch_names)}
    added = recording.signal - clean.signal  # artefacts and mains
    sfreq = recording.sfreq
    seen = set()
    for mark in truth.artefacts:
        start = round(mark.onset * sfreq)
        part = np.abs(added[:, start : start + max(round(mark.duration * sfreq), 1)])
        if mark.description == "pop":
            assert part.max() > 500
        elif mark.description == "blink" and mark.onset + 0.5 < recording.duration:
            assert part[index["Fp1"]].max() > 90
            assert part[index["Fp1"]].max() > 3 * np.median(part[index["O1"]])
        seen.add(mark.description)
    assert seen == {"blink", "muscle", "pop"}
    frequencies, spectrum = power(added, sfreq)
    assert (spectrum[:, frequencies == 50.0] > 10 * spectrum[:, frequencies == 48.0]).mean() > 0.5


# --- Files -------------------------------------------------------------------------------


def test_what_is_written_is_what_is_read(tmp_path, simulated):
    recording, _ = simulated
    write_edf(recording, tmp_path / "S1_eyes.edf")
    read = read_recording(tmp_path / "S1_eyes.edf")
    assert read.ch_names == recording.ch_names
    assert read.annotations == recording.annotations
    assert (read.subject, read.session) == ("S1", "eyes")
    np.testing.assert_allclose(read.signal, recording.signal, atol=0.01)


def test_a_data_set_has_two_montages_and_a_table_of_truth(tmp_path):
    table = simulate_dataset(tmp_path / "raw", 3, seed=1, n_blocks=2, block_seconds=10.5)
    recordings = [read_recording(file) for _, file in find_recordings([tmp_path / "raw"])]
    assert [recording.ch_names for recording in recordings] == [TEN_TWENTY, EIGHT, TEN_TWENTY]
    assert [recording.sfreq for recording in recordings] == [256.0, 250.0, 256.0]
    assert [recording.subject for recording in recordings] == ["sub-01", "sub-02", "sub-03"]
    assert recordings[0].original_ch_names[:8][-1] == "EEG T3-REF"
    assert [channel.reason for channel in recordings[0].kept_out] == ["ECG", "annotations"]
    assert [mark.description for mark in recordings[0].annotations] == ["eyes open", "eyes closed"]
    assert [mark.description for mark in recordings[2].annotations] == ["eyes closed", "eyes open"]
    assert recordings[1].annotations[1].onset == 10.5
    assert recordings[1].duration == 21.0

    written = pd.read_csv(tmp_path / "raw" / "truth.csv")
    pd.testing.assert_frame_equal(written, table, atol=1e-4, check_dtype=False)
    assert written.file.tolist() == [recording.path.name for recording in recordings]
    assert written.subject.is_unique
    assert (written.n_pop >= 1).all()

    # The first people are the same however many follow.
    fewer = simulate_dataset(tmp_path / "fewer", 1, seed=1, n_blocks=2, block_seconds=10.5)
    pd.testing.assert_frame_equal(fewer, table[:1])
    first = read_recording(tmp_path / "fewer" / "sub-01_eyes.edf")
    np.testing.assert_array_equal(first.signal, recordings[0].signal)


def test_most_of_a_simulated_recording_is_usable():
    recording, _ = simulate_recording("S1", BLOCKS, seed=4)
    prepared = preprocess(recording, PreprocessingConfig(notch=50.0))
    usable = sum(stop - start for start, stop in prepared.stretches) / 200 / recording.duration
    assert 0.8 < usable < 1.0
    assert prepared.dropped["amplitude"] > 0


def test_unknown_states_and_electrodes_are_refused():
    with pytest.raises(ValueError, match="asleep"):
        simulate_recording("S1", [Annotation(0.0, 5.0, "asleep")])
    with pytest.raises(ValueError, match="EMG"):
        simulate_recording("S1", BLOCKS, ch_names=["Cz", "EMG"])
