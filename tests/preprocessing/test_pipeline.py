from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from berger.preprocessing import PreprocessingConfig, RejectedError, preprocess
from berger.recordings import Annotation, Gap, KeptOut
from tests.preprocessing.made import record, sinusoid

RATES = [(200, 200), (256, 200), (250, 200), (500, 200), (512, 200), (305, 200), (160, 160)]
NO_FILTER = {"highpass": None, "lowpass": None, "max_amplitude": None}


def amplitude_and_phase(signal, frequency, sfreq):
    """Fit a sinusoid to all but the ends, 12 s each."""
    times = np.arange(len(signal)) / sfreq
    middle = slice(round(12 * sfreq), len(signal) - round(12 * sfreq))
    angle = 2 * np.pi * frequency * times[middle]
    cosine, sine = np.linalg.lstsq(
        np.stack([np.cos(angle), -np.sin(angle)], axis=1), signal[middle], rcond=None
    )[0]
    return np.hypot(cosine, sine), np.arctan2(sine, cosine)


# --- Laws: the signal --------------------------------------------------------------------


@pytest.mark.parametrize(("sfreq", "new_sfreq"), RATES)
@pytest.mark.parametrize("frequency", [1.0, 10.0, 40.0, 70.0])
def test_a_sinusoid_in_the_pass_band_keeps_amplitude_and_phase(sfreq, new_sfreq, frequency):
    config = PreprocessingConfig(sfreq=new_sfreq, notch=50.0)
    result = preprocess(record(sinusoid(frequency, sfreq), sfreq), config).recording
    assert result.sfreq == new_sfreq
    amplitude, phase = amplitude_and_phase(result.signal[0], frequency, new_sfreq)
    assert amplitude == pytest.approx(20.0, rel=0.01)
    assert phase == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(("sfreq", "new_sfreq"), RATES[1:-1])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.88])
def test_resampling_alone_preserves_what_the_new_rate_can_hold(sfreq, new_sfreq, share):
    frequency = share * new_sfreq / 2
    config = PreprocessingConfig(sfreq=new_sfreq, **NO_FILTER)
    result = preprocess(record(sinusoid(frequency, sfreq), sfreq), config).recording
    expected = sinusoid(frequency, new_sfreq)
    middle = slice(12 * new_sfreq, 28 * new_sfreq)
    error = result.signal[0, middle] - expected[: result.signal.shape[1]][middle]
    assert np.abs(error).max() < 0.01 * 20.0


@pytest.mark.parametrize(("sfreq", "new_sfreq"), RATES[1:-1])
def test_resampling_removes_what_the_new_rate_cannot_hold(sfreq, new_sfreq):
    # Just above the new Nyquist frequency, which would be mirrored into the band.
    frequency = min(1.02 * new_sfreq / 2, 0.49 * sfreq)
    config = PreprocessingConfig(sfreq=new_sfreq, **NO_FILTER)
    result = preprocess(record(sinusoid(frequency, sfreq), sfreq), config).recording
    assert np.abs(result.signal[0, 2000:-2000]).max() < 20.0 / 10 ** (50 / 20)


@pytest.mark.parametrize("mains", [50.0, 60.0])
def test_the_notch_removes_its_frequency_and_harmonics_and_little_else(mains):
    config = PreprocessingConfig(sfreq=256, lowpass=120.0, notch=mains)
    for frequency, decibels in ((mains, 30), (2 * mains, 30), (mains - 3, 0.1), (mains + 3, 0.1)):
        result = preprocess(record(sinusoid(frequency, 256), 256), config).recording
        amplitude, _ = amplitude_and_phase(result.signal[0], frequency, 256)
        loss = -20 * np.log10(amplitude / 20.0)
        assert loss >= 30 if decibels == 30 else loss < decibels


def test_the_band_pass_removes_what_lies_outside():
    config = PreprocessingConfig(sfreq=200, highpass=1.0, lowpass=40.0)
    for frequency in (0.05, 52.0, 90.0, 130.0):
        result = preprocess(record(sinusoid(frequency, 500), 500), config).recording
        assert np.abs(result.signal[0, 2400:-2400]).max() < 20.0 / 10 ** (30 / 20)


