"""One pretraining run: what it leaves, who was watched, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from berger import load_checkpoint, open_corpus
from berger import pretraining as room
from berger.configuration import load_config
from berger.corpus import Batch, WindowDataset, prepare
from berger.errors import BergerError
from berger.evaluation.decoding import AdaptationConfig, adapt
from berger.inference import embed
from berger.masking.gaussian import mask_signal
from berger.models import (
    DareEEG,
    Features,
    InputContract,
    Reconstruction,
    SpecHiNet,
    SpecHiNetPublished,
)
from berger.objectives.alignment import AlignmentConfig
from berger.objectives.dual_alignment import DualAlignment
from berger.objectives.invariance import OVERLAPS, SAME_STEPS
from berger.objectives.restoration import Restoration, RestorationConfig
from berger.preprocessing import PreprocessingConfig
from berger.pretraining import (
    PretrainingConfig,
    divide,
    expert_seed,
    fresh_objective,
    pretrain,
    windows_mark,
)
from berger.reports import build_report
from berger.simulation import TEN_TWENTY
from berger.spectral import BANDS, band_powers
from berger.tasks import load_task
from berger.training.log import read_log
from berger.training.run import Fitted
from berger.training.state import STATE_FILE, write_state
from berger.watching import restoration_errors, validation_losses, window_errors

SIGNALS = ["masked input", "restored", "fine branch", "coarse branch", "untrained network"]
PREPROCESSING = PreprocessingConfig(sfreq=100, highpass=1, lowpass=40, max_amplitude=None)
Settings = Callable[..., PretrainingConfig]


def record_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "run.json").read_text())
    return content


def looking(config: PretrainingConfig) -> dict[str, int]:
    return {"batch_size": config.training.batch_size, "seed": config.seed}


# what a run leaves


def test_the_files_of_a_run(tiny_run: Path, tiny_pretraining: Settings) -> None:
    assert {path.name for path in tiny_run.iterdir()} == {
        ".lock",
        "config.yaml",
        "run.json",
        "log.jsonl",
        "restoration.parquet",
        "example.npz",
        "checkpoint",
        "state.ckpt",
        "state-before.ckpt",
    }
    assert load_config(PretrainingConfig, tiny_run / "config.yaml") == tiny_pretraining()
    steps = [(line["step"], line["split"]) for line in read_log(tiny_run / "log.jsonl")]
    assert steps == [
        (1, "train"),
        (12, "train"),
        (12, "validation"),
        (24, "train"),
        (24, "validation"),
    ]
    for line in read_log(tiny_run / "log.jsonl"):
        assert {"loss", "mse", "spectral", "auxiliary"} <= set(line)


def test_the_record_of_a_run(tiny_run: Path, tiny_corpus: Path) -> None:
    record, corpus = record_of(tiny_run), open_corpus(tiny_corpus)
    assert record["kind"] == "pretraining"
    assert record["corpus"] == {
        "id": corpus.manifest.id,
        "name": "corpus",
        "hours": corpus.hours,
        "excluded": [],
    }
    assert record["device"] == "cpu"
    assert (record["steps"], record["batch_size"], record["seed"]) == (24, 4, 0)
    assert record["window_seconds"] == 4
    assert record["wall_seconds"] >= 0
    assert {"versions", "command", "hardware", "git_commit", "started"} <= set(record)
    model = load_checkpoint(tiny_run / "checkpoint")
    assert record["n_parameters"] == model.n_parameters
    assert model.provenance == {k: v for k, v in record.items() if k != "wall_seconds"}


def test_nobody_is_trained_and_watched_on(tiny_run: Path, tiny_corpus: Path) -> None:
    people = record_of(tiny_run)["subjects"]
    assert set(people) == {"train", "validation"}
    assert not set(people["train"]) & set(people["validation"])
    assert sorted(people["train"] + people["validation"]) == list(open_corpus(tiny_corpus).subjects)
    table = pd.read_parquet(tiny_run / "restoration.parquet")
    assert set(table["subject"]) == set(people["validation"])


def test_the_trainer_sees_only_people_to_train_on(
    tiny_corpus: Path, tiny_pretraining: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch that reaches the network in training mode is asked whose it is."""
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    forward = Restoration.forward

    def spy(self: Restoration, batch: Any, generator: torch.Generator) -> Any:
        seen[self.training] |= set(batch.subjects)
        return forward(self, batch, generator)

    monkeypatch.setattr(Restoration, "forward", spy)
    config = tiny_pretraining(training__batch_size=16, training__steps=6, seed=3)
    pretrain(config, tiny_corpus, tmp_path / "run", device="cpu", quiet=True)
    people = record_of(tmp_path / "run")["subjects"]
    assert seen[True] == set(people["train"])
    assert seen[False] == set(people["validation"])


def test_the_checkpoint_is_the_last_step(tiny_run: Path, tiny_corpus: Path) -> None:
    model = load_checkpoint(tiny_run / "checkpoint")
    state = torch.load(tiny_run / STATE_FILE, weights_only=True)["objective"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[f"model.{name}"]), name
    assert model.contract.preprocessing == open_corpus(tiny_corpus).manifest.preprocessing
    assert model.contract.window_seconds == 4
    assert model.contract.ch_names is None


