"""The report of an evaluation, from tables written by script."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure

from berger.evaluation.metrics import score_predictions, score_values
from berger.reports import build_report, evaluation_figures
from berger.reports.blocks import Image
from berger.reports.evaluation_figures import hypnogram, learning_curves
from berger.reports.sleep import chosen_nights, ranked_nights, with_seconds
from berger.reports.style import Look
from tests.reports.conftest import RECORD, write_json
from tests.reports.page import Page

STAGES = ("W", "R", "N1", "N2", "N3")
LONG = "a-model-whose-name-somebody-made-much-longer-than-anybody-can-read-in-a-figure, fine-tuning"
TUNED, BAND_POWER, CHANCE = "small, tuned", "band power + logistic regression", "chance"
PUBLISHED = {
    "model": "theirs",
    "metric": "kappa",
    "value": 0.61,
    "spread": 0.02,
    "split": "100 people against 25",
    "source": "Somebody 2020, Table 3",
}


def night(rng: np.random.Generator, right: float, n_windows: int = 60) -> pd.DataFrame:
    truth = np.repeat(rng.choice(STAGES, n_windows // 5), 5)
    guess = np.where(rng.random(n_windows) < right, truth, rng.choice(STAGES, n_windows))
    table = pd.DataFrame({"start": 30.0 * np.arange(n_windows), "truth": truth})
    scores = {f"score_{name}": np.where(guess == name, 0.6, 0.1) for name in STAGES}
    return table.assign(prediction=guess, **scores)


def classified(rng: np.random.Generator, share: float, person: int) -> pd.DataFrame:
    return night(rng, share - 0.03 * person)


def valued(rng: np.random.Generator, share: float, person: int) -> pd.DataFrame:
    truth = rng.uniform(-1, 1, 20)
    guess = share * truth + (1 - share) * rng.normal(size=20)
    return pd.DataFrame({"start": 8.0 * np.arange(20), "truth": truth, "prediction": guess})


def write_evaluation(
    out: Path,
    shares: dict[str, float],
    *,
    seeds: Iterable[int] = (0, 1),
    n_folds: int = 2,
    n_people: int = 4,
    kind: str = "classification",
    trained: Iterable[str] = (TUNED, LONG),
    **facts: Any,
) -> Path:
    """Write an evaluation of one task; the share of each title is how often it is right."""
    rng = np.random.default_rng(0)
    regression = kind == "regression"
    make = valued if regression else classified
    rows, cells, results = [], [], []
    for title, share in shares.items():
        name, _, adaptation = title.partition(", ")
        for seed in seeds:
            for person in range(n_people):
                who = {"subject": f"p{person}", "recording": f"p{person}-night.edf"}
                cell = {"title": title, "model": name, "adaptation": adaptation, "seed": seed}
                cell |= {"fold": 1 + person % n_folds, "seen_in_pretraining": False}
                rows.append(make(rng, share, person).assign(task="night", **cell, **who))
            for fold in range(1, n_folds + 1):
                cell = {"task": "night", "title": title, "seed": seed, "fold": fold}
                cells.append(cell | {"status": "ok", "reason": ""})
                if title in trained:
                    write_training(out, cell, [1.0, 0.6, 0.5], [1.1, 0.8, 0.9], 1)
        own = pd.concat(rows[-n_people:])
        scores = score_values(own) if regression else score_predictions(own, STAGES)
        ends = {f"{score}_{end}": np.nan for score in scores for end in ("low", "high")}
        if n_people > 1:
            score = "rmse" if regression else "balanced_accuracy"
            ends |= {f"{score}_low": scores[score] - 0.05, f"{score}_high": scores[score] + 0.05}
        row = {"task": "night", "model": name, "adaptation": adaptation, "title": title}
        row |= {"people": "all", "seed": None, "fold": 0, "n_seeds": len([*seeds])}
        row |= {"n_subjects": n_people, "n_windows": len(own), "seen_in_pretraining": False}
        results.append(row | scores | ends)
    pd.concat(rows).to_parquet(out / "predictions.parquet")
    pd.DataFrame(cells).to_parquet(out / "cells.parquet")
    pd.DataFrame(results).astype({"seed": "Int64"}).to_parquet(out / "results.parquet")
    models = [*shares]
    compared = {"task": "night", "model": models[0], "other": models[-1], "difference": 0.2}
    compared |= {"low": 0.1, "high": 0.3, "p": 0.125, "p_holm": 0.125, "verdict": "no difference"}
    pd.DataFrame([compared]).to_parquet(out / "comparisons.parquet")
    task = {"title": "A night", "kind": kind, "classes": [] if regression else [*STAGES]}
    task |= {"sleep_stages": [], "published": [], "window_seconds": 30.0}
    record = {"kind": "evaluation", "command": "berger evaluate", "tasks": {"night": task | facts}}
    write_json(out / "run.json", RECORD | record)
    config = {"seeds": [*seeds], "models": {}, "adaptations": {}, "baselines": [CHANCE]}
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    return out


def write_training(
    out: Path, cell: dict[str, Any], train: list[float], validation: list[float], kept: int
) -> Path:
    folder = out / "cells" / cell["title"] / f"seed-{cell['seed']}-fold-{cell['fold']}"
    write_json(folder / "cell.json", {"status": "ok"} | cell | {"choice": float(kept)})
    lines = [
        {"epoch": float(epoch), "train_loss": losses[0], "validation_loss": losses[1]}
        for epoch, losses in enumerate(zip(train, validation, strict=True))
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "log.jsonl"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Keep the figures of learning curves and hypnograms instead of turning them into images."""
    kept: list[Figure] = []

    def keep(figure: Figure, alt: str) -> Image:
        kept.append(figure)
        return Image("data:,", alt, 100)

    monkeypatch.setattr(evaluation_figures, "embed", keep)
    return kept


