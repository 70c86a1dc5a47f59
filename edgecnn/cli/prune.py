"""`edgecnn prune`: a smaller net of the same form, by multiply-adds, parameters or measured latency."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecnn.cli.training import SET_HELP, bundle_path

if TYPE_CHECKING:
    from rich.table import Table

    from edgecnn.data import Accuracy
    from edgecnn.pipeline.pruned import Pruned
    from edgecnn.pipeline.sparsify import Sparsified


class Scope(str, Enum):
    """Where the least worthy channels are looked for."""

    all = "global"
    layer = "layer"


class LossBy(str, Enum):
    """How it is known what the channels of a layer are worth beside those of another."""

    auto = "auto"
    measured = "measured"
    score = "score"


def prune(
    net: Annotated[str, typer.Argument(help="A bundle, or a net with weights.")],
    macs: Annotated[float | None, typer.Option(help="Share of the multiply-adds that is left, such as 0.5.")] = None,
    params: Annotated[float | None, typer.Option(help="Share of the parameters that is left.")] = None,
    latency: Annotated[float | None, typer.Option(help="Share of the latency on --target that is left.")] = None,
    unstructured: Annotated[
        float | None, typer.Option(help="Share of the single weights that becomes zero; the net keeps its shape.")
    ] = None,
    target: Annotated[
        str, typer.Option("--target", "-t", help="What the net is for: tile and timing.")
    ] = "tflite-int8",
    cpu: Annotated[str | None, typer.Option(help="The core. Default: this machine's, or the device's.")] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Measure there; arm64-emulated counts instructions on --cpu cortex-a76 and others."),
    ] = None,
    score: Annotated[str, typer.Option(help="What a filter is worth: l1, l2, bn, taylor, fpgm, random.")] = "l1",
    scope: Annotated[Scope, typer.Option(help="Over all layers, or the same share of each.")] = Scope.all,
    loss: Annotated[
        LossBy,
        typer.Option(help="What a layer loses: measured on --data, or by its scores. auto: measured with --data."),
    ] = LossBy.auto,
    blocks: Annotated[
        bool | None,
        typer.Option(
            "--blocks/--no-blocks", help="Residual branches may go as a whole. Default: for --latency, with --data."
        ),
    ] = None,
    round_to: Annotated[
        str, typer.Option(help="Channel counts become multiples of: auto (the target's tile) or N.")
    ] = ("auto"),
    min_channels: Annotated[int, typer.Option(min=1, help="What each layer keeps at least.")] = 8,
    keep: Annotated[list[str] | None, typer.Option(help="Layers left alone, such as 'layer4.*'. Repeatable.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Rounds of pruning and fine-tuning.")] = 1,
    epochs: Annotated[int, typer.Option(min=0, help="Fine-tuning after each round. 0: none.")] = 0,
    lr: Annotated[float | None, typer.Option(help="Its highest learning rate. Default: 0.01.")] = None,
    augment: Annotated[str | None, typer.Option(help="none, digits or cifar. Default: none.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    teacher: Annotated[
        str | None, typer.Option(help="A bundle or net whose answers are learned too. Default: the unpruned net.")
    ] = None,
    distill: Annotated[bool, typer.Option(help="Whether anybody's answers are learned.")] = True,
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="A profile, or a folder or archive of images.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The bundle to write (.safetensors).")] = None,
    groups: Annotated[bool, typer.Option("--show-groups", help="Print what falls together, and stop.")] = False,
    timed: Annotated[bool, typer.Option("--bench/--no-bench", help="Time the result against the unpruned net.")] = True,
    threads: Annotated[int, typer.Option(min=1, help="Of one inference, where time is measured.")] = 1,
    weights: Annotated[str | None, typer.Option(help="For a net: imagenet, random, or a file.")] = None,
    input_shape: Annotated[str | None, typer.Option("--input", help="For a net: CxHxW.")] = None,
    net_option: Annotated[list[str] | None, typer.Option(help="For a net: key=value. Repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Of chance, draws and fine-tuning.")] = 0,
    restart: Annotated[bool, typer.Option("--restart", help="Start afresh where a checkpoint was left.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Remove the channels that are worth least until a share of the cost is left, and write the net as a bundle.

    The same command goes on after an interrupt.
    """
    from edgecnn.cli.console import pairs, print_json, reporting_stages, shape
    from edgecnn.cli.training import train_settings, training_progress
    from edgecnn.errors import UsageError
    from edgecnn.pipeline.prune import prune as run_prune
    from edgecnn.pipeline.prune import show_groups
    from edgecnn.pipeline.pruned import PruneOptions
    from edgecnn.pipeline.relearn import Relearning
    from edgecnn.pipeline.sparsify import SparseOptions, sparsify
    from edgecnn.train.settings import FINE_TUNING

    options = pairs(net_option or [], option="--net-option")
    source: dict[str, Any] = {"weights": weights, "input_shape": shape(input_shape), "options": options}
    multiple = _multiple(round_to)
    if groups:
        if weights is None and not net.endswith(".safetensors"):
            source["weights"] = "random"  # what falls together does not depend on them
        shown = show_groups(net, target=target, cpu=cpu, round_to=multiple, min_channels=min_channels, **source)
        print_json(shown) if as_json else _print_groups(**shown)
        return
    ratios = {"macs": macs, "params": params, "latency": latency, "unstructured": unstructured}
    goals = {what: ratio for what, ratio in ratios.items() if ratio is not None}
    if len(goals) != 1:
        raise UsageError(
            "one goal is needed",
            expected="one of --macs, --params, --latency, --unstructured",
            got=", ".join(f"--{what}" for what in goals) or "none",
        )
    if output is None:
        raise UsageError("where the bundle goes is not said", do="give -o NAME.safetensors")
    (what, ratio), *_ = goals.items()
    relearning = None
    if epochs:
        given = {"epochs": epochs, "lr": lr, "augment": augment}
        relearning = Relearning(train_settings(FINE_TUNING, given, setting or []), teacher, distill)
    elif teacher is not None:
        raise UsageError("a teacher without lessons", where="--teacher", do="give --epochs")
    common: dict[str, Any] = {
        "scope": scope.value,
        "keep": tuple(keep or ()),
        "steps": steps,
        "relearning": relearning,
        "target": target,
        "cpu": cpu,
        "threads": threads,
        "time_it": timed,
        "seed": seed,
    }
    with training_progress() as (on_epoch, on_step):
        source |= {"data": data, "output": bundle_path(output), "overwrite": overwrite, "restart": restart}
        source |= {"stages": reporting_stages(), "on_epoch": on_epoch, "on_step": on_step}
        if what == "unstructured":
            if device is not None:
                raise UsageError("zeros are timed on this machine only", where="--device", do="leave it out")
            sparse = sparsify(net, how=SparseOptions(sparsity=ratio, **common), **source)
            print_json(sparse.to_json()) if as_json else _print_sparse(sparse)
            return
        how = PruneOptions(
            what=what,  # type: ignore[arg-type]  # one of the first three above
            ratio=ratio,
            score=score,
            loss=loss.value,
            blocks=blocks,
            round_to=multiple,
            min_channels=min_channels,
            device=device,
            **common,
        )
        found = run_prune(net, how=how, **source)
    print_json(found.to_json()) if as_json else _print_pruned(found)


