"""Readers of labels as data sets distribute them, one module for each form.

A reader turns lists of seizures, tables of codes, results of trials and the like into times and
values; what class a value is stands in the task's YAML file.
"""

from __future__ import annotations

from berger.tasks.readers import chb_mit, hmc, siena, sleep_edfx
from berger.tasks.readers.told import Reader, Told

READERS: dict[str, Reader] = {
    "chb-mit": chb_mit.read,
    "hmc": hmc.read,
    "hmc-lights": hmc.read_between_lights,
    "siena": siena.read,
    "siena-second": siena.read_second,
    "sleep-edfx": sleep_edfx.read,
}
"""What may stand in a task under ``labels.reader``."""

__all__ = ["READERS", "Reader", "Told"]