def test_the_average_reference_sums_to_zero_and_only_over_the_channels_kept():
    rng = np.random.default_rng(0)
    recording = record(rng.normal(0, 10, (5, 12800)), 256)
    config = PreprocessingConfig(reference="average", ch_names=("Oz", "Fz", "Cz"))
    result = preprocess(recording, config).recording
    assert result.ch_names == ("Oz", "Fz", "Cz")
    np.testing.assert_allclose(result.signal.sum(axis=0), 0.0, atol=1e-9)
    assert result.signal.std() > 1


def test_channels_do_not_influence_each_other():
    rng = np.random.default_rng(0)
    signal = rng.normal(0, 10, (4, 12800))
    config = PreprocessingConfig(notch=50.0)
    whole = preprocess(record(signal, 256), config).recording.signal
    turned = preprocess(record(signal[::-1], 256), config).recording.signal
    np.testing.assert_allclose(whole[::-1], turned, atol=1e-9)


def test_the_recording_given_is_left_as_it_is():
    rng = np.random.default_rng(0)
    recording = record(rng.normal(0, 10, (3, 12800)), 256)
    before = recording.signal.copy()
    preprocess(recording, PreprocessingConfig(notch=50.0, reference="average", cut_start=2.0))
    np.testing.assert_array_equal(recording.signal, before)


# --- Laws: the time ----------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    sfreq=st.sampled_from([200.0, 250.0, 256.0, 304.7, 500.0, 512.0]),
    n_times=st.integers(8000, 20000),
    cut_start=st.floats(0, 5),
    cut_end=st.floats(0, 5),
    pops=st.lists(st.floats(0, 1), max_size=20),
)
def test_seconds_by_cause_add_up(sfreq, n_times, cut_start, cut_end, pops):
    signal = np.random.default_rng(0).normal(0, 1, (2, n_times))
    for pop in pops:
        signal[1, int(pop * (n_times - 1))] = 5000.0
    recording = record(signal, sfreq)
    config = PreprocessingConfig(highpass=1.0, cut_start=cut_start, cut_end=cut_end)
    try:
        prepared = preprocess(recording, config)
    except RejectedError as rejected:
        assert "nothing is left" in str(rejected)  # noqa: PT017 - either outcome is right
        return
    kept = sum(stop - start for start, stop in prepared.stretches) / config.sfreq
    assert kept + sum(prepared.dropped.values()) == pytest.approx(recording.duration)
    assert min(prepared.dropped.values(), default=0.0) >= 0
    end = 0
    for start, stop in prepared.stretches:
        assert end <= start < stop <= prepared.recording.signal.shape[1]
        assert stop - start >= config.sfreq
        assert np.abs(prepared.recording.signal[:, start:stop]).max() < config.max_amplitude
        end = stop + 1
    assert cut_start - 1e-6 <= prepared.offset < cut_start + 1 / config.sfreq + 1e-6


def test_annotations_keep_pointing_at_the_same_signal():
    signal = np.zeros((1, 500 * 60))
    signal[0, 500 * 20] = 1000.0
    marks = (Annotation(20.0, 1.0, "pulse"), Annotation(1.0, 0.5, "in the part cut away"))
    config = PreprocessingConfig(cut_start=5.003, max_amplitude=None)
    result = preprocess(record(signal, 500, annotations=marks), config)
    assert result.offset == pytest.approx(5.005)
    pulse, cut = result.recording.annotations
    assert np.argmax(result.recording.signal[0]) / 200 == pytest.approx(pulse.onset)
    assert cut.onset == pytest.approx(1.0 - 5.005)


def test_amplitude_splits_into_stretches_of_a_second_at_least():
    signal = np.zeros((2, 200 * 10))
    signal[0, 400:500] = 120.0  # 2.0 to 2.5 s
    signal[1, 600] = -100.0  # 3.0 s
    config = PreprocessingConfig(**(NO_FILTER | {"max_amplitude": 100.0}))
    prepared = preprocess(record(signal), config)
    assert prepared.stretches == ((0, 400), (601, 2000))
    assert prepared.dropped == pytest.approx({"amplitude": 0.505, "stretch under 1 s": 0.5})
    assert prepared.history[-1] == (
        "Kept 9.0 of 10.0 s in 2 stretches; dropped amplitude 0.5 s, stretch under 1 s 0.5 s."
    )


