"""Readers of labels as data sets distribute them, one module for each form.

A reader turns lists of seizures, tables of codes, results of trials and the like into times and
values; what class a value is stands in the task's YAML file.
"""

from __future__ import annotations

from berger.tasks.readers import bcic2020_3, da_pharmaco, seed_iv, seed_v, seed_vig
from berger.tasks.readers.told import Reader, Told

READERS: dict[str, Reader] = {
    "bcic2020-3": bcic2020_3.read,
    "da-pharmaco": da_pharmaco.read,
    "seed-iv": seed_iv.read,
    "seed-v": seed_v.read,
    "seed-vig": seed_vig.read,
}
"""What may stand in a task under ``labels.reader``."""

__all__ = ["READERS", "Reader", "Told"]
