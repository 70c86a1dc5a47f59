"""The options of training, as the `[train]` table of a recipe has them; importing this does not import torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgecnn.data.settings import Settings


class TrainSettings(Settings):
    """How a net is trained.

    Attributes:
        epochs: passes over the training split.
        batch_size: images per step; a last, smaller batch of an epoch is left out, as batch norm would suffer.
        optimizer: `sgd` with Nesterov momentum 0.9, or `adamw`.
        lr: the learning rate at its highest, after the warm-up; it then falls to zero along a cosine.
        warmup_epochs: epochs over which the rate rises linearly from near zero.
        weight_decay: on weights of convolutions and linear layers; never on biases and batch norm.
        label_smoothing: share of each label spread over all classes.
        max_grad_norm: longer gradients (Euclidean norm over all parameters) are scaled down to this. Without it, one
            early step may throw the weights far out, where batch norm hides their size but training hardly moves them.
        augment: name of a random change of the training images (`edgecnn.train.augment.AUGMENTATIONS`).
    """

    epochs: Annotated[int, Field(ge=1)] = 20
    batch_size: Annotated[int, Field(ge=2)] = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.1
    warmup_epochs: Annotated[float, Field(ge=0)] = 2.0
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    max_grad_norm: Annotated[float, Field(gt=0)] = 2.0
    augment: Literal["none", "digits", "cifar"] = "none"
