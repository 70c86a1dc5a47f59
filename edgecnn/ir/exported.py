"""A module as a program of ATen operators, by `torch.export`: quiet, in eval mode, safe to read as pure functions.

What goes wrong is said in one error instead of a long trace; where a node comes from is read off its metadata.
"""

from __future__ import annotations

import inspect
import io
import logging
import operator
import re
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from edgecnn.errors import InputError, UnsupportedOp
from edgecnn.ir.graph import Source

TRACED_BATCH = 3
"""The batch a net is exported with; activations must keep it as their leading dimension."""

_TORCH = str(Path(torch.__file__).parent)
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


@contextmanager
def quiet_eval(module: nn.Module) -> Iterator[None]:
    """Puts `module` in eval mode, and silences torch.export, which tells of its own inner workings.

    Neither the modes of the submodules nor the settings of warnings and logging are changed afterwards.
    """
    modes = [(m, m.training) for m in module.modules()]
    logging_before = logging.root.manager.disable
    nowhere = io.StringIO()
    module.eval()
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging_before)
        for m, training in modes:
            m.training = training


def export(module: nn.Module, input_shape: tuple[int, ...], *, name: str) -> ExportedProgram:
    """The program of `module`, in which no operator on a tensor is seen by who read the tensor before.

    Args:
        module: in eval mode; see `quiet_eval`.
        input_shape: (channels, height, width).
        name: for messages.

    Raises:
        UnsupportedOp: the net branches on the numbers in a tensor.
        InputError: the module is no function of one image tensor, or does not run on this shape.
    """
    _one_image_argument(module, name)
    some = next((t for t in module.parameters() if t.is_floating_point()), torch.empty(0))
    image = torch.zeros((TRACED_BATCH, *input_shape), dtype=some.dtype, device=some.device)
    try:
        program = torch.export.export(module, (image,), strict=False)
    except Exception as error:  # torch.export raises whatever the module raises, and many types of its own
        _must_run(module, image, name)
        raise UnsupportedOp(
            f"torch.export cannot follow `{name}`",
            where=_raised_at(error),
            got=_first_line(error),
            do="make the path through the net independent of the numbers in the tensors (no `if` or loop on them)"
            if "data-dependent" in str(error)
            else "see the whole error with torch.export.export(module.eval(), (image,))",
        ) from error
    return program.run_decompositions({}) if _reads_after_write(program.graph) else program


def _must_run(module: nn.Module, image: Tensor, name: str) -> None:
    try:
        with torch.no_grad():
            module(image)
    except Exception as error:
        raise InputError(
            f"`{name}` does not run on an image of {'x'.join(map(str, image.shape[1:]))}",
            where=_raised_at(error),
            got=_first_line(error),
            do="check the input shape (C x H x W), and that the net takes one image tensor",
        ) from error


def _one_image_argument(module: nn.Module, name: str) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError(
            f"`{name}` is TorchScript, whose source torch.export cannot see",
            expected="a torch.nn.Module",
            do="give the module that was scripted or traced",
        )
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


def source_of(node: fx.Node) -> tuple[Source, bool]:
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
