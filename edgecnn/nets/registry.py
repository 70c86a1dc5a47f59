"""The nets by name: what each is, where it comes from, its exact size, and how to build it.

A family is one file in this folder with one decorated builder per net; `edgecnn.nets` imports every file it finds here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from edgecnn.errors import UsageError, unknown
from edgecnn.nets.options import NetOption, coerce_options, options_of
from edgecnn.nets.transform import TRANSFORM_OPTIONS, transform
from edgecnn.registry import Registry

IMAGENET_INPUT = (3, 224, 224)
SMALL_INPUT = (3, 32, 32)

Build = Callable[..., nn.Module]
B = TypeVar("B", bound=Build)


@dataclass(frozen=True)
class Pretrained:
    """An official weight file and how its images were prepared when it was evaluated.

    Args:
        file: file name under `https://download.pytorch.org/models/`; ends in the first digits of its sha256.
        top1: published ImageNet accuracy in percent.
        top5: likewise.
        resize: length of the shorter side before the centre crop, in pixels.
        crop: side of the centre crop, in pixels.
        interpolation: of the resize.
        mean: of the channels, subtracted from pixels in 0...1.
        std: of the channels, which the rest is divided by.
        fixed: options of the net that change no tensor's shape but what the weights mean; any value but the default is
            refused with these weights, which would load without complaint and be wrong.
    """

    file: str
    top1: float
    top5: float
    resize: int = 256
    crop: int = 224
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    fixed: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """Where the file is published."""
        return f"https://download.pytorch.org/models/{self.file}"

    @property
    def sha256_prefix(self) -> str:
        """The first digits of the file's sha256, which its name ends in."""
        return self.file.rsplit(".", 1)[0].rsplit("-", 1)[1]


@dataclass(frozen=True)
class Published:
    """An accuracy as its source states it. Figures that no source could be found for have no place here.

    Args:
        top1: in percent; None where only top-5 is stated.
        top5: in percent; None where only top-1 is stated.
        source: paper and table, or the page of the released weights.
        note: what else the figure depends on: the data if not ImageNet, crops, resolution.
    """

    top1: float | None
    top5: float | None
    source: str
    note: str = ""


@dataclass(frozen=True)
class NetEntry:
    """One net of the zoo.

    Args:
        name: as the command line writes it.
        build: makes the net from keyword options; use `build_net`, which checks them.
        input_shape: (C, H, W) the published counts are for.
        source: paper and, where weights are shared, implementation.
        params: trainable parameters with default options, auxiliary classifiers included, which are not deployed.
        macs: multiply-adds of convolutions and linear layers for one image of `input_shape` with default options, as
            they execute: HetConv's zero weights in the dense 1x1 count.
        summary: one line.
        options: what the builder accepts; see `transform_options`.
        published: accuracies as the paper or its authors' page states them, the paper's first.
        pretrained: official ImageNet weights, if any.
        aliases: other names.
    """

    name: str
    build: Build
    input_shape: tuple[int, int, int]
    source: str
    params: int
    macs: int
    summary: str
    options: tuple[NetOption, ...]
    pretrained: Pretrained | None = None
    aliases: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()

    @property
    def family(self) -> str:
        """The file of `nets/` it is in."""
        return self.build.__module__.rpartition(".")[2]

    @property
    def transform_options(self) -> tuple[NetOption, ...]:
        """What it accepts beside `options` to replace its convolutions; nothing if one of its own has such a name."""
        own = {o.name for o in self.options}
        return () if any(o.name in own for o in TRANSFORM_OPTIONS) else TRANSFORM_OPTIONS

    def replaces_convolutions(self, given: Mapping[str, object]) -> str | None:
        """The form that these options give its convolutions, None for the standard one."""
        known = {o.name: o for o in self.transform_options}
        own = {name.lower(): value for name, value in given.items() if name.lower() in known}
        form = str(coerce_options(self.transform_options, own, where=f"net {self.name}").get("conv", "standard"))
        return None if form == "standard" else form

    def input_for(self, **options: object) -> tuple[int, int, int]:
        """The input shape that the net with these options is meant for: 32x32 with the stem for small images."""
        stem = next((value for name, value in options.items() if name.lower() == "stem"), None)
        if stem is None or any(o.name == "stem" and o.default == stem for o in self.options):
            return self.input_shape
        return SMALL_INPUT if stem == "small" else IMAGENET_INPUT


class NetRegistry(Registry[NetEntry]):
    """The nets; an alias finds its net, and iteration gives proper names only."""

    def __init__(self) -> None:
        super().__init__("net")
        self._alias_of: dict[str, str] = {}

    def add(self, name: str, item: NetEntry) -> None:
        """Adds a net with all its aliases.

        Raises:
            ValueError: one of the names is taken.
        """
        for taken in (name, *item.aliases):
            if taken in self:
                raise ValueError(f"net `{taken}` is registered twice")
        super().add(name, item)
        self._alias_of.update(dict.fromkeys(item.aliases, name))

    def __getitem__(self, name: str) -> NetEntry:
        proper = self._alias_of.get(name, name)
        if proper not in self._items:
            raise unknown("net", name, [*self._items, *self._alias_of])
        return self._items[proper]

    def __contains__(self, name: object) -> bool:
        return name in self._items or name in self._alias_of


NETS = NetRegistry()


def net(
    name: str,
    *,
    source: str,
    params: int,
    macs: int,
    input_shape: tuple[int, int, int] = IMAGENET_INPUT,
    pretrained: Pretrained | None = None,
    aliases: tuple[str, ...] = (),
    published: tuple[Published, ...] = (),
) -> Callable[[B], B]:
    """A decorator that registers a builder under `name`; see `NetEntry` for the arguments.

    The options are read from the builder's signature, the summary is the first line of its docstring.
    """

    def register(build: B) -> B:
        summary = (build.__doc__ or "").strip().split("\n")[0]
        NETS.add(
            name,
            NetEntry(
                name,
                build,
                input_shape,
                source,
                params,
                macs,
                summary,
                options_of(build),
                pretrained,
                tuple(aliases),
                published,
            ),
        )
        return build

    return register


def build_net(name: str, *, seed: int | None = None, **options: object) -> nn.Module:
    """The net called `name` with fresh weights, in eval mode.

    Args:
        name: a name or alias in `NETS`.
        seed: makes the initial weights repeatable; None draws them from torch's global generator.
        **options: the net's own and those of `transform`; strings are read as the command line writes them.

    Raises:
        UsageError: unknown net or option (the nearest are named), an illegal value, or nothing to replace.

    Example:
        >>> net = build_net("mobilenet_v1", width="0.25", num_classes=10, stem="small", seed=0)
        >>> net(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """
    entry = NETS[name]
    where = f"net {entry.name}"
    typed = coerce_options((*entry.options, *entry.transform_options), options, where=where)
    replacing = {o.name: typed.pop(o.name, o.default) for o in entry.transform_options}
    if replacing.get("conv") == "standard" and (replacing["se"] or "p" in {name.lower() for name in options}):
        raise UsageError(
            "`p` and `se` are options of another form of convolution",
            where=where,
            do="give conv=hetconv (P = 1 is the standard convolution), conv=gwc_pwc or conv=dwc_pwc too",
        )
    with seeded(seed):
        module = entry.build(**typed)
        if replacing:
            transform(module, **replacing, where=where)  # type: ignore[arg-type]
        return module.eval()


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Torch's global CPU generator set to `seed` inside the block and put back after it; untouched if None."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
