"""Runs the README's commands and puts their real output, and the measured tables, into it.

    python scripts/update_readme.py                 run every `console` block, write its output into the README
    python scripts/update_readme.py --table NAME FILE
                                                    put a measured table between `<!-- NAME -->` and its end: `digits`
                                                    (work/digits/comparison.md), `peers` and `families`
                                                    (scripts/measure_against_peers.py), `zoo` (scripts/zoo_table.py),
                                                    `others` (scripts/other_nets.py), `accuracy`
                                                    (scripts/accuracy_table.py)

A test runs the same commands and compares their output with the README, numbers aside.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
CONSOLE = re.compile(r"(?<=```console\n)\$ (.*)\n(?s:(.*?))(?=```)")
MY_NET = '''"""A net of one's own: any function that returns an nn.Module of one image tensor."""

from torch import nn


def build(width: float = 1.0) -> nn.Module:
    c = int(16 * width)
    return nn.Sequential(
        nn.Conv2d(3, c, 3, 2, 1), nn.BatchNorm2d(c), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 10)
    )
'''


def prepare(folder: Path) -> None:
    """Makes the files that the README's commands speak of: a photo, a folder of labelled images, a net and weights."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (12, 90, 120, 3), np.uint8)
    Image.fromarray(pixels[0]).save(folder / "photo.jpg")
    for i, array in enumerate(pixels):
        place = folder / "images" / ("cat", "dog")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(place / f"{i}.png")
    (folder / "my_net.py").write_text(MY_NET)
    code = "import my_net, safetensors.torch as s; s.save_file(my_net.build(0.5).state_dict(), 'my.safetensors')"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)


def run(command: str, folder: Path) -> str:
    """What an `edgecnn` command prints, progress included, as a person sees it."""
    name, *arguments = shlex.split(command)
    assert name == "edgecnn", command
    done = subprocess.run(
        [sys.executable, "-m", "edgecnn", *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "COLUMNS": "120", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"`{command}` ended with {done.returncode}:\n{done.stdout}")
    lines = [line.rstrip() for line in done.stdout.splitlines() if not line.startswith("INFO:")]
    return "\n".join(lines).strip("\n") + "\n"


def commands(text: str) -> Iterator[tuple[str, str | None]]:
    """The README's `edgecnn` commands in order, each with the output that stands there (None if none is shown)."""
    for block in re.finditer(r"```(console|sh)\n(.*?)```", text, re.DOTALL):
        if block[1] == "console":
            command, _, shown = block[2].partition("\n")
            yield command.removeprefix("$ "), shown
        else:
            yield from ((line, None) for line in block[2].splitlines() if line.startswith("edgecnn "))


def shape_of(output: str) -> str:
    """An output without its numbers and spacing: what may not change unnoticed.

    What depends on the machine and the hour is left out too: its name, verdicts, marks and notes about unsteady rows.
    """
    lines = [
        line.replace("(UNSTABLE)", "")
        for line in output.splitlines()
        if not re.search(r"thread\(s\), edgecnn|^  note .*\.(tflite|onnx):", line)
    ]
    plain = re.sub(r"-?\d[\d.,]*(e-?\d+)?", "#", re.sub(r"[─━]+", "-", "\n".join(lines)))
    plain = re.sub(r"# times (faster|slower)|no significant difference", "VERDICT", plain)
    return re.sub(r" +", " ", re.sub(r" +$", "", plain, flags=re.MULTILINE)).strip()


def with_table(text: str, mark: str, table: str) -> str:
    """`text` with `table` between its two marks.

    Raises:
        SystemExit: there is no such mark.
    """
    place = re.compile(rf"<!-- {re.escape(mark)} -->.*?<!-- end of {re.escape(mark)} -->", re.DOTALL)
    if not place.search(text):
        raise SystemExit(f"README.md has no place `<!-- {mark} --> ... <!-- end of {mark} -->`")
    return place.sub(lambda _: f"<!-- {mark} -->\n{table}\n<!-- end of {mark} -->", text)


def main() -> int:
    """Updates the README and says what was replaced."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", nargs=2, action="append", default=[], metavar=("NAME", "FILE"))
    options = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    if options.table:
        for mark, file in options.table:
            text = with_table(text, mark, Path(file).read_text(encoding="utf-8").strip())
    else:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prepare(folder)
            for command, shown in commands(text):
                output = run(command, folder)
                if shown is not None:
                    text = text.replace(f"```console\n$ {command}\n{shown}```", f"```console\n$ {command}\n{output}```")
                print(command)
    README.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
