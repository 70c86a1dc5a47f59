"""From a PyTorch module to the graph, by `torch.export`; every op remembers its module and the user's source line.

The rules of the operators are in `ir.aten`. Operators on constants alone (a weight that `forward` assembles) are
evaluated here, chains of views are left to `ir.movement`, hand-written activations to `ir.recognise`, and
local response normalisation, which no operator stands for, to `ir.response_norm`.
"""

from __future__ import annotations

import operator
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.utils import _pytree as pytree

from edgecnn.errors import InputError, UnsupportedOp
from edgecnn.ir import aten_pool as _aten_pool  # noqa: F401  (registers its rules)
from edgecnn.ir.advice import ADVICE
from edgecnn.ir.aten import MOVES, RULES, SAME, importable
from edgecnn.ir.exported import export, quiet_eval, source_of
from edgecnn.ir.graph import BATCH, Graph, Value
from edgecnn.ir.import_site import Const, Draft, Entry, Moved, Site, aten_name, mixes_images, with_batch
from edgecnn.ir.recognise import recognise
from edgecnn.ir.response_norm import ResponseNorm, response_norms
from edgecnn.ir.verify import verify


def import_module(module: nn.Module, input_shape: tuple[int, ...], *, name: str) -> Graph:
    """The graph of `module` in eval mode; the module itself is left as it was.

    Args:
        module: a function of one image tensor that gives one tensor.
        input_shape: (channels, height, width).
        name: of the graph, for messages and files.

    Raises:
        UnsupportedOp: an operator has no rule, or the net branches on the numbers in a tensor.
        InputError: the module is no function of one image tensor, does not run on this shape, or holds NaN.
    """
    with quiet_eval(module):
        program = export(module, input_shape, name=name)
        with torch.no_grad():
            graph = _Walk(program, name).graph()
    graph = recognise(replace(graph, name=re.sub(r"[\s(]", "_", name)))
    verify(graph)
    return graph


