"""What a report says of a training: what was skipped, what is drawn, how gates weigh experts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as MatplotlibFigure

from berger.errors import BergerError
from berger.reports import training_figures
from berger.reports.blocks import Block, Details, Figure, Image, Note, Table, Text
from berger.reports.decoding_section import decoding_section
from berger.reports.exact import exact_section
from berger.reports.folders import Part, Run
from berger.reports.training import (
    epoch_blocks,
    feature_blocks,
    measures_features,
    training_blocks,
    was_trained,
)
from berger.reports.training_figures import smoothed
from tests.reports.conftest import write_pretraining

WATCHED = "people not trained on"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[MatplotlibFigure]:
    """Keep figures instead of turning them into images."""
    kept: list[MatplotlibFigure] = []

    def keep(figure: MatplotlibFigure, alt: str) -> Image:
        kept.append(figure)
        return Image("data:,", alt, 100)

    monkeypatch.setattr(training_figures, "embed", keep)
    return kept


def write_lines(run: Path, lines: list[dict[str, Any]]) -> None:
    run.mkdir(exist_ok=True)
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def steps(n_steps: int = 4, **more: Any) -> list[dict[str, Any]]:
    return [
        {"step": step, "split": split, "loss": 3.0 / step, "mse": 2.0 / step, "spectral": 0.0}
        | ({"lr": 1e-3, "grad_norm": 2.0 * step, "data_wait": 0.01, **more} if i == 0 else {})
        for step in range(1, n_steps + 1)
        for i, split in enumerate(("train", "validation"))
    ]


def skipped(step: int, n_windows: int = 1, loss: float | None = None) -> dict[str, Any]:
    windows = [f"a.edf at {4 * window} s" for window in range(n_windows)]
    reason = "the loss is no finite number" if loss is None else "the loss is 2,000 times the usual"
    line = {"step": step, "split": "skipped", "loss": loss, "mse": loss, "grad_norm": None}
    return line | {"reason": reason, "windows": windows}


def blocks_of(run: Path) -> list[Block]:
    return [*training_blocks(Run(run), WATCHED)]


def titles(figures: list[MatplotlibFigure]) -> list[str]:
    return [figure.axes[0].get_title() for figure in figures]


def test_a_validation_that_is_no_number_is_said(tmp_path: Path) -> None:
    for first in (2, 1):
        lines = steps(3)
        for line in lines:
            if line["split"] == "validation" and line["step"] >= first:
                line["loss"] = float("nan")
        write_lines(tmp_path, lines)
        text = str(blocks_of(tmp_path)[0])
        assert f"no finite number {4 - first} times of 3, first at step {first}: either" in text


def test_each_term_and_what_was_done_is_drawn_by_itself(
    tmp_path: Path, drawn: list[MatplotlibFigure]
) -> None:
    write_lines(tmp_path, steps(loss_scale=65536.0))
    (tmp_path / "config.yaml").write_text("training: {optimizer: {clip_norm: 5.0}}\n")
    blocks = blocks_of(tmp_path)
    names = ["mse", "learning rate", "gradient norm", "scale of the loss", "waiting for data"]
    assert titles(drawn) == ["", *names]  # a term that is switched off is not drawn
    term = drawn[1].axes[0]
    for line in term.lines:  # in training, and on people not trained on
        np.testing.assert_allclose(line.get_ydata(), [2, 1, 2 / 3, 0.5])
    assert len(term.lines) == 2
    _, clip = drawn[3].axes[0].lines
    assert list(clip.get_ydata()) == [5, 5]
    values, limit = drawn[5].axes[0].lines
    np.testing.assert_allclose(values.get_ydata(), 1)
    assert list(limit.get_ydata()) == [3, 3]
    captions = [block.caption for block in blocks if isinstance(block, Figure)]
    assert "the clip, 5, to which 50% of them were shortened" in captions[1]
    assert "No step was skipped." in [block.text for block in blocks if isinstance(block, Text)]


def test_skipped_steps_are_counted_and_their_windows_named(
    tmp_path: Path, drawn: list[MatplotlibFigure]
) -> None:
    lines = [*steps(), skipped(5), *steps(6)[10:], skipped(1007, 7, 1e9)]
    write_lines(tmp_path, lines)
    blocks = blocks_of(tmp_path)
    (note,) = (block for block in blocks if isinstance(block, Note))
    assert note.text.startswith("2 steps of 1,007 were skipped, from 5 to 1,007, and changed")
    (details,) = (block for block in blocks if isinstance(block, Details))
    (table,) = details.blocks
    assert isinstance(table, Table)
    assert [tuple(row) for row in table.rows] == [
        ("5", "the loss is no finite number", "–", "–", "a.edf at 0 s"),
        (
            *("1,007", "the loss is 2,000 times the usual", "1e+09", "–"),
            "a.edf at 0 s, a.edf at 4 s, a.edf at 8 s, a.edf at 12 s, a.edf at 16 s, and 2 more",
        ),
    ]
    total = drawn[0].axes[0]
    assert [line.get_xdata()[0] for line in total.lines[2:]] == [5, 1007]  # type: ignore[index]
    assert total.get_ylim()[1] < 10  # what exploded does not squeeze the curves
    assert titles(drawn)[1:] == ["mse", "learning rate", "gradient norm", "waiting for data"]


def test_a_single_skipped_step(tmp_path: Path, drawn: list[MatplotlibFigure]) -> None:
    write_lines(tmp_path, [*steps(), skipped(5)])
    (note,) = (block for block in blocks_of(tmp_path) if isinstance(block, Note))
    assert note.text.startswith("1 step of 5 was skipped, 5, and changed nothing.")


def test_a_log_of_skipped_steps_alone_can_be_shown(
    tmp_path: Path, drawn: list[MatplotlibFigure]
) -> None:
    write_lines(tmp_path, [skipped(1), skipped(2)])
    assert any(isinstance(block, Note) for block in blocks_of(tmp_path))
    assert len(drawn) == 1


def test_features_are_drawn_where_the_log_has_them(
    tmp_path: Path, drawn: list[MatplotlibFigure]
) -> None:
    write_lines(tmp_path, steps())
    assert not measures_features(Run(tmp_path))
    with pytest.raises(BergerError, match="nothing of the features yet"):
        list(feature_blocks(Run(tmp_path)))
    lines = [
        line | ({"effective_rank": 5.0, "feature_std": 0.3} if line["split"] != "train" else {})
        for line in steps()
    ]
    write_lines(tmp_path, lines)
    assert measures_features(Run(tmp_path))
    (figure,) = feature_blocks(Run(tmp_path))
    assert isinstance(figure, Figure)
    assert titles(drawn) == ["rank of the features", "spread of the features"]
    assert "their rank goes to 1" in figure.caption
    assert "Anchors" not in figure.caption


def test_smoothing_keeps_a_constant_and_short_curves() -> None:
    assert (smoothed(pd.Series(np.full(500, 2.0))) == 2).all()
    short = pd.Series([1.0, 5.0, 2.0])
    assert smoothed(short).equals(short)


def write_epochs(run: Path, gates: bool = True) -> None:
    """Two folds and a last training of a mixture, and a fold of its untrained twin."""
    lines = []
    for model, trainings in (("fine-tuned", 3), ("same network, random weights", 1)):
        for training in range(trainings):
            for epoch in range(2):
                weight = 0.2 * training + 0.1 * epoch
                lines.append(
                    {"model": model, "epoch": float(epoch), "train_loss": 1.0 - 0.1 * epoch}
                    | ({"validation_loss": 0.9} if training < 2 else {})
                    | ({"gate_0": weight, "gate_1": 1 - weight} if gates else {})
                )
    write_lines(run, lines)


def test_gates_are_shown_by_epoch(tmp_path: Path, drawn: list[MatplotlibFigure]) -> None:
    write_epochs(tmp_path)
    losses, gates = epoch_blocks(Run(tmp_path))
    assert isinstance(losses, Figure)
    assert isinstance(gates, Figure)
    assert len(drawn) == len(losses.images) + len(gates.images) == 4
    assert "by epoch" in losses.images[0].alt
    assert gates.images[0].alt == (
        "Mean gate of each expert by epoch; in the last, expert 0 0.30, expert 1 0.70."
    )
    assert "expert 0 0.30, expert 1 0.70 (fine-tuned)" in gates.caption
    first, second = drawn[1].axes[0].lines  # medians of the three trainings
    np.testing.assert_allclose(first.get_ydata(), [0.2, 0.3])
    np.testing.assert_allclose(second.get_ydata(), [0.8, 0.7])
    assert list(first.get_xdata()) == [1, 2]


def test_an_adaptation_tells_of_its_training_if_there_was_one(
    tmp_path: Path, drawn: list[MatplotlibFigure]
) -> None:
    write_epochs(tmp_path, gates=False)
    assert [topic.title for topic in section(tmp_path)][-1] == "Training"
    (block,) = section(tmp_path)[-1].blocks
    assert isinstance(block, Figure)
    (tmp_path / "log.jsonl").write_text("")  # of a probe
    assert not was_trained(Run(tmp_path))
    assert "Training" not in [topic.title for topic in section(tmp_path)]


def section(run: Path) -> Any:
    return decoding_section(Part("adaptation", run)).topics


def test_the_exact_configuration_has_time_and_energy(tmp_path: Path) -> None:
    run = write_pretraining(tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record |= {
        "resumed": 2,
        "skipped_steps": 3,
        "data_wait": 0.004,
        "energy": {"gpus": {"joules": 7.2e6, "seconds": 3600.0}},
    }
    for energy in (record["energy"], None):
        (run / "run.json").write_text(json.dumps(record | {"energy": energy}))
        (only,) = exact_section([Part("pretraining", run)]).topics
        (details,) = only.blocks
        assert isinstance(details, Details)
        facts = details.blocks[0]
        assert isinstance(facts, Table)
        said = dict(facts.rows)
        assert (said["resumed"], said["skipped steps"]) == ("2 times", "3")
        assert said["waited for data"] == "0.4% of the training"
        told = "gpus 2 kWh in 3,600 s (of the whole machine)"
        assert said.get("energy") == (told if energy else None)
