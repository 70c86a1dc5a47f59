"""From a PyTorch module to the graph, by `torch.export`; every op remembers its module and the user's source line.

The rules of the operators are in `ir.aten`. Operators on constants alone (a weight that `forward` assembles) are
evaluated here, chains of views are left to `ir.movement`, and hand-written activations to `ir.recognise`.
"""

from __future__ import annotations

import inspect
import io
import logging
import operator
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.utils import _pytree as pytree

from edgecnn.errors import InputError, UnsupportedOp
from edgecnn.ir import aten_pool as _aten_pool  # noqa: F401  (registers its rules)
from edgecnn.ir.aten import MOVES, RULES, SAME, importable
from edgecnn.ir.graph import BATCH, Graph, Source, Value
from edgecnn.ir.import_site import TRACED_BATCH, Const, Draft, Entry, Moved, Site, aten_name, mixes_images, with_batch
from edgecnn.ir.recognise import recognise
from edgecnn.ir.verify import verify

_TORCH = str(Path(torch.__file__).parent)
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


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
    _one_image_argument(module, name)
    with _eval_mode(module), _silence():
        program = _export(module, input_shape, name)
        if _reads_after_write(program.graph):
            program = program.run_decompositions({})
        with torch.no_grad():
            graph = _Walk(program, name).graph()
    graph = recognise(graph)
    verify(graph)
    return graph


# ---- exporting


def _one_image_argument(module: nn.Module, name: str) -> None:
    parameters = inspect.signature(module.forward).parameters.values()
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(required) > 1 or not (plain or takes_any):
        raise InputError(
            f"`{name}` is not a function of a single image tensor",
            where=f"{type(module).__name__}.forward",
            expected="forward(self, x)",
            got=f"forward(self{''.join(', ' + p.name for p in required)})",
            do="wrap the net in a module whose forward takes the image only",
        )


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training


@contextmanager
def _silence() -> Iterator[None]:
    """No warnings, log lines or prints: torch.export tells of its own inner workings."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    nowhere = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _export(module: nn.Module, input_shape: tuple[int, ...], name: str) -> ExportedProgram:
    some = next((t for t in module.parameters() if t.is_floating_point()), torch.empty(0))
    image = torch.zeros((TRACED_BATCH, *input_shape), dtype=some.dtype, device=some.device)
    try:
        return torch.export.export(module, (image,), strict=False)
    except Exception as error:  # torch.export raises whatever the module raises, and many types of its own
        shape = "x".join(map(str, input_shape))
        try:
            with torch.no_grad():
                module(image)
        except Exception as plain:
            raise InputError(
                f"`{name}` does not run on an image of {shape}",
                where=_raised_at(plain),
                got=_first_line(plain),
                do="check the input shape (C x H x W), and that the net takes one image tensor",
            ) from plain
        raise UnsupportedOp(
            f"torch.export cannot follow `{name}`",
            where=_raised_at(error),
            got=_first_line(error),
            do="make the path through the net independent of the numbers in the tensors (no `if` or loop on them)",
        ) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return textwrap.shorten(f"{type(error).__name__}: {lines[0] if lines else '(no message)'}", 300)


def _raised_at(error: BaseException) -> str | None:
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    here = str(Path(__file__))
    mine = [f for f in frames if f[0] != here]
    # Some errors of torch.export carry the user's frames only as text.
    told = [(file, int(line)) for file, line in _FRAME.findall(str(error))]
    return _innermost(mine, only_user=True) or _innermost(told, only_user=True) or None


# ---- where a node comes from


def _innermost(frames: list[tuple[str, int]], *, only_user: bool = False) -> str:
    """`file.py:line` of the innermost frame outside of PyTorch."""
    user = [f for f in frames if not f[0].startswith((_TORCH, "<"))]
    chosen = (user or ([] if only_user else frames))[-1:]
    return "".join(f"{_short(file)}:{line}" for file, line in chosen)


def _short(file: str) -> str:
    """A file's path from its top package down, so that it is the same on every machine: `torchvision/models/vgg.py`."""
    path = Path(file)
    top = path.parent
    while (top / "__init__.py").exists():
        top = top.parent
    return path.relative_to(top).as_posix()


