"""What LiteRT's `benchmark_model` prints: timings, memory, the delegate's share, and the table of its profiler.

Lines start with `INFO: ` or not, depending on how it was built; older ones say less. What is absent is None.

Source: output of the binary from TensorFlow 1.14 to LiteRT 2 as quoted in tensorflow/tensorflow#43541 and #53138,
google/XNNPACK#999, mozilla/DeepSpeech#2270 and google-research#802.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NUMBER = r"(\d{1,12}(?:\.\d{1,9})?(?:e[+-]?\d{1,2})?)"
COUNT = re.compile(r"count=(\d{1,9})\b(?P<rest>[^\n]{0,400})")
FIELD = re.compile(rf"\b(first|curr|min|max|avg|std|median|p5|p95)={NUMBER}")
TIMINGS = re.compile(r"inference timings in us: (?P<rest>[^\n]{0,400})", re.IGNORECASE)
TIMING = re.compile(rf"(Init|First inference|Warmup(?: \(avg\))?|Inference(?: \(avg\))?|no stats): {NUMBER}")
MEMORY = re.compile(rf"Memory footprint delta from the start of the tool \(MB\): init={NUMBER} overall={NUMBER}")
PARTLY = re.compile(r"(completely|partially) executed by the delegate(?: w/ (\d{1,6}) delegate kernels?)?")
NOT_AT_ALL = "will not be executed by the delegate"
PEAK = re.compile(rf"peak memory footprint \(MB\): init={NUMBER} overall={NUMBER}", re.IGNORECASE)


@dataclass(frozen=True)
class Timings:
    """What one process measured; times in microseconds, memory in 10^6 bytes.

    Args:
        count: timed inferences.
        avg_us: their mean.
        min_us: the fastest.
        max_us: the slowest.
        median_us: None in older versions.
        init_us: opening the file.
        first_us: the first inference.
        memory_mb: what the process grew by.
        delegate: `completely`, `partially`, `not at all`, or None where it does not say.
    """

    count: int
    avg_us: float
    min_us: float | None
    max_us: float | None
    median_us: float | None
    init_us: float | None
    first_us: float | None
    memory_mb: float | None
    delegate: str | None


@dataclass(frozen=True)
class OpLine:
    """A line of the profiler's table: the operator's type, its name, mean time of an inference and how often."""

    kind: str
    name: str
    avg_ms: float
    calls: int


def parse_timings(text: str) -> Timings | None:
    """The timings in the output of one run; None if there are none, as after a failure."""
    counts = list(COUNT.finditer(text))
    if not counts:
        return None
    # The first count is the warm-up's.
    fields = {name: float(value) for name, value in FIELD.findall(counts[-1]["rest"])}
    timings: dict[str, float] = {}
    if (found := TIMINGS.search(text)) is not None:
        timings = {name.split(" (")[0]: float(value) for name, value in TIMING.findall(found["rest"])}
    average = fields.get("avg", timings.get("Inference"))
    if average is None or not int(counts[-1][1]):
        return None
    memory = PEAK.search(text) or MEMORY.search(text)
    return Timings(
        count=int(counts[-1][1]),
        avg_us=average,
        min_us=fields.get("min"),
        max_us=fields.get("max"),
        median_us=fields.get("median"),
        init_us=timings.get("Init"),
        first_us=timings.get("First inference"),
        memory_mb=float(memory[2]) if memory else None,
        delegate=_delegate(text),
    )


def _delegate(text: str) -> str | None:
    if (found := PARTLY.search(text)) is not None:
        return found[1]
    return "not at all" if NOT_AT_ALL in text else None


def parse_table(text: str) -> list[OpLine]:
    """The operators in the order of execution, from the last such table, in text or CSV; empty if there is none."""
    found: list[OpLine] = []
    columns: list[str] | None = None
    within = False
    for line in text.splitlines():
        if "Run Order" in line:
            within, columns, found = True, None, []
        elif line.lstrip().startswith("====") or not line.strip():
            within = within and not found
        elif within and columns is None:
            columns = _columns(line)
        elif within and columns is not None and (row := _row(line, columns)) is not None:
            found.append(row)
    return found


def _columns(line: str) -> list[str] | None:
    """The names of the columns; None if this is no head of a table."""
    names = re.findall(r"\[([^\]]{1,40})\]", line) if "[" in line else line.split(",")
    plain = [name.strip().lower().replace("_", " ") for name in names]
    return plain if plain and plain[0] == "node type" and "avg ms" in plain and plain[-1] == "name" else None


def _row(line: str, columns: list[str]) -> OpLine | None:
    """One line; numbers stand between a type and a name, both of which may hold blanks."""
    between = len(columns) - 2
    number = r"[\d.]{1,20}(?:e[+-]?\d{1,2})?%?"
    gap = r"\s*,\s*" if line.count(",") >= between and "\t" not in line.split("[")[0] else r"\s+"
    values = gap.join([rf"({number})"] * between)
    match = re.match(rf"^\s*(\S.{{0,200}}?){gap}{values}{gap}(.{{0,2000}})$", line)
    if match is None:
        return None
    try:
        numbers = [float(text.rstrip("%")) for text in match.groups()[1:-1]]
    except ValueError:
        return None
    value = dict(zip(columns[1:-1], numbers, strict=True))
    name = re.sub(r"^\[(.*)\](?::\d+)?$", r"\1", match.groups()[-1].strip())
    return OpLine(match[1], name, value["avg ms"], int(value.get("times called", 1)))
