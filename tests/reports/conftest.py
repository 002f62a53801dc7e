"""A folder as the demo leaves it: a real small corpus, and runs written by script."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from berger.corpus import prepare
from berger.preprocessing import PreprocessingConfig
from berger.simulation import simulate_dataset

BANDS = ("delta", "theta", "alpha", "beta", "gamma")
PEOPLE = [f"sub-{number:02}" for number in range(1, 13)]
CLASSES = ("eyes closed", "eyes open")
PROBE, BAND_POWER = "frozen probe", "band power + logistic regression"
RANDOM, CHANCE = "same network, random weights", "chance"
RECORD = {
    "versions": {"python": "3.12.1", "berger": "0.1.0", "torch": "2.8.0", "mne": "1.9.0"},
    "device": "cpu",
    "hardware": "A processor, 2 cores",
    "started": "2030-01-02T03:04:05+00:00",
    "git_commit": None,
    "seed": 0,
    "wall_seconds": 93.2,
}


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def pretraining_config() -> dict[str, Any]:
    return {
        "model": {"name": "spechinet", "sfreq": 200.0, "restores": "correction"},
        "objective": {
            "name": "restoration",
            "mask": {
                "kind": "gaussian",
                "ratio": 0.5,
                "kinds": {"frequency": 0.6, "time": 0.3, "time_frequency": 0.1},
                "band_bias": 0.5,
                "hard": False,
                "n_fft": 400,
                "hop": 200,
            },
            "spectral_weight": 0.02,
            "auxiliary_weights": [0.3, 0.2],
        },
        "training": {
            "steps": 600,
            "batch_size": 8,
            "optimizer": {
                "lr": 1e-3,
                "final_lr": 1e-6,
                "warmup": 0.05,
                "weight_decay": 0.05,
                "clip_norm": 5.0,
            },
        },
        "window_seconds": 10.0,
    }


def write_pretraining(run: Path, validation: list[str] | None = None) -> Path:
    """Write a run whose restored signal is better than the masked input but in gamma."""
    rng = np.random.default_rng(1)
    validation = validation or PEOPLE[9:]
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(pretraining_config(), sort_keys=False))
    write_json(
        run / "run.json",
        RECORD
        | {
            "kind": "pretraining",
            "command": "berger pretrain nano --corpus corpus --out pretrain",
            "corpus": {"id": "0123abcd" * 8, "name": "corpus", "hours": 0.69},
            "subjects": {"train": PEOPLE[:9], "validation": validation},
            "n_parameters": 187_236,
            "steps": 600,
            "batch_size": 8,
            "window_seconds": 10.0,
        },
    )
    write_log(run)
    write_errors(run, validation)
    write_example(run, rng)
    return run


def write_log(run: Path) -> None:
    rng = np.random.default_rng(2)
    lines = []
    for step in range(10, 601, 5):
        loss = 0.25 + 1.2 * np.exp(-step / 130) + rng.normal(0, 0.02)
        rate = 1e-3 * min(step / 30, 0.5 + 0.5 * np.cos(np.pi * step / 600)) + 1e-6
        lines.append(
            {"step": step, "split": "train", "loss": loss, "mse": 0.7 * loss,
             "spectral": 0.1 * loss, "auxiliary": 0.2 * loss, "lr": rate,
             "grad_norm": 3 * loss * rng.uniform(0.7, 1.4),
             "seconds_per_step": 0.11 + 0.01 * rng.random(), "data_wait": 0.02}
        )  # fmt: skip
        if step % 50 == 0:
            loss = 0.3 + 1.1 * np.exp(-step / 140)
            lines.append(
                {"step": step, "split": "validation", "loss": loss, "mse": 0.7 * loss,
                 "spectral": 0.1 * loss, "auxiliary": 0.2 * loss}
            )  # fmt: skip
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_errors(run: Path, people: list[str], gamma: float = 0.47) -> None:
    rng = np.random.default_rng(3)
    means = {
        "masked input": (0.86, 0.84, 0.71, 0.55, 0.38),
        "untrained network": (1.04, 1.02, 1.06, 1.1, 1.3),
        "restored": (0.66, 0.58, 0.41, 0.49, gamma),
        "fine branch": (0.7, 0.62, 0.45, 0.52, gamma),
        "coarse branch": (0.69, 0.61, 0.44, 0.55, gamma + 0.1),
    }
    pd.DataFrame(
        (subject, band, signal, error * np.exp(rng.normal(0, 0.05)))
        for subject in people
        for signal, errors in means.items()
        for band, error in zip(BANDS, errors, strict=True)
    ).set_axis(["subject", "band", "signal", "error"], axis=1).to_parquet(
        run / "restoration.parquet"
    )


def write_example(run: Path, rng: np.random.Generator) -> None:
    sfreq, n_fft, hop, n_times = 200, 400, 200, 2000
    ch_names = ["Fp1", "Fp2", "C3", "C4", "T7", "T8", "O1", "O2"]
    freqs = np.fft.rfftfreq(n_times, 1 / sfreq)
    noise = rng.normal(size=(8, len(freqs), 2)).view(complex)[..., 0]
    spectrum = noise / np.maximum(freqs, 1.0)
    spectrum *= np.hypot(1, 4 * np.exp(-(((freqs - 10) / 0.8) ** 2)))
    spectrum[:, freqs > 75] = 0
    clean = np.fft.irfft(spectrum, n_times)
    clean *= 12 / clean.std()
    hidden = np.exp(-(((freqs - 10) / 3) ** 2))
    masked = np.fft.irfft(spectrum * (1 - hidden), n_times) * 12 / np.fft.irfft(spectrum).std()
    bins = np.fft.rfftfreq(n_fft, 1 / sfreq)
    gain = np.repeat(1 - np.exp(-(((bins - 10) / 3) ** 2))[:, None], 1 + n_times // hop, axis=1)
    np.savez(
        run / "example.npz",
        clean=clean.astype("f4"),
        masked=masked.astype("f4"),
        restored=(masked + 0.7 * (clean - masked) + rng.normal(0, 0.8, clean.shape)).astype("f4"),
        gain=gain.astype("f4"),
        sfreq=float(sfreq), n_fft=n_fft, hop=hop, ch_names=np.array(ch_names),
        subject="sub-10", recording="demo/sub-10_eyes.edf", start=40.0,
    )  # fmt: skip


ACCURACY = {PROBE: 0.81, RANDOM: 0.6, BAND_POWER: 0.78, CHANCE: 0.5}


def predictions(
    accuracy: dict[str, float] = ACCURACY, seen: list[str] | None = None
) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    rows = []
    for model, share in accuracy.items():
        for place, subject in enumerate(PEOPLE):
            own = np.clip(share + rng.normal(0, 0.08), 0, 1) if model != CHANCE else 0.5
            for window in range(40):
                truth = CLASSES[window // 5 % 2]
                right = rng.random() < own
                guess = truth if right else CLASSES[1 - CLASSES.index(truth)]
                score = 0.5 + 0.4 * rng.random() * (1 if guess == CLASSES[0] else -1)
                rows.append(
                    (model, place % 4 + 1, subject, f"demo/{subject}_eyes.edf", 5.0 * window, truth,
                     guess, score, 1 - score, subject in (PEOPLE[:9] if seen is None else seen))
                )  # fmt: skip
    columns = ["model", "fold", "subject", "recording", "start", "truth", "prediction"]
    scores = [f"score_{name}" for name in CLASSES]
    return pd.DataFrame(rows, columns=[*columns, *scores, "seen_in_pretraining"])


def results(table: pd.DataFrame) -> pd.DataFrame:
    """Score as the evaluation does; the interval is the value ± 0.06 for everybody."""
    rows = []
    for people, part in (
        ("all", table),
        ("unseen in pretraining", table[~table["seen_in_pretraining"]]),
    ):
        for model, own in part.groupby("model", sort=False):
            for fold, tested in [(0, own), *own.groupby("fold")]:
                value = float((tested["truth"] == tested["prediction"]).mean())
                width = (0.06 if people == "all" else 0.12) if fold == 0 else np.nan
                rows.append(
                    {"model": model, "people": people, "fold": fold,
                     "n_subjects": tested["subject"].nunique(), "n_windows": len(tested),
                     "balanced_accuracy": value, "balanced_accuracy_low": value - width,
                     "balanced_accuracy_high": value + width, "auroc": min(value + 0.06, 1),
                     "kappa": 2 * value - 1, "f1_weighted": value}
                )  # fmt: skip
    return pd.DataFrame(rows)


def write_adaptation(run: Path, table: pd.DataFrame | None = None) -> Path:
    run.mkdir(parents=True)
    table = predictions() if table is None else table
    table.to_parquet(run / "predictions.parquet")
    results(table).to_parquet(run / "results.parquet")
    config = {"strategy": PROBE, "pooling": "mean", "baselines": [BAND_POWER, RANDOM, CHANCE]}
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    folds = [{"train": [], "validation": [], "test": PEOPLE[fold::4]} for fold in range(4)]
    write_json(
        run / "run.json",
        RECORD
        | {
            "kind": "adaptation",
            "command": "berger adapt probe --checkpoint pretrain/checkpoint --task demo",
            "task": {
                "name": "demo", "title": "Eyes open or closed", "classes": CLASSES,
                "description": "Closed eyes against open ones, in simulated recordings.",
                "window_seconds": 5.0, "licence": "", "paper": "", "source": "",
            },
            "checkpoint": {"name": "spechinet", "n_parameters": 187_236, "trained_parameters": 258,
                           "corpus_id": "0123abcd" * 8, "pretraining_subjects": PEOPLE[:9]},
            "folds": folds,
            "seen_in_pretraining": sorted(set(table.loc[table["seen_in_pretraining"], "subject"])),
        },
    )  # fmt: skip
    return run


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with four people's recordings and a file that cannot be read."""
    folder = tmp_path_factory.mktemp("recorded") / "raw"
    simulate_dataset(folder, n_subjects=4, n_blocks=2, block_seconds=20.0)
    (folder / "broken.edf").write_bytes(b"0       cut short")
    return folder


@pytest.fixture(scope="session")
def _demo(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> Path:
    folder = tmp_path_factory.mktemp("written") / "demo"
    prepare([raw], folder / "corpus", PreprocessingConfig(notch=50.0), progress=False)
    write_pretraining(folder / "pretrain")
    write_adaptation(folder / "adapt")
    return folder


@pytest.fixture
def demo(_demo: Path, tmp_path: Path) -> Path:
    """Return a folder with ``corpus/``, ``pretrain/`` and ``adapt/`` that a test may change."""
    return shutil.copytree(_demo, tmp_path / "demo")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose figures, but do not turn them into images, for tests of everything else."""
    monkeypatch.setattr("berger.reports.style._svg", lambda figure: b"<svg/>")
