"""Fine-tuning: train a network on labelled windows, the pretrained part from some epoch on.

::

    epoch 0 … unfreeze − 1     encoders frozen, in evaluation mode; only what is new is trained
    epoch unfreeze …           everything is trained
    after every epoch          loss on the validation windows: lowers the learning rate, and
                               in the end decides which epoch's weights are kept
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from berger.configuration import Config
from berger.corpus import Batch, WindowDataset, WindowSampler, collate
from berger.errors import BergerError
from berger.models import Classifier, Encoder, SpecMoE


class FineTuningConfig(Config):
    """How a network is fine-tuned; the defaults are SpecMoE's (arXiv 2603.16739).

    Attributes
    ----------
    epochs : int
        Passes over the training windows.
    unfreeze : int, optional
        Epoch, counted from 0, from which the pretrained encoders are trained too; None: never.
    batch_size : int
    lr : float
        Learning rate of Adam (AMSGrad).
    weight_decay : float
    patience : int
        Epochs without a lower validation loss after which the learning rate is halved.
    class_weights : bool
        Let every class weigh the same, by the inverse of its share in the training windows.
    label_smoothing : float
    """

    epochs: int = Field(100, ge=1)
    unfreeze: int | None = Field(1, ge=0)
    batch_size: int = Field(64, ge=1)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    patience: int = Field(10, ge=0)
    class_weights: bool = True
    label_smoothing: float = Field(0.0, ge=0, lt=1)


@dataclass(frozen=True, eq=False)
class Labelled:
    """Windows and what is to be told of each.

    Attributes
    ----------
    windows : WindowDataset
    targets : ndarray, shape (n_windows,)
        Integers are class numbers; real numbers are values to regress on.
    """

    windows: WindowDataset
    targets: npt.NDArray[Any]

    @property
    def is_regression(self) -> bool:
        """Whether the targets are values rather than classes."""
        return bool(np.issubdtype(self.targets.dtype, np.floating))

    def batch(self, indices: list[int], device: torch.device) -> tuple[Batch, Tensor]:
        """Some windows and their targets (batch,), these on `device`."""
        kind = torch.float32 if self.is_regression else torch.int64
        targets = torch.as_tensor(self.targets[indices], dtype=kind, device=device)
        return collate([self.windows[index] for index in indices]), targets

    def batches(self, batch_size: int, seed: int, epoch: int = 0) -> list[list[int]]:
        """Window numbers of an epoch's batches, like with like, in an order of its own."""
        sampler = WindowSampler(self.windows, batch_size, seed)
        first = epoch * sampler.batches_per_epoch
        return [sampler.batch(first + place) for place in range(sampler.batches_per_epoch)]


@dataclass(frozen=True)
class FineTuned:
    """How a fine-tuning went.

    Attributes
    ----------
    best_epoch : int
        Epoch, counted from 0, whose weights the model has now.
    history : list of dict
        ``epoch, train_loss, validation_loss, lr``, one for each epoch.
    """

    best_epoch: int
    history: list[dict[str, float]]