def test_the_restoration_table(tiny_run: Path) -> None:
    table = pd.read_parquet(tiny_run / "restoration.parquet")
    assert list(table.columns) == ["subject", "band", "signal", "error"]
    people = record_of(tiny_run)["subjects"]["validation"]
    assert len(table) == len(people) * len(BANDS) * len(SIGNALS)
    assert set(table["band"]) == set(BANDS)
    assert set(table["signal"]) == set(SIGNALS)
    assert np.isfinite(table["error"]).all()
    masked = table[table["signal"] == "masked input"]["error"]
    assert masked.between(0.05, 1.5).all()  # half of the map is hidden
    # a network that starts at zero returns its input before the first step
    untrained = table[table["signal"] == "untrained network"]["error"]
    np.testing.assert_allclose(untrained, masked, rtol=1e-3)


def test_the_example(tiny_run: Path, tiny_corpus: Path, tiny_pretraining: Settings) -> None:
    with np.load(tiny_run / "example.npz", allow_pickle=False) as file:
        example = {name: file[name] for name in file.files}
    assert set(example) == {
        *("clean", "masked", "restored", "gain", "sfreq", "n_fft", "hop"),
        *("ch_names", "subject", "recording", "start"),
    }
    n_chans = len(example["ch_names"])
    for name in ("clean", "masked", "restored"):
        assert example[name].shape == (n_chans, 400)
        assert example[name].dtype == np.float32
    assert example["gain"].shape == (101, 5)
    assert example["gain"].min() >= 0
    assert example["gain"].max() <= 1
    masked = mask_signal(
        torch.from_numpy(example["clean"])[None],
        torch.from_numpy(example["gain"])[None],
        tiny_pretraining().objective.mask,
    )
    np.testing.assert_allclose(masked[0], example["masked"], atol=1e-3)
    assert str(example["subject"]) in record_of(tiny_run)["subjects"]["validation"]
    corpus = open_corpus(tiny_corpus)
    start = round(float(example["start"] * example["sfreq"]))
    np.testing.assert_array_equal(
        corpus.read(str(example["recording"]), start, 400), example["clean"]
    )


# experts on parts of a corpus


@pytest.mark.parametrize("n_parts", [1, 2, 3, 7, 48])
def test_parts_are_disjoint_and_hold_everything(n_parts: int, tiny_corpus: Path) -> None:
    windows = open_corpus(tiny_corpus).windows(4)
    parts = divide(windows, n_parts, seed=5)
    sizes = [len(part) for part in parts]
    assert len(sizes) == n_parts
    assert max(sizes) - min(sizes) <= 1
    joined = pd.concat([part.table for part in parts])
    assert not joined.duplicated(["recording", "start"]).any()
    order = ["recording", "start"]
    pd.testing.assert_frame_equal(
        joined.sort_values(order, ignore_index=True),
        windows.table.sort_values(order, ignore_index=True),
    )
    again = [windows_mark(part.table) for part in divide(windows, n_parts, seed=5)]
    assert again == [windows_mark(part.table) for part in parts]
    if n_parts > 1:
        assert again != [windows_mark(part.table) for part in divide(windows, n_parts, seed=6)]
        assert len(set(again)) == n_parts
    else:
        pd.testing.assert_frame_equal(parts[0].table, windows.table)


def test_the_mark_of_windows_tells_them_apart(tiny_corpus: Path) -> None:
    table = open_corpus(tiny_corpus).windows(4).table
    marks = {
        windows_mark(table),
        windows_mark(table[1:]),
        windows_mark(table[::-1]),
        windows_mark(table.assign(start=table["start"] + 1)),
        windows_mark(table.assign(recording=table["recording"] + "0")),
    }
    assert len(marks) == 5
    assert windows_mark(table.drop(columns="subject")) in marks


def test_experts_start_differently() -> None:
    seeds = [expert_seed(seed, expert) for seed in range(20) for expert in range(20)]
    assert len(set(seeds)) == len(seeds)
    assert [expert_seed(seed, 0) for seed in range(20)] == list(range(20))


