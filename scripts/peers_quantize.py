"""int8 by the vendors' own tools, from a float artifact: ai-edge-quantizer for .tflite, quantize_static for .onnx.

Runs inside the peers' own virtual environment (see `measure_against_peers.py`), and needs nothing of edgecnn.

    python scripts/peers_quantize.py --float net.onnx --images X.npy --out OUT.onnx
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np


def quantize_tflite(float_file: Path, images: np.ndarray, out: Path, *, argument: str) -> None:
    """int8 by ai-edge-quantizer's static recipe (8-bit weights per channel, 8-bit activations).

    Args:
        float_file: the model, with one input and the signature `serving_default`.
        images: NCHW, as the model takes them apart from the layout, which is NHWC.
        out: the file to write.
        argument: the name of the input in the signature.
    """
    from ai_edge_quantizer import quantizer, recipe

    tool = quantizer.Quantizer(str(float_file))
    tool.load_quantization_recipe(recipe.static_wi8_ai8())
    data = [{argument: np.ascontiguousarray(x[None].transpose(0, 2, 3, 1))} for x in images]
    tool.quantize(tool.calibrate({"serving_default": data})).export_model(str(out), overwrite=True)


def quantize_onnx(float_file: Path, images: np.ndarray, out: Path, *, argument: str) -> None:
    """int8 by quantize_static after its pre-processing: QDQ, u8 activations, s8 weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._feed = iter([{argument: x[None]} for x in images])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._feed, None)

    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder) / "clean.onnx"
        quant_pre_process(str(float_file), str(clean))
        quantize_static(
            str(clean),
            str(out),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--float", dest="float_file", required=True, type=Path)
    parser.add_argument("--images", required=True, type=Path, help=".npy, float32 NCHW, normalised")
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    images = np.load(options.images)
    if options.float_file.suffix == ".tflite":
        from ai_edge_litert.interpreter import Interpreter

        signature = Interpreter(str(options.float_file)).get_signature_list()["serving_default"]
        quantize_tflite(options.float_file, images, options.out, argument=signature["inputs"][0])
    else:
        import onnx

        model = onnx.load(str(options.float_file), load_external_data=False)
        quantize_onnx(options.float_file, images, options.out, argument=model.graph.input[0].name)


if __name__ == "__main__":
    main()