@pytest.mark.parametrize("sfreq", [200, 256])
@pytest.mark.parametrize("frequency", [5.0, 40.0, 70.0])
def test_upsampling_gives_what_a_faster_device_had_recorded(sfreq, frequency):
    config = PreprocessingConfig(sfreq=sfreq, highpass=None, upsample=True)
    result = preprocess(record(sinusoid(frequency, 160), 160), config)
    expected = sinusoid(frequency, sfreq)
    ends = slice(2 * sfreq, -2 * sfreq)
    assert result.recording.signal.shape[1] == len(expected)
    assert np.abs(result.recording.signal[0] - expected)[ends].max() < 0.001 * 20
    assert any("Resampled from 160" in sentence for sentence in result.history)


def test_upsampling_adds_no_frequencies():
    noise = np.random.default_rng(0).normal(0, 10, (1, 160 * 60))
    config = PreprocessingConfig(sfreq=256, highpass=None, upsample=True)
    signal = preprocess(record(noise, 160), config).recording.signal[0, 512:-512]
    power = np.abs(np.fft.rfft(signal * np.hanning(len(signal)))) ** 2
    frequencies = np.fft.rfftfreq(len(signal), 1 / 256)
    beyond = power[frequencies > 80].mean() / power[frequencies < 70].mean()
    assert 10 * np.log10(beyond) < -50


# --- What is refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sfreq", "seconds", "options", "message"),
    [
        (125, 60, {}, r"S1\.edf: was sampled at 125 Hz and would be upsampled to 200 Hz"),
        (160, 60, {}, r"below half of that, or upsample: true, which the low-pass of 75 Hz allows"),
        (125, 60, {"upsample": True}, r"125 Hz and would be upsampled .* below half of that\.$"),
        (128, 30, {"sfreq": 128, "lowpass": 63.9, "highpass": None}, r"the 33\.\d s of the filter"),
        (200, 8, {}, r"lasts 8\.0 s, less than the 11\.0 s of the filter"),
        (200, 60, {"min_duration": 61.0}, r"lasts 60\.0 s, less than min_duration, 61 s"),
        (200, 60, {"cut_start": 30, "cut_end": 30}, r"nothing is left of 60\.0 s \(first and"),
        (200, 60, {"ch_names": ("Cz", "T3", "X1")}, r"lacks T3, X1 of `ch_names`; it has Fz, Cz"),
        (200, 60, {"max_amplitude": 0.001}, r"nothing is left of 60\.0 s \(amplitude"),
    ],
)
def test_recordings_that_are_rejected(sfreq, seconds, options, message):
    signal = np.stack([sinusoid(10, sfreq, seconds), sinusoid(5, sfreq, seconds)])
    with pytest.raises(RejectedError, match=message):
        preprocess(record(signal, sfreq), PreprocessingConfig(**options))


def test_a_channel_without_any_finite_value_is_named():
    signal = np.stack([sinusoid(10, 200), np.full(8000, np.nan)])
    with pytest.raises(RejectedError, match=r"no sample at which .*infinite in Cz\)"):
        preprocess(record(signal), PreprocessingConfig())


@pytest.mark.parametrize(("factor", "word"), [(1e6, "much"), (1e3, "much"), (1e-3, "little")])
def test_an_implausible_amplitude_is_rejected_unless_the_unit_is_given(factor, word):
    recording = record(factor * np.stack([sinusoid(10, 200), sinusoid(5, 200)]))
    options = {"max_amplitude": None}
    with pytest.raises(RejectedError, match=rf"too {word} for the unit it declares; set `unit`"):
        preprocess(recording, PreprocessingConfig(**options))
    preprocess(recording, PreprocessingConfig(unit="µV", **options))


@pytest.mark.parametrize(("factor", "word"), [(1e3, "much"), (1e-3, "little")])
def test_a_layout_does_not_turn_the_check_of_amplitudes_off(factor, word):
    layout = {"suffix": ".csv", "signal": ["Fp1"], "sfreq": 200.0, "unit": "uV"}
    options = {"max_amplitude": None, "layout": layout}
    recording = record(factor * sinusoid(10, 200))
    # beside it lies a file that says itself what its unit is
    with pytest.raises(RejectedError, match=rf"too {word} for the unit it declares; set `unit`"):
        preprocess(recording, PreprocessingConfig(**options))
    laid_out = replace(recording, path=Path("S1.CSV"))
    message = rf"too {word} for the unit that its layout declares; correct `layout\.unit`, or, if"
    for unit in (None, "mV"):  # that of the other files
        with pytest.raises(RejectedError, match=message):
            preprocess(laid_out, PreprocessingConfig(unit=unit, **options))
    preprocess(laid_out, PreprocessingConfig(unit="µV", **options))


