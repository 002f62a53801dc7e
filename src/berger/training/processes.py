"""Which of the processes that were started together this one is; no torch is needed to tell."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from berger.errors import BergerError

ELASTIC = "TORCHELASTIC_RUN_ID"
"""What torchrun alone sets; WORLD_SIZE is set by others too, who start nothing."""
STEP = "SLURM_STEP_NUM_TASKS"
"""What srun alone sets; the script around it has the job's other variables as well."""


def world() -> tuple[int, int]:
    """Return how many processes were started together, and how many of them on this machine.

    Raises
    ------
    BergerError
        If SLURM started other numbers on different machines, or was not told how many.
    """
    if ELASTIC in os.environ:
        return int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    n_ranks = int(os.environ.get(STEP, "1"))
    if n_ranks == 1:
        return 1, 1
    n_nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    here = int(os.environ.get("SLURM_NTASKS_PER_NODE", "0"))
    if here * n_nodes != n_ranks:
        raise BergerError(
            f"srun started {n_ranks} processes on {n_nodes} machine{'s' * (n_nodes > 1)} but not "
            "by --ntasks-per-node; give it to sbatch and srun, as many as each machine has GPUs."
        )
    return n_ranks, here


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    if ELASTIC in os.environ:
        return os.environ["RANK"] == "0"
    return world()[0] == 1 or os.environ["SLURM_PROCID"] == "0"


@contextmanager
def in_turn() -> Iterator[None]:
    """Let the processes fail one after the other.

    What is wrong is mostly wrong for all, or the others fail because one has. The one that ends
    first, after it has said why, has torchrun end the others within a second, or srun within its
    ``--wait``, docs/many-devices.md has a minute; so they never say it too.
    """
    try:
        yield
    except Exception:
        if ELASTIC in os.environ:
            rank, here, patience = os.environ["RANK"], os.environ["LOCAL_RANK"], 10
        elif STEP in os.environ:
            rank, here, patience = os.environ["SLURM_PROCID"], os.environ["SLURM_LOCALID"], 90
        else:
            raise
        if rank != "0":
            time.sleep(patience + int(here))
        raise
