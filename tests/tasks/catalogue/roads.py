"""How each task of the catalogue is walked: its miniature, who is tested, and by which models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from berger import create_model
from berger.cli import main
from berger.configuration import load_config
from berger.models import DareConfig, InputContract, SpecHiNetConfig, SpecMoEConfig
from berger.preprocessing import PreprocessingConfig
from tests.tasks.catalogue import (
    test_bcic2020_3,
    test_bcic_iv,
    test_chb_mit,
    test_da_pharmaco,
    test_eegmat,
    test_hmc,
    test_isruc,
    test_kaggle_ern,
    test_maco,
    test_mouse_sleep,
    test_physionet_mi,
    test_physionet_p300,
    test_seed_iv,
    test_seed_v,
    test_seed_vig,
    test_siena,
    test_sleep_edfx,
    test_tuab,
    test_tuev,
)

FAMILIES = ("specmoe", "dare")
RATES = {"specmoe": 200.0, "dare": 256.0}
KAGGLE_TEST = [f"S{number:02d}" for number in (1, 3, 4, 5, 8, 9, 10, 15, 19, 25)]
KAGGLE_TRAIN = sorted({f"S{number:02d}" for number in range(1, 27)} - {*KAGGLE_TEST})
DRUGS = ("Sal", "Amph", "CLZ1", "SCH", "Raclo")
ANIMALS = ("303", "304", "340", "518", "587", "591", "336", "574", "305", "530")
INJECTED = {
    f"{animal}_x_Day1_{DRUGS[place % 5]}": test_da_pharmaco.DEEP
    for place, animal in enumerate(ANIMALS)
}


@dataclass(frozen=True)
class Road:
    """How a task is walked.

    Attributes
    ----------
    miniature : callable
        Writes the data set into a folder and returns the one to give as --data.
    tested : iterable of str
        Who must have been tested.
    split : str
        With its @, where the task has several.
    projected : str or None
        Of DARE-EEG, which knows electrodes by name: how a projection onto those that it knows
        starts. By default its electrodes are among the 62.
    own_names : tuple of str
        Channels that a DARE-EEG for this animal was made for.
    sfreq : float or None
        Of the models, where recordings are so long that the rates of the others take too long.
    """

    miniature: Callable[[Path], Path]
    tested: tuple[str, ...]
    split: str = ""
    projected: str | None = None
    own_names: tuple[str, ...] = ()
    sfreq: float | None = None


ROADS = {
    "bcic-iv-2a": Road(test_bcic_iv.miniature, ("A08", "A09"), "@cbramod"),
    "bcic-iv-2b": Road(test_bcic_iv.miniature_of_three_channels, ("B01", "B02", "B03"), "@loso"),
    "bcic2020-3": Road(
        test_bcic2020_3.miniature, test_bcic2020_3.PEOPLE, "@k-fold", projected="electrodes"
    ),  # FT9, TP9, PO9
    "chb-mit": Road(
        test_chb_mit.miniature, ("1", "chb02", "chb17", "chb24"), "@loso", projected="random"
    ),
    "da-pharmaco": Road(
        partial(test_da_pharmaco.miniature, files=INJECTED, rate=256, minutes=7),
        ("305", "530"),
        own_names=("PFC", "dHC", "vHC", "MD", "CA3"),
    ),
    "eegmat": Road(test_eegmat.miniature, tuple(test_eegmat.PEOPLE[:6]), "@k-fold"),
    "eegmmidb": Road(test_physionet_mi.miniature_within_people, ("S001", "S002")),
    "hmc": Road(test_hmc.miniature, ("SN001", "SN002", "SN003", "SN013"), "@k-fold"),
    "isruc": Road(test_isruc.miniature, ("1", "41", "85", "100"), "@loso"),
    "kaggle-ern": Road(
        partial(
            test_kaggle_ern.miniature, train=KAGGLE_TRAIN, test=KAGGLE_TEST, sessions=["Sess01"]
        ),
        tuple(KAGGLE_TEST),
        "@kaggle",
    ),
    "maco": Road(
        test_maco.miniature,
        tuple(sorted({name for name, _ in test_maco.ROWS})),
        own_names=test_maco.CHANNELS,
    ),
    "mouse-sleep": Road(
        test_mouse_sleep.miniature,
        ("sub-001", "sub-038", "sub-070", "sub-087"),
        "@k-fold",
        own_names=("EEG1", "EMG"),
    ),
    "physionet-mi": Road(test_physionet_mi.miniature, ("S090",), projected="electrodes"),  # T9, Iz
    "physionet-p300": Road(
        test_physionet_p300.miniature,
        ("s01", "s02", "s08", "s11"),
        "@loso",
        projected="electrodes",  # P9, P10, Iz
    ),
    "seed-iv": Road(
        test_seed_iv.miniature, ("1", "2", "15"), "@loso", projected="electrodes"
    ),  # CB1, CB2
    "seed-v": Road(
        partial(
            test_seed_v.miniature,
            files={"1_1_20180804": 790, "2_1_20180419": 240, "16_1_20180813": 240},
            rate=100,
        ),
        ("1", "2", "16"),
        "@loso",
        projected="electrodes",
        sfreq=100,
    ),
    "seed-vig": Road(test_seed_vig.miniature, ("1", "4", "10"), "@loso"),
    "siena": Road(test_siena.miniature, ("PN13",), "@specmoe", projected="electrodes"),  # F9, F10
    "sleep-edfx": Road(
        test_sleep_edfx.miniature, ("SC400", "SC419", "SC420"), "@loso", projected="random"
    ),
    "tuab": Road(test_tuab.miniature, ("aaaaaaaf", "aaaaaaag"), "@given", projected="random"),
    "tuev": Road(test_tuev.miniature, ("000", "099"), "@given", projected="random"),
}


def checkpoint_for(road: Road, family: str, folder: Path) -> Path:
    """Write a tiny network that has seen nobody, with the preparation that its family ships.

    But for a high-pass of 1 Hz, whose filter is short, and a low-pass that recordings of 100 Hz
    hold.
    """
    changes: dict[str, Any] = {"highpass": 1, "lowpass": 40, "notch": None}
    sfreq = changes["sfreq"] = road.sfreq or RATES[family]
    if road.own_names:
        changes |= {"ch_names": list(road.own_names), "species": "mouse"}
    prepared = load_config(PreprocessingConfig, family, changes)
    contract = InputContract(sfreq=sfreq, preprocessing=prepared)
    tiny = SpecHiNetConfig(sfreq=sfreq, stem_dim=2, embed_dim=4, bottleneck_dim=4, n_heads=1)
    networks = {
        "specmoe": SpecMoEConfig(expert=tiny, n_experts=1, segment_seconds=0.5),
        "dare": DareConfig(
            sfreq=sfreq,
            patch_size=64 if sfreq == RATES["dare"] else 25,
            embed_dim=8,
            encoder_depth=1,
            n_heads=2,
            parts="encoder",
            electrodes=road.own_names or None,
        ),
    }
    torch.manual_seed(0)
    create_model(networks[family], contract).save_checkpoint(folder, {})
    return folder


def adaptation_for(road: Road, family: str) -> dict[str, Any]:
    """Return a frozen probe, or one epoch of conv-linear probing where electrodes are unknown."""
    if family == "specmoe" or road.projected is None:
        return {"penalties": [0.1], "batch_size": 4}
    return {
        "strategy": "fine-tuning",
        "adapter": {"targets": "10-20", "start": road.projected},
        "fine_tuning": {"epochs": 1, "unfreeze": None, "batch_size": 16},
    }


def run(command: str, content: Mapping[str, Any], folder: Path, *words: str) -> None:
    """Run a command with a configuration of one's own."""
    config = folder / f"{command}.yaml"
    config.write_text(yaml.safe_dump(dict(content)))
    main([command, str(config), *words, "--quiet", "--device", "cpu", "--workers", "1"])