def test_an_expert_sees_its_part_only(
    tiny_corpus: Path, tiny_pretraining: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two experts, each on a machine of its own; every window that reaches a network is noted."""
    seen: dict[bool, set[tuple[str, int]]] = {}
    forward = Restoration.forward

    def spy(self: Restoration, batch: Any, generator: torch.Generator) -> Any:
        rows = zip(batch.recordings, batch.starts.tolist(), strict=True)
        seen.setdefault(self.training, set()).update(rows)
        return forward(self, batch, generator)

    monkeypatch.setattr(Restoration, "forward", spy)
    config = tiny_pretraining(experts=2, training__batch_size=8, training__steps=4)
    learned, watched, records = [], [], []
    for expert in range(2):
        seen.clear()
        out = tmp_path / str(expert)
        pretrain(config, tiny_corpus, out, expert=expert, device="cpu", quiet=True)
        learned.append(seen[True])
        watched.append(seen[False])
        records.append(record_of(out))
        part = pd.read_parquet(out / "part.parquet")
        assert list(part.columns) == ["recording", "start"]
        assert seen[True] == set(part.itertuples(index=False, name=None))
        described = records[expert]["part"]
        assert described["windows_sha256"] == windows_mark(part)
        assert (described["expert"], described["experts"]) == (expert, 2)
        assert records[expert]["training_windows"] == len(part)
        model = load_checkpoint(out / "checkpoint")
        assert model.provenance["part"] == described
        assert model.provenance["corpus"]["id"] == open_corpus(tiny_corpus).manifest.id
    assert not learned[0] & learned[1]
    people = records[0]["subjects"]["train"]
    whole = open_corpus(tiny_corpus).windows(4, subjects=people).table
    assert learned[0] | learned[1] == set(
        whole[["recording", "start"]].itertuples(index=False, name=None)
    )
    assert watched[0] == watched[1]
    assert records[0]["subjects"] == records[1]["subjects"]
    assert records[0]["part"]["divided_sha256"] == records[1]["part"]["divided_sha256"]
    # neither the start nor the masks are shared
    first = [next(iter(read_log(tmp_path / str(e) / "log.jsonl")))["loss"] for e in range(2)]
    assert first[0] != first[1]


def test_the_only_expert_has_everything(tiny_run: Path) -> None:
    part = record_of(tiny_run)["part"]
    assert (part["expert"], part["experts"]) == (0, 1)
    assert part["windows_sha256"] == part["divided_sha256"]


@pytest.mark.parametrize(
    ("experts", "expert", "words"),
    [
        (3, None, "the configuration has 3 experts; say which by --expert."),
        (3, 3, "--expert 3: there are 0 to 2; see `experts`"),
        (3, -1, "--expert -1: there are 0 to 2; see `experts`"),
        (1, 1, "--expert 1: there is 0; see `experts`"),
        (99, 0, "windows to train on, too few for 99 experts; choose fewer experts or shorter"),
    ],
)
def test_experts_that_there_cannot_be(
    experts: int,
    expert: int | None,
    words: str,
    tiny_corpus: Path,
    tiny_pretraining: Settings,
    tmp_path: Path,
) -> None:
    config = tiny_pretraining(experts=experts)
    with pytest.raises(BergerError) as caught:
        pretrain(config, tiny_corpus, tmp_path / "run", expert=expert, quiet=True)
    assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_another_expert_is_not_resumed(
    tiny_corpus: Path, tiny_pretraining: Settings, tmp_path: Path
) -> None:
    config = tiny_pretraining(experts=2, training__steps=1)
    pretrain(config, tiny_corpus, tmp_path, expert=0, device="cpu", quiet=True)
    before = (tmp_path / "part.parquet").read_bytes()
    with pytest.raises(BergerError, match="other windows; resume with the same corpus and expert"):
        pretrain(config, tiny_corpus, tmp_path, expert=1, resume=True, device="cpu", quiet=True)
    assert (tmp_path / "part.parquet").read_bytes() == before


# laws of the restoration error


def errors_with(
    corpus: Path,
    config: PretrainingConfig,
    reconstruct: Callable[[Tensor], tuple[Tensor, Tensor]],
    *,
    unmasked: bool = False,
) -> pd.DataFrame:
    """The table of a model that answers as told, one row a signal and band, all people alike."""
    objective = Restoration(SpecHiNet(config.model), config.objective)

    def answer(masked: Tensor, times: Tensor, ch_names: tuple[str, ...]) -> Reconstruction:
        fine, coarse = reconstruct(masked)
        return Reconstruction({"fine": fine, "coarse": coarse}, Features(masked, masked))

    objective.model.reconstruct = answer  # type: ignore[method-assign]
    if unmasked:
        objective.mask = lambda clean, *_: (clean, clean)  # type: ignore[method-assign]
    windows = open_corpus(corpus).windows(4).take(np.arange(0, 24, 3))
    return restoration_errors(window_errors(objective, windows, **looking(config)))


@pytest.mark.parametrize(("factor", "error"), [(0.0, 1.0), (1.0, 0.0), (0.5, 0.25), (-1.0, 4.0)])
def test_silence_has_one_and_perfection_zero(
    factor: float, error: float, tiny_corpus: Path, tiny_pretraining: Settings
) -> None:
    table = errors_with(
        tiny_corpus, tiny_pretraining(), lambda x: (factor * x, factor * x), unmasked=True
    )
    restored = table[table["signal"].isin(["restored", "fine branch", "coarse branch"])]
    np.testing.assert_allclose(restored["error"], error, rtol=1e-5, atol=1e-10)
    np.testing.assert_allclose(table[table["signal"] == "masked input"]["error"], 0, atol=1e-10)


def test_the_restored_signal_is_the_mean_of_both_branches(
    tiny_corpus: Path, tiny_pretraining: Settings
) -> None:
    table = errors_with(
        tiny_corpus, tiny_pretraining(), lambda x: (2 * x, torch.zeros_like(x)), unmasked=True
    )
    for signal, error in (("fine branch", 1), ("coarse branch", 1), ("restored", 0)):
        found = table[table["signal"] == signal]["error"]
        np.testing.assert_allclose(found, error, rtol=1e-5, atol=1e-10)


def test_the_error_of_the_masked_input_by_hand(
    tiny_corpus: Path, tiny_pretraining: Settings
) -> None:
    config = tiny_pretraining()
    table = errors_with(tiny_corpus, config, lambda x: (x, x)).set_index(
        ["subject", "band", "signal"]
    )["error"]
    objective = Restoration(SpecHiNet(config.model), config.objective)
    generator = torch.Generator().manual_seed(config.seed + 1)
    windows = open_corpus(tiny_corpus).windows(4).take(np.arange(0, 24, 3))
    sums: dict[tuple[str, str], list[float]] = {}
    for batch in windows.batches(config.training.batch_size):
        clean = batch.signal()
        masked, _ = objective.mask(clean, generator)
        for index, subject in enumerate(batch.subjects):
            error, power = (band_powers(x[index], batch.sfreq) for x in (masked - clean, clean))
            for band in BANDS:
                both = sums.setdefault((subject, band), [0.0, 0.0])
                both[0] += float(error[band].sum())
                both[1] += float(power[band].sum())
    assert len(sums) >= 2 * len(BANDS)
    for (subject, band), (error_sum, power_sum) in sums.items():
        expected = error_sum / power_sum
        for signal in ("masked input", "restored"):
            assert table[subject, band, signal] == pytest.approx(expected, rel=1e-4)


def test_looking_does_not_change_what_is_learned(
    tiny_corpus: Path, tiny_pretraining: Settings
) -> None:
    """The same masks at every look, and the global generator left as it was."""
    config = tiny_pretraining()
    objective = Restoration(SpecHiNet(config.model), config.objective).eval()
    windows = open_corpus(tiny_corpus).windows(4).take(np.arange(7))
    before = torch.get_rng_state()
    first, second = (validation_losses(objective, windows, **looking(config)) for _ in range(2))
    assert first == second
    assert torch.equal(before, torch.get_rng_state())
    each = [windows.take(np.array([number])) for number in range(2)]
    alone = [validation_losses(objective, one, **looking(config)) for one in each]
    assert alone[0] != alone[1]


def test_the_example_is_the_window_with_the_median_error(
    tiny_run: Path, tiny_corpus: Path, tiny_pretraining: Settings
) -> None:
    config, corpus = tiny_pretraining(), open_corpus(tiny_corpus)
    model = load_checkpoint(tiny_run / "checkpoint")
    assert isinstance(model, SpecHiNet)
    validation = corpus.windows(4, subjects=record_of(tiny_run)["subjects"]["validation"])
    watched = validation.take(np.linspace(0, len(validation) - 1, 6).round().astype(int))
    errors = window_errors(Restoration(model, config.objective), watched, **looking(config))
    sums = errors[errors["signal"] == "restored"].groupby("window")[["error", "power"]].sum()
    ordered = (sums["error"] / sums["power"]).sort_values().index
    with np.load(tiny_run / "example.npz") as example:
        shown = (str(example["recording"]), round(float(example["start"]) * 100))
    row = watched.table.iloc[ordered[3]]
    assert shown == (row["recording"], row["start"])


# resuming


def test_an_interrupted_run_ends_alike(
    tiny_run: Path,
    tiny_corpus: Path,
    tiny_pretraining: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, looks = tmp_path / "run", iter("ab")

    def interrupted(*arguments: Any, **how: Any) -> dict[str, float]:
        if next(looks) == "b":
            raise KeyboardInterrupt
        return validation_losses(*arguments, **how)

    with monkeypatch.context() as patch:
        patch.setattr(room, "validation_losses", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tiny_pretraining(), tiny_corpus, out, device="cpu", quiet=True)
    assert not (out / "checkpoint").exists()
    with pytest.raises(BergerError, match="holds a run already; continue it with --resume or"):
        pretrain(tiny_pretraining(), tiny_corpus, out, device="cpu", quiet=True)
    pretrain(tiny_pretraining(), tiny_corpus, out, resume=True, device="cpu", quiet=True)
    for name in ("checkpoint/model.safetensors", "restoration.parquet", "config.yaml"):
        assert (out / name).read_bytes() == (tiny_run / name).read_bytes(), name
    losses = [[line["loss"] for line in read_log(run / "log.jsonl")] for run in (out, tiny_run)]
    assert losses[0] == losses[1]


def test_resuming_with_another_configuration_is_refused(
    tiny_run: Path, tiny_corpus: Path, tiny_pretraining: Settings
) -> None:
    other = tiny_pretraining(training__optimizer__lr=0.5, seed=1)
    before = (tiny_run / "config.yaml").read_bytes()
    with pytest.raises(BergerError) as caught:
        pretrain(other, tiny_corpus, tiny_run, resume=True, device="cpu", quiet=True)
    text = str(caught.value)
    assert "was started with another configuration" in text
    assert "(seed: 0 → 1; training.optimizer.lr: 0.001 → 0.5)" in text
    assert (tiny_run / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("content", ["model: {depth: 3}\n", "a: [\n"])
def test_resuming_what_another_berger_began_is_refused(
    content: str, tiny_corpus: Path, tiny_pretraining: Settings, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(BergerError, match=r"config\.yaml: "):
        pretrain(tiny_pretraining(), tiny_corpus, tmp_path, resume=True, quiet=True)


def test_nothing_to_resume(tiny_corpus: Path, tiny_pretraining: Settings, tmp_path: Path) -> None:
    with pytest.raises(BergerError, match="nothing to resume there; start without --resume"):
        pretrain(tiny_pretraining(), tiny_corpus, tmp_path / "run", resume=True, quiet=True)


def test_a_run_that_ended_before_its_first_state_can_be_started_again(
    tiny_corpus: Path, tiny_pretraining: Settings, tmp_path: Path
) -> None:
    out, config = tmp_path / "run", tiny_pretraining(training__steps=1)
    out.mkdir()
    (out / "config.yaml").write_text("seed: 9\n")
    with pytest.raises(BergerError, match="another configuration"):
        pretrain(config, tiny_corpus, out, resume=True, device="cpu", quiet=True)
    pretrain(config, tiny_corpus, out, device="cpu", quiet=True)
    assert load_config(PretrainingConfig, out / "config.yaml") == config


# what is refused, before anything is written


def test_a_folder_that_holds_a_run_is_refused(
    tiny_run: Path, tiny_adaptation: Path, tiny_corpus: Path, tiny_pretraining: Settings
) -> None:
    for folder in (tiny_run, tiny_adaptation):
        before = (folder / "config.yaml").read_bytes(), {*folder.iterdir()}
        with pytest.raises(BergerError, match="holds a run already"):
            pretrain(tiny_pretraining(), tiny_corpus, folder, device="cpu", quiet=True)
        assert ((folder / "config.yaml").read_bytes(), {*folder.iterdir()}) == before


def test_one_person_is_too_few(
    tiny_recordings: Path, tiny_pretraining: Settings, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    (tmp_path / "raw").mkdir()
    shutil.copy(tiny_recordings / "sub-02_eyes.edf", tmp_path / "raw")
    prepare([tmp_path / "raw"], corpus, PREPROCESSING, progress=False)
    with pytest.raises(
        BergerError, match=r"recordings of sub-02 only; pretraining .* set validation_by: time to"
    ):
        pretrain(tiny_pretraining(), corpus, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("window_step", [None, 1.0])
def test_time_that_is_watched_is_the_end_of_every_recording(
    window_step: float | None,
    tiny_corpus: Path,
    tiny_pretraining: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[WindowDataset] = []
    watched: list[WindowDataset] = []

    def fit(
        objective: Any, windows: WindowDataset, _: Any, out: Path, *, validate: Any, **__: Any
    ) -> Fitted:
        trained.append(windows)
        validate()
        write_state(out, {"objective": objective.state_dict()})
        return Fitted(0, 0, 0.0, 0.0)

    def losses(objective: Any, windows: WindowDataset, **_: int) -> dict[str, float]:
        watched.append(windows)
        return {"loss": 0.0}

    monkeypatch.setattr(room, "fit", fit)
    monkeypatch.setattr(room, "validation_losses", losses)
    config = tiny_pretraining(
        validation_by="time", window_step=window_step, max_validation_windows=1000
    )
    pretrain(config, tiny_corpus, tmp_path / "run", device="cpu", quiet=True)
    corpus = open_corpus(tiny_corpus)
    lengths = dict(zip(corpus.recordings["recording"], corpus.recordings["n_times"], strict=True))
    learned, seen = (
        {name: rows["start"].to_numpy() for name, rows in windows.table.groupby("recording")}
        for windows in (trained[0], watched[0])
    )
    assert set(learned) == set(seen) == set(lengths)
    for name, n_times in lengths.items():
        border = n_times * (1 - config.validation_share)
        assert learned[name].max() + 400 <= border + 1  # 4 s at 100 Hz
        assert seen[name].min() >= border
    record = record_of(tmp_path / "run")
    assert record["subjects"] == {"train": list(corpus.subjects), "validation": []}
    assert record["validation_by"] == "time"


def test_time_that_is_too_short_to_watch(
    tiny_corpus: Path, tiny_pretraining: Settings, tmp_path: Path
) -> None:
    config = tiny_pretraining(validation_by="time", validation_share=0.1)
    with pytest.raises(BergerError, match="no window of 4 s lies within the last 10% of"):
        pretrain(config, tiny_corpus, tmp_path / "run", device="cpu", quiet=True)
    config = tiny_pretraining(validation_by="time", validation_share=0.95)
    with pytest.raises(BergerError, match="no window of 4 s lies within all but the last 95% of"):
        pretrain(config, tiny_corpus, tmp_path / "run", device="cpu", quiet=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__sfreq": 200}, "sampled at 100 Hz, but the model was made for 200 Hz; prepare"),
        ({"window_seconds": 60}, "no usable stretch holds a window of 60 s"),
        ({"window_seconds": 4.001}, "400.1 samples at 100 Hz"),
    ],
)
def test_what_does_not_fit_leaves_no_run(
    changes: dict[str, float],
    words: str,
    tiny_corpus: Path,
    tiny_pretraining: Settings,
    tmp_path: Path,
) -> None:
    with pytest.raises(BergerError) as caught:
        pretrain(tiny_pretraining(**changes), tiny_corpus, tmp_path / "run", quiet=True)
    assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_another_corpus_is_not_resumed_on(
    tiny_run: Path,
    tiny_recordings: Path,
    tiny_pretraining: Settings,
    tmp_path: Path,
) -> None:
    run, corpus = tmp_path / "run", tmp_path / "corpus"
    shutil.copytree(tiny_run, run)
    files = sorted(tiny_recordings.glob("*.edf"))[:5]
    prepare(files, corpus, PREPROCESSING, progress=False)
    with pytest.raises(BergerError, match="was started on other windows"):
        pretrain(tiny_pretraining(), corpus, run, resume=True, device="cpu", quiet=True)


def test_the_published_layout_learns_to_restore_too(
    tiny_corpus: Path, tiny_pretraining: Callable[..., Any], tmp_path: Path
) -> None:
    """With the same options as the other layout, so that both can be trained alike."""
    alike = {"model__name": "spechinet-published", "objective__auxiliary_weights": [0, 0]}
    config = tiny_pretraining(**alike, training__steps=4, model__dropout=0)
    pretrain(config, tiny_corpus, tmp_path / "run", device="cpu", quiet=True)
    model = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert isinstance(model, SpecHiNetPublished)
    errors = pd.read_parquet(tmp_path / "run" / "restoration.parquet")
    untrained = errors[errors["signal"] == "untrained network"]["error"].to_numpy()
    masked = errors[errors["signal"] == "masked input"]["error"].to_numpy()
    np.testing.assert_allclose(untrained, masked, rtol=1e-4)  # a zero start
    restored = errors[errors["signal"] == "restored"]["error"].to_numpy()
    assert not np.allclose(restored, masked, rtol=1e-4)


def test_auxiliary_heads_of_the_published_layout_have_no_targets(
    tiny_pretraining: Callable[..., Any],
) -> None:
    with pytest.raises(BergerError, match=r"objective.auxiliary_weights to \[0, 0\]"):
        tiny_pretraining(model__name="spechinet-published")


# composed: DARE-EEG that restores, SpecHi-Net that aligns


COMPOSED: dict[str, dict[str, Any]] = {
    "dare-restoration": {
        "model.patch_size": 50,
        "model.embed_dim": 16,
        "model.n_heads": 2,
        "objective.n_chans": 6,
    },
    "spechinet-aligned": {
        "model.stem_dim": 4,
        "model.embed_dim": 8,
        "model.bottleneck_dim": 8,
        "model.n_heads": 2,
        "objective.n_chans": 4,
        "objective.momentum": [0.5, 0.9],
    },
}


def composed(name: str, **changes: object) -> PretrainingConfig:
    """A shipped configuration, small."""
    fields: dict[str, Any] = {
        **COMPOSED[name],
        "model.sfreq": 100,
        "objective.mask.n_fft": 200,
        "objective.mask.hop": 100,
        "window_seconds": 4,
        "window_step": None,
        "validation_share": 0.34,
        "max_validation_windows": 6,
        "training.steps": 8,
        "training.batch_size": 4,
        "training.log_every": 4,
        "training.validate_every": 4,
        "training.save_every": 4,
    }
    fields |= {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(PretrainingConfig, name, fields)


@pytest.fixture(scope="module", params=list(COMPOSED))
def composed_run(
    request: pytest.FixtureRequest, tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of each, on people of two montages; the folder has the configuration's name."""
    out = tmp_path_factory.mktemp("composed") / str(request.param)
    pretrain(composed(out.name), tiny_corpus, out, device="cpu", quiet=True)
    return out


def test_what_a_composed_run_leaves(composed_run: Path) -> None:
    aligned = composed_run.name == "spechinet-aligned"
    table = pd.read_parquet(composed_run / "restoration.parquet")
    assert set(table["signal"]) == set(SIGNALS if aligned else (*SIGNALS[:2], SIGNALS[-1]))
    assert np.isfinite(table["error"]).all()
    by_signal = {name: rows["error"].to_numpy() for name, rows in table.groupby("signal")}
    # both start from the masked input
    masked, untrained = by_signal["masked input"], by_signal["untrained network"]
    np.testing.assert_allclose(untrained, masked, rtol=1e-3)
    assert not np.allclose(by_signal["restored"], masked, rtol=1e-3)
    with np.load(composed_run / "example.npz", allow_pickle=False) as example:
        assert example["masked"].shape == example["restored"].shape == example["clean"].shape
    terms = {"mse", "spectral", "auxiliary"} | ({"anchor", "mask_alignment"} if aligned else set())
    measured = {"feature_std", "effective_rank", "retrieval", "anchor_unexplained"}
    for line in read_log(composed_run / "log.jsonl"):
        assert line["loss"] == pytest.approx(sum(line[term] for term in terms), rel=1e-5)
        wanted = measured if aligned else {"feature_std", "effective_rank"}
        assert measured & set(line) == (wanted if line["split"] == "validation" else set())


def test_the_checkpoint_of_a_composed_run_is_the_trained_model(composed_run: Path) -> None:
    model = load_checkpoint(composed_run / "checkpoint")
    assert isinstance(model, DareEEG if "dare" in composed_run.name else SpecHiNet)
    state = torch.load(composed_run / STATE_FILE, weights_only=True)["objective"]
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, state[f"model.{name}"]), name
    assert record_of(composed_run)["n_parameters"] == model.n_parameters


