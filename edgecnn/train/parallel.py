"""Data-parallel training under `torchrun`: every process computes its share of each batch of the whole.

The processes draw the same order and the same changes of images, and each keeps its share of the batch. Gradients and
batch norm's statistics are those of the whole batch, so that the number of processes changes nothing but the order in
which floating-point numbers are added. Dropout and stochastic depth draw in each process for itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgecnn.errors import UsageError


@contextmanager
def processes(*, on_gpu: bool) -> Iterator[World]:
    """Joins the other processes that `torchrun` started, for the length of the block; alone without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield World.current()
        return
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield World.current()
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class World:
    """The processes that train together: which of them this is, and of how many."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def current() -> World:
        """The world this process has joined; that of one process if it has joined none."""
        return World(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else World()

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and speaks for all."""
        return self.rank == 0

    def shard(self, batch_size: int) -> slice:
        """This process's part of a batch.

        Raises:
            UsageError: the parts would differ in size, and means over them would not be the batch's.
        """
        if batch_size % self.size:
            raise UsageError(
                f"a batch of {batch_size} cannot be shared evenly by {self.size} processes",
                expected=f"a batch_size that is a multiple of {self.size}",
                do="change batch_size, which counts the images of all processes, or torchrun's --nproc-per-node",
            )
        share = batch_size // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces every gradient by its mean over the processes, in one message."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def sum(self, *values: float, device: torch.device) -> list[float]:
        """The sums over the processes."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return [float(v) for v in total]

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The like tensors of all processes, by rank; they travel by way of the device that the back end is for."""
        if self.size == 1:
            return [tensor]
        device = torch.device("cuda") if dist.get_backend() == "nccl" else tensor.device
        parts = [torch.empty_like(tensor, device=device) for _ in range(self.size)]
        dist.all_gather(parts, tensor.to(device))
        return [part.to(tensor.device) for part in parts]

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.size > 1:
            dist.barrier()

    def share_weights(self, module: nn.Module) -> None:
        """Gives all processes the parameters and buffers of the first."""
        if self.size == 1:
            return
        for tensor in module.state_dict().values():
            contiguous = tensor.contiguous()
            dist.broadcast(contiguous, 0)
            tensor.copy_(contiguous)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; each one's loss depends on it, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class WholeBatchNorm(TorchFunctionMode):
    """While it is active, batch norm in training mode takes mean and variance over the batches of all processes.

    It stands in for `F.batch_norm`, through which every batch norm comes: PyTorch's layers in any net, and that of
    `GraphModule`. (`nn.SyncBatchNorm` would have to replace the layers, and is for GPUs only.)
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (_batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
    count = dist.get_world_size() * x.numel() // x.shape[1]  # the shares are equal
    wide = x if x.dtype == torch.float64 else x.float()
    mean: Tensor = _Sum.apply(wide.sum(axes)) / count  # type: ignore[no-untyped-call]
    centred = wide - mean.view(shape)
    var: Tensor = _Sum.apply(centred.square().sum(axes)) / count  # type: ignore[no-untyped-call]
    y = centred * (var + eps).rsqrt().view(shape)
    if weight is not None:
        y = y * weight.view(shape)
    if bias is not None:
        y = y + bias.view(shape)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
            running_var.mul_(1 - momentum).add_(var * (count / max(count - 1, 1)), alpha=momentum)
    return y.to(x.dtype)