def test_drifts_and_silence_are_plausible():
    drift = np.linspace(0, 50_000, 8000) + sinusoid(10, 200)
    signal = np.stack([drift, np.zeros(8000), np.zeros(8000)])
    preprocess(record(signal), PreprocessingConfig(max_amplitude=None))
    preprocess(record(signal[1:]), PreprocessingConfig())


def test_a_channel_that_stands_still_is_told():
    signal = np.stack([sinusoid(10, 200), np.full(8000, 3.0)])
    signal[1, :10] = np.nan
    told = "Left in what holds one value throughout: Cz (see flat_seconds and bad_share)."
    assert told in preprocess(record(signal), PreprocessingConfig()).history
    marked = preprocess(record(signal, bads=("Cz",)), PreprocessingConfig()).history
    assert not any("one value" in done for done in marked)


# --- Time marked as bad ------------------------------------------------------------------


@pytest.mark.parametrize(("sfreq", "new_sfreq"), [(200, 200), (305, 200)])
def test_time_that_annotations_mark_as_bad_is_left_out(sfreq, new_sfreq):
    marks = [
        *(("BAD_muscle", 5.0, 2.5), ("BAD", 7.0, 1.0), ("BAD blink", 30.5, 100.0)),
        *(("BAD_seam", 20.0, 0.0), ("badminton", 10.0, 1.0), ("BADGE", 12.0, 1.0), ("T1", 15, 1.0)),
    ]
    annotations = tuple(Annotation(onset, seconds, text) for text, onset, seconds in marks)
    # 3 s are missing after 25 s; the annotations count what was recorded
    gaps = (Gap(25 * sfreq, 3.0),)
    recording = record(sinusoid(10, sfreq), sfreq, annotations=annotations, gaps=gaps)
    config = PreprocessingConfig(sfreq=new_sfreq, cut_start=1.0, max_amplitude=None, highpass=1.0)
    prepared = preprocess(recording, config)
    ends = [(0, 4), (7, 24), (24, 29.5)]  # from 1 s on
    assert prepared.stretches == tuple((int(a * 200), int(b * 200)) for a, b in ends)
    assert prepared.dropped["marked as bad"] == pytest.approx(3 + 9.5)
    assert len(prepared.recording.annotations) == len(marks)
    told = "Left out the time that 3 annotations mark as bad: BAD, BAD blink, BAD_muscle."
    assert told in prepared.history
    everything = replace(recording, annotations=(Annotation(-1.0, 99.0, "BAD_all"),))
    with pytest.raises(RejectedError, match=r"nothing is left .*marked as bad 39\.0 s"):
        preprocess(everything, config)


# --- Gaps and values that are not finite -------------------------------------------------


@pytest.mark.parametrize(("sfreq", "new_sfreq"), [(200, 200), (500, 200), (305, 200)])
def test_the_pieces_between_gaps_are_treated_as_recordings_of_their_own(sfreq, new_sfreq):
    rng = np.random.default_rng(3)
    first, second = (rng.normal(0, 10, (2, round(n * sfreq))) for n in (20.0, 33.3))
    config = PreprocessingConfig(sfreq=new_sfreq, notch=50.0, max_amplitude=60.0)
    whole = preprocess(
        record(np.hstack([first, second]), sfreq, gaps=(Gap(first.shape[1], 7.5),)), config
    )
    parts = [preprocess(record(part, sfreq), config) for part in (first, second)]
    lengths = [part.recording.signal.shape[1] for part in parts]
    np.testing.assert_array_equal(
        whole.recording.signal, np.hstack([part.recording.signal for part in parts])
    )
    assert whole.recording.gaps == (Gap(lengths[0], 7.5),)
    moved = [(a + lengths[0], b + lengths[0]) for a, b in parts[1].stretches]
    assert whole.stretches == (*parts[0].stretches, *moved)


