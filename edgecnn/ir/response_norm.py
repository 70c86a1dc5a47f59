"""Finds local response normalisation in an exported program, where it is spread over a dozen operators.

`nn.LocalResponseNorm`, and what users wrote before it existed, exports as

    x / (k + alpha * mean(x * x over neighbouring channels)) ** beta

with the mean spelled by views, a padding and a pool over a dimension of its own, which the graph has not. So the chain
between the square and the power is not matched but asked: it is run on random numbers, and it is a normalisation only
if it gives what the window of `size` channels gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from edgecnn.ir.aten import MOVES, SAME
from edgecnn.ir.import_site import aten_name

PADS = frozenset({"pad", "constant_pad_nd"})
POOLS = frozenset({"avg_pool2d", "avg_pool3d"})


@dataclass(frozen=True)
class ResponseNorm:
    """What is normalised, and the attributes of the `lrn` op that does it."""

    source: fx.Node
    attrs: dict[str, Any]


def response_norms(graph: fx.Graph) -> dict[fx.Node, ResponseNorm]:
    """The normalisations of a program, each by the node that gives its result."""
    return {node: norm for node in graph.nodes if (norm := _norm_at(node)) is not None}


def _norm_at(node: fx.Node) -> ResponseNorm | None:
    """The normalisation that ends in `node`: x / base ** beta, or x * base ** -beta."""
    sign = {"div": 1.0, "mul": -1.0}.get(aten_name(node)) if node.op == "call_function" else None
    operands = node.args[:2]
    if sign is None or not all(isinstance(n, fx.Node) for n in operands) or node.kwargs.get("rounding_mode"):
        return None
    source, power = operands
    if sign < 0 and aten_name(source) == "pow":  # type: ignore[arg-type]  # both are nodes
        source, power = power, source
    if aten_name(power) != "pow" or not isinstance(power.args[1], (int, float)):  # type: ignore[arg-type, union-attr]
        return None
    beta = sign * power.args[1]  # type: ignore[union-attr]
    return _of_mean(source, power.args[0], beta) if beta > 0 else None  # type: ignore[arg-type, union-attr]


def _of_mean(source: fx.Node, base: fx.Node, beta: float) -> ResponseNorm | None:
    """The normalisation of `source` by `base` ** `beta`, if `base` is k + alpha * a mean of squares of `source`."""
    chain = list(_chain(base))
    square = chain[0].args[0] if chain else None
    value = source.meta.get("val")
    if not isinstance(square, fx.Node) or not _is_square_of(square, source) or value is None or value.ndim != 4:
        return None
    # Read from the end: base = scale * node + offset.
    scale, offset, size = 1.0, 0.0, 0
    for node in reversed(chain):
        name = aten_name(node)
        number: Any = node.args[1] if len(node.args) > 1 else None  # `_chain` lets only numbers through
        if name == "add":
            offset += scale * number
        elif name == "mul":
            scale *= number
        elif name == "div":
            scale /= number
        elif name in POOLS:
            size = prod(number)
    attrs = {"size": size, "alpha": scale, "beta": float(beta), "k": offset}
    return ResponseNorm(source, attrs) if size and _is_window(chain, tuple(value.shape), attrs) else None


def _chain(last: fx.Node) -> Iterator[fx.Node]:
    """The nodes up to `last`, first one first, of which each maps the one before linearly, but for a number added."""
    nodes: list[fx.Node] = []
    node: Any = last
    while isinstance(node, fx.Node) and node.op == "call_function" and len(node.all_input_nodes) == 1:
        name = aten_name(node)
        by_number = name in ("add", "mul", "div") and len(node.args) == 2 and isinstance(node.args[1], (int, float))
        if not (by_number and not node.kwargs) and name not in MOVES | SAME | PADS | POOLS:
            break
        if name in ("mul", "add") and node.args[0] is node.args[1]:
            break
        nodes.append(node)
        node = node.args[0]
    return reversed(nodes)


def _is_square_of(node: fx.Node, source: fx.Node) -> bool:
    name = aten_name(node)
    if name == "mul":
        return node.args[0] is source and node.args[1] is source
    return node.args[0] is source and (name == "square" or (name == "pow" and bool(node.args[1] == 2)))


def _is_window(chain: list[fx.Node], shape: tuple[int, ...], attrs: dict[str, Any]) -> bool:
    """Whether the chain gives k + alpha * mean of the `size` channels around each; the others of its images too."""
    squares = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    try:
        found: Tensor = squares
        for node in chain:
            found = node.target(found, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    except (RuntimeError, TypeError):  # a chain of other operators than those of a normalisation
        return False
    size = attrs["size"]
    padded = F.pad(squares, (0, 0, 0, 0, size // 2, (size - 1) // 2))
    sums = torch.stack([padded[:, i : i + shape[1]] for i in range(size)]).sum(0)
    expected = attrs["k"] + attrs["alpha"] / size * sums
    # Both add up to `size` numbers below 1 in float64; another window differs by the numbers themselves.
    return tuple(found.shape) == shape and bool(torch.allclose(found, expected, rtol=1e-12, atol=0.0))
