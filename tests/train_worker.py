"""One process of the data-parallel tests: `torchrun ... train_worker.py FOLDER`; without torchrun, all there is.

Not collected as a test. Each case's weights go to FOLDER/<case>.npz, from the first process.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from train_cases import digits, digits_graph

from edgecnn.ir.graph import Graph
from edgecnn.ir.module import GraphModule
from edgecnn.train import trainer
from edgecnn.train.loop import train_net
from edgecnn.train.parallel import WholeBatchNorm, processes
from edgecnn.train.settings import TrainSettings
from edgecnn.train.trainer import StepReport
from edgecnn.train.tune import tune_graph

SETTINGS = TrainSettings(
    epochs=2, batch_size=256, lr=0.02, warmup_epochs=0.5, augment="digits", mixup=0.3, cutout=0.25, ema=0.9
)


class WideGraph(GraphModule):
    """The graph in float64."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.double()

    def forward(self, *images: Tensor) -> Tensor | tuple[Tensor, ...]:
        return super().forward(*(x.double() for x in images))


class Wide(nn.Module):
    """A net of PyTorch's layers in float64."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 32),
                nn.BatchNorm1d(32, affine=False), nn.Hardswish(), nn.Dropout(dropout), nn.Linear(32, 10),
            ).double()  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x.double())
        return logits


class Stop(Exception):
    """Stands for an interrupt."""


def graph_weights(make_module: type[GraphModule]) -> dict[str, np.ndarray]:
    teacher = GraphModule(digits_graph(seed=1))
    graph = tune_graph(digits_graph(), digits(), settings=SETTINGS, teacher=teacher, make_module=make_module).graph
    return {v.name: v.data for v in graph.values.values() if v.data is not None}


def net_weights(dropout: float, checkpoint: Path | None = None, stop_at: int | None = None) -> dict[str, np.ndarray]:
    def on_step(report: StepReport) -> None:
        if report.done == stop_at:
            raise Stop

    module, settings = Wide(dropout), SETTINGS.model_copy(update={"checkpoint_seconds": 0.0})
    train_net(module, digits(), settings=settings, on_step=on_step, checkpoint=checkpoint)
    return {name.replace(".", "_"): tensor.numpy() for name, tensor in module.state_dict().items()}


def main(folder: Path) -> None:
    with processes(on_gpu=False) as world:
        cases = {
            "graph64": graph_weights(WideGraph),
            "graph32": graph_weights(GraphModule),
            "net": net_weights(0.0),
        }
        if world.size > 1:
            trainer.WholeBatchNorm = nullcontext  # type: ignore[assignment,misc]
            cases["apart"] = graph_weights(WideGraph)
            trainer.WholeBatchNorm = WholeBatchNorm  # type: ignore[misc]
            cases["dropout"] = net_weights(0.5)
            checkpoint = folder / "run.safetensors"
            try:
                net_weights(0.5, checkpoint, stop_at=6)
            except Stop:
                cases["resumed"] = net_weights(0.5, checkpoint)
        if world.leads:
            for name, weights in cases.items():
                np.savez(folder / f"{name}.npz", **weights)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
