"""Recordings with a known truth, for tests, tutorials and the demo.

::

    background  (1/f, every source its own) ─┐
    alpha       (left, right posterior)      ├─► mixed by distance ─► + blinks, muscle, mains, pops
    theta       (frontal midline)           ─┘   to the electrodes       ─► Recording, Truth

Alpha is stronger with eyes closed and theta with eyes open; how much differs from person to
person and from block to block, as do the alpha frequency, the amplitudes and the slope of the
background. Artefacts come alike in both states, so that they tell nothing about them.

Background and rhythms come from NeuroDSP: S. Cole et al., "NeuroDSP: A package for neural
digital signal processing", Journal of Open Source Software 4 (2019) 1272.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import edfio
import numpy as np
import numpy.typing as npt
import pandas as pd
from neurodsp.sim import set_random_seed, sim_powerlaw, sim_variable_oscillation
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, sosfiltfilt

from berger.channels import ALIASES, positions
from berger.files import written_whole
from berger.recordings import Annotation, Recording

Signal = npt.NDArray[np.float64]

TEN_TWENTY = tuple(
    "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2".split()  # noqa: SIM905
)
EIGHT = ("Fp1", "Fp2", "C3", "C4", "P7", "P8", "O1", "O2")
STATES = ("eyes open", "eyes closed")

_MAINS = 50.0  # Hz
_PER_MINUTE = {"blink": 4.0, "muscle": 1.5, "pop": 0.5}


@dataclass(frozen=True)
class Person:
    """What distinguishes one simulated person.

    Attributes
    ----------
    alpha_frequency, theta_frequency : float
        Hz.
    alpha_amplitude, theta_amplitude : float
        µV RMS at the rhythm's source in the state where it is stronger.
    alpha_ratio, theta_ratio : float
        Amplitude in the other state (alpha: eyes open; theta: eyes closed) as a fraction.
    exponent : float
        The background's power falls as 1 / frequency ** exponent.
    background : float
        µV RMS of the background above 0.5 Hz.
    """

    alpha_frequency: float
    alpha_amplitude: float
    alpha_ratio: float
    theta_frequency: float
    theta_amplitude: float
    theta_ratio: float
    exponent: float
    background: float


@dataclass(frozen=True)
class Truth:
    """How a simulated recording came about: the person, and each artefact's time and kind."""

    person: Person
    artefacts: tuple[Annotation, ...]


def draw_person(rng: np.random.Generator) -> Person:
    """Draw a person at random."""
    return Person(
        alpha_frequency=float(np.clip(rng.normal(10.0, 0.9), 8.0, 12.5)),
        alpha_amplitude=float(np.exp(rng.normal(np.log(8.0), 0.3))),
        alpha_ratio=float(rng.uniform(0.2, 0.55)),
        theta_frequency=float(rng.uniform(5.0, 7.0)),
        theta_amplitude=float(np.exp(rng.normal(np.log(4.0), 0.3))),
        theta_ratio=float(rng.uniform(0.5, 0.9)),
        exponent=float(rng.uniform(1.0, 1.7)),
        background=float(np.exp(rng.normal(np.log(9.0), 0.2))),
    )


def alternating_blocks(n_blocks: int, seconds: float, first: str = STATES[0]) -> list[Annotation]:
    """Return blocks of the two states in turn, each of `seconds`, beginning with `first`."""
    order = STATES if first == STATES[0] else STATES[::-1]
    return [Annotation(i * seconds, seconds, order[i % 2]) for i in range(n_blocks)]


