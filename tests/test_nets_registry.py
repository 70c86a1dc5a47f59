"""Nets by name: options read from signatures, values checked, unknown names answered with the nearest."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch
from torch import nn

import edgecnn.nets
from edgecnn.errors import UsageError
from edgecnn.nets import NETS, build_net
from edgecnn.nets.options import About, NetOption, options_of
from edgecnn.nets.registry import NetEntry, NetRegistry


def refused(*args: str, **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        build_net(*args, **options)
    return str(caught.value)


def test_unknown_net_offers_the_nearest() -> None:
    message = refused("mobilnet_v3")
    assert message.startswith("UsageError: unknown net `mobilnet_v3`\n  expected one of ")
    assert "do       did you mean `mobilenet_v3`" in message


def test_unknown_option_offers_the_nearest() -> None:
    assert refused("mobilenet_v2", widht=1.0) == (
        "UsageError: unknown option `widht`\n"
        "  at       net mobilenet_v2\n"
        "  expected one of conv, dropout, num_classes, p, se, stem, width\n"
        "  do       did you mean `width`?"
    )


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("width", "wide", "a number above 0"),
        ("width", "0", "a number above 0"),
        ("width", "nan", "a number above 0"),
        ("width", True, "a number above 0"),
        ("num_classes", "2.5", "a whole number at least 1"),
        ("num_classes", 0, "a whole number at least 1"),
        ("dropout", "1", "a number at least 0 and below 1"),
        ("stem", "large", "one of imagenet, small"),
        ("shallow", "maybe", "true or false"),
        ("shallow", 1, "true or false"),
    ],
)
def test_an_illegal_value_says_what_is_legal(option: str, value: object, expected: str) -> None:
    assert refused("mobilenet_v1", **{option: value}) == (
        f"UsageError: option `{option}` cannot be `{value}`\n"
        "  at       net mobilenet_v1\n"
        f"  expected {expected}\n"
        f"  got      {value!r}"
    )


def test_whole_number_choices_are_read_from_text() -> None:
    assert "expected one of 1, 2, 4, 8, 16, 32, 64" in refused("vgg16_hetconv", p="3")
    with torch.device("meta"):
        assert build_net("vgg16_hetconv", p="64").features[3].p == 64


def test_text_and_typed_options_build_the_same_net() -> None:
    text = build_net("mobilenet_v1", width="0.25", num_classes="7", stem="small", shallow="yes", seed=3)
    typed = build_net("mobilenet_v1", width=0.25, num_classes=7, stem="small", shallow=True, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(text.parameters(), typed.parameters(), strict=True))


def test_a_seed_repeats_the_net_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    a, b, c = (build_net("hetconv_small", width=0.5, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(a.parameters(), c.parameters(), strict=True))


def test_an_alias_is_its_net_and_no_name_of_its_own() -> None:
    assert NETS["mobilenet_v3"] is NETS["mobilenet_v3_large"]
    assert NETS["shufflenet_v2"] is NETS["shufflenet_v2_x1_0"]
    assert "mobilenet_v3" in NETS
    assert "mobilenet_v3" not in list(NETS)


def test_a_name_cannot_be_taken_twice() -> None:
    registry = NetRegistry()
    entry = NetEntry("a", nn.Identity, (3, 8, 8), "", 0, 0, "", (), aliases=("b",))
    registry.add("a", entry)
    for name, aliases in (("a", ()), ("b", ()), ("c", ("a",)), ("c", ("b",))):
        with pytest.raises(ValueError, match=r"^net `[ab]` is registered twice$"):
            registry.add(name, NetEntry(name, nn.Identity, (3, 8, 8), "", 0, 0, "", (), aliases=aliases))


@pytest.mark.parametrize("name", sorted(NETS))
def test_every_net_says_what_it_is(name: str) -> None:
    entry = NETS[name]
    options = {o.name: o for o in entry.options}
    assert {"num_classes", "stem", "dropout"} <= set(options)
    assert all(o.doc for o in entry.options)
    assert "arXiv:" in entry.source or "doi:" in entry.source
    assert entry.summary.endswith(".")
    assert entry.input_for(stem="small") == (3, 32, 32)
    assert entry.input_for() == entry.input_shape


def test_options_come_from_the_signature() -> None:
    def build(
        *, rate: Annotated[float, About("how fast", above=0, below=2)] = 1.0, mode: Literal["a", "b"] = "a", n: int = 3
    ) -> nn.Module:
        return nn.Identity()

    assert options_of(build) == (
        NetOption("rate", float, 1.0, "how fast", above=0, below=2),
        NetOption("mode", str, "a", choices=("a", "b")),
        NetOption("n", int, 3),
    )


def test_an_option_that_cannot_be_written_on_a_command_line_is_a_bug() -> None:
    def build(*, layers: list[int] | None = None) -> nn.Module:
        return nn.Identity()

    with pytest.raises(TypeError, match="option `layers` needs a simple type and a default"):
        options_of(build)


def test_the_examples_in_the_docstrings_hold() -> None:
    folder = Path(edgecnn.nets.__file__).parent
    results = [
        doctest.testmod(importlib.import_module(f"edgecnn.nets.{path.stem}"))
        for path in folder.glob("*.py")
        if path.stem != "__init__"
    ]
    assert sum(r.failed for r in results) == 0
    assert sum(r.attempted for r in results) >= 4