def test_no_stretch_spans_a_gap_and_seconds_add_up():
    gaps = (Gap(3000, None), Gap(5001, 2.0), Gap(5100, 0.5))
    recording = record(np.random.default_rng(0).normal(0, 5, (2, 8000)), 250, gaps=gaps)
    prepared = preprocess(recording, PreprocessingConfig(highpass=1.0, cut_start=1.0))
    places = [gap.start for gap in prepared.recording.gaps]
    assert len(places) == 3
    assert all(not start < place < stop for place in places for start, stop in prepared.stretches)
    assert prepared.dropped["piece shorter than the filter"] == pytest.approx(79 / 200)
    kept = sum(stop - start for start, stop in prepared.stretches) / 200
    assert kept + sum(prepared.dropped.values()) == pytest.approx(recording.duration)


def test_annotations_follow_their_piece():
    # 100 pieces of 1,001 samples at 500 Hz: each loses 0.4 samples of 200 Hz.
    signal = np.zeros((1, 100 * 1001))
    signal[0, 99 * 1001 + 500] = 1000.0
    gaps = tuple(Gap(1001 * piece, None) for piece in range(1, 100))
    marks = (Annotation((99 * 1001 + 500) / 500, 0.0, "pulse"),)
    config = PreprocessingConfig(highpass=None, lowpass=None, max_amplitude=None)
    result = preprocess(record(signal, 500, gaps=gaps, annotations=marks), config).recording
    assert np.argmax(result.signal[0]) / 200 == pytest.approx(result.annotations[0].onset)


def test_values_that_are_not_finite_are_lost_and_spread_nowhere():
    clean = np.stack([sinusoid(10, 200), sinusoid(5, 200)])
    broken = clean.copy()
    broken[1, 4000:4040] = np.nan
    broken[0, 4020] = np.inf
    config = PreprocessingConfig(highpass=1.0)
    prepared = preprocess(record(broken), config)
    assert prepared.dropped == {"not finite": pytest.approx(0.2)}
    assert prepared.stretches == ((0, 4000), (4040, 8000))
    assert np.isfinite(prepared.recording.signal).all()
    assert prepared.recording.gaps == ()
    alone = preprocess(record(clean[:, :4000]), config).recording.signal
    np.testing.assert_array_equal(prepared.recording.signal[:, :4000], alone)


def test_flat_and_saturated_stretches_are_lost_and_spread_nowhere():
    clean = np.stack([sinusoid(10, 500), sinusoid(5, 500)])
    broken = clean.copy()
    broken[1, 5000:7500] = 12_000.0  # 5 s at the end of the amplifier's range
    broken[0, 7000:7600] = 0.0  # and 1.2 s of nothing, 0.2 s of it beyond those
    broken[0, 12_000:12_100] = 3.0  # shorter than what counts
    options = {"highpass": 1.0, "max_amplitude": None}
    config = PreprocessingConfig(flat_seconds=1.0, **options)
    prepared = preprocess(record(broken, 500), config)
    assert prepared.dropped == {"flat": pytest.approx(5.2)}
    assert prepared.stretches == ((0, 2000), (3040, 8000))
    alone = preprocess(record(clean[:, :5000], 500), config).recording.signal
    np.testing.assert_array_equal(prepared.recording.signal[:, :2000], alone)
    assert preprocess(record(broken, 500), PreprocessingConfig(**options)).dropped == {}


def test_a_channel_that_is_bad_for_too_long_is_kept_out_or_the_recording_rejected():
    signal = np.stack([sinusoid(10, 200), sinusoid(5, 200), sinusoid(7, 200)])
    signal[1, :5000] = 0.0
    signal[2, 1000:6600] = np.nan
    options = {"highpass": 1.0, "flat_seconds": 1.0, "bad_share": 0.5}
    prepared = preprocess(record(signal), PreprocessingConfig(**options))
    assert prepared.recording.ch_names == ("Fz",)
    assert prepared.recording.kept_out == (
        KeptOut("Cz", "flat or not finite for 62% of the recording"),
        KeptOut("Pz", "flat or not finite for 70% of the recording"),
    )
    assert prepared.dropped == {}
    assert prepared.history[1].startswith("Kept out Cz (flat")
    with pytest.raises(RejectedError, match=r"Cz \(flat or not finite for 62% .* bad_share"):
        preprocess(record(signal), PreprocessingConfig(ch_names=["Fz", "Cz"], **options))
    with pytest.raises(RejectedError, match="no channel is left: Cz"):
        preprocess(record(signal[1:], ch_names=["Cz", "Pz"]), PreprocessingConfig(**options))