def alts(page: Page) -> list[str]:
    return [image["alt"] for image in page.all("img")]


def rows(page: Page) -> list[list[str]]:
    """The cells of every row of every table."""
    found = re.findall(r"<tr[^>]*>(<td.*?)</tr>", page.html, re.DOTALL)
    return [
        [html.unescape(cell).replace("\u00a0", " ") for cell in re.findall(r">([^<]*)</td>", row)]
        for row in found
    ]


# laws


def test_the_curve_is_the_median_and_the_band_holds_all(drawn: list[Figure]) -> None:
    losses = ([3.0, 2.0, 1.0], [5.0, 4.0], [4.0, 3.5, 3.0])
    logs = [
        pd.DataFrame({"epoch": np.arange(len(v)), "train_loss": v, "validation_loss": v})
        for v in losses
    ]
    learning_curves(logs, [2, 1, 0], "a model")
    (ax,) = drawn[0].axes
    for line in ax.lines:
        assert line.get_xydata().tolist() == [[1, 4], [2, 3.5], [3, 2]]  # type: ignore[union-attr]
    bands, marks = ax.collections[:2], ax.collections[2]
    for band in bands:
        edge = {tuple(point) for point in band.get_paths()[0].vertices.tolist()}  # type: ignore[union-attr]
        assert edge == {(1, 3), (1, 5), (2, 2), (2, 4), (3, 1), (3, 3)}
    assert np.asarray(marks.get_offsets()).tolist() == [[3, 1], [2, 4], [1, 4]]


def test_stages_are_drawn_where_windows_are(drawn: list[Figure]) -> None:
    table = pd.DataFrame(
        {
            "start": [0.0, 30.0, 90.0],  # nothing from 60 to 90
            "seconds": 30.0,
            "truth": ["W", "N1", "N1"],
            "prediction": ["W", "W", "R"],
        }
    )
    hypnogram(table, STAGES, Look("#0066a8"), "a night")
    upper, lower = drawn[0].axes
    assert [label.get_text() for label in upper.get_yticklabels()] == [*STAGES]
    line = np.asarray(upper.lines[0].get_xydata())
    hours = (line[:, 0] * 120).round().tolist()
    rows = [None if np.isnan(row) else int(row) for row in line[:, 1]]
    steps = zip(hours, rows, strict=True)
    assert [*steps] == [
        *[(0, 0), (1, 0), (1, 0)],
        *[(1, 2), (2, 2), (2, None)],
        *[(3, 2), (4, 2), (4, None)],
    ]
    assert [text.get_text() for text in upper.texts] == [
        *["0.5 min", "0 min", "1.0 min", "0 min", "0 min"]
    ]
    assert [text.get_text() for text in lower.texts][:2] == ["1.0 min", "0.5 min"]
    (wrong,) = (bars for bars in lower.collections)
    spans = [path.get_extents().intervalx * 120 for path in wrong.get_paths()]
    np.testing.assert_allclose(spans, [[1, 2], [3, 4]])


