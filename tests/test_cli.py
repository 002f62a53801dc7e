"""The commands: what is typed is what runs, and what cannot run is said in one sentence."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import edfio
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from berger import __version__, cli, load_checkpoint, open_corpus, telling
from berger.checkpoints import FILES
from berger.configuration import load_config
from berger.errors import BergerError
from berger.masking.gaussian import draw_gain
from berger.models import SpecMoE
from berger.pretraining import PretrainingConfig
from berger.training.log import read_log

COMMAND = Path(sys.executable).with_name("berger")
TINY = [
    "spechinet-small",
    *("--model.sfreq", "100", "--model.stem_dim=4", "--model.embed-dim", "8"),
    *("--model.bottleneck_dim=8", "--model.n-heads=2", "--window-seconds", "4"),
    *("--objective.mask.n_fft", "200", "--objective.mask.hop", "100", "--objective.n_chans=4"),
    *("--training.steps=3", "--training.batch_size", "4", "--max_validation_windows=4"),
]


class Outcome(NamedTuple):
    """How a command ended and what it printed."""

    status: int | str | None
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Give a command as if it had been typed."""

    def typed(*words: object) -> Outcome:
        status: int | str | None = 0
        try:
            cli.main([str(word) for word in words])
        except SystemExit as ended:
            status = ended.code
        return Outcome(status, *capfd.readouterr())

    return typed


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Give a command that cannot be done, and return the sentence that says so."""

    def typed(*words: object) -> str:
        outcome = run(*words)
        assert outcome.status == 2, outcome
        assert outcome.out == ""
        assert outcome.err.startswith("berger: ")
        assert outcome.err.count("\n") == 1
        assert "Traceback" not in outcome.err
        return outcome.err.removeprefix("berger: ").strip()

    return typed


# the road


def test_the_road(run: Run, tiny_recordings: Path, tmp_path: Path) -> None:
    """From raw files to predictions by what a user types, and each file that is promised."""
    corpus, pretrained, adapted = (tmp_path / name for name in ("corpus", "run", "adapted"))
    task = shutil.copy(tiny_recordings.parent / "task.yaml", tmp_path / "task.yaml")

    prepared = run(
        *("prepare", tiny_recordings, "--out", corpus, "--workers", 1),
        *("--sfreq", 100, "--highpass=1", "--lowpass", 40, "--max-amplitude", "null"),
    )
    assert prepared.status == 0
    assert "6 recordings of 6 subjects" in prepared.out
    assert "× real time" in prepared.out
    assert "6 ok, 0 failed, 0 rejected" in run("corpus", "info", corpus).out
    assert run("corpus", "verify", corpus).out == f"{corpus}: every byte is as written.\n"
    again = run("prepare", tiny_recordings, "--out", corpus, "--config", corpus_config(corpus))
    assert "Nothing to do" in again.out

    trained = run("pretrain", *TINY, "--corpus", corpus, "--out", pretrained, "--seed", 3)
    assert trained.status == 0
    assert f"{pretrained / 'checkpoint'}: ready" in trained.out
    config = yaml.safe_load((pretrained / "config.yaml").read_text())
    assert config["seed"] == 3
    assert config["training"]["steps"] == 3
    assert config["model"]["n_heads"] == 2
    lines = read_log(pretrained / "log.jsonl")
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 3]
    assert load_checkpoint(pretrained / "checkpoint").contract.window_seconds == 4
    record = json.loads((pretrained / "run.json").read_text())
    assert (record["steps"], record["seed"]) == (3, 3)

    decoded = run(
        *("adapt", "probe", "--checkpoint", pretrained / "checkpoint", "--task", task),
        *("--data", tiny_recordings.parent, "--out", adapted, "--workers", 1),
        *("--n-folds", 2, "--penalties", "[0.01, 1]"),
    )
    assert decoded.status == 0
    assert "balanced accuracy" in decoded.out
    assert "band power + logistic regression" in decoded.out
    results = pd.read_parquet(adapted / "results.parquet")
    numbers = results[(results["fold"] == 0) & (results["people"] == "all")]
    assert numbers["balanced_accuracy"].between(0, 1).all()
    assert (numbers["balanced_accuracy_low"] <= numbers["balanced_accuracy"]).all()
    assert (numbers["balanced_accuracy"] <= numbers["balanced_accuracy_high"]).all()
    assert set(results["fold"]) == {0, 1, 2}

    files = sorted(tiny_recordings.glob("*.edf"))[:2]
    embedded = run(
        *("embed", *files, "--checkpoint", pretrained / "checkpoint"),
        *("--out", tmp_path / "features.parquet"),
    )
    assert (embedded.status, embedded.out) == (0, f"{tmp_path / 'features.parquet'}: written.\n")
    assert len(pd.read_parquet(tmp_path / "features.parquet")) == 16
    predicted = run(
        *("predict", tiny_recordings, "--checkpoint", adapted / "checkpoint"),
        *("--out", tmp_path / "predictions"),
    )
    assert predicted.status == 0
    assert len(list((tmp_path / "predictions").rglob("*.csv"))) == 6

    reported = run("report", tmp_path, "--out", tmp_path / "all.html")
    assert (reported.status, reported.out) == (0, f"Open {tmp_path / 'all.html'}\n")
    html = (tmp_path / "all.html").read_text(encoding="utf-8").lower()
    assert html.lstrip().startswith("<!doctype html>")
    for word in ("sub-01", "band power", "frozen probe", "balanced accuracy", "restor"):
        assert word in html, word


def corpus_config(corpus: Path) -> Path:
    """The configuration of a corpus, as a file."""
    path = corpus.parent / "preparation.yaml"
    content = open_corpus(corpus).manifest.preprocessing.model_dump(mode="json")
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_run_is_continued(run: Run, tiny_corpus: Path, tmp_path: Path) -> None:
    words = ["pretrain", *TINY, "--corpus", tiny_corpus, "--out", tmp_path / "run", "--quiet"]
    assert run(*words) == (0, "", "")
    weights = (tmp_path / "run" / "checkpoint" / "model.safetensors").read_bytes()
    assert run(*words).status == 2
    assert run(*words, "--resume") == (0, "", "")
    assert (tmp_path / "run" / "checkpoint" / "model.safetensors").read_bytes() == weights


def test_experts_in_turn_or_one_by_one(run: Run, tiny_corpus: Path, tmp_path: Path) -> None:
    """Both ways end with the same SpecMoE, which can be reported and used."""
    words = ["pretrain", *TINY, "--experts", 2, "--corpus", tiny_corpus, "--quiet"]
    together, joined = tmp_path / "together", tmp_path / "joined"
    assert run(*words, "--out", together) == (0, "", "")
    for expert in (0, 1):
        out = tmp_path / f"only-{expert}"
        assert run(*words, "--out", out, "--expert", expert) == (0, "", "")
        assert (out / "checkpoint").is_dir()
    outcome = run("assemble", tmp_path / "only-1", tmp_path / "only-0", "--out", joined)
    assert outcome == (0, f"{joined}: ready.\n", "")
    assert isinstance(load_checkpoint(joined), SpecMoE)
    file, table = sorted(tiny_corpus.parent.glob("recordings/*.edf"))[0], tmp_path / "f.parquet"
    assert run("embed", file, "--checkpoint", joined, "--out", table, "--quiet").status == 0
    assert len(pd.read_parquet(table)) == 8
    weights = (joined / "model.safetensors").read_bytes()
    assert weights == (together / "checkpoint" / "model.safetensors").read_bytes()
    assert run(*words, "--out", together).status == 2
    assert run(*words, "--out", together, "--resume") == (0, "", "")
    assert run("report", together, "--quiet") == (0, "", "")
    assert "sub-0" in (together / "report.html").read_text(encoding="utf-8")


MAP = "--objective.mask."


@pytest.mark.parametrize(
    ("words", "varies_in"),
    [
        ([f"{MAP}kinds", "{time: 1, frequency: 0, time_frequency: 0}"], {"time"}),
        ([f"{MAP}kinds", "{time: 0, frequency: 1, time_frequency: 0}"], {"frequency"}),
        (
            [f"{MAP}kinds.time=0", f"{MAP}kinds.frequency=0", f"{MAP}kinds.time_frequency=1"],
            {"time", "frequency"},
        ),
        ([f"{MAP}hard", "true"], {"time", "frequency"}),
        ([], {"time", "frequency"}),
    ],
    ids=["time only", "frequency only", "time-frequency only", "hard", "the paper's"],
)
def test_the_ablations_of_the_masks_are_options(
    words: list[str], varies_in: set[str], run: Run, tmp_path: Path
) -> None:
    """What is typed beside a shipped configuration decides what the masks look like."""
    shown = run(
        *("pretrain", "specmoe-tueg", "--corpus", "c", "--out", "o", "--print-config"), *words
    )
    assert shown.status == 0
    (tmp_path / "shown.yaml").write_text(shown.out)
    mask = load_config(PretrainingConfig, tmp_path / "shown.yaml").objective.mask
    gain = draw_gain(50, 6000, 200, mask, torch.Generator().manual_seed(0))
    assert (1 - gain.mean((1, 2))).min() >= 0.5
    found = {
        axis
        for axis, other in (("frequency", gain[:, :1]), ("time", gain[:, :, :1]))
        if not torch.equal(gain, other.expand_as(gain))
    }
    assert found == varies_in
    soft = ((gain > 0.01) & (gain < 0.99)).float().mean()
    assert (soft == 0) == ("--objective.mask.hard" in words)


def test_an_ablation_can_be_trained(run: Run, tiny_corpus: Path, tmp_path: Path) -> None:
    words = ["pretrain", *TINY, "--corpus", tiny_corpus, "--quiet", f"{MAP}hard=true"]
    words += [f"{MAP}kinds", "{time: 1, frequency: 0, time_frequency: 0}"]
    assert run(*words, "--out", tmp_path / "run") == (0, "", "")
    with np.load(tmp_path / "run" / "example.npz", allow_pickle=False) as example:
        gain = example["gain"]
    assert (gain == gain[:1]).all()
    assert set(np.unique(gain)) == {0, 1}


def test_the_installed_command_prints_nothing_odd(tiny_corpus: Path, tmp_path: Path) -> None:
    """No warning of a library reaches the user, and stdout holds what was promised."""
    words = ["pretrain", *TINY, "--corpus", str(tiny_corpus), "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [COMMAND, *words, "--workers", "1", "--device", "cpu"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    course, ready = done.stdout.splitlines()
    assert course.startswith("3 steps in ")
    assert "; waited for data " in course
    assert ready.startswith(f"{tmp_path / 'run' / 'checkpoint'}: ready.")
    # the bar alone, which is drawn again and again on one line
    assert all("/3 [" in line for line in done.stderr.replace("\r", "\n").splitlines() if line)
    assert "warn" not in done.stderr.lower()


def test_the_installed_command_refuses_with_status_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [COMMAND, "prepare", tmp_path, "--out", tmp_path / "c"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"berger: {tmp_path}: holds no recording (.edf, .rec, .bdf,")
    assert line.endswith("give another folder.")


# looking


def test_help_and_version(run: Run) -> None:
    assert run("--version") == (0, f"{__version__}\n", "")
    for words in ((), ("--help",), ("-h",)):
        outcome = run(*words)
        assert outcome.status == 0
        for command in ("demo", "prepare", "corpus", "pretrain", "adapt", "embed", "predict"):
            assert command in outcome.out
    assert "verify" in run("corpus").out
    shown = run("pretrain", "--help").out
    for option in ("--corpus", "--out", "--resume", "--seed", "--device", "--workers", "--quiet"):
        assert option in shown


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("models", ["spechinet  ", "2,925,764 parameters", "spechinet-small"]),
        ("tasks", ["eegmat", "2 classes, windows of 5 s", "human    36      open"]),
        ("configs", ["probe", "adaptation", "specmoe", "preparation", "spechinet-demo"]),
    ],
)
def test_lists(command: str, words: list[str], run: Run) -> None:
    outcome = run(command)
    assert (outcome.status, outcome.err) == (0, "")
    assert all(word in outcome.out for word in words)


def test_a_task_with_what_others_have_published(run: Run, tmp_path: Path) -> None:
    example = Path(__file__).parents[1] / "docs" / "tasks" / "hypnogram.yaml"
    result = "{model: theirs, metric: kappa, value: 0.5, spread: 0.02, split: by person, source: X}"
    task = tmp_path / "night.yaml"
    task.write_text(f"{example.read_text()}published: [{result}]\n")
    outcome = run("tasks", task)
    assert (outcome.status, outcome.err) == (0, "")
    assert "hypnogram   W, R, N1, N2, N3" in outcome.out
    assert "theirs: kappa 0.5 ± 0.02 (not measured by Berger; by person; X)" in outcome.out
    assert run("tasks", "nothing").status == 2


def test_a_folder_is_compared_with_the_facts_of_a_task(
    run: Run, tmp_path: Path, tiny_recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = (tiny_recordings.parent / "task.yaml").read_text()
    task = tmp_path / "mine.yaml"
    task.write_text(f"{told}facts: {{version: '1', recordings: 6, subjects: 6}}\n")
    outcome = run("tasks", task)  # a file of one's own is compared where --data asks for it
    assert (outcome.status, outcome.err) == (0, "")
    assert "version     1" in outcome.out
    assert "found" not in outcome.out
    outcome = run("tasks", task, "--data", tiny_recordings.parent)
    assert outcome.status == 0
    assert "6/6" in outcome.err  # the progress bar
    assert re.search(r"^recordings +6 +6 +yes$", outcome.out, re.MULTILINE)
    folder = tmp_path / "part" / "recordings"
    shutil.copytree(tiny_recordings, folder)
    damaged, *others = sorted(folder.glob("*.edf"))
    others[-1].unlink()
    damaged.write_bytes(damaged.read_bytes()[:-3])
    outcome = run("tasks", task, "--data", folder.parent, "--quiet")
    assert outcome.status == 2
    assert re.search(r"^recordings +6 +5 +NO$", outcome.out, re.MULTILINE)
    fault, difference = outcome.err.splitlines()
    assert fault.startswith(f"berger: cannot be used: {damaged}: cut short: it holds")
    assert "differs from the facts of eyes 1 (recordings: 5, not 6; " in difference
    assert "nothing there fits" in run("tasks", "eegmat", "--data", tmp_path).err
    # of a shipped task, the folder below $BERGER_DATA is
    monkeypatch.setenv("BERGER_DATA", str(tmp_path))
    assert run("tasks", "hmc").status == 0
    (tmp_path / "hmc").mkdir()
    assert f"{tmp_path / 'hmc'}: nothing there fits" in run("tasks", "hmc").err


def test_work_with_a_part_of_a_data_set_goes_on_and_says_so(
    run: Run, tmp_path: Path, tiny_recordings: Path
) -> None:
    folder = tiny_recordings.parent
    told = (folder / "task.yaml").read_text()
    task, config = tmp_path / "mine.yaml", tmp_path / "evaluation.yaml"
    task.write_text(f"{told}facts: {{recordings: 8}}\n")
    models, tasks = {"mine": {"checkpoint": "none"}}, {"eyes": {"task": str(task)}}
    content = {"models": models, "tasks": tasks, "adaptations": {"probe": {}}}
    config.write_text(yaml.safe_dump(content))
    adapt = ("adapt", "probe", "--checkpoint", "none", "--task", task, "--data", folder)
    evaluate = ("evaluate", config, f"--tasks.eyes.data={folder}")
    for words in (adapt, evaluate):
        outcome = run(*words, "--out", tmp_path / "out", "--device", "cpu")
        part, stopped = outcome.err.splitlines()
        assert part.startswith(f"berger: {folder}: has 6 of the 8 recordings of eyes; see `berger")
        assert outcome.status == 2
        assert "none: no such folder" in stopped or "all 12 cells failed" in stopped


def test_print_config_shows_what_would_run_and_stops(run: Run, tmp_path: Path) -> None:
    outcome = run(
        *("pretrain", "spechinet-demo", "--corpus", "none", "--out", tmp_path / "run"),
        *("--print-config", "--training.steps", 7, "--training.optimizer.lr=3e-4", "--seed=5"),
        *("--model.zero-start", "false", "--objective.mask.bands", "{theta: 1.0}"),
    )
    assert outcome.status == 0
    shown = yaml.safe_load(outcome.out)
    assert shown["training"]["steps"] == 7
    assert shown["training"]["optimizer"]["lr"] == 3e-4
    assert shown["seed"] == 5
    assert shown["model"]["zero_start"] is False
    assert shown["objective"]["mask"]["bands"] == {"theta": 1.0}
    assert not (tmp_path / "run").exists()
    # what is shown is itself a configuration, of the same run
    file = tmp_path / "shown.yaml"
    file.write_text(outcome.out)
    again = run("pretrain", file, "--corpus", "none", "--out", "x", "--print-config")
    assert again.out == outcome.out


@pytest.mark.parametrize("spelling", [["--notch", "50"], ["--notch=50"]])
def test_both_spellings_of_an_override(spelling: list[str], run: Run) -> None:
    outcome = run("prepare", "--out", "x", *spelling, "--cut-start", "5", "--print-config")
    shown = yaml.safe_load(outcome.out)
    assert (shown["notch"], shown["cut_start"]) == (50, 5)


def test_names_that_users_choose_keep_their_dashes(run: Run) -> None:
    outcome = run(
        *("evaluate", "eegmat", "--out", "x", "--print-config", "--tasks.eegmat.data", "there"),
        *("--models.my-dare.model", "dare-nano", "--network-training.batch-size", 8),
    )
    shown = yaml.safe_load(outcome.out)
    assert list(shown["models"]) == ["spechinet-small", "dare-nano", "my-dare"]
    assert shown["network_training"]["batch_size"] == 8


def test_the_seed_of_the_command_wins(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 1\n")
    words = ("adapt", file, "--checkpoint", "c", "--task", "t", "--out", "o", "--print-config")
    assert yaml.safe_load(run(*words).out)["seed"] == 1
    assert yaml.safe_load(run(*words, "--seed", 2).out)["seed"] == 2
    assert yaml.safe_load(run(*words, "--seed=3").out)["seed"] == 3


# what cannot be done: recordings


@pytest.fixture
def broken(tiny_recordings: Path, tmp_path: Path) -> Path:
    """Files that cannot be used, each for another reason."""
    folder = tmp_path / "broken"
    folder.mkdir()
    content = (tiny_recordings / "sub-02_eyes.edf").read_bytes()
    (folder / "truncated.edf").write_bytes(content[: len(content) // 2])
    (folder / "header.edf").write_bytes(content[:1000])
    (folder / "mangled.edf").write_bytes(content.replace(b"\n", b"\r\n"))
    (folder / "empty.edf").write_bytes(b"")
    rng = np.random.default_rng(0)
    heart = edfio.EdfSignal(rng.normal(size=2000), 100, label="ECG", physical_dimension="mV")
    edfio.Edf([heart]).write(folder / "heart.edf")
    return folder


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("truncated.edf", ["truncated.edf: ", "again"]),
        ("header.edf", ["header.edf: ", "header is damaged"]),
        ("empty.edf", ["empty.edf: "]),
        ("heart.edf", ["heart.edf: ", "no EEG channel"]),
    ],
)
def test_a_broken_recording(
    file: str, words: list[str], refused: Callable[..., str], broken: Path, tmp_path: Path
) -> None:
    text = refused("prepare", broken / file, "--out", tmp_path / "c", "--workers", 1, "--quiet")
    assert all(word in text for word in words), text
    assert text.endswith(".")


def test_the_damaged_recording(
    refused: Callable[..., str], real_data: Path, tmp_path: Path
) -> None:
    text = refused(
        *("prepare", real_data / "corrupt", "--out", tmp_path / "c"),
        *("--workers", 1, "--quiet"),
    )
    assert "S001R04_crlf_mangled.edf: damaged by line-ending conversion" in text
    assert "fetch it again in binary mode" in text


def test_other_recordings_go_on(
    run: Run, broken: Path, tiny_recordings: Path, tiny_adaptation: Path, tmp_path: Path
) -> None:
    """Failures are said, stand in a table, and the command is done."""
    shutil.copy(tiny_recordings / "sub-02_eyes.edf", broken)
    n_broken = len(list(broken.iterdir())) - 1
    corpus = tmp_path / "corpus"
    prepared = run(
        *("prepare", broken, "--out", corpus, "--workers", 1),
        *("--sfreq=100", "--highpass=1", "--lowpass=40", "--quiet"),
    )
    assert prepared.status == 0
    assert prepared.err.count("berger: left out ") == n_broken
    rows = open_corpus(corpus).recordings.set_index("recording")
    assert (rows["status"] == "failed").sum() == n_broken
    assert rows.loc["broken/sub-02_eyes.edf", "status"] == "ok"
    assert all(rows[rows["status"] == "failed"]["reason"].str.len() > 20)

    for command, out, table in (
        ("embed", tmp_path / "f.parquet", tmp_path / "f-failures.csv"),
        ("predict", tmp_path / "p", tmp_path / "p" / "failures.csv"),
    ):
        checkpoint = tiny_adaptation / "checkpoint"
        used = run(command, broken, "--checkpoint", checkpoint, "--out", out, "--quiet")
        assert used.status == 0
        assert used.err.count("berger: left out ") == n_broken
        assert len(pd.read_csv(table)) == n_broken


def test_very_many_failures_are_not_all_printed(run: Run, broken: Path, tmp_path: Path) -> None:
    for number in range(30):
        (broken / f"more-{number:02}.edf").write_bytes(b"")
    outcome = run("prepare", broken, "--out", tmp_path / "c", "--workers", 1, "--quiet")
    assert outcome.status == 2  # none at all can be used
    assert len(outcome.err) < 2000


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("prepare {empty} --out {out}", "{empty}: holds no recording (.edf, .rec, .bdf,"),
        ("prepare {empty}/no.edf --out {out}", "{empty}/no.edf: does not exist; correct the path."),
        ("prepare --out {out}", "prepare: no recordings given; name files or folders before --out"),
        ("prepare {raw}", "--out requires an argument"),
        ("prepare {raw} --out {task}", "{task}: is a file, but the corpus needs a folder; choose"),
        ("prepare {raw} --out {raw}", "{raw}: is not empty and no corpus; choose another folder."),
        ("prepare {raw} --out {out} --workers -1", 'Invalid value "-1" for --workers'),
        ("prepare {raw} --out {out} --executor dask", "of its scheduler (tcp://HOST:PORT) go toge"),
        (
            "prepare {raw} --out {out} --executor dask --workers 2",
            "--workers: a cluster has as many",
        ),
        ("embed --checkpoint {run} --out {out}", "no recordings given; name files or folders."),
        (
            "embed {empty} --checkpoint {run} --out {out}",
            "{empty}: holds no recording (.edf, .rec, .bdf,",
        ),
        ("embed {raw} --checkpoint {run} --out {empty}", "{empty}: Is a directory"),
        ("corpus info {empty}", "{empty}: is no corpus (no manifest.json); make one by `berger pr"),
        ("corpus verify {empty}", "{empty}: is no corpus (no manifest.json)"),
        ("report {empty}", "{empty}: nothing to report"),
        # configurations
        ("prepare {raw} --out {out} --sfreqq 3", "Unknown option: --sfreqq. Did you mean --sfreq?"),
        ("prepare {raw} --out {out} --high-pass=1", "Did you mean --highpass?"),
        ("prepare {raw} --out {out} --sfreq fast", "'sfreq' = 'fast': input should be a valid nu"),
        ("prepare {raw} --out {out} --sfreq", "--sfreq: needs a value."),
        ("prepare {raw} --out {out} --lowpass 300", "lowpass must lie below half of sfreq, 100 Hz"),
        ("prepare {raw} --out {out} --config specmo", "did you mean 'specmoe'?"),
        ("prepare {raw} --out {out} --config no", "no: neither a YAML file nor a shipped config"),
        ("prepare {raw} --out {out} --config {bad}", "{bad}: not readable as YAML"),
        (
            "pretrain spechinet-demo --corpus {corpus} --out {out} --training.stepss 3",
            "spechinet-demo: unknown key 'training.stepss'; did you mean 'training.steps'?",
        ),
        (
            "pretrain spechinet-demo --corpus {corpus} --out {out} --training.steps --quiet",
            "--training.steps: needs a value.",
        ),
        (
            "pretrain spechinet-demo --corpus {corpus} --out {out} --training.steps many",
            "'training.steps' = 'many': input should be a valid integer",
        ),
        (
            "pretrain {unknown} --corpus {corpus} --out {out}",
            "{unknown}: unknown key 'model.heads'; did you mean 'model.n_heads'?",
        ),
        # corpora and checkpoints
        (
            "pretrain spechinet-demo --corpus {corpus} --out {out}",
            "{corpus}: sampled at 100 Hz, but the model was made for 200 Hz; prepare the record",
        ),
        ("pretrain spechinet-demo --corpus {empty} --out {out}", "{empty}: is no corpus"),
        (
            "pretrain spechinet-demo --corpus {corpus} --out {out} --resume --model.sfreq 100",
            "{out}: nothing to resume there; start without --resume.",
        ),
        (
            "adapt probe --checkpoint {empty} --task {task} --corpus {corpus} --out {out}",
            "{empty}: not a complete checkpoint, config.json and model.safetensors and proven",
        ),
        (
            "adapt probe --checkpoint {run} --task eegmta --out {out}",
            "eegmta: neither a YAML file nor a shipped task; did you mean 'eegmat'?",
        ),
        (
            "adapt prob --checkpoint {run} --task eegmat --out {out}",
            "prob: neither a YAML file nor a shipped configuration; did you mean 'probe'?",
        ),
        (
            "adapt probe --checkpoint {run} --task eegmat --data {empty} --out {out}",
            "{empty}: nothing there fits Subject*.edf; give the folder that holds",
        ),
        (
            "predict {raw} --checkpoint {run} --out {out}",
            "{run}: is not adapted to a task; run `berger adapt` first.",
        ),
        (
            "pretrain specmoe-small --corpus {corpus} --out {out} --model.sfreq 100 --expert 3",
            "--expert 3: there are 0 to 2; see `experts` in the configuration.",
        ),
        (
            "pretrain specmoe-small --corpus {corpus} --out {out} --expert -1",
            'Invalid value "-1" for --expert. Must be >= 0.',
        ),
        ("assemble --out {out}", "no experts given; name their checkpoints before --out."),
        ("assemble {run} {run} --out {out}", "were both trained on part 0; give one expert of"),
        ("assemble {run} {empty} --out {out}", "{empty}: not a complete checkpoint, config.json"),
        ("assemble {run} --out {empty}", "{empty}: exists already; choose another folder."),
        # commands
        ("frobnicate", 'Unknown command "frobnicate"'),
        ("corpus frobnicate", 'Unknown command "frobnicate"'),
        ("--frobnicate", "--frobnicate"),
        (
            "models --device gpu",
            'Invalid value "gpu" for --device. Choose from: "auto", "cpu", "cu',
        ),
        ("models --seed -1", 'Invalid value "-1" for --seed. Must be >= 0.'),
        ("models --seed x", 'Invalid value for --seed: unable to convert "x" into int.'),
        ("models too many", "Unused"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    command: str,
    sentence: str,
    refused: Callable[..., str],
    tiny_recordings: Path,
    tiny_corpus: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.yaml").write_text("a: [")
    (tmp_path / "unknown.yaml").write_text("model: {heads: 3}\n")
    places = {
        "raw": tiny_recordings,
        "corpus": tiny_corpus,
        "run": tiny_checkpoint,
        "task": tiny_corpus.parent / "task.yaml",
        "empty": tmp_path / "empty",
        "out": tmp_path / "out",
        "bad": tmp_path / "bad.yaml",
        "unknown": tmp_path / "unknown.yaml",
    }
    words = command.split()
    quiet = ["--quiet"] if words[0] in ("embed", "predict") else []
    text = refused(*(word.format(**places) for word in words), *quiet)
    assert sentence.format(**places) in text
    assert not (tmp_path / "out" / "config.yaml").exists()


@pytest.mark.parametrize("missing", FILES)
@pytest.mark.parametrize("command", ["adapt", "embed", "predict"])
def test_a_checkpoint_with_a_file_missing(
    command: str,
    missing: str,
    refused: Callable[..., str],
    tiny_adaptation: Path,
    tiny_recordings: Path,
    tiny_corpus: Path,
    tmp_path: Path,
) -> None:
    copy = shutil.copytree(tiny_adaptation / "checkpoint", tmp_path / "copy")
    (copy / missing).unlink()
    before: list[object] = [tiny_recordings]
    if command == "adapt":
        before = ["probe", "--task", tiny_corpus.parent / "task.yaml", "--corpus", tiny_corpus]
    text = refused(command, *before, "--checkpoint", copy, "--out", tmp_path / "out")
    assert text.startswith(f"{copy}: not a complete checkpoint, {missing} missing; copy the whole")


@pytest.mark.parametrize("command", ["info", "verify", "pretrain", "adapt", "prepare"])
def test_a_corpus_from_another_format_version(
    command: str,
    refused: Callable[..., str],
    tiny_corpus: Path,
    tiny_recordings: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    copy, out = shutil.copytree(tiny_corpus, tmp_path / "copy"), tmp_path / "out"
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"version": 99}))
    words: dict[str, list[object]] = {
        "info": ["corpus", "info", copy],
        "verify": ["corpus", "verify", copy],
        "pretrain": ["pretrain", "spechinet-demo", "--corpus", copy, "--out", out],
        "adapt": [
            *("adapt", "probe", "--checkpoint", tiny_checkpoint, "--out", out),
            *("--task", tiny_corpus.parent / "task.yaml", "--corpus", copy),
        ],
        "prepare": ["prepare", tiny_recordings, "--out", copy],
    }
    text = refused(*words[command])
    assert "manifest.json: a corpus from another format version (99, this Berger reads" in text
    assert not out.exists()


def test_a_corpus_with_changed_bytes(
    refused: Callable[..., str], tiny_corpus: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_corpus, tmp_path / "copy")
    shard = copy / "shard-00000.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert "shard-00000.npy: is not as it was written" in refused("corpus", "verify", copy)


@pytest.mark.parametrize("command", ["pretrain", "adapt", "embed", "predict"])
def test_a_gpu_that_is_not_there(
    command: str,
    refused: Callable[..., str],
    tiny_recordings: Path,
    tiny_corpus: Path,
    tiny_adaptation: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    task = tiny_corpus.parent / "task.yaml"
    words: dict[str, list[object]] = {
        "pretrain": [*TINY, "--corpus", tiny_corpus],
        "adapt": [
            "probe",
            "--task",
            task,
            "--corpus",
            tiny_corpus,
            "--checkpoint",
            tiny_checkpoint,
        ],
        "embed": [tiny_recordings, "--checkpoint", tiny_checkpoint],
        "predict": [tiny_recordings, "--checkpoint", tiny_adaptation / "checkpoint"],
    }
    text = refused(command, *words[command], "--out", tmp_path / "out", "--device", "cuda")
    assert "torch finds no GPU here" in text


# whose fault


def fail(error: BaseException) -> Callable[[], None]:
    def broken() -> None:
        raise error

    return broken


def test_a_fault_of_ours_is_not_hidden(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reaches the interpreter, which prints the traceback and exits with status 1."""
    monkeypatch.setattr(telling, "shipped_configs", fail(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        run("configs")
    monkeypatch.setattr(telling, "shipped_configs", fail(FileNotFoundError(errno.ENOENT, "?", "x")))
    with pytest.raises(FileNotFoundError):
        run("configs")


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOSPC, errno.EROFS])
def test_a_full_or_closed_disk_is_not_our_fault(
    code: int, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError(code, os.strerror(code), "/data/run.json")
    monkeypatch.setattr(telling, "shipped_configs", fail(error))
    assert refused("configs") == (
        f"/data/run.json: {os.strerror(code)}; free space, or choose another place."
    )


def test_an_interruption_is_no_fault(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "shipped_configs", fail(KeyboardInterrupt()))
    outcome = run("configs")
    assert outcome.status == 130
    assert outcome.err.startswith("berger: interrupted; ")


def test_any_refusal_has_status_2(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "shipped_configs", fail(BergerError("no.")))
    assert refused("configs") == "no."


def test_subjects_of_several_folders_are_told(
    run: Run, tiny_recordings: Path, tmp_path: Path
) -> None:
    files = sorted(tiny_recordings.rglob("*.edf"))[:2]
    for site, file in zip("AB", files, strict=True):
        (tmp_path / site).mkdir()
        shutil.copy(file, tmp_path / site / "s01.edf")
    common = ("--sfreq", 100, "--highpass=1", "--lowpass", 40, "--max-amplitude", "null")
    given = ("prepare", tmp_path / "A", tmp_path / "B", *common, "--workers", 1)
    told = run(*given, "--out", tmp_path / "corpus")
    assert "2 recordings of 1 subjects" in told.out
    assert "berger: several folders (A, B) have recordings of the same subjects (s01)," in told.err
    (cure,) = re.findall(r"e\.g\. '(.*)'", told.err)
    cured = run(*given, "--subject_pattern", cure, "--out", tmp_path / "cured")
    assert "2 recordings of 2 subjects" in cured.out
    assert "several folders" not in cured.err


def test_info_says_hours_by_site(run: Run, tiny_recordings: Path, tmp_path: Path) -> None:
    first = sorted(tiny_recordings.rglob("*.edf"))[0]
    common = ("--sfreq", 100, "--highpass=1", "--lowpass", 40, "--max-amplitude", "null")
    pattern = "(?P<site>[^/]+)/(?P<subject>[^/]+)$"
    for given in ((), ("--subject_pattern", pattern)):
        out = tmp_path / f"corpus{len(given)}"
        run("prepare", first, "--out", out, *common, *given, "--workers", 1)
        hours = open_corpus(out).hours
        line = f"site        {first.parent.name}: {hours:.2f} hours\n"
        assert (line in run("corpus", "info", out).out) == bool(given)
