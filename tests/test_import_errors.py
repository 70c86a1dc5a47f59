"""What cannot be imported is said in one error that names the place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecnn.errors import EdgecnnError, InputError, UnsupportedOp
from edgecnn.ir.advice import ADVICE
from edgecnn.ir.aten import MOVES, RULES, SAME, importable
from edgecnn.ir.from_torch import import_module

SHAPE = (8, 9, 12)
FILE = Path(__file__).name


class Calls(nn.Module):
    """`function` of the image."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)  # where the graph is made


def line_of(text: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return 1 + next(i for i, line in enumerate(lines) if text in line)


AT = f"{FILE}:{line_of('# where the graph is' + ' made')}  (top level)"


def refused(function: Callable[[Tensor], Any], kind: type[EdgecnnError]) -> str:
    with pytest.raises(kind) as caught:
        import_module(Calls(function), SHAPE, name="net")
    return str(caught.value)


MIXES = """UnsupportedOp: the net mixes the images of a batch, or fixes the batch size, before or at `{}`
  at       {}
  expected every activation begins with the batch: (N, C, H, W) or (N, features)
  do       keep the first dimension as it is: x.flatten(1) or x.view(x.size(0), -1), no dim=0"""

MIXING: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "merged": (lambda x: F.relu(x.view(-1, 8 * 9 * 6)), "aten.view"),
    "fixed": (lambda x: x.view(1, -1), "aten.view"),
    "turned": (lambda x: F.relu(x.transpose(0, 1)), "aten.transpose"),
    "picked": (lambda x: x[0], "aten.select"),
    "averaged": (lambda x: x - x.mean(0, keepdim=True), "aten.mean"),
    "joined": (lambda x: torch.cat([x, x], 0), "aten.cat"),
    "softmax": (lambda x: x.softmax(0), "aten.softmax"),
}


@pytest.mark.parametrize("name", MIXING)
def test_images_of_a_batch_must_stay_apart(name: str) -> None:
    function, operator = MIXING[name]
    assert refused(function, UnsupportedOp) == MIXES.format(operator, AT)


def test_an_operator_without_a_rule() -> None:
    message = refused(lambda x: x.flip(3), UnsupportedOp)
    lines = message.splitlines()
    assert lines[:2] == ["UnsupportedOp: cannot import `aten.flip`", f"  at       {AT}"]
    assert lines[-1] == "  do       write the layer with these, or add a rule to edgecnn/ir/aten.py"
    have = " ".join(line.strip() for line in lines[2:-1])
    assert have == "expected one of " + ", ".join(importable())
    assert max(map(len, lines)) <= 110


@pytest.mark.parametrize(
    ("function", "operator", "instead"),
    [
        (lambda x: F.layer_norm(x, SHAPE), "layer_norm", "nn.BatchNorm2d"),
        (lambda x: F.group_norm(x, 2), "group_norm", "nn.BatchNorm2d"),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), "upsample_bilinear2d", 'mode="nearest"'),
        (lambda x: F.elu(x), "elu", "relu6"),
        (lambda x: x.amax((2, 3)), "amax", "x.mean((2, 3))"),
        (lambda x: F.scaled_dot_product_attention(x, x, x), "scaled_dot_product_attention", "convolutional nets"),
        (lambda x: torch.einsum("nchw,ndhw->ncd", x, x), "einsum", "convolutional nets"),
    ],
    ids=lambda v: v if isinstance(v, str) and v.isidentifier() else "",
)
def test_what_other_nets_use_has_advice_of_its_own(
    function: Callable[[Tensor], Any], operator: str, instead: str
) -> None:
    lines = refused(function, UnsupportedOp).splitlines()
    assert lines[:2] == [f"UnsupportedOp: cannot import `aten.{operator}`", f"  at       {AT}"]
    assert lines[-1].startswith("  do ")
    assert instead in lines[-1]


def test_advice_is_only_for_operators_that_cannot_be_imported() -> None:
    assert not ADVICE.keys() & (RULES.keys() | MOVES | SAME)


def test_the_module_path_is_named() -> None:
    net = nn.Sequential(nn.Conv2d(8, 4, 1), nn.Sequential(nn.Mish()))
    with pytest.raises(UnsupportedOp) as caught:
        import_module(net, SHAPE, name="net")
    first, second, *_ = str(caught.value).splitlines()
    assert first == "UnsupportedOp: cannot import `aten.mish`"
    assert second.endswith("  (1.0)")


