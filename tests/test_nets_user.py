"""A user's own net: found by file or module, built with checked options, its mistakes shown in its own lines."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from edgecnn.errors import EdgecnnError, InputError, UsageError
from edgecnn.nets import load_user_net
from edgecnn.nets.user_net import is_user_net

NET = """\
import torch
from torch import nn
from neighbour import CHANNELS

class Net(nn.Module):
    def __init__(self, classes=3, bias: bool = True, **extra):
        super().__init__()
        self.extra = extra
        self.fc = nn.Linear(CHANNELS, classes, bias=bias)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))

def build(classes=3, scale=1.0):
    assert isinstance(scale, float)
    return Net(classes)

def broken():
    return torch.zeros(2, 3) @ torch.zeros(2, 3)

def inside_torch():
    return nn.Conv2d(3, 4, 3, groups=2)

def leaves():
    raise SystemExit(0)

def number():
    return 3

ready = Net(9)
DEPTH = 5
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("CHANNELS = 3\n")
    (tmp_path / "my_net.py").write_text(NET)
    yield tmp_path
    for name in ("neighbour", "my_net"):
        sys.modules.pop(name, None)


def fails(spec: str, options: dict[str, object] | None = None, *, kind: type[EdgecnnError]) -> str:
    path = list(sys.path)
    with pytest.raises(kind) as caught:
        load_user_net(spec, options)
    assert sys.path == path
    return str(caught.value)


@pytest.mark.parametrize("callable_name", ["build", "Net", "ready"])
def test_from_a_file(callable_name: str, folder: Path) -> None:
    path = list(sys.path)
    net = load_user_net(f"{folder}/my_net.py:{callable_name}")
    assert net(torch.zeros(1, 3, 4, 4)).shape == (1, 9 if callable_name == "ready" else 3)
    assert not net.training
    assert sys.path == path


def test_from_a_module_in_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert isinstance(load_user_net("my_net:build"), nn.Module)


def test_from_an_installed_package() -> None:
    net = load_user_net("torch.nn:Linear", {"in_features": "4", "out_features": 2})
    assert net(torch.zeros(1, 4)).shape == (1, 2)


def test_options_take_the_type_of_the_default(folder: Path) -> None:
    spec = f"{folder}/my_net.py:"
    assert load_user_net(spec + "build", {"classes": "7", "scale": "2"}).fc.out_features == 7
    net = load_user_net(spec + "Net", {"bias": "false", "depth": "4", "rate": "0.5", "mode": "fast"})
    assert net.fc.bias is None
    assert net.extra == {"depth": 4, "rate": 0.5, "mode": "fast"}


def test_a_seed_repeats_the_net(folder: Path) -> None:
    a, b, c = (load_user_net(f"{folder}/my_net.py:build", seed=s) for s in (0, 0, 1))
    assert torch.equal(a.fc.weight, b.fc.weight)
    assert not torch.equal(a.fc.weight, c.fc.weight)


def test_an_unknown_or_illegal_option(folder: Path) -> None:
    spec = f"{folder}/my_net.py:build"
    assert fails(spec, {"clases": "7"}, kind=UsageError) == (
        "UsageError: unknown option `clases`\n"
        f"  at       {spec}\n"
        "  expected one of classes, scale\n"
        "  do       did you mean `classes`?"
    )
    assert "option `classes` cannot be `many`" in fails(spec, {"classes": "many"}, kind=UsageError)


def test_a_missing_file(tmp_path: Path) -> None:
    message = fails(f"{tmp_path}/no.py:build", kind=InputError)
    assert message.startswith(f"InputError: there is no file `{tmp_path}/no.py`\n")


def test_a_missing_module() -> None:
    assert fails("no_such_package.nets:build", kind=InputError) == (
        "InputError: there is no module `no_such_package`\n"
        "  at       no_such_package.nets:build\n"
        "  expected path/to/my_net.py:build or package.module:build"
    )


def test_a_missing_callable_offers_the_nearest(folder: Path) -> None:
    assert fails(f"{folder}/my_net.py:biuld", kind=UsageError) == (
        "UsageError: there is no `biuld`\n"
        f"  at       {folder}/my_net.py\n"
        "  expected a function or nn.Module class; there are Net, build, broken, inside_torch, leaves, number, ready\n"
        f"  got      {folder}/my_net.py:biuld\n"
        "  do       did you mean `build`?"
    )
    assert "`DEPTH` is not callable" in fails(f"{folder}/my_net.py:DEPTH", kind=UsageError)


@pytest.mark.parametrize("spec", ["my_net.py", "my_net.py:", ":build"])
def test_a_spec_without_both_parts(spec: str) -> None:
    message = fails(spec, kind=UsageError)
    assert message.startswith(f"UsageError: `{spec}` does not say which callable makes the net\n")


def test_what_is_returned_must_be_a_net(folder: Path) -> None:
    assert fails(f"{folder}/my_net.py:number", kind=InputError) == (
        "InputError: `number` did not return a net\n"
        f"  at       {folder}/my_net.py:number\n"
        "  expected a torch.nn.Module\n"
        "  got      builtins.int"
    )


def test_an_exception_is_shown_with_its_line(folder: Path) -> None:
    line = NET.splitlines().index("    return torch.zeros(2, 3) @ torch.zeros(2, 3)") + 1
    message = fails(f"{folder}/my_net.py:broken", kind=InputError)
    assert message.startswith(f"InputError: `{folder}/my_net.py:broken` raised RuntimeError: mat1 and mat2")
    assert message.endswith(f"  at       {folder}/my_net.py:{line} in broken")
    line = NET.splitlines().index("    return nn.Conv2d(3, 4, 3, groups=2)") + 1
    assert f"  at       {folder}/my_net.py:{line} in inside_torch" in fails(
        f"{folder}/my_net.py:inside_torch", kind=InputError
    )
    assert "raised SystemExit: 0" in fails(f"{folder}/my_net.py:leaves", kind=InputError)


def test_an_exception_at_import_is_shown_with_its_line(folder: Path) -> None:
    (folder / "bad.py").write_text("import torch\nimport not_installed\n")
    assert fails(f"{folder}/bad.py:build", kind=InputError) == (
        f"InputError: `{folder}/bad.py:build` raised ModuleNotFoundError: No module named 'not_installed'\n"
        f"  at       {folder}/bad.py:2 in <module>"
    )
    (folder / "typo.py").write_text("def build(:\n    pass\n")
    assert f"  at       {folder}/typo.py:1" in fails(f"{folder}/typo.py:build", kind=InputError)


def test_a_file_may_have_the_name_of_a_package(folder: Path) -> None:
    (folder / "torch.py").write_text(NET)
    assert isinstance(load_user_net(f"{folder}/torch.py:build"), nn.Module)


def test_which_names_are_the_users() -> None:
    assert is_user_net("my_net.py:build")
    assert is_user_net("package.nets:build")
    assert not is_user_net("mobilenet_v3")