def _multiple(text: str) -> int | None:
    from edgecnn.errors import UsageError

    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"`{text}` is no multiple", where="--round-to", expected="auto, or a number from 1")
    return int(text)


def _print_groups(groups: list[dict[str, Any]], stay: list[dict[str, str]]) -> None:
    from edgecnn.cli.console import grid, output, print_table

    table = grid("group", "layers>", "channels>", "minimum>", "step>", "made by")
    for row in groups:
        names = list(row["layers"])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        table.add_row(
            row["name"],
            str(len(names)),
            str(row["channels"]),
            str(row["minimum"]),
            str(row["step"]),
            ", ".join(names[:3]) + more,
        )
    print_table(table)
    for lock in stay:
        output().print(f"stays      {lock['at']}: {lock['why']}", markup=False)


def _print_pruned(found: Pruned) -> None:
    """What became of each group, and what the whole costs and can."""
    from edgecnn.cli.console import grid, output, print_table, progress

    timing = found.timing
    for note in (*found.notes, *(timing.doubts if timing else ())):
        progress().print(f"  note       {note}", markup=False)
    table = grid("group", "layers>", "before>", "after>", "left>")
    for row in found.groups:
        if row.before > 1:
            table.add_row(
                row.name, str(len(row.layers)), str(row.before), str(row.after), f"{row.after / row.before:.0%}"
            )
    print_table(table)
    for branch in found.branches:
        output().print(f"gone       the residual branch of {branch}", markup=False)
    whole = grid("", "before>", "after>", "left>")
    for name, (before, after) in (("multiply-adds", found.macs), ("parameters", found.params)):
        whole.add_row(name, f"{before:,}", f"{after:,}", f"{after / before:.3f}")
    unit = timing.unit if timing else found.unit
    counted = unit == "instructions"
    times = (
        (f"predicted ({unit})", found.predicted),
        (f"{'counted' if counted else 'median'} ({unit})", timing.median if timing else None),
        ("fastest (us)", timing.fastest if timing and not counted else None),
    )
    for name, pair in times:
        if pair is not None:
            whole.add_row(name, f"{pair[0]:.0f}", f"{pair[1]:.0f}", f"{pair[1] / pair[0]:.3f}")
    _add_accuracy(whole, found.accuracy)
    print_table(whole)
    mark = "  (UNTRAINED weights)" if found.untrained else ""
    if counted:
        output().print("instructions are counted under emulation (EMULATED); they are no time", markup=False)
    elif timing:
        low, high = timing.ratio_ci95
        output().print(f"latency    as {found.options.target}: 95 % interval of the ratio {low:.3f} - {high:.3f}")
    output().print(f"bundle     {found.path}{mark}", markup=False)


