"""Fine-tuning: train a network on labelled windows, the pretrained part from some epoch on.

::

    epoch 0 … unfreeze − 1     encoders frozen, in evaluation mode; only what is new is trained
    epoch unfreeze …           everything is trained; or one depth after another, from the last to
                               the first, every `unfreeze_every` epochs
    after every epoch          loss on the validation windows: may lower the learning rate or end
                               it all, and decides which epoch's weights are kept

docs/decisions/0020-fine-tuning.md, docs/decisions/0025-strategies.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from tqdm import tqdm

from berger.configuration import Config
from berger.corpus import Batch, WindowDataset, WindowSampler, collate
from berger.errors import BergerError
from berger.models import Classifier, Encoder, SpecMoE
from berger.training.optim import OptimizerConfig, build_schedule, decay_groups


class FineTuningConfig(Config):
    """How a network is fine-tuned; the defaults are SpecMoE's (arXiv 2603.16739).

    Attributes
    ----------
    epochs : int
        Passes over the training windows.
    unfreeze : int, optional
        Epoch, counted from 0, from which the pretrained encoders are trained too; None: never.
    unfreeze_every : int, optional
        From then on one depth of the encoders is trained more after every so many epochs, from the
        last to the first; None: all at once.
    batch_size : int
    optimizer : {"adam", "adamw"}
        Adam is AMSGrad.
    lr : float
        The highest learning rate.
    layer_decay : float
        Of d layers above it, the last of which is what is new, a layer's learning rate is
        lr · layer_decay^d; 1 for the same everywhere.
    schedule : {"plateau", "one-cycle", "cosine"}
        The learning rate is halved where the validation loss stands still; or rises from half of
        `lr` and falls to a sixteenth; or rises from nearly 0 and falls to 0. The latter two follow
        half cosines and count optimiser steps of all `epochs`.
    warmup : float
        Share of the steps in which the learning rate rises, unless the schedule is plateau.
    patience : int
        Epochs without a lower validation loss after which plateau halves the learning rate.
    stop_after : int, optional
        Epochs without a lower validation loss after which training ends.
    weight_decay : float
        Not applied to biases and other 1-D parameters.
    clip_norm : float, optional
        Largest norm of the gradient, over all parameters together.
    class_weights : {"balanced", "sqrt", "none"}
        Weigh a window by the inverse of its class's share in the training windows, so that every
        class weighs the same, or by the root of that. true and false are balanced and none.
    label_smoothing : float
    """

    epochs: int = Field(100, ge=1)
    unfreeze: int | None = Field(1, ge=0)
    unfreeze_every: int | None = Field(None, ge=1)
    batch_size: int = Field(64, ge=1)
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: float = Field(1e-3, gt=0)
    layer_decay: float = Field(1.0, gt=0, le=1)
    schedule: Literal["plateau", "one-cycle", "cosine"] = "plateau"
    warmup: float = Field(0.2, ge=0, lt=1)
    patience: int = Field(10, ge=0)
    stop_after: int | None = Field(None, ge=1)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float | None = Field(None, gt=0)
    class_weights: Literal["balanced", "sqrt", "none"] = "balanced"
    label_smoothing: float = Field(0.0, ge=0, lt=1)

    @field_validator("class_weights", mode="before")
    @classmethod
    def _yes_or_no(cls, weights: Any) -> Any:
        return {True: "balanced", False: "none"}[weights] if isinstance(weights, bool) else weights

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.schedule == "one-cycle" and not self.warmup:
            raise ValueError("one-cycle needs a warmup in which to rise")
        if self.unfreeze_every is not None and self.stays_frozen:
            raise ValueError(
                "unfreeze_every begins at unfreeze; set that to an epoch before epochs"
            )
        return self

    @property
    def stays_frozen(self) -> bool:
        """Whether the pretrained encoders are never trained."""
        return self.unfreeze is None or self.unfreeze >= self.epochs

    def n_released(self, n_depths: int, epoch: int) -> int:
        """Return how many depths of an encoder, counted from the last, are trained in an epoch."""
        if self.unfreeze is None or epoch < self.unfreeze:
            return 0
        if self.unfreeze_every is None:
            return n_depths
        return min(n_depths, 1 + (epoch - self.unfreeze) // self.unfreeze_every)


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
        ``epoch, train_loss, validation_loss, lr, trained_parameters``, one for each epoch; the
        highest learning rate after its last step, and how many values were trained in it. Of a
        mixture with a gate also ``gate_0, gate_1, …``: how much that let through of each expert,
        the mean over the epoch's training windows and all features.
    """

    best_epoch: int
    history: list[dict[str, float]]