def _source(node: fx.Node) -> tuple[Source, bool]:
    """The node's source, and whether it lies in a module of PyTorch's own (a layer) or of the user's."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = stack[-1] if stack else ("", "")
    path = re.sub(r"@\d+", "", str(path))  # a module called again is `conv@1`
    frames = [(file, int(line)) for file, line in _FRAME.findall(node.meta.get("stack_trace") or "")]
    return Source(re.sub(r"\s", "_", path), _innermost(frames)), "torch.nn.modules" in str(kind)


# ---- in-place operators


def _reads_after_write(graph: fx.Graph) -> bool:
    """Whether an old reference to a tensor is read after an operator has changed the tensor in place."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    roots: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        roots[node] = node
        if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        schema = getattr(node.target, "_schema", None)
        aliases = schema is not None and any(r.alias_info is not None for r in schema.returns)
        if aliases or node.target is operator.getitem:
            roots[node] = roots[node.args[0]]
    for node in graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None or not schema.is_mutable or node.op != "call_function" or not node.args:
            continue
        root = roots[node]
        for old in (n for n in graph.nodes if roots[n] is root and order[n] < order[node]):
            if any(order[user] > order[node] for user in old.users):
                return True
    return False


# ---- walking over the exported program


class _Walk:
    def __init__(self, program: ExportedProgram, name: str) -> None:
        self.program, self.name = program, name
        self.draft = Draft()
        self.env: dict[fx.Node, Entry] = {}
        self.images: list[str] = []

    def graph(self) -> Graph:
        nodes = list(self.program.graph.nodes)
        outputs = self._outputs(nodes[-1])
        needed = _needed(outputs)
        for node in nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node in needed and node.op == "call_function":
                self.env[node] = self._call(node)
            elif node in needed:
                self.env[node] = node  # the branch of a control-flow operator, which is refused when it comes
        entry = self.env[outputs[0]]
        if isinstance(entry, Const):
            raise InputError(f"the output of `{self.name}` does not depend on its image")
        result = self._site(outputs[0]).act(entry)
        if result in self.images:
            raise InputError(f"`{self.name}` computes nothing: its output is its image")
        return Graph.build(self.name, self.draft.ops, self.draft.values.values(), self.images, (result,))

    def _site(self, node: fx.Node) -> Site:
        source, in_torch = _source(node)
        return Site(self.draft, node, source, in_torch)

    def _outputs(self, node: fx.Node) -> list[fx.Node]:
        made = pytree.tree_leaves(node.args[0])
        kinds = [spec.kind for spec in self.program.graph_signature.output_specs]
        tensors = [n for n, kind in zip(made, kinds, strict=True) if kind is OutputKind.USER_OUTPUT]
        tensors = [n for n in tensors if isinstance(n, fx.Node)]
        if len(tensors) != 1:
            raise InputError(
                f"`{self.name}` is not a function that gives a single tensor",
                expected="one tensor",
                got=f"{len(tensors)} tensors",
                do="wrap the net in a module whose forward returns the one that is wanted",
            )
        return tensors

    def _placeholder(self, node: fx.Node) -> None:
        signature = self.program.graph_signature
        target = (
            signature.inputs_to_parameters.get(node.name)
            or signature.inputs_to_buffers.get(node.name)
            or signature.inputs_to_lifted_tensor_constants.get(node.name)
        )
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
        leaves = [self.env[n] for n in node.all_input_nodes]
        if all(isinstance(e, (Const, tuple)) for e in leaves):
            return self._evaluated(node)
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
                do="write the layer with these, or add a rule to edgecnn/ir/aten.py",
            )
        self._must_keep_the_batch(site, leaves)
        try:
            entry = RULES[name](site, *self._arguments(node))
        except ValueError as error:  # a rule of shape of the graph said no
            raise site.refuse(f"does not fit the graph ({error})") from error
        self._must_have_the_shape(site, entry)
        return entry

    def _arguments(self, node: fx.Node) -> list[Any]:
        """The arguments in the order of the operator's schema, with defaults, and nodes replaced by their entries."""
        schema = node.target._schema  # type: ignore[union-attr]
        given = list(node.args)
        for argument in schema.arguments[len(given) :]:
            given.append(node.kwargs.get(argument.name, argument.default_value))
        return [fx.node.map_arg(value, lambda n: self.env[n]) for value in given]

    def _evaluated(self, node: fx.Node) -> Entry:
        """A node whose inputs are constants: run now."""

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
        others = pytree.tree_map(lambda a: a, (node.args[1:], node.kwargs))
        if any(isinstance(a, fx.Node) for a in pytree.tree_leaves(others)):
            raise site.refuse("moves by numbers that depend on the image")
        target: Callable[..., Any] = node.target  # type: ignore[assignment]
        # A view of a contiguous tensor; `reshape` also takes what has been permuted.
        if aten_name(node) in ("view", "_unsafe_view", "view_copy"):
            target = torch.ops.aten.reshape.default
        args, kwargs = others
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


def _needed(outputs: list[fx.Node]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    todo = list(outputs)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += node.all_input_nodes
    return found