def simulate_recording(
    subject: str,
    blocks: Sequence[Annotation],
    *,
    ch_names: Sequence[str] = TEN_TWENTY,
    sfreq: float = 256.0,
    duration: float | None = None,
    seed: int | Sequence[int] = 0,
    artefacts: bool = True,
) -> tuple[Recording, Truth]:
    """Simulate one person's recording.

    Parameters
    ----------
    subject : str
        The person's name in the recording; it does not influence the signal.
    blocks : sequence of Annotation
        When the person is in which state of `STATES`; "eyes open" holds at other times.
    ch_names : sequence of str
        Electrodes that have a position in `berger.channels`.
    sfreq : float
        Samples per second.
    duration : float, optional
        Seconds; by default the end of the last block.
    seed : int or sequence of int
        The same seed and arguments give the same samples. NumPy's global generator, which
        NeuroDSP draws from, is left as it was.
    artefacts : bool
        Whether there are blinks, muscle bursts, electrode pops and mains hum.

    Returns
    -------
    recording : Recording
        Its path names no file.
    truth : Truth
        What was simulated.

    Raises
    ------
    ValueError
        For a block of another state or an electrode without a position.
    """
    unknown = {block.description for block in blocks} - set(STATES)
    places = positions(ch_names)
    if unknown or np.isnan(places).any():
        raise ValueError(f"unknown states {unknown} or electrodes without a position {ch_names}")
    rng = np.random.default_rng(seed)
    person = draw_person(rng)
    seconds = duration or max(block.onset + block.duration for block in blocks)
    n_times = round(seconds * sfreq)

    signal = _background(rng, person, places, n_times, sfreq)
    closed = np.zeros(n_times)
    alpha_gain, theta_gain = np.ones((2, n_times))
    for block in blocks:
        part = slice(round(block.onset * sfreq), round((block.onset + block.duration) * sfreq))
        closed[part] = block.description == "eyes closed"
        alpha_gain[part], theta_gain[part] = np.exp(rng.normal(0.0, 0.2, size=2))
    alpha_gain *= np.where(closed, 1.0, person.alpha_ratio) * person.alpha_amplitude
    theta_gain *= np.where(closed, person.theta_ratio, 1.0) * person.theta_amplitude
    for source, frequency, gain in (
        ("O1", person.alpha_frequency, alpha_gain),
        ("O2", person.alpha_frequency, alpha_gain),
        ("Fz", person.theta_frequency, theta_gain),
    ):
        # A state begins and ends within about half a second.
        gain = gaussian_filter1d(gain, 0.25 * sfreq, mode="nearest")
        rhythm = gain * _rhythm(rng, frequency, n_times, sfreq)
        signal += np.outer(_spread(positions([source])[0], places, 0.6), rhythm)
    signal += rng.normal(0.0, 0.8, signal.shape)  # of amplifier and electrode

    marks: list[Annotation] = []
    if artefacts:
        times = np.arange(n_times) / sfreq
        hum = np.exp(rng.normal(np.log(1.5), 0.5, size=(len(places), 1)))
        signal += hum * np.sin(2 * np.pi * _MAINS * times + rng.uniform(0, 0.5, hum.shape))
        marks = _add_artefacts(rng, signal, places, sfreq)

    recording = Recording(
        signal=signal,
        ch_names=tuple(ch_names),
        sfreq=sfreq,
        subject=subject,
        subject_source="simulation",
        session=None,
        path=Path(f"{subject}.simulated"),
        original_ch_names=tuple(ch_names),
        annotations=tuple(blocks),
    )
    return recording, Truth(person, tuple(marks))