def test_an_interrupted_composed_run_ends_alike(
    composed_run: Path, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The momentum copy goes on from where it was."""
    config, out, looks = composed(composed_run.name), tmp_path / "run", iter("ab")

    def interrupted(*arguments: Any, **how: Any) -> dict[str, float]:
        if next(looks) == "b":
            raise KeyboardInterrupt
        return validation_losses(*arguments, **how)

    with monkeypatch.context() as patch:
        patch.setattr(room, "validation_losses", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, tiny_corpus, out, device="cpu", quiet=True)
    pretrain(config, tiny_corpus, out, resume=True, device="cpu", quiet=True)
    for name in ("checkpoint/model.safetensors", "restoration.parquet", "config.yaml"):
        assert (out / name).read_bytes() == (composed_run / name).read_bytes(), name
    before, after = (torch.load(run / STATE_FILE, weights_only=True) for run in (composed_run, out))
    for name, weight in before["objective"].items():
        assert torch.equal(weight, after["objective"][name]), name
    losses = [[line["loss"] for line in read_log(run / "log.jsonl")] for run in (out, composed_run)]
    assert losses[0] == losses[1]


def test_the_rest_of_the_road_takes_a_composed_run(
    composed_run: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    checkpoint = composed_run / "checkpoint"
    task = load_task(tiny_corpus.parent / "task.yaml")
    probe = AdaptationConfig(penalties=(1.0,))
    out = tmp_path / "adapted"
    adapt(probe, checkpoint, task, out, corpus_folder=tiny_corpus, device="cpu", quiet=True)
    assert set(pd.read_parquet(out / "predictions.parquet")["truth"]) == {"open", "closed"}
    file = next((tiny_corpus.parent / "recordings").glob("*.edf"))
    embed(checkpoint, [file], tmp_path / "features.parquet", device="cpu", quiet=True)
    assert len(pd.read_parquet(tmp_path / "features.parquet")) == 8
    text = build_report(composed_run, out=tmp_path / "report.html").read_text()
    aligned = composed_run.name == "spechinet-aligned"
    assert "Restoration error on people not trained on" in text
    assert "Features of people not trained on" in text
    assert ("To it were added" in text) == aligned
    assert ("arXiv:2605.18298" in text) == (not aligned)
    assert "both branches" in text or not aligned
    for wrong in ("is missing", "weighted 0 and 0", *(() if aligned else ("both branches",))):
        assert wrong not in text


def test_nothing_aligned_is_restoration(tiny_corpus: Path, tmp_path: Path) -> None:
    """The whole run, weight by weight."""
    off = {"objective__anchor": 0, "objective__mask_alignment": 0}
    configs = [composed("spechinet-aligned", **off)]
    plain = configs[0].model_dump()
    alignments = AlignmentConfig.model_fields.keys()
    plain["objective"] = {k: v for k, v in plain["objective"].items() if k not in alignments}
    configs.append(PretrainingConfig.model_validate(plain))
    assert type(configs[1].objective) is RestorationConfig
    for number, config in enumerate(configs):
        pretrain(config, tiny_corpus, tmp_path / str(number), device="cpu", quiet=True)
    one, other = (load_checkpoint(tmp_path / n / "checkpoint").state_dict() for n in "01")
    assert all(torch.equal(one[name], other[name]) for name in one)


# DARE-EEG: dual alignment


ALONE = {"training.steps": 1, "training.epochs": None, "training.batch_size": 1}
DARE = {"model.name": "dare", "objective.name": "dual-alignment"}


def tiny_dare(**changes: object) -> PretrainingConfig:
    fields: dict[str, Any] = {
        **DARE,
        "model.sfreq": 100,
        "model.patch_size": 50,
        "model.embed_dim": 16,
        "model.n_heads": 2,
        "model.encoder_depth": 1,
        "model.predictor_depth": 1,
        "model.reconstructor_depth": 1,
        "objective.momentum": [0.5, 0.9],
        "window_seconds": 4,
        "window_step": 1,
        "validation_share": 0.34,
        "max_validation_windows": 6,
        "training.epochs": None,
        "training.steps": 8,
        "training.batch_size": 4,
        "training.log_every": 4,
        "training.validate_every": 4,
        "training.save_every": 4,
    }
    fields |= {name.replace("__", "."): value for name, value in changes.items()}
    return load_config(PretrainingConfig, None, fields)


@pytest.fixture(scope="module")
def dare_run(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DARE-EEG pretrained on people of two montages."""
    out = tmp_path_factory.mktemp("dare") / "run"
    pretrain(tiny_dare(), tiny_corpus, out, device="cpu", quiet=True)
    return out


def test_the_files_of_a_dare_run(dare_run: Path, tiny_corpus: Path) -> None:
    assert {path.name for path in dare_run.iterdir()} == {
        ".lock",
        "config.yaml",
        "run.json",
        "log.jsonl",
        "checkpoint",
        "state.ckpt",
        "state-before.ckpt",
        "invariance.parquet",
    }
    assert load_config(PretrainingConfig, dare_run / "config.yaml") == tiny_dare()
    record = record_of(dare_run)
    assert (record["kind"], record["steps"]) == ("pretraining", 8)
    assert not set(record["subjects"]["train"]) & set(record["subjects"]["validation"])
    people = record["subjects"]["train"]
    # windows begin every second
    n_windows = len(open_corpus(tiny_corpus).windows(4, 1, subjects=people))
    assert (
        record["training_windows"]
        == n_windows
        > 3 * len(open_corpus(tiny_corpus).windows(4, subjects=people))
    )
    for line in read_log(dare_run / "log.jsonl"):
        terms = [line[n] for n in ("reconstruction", "anchor", "mask_alignment", "activation")]
        assert line["loss"] == pytest.approx(sum(terms), rel=1e-5)
        measured = {"feature_std", "effective_rank", "retrieval", "anchor_unseen"} <= set(line)
        assert measured == (line["split"] == "validation")


def test_the_checkpoint_of_a_dare_run_has_the_momentum_copy(dare_run: Path) -> None:
    model = load_checkpoint(dare_run / "checkpoint")
    assert isinstance(model, DareEEG)
    assert record_of(dare_run)["n_parameters"] == model.n_parameters
    assert model.provenance["subjects"] == record_of(dare_run)["subjects"]
    state = torch.load(dare_run / STATE_FILE, weights_only=True)["objective"]
    for name, weight in model.state_dict().items():
        part, _, rest = name.partition(".")
        source = f"target_encoder.{rest}" if part == "encoder" else f"model.{name}"
        assert torch.equal(weight, state[source]), name
    assert not torch.equal(
        state["target_encoder.embed.weight"], state["model.encoder.embed.weight"]
    )
    untrained = DareEEG(model.config).encoder.embed.weight
    assert not torch.equal(model.encoder.embed.weight, untrained)
    for n_chans in (8, 19):  # the montages of its corpus, and any other
        names = ("Fp1", "Fp2", "C3", "C4", "P7", "P8", "O1", "O2", *map(str, TEN_TWENTY))
        names = tuple(dict.fromkeys(names))[:n_chans]
        features = model.forward_features(torch.randn(2, n_chans, 400), names)
        assert features.tokens.shape == (2, 8, 16)


def test_a_dare_run_tells_how_much_its_features_depend_on_the_mask(dare_run: Path) -> None:
    table = pd.read_parquet(dare_run / "invariance.parquet")
    assert table.groupby("network").size().to_dict() == {
        "trained network": 2 * len(OVERLAPS) - 1,
        "untrained network": 2 * len(OVERLAPS) - 1,
    }
    assert set(table["n_windows"]) == {6}
    assert table["retrieval"].between(0, 1).all()
    alike = table[(table["masks"] == SAME_STEPS) & (table["wanted"] == 1)]
    assert (alike["alignment"] == 0).all()
    # the same masks for both networks, which differ
    trained, untrained = (own for _, own in table.groupby("network"))
    assert trained["overlap"].tolist() == untrained["overlap"].tolist()
    assert trained["alignment"].tolist() != untrained["alignment"].tolist()


def test_dare_batches_are_of_one_montage_each(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    forward = DualAlignment.forward

    def watched(self: DualAlignment, batch: Batch, generator: torch.Generator) -> Any:
        if self.training:
            seen.append(len(batch.ch_names))
        return forward(self, batch, generator)

    monkeypatch.setattr(DualAlignment, "forward", watched)
    pretrain(tiny_dare(), tiny_corpus, tmp_path / "run", device="cpu", quiet=True)
    assert len(seen) == 8
    assert set(seen) == {8, 19}


def test_an_interrupted_dare_run_ends_alike(
    dare_run: Path, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def interrupted(self: DualAlignment, step: int, total: int) -> None:
        if step == 6:
            raise KeyboardInterrupt
        follow(self, step, total)

    follow = DualAlignment.after_step
    with monkeypatch.context() as patch:
        patch.setattr(DualAlignment, "after_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tiny_dare(), tiny_corpus, out, device="cpu", quiet=True)
    assert not (out / "checkpoint").exists()
    pretrain(tiny_dare(), tiny_corpus, out, resume=True, device="cpu", quiet=True)
    for name in ("checkpoint/model.safetensors", "config.yaml"):
        assert (out / name).read_bytes() == (dare_run / name).read_bytes(), name
    losses = [[line["loss"] for line in read_log(run / "log.jsonl")] for run in (out, dare_run)]
    assert losses[0] == losses[1]


def test_the_report_of_a_dare_run(dare_run: Path, tmp_path: Path) -> None:
    text = build_report(dare_run, out=tmp_path / "report.html").read_text()
    assert "DARE-EEG" in text
    assert "the effective rank of the features is" in text
    assert "Features of people not trained on" in text
    assert "momentum went from 0.5 to 0.9; it is the encoder that was saved." in text
    for wrong in ("is missing", "Restoration error", "SpecMoE", "masked version"):
        assert wrong not in text


def test_what_a_batch_has_no_value_of_does_not_count_for_it(tiny_corpus: Path) -> None:
    """Batches in which every step is seen say nothing of unseen ones."""
    config = tiny_dare(objective__views__step_mask=0.4, window_seconds=1)
    contract = InputContract(sfreq=100)
    objective = fresh_objective(config, contract, 0).eval()
    windows = open_corpus(tiny_corpus).windows(1).take(np.arange(12))
    generator = torch.Generator().manual_seed(config.seed + 1)
    looks = [objective(batch, generator) for batch in windows.batches(4)]
    found = [look["anchor_unseen"].item() for look in looks if "anchor_unseen" in look]
    assert 0 < len(found) < len(looks) == 3
    losses = validation_losses(objective, windows, **looking(config))
    assert losses["anchor_unseen"] == pytest.approx(np.mean(found))
    assert losses["anchor"] == pytest.approx(np.mean([look["anchor"].item() for look in looks]))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model.name": "dare"}, "has no auxiliary heads; .* objective.auxiliary_weights to .0, 0"),
        ({"objective.name": "dual-alignment"}, "set objective.name to restoration or aligned-"),
        ({**DARE, "model.restores": "correction"}, "nothing to correct; set model.restores to sig"),
        ({**DARE, **ALONE}, "set training.batch_size to 2 or more"),
        ({"objective.name": "aligned-restoration", **ALONE}, "to 2 or more"),
        ({**DARE, "model.parts": "encoder"}, "needs the whole model; set model.parts to all"),
        ({**DARE, "experts": 2}, "only SpecHi-Nets are experts"),
        ({"window_step": 1, "experts": 2}, "leave out window_step"),
    ],
)
def test_parts_that_do_not_go_together(fields: dict[str, object], words: str) -> None:
    with pytest.raises(BergerError, match=words):
        load_config(PretrainingConfig, None, fields)


def test_windows_that_dare_cannot_learn_from_leave_no_run(
    tiny_corpus: Path, tiny_recordings: Path, tmp_path: Path
) -> None:
    single = tmp_path / "corpus"
    config = PREPROCESSING.model_copy(update={"ch_names": ("C3",)})
    prepare(sorted(tiny_recordings.glob("*.edf"))[:3], single, config, progress=False)
    for corpus, changes, words in (
        (tiny_corpus, {"model__patch_size": 64}, "of 400 samples is no multiple of a patch's 64"),
        (single, {}, "a single channel has none that could be hidden"),
    ):
        with pytest.raises(BergerError, match=words) as caught:
            pretrain(tiny_dare(**changes), corpus, tmp_path / "run", quiet=True)
        assert "sub-0" in str(caught.value).split(":")[0]  # which recording
        assert not (tmp_path / "run").exists()
