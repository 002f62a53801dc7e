"""Every format, written by script and read back."""

from __future__ import annotations

import numpy as np
import pytest

from berger.recordings import read_recording
from tests.recordings import writing


@pytest.mark.parametrize("name", writing.WRITERS)
def test_what_was_written_is_read(tmp_path, name):
    expected = writing.EXPECTED[name]
    recording = read_recording(writing.write(tmp_path, name), ch_names=expected.names or None)
    assert recording.ch_names == (expected.names or ("Fp1", "T7"))
    assert recording.sfreq == writing.SFREQ
    np.testing.assert_allclose(
        recording.signal, writing.WAVES[:2], rtol=1e-6, atol=0.5001 * expected.step
    )
    marks = [mark for mark in recording.annotations if mark.description == expected.mark]
    assert [mark.onset for mark in marks] == pytest.approx([2.5])
    assert marks[0].duration == pytest.approx(expected.duration)


@pytest.mark.parametrize("name", writing.WRITERS)
def test_without_samples_all_else_is_the_same(tmp_path, name):
    names = writing.EXPECTED[name].names or None
    path = writing.write(tmp_path, name)
    whole, header = (
        read_recording(path, ch_names=names, samples=samples) for samples in (True, False)
    )
    assert header.signal.shape == whole.signal.shape
    assert np.isnan(header.signal).all()
    assert header.signal.base.nbytes == 8  # one number in memory
    fields = {*vars(whole)} - {"signal"}
    assert {"annotations", "gaps", "ch_names", "kept_out", "sfreq", "subject"} <= fields
    for field in fields:
        assert getattr(header, field) == getattr(whole, field)
