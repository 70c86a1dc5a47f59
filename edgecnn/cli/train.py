"""`edgecnn train`: a net learns from labelled images, from random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.training import SET_HELP, bundle_path


def train(
    net: Annotated[
        str, typer.Argument(help="A net of `edgecnn list nets`, my_net.py:build or package.module:callable.")
    ],
    data: Annotated[
        str, typer.Option("--data", "-d", help="A profile, or a folder or archive with one subfolder per class.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle to write (.safetensors).")],
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images. Default: 20.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images per step. Default: 64.")] = None,
    lr: Annotated[float | None, typer.Option(help="The highest learning rate. Default: 0.1.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adamw. Default: sgd.")] = None,
    augment: Annotated[str | None, typer.Option(help="none, digits or cifar. Default: none.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    input_shape: Annotated[
        str | None, typer.Option("--input", help="CxHxW, such as 3x32x32. Default: the net's.")
    ] = None,
    net_option: Annotated[
        list[str] | None,
        typer.Option(help="key=value for the net, such as width=0.5 or drop_path=0.2 (stochastic depth). Repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order, augmentation and dropout.")] = 0,
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
    """Train a net from scratch and write it as a bundle; the same command goes on after an interrupt."""
    from edgecnn.cli.console import pairs, shape
    from edgecnn.cli.training import print_trained, train_settings, training_progress
    from edgecnn.pipeline.train import RunOptions
    from edgecnn.pipeline.train import train as run_train
    from edgecnn.train.settings import TrainSettings

    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "optimizer": optimizer,
        "augment": augment,
        "device": train_on,
    }
    settings = train_settings(TrainSettings(), given, setting or [])
    with training_progress() as (on_epoch, on_step):
        found = run_train(
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
            seed=seed,
            input_shape=shape(input_shape),
            options=pairs(net_option or [], option="--net-option"),
            skip_unreadable=skip_unreadable,
        )
    print_trained(found, as_json=as_json)