def fine_tune(
    model: nn.Module,
    train: Labelled,
    validation: Labelled | None,
    config: FineTuningConfig,
    *,
    seed: int,
    quiet: bool = True,
    tell: Callable[[dict[str, float]], None] = lambda line: None,
) -> FineTuned:
    """Train a model on labelled windows; it ends in evaluation mode with the best epoch's weights.

    Parameters
    ----------
    model : nn.Module
        Maps a signal (batch, n_chans, n_times) in µV to logits (batch, n_classes) or, for
        regression, to values (batch, 1). Its `Encoder` modules are what is pretrained.
    train, validation : Labelled
        Without validation windows the weights of the last epoch are kept and the learning rate
        stays.
    config : FineTuningConfig
    seed : int
        Of the order of the windows and of dropout.
    quiet : bool
        No progress bar.
    tell : callable, optional
        Called with each line of the history, for a log.

    Raises
    ------
    BergerError
        If a loss is no longer a finite number.
    """
    device = next(model.parameters()).device
    loss_of = _loss(train, config)
    encoders = [part for part in model.modules() if isinstance(part, Encoder) and part is not model]
    optimizer = Adam(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, amsgrad=True
    )
    plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=config.patience)
    torch.manual_seed(seed)
    best, best_epoch, kept = float("inf"), config.epochs - 1, None
    history = []
    bar = tqdm(range(config.epochs), unit="epoch", disable=quiet)
    for epoch in bar:
        frozen = config.unfreeze is None or epoch < config.unfreeze
        model.train()
        for encoder in encoders:
            encoder.train(not frozen).requires_grad_(not frozen)
        total = 0.0
        for indices in train.batches(config.batch_size, seed, epoch):
            batch, targets = train.batch(indices, device)
            if isinstance(model, SpecMoE):
                answers, gates = model.forward_with_gates(batch.signal(device))
                loss = loss_of(answers, targets) + model.loss_gate(gates)
            else:
                loss = loss_of(_answers(model, batch, device), targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(indices) / len(train.targets)
        line = {"epoch": float(epoch), "train_loss": total, "lr": optimizer.param_groups[0]["lr"]}
        if validation is not None:
            model.eval()
            line["validation_loss"] = _mean_loss(model, validation, loss_of, config, device)
            plateau.step(line["validation_loss"])
            if line["validation_loss"] < best:
                best, best_epoch = line["validation_loss"], epoch
                kept = copy.deepcopy(model.state_dict())
        if not np.isfinite([*line.values()]).all():
            raise BergerError(
                f"the loss of fine-tuning is no longer a finite number in epoch {epoch}; lower "
                "its learning rate."
            )
        history.append(line)
        tell(line)
        bar.set_postfix(line, refresh=False)
    if kept is not None:
        model.load_state_dict(kept)
    model.requires_grad_(True).eval()
    return FineTuned(best_epoch, history)


@torch.inference_mode()
def outputs(model: nn.Module, windows: WindowDataset, batch_size: int = 64) -> Tensor:
    """Return what a model puts out for windows, (n_windows, n_outputs), in evaluation mode."""
    device = next(model.parameters()).device
    model.eval()
    batches = windows.batches(batch_size)
    return torch.cat([_answers(model, batch, device).cpu() for batch in batches])


def _answers(model: nn.Module, batch: Batch, device: torch.device) -> Tensor:
    signal = batch.signal(device)
    named = isinstance(model, Classifier)  # whose encoder may know electrodes by name
    answers: Tensor = model(signal, ch_names=batch.ch_names) if named else model(signal)
    return answers


Loss = Callable[[Tensor, Tensor], Tensor]


def _loss(train: Labelled, config: FineTuningConfig) -> Loss:
    """Squared error of values; cross-entropy of classes, weighted by their shares in `train`."""
    if train.is_regression:
        return lambda values, targets: F.mse_loss(values.squeeze(-1), targets)

    def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
        weight = None
        if config.class_weights:
            counts = np.bincount(train.targets, minlength=logits.shape[-1])
            # a class without windows has nothing to be made up for
            inverse = np.where(counts > 0, counts.sum() / np.maximum(counts, 1), 0)
            weight = torch.tensor(inverse / np.count_nonzero(counts)).to(logits)
        return F.cross_entropy(
            logits, targets, weight=weight, label_smoothing=config.label_smoothing
        )

    return cross_entropy


@torch.inference_mode()
def _mean_loss(
    model: nn.Module,
    labelled: Labelled,
    loss_of: Loss,
    config: FineTuningConfig,
    device: torch.device,
) -> float:
    answers = outputs(model, labelled.windows, config.batch_size).to(device)
    kind = torch.float32 if labelled.is_regression else torch.int64
    targets = torch.as_tensor(labelled.targets, dtype=kind, device=device)
    return float(loss_of(answers, targets))