def trained_groups(model: nn.Module, config: FineTuningConfig) -> list[list[nn.Parameter]]:
    """Return the parameters that are trained in some epoch, group by group from the input on.

    Parameters
    ----------
    model : nn.Module
        As for `fine_tune`. Encoders side by side, as in a mixture, are equally deep.
    config : FineTuningConfig

    Returns
    -------
    list of list of nn.Parameter
        Last what is new: all that lies outside the encoders. What the features of an encoder do
        not depend on, such as a decoder, is in no group, nor is what asks for no gradient.
    """
    encoders = pretrained_parts(model)
    inside = {parameter for encoder in encoders for parameter in encoder.parameters()}
    new = [parameter for parameter in model.parameters() if parameter not in inside]
    depths = _depths(encoders)
    released = depths[len(depths) - config.n_released(len(depths), config.epochs - 1) :]
    return [[value for value in group if value.requires_grad] for group in (*released, new)]


def _depths(encoders: Sequence[Encoder]) -> list[list[nn.Parameter]]:
    """Return the parameters of encoders side by side, from the input on."""
    depths = zip(*(encoder.depth_groups() for encoder in encoders), strict=True)
    return [[parameter for part in parts for parameter in part] for parts in depths]


def count_trained(model: nn.Module, config: FineTuningConfig) -> int:
    """Return how many values `fine_tune` trains."""
    return sum(value.numel() for group in trained_groups(model, config) for value in group)


def pretrained_parts(module: nn.Module) -> list[Encoder]:
    """Return the outermost encoders inside a model."""
    return [
        encoder
        for part in module.children()
        for encoder in ([part] if isinstance(part, Encoder) else pretrained_parts(part))
    ]


def build_optimizer(model: nn.Module, config: FineTuningConfig) -> Optimizer:
    """Return the optimiser of what is trained, each depth with its own learning rate."""
    groups = trained_groups(model, config)
    described = [
        part | {"lr": config.lr * config.layer_decay ** (len(groups) - 1 - depth)}
        for depth, parameters in enumerate(groups)
        for part in decay_groups(parameters, config.weight_decay)
    ]
    if config.optimizer == "adamw":
        return AdamW(described, config.lr)
    return Adam(described, config.lr, amsgrad=True)


def build_step_schedule(
    optimizer: Optimizer, config: FineTuningConfig, steps: int
) -> LambdaLR | None:
    """Return the schedule of `steps` optimiser steps, None if it goes by the validation loss."""
    if config.schedule == "plateau":
        return None
    start, final = (0.5, 1 / 16) if config.schedule == "one-cycle" else (None, 0.0)
    shape = OptimizerConfig(
        lr=config.lr,
        start_lr=None if start is None else start * config.lr,
        final_lr=final * config.lr,
        warmup=config.warmup,
    )
    return build_schedule(optimizer, shape, steps)


