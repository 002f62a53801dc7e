"""One training on many devices: which of them this process has, and what they must agree on.

Processes are started by ``torchrun`` or SLURM, one for each device. The batch is shared out among
them, so that a training means the same on any number.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from berger.errors import BergerError
from berger.models.device import Device, compute_device
from berger.models.encoders import BLOCKS
from berger.objectives.ranks import summed
from berger.training.optim import OptimizerConfig, build_optimizer
from berger.training.processes import ELASTIC, world

Strategy = Literal["ddp", "fsdp"]
"""On several devices: "ddp" keeps the whole model on each, "fsdp" a part."""
COMPILERS = (os.environ.get("CXX") or "g++", "clang++")
T = TypeVar("T")


def wait_for_all() -> None:
    """Return when all processes have come here."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()


class Autocast(MixedPrecision):
    """Half precision where it does no harm; a batch's microvolts per count are no such place."""

    def convert_input(self, data: T) -> T:
        """Return the batch as it is."""
        return data


def fabric(device: Device, precision: str, strategy: Strategy = "ddp") -> Fabric:
    """Join the other processes, if there are any.

    Raises
    ------
    BergerError
        If there are more processes than devices, or the strategy and the precision do not fit.
    """
    place = compute_device(device)
    n_ranks, n_here = world()
    if place.type == "cuda" and n_here > torch.cuda.device_count():
        raise BergerError(
            f"{n_here} processes on a machine of {torch.cuda.device_count()} GPUs; start one for "
            "each (by srun all must see all of them: --gpus-per-node, not --gpus-per-task), or use "
            "--device cpu."
        )
    if n_ranks > 1 and strategy == "fsdp" and precision == "16-mixed":
        raise BergerError(
            "--strategy fsdp does not know on which process a gradient of 16-mixed is too large; "
            "set training.precision to bf16-mixed, or take --strategy ddp."
        )
    # else Fabric would guess, and take what is left of another's environment for its own
    how: dict[str, Any] = {
        "accelerator": place.type,
        "devices": n_here,
        "plugins": [_environment(n_ranks)],
    }
    if precision != "32-true":
        how["plugins"].append(Autocast(precision, place.type))  # type: ignore[arg-type]
    if n_ranks > 1:
        how["num_nodes"] = n_ranks // n_here
        how["strategy"] = (
            DDPStrategy()
            if strategy == "ddp"
            else ModelParallelStrategy(
                _shard,
                data_parallel_size=n_ranks,
                tensor_parallel_size=1,
                save_distributed_checkpoint=False,
            )
        )
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # every process says hello
    made = Fabric(**how)
    made.launch()
    return made


def _environment(n_ranks: int) -> ClusterEnvironment:
    """Return where Fabric learns of the other processes."""
    if n_ranks == 1:
        return LightningEnvironment()
    return TorchElasticEnvironment() if ELASTIC in os.environ else SLURMEnvironment()


def setup(
    fabric: Fabric, objective: nn.Module, config: OptimizerConfig
) -> tuple[_FabricModule, Any, Optimizer]:
    """Put an objective onto this process's device.

    Returns
    -------
    module, optimizer
        As Fabric wraps them.
    bare
        The optimiser itself.
    """
    if fabric.world_size > 1:
        synchronise_norms(objective)
    module = fabric.setup_module(objective)
    bare = build_optimizer(objective, config)
    return module, fabric.setup_optimizers(bare), bare


def _shard(objective: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Give each process a part of every block."""
    for block in blocks_of(objective):
        fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(objective, mesh=mesh["data_parallel"])
    return objective


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts that hold most of a network's work, none within another."""
    for child in module.children():
        if isinstance(child, BLOCKS):
            yield child
        else:
            yield from blocks_of(child)


def checkpoint_activations(objective: nn.Module) -> None:
    """Let the blocks that are trained compute their activations anew in the backward pass."""
    for block in blocks_of(objective):
        if any(parameter.requires_grad for parameter in block.parameters()):
            again = partial(_contexts, block)
            block.forward = partial(
                checkpoint, block.forward, use_reentrant=False, context_fn=again
            )


def _contexts(block: nn.Module) -> tuple[Any, Any]:
    return nullcontext(), _statistics_stay(block)


@contextmanager
def _statistics_stay(block: nn.Module) -> Iterator[None]:
    """Let batch norms see a batch for a second time without counting it."""
    norms = [part for part in block.modules() if isinstance(part, nn.BatchNorm1d)]
    statistics = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        for name, value in norm.named_buffers():
            norm._buffers[name] = value.clone()
    try:
        yield
    finally:
        for norm, before in zip(norms, statistics, strict=True):
            norm._buffers.update(before)


def compile_blocks(objective: nn.Module, backend: str = "inductor") -> None:
    """Compile the blocks; what is between them, masks among it, stays as it is.

    Raises
    ------
    BergerError
        If there is no C++ compiler, without which torch's own cannot work.
    """
    if backend == "inductor" and not any(map(shutil.which, COMPILERS)):
        raise BergerError(
            f"training.compile needs a C++ compiler ({', '.join(COMPILERS)}); install one, or "
            "leave it out."
        )
    for block in blocks_of(objective):
        block.compile(backend=backend)


class SynchronisedNorm(nn.BatchNorm1d):
    """A batch norm whose batch is that of all processes, on any device.

    `torch.nn.SyncBatchNorm` works on GPUs only, where nobody without one could test it.

    Attributes
    ----------
    copies : int
        How many processes have the same windows; one, unless a batch is too small to be shared.
    """

    copies: int

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (batch, n) or (batch, n, n_times)."""
        if not self.training:
            return super().forward(x)
        over = [axis for axis in range(x.ndim) if axis != 1]
        with torch.autocast(x.device.type, enabled=False):
            wide = x.float()
            count = torch.full((1,), wide.numel() / wide.shape[1], device=x.device)
            total = summed(torch.cat((wide.sum(over), count)))
            n = total[-1]
            mean = total[:-1] / n
            centred = wide - self._along(mean, x)
            variance = summed(centred.square().sum(over)) / n
            scale = (variance + self.eps).rsqrt()
            if self.affine:
                scale = scale * self.weight
            normed = centred * self._along(scale, x)
            if self.affine:
                normed = normed + self._along(self.bias, x)
        if self.track_running_stats:
            different = n.detach() / self.copies
            self._follow(mean.detach(), variance.detach() * different / (different - 1))
        return normed.to(x.dtype)

    def _along(self, values: Tensor, x: Tensor) -> Tensor:
        return values.view(1, -1, *(1,) * (x.ndim - 2))

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def synchronise_norms(module: nn.Module) -> None:
    """Let every batch norm see the batch of all processes; names and weights stay."""
    for part in module.modules():
        if type(part) is nn.BatchNorm1d:
            part.__class__ = SynchronisedNorm
    tell_copies(module, 1)


def tell_copies(module: nn.Module, copies: int) -> None:
    """Tell synchronised norms how many processes have the same windows of the next batch."""
    for part in module.modules():
        if isinstance(part, SynchronisedNorm):
            part.copies = copies


def everybodys(thing: T) -> list[T]:
    """Return what every process has, by rank."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [thing]
    things: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(things, thing)
    return things