def _print_sparse(found: Sparsified) -> None:
    from edgecnn.cli.console import grid, output, print_table, progress

    for note in found.notes:
        progress().print(f"  note       {note}", markup=False)
    layers = grid("layer", "zeros>")
    for name, share in found.by_layer.items():
        layers.add_row(name, f"{share:.1%}")
    print_table(layers)
    whole = grid("", "before>", "after>", "left>")
    for name, (before, after) in (("artifact (bytes)", found.file_bytes), ("  deflated", found.packed_bytes)):
        whole.add_row(name, f"{before:,}", f"{after:,}", f"{after / before:.3f}")
    if found.fastest_us is not None:
        before_us, after_us = found.fastest_us
        whole.add_row("fastest (us)", f"{before_us:.0f}", f"{after_us:.0f}", f"{after_us / before_us:.3f}")
    _add_accuracy(whole, found.accuracy)
    print_table(whole)
    mark = "  (UNTRAINED weights)" if found.untrained else ""
    output().print(f"zeros      {found.sparsity:.1%} of the weights of convolutions and linear layers")
    output().print(f"bundle     {found.path}{mark}", markup=False)


def _add_accuracy(table: Table, accuracy: Mapping[str, Accuracy]) -> None:
    if "before" not in accuracy:
        return
    last = accuracy.get("after", accuracy["pruned"])
    table.add_row("top-1 (%)", f"{accuracy['before'].top1:.2f}", f"{last.top1:.2f}", "")
    if "after" in accuracy:
        table.add_row("  before tuning", "", f"{accuracy['pruned'].top1:.2f}", "")
