"""Converts nets with the vendors' own tools, for comparison: litert-torch + ai-edge-quantizer, and quantize_static.

Runs inside the peers' own virtual environment (see `measure_against_peers.py`, which calls it); the nets come from
edgecnn's source tree, so that both sides convert the same module with the same weights and calibration images.

    python scripts/peers_convert.py --net mobilenet_v2 --weights W.safetensors --images X.npy --tool litert --out OUT
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from peers_quantize import quantize_onnx, quantize_tflite

from edgecnn.nets import build_net
from edgecnn.nets.hetconv import HetConv2d


def litert(module: torch.nn.Module, images: np.ndarray, out: Path) -> None:
    """int8 by litert-torch and ai-edge-quantizer, at their best: channels-last input, static int8 recipe."""
    import litert_torch

    sample = torch.from_numpy(images[:1]).permute(0, 2, 3, 1).contiguous()
    converted = litert_torch.convert(litert_torch.to_channel_last_io(module, args=[0]).eval(), (sample,))
    with tempfile.TemporaryDirectory() as folder:
        float_file = Path(folder) / "float.tflite"
        converted.export(str(float_file))
        quantize_tflite(float_file, images, out, argument="args_0")


def ort(module: torch.nn.Module, images: np.ndarray, out: Path) -> None:
    """int8 by torch.onnx and quantize_static: QDQ, u8 activations, s8 weights per channel, after its pre-processing."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.onnx"
        program = torch.onnx.export(
            module, (torch.from_numpy(images[:1]),), dynamo=True, opset_version=21, input_names=["x"], verbose=False
        )
        program.save(str(raw))
        quantize_onnx(raw, images, out, argument="x")


class PlainHetConv(torch.nn.Module):
    """A heterogeneous convolution as two ordinary ones, which every converter takes."""

    def __init__(self, layer: HetConv2d) -> None:
        super().__init__()
        common = {"stride": layer.stride, "bias": layer.bias is not None}
        self.grouped = torch.nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1, groups=layer.p, **common)
        self.pointwise = torch.nn.Conv2d(layer.in_channels, layer.out_channels, 1, layer.stride, bias=False)
        self.grouped.weight.data = layer.weight_3x3.data
        self.pointwise.weight.data = layer.pointwise().data
        if layer.bias is not None:
            self.grouped.bias.data = layer.bias.data

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of both."""
        return self.grouped(x) + self.pointwise(x)


def plain_hetconv(module: torch.nn.Module) -> None:
    """Replaces the heterogeneous convolutions in `module`."""
    for name, child in module.named_children():
        if isinstance(child, HetConv2d):
            setattr(module, name, PlainHetConv(child))
        else:
            plain_hetconv(child)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", required=True)
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument("--images", required=True, type=Path, help=".npy, float32 NCHW, normalised")
    parser.add_argument("--tool", required=True, choices=["litert", "ort"])
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    module = build_net(options.net)
    # The weights are the deployed net's: auxiliary classifiers, which only train, are not among them.
    left = module.load_state_dict(load_file(options.weights), strict=False)
    assert not left.unexpected_keys
    assert all(name.lower().startswith("aux") for name in left.missing_keys), left.missing_keys
    plain_hetconv(module)
    {"litert": litert, "ort": ort}[options.tool](module.eval(), np.load(options.images), options.out)


if __name__ == "__main__":
    main()
