"""`edgecnn qat`: a net learns to be right in the codes of its target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.training import SET_HELP, bundle_path


def qat(
    net: Annotated[str, typer.Argument(help="A bundle, or a net with weights.")],
    data: Annotated[
        str, typer.Option("--data", "-d", help="A profile, or a folder or archive with one subfolder per class.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle to write (.safetensors).")],
    target: Annotated[
        str, typer.Option("--target", "-t", help="One of `edgecnn list targets` that has codes.")
    ] = "tflite-int8",
    cpu: Annotated[
        str | None,
        typer.Option(help="The core: x86, x86-amx, armv8-a53, armv8, armv8-dot, armv8-i8mm. Default: this machine's."),
    ] = None,
    target_setting: Annotated[
        list[str] | None,
        typer.Option("--target-set", help="key=value for the target (see `edgecnn list targets -v`). Repeatable."),
    ] = None,
    estimator: Annotated[
        str, typer.Option(help="How ranges are chosen to begin with: mse, mean-minmax, minmax, percentile, entropy.")
    ] = "mse",
    act_bits: Annotated[int, typer.Option(help="Bits of activations: 2 to 8, below 8 simulated.")] = 8,
    weight_bits: Annotated[int, typer.Option(help="Bits of weights: 2 to 8.")] = 8,
    freeze_scales: Annotated[bool, typer.Option("--freeze-scales", help="Train weights and biases only.")] = False,
    learn_zero_points: Annotated[
        bool, typer.Option("--learn-zero-points", help="Train zero points too (LSQ+).")
    ] = False,
    teacher: Annotated[
        str | None, typer.Option(help="A bundle or net whose answers are learned too. Default: the net in float.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images. Default: 2.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images per step. Default: 64.")] = None,
    lr: Annotated[float | None, typer.Option(help="The highest learning rate. Default: 0.001.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adamw. Default: sgd.")] = None,
    augment: Annotated[str | None, typer.Option(help="none, digits or cifar. Default: none.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    weights: Annotated[str | None, typer.Option(help="For a net: imagenet, random, or a file.")] = None,
    input_shape: Annotated[str | None, typer.Option("--input", help="For a net: CxHxW.")] = None,
    net_option: Annotated[list[str] | None, typer.Option(help="For a net: key=value. Repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Of order and augmentation.")] = 0,
    train_on: Annotated[str | None, typer.Option(help="auto, cpu or cuda. Default: a GPU where there is one.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on the CPU. Default: all.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start afresh where a checkpoint was left.")] = False,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard's event files.")] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Quantise a net and train it with the codes of its target; `edgecnn export` takes the bundle as it is."""
    from edgecnn.cli.console import pairs, shape
    from edgecnn.cli.training import print_trained, train_settings, training_progress
    from edgecnn.pipeline.qat import QatOptions
    from edgecnn.pipeline.qat import qat as run_qat
    from edgecnn.pipeline.train import RunOptions
    from edgecnn.train.qat import QAT

    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "optimizer": optimizer,
        "augment": augment,
        "device": train_on,
    }
    settings = train_settings(QAT, given, setting or [])
    with training_progress() as (on_epoch, on_step):
        found = run_qat(
            net,
            data=data,
            settings=settings,
            coding=QatOptions(
                target,
                cpu,
                pairs(target_setting or [], option="--target-set"),
                estimator,
                act_bits=act_bits,
                weight_bits=weight_bits,
                learn_scales=not freeze_scales,
                learn_zero_points=learn_zero_points,
            ),
            run=RunOptions(
                bundle_path(output),
                overwrite=overwrite,
                restart=restart,
                threads=threads,
                tensorboard=tensorboard,
                on_epoch=on_epoch,
                on_step=on_step,
            ),
            teacher=teacher,
            seed=seed,
            skip_unreadable=skip_unreadable,
            weights=weights,
            input_shape=shape(input_shape),
            options=pairs(net_option or [], option="--net-option"),
        )
    print_trained(found, as_json=as_json)
