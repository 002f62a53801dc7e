from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as MatplotlibFigure

from berger.reports.blocks import Figure, Text
from berger.reports.folders import Part
from berger.reports.pretraining_figures import label_ends, maps
from berger.reports.pretraining_section import bands_below, pretraining_section, verdict
from berger.reports.style import report_style


def errors(**signals: float) -> pd.DataFrame:
    return pd.DataFrame(
        [
            (subject, band, name.replace("_", " "), error + shift)
            for subject, shift in (("a", -0.1), ("b", 0.1))
            for name, error in signals.items()
            for band in ("delta", "beta")
        ],
        columns=["subject", "band", "signal", "error"],
    )


def test_a_band_counts_by_the_mean_over_people() -> None:
    table = errors(restored=0.5, masked_input=0.6)
    assert bands_below(table, "masked input") == (["delta", "beta"], [])
    table.loc[(table["signal"] == "restored") & (table["band"] == "beta"), "error"] += 0.1
    assert bands_below(table, "masked input") == (["delta"], ["beta"])  # equal is not below
    assert bands_below(table, 1.0) == (["delta", "beta"], [])
    assert bands_below(table, "untrained network") == ([], [])


def test_a_band_without_a_number_is_in_no_list() -> None:
    table = errors(restored=0.5, masked_input=0.6)
    table.loc[(table["signal"] == "restored") & (table["band"] == "beta"), "error"] = np.nan
    assert bands_below(table, "masked input") == (["delta"], [])


def test_a_verdict_can_be_bad() -> None:
    said = verdict(errors(restored=1.2, masked_input=0.6, untrained_network=1.1))
    assert said == (
        "On 2 people not trained on, the mean error of the restored signal is in no band below "
        "that of the masked input; in no band below that of an untrained network; in no band "
        "below that of silence."
    )
    assert "no restored signal" in verdict(errors(masked_input=0.6))


def test_a_loss_that_rises_is_not_said_to_fall(tmp_path: Path) -> None:
    lines = [
        f'{{"step": {step}, "split": "{split}", "loss": {loss}}}\n'
        for step, loss in ((10, 1.0), (20, 1.5))
        for split in ("train", "validation")
    ]
    (tmp_path / "log.jsonl").write_text("".join(lines) + '{"step": 30, "spl')
    with report_style():
        section = pretraining_section(Part("pretraining", tmp_path))
    said = " ".join(getattr(block, "text", "") for t in section.topics for block in t.blocks)
    assert "did not fall: it went from 1 at step 10 to 1.5 at step 20" in said


@pytest.mark.parametrize("n_times", [150, 2000])
def test_maps_of_any_length(n_times: int) -> None:
    signal = np.random.default_rng(0).normal(size=n_times)
    gain = np.ones((201, 1 + -(-n_times // 200)))
    with report_style():
        images = maps({"clean": signal, "masked input": 0 * signal}, gain, 200.0, 400, 200, "Cz")
    assert [image.alt for image in images] == [
        f"Time-frequency map of electrode Cz: {title}."
        for title in ("clean", "mask", "masked input")
    ]


def test_measures_of_features_are_drawn_apart_from_the_terms(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "model: {name: dare, embed_dim: 64}\nobjective: {name: dual-alignment}\n"
    )
    lines = [
        {"step": step, "split": split, "loss": 1.0, "anchor": 1.0}
        | ({"effective_rank": 9.0, "anchor_unseen": 0.5} if split == "validation" else {})
        for step in (10, 20)
        for split in ("train", "validation")
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with report_style():
        section = pretraining_section(Part("pretraining", tmp_path))
    assert section.lead.endswith(
        "On people not trained on, at step 20, the error of features predicted for unseen time "
        "steps is 0.50 of their variance (1 for the best constant) and the effective rank of the "
        "features is 9.0 of 64."
    )
    training, features, invariance = section.topics
    assert "invariance.parquet is missing (it is written when pretraining ends)" in str(
        invariance.blocks
    )
    (terms,) = [
        image.alt
        for block in training.blocks
        if isinstance(block, Figure)
        for image in block.images
        if image.alt.startswith("The term")
    ]
    assert terms == (
        "The term anchor of the loss over the steps, at the end training 1, validation 1."
    )
    (figure,) = features.blocks
    assert isinstance(figure, Figure)
    assert [image.alt for image in figure.images] == [
        "Unseen anchors over the steps; the last is 0.5.",
        "Rank of the features over the steps; the last is 9.",
    ]


def write_invariance(run: Path) -> None:
    rows = [
        (network, masks, wanted, 64, 1 / 64, share * (0.4 + 0.6 * wanted), 1 - wanted / 2)
        for network, share in (("untrained network", 0.5), ("trained network", 1.0))
        for masks in ("same steps", "own steps")
        for wanted in (1.0, 0.5, 0.0)
    ]
    columns = ["network", "masks", "wanted", "n_windows", "chance"]
    table = pd.DataFrame(rows, columns=[*columns, "retrieval", "alignment"])
    table.loc[table["masks"] == "own steps", "retrieval"] /= 4
    table.to_parquet(run / "invariance.parquet")


def test_features_under_other_masks_are_drawn_and_said(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("objective: {name: dual-alignment}\n")
    write_invariance(tmp_path)
    with report_style():
        section = pretraining_section(Part("pretraining", tmp_path))
    text, figure = section.topics[-1].blocks
    assert isinstance(text, Text)
    assert text.text == (
        "64 windows of people not trained on were each seen through two masks. With the least "
        "overlap of the electrodes seen, the share of windows whose features under one mask are "
        "nearest to their own under the other is 0.20 by the untrained network and 0.40 by the "
        "trained network (same steps); 0.05 by the untrained network and 0.10 by the trained "
        "network (own steps); by chance 0.016."
    )
    assert isinstance(figure, Figure)
    found, distance = (image.alt for image in figure.images)
    assert found.startswith(
        "Windows found under another mask, from the largest to the smallest overlap: untrained, "
        "same steps 0.50 to 0.20; untrained, own steps 0.12 to 0.05; trained, same steps 1.00 to "
    )
    assert distance.startswith("Distance of a window's two features")


def test_names_at_the_ends_of_lines_do_not_meet() -> None:
    ax = MatplotlibFigure().subplots()
    ax.set_ylim(0, 1)
    heights = [0.0, 0.01, 0.02, 0.97, 0.98, 1.0, 1.0]
    label_ends(ax, [(0.0, y, str(i), "black") for i, y in enumerate(heights)], 0.1)
    names = sorted(ax.texts, key=lambda text: text.xy[1])
    assert [text.get_text() for text in names] == [str(i) for i in range(len(heights))]
    placed = [text.xy[1] for text in names]
    assert np.diff(placed).min() > 0.1 - 1e-9
    assert placed[0] >= 0
    assert placed[-1] <= 1 + 1e-9


def test_a_dare_run_without_a_look_yet(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("objective: {name: dual-alignment}\n")
    section = pretraining_section(Part("pretraining", tmp_path))
    assert "not known yet" in section.lead
    (tmp_path / "log.jsonl").write_text('{"step": 1, "split": "train", "loss": 2.0}\n')
    with report_style():
        section = pretraining_section(Part("pretraining", tmp_path))
    assert "not known yet" in section.lead
    assert "nothing of the features yet" in str(section.topics[1].blocks)
