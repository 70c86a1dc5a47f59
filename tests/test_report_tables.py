"""Tables: units in the headings, marks that no rendering loses, raw values in CSV."""

from __future__ import annotations

import csv
import io

import pytest
from rich.console import Console

from edgecnn.report.tables import COMPARISON, comparison

ROWS = [
    {
        "net": "mobilenet_v3",
        "target": "tflite-int8",
        "params": 2_542_856,
        "macs": 59_000_000,
        "accuracy": 0.9712,
        "size_bytes": 12_345,
        "latency_ms": 1.5,
        "ci95_ms": (1.25, 1.75),
        "ratio": 1.0,
        "marks": ["untrained", "unstable"],
    },
    {"net": "a|b [red]", "target": "onnx-int8", "latency_ms": 2.0, "ratio": 1.3333},
]


def test_markdown_in_full() -> None:
    assert comparison(ROWS, title="Digits").to_markdown() == (
        "**Digits**\n"
        "\n"
        "| net | target | parameters (k) | multiply-adds (M) | top-1 (%) | size (kB) | median (ms) | "
        "95 % interval (ms) | time / first |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| mobilenet_v3 (UNTRAINED) (UNSTABLE) | tflite-int8 | 2542.9 | 59.00 | 97.12 | 12.3 | 1.500 | "
        "1.250 to 1.750 | 1.00 |\n"
        "| a\\|b [red] | onnx-int8 | - | - | - | - | 2.000 | - | 1.33 |\n"
    )


def test_csv_keeps_the_raw_values() -> None:
    first, second = csv.DictReader(io.StringIO(comparison(ROWS).to_csv()))
    assert first["params"] == "2542856"
    assert (first["ci95_ms_low"], first["ci95_ms_high"]) == ("1.25", "1.75")
    assert first["marks"] == "untrained unstable"
    assert second["net"] == "a|b [red]"
    assert (second["ci95_ms_low"], second["accuracy"], second["marks"]) == ("", "", "")
    assert second["ratio"] == "1.3333"


def test_the_terminal_shows_every_cell_whole() -> None:
    console = Console(width=300, file=io.StringIO(), color_system=None)
    console.print(comparison(ROWS, title="Digits").to_rich())
    text = console.file.getvalue()
    for cell in ("Digits", "mobilenet_v3 (UNTRAINED) (UNSTABLE)", "a|b [red]", "1.250 to 1.750", "multiply-adds (M)"):
        assert cell in text


def test_every_quantity_has_its_unit() -> None:
    bare = {c.heading for c in COMPARISON if c.number and "(" not in c.heading}
    assert bare == {"time / first", "95 % interval"}  # ratios have none


def test_columns_without_values_are_left_out() -> None:
    assert comparison([{"net": "a", "target": "b"}]).to_markdown() == "| net | target |\n| --- | --- |\n| a | b |\n"


def test_data_does_not_vanish() -> None:
    with pytest.raises(ValueError, match=r"no column shows \['temp_c'\]"):
        comparison([{"net": "a", "temp_c": 50}])
