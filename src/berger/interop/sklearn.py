"""A checkpoint behind scikit-learn's interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from berger.adaptation.probe import fit_probe
from berger.errors import BergerError
from berger.models import Classifier, Encoder, load_checkpoint
from berger.models.heads import Pooling, pooled_features

Array = npt.NDArray[Any]


class BergerClassifier(ClassifierMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Frozen encoder with a logistic regression.

    Parameters
    ----------
    checkpoint : path
        Folder of a pretrained (or adapted) model; its encoder is used, behind its adapter.
    pooling : {"mean", "electrodes"}
        Features of a window: mean over electrodes, or each electrode's own.
    penalty : float
        Strength of the L2 penalty.
    batch_size : int
        Windows that the encoder sees at once.
    ch_names : sequence of str, optional
        Names of the electrodes in X, which some encoders need.

    Attributes
    ----------
    classes_ : ndarray
        Labels found by `fit`.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        pooling: Pooling = "mean",
        penalty: float = 1e-2,
        batch_size: int = 16,
        ch_names: Sequence[str] | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.pooling = pooling
        self.penalty = penalty
        self.batch_size = batch_size
        self.ch_names = ch_names

    def fit(self, X: Array, y: Array) -> Self:
        """Fit the regression.

        Parameters
        ----------
        X : array, shape (n_windows, n_chans, n_times)
            Microvolts, at the rate, filtered and, with `berger.adaptation.alignment`, aligned as
            the checkpoint's contract says.
        y : array, shape (n_windows,)
            Labels.
        """
        check_classification_targets(y)
        check_consistent_length(X, y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        self._probe = fit_probe(self.transform(X), labels, len(self.classes_), self.penalty)
        return self

    def transform(self, X: Array) -> Array:
        """Return the encoder's features (n_windows, n_features)."""
        signal = torch.as_tensor(np.asarray(X), dtype=torch.float32)
        if signal.ndim != 3:
            raise BergerError(
                f"X has the shape {tuple(signal.shape)}; give (n_windows, n_chans, n_times) in µV."
            )
        if not torch.isfinite(signal).all():
            raise BergerError("X holds values that are not finite; leave these windows out.")
        if 0 < signal.abs().max() < 0.01:
            raise BergerError("X never reaches 0.01 µV; give microvolts, not volts.")
        model = self._model()
        with torch.inference_mode():
            batches = torch.split(signal, self.batch_size)
            rows = [pooled_features(model, x, self.pooling, self.ch_names) for x in batches]
        return torch.cat(rows).double().numpy()

    def predict_proba(self, X: Array) -> Array:
        """Return class probabilities (n_windows, n_classes), columns as in `classes_`."""
        check_is_fitted(self, "classes_")
        return self._probe.probabilities(self.transform(X))

    def predict(self, X: Array) -> Array:
        """Return the most probable label of each window."""
        best = self.predict_proba(X).argmax(1)
        labels: Array = self.classes_[best]
        return labels

    def _model(self) -> Encoder | Classifier:
        model = load_checkpoint(self.checkpoint)
        if not isinstance(model, (Encoder, Classifier)):
            raise BergerError(f"{self.checkpoint}: holds no encoder that can embed.")
        return model
