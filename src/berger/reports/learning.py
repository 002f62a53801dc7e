"""What is said of how the cells of an evaluation were trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from berger.errors import BergerError
from berger.reports.blocks import Block, Figure, Note, counted
from berger.reports.evaluation_figures import learning_curves
from berger.reports.folders import Run


def learning_blocks(run: Run, task: str, shown: Mapping[str, str]) -> Iterator[Block]:
    """Show the losses of each row of a task's table that was trained epoch by epoch.

    Parameters
    ----------
    run : Run
        Of an evaluation.
    task : str
    shown : mapping of str to str
        Title of each row → what it is called in figures, in the order of the table. Other rows
        follow.

    Yields
    ------
    Block
        None if no cell of the task has a log.
    """
    trained: dict[str, list[Run]] = {title: [] for title in shown}
    for path in sorted(run.folder.glob("cells/**/log.jsonl")):
        one = Run(path.parent)
        if (one.cell.get("task"), one.cell.get("status")) == (task, "ok"):
            trained.setdefault(str(one.cell["title"]), []).append(one)
    images = []
    for title, cells in trained.items():
        if not cells:
            continue
        name = f"{shown.get(title, title)} ({counted(len(cells), 'cell')})"
        try:
            logs = [one.epochs() for one in cells]
        except BergerError as error:
            yield Note(str(error))
            continue
        images.append(learning_curves(logs, [int(one.cell["choice"]) for one in cells], name))
    if images:
        yield Figure(
            tuple(images),
            "Loss on the windows of training people, taken while the weights still change and "
            "with dropout where a network has it, and on those of validation people after each "
            "epoch. Lines are medians over cells, that is folds and seeds; bands reach from the "
            "lowest to the highest. Where some cells were stopped, lines go on with the others. "
            "Circles are the epochs whose weights each cell kept.",
        )
