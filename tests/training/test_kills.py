"""A run that is killed by the system, at any moment, ends as if it had never been."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from berger.pretraining import PretrainingConfig
from berger.training.state import has_state, read_state
from tests.training.test_loop import assert_same, log_of, state_of
from tests.training.warm import POINTS, Warm, warm

N_TRIALS = 20
FAMILIES = ("spechinet", "dare")
DARE = {
    "model": {
        "name": "dare",
        "sfreq": 100,
        "patch_size": 50,
        "embed_dim": 16,
        "n_heads": 2,
        "encoder_depth": 1,
        "predictor_depth": 1,
        "reconstructor_depth": 1,
    },
    "objective": {"name": "dual-alignment", "momentum": [0.5, 0.9]},
}
STEPS = 6
TRAINING = {"steps": STEPS, "batch_size": 3, "log_every": 1, "validate_every": 4, "save_every": 2}


class Family(NamedTuple):
    """A configuration, and the run of it that nobody interrupted."""

    config: Path
    out: Path
    seconds: float


def configuration(name: str, tiny_pretraining: Callable[..., PretrainingConfig]) -> dict[str, Any]:
    described = tiny_pretraining().model_dump(mode="json") | {"max_validation_windows": 2}
    described["training"] = TRAINING
    return described if name == "spechinet" else described | DARE


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with warm(tmp_path_factory.mktemp("warm") / "printed.txt") as started:
        yield started


@pytest.fixture(scope="module")
def families(
    commands: Warm,
    tiny_corpus: Path,
    tiny_pretraining: Callable[..., PretrainingConfig],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Family]:
    found = {}
    for name in FAMILIES:
        folder = tmp_path_factory.mktemp(name)
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(configuration(name, tiny_pretraining)))
        began = time.monotonic()
        status, printed = pretrain(commands, config, tiny_corpus, folder / "run")
        assert status == 0, printed
        found[name] = Family(config, folder / "run", time.monotonic() - began)
    return found


def pretrain(
    commands: Warm, config: Path, corpus: Path, out: Path, workers: int = 0, **how: Any
) -> tuple[int, str]:
    """Run `berger pretrain`, with --resume wherever there is something to resume."""
    words = ["--quiet", "--device", "cpu", "--workers", workers]
    words += ["--resume"] if has_state(out) else []
    return commands.berger("pretrain", config, "--corpus", corpus, "--out", out, *words, **how)


@pytest.mark.parametrize("trial", range(N_TRIALS))
def test_a_run_that_was_killed_ends_alike(
    trial: int, families: dict[str, Family], commands: Warm, tiny_corpus: Path, tmp_path: Path
) -> None:
    """At a point of a save, and at one or two moments that nobody chose."""
    rng = np.random.default_rng(trial)
    family = families[FAMILIES[trial % 2]]
    workers = int(rng.random() < 0.3)
    out = tmp_path / "run"
    how: dict[str, Any] = {"workers": workers}
    point = POINTS[trial // 2 % len(POINTS)]

    def kill_sometime() -> None:
        moment = float(rng.uniform(0, family.seconds))
        pretrain(commands, family.config, tiny_corpus, out, **how, after=moment)

    if trial % 3 == 0:
        kill_sometime()
    steps = read_state(out)["step"] if has_state(out) else 0
    left = (STEPS - steps) // 2
    if left > 1:
        status, printed = pretrain(
            *(commands, family.config, tiny_corpus, out),
            **how,
            point=point,
            nth=int(rng.integers(1, left)),
        )
        assert status == -signal.SIGKILL, printed
    kill_sometime()
    status, printed = pretrain(commands, family.config, tiny_corpus, out, **how)
    assert status == 0, printed
    assert_alike(out, family.out)


def assert_alike(out: Path, uninterrupted: Path) -> None:
    """Weights, moments, schedule, momentum copy, generators, log and results; nothing is left."""
    assert_same(state_of(out), state_of(uninterrupted))
    assert log_of(out) == log_of(uninterrupted)
    names = {path.name for path in uninterrupted.iterdir()}
    assert {path.name for path in out.iterdir()} == names
    for name in {*names, "checkpoint/model.safetensors"}:
        if Path(name).suffix in {".safetensors", ".parquet", ".npz", ".yaml"}:
            assert (out / name).read_bytes() == (uninterrupted / name).read_bytes(), name
    records = [json.loads((run / "run.json").read_text()) for run in (out, uninterrupted)]
    assert records[0]["steps"] == records[1]["steps"] == STEPS


# told to stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_that_is_told_to_stop_has_a_status_of_its_own(
    number: signal.Signals,
    families: dict[str, Family],
    commands: Warm,
    tiny_corpus: Path,
    tmp_path: Path,
) -> None:
    """After the step under way; a scheduler signals to the processes that read windows as well."""
    family, out = families["dare"], tmp_path / "run"
    how: dict[str, Any] = {"point": "step", "nth": 3, "number": number, "group": True}
    status, printed = pretrain(commands, family.config, tiny_corpus, out, workers=1, **how)
    assert printed == (
        f"berger: {out}: stopped by {number.name} after step 3 of {STEPS}; continue it with "
        "--resume.\n"
    )
    assert status == 75
    assert read_state(out)["step"] == 3
    status, printed = pretrain(commands, family.config, tiny_corpus, out)
    assert (status, printed) == (0, "")
    assert_alike(out, family.out)


def test_what_is_told_to_stop_before_its_first_step_can_be_begun_again(
    families: dict[str, Family], commands: Warm, tiny_corpus: Path, tmp_path: Path
) -> None:
    family, out = families["dare"], tmp_path / "run"
    how: dict[str, Any] = {"point": "model", "number": signal.SIGTERM}
    status, printed = pretrain(commands, family.config, tiny_corpus, out, **how)
    said = f"berger: {out}: stopped by SIGTERM; the same command begins it again.\n"
    assert (status, printed) == (75, said)
    assert pretrain(commands, family.config, tiny_corpus, out) == (0, "")
    assert_alike(out, family.out)


def test_experts_stop_and_go_on_where_they_were(
    commands: Warm,
    tiny_corpus: Path,
    tiny_pretraining: Callable[..., PretrainingConfig],
    tmp_path: Path,
) -> None:
    """The second of three is told to stop; then the third is killed."""
    described = configuration("spechinet", tiny_pretraining) | {"experts": 3}
    described["training"] = TRAINING | {"steps": 2, "save_every": 1}
    config, once, cut = tmp_path / "config.yaml", tmp_path / "once", tmp_path / "cut"
    config.write_text(yaml.safe_dump(described))
    arguments = ["pretrain", config, "--corpus", tiny_corpus, "--quiet", "--device", "cpu"]
    assert commands.berger(*arguments, "--out", once) == (0, "")
    arguments += ["--out", cut]
    status, printed = commands.berger(*arguments, point="step", nth=3, number=signal.SIGTERM)
    expert = cut / "expert-1"
    assert printed == (
        f"berger: {expert}: stopped by SIGTERM after step 1 of 2; continue it with --resume.\n"
    )
    assert status == 75
    assert (cut / "expert-0" / "run.json").is_file()
    status, printed = commands.berger(*arguments)
    assert (status, printed) == (
        2,
        f"berger: {cut}: holds a run already; continue it with --resume or choose another "
        "folder.\n",
    )
    finished = (cut / "expert-0" / "state.ckpt").stat().st_mtime_ns
    assert commands.berger(*arguments, "--resume", point="half", nth=2)[0] == -signal.SIGKILL
    assert commands.berger(*arguments, "--resume") == (0, "")
    assert (cut / "expert-0" / "state.ckpt").stat().st_mtime_ns == finished
    for number in range(3):
        runs = [run / f"expert-{number}" for run in (cut, once)]
        assert_same(*map(state_of, runs))
        assert log_of(runs[0]) == log_of(runs[1])
        assert not [path for path in runs[0].iterdir() if path.name.endswith((".part", ".old"))]
    weights = [(run / "checkpoint" / "model.safetensors").read_bytes() for run in (cut, once)]
    assert weights[0] == weights[1]
