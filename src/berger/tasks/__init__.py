"""The facts of labelled data sets, and the labelled windows that they ask for.

A task is a YAML file: one of those in `catalogue`, or a user's own.

::

    YAML ──► TaskConfig ──► recordings ──► corpus ──► marks ──► windows with labels ──► folds
             (`task`,       (`find_data`)             (`origins`, (`windows`)           (`folds`)
              `labels`,                                `marks`,
              `splits`,                                `tables`)
              `facts`)

`check` compares a folder with the facts, by headers and labels alone.
"""

from berger.tasks.check import FolderCheck, check_folder, part_of_it
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
    "FolderCheck",
    "LabelledWindows",
    "TaskConfig",
    "catalogue",
    "check_folder",
    "cut_windows",
    "find_data",
    "labelled_windows",
    "load_task",
    "make_folds",
    "part_of_it",
    "preparation",
]
