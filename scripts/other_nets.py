"""torchvision's and timm's classifiers through `edgecnn export`, as nets of a user's own code.

    python -m venv work/other && work/other/bin/pip install -e . timm==1.0.31 torchvision==0.28.0
    work/other/bin/python scripts/other_nets.py --store work/other_nets.jsonl --side 96
    edgecnn export scripts/other_nets.py:build --net-option name=timm/ghostnet_100 --input 3x224x224 --weights random

Every net and target is exported in a process of its own with a time limit, with UNTRAINED weights. What is done is
appended to the store, so a run that was cut off goes on where it stopped. A net that mixes pixels by attention is
expected to be refused; anything else than an artifact or a refusal with a reason (`UnsupportedOp`) is called a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgecnn.errors import EdgecnnError, UnsupportedOp
from edgecnn.pipeline.export import export
from edgecnn.pipeline.export_options import ExportOptions

TARGETS = ("tflite-int8", "onnx-int8")
CALIBRATION_IMAGES = 4

# What is made for other images than 224x224, and what smaller ones do not get through.
OWN_SIDE = {"torchvision/inception_v3": 299}
LEAST_SIDE = {
    "torchvision/inception_v3": 96,
    "torchvision/maxvit_t": 224,
    "torchvision/vit_b_16": 224,
    "torchvision/alexnet": 96,
    "timm/vit_tiny_patch16_224": 224,
    "timm/mixer_s32_224": 224,
    "timm/levit_128s": 224,
    "timm/tiny_vit_5m_224": 224,
    "timm/inception_v4": 96,
}

NETS = {
    "torchvision": """
        alexnet vgg11 vgg11_bn squeezenet1_0 squeezenet1_1 googlenet inception_v3 resnet18 resnet50 wide_resnet50_2
        resnext50_32x4d densenet121 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large mnasnet0_5 mnasnet1_0
        shufflenet_v2_x0_5 shufflenet_v2_x1_0 efficientnet_b0 efficientnet_b1 efficientnet_v2_s regnet_x_400mf
        regnet_y_400mf convnext_tiny vit_b_16 swin_t swin_v2_t maxvit_t
    """,
    "timm": """
        mobilenetv4_conv_small ghostnet_100 mixnet_s repvgg_a0 lcnet_100 tinynet_a fbnetc_100 hardcorenas_a
        efficientvit_b0 convnext_atto mobileone_s0 rexnet_100 regnetx_002 regnety_002 resnet18d ghostnetv2_100
        ghostnetv3_100 repghostnet_050 edgenext_xx_small mobilevit_xxs fastvit_t8 starnet_s1 tf_mixnet_s
        tf_efficientnet_lite0 efficientnet_lite0 mobilenetv1_100 mobilenetv2_100 mobilenetv3_small_100
        mobilenetv4_hybrid_medium spnasnet_100 mnasnet_small semnasnet_075 efficientnet_es seresnet18
        legacy_seresnet18 resnext26ts resnest14d res2net50_26w_4s skresnet18 ecaresnet26t hgnetv2_b0 hrnet_w18_small
        dla34 dpn48b cspresnet50 cspdarknet53 vovnet39a ese_vovnet19b_dw selecsls42b densenet121 inception_v4
        xception41 repvit_m0_9 convmixer_768_32 fasternet_t0 tresnet_m nf_regnet_b0 dm_nfnet_f0 resnetv2_18 gernet_s
        lambda_resnet26t efficientformer_l1 efficientvit_m0 levit_128s mixer_s32_224 vit_tiny_patch16_224
        tiny_vit_5m_224 poolformer_s12 inception_next_atto shvit_s1
    """,
}
"""One or two of each family, and nets with attention, which are expected to be refused."""


def build(name: str = "timm/ghostnet_100") -> nn.Module:
    """The factory that `edgecnn export scripts/other_nets.py:build --net-option name=...` calls.

    Args:
        name: `torchvision/NAME` or `timm/NAME`.
    """
    library, _, model = name.partition("/")
    if library == "torchvision":
        return _torchvision().get_model(model, weights=None)
    _torchvision()  # timm imports it
    import timm

    made: nn.Module = timm.create_model(model, pretrained=False)
    return made


def _torchvision() -> Any:
    """torchvision's models, also where its compiled operators are for another build of torch than ours.

    torchvision registers a meaning for operators that only its binary declares, and cannot be imported without them.
    """
    if not hasattr(torch.ops.torchvision, "nms"):
        declare = torch.library.Library("torchvision", "FRAGMENT")
        declare.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        declare.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(declare)
    import torchvision.models

    return torchvision.models


_KEPT: list[Any] = []  # a library's operators go with it


def own_side(name: str) -> int:
    """The side of the images `name` is made for."""
    if name.startswith("timm/"):
        _torchvision()  # timm imports it
        import timm

        return int(timm.get_pretrained_cfg(name.removeprefix("timm/")).input_size[-1])
    return OWN_SIDE.get(name, 224)


def one(name: str, target: str, side: int | None) -> dict[str, Any]:
    """What became of one net and target."""
    size = max(side, LEAST_SIDE.get(name, 0)) if side else own_side(name)
    row: dict[str, Any] = {"net": name, "target": target, "side": size}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="edgecnn-other-") as folder:
        options = ExportOptions(
            target=target,
            weights="random",
            input_shape=(3, size, size),
            calibration_images=CALIBRATION_IMAGES,
            min_coverage=0.0,
            net_options={"name": name},
            output=Path(folder),
        )
        try:
            artifact = export(f"{Path(__file__)}:build", options=options)
        except UnsupportedOp as error:
            row |= {"result": "refused", "what": error.what, "where": error.where, "do": error.do}
        except EdgecnnError as error:
            row |= {"result": type(error).__name__, "what": error.what, "where": error.where, "got": error.got}
        except Exception as error:  # a traceback is what this script looks for
            row |= {"result": "TRACEBACK", "what": repr(error)[:300], "trace": traceback.format_exc()}
        else:
            parity, coverage = artifact.manifest["parity"], artifact.manifest["coverage"]
            row |= {
                "result": "ok",
                "bytes": artifact.size_bytes,
                "sqnr_db": parity["sqnr_db"],
                "artifact_sqnr_db": parity["artifact_sqnr_db"],
                "argmax_agreement": parity["argmax_agreement"],
                "per_op": parity["per_op"],
                "macs_share": coverage["macs_share"],
                "rewrites": artifact.manifest["rewrites"],
            }
    return row | {"seconds": round(time.perf_counter() - started, 1)}


def read(store: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What is known, by net and target; the last of several counts, a line that was cut off does not."""
    rows = {}
    for line in store.read_text().splitlines() if store.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[row["net"], row["target"]] = row
    return rows


