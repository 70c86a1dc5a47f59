"""Counts ARM instructions of our artifacts and the vendor converter's: same nets, weights, images, core, runtime.

    scripts/arm64/device.sh kit
    .venv/bin/python scripts/arm64/table.py --peers work/peers/bin/python

How to make the environment of the peers stands in `scripts/measure_against_peers.py`. Prints a Markdown table: millions
of executed instructions per inference under QEMU, which repeat exactly and are no times. The weights are UNTRAINED.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure_against_peers import CALIBRATION_IMAGES, SEED, convert, prepare

from edgecnn.bench.instructions import CORES, count
from edgecnn.pipeline.export import export
from edgecnn.pipeline.export_options import ExportOptions

NETS = ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "shufflenet_v2_x1_0", "efficientnet_b0", "resnet18")
HEADING = (
    "| net (UNTRAINED, EMULATED) | core | ours float32 | ours int8 | litert-torch + ai-edge-quantizer int8 | fewer |\n"
    "|---|---|---:|---:|---:|---:|"
)


def ours(net: str, target: str, cpu: str, work: Path) -> Path:
    """Our artifact of `net`, lowered for `cpu`; integers in and out, as the peers' files have them."""
    source, _, _, _ = prepare(net, work / net)
    options = ExportOptions(
        target=target,
        cpu=cpu,
        weights="random",
        seed=SEED,
        calibration_images=CALIBRATION_IMAGES,
        output=work / net,
        stem=f"arm-{target}-{cpu}",
        overwrite=True,
        min_coverage=0.0,
    )
    return export(source, options=options).path


def rows(net: str, work: Path, peers: str) -> list[str]:
    """The lines of one net, a core each."""
    _, weights, images, _ = prepare(net, work / net)
    theirs, _ = convert(net, "tflite", weights, images, peers=peers)
    made = {
        (target, cpu): ours(net, target, cpu, work)
        for cpu in sorted({core.cpu for core in CORES.values()})
        for target in ("tflite-fp32", "tflite-int8")
    }
    lines = []
    for name, core in CORES.items():
        files = [made["tflite-fp32", core.cpu], made["tflite-int8", core.cpu], theirs]
        fp32, int8, other = (found.total / 1e6 for found in count(files, cores=[name]))
        fewer = f"{1 - int8 / other:.1%}".replace("-0.0%", "0.0%")
        lines.append(f"| {net} | {name} | {fp32:.1f} | {int8:.1f} | {other:.1f} | {fewer} |")
    return lines


def main() -> int:
    """Prints the table net by net."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True, help="the Python of the peers' virtual environment")
    parser.add_argument("--nets", nargs="*", default=NETS)
    parser.add_argument("--work", type=Path, default=Path("work/peers-compare"))
    options = parser.parse_args()
    if not Path(options.peers).is_file():
        print(f"there is no `{options.peers}`; see scripts/measure_against_peers.py", file=sys.stderr)
        return 5
    print(HEADING, flush=True)
    for net in options.nets:
        print("\n".join(rows(net, options.work, options.peers)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
