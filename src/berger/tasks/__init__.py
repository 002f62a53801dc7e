"""The facts of labelled data sets, and the labelled windows that they ask for.

A task is a YAML file: one of those in `catalogue`, or a user's own.

::

    YAML ──► TaskConfig ──► recordings ──► corpus ──► marks ──► windows with labels ──► folds
             (`task`,       (`find_data`)             (`origins`, (`windows`)           (`folds`)
              `labels`,                                `marks`,
              `splits`)                                `tables`)
"""

from berger.tasks.folds import make_folds
from berger.tasks.splits import Fold
from berger.tasks.task import (
    TaskConfig,
    catalogue,
    find_data,
    load_task,
    preparation,
)
from berger.tasks.windows import LabelledWindows, cut_windows, labelled_windows

__all__ = [
    "Fold",
    "LabelledWindows",
    "TaskConfig",
    "catalogue",
    "cut_windows",
    "find_data",
    "labelled_windows",
    "load_task",
    "make_folds",
    "preparation",
]
