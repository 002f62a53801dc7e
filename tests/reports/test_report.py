from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import yaml

from berger.configuration import load_config
from berger.corpus import prepare
from berger.errors import BergerError
from berger.evaluation.decoding import AdaptationConfig
from berger.preprocessing import PreprocessingConfig
from berger.recordings import LayoutConfig
from berger.reports import build_report
from berger.reports.blocks import Number, Section, Table
from berger.reports.report import MOST_NUMBERS, key_numbers, tied
from tests.reports.conftest import (
    PEOPLE,
    predictions,
    write_adaptation,
    write_errors,
    write_pretraining,
)
from tests.reports.page import Page

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def page(_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(build_report(_demo, out=tmp_path_factory.mktemp("page") / "report.html"))


@pytest.mark.usefixtures("undrawn")
def test_it_stands_in_the_folder_by_default(demo: Path) -> None:
    assert build_report(demo) == demo / "report.html"
    assert sorted(path.name for path in demo.iterdir()) == [
        "adapt",
        "corpus",
        "pretrain",
        "report.html",
    ]


def test_the_same_folder_gives_the_same_bytes(demo: Path, page: Page) -> None:
    assert build_report(demo).read_text(encoding="utf-8") == page.html


def test_nothing_is_loaded_from_elsewhere(page: Page) -> None:
    assert not page.all("link", "iframe", "object", "embed", "base", "form")
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert all(link["href"].startswith("#") for link in page.all("a"))
    assert not re.search(r"url\(|@import|https?://", re.sub(r'src="[^"]*"', "", page.html))
    (policy,) = (meta for meta in page.all("meta") if "http-equiv" in meta)
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    for svg in page.svgs():
        assert not re.search(r"href=\"(?!#|data:)", svg)


def test_every_part_has_its_section_in_the_order_of_the_road(page: Page) -> None:
    titles = ["Recordings and corpus", "Pretraining", "Decoding", "Methods", "Exact configuration"]
    ids = [f"section-{number}" for number in range(1, 6)]
    assert [section["id"] for section in page.all("section")] == ids
    places = [page.html.index(f"</span>{title}") for title in titles]
    assert places == sorted(places)


def test_it_can_be_read_without_seeing(page: Page) -> None:
    assert all(len(image["alt"]) > 20 for image in page.all("img"))
    assert len(page.all("figure")) == len(page.all("figcaption")) > 5
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"][1:] for link in page.all("a")} <= set(ids)
    assert page.all("html")[0]["lang"] == "en"
    assert all(heading["scope"] == "col" for heading in page.all("th"))


def test_pictures_are_sound(page: Page) -> None:
    svgs = page.svgs()
    assert len(svgs) > 10
    for svg in svgs:
        ElementTree.fromstring(svg)
    labels = " ".join(re.findall(r"<text[^>]*>([^<]*)", " ".join(svgs)))
    for unit in ("µV²/Hz", "frequency (Hz)", "(s)", "µV"):
        assert unit in labels
    assert "mathdefault" not in labels
    assert "0.0002" in labels  # the learning rate's axis: numbers shown are not shortened


def test_the_numbers_at_the_top_are_those_of_the_tables(page: Page, demo: Path) -> None:
    table = pd.read_parquet(demo / "adapt" / "results.parquet")
    value = table.loc[(table["model"] == "frozen probe") & (table["fold"] == 0)].iloc[0]
    assert f"{value['balanced_accuracy']:.2f}" in page.text
    assert f"{value['auroc']:.2f}" in page.text
    errors = pd.read_parquet(demo / "pretrain" / "restoration.parquet")
    mean = errors[errors["signal"] == "restored"].groupby("band")["error"].mean().mean()
    assert f"{mean:.2f}" in page.text


def test_failures_are_listed_with_their_reason(page: Page, raw: Path) -> None:
    assert "raw/broken.edf" in page.text
    assert "is no EDF file" in page.text
    assert str(raw) not in page.html  # a colleague need not know where files lay


def test_names_from_files_are_text(raw: Path, tmp_path: Path) -> None:
    folder, recorded = tmp_path / "demo", tmp_path / "raw"
    recorded.mkdir()
    hostile = HOSTILE.replace("/", "")
    shutil.copy(raw / "sub-01_eyes.edf", recorded / f"{hostile} $x$ 脳.edf")
    prepare([recorded], folder / "corpus", PreprocessingConfig(), progress=False)
    write_pretraining(folder / "pretrain", validation=[HOSTILE, "$x$"])
    table = predictions()
    table["subject"] = table["subject"].replace(PEOPLE[0], HOSTILE)
    table["model"] = table["model"].replace("frozen probe", "<b>$x$ {0} 脳</b>")
    write_adaptation(folder / "adapt", table)
    page = Page(build_report(folder))
    assert len(page.all("script")) == 1
    assert not page.all("b")
    assert HOSTILE in page.text
    assert hostile in page.text
    for svg in page.svgs():
        assert not {
            element.tag for element in ElementTree.fromstring(svg).iter() if "script" in element.tag
        }


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", ["corpus", "pretrain", "adapt"])
def test_a_part_can_be_reported_alone(demo: Path, name: str) -> None:
    page = Page(build_report(demo / name))
    assert len(page.all("section")) == 3
    assert len(page.all("h1")) == 1


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("damage", ["missing", "cut short", "empty", "another file"])
@pytest.mark.parametrize(
    "name",
    [
        "pretrain/example.npz",
        "pretrain/log.jsonl",
        "pretrain/restoration.parquet",
        "pretrain/run.json",
        "pretrain/config.yaml",
        "adapt/predictions.parquet",
        "adapt/results.parquet",
        "adapt/run.json",
        "adapt/config.yaml",
    ],
)
def test_what_is_missing_or_damaged_is_said(demo: Path, name: str, damage: str) -> None:
    path = demo / name
    harm: dict[str, Callable[[], object]] = {
        "missing": path.unlink,
        "cut short": lambda: os.truncate(path, path.stat().st_size // 3),
        "empty": lambda: os.truncate(path, 0),
        "another file": lambda: path.write_bytes(b"\x00\xff[]: {1"),
    }
    harm[damage]()
    page = Page(build_report(path.parent))
    notes = re.findall(r'class="note">([^<]*)', page.html)
    if name.endswith(("yaml", "json")):
        return  # what they say is left out; the figures do without
    if name.endswith("log.jsonl") and damage == "cut short":
        assert "Loss in training" in page.text  # what is whole is shown
    else:
        assert any(path.name in note for note in notes)
    assert len(page.all("section")) == 3


@pytest.mark.usefixtures("undrawn")
def test_an_unfinished_run_shows_what_there_is(demo: Path) -> None:
    run = demo / "pretrain"
    for name in ("run.json", "restoration.parquet", "example.npz"):
        (run / name).unlink()
    page = Page(build_report(run))
    assert "This run has not ended" in page.text
    assert "Loss in training" in page.text
    assert "example.npz is missing" in page.text
    assert "run.json is missing" in page.text


@pytest.mark.usefixtures("undrawn")
def test_an_unfinished_corpus(demo: Path) -> None:
    corpus = demo / "corpus"
    (corpus / ".staging").mkdir()
    (corpus / "manifest.json").unlink()
    with pytest.raises(BergerError, match="unfinished"):
        build_report(corpus)
    page = Page(build_report(demo))
    assert "corpus is unfinished" in page.text
    assert len(page.all("section")) == 5


def test_nothing_to_report(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("[]")
    (tmp_path / "notes").mkdir()
    with pytest.raises(BergerError, match=r"nothing to report, .*; give the folder") as caught:
        build_report(tmp_path)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(BergerError, match="no such folder"):
        build_report(tmp_path / "nowhere")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.usefixtures("undrawn")
def test_two_runs_are_told_apart_by_name(demo: Path) -> None:
    shutil.rmtree(demo / "corpus")
    shutil.copytree(demo / "pretrain", demo / "pretrain-long")
    page = Page(build_report(demo))
    assert "Pretraining pretrain-long" in page.text
    assert "Pretraining · pretrain-long" in page.text  # in the summary
    assert page.text.count(" · pretrain-long") == 2  # and on its card
    assert page.html.count("<section") == 5


@pytest.mark.usefixtures("undrawn")
def test_a_corpus_inside_a_run_is_reported_with_it(demo: Path) -> None:
    (demo / "corpus").rename(demo / "adapt" / "corpus")
    page = Page(build_report(demo / "adapt"))
    assert len(page.all("section")) == 4
    assert page.text.index("Recordings and corpus") < page.text.index("Decoding")


def test_key_numbers_take_turns() -> None:
    sections = [
        Section(name, numbers=[Number(f"{name}{i}", "", "") for i in range(3)]) for name in "abc"
    ]
    values = [number.value for number in key_numbers(sections)]
    assert len(values) == MOST_NUMBERS
    assert values == ["a0", "b0", "c0", "c1"]
    assert [number.value for number in key_numbers(sections[:1])] == ["a0", "a1", "a2"]


def test_numbers_stay_with_their_units() -> None:
    assert (
        tied("at 200 Hz for 10 s, 3 people, 5 %") == "at 200\xa0Hz for 10\xa0s, 3\xa0people, 5\xa0%"
    )
    assert tied("2 signals") == "2 signals"


def test_the_methods_name_what_ran(page: Page, demo: Path) -> None:
    for fact in (
        "band-pass filtered from 0.3 to 75 Hz",
        "notch filtered at 50 Hz",
        "resampled to 200 Hz",
        "reached 100 µV",
        "187,236 parameters",
        "windows of 10 s",
        "until 50% of it was hidden",
        "learning rate 0.001 falling to 1e-06",
        "600 steps of 8 windows",
        "4 folds by person (12 people)",
        "MNE-Python 1.9.0",
        "A processor, 2 cores",
        "arXiv:2603.16739",
        "doi:10.3389/fnins.2013.00267",
    ):
        assert fact in page.text
    run = json.loads((demo / "pretrain" / "run.json").read_text())
    assert run["command"] in page.text
    assert run["corpus"]["id"] in page.text


@pytest.mark.usefixtures("undrawn")
def test_the_methods_tell_experts_and_fine_tuning(demo: Path) -> None:
    record = json.loads((demo / "pretrain" / "run.json").read_text())
    record |= {"part": {"experts": 3, "expert": 1}, "training_windows": 1234}
    (demo / "pretrain" / "run.json").write_text(json.dumps(record))
    adapted = demo / "adapt"
    record = json.loads((adapted / "run.json").read_text())
    record["checkpoint"]["name"] = "specmoe"
    (adapted / "run.json").write_text(json.dumps(record))
    config = AdaptationConfig.model_validate(
        {"strategy": "fine-tuning", "fine_tuning": {"unfreeze": 2, "lr": 0.003}}
    )
    (adapted / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    text = Page(build_report(demo)).text
    for fact in (
        "expert 2 of 3",
        "1,234 windows",
        "a gate for every feature, read from the power spectrum",
        "up to 100 epochs by Adam (learning rate 0.003",
        "frozen before epoch 3",
        "The epoch whose weights were used was chosen by the validation people",
    ):
        assert fact in text


@pytest.mark.usefixtures("undrawn")
def test_the_methods_tell_layer_decay_and_alignment(demo: Path) -> None:
    adapted = demo / "adapt"
    record = json.loads((adapted / "run.json").read_text())
    record["euclidean_alignment"] = {"amplitude": 10.0, "empty_directions": {}}
    (adapted / "run.json").write_text(json.dumps(record))
    config = load_config(AdaptationConfig, "fine-tuning-layer-decay", {"fine_tuning.clip_norm": 1})
    (adapted / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    text = Page(build_report(demo)).text
    for fact in (
        "up to 100 epochs by AdamW (learning rate 0.0005, 0.75 of it for each layer",
        "further from the head, batches of 64, weight decay 0.01, gradients clipped to a norm of 1",
        "labels smoothed by 0.1",
        "weighted by the root of the inverse frequency of its class",
        "the rate rising for the first 10% of the steps, then falling to 0 along a cosine",
        "It ended after 15 epochs without a lower validation loss.",
        "whitened beforehand by the mean covariance of its own windows, without labels, to a "
        "standard deviation of 10 µV (Euclidean alignment",
        "doi:10.1109/TBME.2019.2913914",
    ):
        assert fact in text, fact


@pytest.mark.usefixtures("undrawn")
def test_a_verdict_follows_the_numbers(demo: Path) -> None:
    page = Page(build_report(demo / "pretrain"))
    below = "below that of the masked input in delta, theta, alpha and beta, but not in gamma"
    assert page.text.count(below) == 2  # summary and caption
    write_errors(demo / "pretrain", PEOPLE[9:], gamma=0.2)
    page = Page(build_report(demo / "pretrain"))
    assert "below that of the masked input in every band" in page.text
    assert below not in page.text


@pytest.mark.parametrize(
    ("columns", "cell", "wide"),
    [
        (("a", "b", "c"), "short", False),
        (("name",), "x" * 60, True),
        (("a", "b", "c", "d", "e", "f"), "1", True),
        (("several words that can be broken", "and these"), "1", False),
    ],
)
def test_tables_too_wide_for_a_telephone_become_cards(
    columns: tuple[str, ...], cell: str, wide: bool
) -> None:
    assert Table(columns, [(cell,) * len(columns)]).is_wide == wide
    assert not Table(("a",), []).is_wide


def test_cards_name_their_columns_and_keep_their_roles(page: Page) -> None:
    cells = [cell for cell in page.all("td") if cell.get("role") == "cell"]
    assert cells
    assert {cell["data-column"] for cell in cells} >= {"recording", "names"}
    wide = [table for table in page.all("table") if table.get("class") == "wide"]
    assert wide
    assert all(table["role"] == "table" for table in wide)


@pytest.mark.usefixtures("undrawn")
def test_the_methods_tell_an_animal_and_an_array(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    np.savez(recorded / "mouse1_night.npz", x=rng.normal(0, 50, (2, 8000)), sfreq=250.0)
    layout = LayoutConfig(
        suffix=".npz", signal=("x",), axes=("channels", "time"), unit="µV", sfreq="sfreq",
        ch_names=("EEG_P", "EMG_DIFF"),
    )  # fmt: skip
    config = PreprocessingConfig(
        ch_names=("EEG_P", "EMG_DIFF"), highpass=1.0, layout=layout, max_amplitude=None,
        species="mouse",
    )  # fmt: skip
    prepare([recorded], tmp_path / "corpus", config, progress=False)
    page = Page(build_report(tmp_path / "corpus"))
    assert "EEG of 1 animal (mouse; 1 recording, 0.01 h usable, 2 channels) was used." in page.text
    assert "read as arrays of a declared layout and processed with MNE-Python" in page.text
    assert "person" not in page.text
