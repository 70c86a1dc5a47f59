"""The options of training, as the `[train]` table of a recipe has them; importing this does not import torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgecnn.data.settings import Settings

Share = Annotated[float, Field(ge=0, le=1)]


class TrainSettings(Settings):
    """How a net is trained.

    Attributes:
        epochs: passes over the training split.
        batch_size: images per step, over all processes; a last, smaller batch of an epoch is left out, as batch norm
            would suffer.
        optimizer: `sgd` with Nesterov momentum 0.9, or `adamw`.
        lr: the learning rate at its highest, after the warm-up; it then falls to zero along a cosine.
        warmup_epochs: epochs over which the rate rises linearly from near zero.
        weight_decay: on weights of convolutions and linear layers; never on biases and batch norm.
        label_smoothing: share of each label spread over all classes.
        max_grad_norm: longer gradients (Euclidean norm over all parameters) are scaled down to this. Without it, one
            early step may throw the weights far out, where batch norm hides their size but training hardly moves them.
        augment: name of a random change of the training images (`edgecnn.train.augment.AUGMENTATIONS`).
        mixup: alpha of Beta(alpha, alpha), from which the share is drawn in which two images are blended; 0: none.
        cutout: side of the square blanked in each image, as a share of the image's side; 0: none.
        progressive_stages: stages of equal length over which images grow to full size and regularisation to full
            strength; 1: both are full from the start.
        progressive_size: side of the images in the first stage, as a share of the full side.
        progressive_strength: share of mixup, cutout, dropout and stochastic depth in the first stage.
        ema: decay per step of a moving average of the weights, which then are the result; 0: none.
        distill_weight: share of the teacher in the loss, where there is a teacher.
        distill_temperature: by which the logits of both are divided for the teacher's share of the loss.
        device: `auto` takes a GPU where there is one.
        precision: of convolutions and products; `auto` is float32 on a CPU and mixed precision on a GPU.
        checkpoint_seconds: least time between two checkpoints. It has no say in the result.
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
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    progressive_stages: Annotated[int, Field(ge=1)] = 1
    progressive_size: Annotated[float, Field(gt=0, le=1)] = 0.5
    progressive_strength: Share = 0.5
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    distill_weight: Share = 0.5
    distill_temperature: Annotated[float, Field(gt=0)] = 4.0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60.0

    @model_validator(mode="after")
    def _consistent(self) -> TrainSettings:
        if self.progressive_stages > self.epochs:
            raise ValueError(f"progressive_stages = {self.progressive_stages} do not fit into epochs = {self.epochs}")
        return self


FINE_TUNING = TrainSettings(epochs=10, lr=0.01, warmup_epochs=0.5)
"""Where `edgecnn tune` starts from: weights that are good already are not to be thrown far."""