def test_the_window_after_ends_a_stage() -> None:
    keys = {"model": "a", "seed": 0, "fold": 1, "recording": "r"}
    table = with_seconds(pd.DataFrame({"start": [10.0, 0.0, 60.0]}).assign(**keys), 30)
    assert table[["start", "seconds"]].to_numpy().tolist() == [[0, 10], [10, 30], [60, 30]]


@pytest.mark.parametrize(
    ("kappas", "shown"),
    [
        ([0.1, 0.9, 0.5, 0.7, 0.3], {"best": 0.9, "median": 0.5, "worst": 0.1}),
        ([0.1, 0.9, 0.5, 0.7], {"best": 0.9, "median": 0.7, "worst": 0.1}),
        ([0.1, 0.9, np.nan], {"best": 0.9, "worst": 0.1}),
        ([np.nan, 0.4], {"the only night": 0.4}),
        ([np.nan], {}),
    ],
)
def test_which_nights_are_shown(kappas: list[float], shown: dict[str, float]) -> None:
    nights = pd.DataFrame({"kappa": kappas}).sort_values("kappa", ascending=False)
    chosen = chosen_nights(nights)
    assert {what: nights.loc[place, "kappa"] for what, place in chosen.items()} == shown


def test_nights_are_ranked_by_kappa_and_not_by_agreement() -> None:
    always = ["N2"] * 9 + ["W"]
    table = pd.concat(
        [
            pd.DataFrame({"recording": "lazy", "truth": always, "prediction": ["N2"] * 10}),
            pd.DataFrame(
                {
                    "recording": "keen",
                    "truth": ["N2", "W"] * 5,
                    "prediction": ["N2", "W"] * 4 + ["W"] * 2,
                }
            ),
            pd.DataFrame({"recording": "one", "truth": ["N2"], "prediction": ["N2"]}),
        ]
    ).assign(fold=1, subject="p")
    ranked = ranked_nights(table, STAGES)
    assert ranked["recording"].tolist() == ["keen", "lazy", "one"]
    assert ranked["agreement"].tolist() == [0.9, 0.9, 1.0]
    np.testing.assert_allclose(ranked["kappa"], [0.8, 0.0, np.nan])


# the page


def test_a_night_of_sleep(tmp_path: Path, undrawn: None) -> None:
    shares = {CHANCE: 0.2, BAND_POWER: 0.7, TUNED: 0.9}
    out = write_evaluation(tmp_path / "out", shares, sleep_stages=[*STAGES])
    page = Page(build_report(out))
    found = [alt for alt in alts(page) if "hypnogram" in alt]
    assert [alt.split(": ")[0] for alt in found] == [
        f"True and predicted hypnogram, {what}" for what in ("best", "median", "worst")
    ] * 2
    first = pd.read_parquet(out / "predictions.parquet").query(f"title == {TUNED!r} and seed == 0")
    best = ranked_nights(first, STAGES).iloc[0]
    assert f"{best['subject']}, {best['recording']} · agreement {best['agreement']:.1%}" in found[0]
    assert f"κ {best['kappa']:.3f}" in found[0]
    assert f"Hypnograms of {BAND_POWER}" in page.text  # folded, since its κ is lower
    assert f"Nights of {TUNED}, seed 0: of 4 nights" in page.text
    both = pd.read_parquet(out / "predictions.parquet").query(f"title == {TUNED!r}")
    for name, column in (("true", "truth"), (TUNED, "prediction")):
        windows = both.groupby(column).size().reindex(STAGES, fill_value=0)
        minutes = [f"{n * 30 / 60 / 4 / 2:.1f}" for n in windows]  # of 4 people and 2 seeds
        assert [name, *minutes] in rows(page)