REFUSALS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "dropout": (
        lambda x: F.dropout(x),
        "cannot import `aten.dropout`: it drops at random in eval mode too|"
        "do       use nn.Dropout, or pass training=self.training",
    ),
    "tanh gelu": (
        lambda x: F.gelu(x, approximate="tanh"),
        'cannot import `aten.gelu`: it is the approximate form (`tanh`)|do       use nn.GELU() with approximate="none"',
    ),
    "divisor": (
        lambda x: F.avg_pool2d(x, 2, divisor_override=3),
        "cannot import `aten.avg_pool2d`: it has its own divisor|"
        "do       leave out divisor_override, and multiply by a number after the pool",
    ),
    "batch statistics": (
        lambda x: F.batch_norm(x, None, None, training=True),
        "cannot import `aten.batch_norm`: it normalises by the statistics of the batch|"
        "do       keep running statistics (track_running_stats)",
    ),
    "dynamic weight": (
        lambda x: F.conv2d(x, x[:1, :, :3, :3]),
        "cannot import `aten.conv2d`: it needs a constant weight|do       compute the weight from parameters only",
    ),
    "channel mean": (
        lambda x: x.mean(1),
        "cannot import `aten.mean`: it is a mean over other axes than H and W|do       use x.mean((2, 3))",
    ),
    "image sum": (
        lambda x: x.sum((2, 3)),
        "cannot import `aten.sum`: it sums over something else than one axis of 2 to 8 branches|"
        "do       use x.mean((2, 3)) for a sum over the image, a 1x1 convolution for one over the channels",
    ),
    "uneven enlargement": (
        lambda x: F.interpolate(x, size=(18, 20)),
        "cannot import `aten.upsample_nearest2d`: it resizes 9x12 to 18x20, which is no multiple|"
        "do       choose an input size at which every pixel is repeated a whole number of times",
    ),
    "reflection": (
        lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
        "cannot import `aten.pad`: it pads in the mode `reflect`|do       pad with a constant",
    ),
    "integers": (
        lambda x: x.to(torch.int32) + 1,
        "cannot import `aten.to`: it gives int32 numbers|do       keep the net in float",
    ),
    "division": (
        lambda x: x / x.mean((2, 3), keepdim=True),
        "cannot import `aten.div`: it divides by an activation|"
        "do       divide by a constant, or normalise with a layer we have",
    ),
    "constant in a concat": (
        lambda x: torch.cat([x, torch.zeros(x.shape)], 1),
        "cannot import `aten.cat`: it joins a constant, such as a class token, to an activation|"
        "do       join activations only; a class token can be replaced by the mean x.mean((2, 3))",
    ),
    "attention": (
        lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2),
        f"cannot import `aten.matmul`: it multiplies two activations with each other|do       {ADVICE['bmm']}",
    ),
    "transposed": (
        lambda x: torch.convolution(x, torch.ones(8, 2, 3, 3), None, (1, 1), (0, 0), (1, 1), True, (0, 0), 1),
        "cannot import `aten.convolution`: it is a transposed or not a 2-D convolution",
    ),
    "expanded output": (
        lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 9, 12),
        "cannot import `aten.expand`: it gives (8, 9, 12) for each image here, and the graph cannot express that",
    ),
    "expanded view": (
        lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 9, 12).flatten(1),
        "cannot import `aten.flatten`: it moves numbers that an `expand` repeats",
    ),
    "random": (
        lambda x: x * torch.rand(8, 1, 1),
        "cannot import `aten.rand`: it draws random numbers",
    ),
    "indices": (
        lambda x: F.max_pool2d(x, 2, return_indices=True)[1] * 1.0,
        "cannot import `getitem`: it is a second result, such as the indices of a pool",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_form_that_has_no_op_is_explained(name: str) -> None:
    function, told = REFUSALS[name]
    what, *do = told.split("|")
    assert refused(function, UnsupportedOp).splitlines() == [
        f"UnsupportedOp: {what}",
        f"  at       {AT}",
        *(f"  {line}" for line in do),
    ]


def test_a_branch_on_the_numbers(capfd: pytest.CaptureFixture[str]) -> None:
    message = refused(lambda x: x if x.sum() > 0 else -x, UnsupportedOp)  # the branch
    lines = message.splitlines()
    assert lines[0] == "UnsupportedOp: torch.export cannot follow `net`"
    assert lines[1] == f"  at       {FILE}:{line_of('# the branch')}"
    assert lines[2].startswith("  got      GuardOnDataDependentSymNode: Could not guard on data-dependent expression")
    assert lines[3] == (
        "  do       make the path through the net independent of the numbers in the tensors (no `if` or loop on them)"
    )
    assert len(lines) == 4
    assert capfd.readouterr() == ("", "")


def test_a_branch_as_an_operator() -> None:
    message = refused(lambda x: torch.cond(torch.tensor(True), lambda y: y + 1, lambda y: y * 2, (x,)), UnsupportedOp)
    assert message.splitlines()[0] == (
        "UnsupportedOp: cannot import `cond`: it chooses a branch by the numbers in a tensor"
    )


def test_lower_precision_is_refused() -> None:
    def lower(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.conv2d(x, torch.ones(4, 8, 1, 1))

    assert refused(lower, UnsupportedOp).splitlines()[0] == (
        "UnsupportedOp: cannot import `wrap_with_autocast`: it computes in lower precision"
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
def test_torchscript() -> None:
    with pytest.raises(InputError) as caught:
        import_module(torch.jit.trace(nn.ReLU(), torch.zeros(1, *SHAPE)), SHAPE, name="net")
    assert str(caught.value) == (
        "InputError: `net` is TorchScript, whose source torch.export cannot see\n"
        "  expected a torch.nn.Module\n"
        "  do       give the module that was scripted or traced"
    )


def test_an_input_of_another_shape() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    with pytest.raises(InputError) as caught:
        import_module(net, SHAPE, name="net")
    lines = str(caught.value).splitlines()
    assert lines[0] == "InputError: `net` does not run on an image of 8x9x12"
    assert "expected input[3, 8, 9, 12] to have 3 channels, but got 8 channels instead" in lines[-2]
    assert lines[-1] == "  do       check the input shape (C x H x W), and that the net takes one image tensor"


def test_several_inputs() -> None:
    class Two(nn.Module):
        def forward(self, left: Tensor, right: Tensor, flag: bool = False) -> Tensor:
            return left + right

    with pytest.raises(InputError) as caught:
        import_module(Two(), SHAPE, name="net")
    assert str(caught.value) == (
        "InputError: `net` is not a function of a single image tensor\n"
        "  at       Two.forward\n"
        "  expected forward(self, x)\n"
        "  got      forward(self, left, right)\n"
        "  do       wrap the net in a module whose forward takes the image only"
    )


def test_several_outputs() -> None:
    assert refused(lambda x: {"boxes": x + 1, "classes": x * 2}, InputError) == (
        "InputError: `net` is not a function that gives a single tensor\n"
        "  expected one tensor\n"
        "  got      2 tensors\n"
        "  do       wrap the net in a module whose forward returns the one that is wanted"
    )


def test_outputs_that_compute_nothing() -> None:
    assert refused(lambda x: x, InputError) == "InputError: `net` computes nothing: its output is its image"
    told = "InputError: the output of `net` does not depend on its image"
    assert refused(lambda x: torch.ones(2, 3), InputError) == told


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(bad: float) -> None:
    net = nn.Sequential(nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)))
    with torch.no_grad():
        net[0][1].running_var[1:3] = bad
    with pytest.raises(InputError) as caught:
        import_module(net, SHAPE, name="net")
    lines = str(caught.value).splitlines()
    assert lines[0] == "InputError: `0.1.running_var` holds NaN or infinity"
    assert lines[1].endswith("  (0.1)")
    assert lines[2:] == [
        "  expected finite weights",
        "  got      2 of 4 numbers are not",
        "  do       check the checkpoint, or the training that wrote it",
    ]


def test_training_mode_is_restored_after_an_error() -> None:
    net = nn.Sequential(nn.Mish(), nn.Dropout())
    with pytest.raises(UnsupportedOp):
        import_module(net, SHAPE, name="net")
    assert net.training
    assert net[1].training