def fine_tune(
    model: nn.Module,
    train: Labelled,
    validation: Labelled | None,
    config: FineTuningConfig,
    *,
    seed: int,
    n_epochs: int | None = None,
    quiet: bool = True,
    tell: Callable[[dict[str, float]], None] = lambda line: None,
) -> FineTuned:
    """Train a model on labelled windows; it ends in evaluation mode with the best epoch's weights.

    Parameters
    ----------
    model : nn.Module
        Maps a signal (batch, n_chans, n_times) in µV to logits (batch, n_classes) or, for
        regression, to values (batch, 1). Its `Encoder` modules are what is pretrained; what asks
        for no gradient in them is never trained.
    train, validation : Labelled
        Without validation windows the weights of the last epoch are kept and the learning rate
        stays.
    config : FineTuningConfig
    seed : int
        Of the order of the windows and of dropout.
    n_epochs : int, optional
        Stop after so many epochs of a schedule that is laid out for all of them.
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
    encoders = pretrained_parts(model)
    depths = _depths(encoders)
    trainable = {value for value in model.parameters() if value.requires_grad}
    optimizer = build_optimizer(model, config)
    trained = [value for group in optimizer.param_groups for value in group["params"]]
    steps = config.epochs * len(train.batches(config.batch_size, seed))
    schedule = build_step_schedule(optimizer, config, steps)
    plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=config.patience)
    torch.manual_seed(seed)
    n_epochs = config.epochs if n_epochs is None else n_epochs
    best, best_epoch, kept = float("inf"), n_epochs - 1, None
    history = []
    bar = tqdm(range(n_epochs), unit="epoch", disable=quiet)
    for epoch in bar:
        model.train()
        _release(encoders, depths, config.n_released(len(depths), epoch), trainable)
        total = 0.0
        opened: Tensor | float = 0.0
        for indices in train.batches(config.batch_size, seed, epoch):
            batch, targets = train.batch(indices, device)
            if isinstance(model, SpecMoE):
                answers, gates = model.forward_with_gates(batch.signal(device))
                loss = loss_of(answers, targets) + model.loss_gate(gates)
                if model.config.gate != "none":
                    share = len(indices) / len(train.targets)
                    opened = opened + gates.detach().mean((0, 1, 3)) * share
            else:
                loss = loss_of(_answers(model, batch, device), targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if config.clip_norm is not None:
                nn.utils.clip_grad_norm_(trained, config.clip_norm)
            optimizer.step()
            if schedule is not None:
                schedule.step()
            total += loss.item() * len(indices) / len(train.targets)
        line = {
            "epoch": float(epoch),
            "train_loss": total,
            "lr": max(group["lr"] for group in optimizer.param_groups),
            "trained_parameters": sum(value.numel() for value in trained if value.requires_grad),
        }
        if isinstance(opened, Tensor):
            line |= {f"gate_{place}": weight for place, weight in enumerate(opened.tolist())}
        if validation is not None:
            model.eval()
            line["validation_loss"] = _mean_loss(model, validation, loss_of, config, device)
            if schedule is None:
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
        if config.stop_after is not None and epoch - best_epoch >= config.stop_after:
            break
    if kept is not None:
        model.load_state_dict(kept)
    for value in trainable:
        value.requires_grad_(True)
    model.eval()
    return FineTuned(best_epoch, history)


def _release(
    encoders: Sequence[Encoder],
    depths: Sequence[Sequence[nn.Parameter]],
    n_released: int,
    trainable: Set[nn.Parameter],
) -> None:
    """Let the last so many depths of encoders be trained; the others stay as they are."""
    for encoder in encoders:
        encoder.requires_grad_(False)
    for group in depths[len(depths) - n_released :]:
        for value in group:
            value.requires_grad_(value in trainable)
    needed = {value for group in depths for value in group}
    for encoder in encoders:
        _set_modes(encoder, needed, False)


def _set_modes(module: nn.Module, needed: Set[nn.Parameter], training: bool) -> None:
    """Put into training mode what is trained as a whole, with the dropout that belongs to it.

    In evaluation mode batch norms leave their statistics alone, so that what is frozen is so
    bit for bit.
    """
    if own := [value for value in module.parameters() if value in needed]:
        training = all(value.requires_grad for value in own)
    module.training = training
    for part in module.children():
        _set_modes(part, needed, training)


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
        weight = class_weights(train.targets, logits.shape[-1], config)
        return F.cross_entropy(
            logits,
            targets,
            weight=torch.from_numpy(weight).to(logits),
            label_smoothing=config.label_smoothing,
        )

    return cross_entropy


def class_weights(
    targets: npt.NDArray[Any], n_classes: int, config: FineTuningConfig
) -> npt.NDArray[np.float64]:
    """Return what a window of each class weighs (n_classes,), such that their mean weight is 1.

    A class without windows has nothing to be made up for and weighs 0, unless all weigh the same.
    """
    if config.class_weights == "none":
        return np.ones(n_classes)
    counts = np.bincount(targets, minlength=n_classes)
    power = 1.0 if config.class_weights == "balanced" else 0.5
    weights = np.where(counts > 0, np.maximum(counts, 1.0) ** -power, 0.0)
    scaled: npt.NDArray[np.float64] = weights * counts.sum() / (weights @ counts)
    return scaled


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