def simulate_dataset(
    out: Path,
    n_subjects: int = 12,
    seed: int = 0,
    *,
    n_blocks: int = 8,
    block_seconds: float = 26.0,
) -> pd.DataFrame:
    """Write recordings of several people as EDF+ files, and the truth about them.

    Every other person wears 19 electrodes (256 Hz; the names "EEG FP1-REF" and T3 … T6, an ECG
    beside them at half the rate), the others 8 (250 Hz). The blocks of eyes open and closed are
    EDF+ annotations.

    Parameters
    ----------
    out : Path
        Folder for ``sub-01_eyes.edf`` … and ``truth.csv``; it is made if needed.
    n_subjects : int
        How many people.
    seed : int
        The same seed gives the same people whatever their number.
    n_blocks, block_seconds : int, float
        A recording lasts their product.

    Returns
    -------
    DataFrame
        The truth, a row per person, as in ``truth.csv``: file, subject, n_chans, sfreq, the
        fields of `Person`, and the number of each kind of artefact.
    """
    rows = []
    for index in range(n_subjects):
        subject = f"sub-{index + 1:02d}"
        large = index % 2 == 0
        recording, truth = simulate_recording(
            subject,
            alternating_blocks(n_blocks, block_seconds, STATES[index // 2 % 2]),
            ch_names=TEN_TWENTY if large else EIGHT,
            sfreq=256.0 if large else 250.0,
            seed=[seed, index],
        )
        file = f"{subject}_eyes.edf"
        if large:
            older = {new: old for old, new in ALIASES.items()}
            labels = [f"EEG {older.get(name, name).upper()}-REF" for name in recording.ch_names]
            ecg = {"ECG EKG": _ecg(np.random.default_rng([seed, index, 1]), recording.duration)}
            write_edf(recording, out / file, labels=labels, others=ecg)
        else:
            write_edf(recording, out / file)
        kinds = [mark.description for mark in truth.artefacts]
        rows.append(
            {
                "file": file,
                "subject": subject,
                "n_chans": len(recording.ch_names),
                "sfreq": recording.sfreq,
                **asdict(truth.person),
                **{f"n_{kind}": kinds.count(kind) for kind in _PER_MINUTE},
            }
        )
    table = pd.DataFrame(rows)
    with written_whole(out / "truth.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f")
    return table


def write_edf(
    recording: Recording,
    path: Path,
    *,
    labels: Sequence[str] | None = None,
    others: Mapping[str, tuple[Signal, float]] | None = None,
) -> None:
    """Write a recording as an EDF+ file of 16-bit samples, with its annotations.

    Parameters
    ----------
    recording : Recording
        Its duration must be a whole number of samples and data records, e.g. of seconds.
    path : Path
        The file.
    labels : sequence of str, optional
        The channels' names in the file, if other than `recording.ch_names`.
    others : mapping of str to (ndarray, float), optional
        Further channels: name → samples in mV and their rate.
    """
    signals = [
        edfio.EdfSignal(samples, recording.sfreq, label=label, physical_dimension="uV")
        for samples, label in zip(recording.signal, labels or recording.ch_names, strict=True)
    ]
    for label, (samples, sfreq) in (others or {}).items():
        signals.append(edfio.EdfSignal(samples, sfreq, label=label, physical_dimension="mV"))
    edf = edfio.Edf(
        signals,
        patient=edfio.Patient(code=recording.subject),
        annotations=[
            edfio.EdfAnnotation(mark.onset, mark.duration, mark.description)
            for mark in recording.annotations
        ],
    )
    with written_whole(path) as temporary:
        edf.write(temporary)


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator, which NeuroDSP draws from, and put it back afterwards."""
    before = np.random.get_state()  # noqa: NPY002 - the global generator is what must be kept
    try:
        set_random_seed(seed)
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def _spread(source: Signal, places: Signal, width: float) -> Signal:
    """Return how strongly a source on the unit sphere is seen at `places`: 1 at its own.

    A Gaussian of the angle between them, of standard deviation `width` in radians; (n_chans,).
    """
    angle = np.arccos(np.clip(places @ source, -1.0, 1.0))
    return np.asarray(np.exp(-0.5 * (angle / width) ** 2))


def _background(
    rng: np.random.Generator, person: Person, places: Signal, n_times: int, sfreq: float
) -> Signal:
    """Return 1/f noise, alike at neighbouring electrodes: (n_chans, n_times) in µV."""
    sources = positions(TEN_TWENTY)
    with _global_seed(int(rng.integers(2**32))):
        seconds = n_times / sfreq
        noise = np.stack([sim_powerlaw(seconds, sfreq, -person.exponent) for _ in sources])
    # Drifts slower than any EEG amplifier passes would take most of the power.
    highpass = butter(2, 0.5, "highpass", fs=sfreq, output="sos")
    noise = sosfiltfilt(highpass, noise[:, :n_times])  # NeuroDSP may round up by a sample
    noise /= noise.std(axis=1, keepdims=True)
    mixing = np.stack([_spread(source, places, 0.45) for source in sources], axis=1)
    mixing /= np.linalg.norm(mixing, axis=1, keepdims=True)
    return np.asarray(person.background * mixing @ noise)


def _rhythm(rng: np.random.Generator, frequency: float, n_times: int, sfreq: float) -> Signal:
    """Return a rhythm of unit RMS that waxes and wanes; (n_times,)."""
    # NeuroDSP rounds a cycle to whole samples: fourfold rate keeps the frequency true.
    fold = 4
    n_cycles = int(1.3 * frequency * n_times / sfreq) + 5
    cycles = rng.normal(frequency, 0.05 * frequency, n_cycles)
    wave = sim_variable_oscillation(n_times / sfreq, fold * sfreq, cycles)[::fold][:n_times]
    # The modulus of slow complex noise, as of narrow-band noise (Rayleigh).
    envelope = np.hypot(*gaussian_filter1d(rng.normal(size=(2, n_times)), 0.3 * sfreq))
    rhythm = wave * envelope
    return np.asarray(rhythm / np.sqrt(np.mean(rhythm**2)))


def _add_artefacts(
    rng: np.random.Generator, signal: Signal, places: Signal, sfreq: float
) -> list[Annotation]:
    """Add blinks, muscle bursts and electrode pops to `signal` in place; return when."""
    n_times = signal.shape[1]
    eyes = np.array([0.0, 0.98, -0.2])
    marks = []
    for kind, per_minute in _PER_MINUTE.items():
        # At least one of each kind.
        for _ in range(1 + rng.poisson(per_minute * n_times / sfreq / 60)):
            if kind == "blink":
                seconds = rng.uniform(0.25, 0.4)
                course = rng.uniform(150.0, 350.0) * np.hanning(round(seconds * sfreq))
                where = _spread(eyes, places, 0.6)
            elif kind == "muscle":
                seconds = rng.uniform(0.5, 2.0)
                noise = rng.normal(size=round((seconds + 1) * sfreq))
                band = butter(4, (20.0, 100.0), "bandpass", fs=sfreq, output="sos")
                course = sosfiltfilt(band, noise)[: round(seconds * sfreq)]
                course *= rng.uniform(15.0, 60.0) * np.hanning(len(course)) / course.std()
                where = _spread(positions([rng.choice(["T7", "T8"])])[0], places, 0.4)
            else:
                seconds = 0.6
                size = rng.uniform(600.0, 1500.0) * rng.choice([-1.0, 1.0])
                course = size * np.exp(-np.arange(round(seconds * sfreq)) / (0.1 * sfreq))
                where = np.eye(len(places))[rng.integers(len(places))]
            start = int(rng.integers(n_times))
            course = course[: n_times - start]
            signal[:, start : start + len(course)] += np.outer(where, course)
            marks.append(Annotation(start / sfreq, len(course) / sfreq, kind))
    return sorted(marks, key=lambda mark: mark.onset)


def _ecg(rng: np.random.Generator, seconds: float, sfreq: float = 128.0) -> tuple[Signal, float]:
    """Return a heart's R waves in mV, and their sampling rate."""
    beats = np.cumsum(rng.normal(0.85, 0.05, size=int(2 * seconds)))
    samples = np.zeros(round(seconds * sfreq))
    samples[(beats[beats < seconds] * sfreq).astype(int)] = 1.0
    waves = gaussian_filter1d(samples, 0.012 * sfreq)
    return np.asarray(waves / waves.max()), sfreq
