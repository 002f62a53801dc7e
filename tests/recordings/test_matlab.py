from __future__ import annotations

import struct

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from berger.recordings.matlab import check_matlab

CONTENT = {
    "numbers": np.arange(12.0).reshape(3, 4),
    "small": np.int8([1, 2]),
    "complex": np.array([1 + 2j]),
    "logical": np.array([True, False]),
    "empty": np.zeros((0, 0)),
    "text": "Grüße",
    "texts": np.array(["a", "bcd"]),
    "cells": np.array([1, "x", np.arange(3)], dtype=object),
    "structure": {"a": 1, "b": {"c": "deep"}},
    "sparse": scipy.sparse.csc_matrix(np.eye(4)),
}


@pytest.fixture(params=[False, True], ids=["plain", "compressed"])
def path(tmp_path, request):
    scipy.io.savemat(tmp_path / "x.mat", CONTENT, do_compression=request.param)
    return tmp_path / "x.mat"


def test_what_scipy_writes_is_whole(path):
    check_matlab(path)


def test_version_4_is_left_to_scipy(tmp_path):
    scipy.io.savemat(tmp_path / "x.mat", {"x": np.arange(3.0)}, format="4")
    check_matlab(tmp_path / "x.mat")


@pytest.mark.parametrize("n_bytes", [-1, -9, -100, 7, 64])
def test_another_length_is_refused(path, n_bytes):
    content = path.read_bytes()
    path.write_bytes(content[:n_bytes] if n_bytes < 0 else content + bytes(n_bytes))
    with pytest.raises(ValueError, match=r"\w"):
        check_matlab(path)


def write_one(path, value):
    scipy.io.savemat(path, {"x": value})
    return bytearray(path.read_bytes())


@pytest.mark.parametrize(
    ("value", "offset", "number", "reason"),
    [
        (np.arange(10.0), 128, 3, "an array is missing"),
        (np.arange(10.0), 132, 10**9, "reaches beyond the end"),
        (np.arange(10.0), 136, 200, "lacks a part"),  # type of the flags
        (np.arange(10.0), 144, 99, "unknown class"),
        (np.arange(10.0), 144, 1, "holds|array is missing"),  # a list of arrays
        (np.arange(10.0), 160, 10**9, "holds 10 instead of"),  # its shape
        (np.arange(10.0), 160, -1, "a negative size"),
        (np.arange(10.0), 176, 200, "lacks its numbers"),  # their type: SciPy would crash
        ("text", 164, 10**6, "a text of"),
    ],
)
def test_parts_that_cannot_be_are_refused(tmp_path, value, offset, number, reason):
    content = write_one(tmp_path / "x.mat", value)
    struct.pack_into("<i", content, offset, number)
    (tmp_path / "x.mat").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        check_matlab(tmp_path / "x.mat")


def test_arrays_too_deep_in_each_other_are_refused(tmp_path):
    value: object = 1.0
    for _ in range(60):
        inside = np.empty(1, dtype=object)
        inside[0] = value
        value = inside
    write_one(tmp_path / "x.mat", value)
    with pytest.raises(ValueError, match="too deep"):
        check_matlab(tmp_path / "x.mat")