def test_no_hypnogram_where_classes_are_no_stages(tmp_path: Path, undrawn: None) -> None:
    page = Page(build_report(write_evaluation(tmp_path / "out", {CHANCE: 0.2, TUNED: 0.9})))
    assert not [alt for alt in alts(page) if "hypnogram" in alt]
    assert "Minutes of a night" not in page.text


def test_rows_that_were_trained_have_curves(tmp_path: Path, undrawn: None) -> None:
    out = write_evaluation(tmp_path / "out", {CHANCE: 0.2, LONG: 0.5, TUNED: 0.9})
    failed = {"task": "night", "title": TUNED, "seed": 7, "fold": 1, "status": "failed"}
    write_training(out, failed, [1.0], [1.0], 0)
    other = {"task": "day", "title": TUNED, "seed": 8, "fold": 1}
    write_training(out, other, [1.0], [1.0], 0)
    found = [alt for alt in alts(Page(build_report(out))) if "loss" in alt]
    assert found == [
        f"Training and validation loss of {title} (4 cells) by epoch." for title in (LONG, TUNED)
    ]


def test_a_damaged_log_is_said_and_the_rest_is_shown(tmp_path: Path, undrawn: None) -> None:
    out = write_evaluation(tmp_path / "out", {CHANCE: 0.2, LONG: 0.5, TUNED: 0.9})
    (out / "cells" / TUNED / "seed-1-fold-2" / "log.jsonl").write_text("{\n")
    page = Page(build_report(out))
    assert "a line in it is no JSON" in page.text
    assert [LONG in alt for alt in alts(page) if "loss" in alt] == [True]


def test_published_numbers_stand_apart(tmp_path: Path, undrawn: None) -> None:
    shares = {CHANCE: 0.2, TUNED: 0.9}
    published = [PUBLISHED, PUBLISHED | {"metric": "auroc", "value": 0.9, "spread": None}]
    out = write_evaluation(tmp_path / "out", shares, published=published)
    page = Page(build_report(out))
    bare = Page(build_report(write_evaluation(tmp_path / "bare", shares)))
    ours, _, theirs = page.html.partition("published, not measured here")
    assert "sortable" in ours
    assert "sortable" not in theirs.split("</table>")[0]
    row = ["theirs", "0.9", "0.61 ± 0.02", "100 people against 25", "Somebody 2020, Table 3"]
    assert row in rows(page)
    assert "0.61" not in bare.text
    assert "published" not in bare.text
    assert alts(page) == alts(bare)  # in no figure


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_one_seed_one_fold_one_person(kind: str, tmp_path: Path) -> None:
    facts: dict[str, Any] = {"sleep_stages": [*STAGES]} if kind == "classification" else {}
    out = write_evaluation(
        tmp_path / "out", {CHANCE: 0.2, LONG: 0.9}, seeds=(0,), n_folds=1, n_people=1, kind=kind,
        **facts,
    )  # fmt: skip
    page = Page(build_report(out))
    assert "nan" not in page.text.split("Exact configuration")[0]
    assert "with 1 person and 1 comparison none could show a difference" in page.text
    assert all("nan" not in svg for svg in page.svgs())
    if kind == "classification":
        assert len([alt for alt in alts(page) if "the only night" in alt]) == 1


def test_long_names_are_broken_and_not_cut(drawn: list[Figure]) -> None:
    table = pd.DataFrame({"epoch": [0], "train_loss": 1.0, "validation_loss": 1.0})
    learning_curves([table], [0], LONG)
    title = drawn[0].get_suptitle()
    assert title.replace("\n", " ").replace("- ", "-") == LONG
    assert max(map(len, title.split("\n"))) <= 31


def test_few_people_cannot_show_a_difference_and_it_is_said(tmp_path: Path, undrawn: None) -> None:
    for n_people, said in ((5, True), (6, False)):  # 2/32 and 2/64
        out = write_evaluation(
            tmp_path / str(n_people), {CHANCE: 0.2, TUNED: 0.9}, n_people=n_people
        )
        page = Page(build_report(out))
        assert ("none could show a difference, however large" in page.text) == said
        assert "Of 1 comparison, none shows a difference" in page.text
