"""Batch norm's running statistics, measured afresh for the weights as they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy.typing as npt
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgecnn.errors import InputError
from edgecnn.ir.module import GraphModule
from edgecnn.train.evaluate import device_of


def recalibrate_batch_norm(module: nn.Module, inputs: Iterable[npt.NDArray[Any]]) -> None:
    """Sets every running mean and variance of `module`, in place, to the averages over the batches `inputs`.

    Training tracks them with a moving average over changing weights, and random weights have none at all; both make
    the net in inference mode another one than the net that was meant. Only batch norm runs in training mode here
    (dropout stays off), no weight changes, and the module's modes and momenta are restored. Layers that no batch
    comes to, such as those of auxiliary classifiers, keep their statistics. `GraphModule` has batch norm of its own,
    which is measured likewise.

    Shapes:
        Each of `inputs` float32 (N, channels, height, width).

    Raises:
        InputError: there is no batch.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    graphs = [part for part in module.modules() if isinstance(part, GraphModule) and part.has_batch_norm]
    training = [(layer, layer.training) for layer in module.modules()]
    momenta = [layer.momentum for layer in norms]
    graph_momenta = [part.momentum for part in graphs]
    before = [{name: kept.clone() for name, kept in layer.named_buffers()} for layer in norms]
    device, count = device_of(module), 0
    try:
        module.eval()
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None  # PyTorch: the cumulative average of all batches
            layer.train()
        for graph in graphs:
            graph.train()
        with torch.no_grad():
            for x in inputs:
                count += 1
                for graph in graphs:
                    graph.momentum = 1 / count  # the same average
                module(torch.from_numpy(x).to(device))
    finally:
        for part, mode in training:
            part.training = mode
        for graph, kept_momentum in zip(graphs, graph_momenta, strict=True):
            graph.momentum = kept_momentum
        for layer, momentum, statistics in zip(norms, momenta, before, strict=True):
            layer.momentum = momentum
            if not layer.num_batches_tracked:
                layer.load_state_dict(statistics, strict=False)
    if not count:
        raise InputError("no images to measure batch norm's statistics on")