def run_all(names: list[str], options: argparse.Namespace) -> None:
    """Every net and target that is not in the store yet."""
    options.store.parent.mkdir(parents=True, exist_ok=True)
    done = set() if options.again else set(read(options.store))
    for name in names:
        for target in options.targets:
            if (name, target) in done:
                continue
            command = [sys.executable, __file__, "--store", str(options.store), "--one", name, "--targets", target]
            command += ["--side", str(options.side)] if options.side else []
            row: dict[str, Any] = {"net": name, "target": target, "side": options.side, "seconds": options.limit}
            try:
                child = subprocess.run(
                    command,
                    capture_output=True,
                    text=True,
                    timeout=options.limit,
                    check=True,
                )
                row = json.loads(child.stdout.splitlines()[-1])
            except subprocess.TimeoutExpired:
                row |= {"result": "too slow", "what": f"not done after {options.limit:.0f} s"}
            except subprocess.CalledProcessError as error:
                row |= {"result": "DIED", "what": f"exit {error.returncode}: {error.stderr.strip()[-300:]}"}
            with options.store.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{name} {target}: {row['result']} {row.get('what', '')}", file=sys.stderr, flush=True)


def table(rows: dict[tuple[str, str], dict[str, Any]]) -> Iterator[str]:
    """The lines of the Markdown table, a net and target each."""
    yield (
        "| net (UNTRAINED) | side | target | result | ops bit-exact | int8 reference / artifact, dB "
        "| fast path | MB | s |"
    )
    yield "|---|---:|---|---|---:|---:|---:|---:|---:|"
    for row in rows.values():
        start = f"| {row['net']} | {row['side']} | {row['target']} | {row['result']}"
        if row["result"] != "ok":
            text = " ".join(f"{row.get('what')} ({row.get('where') or '?'})".split()).replace("|", "/")
            yield f"{start}: {text} | | | | | {row['seconds']} |"
            continue
        per_op = row["per_op"]
        signal = f"{row['sqnr_db']:.1f} / {row['artifact_sqnr_db']:.1f}"
        yield (
            f"{start} | {per_op['exact_ops']} of {per_op['ops']} | {signal} "
            f"| {100 * row['macs_share']:.1f} % | {row['bytes'] / 1e6:.2f} | {row['seconds']} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="JSON lines; appended to")
    parser.add_argument("--nets", nargs="*", help="library/name; default: a choice of all families")
    parser.add_argument("--targets", nargs="*", default=TARGETS)
    parser.add_argument("--side", type=int, help="of the images; default: each net's own")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one export")
    parser.add_argument("--again", action="store_true", help="also what is in the store already")
    parser.add_argument("--print", dest="only_print", action="store_true", help="the table of what is in the store")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.targets[0], options.side)))
        return 0
    names = options.nets or [f"{library}/{name}" for library, names in NETS.items() for name in names.split()]
    if not options.only_print:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        run_all(names, options)
    print("\n".join(table(read(options.store))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
