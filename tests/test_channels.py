from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from berger.channels import (
    ALIASES,
    canonical_name,
    canonical_names,
    electrode_names,
    electrodes_of,
    kind_of,
    positions,
    reference_of,
)

# --- Laws --------------------------------------------------------------------------------


def test_every_canonical_name_is_its_own():
    names = electrode_names()
    assert tuple(canonical_name(name) for name in names) == names
    assert {kind_of(name) for name in names} == {"EEG"}


@given(st.sampled_from([*electrode_names(), *ALIASES]), st.data())
def test_case_spaces_prefix_dots_and_reference_do_not_matter(name, data):
    letters = [data.draw(st.sampled_from([c.lower(), c.upper()])) for c in name]
    prefix = data.draw(st.sampled_from(["", " ", "EEG ", "eeg  ", "EEG_", "POL "]))
    suffix = data.draw(st.sampled_from(["", ".", "..", " ", "-REF", "-LE", "-Avg", " - a1", "-M2"]))
    assert canonical_name(prefix + "".join(letters) + suffix) == canonical_name(name)


@given(st.text(max_size=16))
def test_canonical_is_idempotent_on_any_text(text):
    name = canonical_name(text)
    if name is not None:
        assert canonical_name(name) == name


def test_positions_lie_on_the_unit_sphere_apart_from_each_other():
    places = positions(electrode_names())
    np.testing.assert_allclose(np.linalg.norm(places, axis=1), 1.0)
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    assert distance[~np.eye(len(places), dtype=bool)].min() > 0.02


def test_left_and_right_are_mirror_images():
    for name in electrode_names():
        digits = name.rstrip("h").lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZp")
        if digits == "z" or int(digits) % 2 == 0:
            continue
        twin = name.replace(digits, str(int(digits) + 1))
        np.testing.assert_allclose(positions([name]) * [-1, 1, 1], positions([twin]), atol=1e-12)
        assert positions([name])[0, 0] < 0


def test_neighbours_on_an_arc_are_equally_far_apart():
    for row in (["F7", "F5", "F3", "F1", "Fz", "F2"], ["Fpz", "AFz", "Fz", "FCz", "Cz", "CPz"]):
        steps = np.linalg.norm(np.diff(positions(row), axis=0), axis=1)
        np.testing.assert_allclose(steps, steps[0])


# --- Known answers -----------------------------------------------------------------------


def test_landmarks():
    np.testing.assert_allclose(positions(["Cz"]), [[0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(positions(["Nz"]), [[0, 1, 0]], atol=1e-12)
    np.testing.assert_allclose(positions(["Iz"]), [[0, -1, 0]], atol=1e-12)
    np.testing.assert_allclose(positions(["T9"]), [[-1, 0, 0]], atol=1e-12)
    degrees = np.rad2deg(np.arccos(positions(["C1", "C3", "C5", "T7", "F7", "Fp1", "Oz"])[:, 2]))
    np.testing.assert_allclose(degrees, [18, 36, 54, 72, 72, 72, 72])
    assert np.isnan(positions(["EMG"])).all()
    assert positions([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("EEG Fp1", "Fp1"),
        ("Fc5.", "FC5"),
        ("Fcz.", "FCz"),
        ("EEG FP1-REF", "Fp1"),
        ("EEG Fp1-LE", "Fp1"),
        ("FP1-A1", "Fp1"),
        ("EEG T3-REF", "T7"),
        ("T4", "T8"),
        ("t5", "P7"),
        ("EEG T6", "P8"),
        ("EEG A2-A1", None),
        ("Fp1-F3", None),
        ("EEG Fpz-Cz", None),
        ("A1", None),
        ("EEG", None),
        ("", None),
        ("Channel1", None),
    ],
)
def test_labels_of_real_files(label, name):
    assert canonical_name(label) == name


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("ECG ECG", "ECG"),
        ("EEG EKG1-REF", "ECG"),
        ("HEOG", "EOG"),
        ("LOC", "EOG"),
        ("EMG chin", "EMG"),
        ("Resp thorax", "respiration"),
        ("Airflow", "respiration"),
        ("SpO2", "SpO2"),
        ("SaO2", "SpO2"),
        ("Status", "trigger"),
        ("STI 014", "trigger"),
        ("PHOTIC-REF", "trigger"),
        ("EDF Annotations", "annotations"),
        ("EEG A2-A1", "reference"),
        ("M1", "reference"),
        ("EEG A1-REF", "reference"),
        ("Fp1-F3", "bipolar"),
        ("Channel1", "unknown"),
        ("", "unknown"),
    ],
)
def test_kinds(label, kind):
    assert kind_of(label) == kind


def test_lettered_caps_are_not_mistaken_for_the_ten_twenty_system():
    assert canonical_names(["F1", "C3", "Cz"]) == ["F1", "C3", "Cz"]
    assert canonical_names(["A1", "B1", "C3", "F1", "Cz"]) == [None, None, None, None, "Cz"]
    # Ear lobes are no sign of one.
    assert canonical_names(["A1", "A2", "C3", "E1"]) == [None, None, "C3", None]


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("EMG chin", "EMG"),
        ("EOG left", "EOG"),
        ("SEEG A1", "depth electrode"),
        ("ECoG G12", "electrode on the cortex"),
        ("DBS L0", "deep brain stimulation electrode"),
        ("ECG V2", "ECG"),
        ("EEG A1", "reference"),
    ],
)
def test_kinds_by_the_types_that_labels_begin_with(label, kind):
    assert kind_of(label) == kind


def test_ears_and_mastoids_are_electrodes_too_unless_measured_against_each_other():
    labels = ["EEG A1-REF", "m2", "EEG T3-A1", "EEG A2-A1", "ECG", "Fp1-F7"]
    assert electrodes_of(labels) == ["A1", "M2", "T7", None, None, None]
    assert electrodes_of(["C3", "B7"]) == [None, None]  # a lettered cap
    assert electrodes_of(electrode_names()) == list(electrode_names())


def test_the_reference_that_a_label_tells():
    labels = ["EEG F4-A1", "Fp1-M1", "EEG FP1-REF", "Cz", "EEG Cz-LE"]
    assert [reference_of(label) for label in labels] == ["A1", "M1", None, None, "LE"]