class _Walk:
    def __init__(self, program: ExportedProgram, name: str) -> None:
        self.program, self.name = program, name
        self.draft = Draft()
        self.env: dict[fx.Node, Entry] = {}
        self.images: list[str] = []

    def graph(self) -> Graph:
        nodes = list(self.program.graph.nodes)
        output = self._output(nodes[-1])
        for node in nodes:
            if node.op == "placeholder":
                self._placeholder(node)
        self._run(self.program.graph_module, [output])
        entry, site = self.env[output], self._site(output)
        if isinstance(entry, Const):
            raise InputError(f"the output of `{self.name}` does not depend on its image")
        result = site.act(entry)
        if result in self.images:
            raise InputError(f"`{self.name}` computes nothing: its output is its image")
        self._must_have_the_shape(site, result)
        return Graph.build(self.name, self.draft.ops, self.draft.values.values(), self.images, (result,))

    def _run(self, module: fx.GraphModule, wanted: list[fx.Node]) -> None:
        """Imports the nodes that `wanted` needs; the placeholders have their entries already."""
        norms = response_norms(module.graph)
        needed = _needed(wanted, norms)
        for node in module.graph.nodes:
            if node in needed and node in norms:
                site = self._site(node)
                self.env[node] = site.emit("lrn", site.act(self.env[norms[node].source]), **norms[node].attrs)
            elif node in needed and node.op == "call_function":
                self.env[node] = self._call(node)
            elif node in needed and node.op == "get_attr":
                self.env[node] = getattr(module, str(node.target))

    def _site(self, node: fx.Node) -> Site:
        source, in_torch = source_of(node)
        return Site(self.draft, node, source, in_torch)

    def _output(self, node: fx.Node) -> fx.Node:
        made = pytree.tree_leaves(node.args[0])
        kinds = [spec.kind for spec in self.program.graph_signature.output_specs]
        users = [n for n, kind in zip(made, kinds, strict=True) if kind is OutputKind.USER_OUTPUT]
        tensors = [n for n in users if isinstance(n, fx.Node)]
        if len(tensors) != 1:
            raise InputError(
                f"`{self.name}` is not a function that gives a single tensor",
                expected="one tensor",
                got=f"{len(tensors)} tensors",
                do="wrap the net in a module whose forward returns the one that is wanted",
            )
        return tensors[0]

    def _placeholder(self, node: fx.Node) -> None:
        signature = self.program.graph_signature
        target = (
            signature.inputs_to_parameters.get(node.name)
            or signature.inputs_to_buffers.get(node.name)
            or signature.inputs_to_lifted_tensor_constants.get(node.name)
        )
        if target is None and not isinstance(node.meta.get("val"), Tensor):
            return  # an object that is no tensor; an operator that takes it has no rule
        if target is None:
            name = self.draft.fresh(node.name)
            self.draft.values[name] = Value(name, (BATCH, *node.meta["val"].shape[1:]))
            self.images.append(name)
            self.env[node] = name
            return
        held = self.program.state_dict
        tensor = held[target] if target in held else self.program.constants[target]
        self.env[node] = Const(tensor.detach(), target)

    def _call(self, node: fx.Node) -> Entry:
        site = self._site(node)
        if node.target is operator.getitem:
            return self._item(site, self.env[node.args[0]], node.args[1])  # type: ignore[index]
        missing = [n for n in node.all_input_nodes if n not in self.env]
        leaves = [self.env[n] for n in node.all_input_nodes if n not in missing]
        if any(isinstance(entry, fx.GraphModule) for entry in leaves):
            return self._inlined(site, node)
        if missing:
            raise site.refuse(f"takes `{missing[0].name}`, which is no tensor")
        if all(isinstance(e, (Const, tuple)) for e in leaves):
            return self._evaluated(site, node)
        name = aten_name(node)
        if name in SAME:
            self._must_be_float(site)
            return self.env[node.args[0]]  # type: ignore[index]
        if name in MOVES:
            return self._moved(site, leaves[0])
        if name not in RULES:
            raise UnsupportedOp(
                f"cannot import `{site.target}`",
                where=str(site.source),
                expected="one of " + textwrap.fill(", ".join(importable()), 90),
                do=ADVICE.get(name, "write the layer with these, or add a rule to edgecnn/ir/aten.py"),
            )
        self._must_keep_the_batch(site, leaves)
        try:
            entry = RULES[name](site, *self._arguments(node))
        except (ValueError, IndexError) as error:  # a shape rule of the graph said no
            raise site.refuse(f"does not fit the graph ({error})") from error
        self._must_have_the_shape(site, entry)
        return entry

    def _inlined(self, site: Site, node: fx.Node) -> Entry:
        """A block under `torch.no_grad` or a switched-off autocast, which export wraps in a function of its own."""
        name = aten_name(node)
        if name not in ("wrap_with_set_grad_enabled", "wrap_with_autocast"):
            raise site.refuse("chooses a branch by the numbers in a tensor")
        args = list(node.args)
        at = next(i for i, a in enumerate(args) if isinstance(a, fx.Node) and a.op == "get_attr")
        if name == "wrap_with_autocast" and args[at - 2]:
            raise site.refuse("computes in lower precision", do="leave out autocast in eval mode")
        block: fx.GraphModule = self.env[args[at]]  # type: ignore[index]
        inputs = [n for n in block.graph.nodes if n.op == "placeholder"]
        for inner, outer in zip(inputs, args[at + 1 :], strict=True):
            self.env[inner] = self.env[outer]  # type: ignore[index]
        outputs = list(next(n for n in block.graph.nodes if n.op == "output").args[0])
        self._run(block, outputs)
        return tuple(self.env[n] for n in outputs)

    def _arguments(self, node: fx.Node) -> list[Any]:
        """The arguments in the order of the operator's schema, with defaults, and nodes replaced by their entries."""
        schema = node.target._schema  # type: ignore[union-attr]
        given = list(node.args)
        for argument in schema.arguments[len(given) :]:
            given.append(node.kwargs.get(argument.name, argument.default_value))
        return [fx.node.map_arg(value, lambda n: self.env[n]) for value in given]

    def _evaluated(self, site: Site, node: fx.Node) -> Entry:
        """A node whose inputs are constants: run now."""
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise site.refuse("draws random numbers")

        def tensor(n: fx.Node) -> Any:
            return pytree.tree_map_only(Const, lambda c: c.tensor, self.env[n])

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), tensor)
        result = node.target(*args, **kwargs)  # type: ignore[operator]
        if isinstance(result, (list, tuple)):
            return tuple(Const(t) for t in result)
        return Const(result) if isinstance(result, Tensor) else result

    def _item(self, site: Site, entry: Entry, index: Any) -> Entry:
        if isinstance(entry, Moved):
            return entry.then(lambda parts: parts[index], site)
        if isinstance(entry, tuple):
            return entry[index]
        if index != 0:
            raise site.refuse("is a second result, such as the indices of a pool")
        return entry

    def _moved(self, site: Site, entry: Entry) -> Entry:
        node = site.node
        args, kwargs = node.args[1:], node.kwargs
        if any(isinstance(a, fx.Node) for a in pytree.tree_leaves((args, kwargs))):
            raise site.refuse("moves by numbers that depend on the image")
        if isinstance(entry, str):
            value = node.all_input_nodes[0].meta["val"]
            if site.shape(entry) != with_batch(value.shape):
                raise site.refuse("moves numbers that an `expand` repeats")
        target: Callable[..., Any] = node.target  # type: ignore[assignment]
        # A view of a contiguous tensor; `reshape` also takes what has been permuted.
        if aten_name(node) in ("view", "_unsafe_view", "view_copy"):
            target = torch.ops.aten.reshape.default
        base = entry if isinstance(entry, Moved) else Moved(site.act(entry))
        return base.then(lambda x: target(x, *args, **kwargs), site)

    @staticmethod
    def _must_be_float(site: Site) -> None:
        value = site.node.meta.get("val")
        if isinstance(value, Tensor) and not value.dtype.is_floating_point:
            raise site.refuse(f"gives {str(value.dtype).removeprefix('torch.')} numbers", do="keep the net in float")

    @staticmethod
    def _must_keep_the_batch(site: Site, inputs: list[Entry]) -> None:
        value = pytree.tree_leaves(site.node.meta.get("val"))[0]
        if with_batch(value.shape) is None:
            moved = [entry for entry in inputs if isinstance(entry, Moved)]
            raise mixes_images(moved[0].steps[-1][1] if moved else site)

    @staticmethod
    def _must_have_the_shape(site: Site, entry: Entry) -> None:
        value = pytree.tree_leaves(site.node.meta.get("val"))[0]
        if isinstance(entry, str) and site.shape(entry) != with_batch(value.shape):
            raise site.refuse(f"gives {tuple(value.shape[1:])} for each image here, and the graph cannot express that")


def _needed(outputs: list[fx.Node], norms: Mapping[fx.Node, ResponseNorm]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    todo = list(outputs)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += [norms[node].source] if node in norms else node.all_input_nodes
    return found
