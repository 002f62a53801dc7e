"""Readers of labels as data sets distribute them, one module for each form.

A reader turns lists of seizures, tables of codes, results of trials and the like into times and
values; what class a value is stands in the task's YAML file.
"""

from __future__ import annotations

from berger.tasks.readers import (
    bcic2020_3,
    bcic_iv,
    kaggle_ern,
    physionet_mi,
    physionet_p300,
    tuev,
)
from berger.tasks.readers.told import Reader, Told

READERS: dict[str, Reader] = {
    "bcic2020-3": bcic2020_3.read,
    "bcic-iv-2a": bcic_iv.read_2a,
    "bcic-iv-2b": bcic_iv.read_2b,
    "kaggle-ern": kaggle_ern.read,
    "physionet-mi": physionet_mi.read,
    "physionet-p300": physionet_p300.read,
    "tuev": tuev.read,
}
"""What may stand in a task under ``labels.reader``."""

__all__ = ["READERS", "Reader", "Told"]
