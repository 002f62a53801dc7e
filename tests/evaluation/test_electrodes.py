"""Some electrodes of recordings that have more."""

from __future__ import annotations

import numpy as np
import pytest

from berger.errors import BergerError
from berger.evaluation.electrodes import common_electrodes, with_electrodes
from berger.evaluation.strategies import Question
from tests.evaluation.made import MONTAGES, correlated


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> Question:
    return correlated(tmp_path_factory.mktemp("correlated"), 3)


def test_electrodes_are_found_by_name(question: Question) -> None:
    windows = question.windows
    names = common_electrodes(windows)
    assert names == ("C3", "C4", "Cz")
    picked = with_electrodes(windows, names)
    assert len(picked) == len(windows)
    for index in range(0, len(windows), 7):
        whole, some = windows[index], picked[index]
        order = [whole.ch_names.index(name) for name in names]
        np.testing.assert_array_equal(some.signal, whole.signal[order])
        assert some.ch_names == names
        assert (some.recording, some.start) == (whole.recording, whole.start)
    # now they are of one montage, and fit into one batch
    (batch,) = picked.batches(len(picked))
    assert batch.ch_names == names
    assert with_electrodes(windows, ("Cz",))[0].signal.shape == (1, 200)


def test_a_part_of_them_keeps_the_electrodes(question: Question) -> None:
    picked = with_electrodes(question.windows, ("Cz", "C4"))
    part = picked.take(np.array([30, 2]))
    np.testing.assert_array_equal(part[0].signal, picked[30].signal)
    assert part[1].ch_names == ("Cz", "C4")


def test_one_montage_is_left_alone(question: Question) -> None:
    alike = question.windows.take(np.arange(5))
    alike.blocks = alike.blocks[:1]
    assert alike.blocks[0].ch_names == MONTAGES[0]
    assert with_electrodes(alike, MONTAGES[0]) is alike


def test_no_common_electrode(question: Question) -> None:
    part = question.windows.take(np.arange(5))
    other = with_electrodes(question.windows, ("Cz",)).blocks[0]
    part.blocks = (with_electrodes(question.windows, ("C3",)).blocks[0], other)
    with pytest.raises(BergerError, match=r"share no electrode, .* leave the others out"):
        common_electrodes(part)
