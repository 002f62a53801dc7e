"""What a model expects of its input is checked, and what does not fit is named."""

from __future__ import annotations

import pytest

from berger.errors import BergerError
from berger.models import InputContract
from berger.preprocessing import PreprocessingConfig


def test_a_contract_names_what_does_not_fit() -> None:
    contract = InputContract(sfreq=100, ch_names=("Fz", "Cz"))
    contract.check(100, ("Fz", "Cz"), "file")
    with pytest.raises(BergerError, match=r"^file: sampled at 128 Hz, but .* 100 Hz; prepare"):
        contract.check(128, ("Fz", "Cz"), "file")
    with pytest.raises(BergerError, match=r"^file: has the electrodes Cz Fz, but .* Fz Cz in"):
        contract.check(100, ("Cz", "Fz"), "file")
    InputContract(sfreq=100).check(100, ("whatever",), "file")


@pytest.mark.parametrize(
    ("field", "other"),
    [("sfreq", 250), ("highpass", None), ("lowpass", 40), ("reference", "average")],
)
def test_recordings_must_be_filtered_and_referenced_alike(field: str, other: object) -> None:
    own = PreprocessingConfig()
    contract = InputContract(sfreq=200, preprocessing=own)
    with pytest.raises(BergerError, match=f"^corpus: was prepared with {field}: {other}, but the"):
        contract.check_preprocessing(own.model_copy(update={field: other}), "corpus")


def test_mains_and_cuts_are_free() -> None:
    own = PreprocessingConfig()
    changes = {"notch": 60.0, "max_amplitude": None, "cut_start": 60.0, "min_duration": 300.0}
    InputContract(sfreq=200, preprocessing=own).check_preprocessing(
        own.model_copy(update=changes), "corpus"
    )
    InputContract(sfreq=200).check_preprocessing(own.model_copy(update={"highpass": 2}), "corpus")
