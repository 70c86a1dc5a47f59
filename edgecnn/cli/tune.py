"""`edgecnn tune`: a trained net learns further, also from a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.training import SET_HELP, bundle_path


def tune(
    net: Annotated[str, typer.Argument(help="A bundle, or a net with weights.")],
    data: Annotated[
        str, typer.Option("--data", "-d", help="A profile, or a folder or archive with one subfolder per class.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle to write (.safetensors).")],
    teacher: Annotated[
        str | None, typer.Option(help="A bundle or net whose answers are learned too, such as the net before pruning.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images. Default: 10.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images per step. Default: 64.")] = None,
    lr: Annotated[float | None, typer.Option(help="The highest learning rate. Default: 0.01.")] = None,
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
    """Train a bundle or net further and write it as a bundle; the same command goes on after an interrupt."""
    from edgecnn.cli.console import pairs, shape
    from edgecnn.cli.training import print_trained, train_settings, training_progress
    from edgecnn.pipeline.train import RunOptions
    from edgecnn.pipeline.tune import tune as run_tune
    from edgecnn.train.settings import FINE_TUNING

    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "optimizer": optimizer,
        "augment": augment,
        "device": train_on,
    }
    settings = train_settings(FINE_TUNING, given, setting or [])
    with training_progress() as (on_epoch, on_step):
        found = run_tune(
            net,
            data=data,
            settings=settings,
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
