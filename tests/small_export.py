"""The export that the tests of the line share: a narrow net at 32x32, untrained, a few images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgecnn.artifact import Artifact
from edgecnn.pipeline.export import export
from edgecnn.pipeline.export_options import ExportOptions

NET = "mobilenet_v3_small"
NET_OPTIONS = {"width": 0.25, "stem": "small", "num_classes": 10}


def small_export(output: Path, **changes: Any) -> Artifact:
    """A quick artifact; `changes` go over the defaults."""
    options = {
        "weights": "random",
        "input_shape": (3, 32, 32),
        "net_options": NET_OPTIONS,
        "calibration_images": 8,
        "output": output,
        **changes,
    }
    return export(NET, options=ExportOptions(**options))
