"""`edgecnn export`: from a net to a proved artifact for a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    net: Annotated[
        str, typer.Argument(help="A net of `edgecnn list nets`, a bundle, my_net.py:build or package.module:callable.")
    ],
    target: Annotated[str, typer.Option("--target", "-t", help="One of `edgecnn list targets`.")] = "tflite-int8",
    cpu: Annotated[
        str | None,
        typer.Option(help="The core: x86, x86-amx, armv8-a53, armv8, armv8-dot, armv8-i8mm. Default: this machine's."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Ask this device (see `edgecnn devices`) for the kind of its core, as --cpu.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="imagenet, random, or a .pth, .pt or .safetensors file. Default: imagenet where torchvision has it."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="For --weights random and for calibration crops.")] = 0,
    input_shape: Annotated[
        str | None, typer.Option("--input", help="CxHxW, such as 3x224x224. Default: the net's.")
    ] = None,
    calibration: Annotated[
        str,
        typer.Option(
            help="A profile of `edgecnn list profiles`, or a folder or archive of images like those it will see."
        ),
    ] = "photos",
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read.")
    ] = False,
    estimator: Annotated[
        str,
        typer.Option(
            help="How ranges are chosen: mse, mean-minmax, minmax, percentile, entropy, or choose: each value its best."
        ),
    ] = "mse",
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Points of top-1 that int8 may cost on the labelled images of --calibration; see `edgecnn quantize`."
        ),
    ] = None,
    input_type: Annotated[
        str | None,
        typer.Option(help="Element type of the input: int8, uint8 or float32. Default: the target's fastest."),
    ] = None,
    embed_normalization: Annotated[
        bool,
        typer.Option(
            "--embed-normalization", help="Take raw 0-255 pixels: mean and std go into the first convolution."
        ),
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images per call, fixed in the file.")] = 1,
    net_option: Annotated[
        list[str] | None, typer.Option(help="key=value for the net, such as width=0.5. Repeatable.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value for the target (see `edgecnn list targets -v`). Repeatable."),
    ] = None,
    min_coverage: Annotated[
        float, typer.Option(min=0, max=1, help="Least share of multiply-adds in the runtime's fast path.")
    ] = 0.9,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the artifact.")] = Path(),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an artifact that exists.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for the export itself. Default: all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Export a net: fold, rewrite, quantise, emit, prove, and write the artifact with its manifest."""
    from edgecnn.cli.console import pairs, print_json, reporting_stages, shape
    from edgecnn.device.profile import load_device
    from edgecnn.errors import UsageError
    from edgecnn.pipeline.device_check import device_cpu
    from edgecnn.pipeline.export import export as run_export
    from edgecnn.pipeline.export_options import ExportOptions

    if device is not None:
        if cpu is not None:
            raise UsageError("a device says its own kind of core", where="--device, --cpu", do="give one of them")
        cpu = device_cpu(*load_device(device))
    stages = reporting_stages()
    artifact = run_export(
        net,
        options=ExportOptions(
            target=target,
            cpu=cpu,
            weights=weights,
            seed=seed,
            input_shape=shape(input_shape),
            calibration=calibration,
            skip_unreadable=skip_unreadable,
            estimator=estimator,
            max_drop=max_drop,
            input_type=input_type,
            embed_normalization=embed_normalization,
            batch=batch,
            net_options=pairs(net_option or [], option="--net-option"),
            settings=pairs(setting or [], option="--set"),
            min_coverage=min_coverage,
            output=output,
            overwrite=overwrite,
            threads=threads,
        ),
        stages=stages,
    )
    if as_json:
        manifest = artifact.manifest
        print_json(
            {
                "artifact": str(artifact.path),
                "manifest": str(artifact.manifest_path),
                "size_bytes": artifact.size_bytes,
                "seconds": stages.seconds,
                "net": manifest["net"]["name"],
                "target": manifest["target"],
                "cpu": manifest["cpu"],
                "untrained": manifest["weights"]["untrained"],
                "macs": manifest["net"]["macs"],
                "parity": manifest["parity"],
                "coverage": manifest["coverage"],
                "rewrites": manifest["rewrites"],
            }
        )
        return
    from edgecnn.cli.summary import print_artifact

    print_artifact(artifact)
