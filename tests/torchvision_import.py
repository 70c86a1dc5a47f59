"""Importing a torchvision that was built for another torch."""

from __future__ import annotations

import torch


def declare_torchvision_ops() -> torch.library.Library:
    """Declares the two operators that `import torchvision` looks for; keep what is returned until it is imported.

    A torchvision for another build of torch cannot load its compiled operators; classifiers need none of them.
    """
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for schema in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            declared.define(schema)
    return declared
