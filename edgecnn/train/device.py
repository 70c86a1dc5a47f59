"""Where training computes, and how exactly."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgecnn.errors import EnvironmentFailure
from edgecnn.train.settings import TrainSettings


@dataclass(frozen=True)
class Compute:
    """A device, and the type that convolutions and products compute in; sums and weights stay float32."""

    device: torch.device
    dtype: torch.dtype

    @staticmethod
    def of(settings: TrainSettings) -> Compute:
        """What `settings` ask for, on this machine.

        Raises:
            EnvironmentFailure: a GPU was asked for and there is none.
        """
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise EnvironmentFailure(
                "there is no GPU that PyTorch can use",
                got=f"PyTorch {torch.__version__}",
                do="train on the CPU (device = cpu), or install a driver and a PyTorch with CUDA",
            )
        on_gpu = settings.device != "cpu" and torch.cuda.is_available()
        # The current one: under torchrun each process has set its own.
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        if settings.precision != "auto":
            return Compute(device, getattr(torch, settings.precision))
        if not on_gpu:
            return Compute(device, torch.float32)
        return Compute(device, torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16)

    @property
    def cuda_devices(self) -> list[int]:
        """The GPU's number in a list, or an empty one: the random states there are besides the CPU's."""
        return [self.device.index or 0] if self.device.type == "cuda" else []

    def autocast(self) -> AbstractContextManager[Any]:
        """The block in which operations choose their precision; plain float32 does without."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps small gradients of float16 from becoming zero; does nothing for other types."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def images(self, x_nchw: Tensor) -> Tensor:
        """The batch on the device, channels last."""
        return self.to(x_nchw.contiguous(memory_format=torch.channels_last))

    def to(self, tensor: Tensor) -> Tensor:
        """`tensor` on the device."""
        return tensor.to(self.device, non_blocking=True)