def test_trials_shorter_than_the_filter_are_rejected_with_the_reason():
    gaps = tuple(Gap(800 * trial, None) for trial in range(1, 10))
    with pytest.raises(RejectedError, match=r"no gap-free piece longer than 4\.0 s, .* the 11"):
        preprocess(record(sinusoid(10, 200), gaps=gaps), PreprocessingConfig())


def test_one_channel_has_no_average_reference():
    with pytest.raises(RejectedError, match="silent against its own average"):
        preprocess(record(sinusoid(10, 200)), PreprocessingConfig(reference="average"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lowpass": 100.0}, "lowpass must lie below half of sfreq, 100 Hz"),
        ({"highpass": 80.0}, "highpass must lie below lowpass"),
        ({"highpass": 100.0, "lowpass": None}, "highpass must lie below lowpass"),
        ({"ch_names": ()}, "at least 1 item"),
        ({"ch_names": ("T3", "Cz", "T7")}, "names T7 more than once"),
        ({"subject_pattern": r"S\d+"}, "must hold a group"),
        ({"sfreq": 0}, "greater than 0"),
        ({"cut_end": -1}, "greater than or equal to 0"),
        ({"notch": "automatic"}, "must be 'auto', a frequency above 0 Hz, or null"),
        ({"notch": -5}, "must be 'auto', a frequency above 0 Hz"),
        ({"reference": "Cz"}, "must be 'as recorded', 'average' or a list of electrodes"),
        ({"reference": ()}, "reference names no electrode"),
        ({"reference": ("T3",), "ch_names": ("T7", "Cz")}, "ch_names holds T7, which the ref"),
        ({"bipolar": "banana"}, "must be 'double banana', 'tcp', a list of pairs"),
        ({"bipolar": (("Fp1", "F3", "F7"),)}, "a list of pairs of electrodes"),
        ({"bipolar": ()}, "pairs of two different electrodes"),
        ({"bipolar": (("T3", "T7"),)}, "pairs of two different electrodes"),
        ({"bipolar": (("T3", "O1"), ("T7", "O1"))}, "each pair once"),
        ({"bipolar": "tcp", "ch_names": ("Cz",)}, "leave out ch_names"),
        ({"bipolar": "tcp", "reference": "average"}, "leave out reference"),
        ({"min_correlation": 0.4}, "min_correlation needs bad_share"),
        ({"max_noise": 5, "lowpass": 45}, "reaches beyond 55 Hz"),
        ({"resample": 100}, "Extra inputs are not permitted"),
    ],
)
def test_configurations_that_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        PreprocessingConfig(**options)


# --- What is remembered ------------------------------------------------------------------


def test_channels_are_chosen_by_either_name_and_the_others_are_listed():
    recording = record(
        np.stack([sinusoid(f, 200) for f in (5, 10, 20)]),
        ch_names=("T7", "Cz", "Foot"),
        original_ch_names=("EEG T3-REF", "EEG CZ-REF", "Foot"),
        kept_out=(KeptOut("ECG", "ECG"),),
    )
    config = PreprocessingConfig(ch_names=("Foot", "T3"), **NO_FILTER)
    result = preprocess(recording, config).recording
    assert result.ch_names == ("Foot", "T7")
    assert result.original_ch_names == ("Foot", "EEG T3-REF")
    assert result.kept_out == (KeptOut("ECG", "ECG"), KeptOut("EEG CZ-REF", "not asked for"))
    np.testing.assert_array_equal(result.signal, recording.signal[[2, 0]])


def test_the_history_says_what_was_done():
    recording = record(np.stack([sinusoid(10, 500), sinusoid(5, 500)]), 500)
    config = PreprocessingConfig(notch=50.0, reference="average", cut_start=1.0)
    assert preprocess(recording, config).history == (
        "Filtered by a zero-phase FIR kernel (windowed sinc, Hamming, 17.6 s): notch at 50 Hz, "
        "high-pass 0.3 Hz, low-pass 75 Hz (−6 dB at 84.375 Hz).",
        "Resampled from 500 to 200 Hz (polyphase, 2/5).",
        "Referenced to the average of 2 channels.",
        "Cut 1 s at the start and 0 s at the end.",
        "Kept 39.0 of 40.0 s in 1 stretch; dropped first and last seconds 1.0 s.",
    )
    above = PreprocessingConfig(notch=60.0, lowpass=40.0)
    assert "No notch: 60 Hz lies above the low-pass." in preprocess(recording, above).history
