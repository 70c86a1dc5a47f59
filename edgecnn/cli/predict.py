"""`edgecnn predict`: what a net sees in an image."""

from __future__ import annotations

from typing import Annotated

import typer


def predict(
    artifact: Annotated[str, typer.Argument(help="A .tflite or .onnx file, a bundle, or a net (with --weights).")],
    images: Annotated[list[str], typer.Argument(help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one inference.")] = 1,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", help="The profile whose preprocessing to use, if the artifact names none."),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="For a net: imagenet, random, or a file.")] = None,
    input_shape: Annotated[str | None, typer.Option("--input", help="For a net: CxHxW.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Print the best classes for each image, with their probabilities and the time one inference took."""
    from rich.markup import escape

    from edgecnn.cli.console import grid, output, print_json, print_table, progress, shape
    from edgecnn.pipeline.evaluate import predict as run_predict

    found, untrained = run_predict(
        artifact, images, top=top, threads=threads, data=data, weights=weights, input_shape=shape(input_shape)
    )
    if untrained:
        progress().print("  note       the weights are UNTRAINED: these classes mean nothing", markup=False)
    if as_json:
        print_json(
            {
                "artifact": artifact,
                "untrained": untrained,
                "predictions": [
                    {
                        "image": p.image,
                        "latency_ms": round(p.latency_ms, 3),
                        "classes": [{"class": i, "label": n, "probability": round(v, 6)} for i, n, v in p.classes],
                    }
                    for p in found
                ],
            }
        )
        return
    for prediction in found:
        output().print(f"{escape(prediction.image)}  ({prediction.latency_ms:.2f} ms)")
        table = grid("  %>", "class>", "label")
        for number, label, probability in prediction.classes:
            table.add_row(f"{100 * probability:.1f}", str(number), escape(label))
        print_table(table)
