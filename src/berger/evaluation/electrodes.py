"""The electrodes that all recordings of a task share, for models that need one montage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from berger.corpus import Window, WindowDataset
from berger.corpus.windows import Block
from berger.errors import BergerError


def common_electrodes(windows: WindowDataset) -> tuple[str, ...]:
    """Return the electrodes that every recording has, in the order of the first.

    Raises
    ------
    BergerError
        If there is none.
    """
    montages = [block.ch_names for block in windows.blocks]
    common = set(montages[0]).intersection(*montages[1:])
    if not common:
        raise BergerError(
            "the recordings share no electrode, which every baseline but chance and random weights "
            "needs; leave the others out of baselines."
        )
    return tuple(name for name in montages[0] if name in common)


def with_electrodes(windows: WindowDataset, ch_names: tuple[str, ...]) -> WindowDataset:
    """Return the same windows with some of their electrodes, in a given order.

    Parameters
    ----------
    windows : WindowDataset
    ch_names : tuple of str
        Electrodes that every recording has.
    """
    if all(block.ch_names == ch_names for block in windows.blocks):
        return windows
    return WindowDataset(
        [_SomeElectrodes.of(block, ch_names) for block in windows.blocks],
        windows.of_block,
        windows.starts,
        windows.seconds,
        windows.corpora,
        windows.weights,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class _SomeElectrodes(Block):
    """A recording of which some electrodes are looked at."""

    whole: Block
    order: npt.NDArray[np.int64]

    @classmethod
    def of(cls, block: Block, ch_names: tuple[str, ...]) -> _SomeElectrodes:
        order = np.array([block.ch_names.index(name) for name in ch_names])
        return cls(**vars(block) | {"ch_names": ch_names, "whole": block, "order": order})

    def window(self, start: int, n_times: int) -> Window:
        """Read samples of all electrodes, and hand out some."""
        window = self.whole.window(start, n_times)
        return window._replace(
            samples=window.samples[:, self.order],
            scale=window.scale[self.order],
            ch_names=self.ch_names,
        )
