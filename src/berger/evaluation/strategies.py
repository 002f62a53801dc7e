"""Ways to adapt an encoder to a question: through the protocol, and then to everybody."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from berger.adaptation.finetuning import (
    FineTuned,
    FineTuningConfig,
    Labelled,
    count_trained,
    fine_tune,
    outputs,
    pretrained_parts,
)
from berger.adaptation.low_rank import LowRankConfig, add_low_rank
from berger.adaptation.probe import LinearProbe, embed_windows, fit_probe
from berger.corpus import WindowDataset
from berger.errors import BergerError
from berger.evaluation.protocol import Array, Mask, choose_penalty
from berger.evaluation.ridge import (
    RidgeProbe,
    choose_class_ridge,
    choose_ridge,
    fit_class_ridges,
    fit_ridge,
)
from berger.models import (
    AdapterConfig,
    Classifier,
    ClassifierConfig,
    EEGModel,
    Encoder,
    InputContract,
    MixtureConfig,
    SpecMoE,
)
from berger.models.heads import HeadConfig, LinearHeadConfig, Pooling


@dataclass(frozen=True, eq=False)
class Question:
    """Labelled windows of a task.

    Attributes
    ----------
    windows : WindowDataset
    labels : ndarray, shape (n_windows,)
        Place of each window's class in `classes`, or values to regress on.
    classes : tuple of str
        None in a regression.
    contract : InputContract
        What a model that answers it expects of its input.
    target : str, optional
        What the values of a regression are, with their unit.
    """

    windows: WindowDataset
    labels: npt.NDArray[Any]
    classes: tuple[str, ...]
    contract: InputContract
    target: str | None = None

    @property
    def is_regression(self) -> bool:
        """Whether the labels are values rather than classes."""
        return bool(np.issubdtype(self.labels.dtype, np.floating))

    @property
    def n_outputs(self) -> int:
        """Number of classes; 1 for a value."""
        return len(self.classes) or 1

    def some(self, which: Mask) -> Labelled:
        """Return a part of it."""
        return Labelled(self.windows.take(np.flatnonzero(which)), self.labels[which])


class Strategy(Protocol):
    """A way to adapt one encoder to one question.

    Attributes
    ----------
    n_trained : int
        How many values it trains; known once it has learned.
    """

    n_trained: int

    def learn(self, train: Mask, validation: Mask) -> tuple[Callable[[Mask], Array], float]:
        """As `berger.evaluation.protocol.Learn`."""

    def finish(self, choices: Sequence[float], some: Mask) -> EEGModel:
        """Learn from some windows of everybody, with the median of what the folds chose."""


class FrozenProbe:
    """The encoder stays as it is; a logistic or a ridge regression reads its features.

    Parameters
    ----------
    encoder : Encoder
    question : Question
    pooling : {"mean", "electrodes"}
    penalties : sequence of float
        Strengths of the L2 penalty to choose from.
    classes_by : {"logistic", "ridge"}
        What reads classes; values are read by a ridge regression.
    batch_size : int
    quiet : bool
    features : ndarray, shape (n_windows, n_features), optional
        Of the question's windows, where they have been worked out already.
    """

    def __init__(
        self,
        encoder: Encoder,
        question: Question,
        pooling: Pooling,
        penalties: Sequence[float],
        *,
        classes_by: Literal["logistic", "ridge"] = "logistic",
        batch_size: int,
        quiet: bool,
        features: Array | None = None,
    ) -> None:
        if pooling == "electrodes":
            _one_montage(question, "pooling: electrodes", "use pooling: mean")
        self.encoder = encoder
        self.question = question
        self.pooling = pooling
        self.penalties = penalties
        self.classes_by = classes_by
        if features is None:
            features = embed_windows(
                encoder, question.windows, pooling, batch_size=batch_size, quiet=quiet
            )
        self.features = features
        self.n_trained = (self.features.shape[1] + 1) * question.n_outputs

    def learn(self, train: Mask, validation: Mask) -> tuple[Callable[[Mask], Array], float]:
        """As `Strategy.learn`; the choice is a penalty."""
        features, labels, penalties = self.features, self.question.labels, self.penalties
        if self.question.is_regression:
            ridge, penalty = choose_ridge(features, labels, train, validation, penalties)
            return lambda some: ridge.values(features[some]), penalty
        if self.classes_by == "ridge":
            n_outputs = self.question.n_outputs
            probe, penalty = choose_class_ridge(
                features, labels, n_outputs, train, validation, penalties
            )
            return lambda some: probe.probabilities(features[some]), penalty
        model, penalty = choose_penalty(features, labels, train, validation, self._fit, penalties)
        return lambda some: model(features[some]), penalty

    def finish(self, choices: Sequence[float], some: Mask) -> Classifier:
        """As `Strategy.finish`."""
        question = self.question
        features, labels = self.features[some], question.labels[some]
        penalty = statistics.median_low(choices)
        probe: LinearProbe | RidgeProbe
        if question.is_regression:
            probe = fit_ridge(features, labels, penalty)
        elif self.classes_by == "ridge":
            probe = fit_class_ridges(features, labels, question.n_outputs, [penalty])[0]
        else:
            probe = fit_probe(features, labels, question.n_outputs, penalty)
        model = with_head(self.encoder, question, self.pooling)
        assert isinstance(model.head, nn.Linear)
        with torch.no_grad():
            model.head.weight.copy_(torch.from_numpy(probe.weight))
            model.head.bias.copy_(torch.from_numpy(probe.bias))
        return model

    def _fit(self, x: Array, y: npt.NDArray[np.int64], penalty: float) -> Callable[[Array], Array]:
        return fit_probe(x, y, len(self.question.classes), penalty).probabilities


class FineTuning:
    """Encoder, a new head and an adapter are trained together; a SpecMoE also gets a new gate.

    Parameters
    ----------
    encoder : Encoder
    question : Question
    pooling : {"mean", "electrodes"}
        Of the features of an encoder that is no SpecMoE.
    adapter : AdapterConfig
        What stands in front of an encoder that is no SpecMoE.
    head : config of any head
        What stands behind it.
    mixture : MixtureConfig
        Gate and head of a SpecMoE.
    config : FineTuningConfig
    low_rank : LowRankConfig, optional
        What is trained inside the encoder in place of its own weights.
    seed : int
        Of new weights, order of the windows and dropout.
    tell : callable
        Called with each line of the log.
    quiet : bool
    """

    def __init__(
        self,
        encoder: Encoder,
        question: Question,
        pooling: Pooling,
        adapter: AdapterConfig,
        head: HeadConfig,
        mixture: MixtureConfig,
        config: FineTuningConfig,
        *,
        low_rank: LowRankConfig | None = None,
        seed: int,
        tell: Callable[[dict[str, Any]], None],
        quiet: bool,
    ) -> None:
        if isinstance(encoder, SpecMoE):
            if adapter.is_on or head != LinearHeadConfig():
                raise BergerError(
                    "a SpecMoE is fine-tuned with a gate and a head of its own; leave adapter and "
                    "head out of the configuration."
                )
        elif pooling == "electrodes":
            _one_montage(question, "pooling: electrodes", "use pooling: mean")
        if adapter.needs_montage:
            off = "set adapter.targets and adapter.kernel_size to null"
            _one_montage(question, "an adapter of recorded channels", off)
        self.encoder = encoder
        self.question = question
        self.pooling: Pooling = pooling
        self.adapter = adapter
        self.head = head
        self.mixture = mixture
        self.config = config
        self.low_rank = low_rank
        self.seed = seed
        self.tell = tell
        self.quiet = quiet
        self.n_trained = 0

    def learn(self, train: Mask, validation: Mask) -> tuple[Callable[[Mask], Array], float]:
        """As `Strategy.learn`; the choice is an epoch."""
        model, tuned = self._tune(train, self.question.some(validation))

        def answer(some: Mask) -> Array:
            windows = self.question.some(some).windows
            found = outputs(model, windows, self.config.batch_size).double()
            return (found if self.question.is_regression else found.softmax(1)).numpy()

        return answer, float(tuned.best_epoch)

    def finish(self, choices: Sequence[float], some: Mask) -> EEGModel:
        """As `Strategy.finish`."""
        return self._tune(some, None, n_epochs=int(statistics.median_low(choices)) + 1)[0]

    def _tune(
        self, train: Mask, validation: Labelled | None, n_epochs: int | None = None
    ) -> tuple[EEGModel, FineTuned]:
        """Train a fresh model; layers of low rank have become part of its weights in the end."""
        model = self._fresh(train)
        merge: Callable[[], None] | None = None
        if self.low_rank is not None:
            merge = add_low_rank(pretrained_parts(model), self.low_rank)
        self.n_trained = count_trained(model, self.config)
        tuned = fine_tune(
            model,
            self.question.some(train),
            validation,
            self.config,
            seed=self.seed,
            n_epochs=n_epochs,
            tell=self.tell,
            quiet=self.quiet,
        )
        if merge is not None:
            merge()
        return model, tuned

    def _fresh(self, train: Mask) -> EEGModel:
        """The encoder as pretrained, with a new gate and head; values are scaled as in `train`."""
        question = self.question
        torch.manual_seed(self.seed)
        if isinstance(self.encoder, SpecMoE):
            model: SpecMoE | Classifier = SpecMoE.from_experts(
                [*self.encoder.experts],
                question.contract,
                n_outputs=question.n_outputs,
                classes=question.classes,
                target=question.target,
                **self.mixture.model_dump(),
            )
        else:
            model = with_head(self.encoder, question, self.pooling, self.adapter, self.head)
        if model.values is not None:
            model.values.fit(torch.from_numpy(question.labels[train]))
        return model.to(next(self.encoder.parameters()).device)


def with_head(
    encoder: Encoder,
    question: Question,
    pooling: Pooling,
    adapter: AdapterConfig | None = None,
    head: HeadConfig | None = None,
) -> Classifier:
    """Put a new head, by default a linear one, behind a copy of an encoder, an adapter in front."""
    adapter = adapter or AdapterConfig()
    ch_names = adapter.targets or question.contract.ch_names
    model = Classifier(
        ClassifierConfig.model_validate(
            {
                "encoder": encoder.config.model_dump(),
                "adapter": adapter,
                "head": head or LinearHeadConfig(),
                "pooling": pooling,
                "n_chans": len(ch_names) if ch_names else None,
                "classes": question.classes,
                "target": question.target,
            }
        ),
        question.contract,
    )
    model.encoder.load_state_dict(encoder.state_dict())
    return model


def _one_montage(question: Question, what: str, otherwise: str) -> None:
    if len({block.ch_names for block in question.windows.blocks}) > 1:
        raise BergerError(
            f"{what} needs one montage, but the recordings have several; {otherwise}, or prepare "
            "them with the same ch_names."
        )
