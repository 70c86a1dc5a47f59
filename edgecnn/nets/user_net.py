"""A net from the user's own code: `path/to/my_net.py:build` or `package.module:callable`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from edgecnn.errors import EdgecnnError, InputError, UsageError, nearest, unknown
from edgecnn.nets.options import NetOption
from edgecnn.nets.registry import seeded

EXAMPLE = "path/to/my_net.py:build or package.module:build"


def is_user_net(spec: str) -> bool:
    """Whether `spec` names the user's code and not a net of the zoo."""
    return ":" in spec or spec.endswith(".py")


def load_user_net(spec: str, options: Mapping[str, object] | None = None, *, seed: int = 0) -> nn.Module:
    """The net that the callable named by `spec` returns, in eval mode.

    Importing runs the user's file. Meanwhile its folder can be imported from; for a module, the working directory can.

    Args:
        spec: `file.py:callable` or `module:callable`; the callable is a function or an nn.Module class.
        options: keyword arguments; strings are read as the type of the parameter's default.
        seed: of torch's generator while the net is made.

    Raises:
        UsageError: `spec` or an option is malformed, or the callable does not exist.
        InputError: the file is missing, the code raised, or what it returned is no nn.Module.
    """
    source, separator, attribute = spec.rpartition(":")
    if not separator or not source or not attribute:
        raise UsageError(f"`{spec}` does not say which callable makes the net", expected=EXAMPLE, got=spec)
    is_file = source.endswith(".py")
    folder = Path(source).resolve().parent if is_file else Path.cwd()
    with _importable(folder), seeded(seed):
        module = _run(spec, lambda: _import_file(Path(source)) if is_file else importlib.import_module(source))
        build = _find(module, attribute, spec)
        arguments = _arguments(build, options or {}, spec)
        net = build if isinstance(build, nn.Module) and not arguments else _run(spec, lambda: build(**arguments))
    if not isinstance(net, nn.Module):
        raise InputError(
            f"`{attribute}` did not return a net",
            where=spec,
            expected="a torch.nn.Module",
            got=f"{type(net).__module__}.{type(net).__qualname__}",
        )
    return net.eval()


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """`folder` first on the import path inside the block, so that the user's file can import its neighbours."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"there is no file `{path}`", where=str(path.resolve()), expected=EXAMPLE)
    # A name of its own, so that the user's `torch.py` or `edgecnn.py` shadows nothing.
    name = f"edgecnn_user_net_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise InputError(f"`{path}` cannot be imported", expected="a Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and torch.export look a class's module up by name.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _find(module: ModuleType, attribute: str, spec: str) -> Callable[..., Any]:
    found: Callable[..., Any] | None = getattr(module, attribute, None)
    if found is not None and callable(found):
        return found
    own = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", None) == module.__name__]
    close = nearest(attribute, own)
    raise UsageError(
        f"`{attribute}` is not callable" if hasattr(module, attribute) else f"there is no `{attribute}`",
        where=str(getattr(module, "__file__", None) or module.__name__),
        expected="a function or nn.Module class; there are " + (", ".join(own) or "none"),
        got=spec,
        do="did you mean " + " or ".join(f"`{c}`" for c in close) + "?" if close else None,
    )


def _arguments(build: Callable[..., Any], given: Mapping[str, object], spec: str) -> dict[str, object]:
    """`given` for a call of `build`, checked against its signature; strings take the type of the default."""
    parameters = inspect.signature(build).parameters if given else {}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    typed: dict[str, object] = {}
    for name, value in given.items():
        if name not in parameters and not open_ended:
            raise unknown("option", name, parameters, where=spec)
        default = parameters[name].default if name in parameters else None
        kind = type(default)
        if isinstance(value, str) and kind in (int, float, bool, str):
            value = NetOption(name, kind, default).coerce(value, where=spec)
        elif isinstance(value, str):
            value = _guess(value)
        typed[name] = value
    return typed


def _guess(text: str) -> object:
    """A string from the command line as a number or truth value if it reads as one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text.lower(), text)


def _run(spec: str, action: Callable[[], Any]) -> Any:
    """What `action` returns; an exception of the user's code becomes an error with its file and line.

    `SystemExit` counts as one: a script that calls `exit` at import must not end this program silently.
    """
    try:
        return action()
    except EdgecnnError:
        raise
    except ModuleNotFoundError as e:
        if not spec.startswith(f"{e.name}"):
            raise _raised(spec, e) from e
        raise InputError(f"there is no module `{e.name}`", where=spec, expected=EXAMPLE) from e
    except SyntaxError as e:
        raise InputError(f"`{spec}` is not valid Python: {e.msg}", where=f"{e.filename}:{e.lineno}") from e
    except (Exception, SystemExit) as e:
        raise _raised(spec, e) from e


def _raised(spec: str, error: BaseException) -> InputError:
    """The error that names the innermost line of the user's code, or of a library if it never got there."""
    libraries = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), "<frozen")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    users = [f for f in frames if not f.filename.startswith(libraries)]
    place = next(reversed(users or frames), None)
    return InputError(
        f"`{spec}` raised {type(error).__name__}: {error}",
        where=f"{place.filename}:{place.lineno} in {place.name}" if place else spec,
    )
