"""Readers of labels as data sets distribute them, one module for each form.

A reader turns lists of seizures, tables of codes, results of trials and the like into times and
values; what class a value is stands in the task's YAML file.
"""

from __future__ import annotations

from berger.tasks.readers import (
    bcic2020_3,
    bcic_iv,
    chb_mit,
    da_pharmaco,
    hmc,
    kaggle_ern,
    physionet_mi,
    physionet_p300,
    seed_iv,
    seed_v,
    seed_vig,
    siena,
    sleep_edfx,
    tuev,
)
from berger.tasks.readers.told import Reader, Told

READERS: dict[str, Reader] = {
    "bcic-iv-2a": bcic_iv.read_2a,
    "bcic-iv-2b": bcic_iv.read_2b,
    "bcic2020-3": bcic2020_3.read,
    "chb-mit": chb_mit.read,
    "da-pharmaco": da_pharmaco.read,
    "hmc": hmc.read,
    "hmc-lights": hmc.read_between_lights,
    "kaggle-ern": kaggle_ern.read,
    "physionet-mi": physionet_mi.read,
    "physionet-p300": physionet_p300.read,
    "seed-iv": seed_iv.read,
    "seed-v": seed_v.read,
    "seed-vig": seed_vig.read,
    "siena": siena.read,
    "siena-second": siena.read_second,
    "sleep-edfx": sleep_edfx.read,
    "tuev": tuev.read,
}
"""What may stand in a task under ``labels.reader``."""

__all__ = ["READERS", "Reader", "Told"]
