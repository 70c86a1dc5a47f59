"""An exponential moving average of weights: less noisy than the last step's, and often more accurate."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Ema:
    """The average over steps of all floating-point parameters and buffers of `module`.

    After t steps the decay is min(decay, (1 + t) / (10 + t)), so that the random weights of the start are soon
    forgotten (as `tf.train.ExponentialMovingAverage` with `num_updates`).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self._live = {k: t.detach() for k, t in module.state_dict().items() if t.is_floating_point()}
        self.average = {k: t.clone() for k, t in self._live.items()}

    def update(self) -> None:
        """Takes in the weights as they are now."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, average in self.average.items():
            average.lerp_(self._live[name], 1 - decay)

    def restore(self, average: Mapping[str, Tensor], steps: int) -> None:
        """Goes on from what an earlier run had come to."""
        self.steps = steps
        for name, tensor in self.average.items():
            tensor.copy_(average[name])

    def apply(self) -> None:
        """Gives the module the averages for its weights."""
        with torch.no_grad():
            for name, average in self.average.items():
                self._live[name].copy_(average)
