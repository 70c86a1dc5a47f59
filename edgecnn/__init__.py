"""edgecnn: from a small CNN to the fastest correct artifact for a device.

The command line as a library. Importing this is light; torch and the runtimes load with the first call.

Example:
    >>> import edgecnn, tempfile
    >>> artifact = edgecnn.export(
    ...     "mobilenet_v3_small",
    ...     target="tflite-int8",
    ...     weights="random",
    ...     input_shape=(3, 32, 32),
    ...     net_options={"width": 0.25, "stem": "small", "num_classes": 10},
    ...     output=tempfile.mkdtemp(),
    ... )
    >>> artifact.manifest["parity"]["ok"], artifact.manifest["coverage"]["partitions"]
    (True, 1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    from edgecnn.artifact import Artifact
    from edgecnn.pipeline.evaluate import Evaluation, Prediction

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "export", "predict"]


def export(net: str, *, target: str = "tflite-int8", output: str | os.PathLike[str] = ".", **options: Any) -> Artifact:
    """The artifact of `net` for `target`, proved and written with its manifest.

    Args:
        net: a net of the zoo, a bundle, `file.py:callable` or `module:callable`.
        target: a name of `edgecnn list targets`.
        output: the folder to write to.
        **options: the other fields of `pipeline.export_options.ExportOptions`.

    Raises:
        UsageError: an unknown name, or an option there is not (the nearest are named).
        EdgecnnError: as `pipeline.export.export`.
    """
    from dataclasses import fields
    from pathlib import Path

    from edgecnn.errors import unknown
    from edgecnn.pipeline.export import export as run
    from edgecnn.pipeline.export_options import ExportOptions

    known = {field.name for field in fields(ExportOptions)}
    for name in options:
        if name not in known:
            raise unknown("export option", name, known)
    return run(net, options=ExportOptions(target=target, output=Path(output), **options))


def evaluate(net: str, *, data: str, **options: Any) -> Evaluation:
    """Top-1 and top-5 accuracy of an artifact, bundle or net on held-out images; see `pipeline.evaluate.evaluate`."""
    from edgecnn.pipeline.evaluate import evaluate as run

    return run(net, data=data, **options)


def predict(net: str, images: list[str], **options: Any) -> list[Prediction]:
    """The best classes for each image, with probabilities and the time of one inference."""
    from edgecnn.pipeline.evaluate import predict as run

    return run(net, images, **options)[0]
