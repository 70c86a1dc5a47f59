"""One form of 3x3 convolution for another, in any net of the zoo: `conv=hetconv p=4`.

Source: Singh et al. 2019, "HetConv", CVPR, arXiv:1903.04120, and the forms it compares with:

    hetconv   a heterogeneous convolution: 3x3 kernels on one P-th of the channels, 1x1 on the others
    gwc_pwc   a 3x3 convolution in P groups that keeps the channels, then a 1x1 convolution
    dwc_pwc   a 3x3 convolution per channel, then a 1x1 convolution

Every dense 3x3 convolution is replaced but that which reads the image; stride, padding, dilation and bias stay, and so
do the norm and the activation after it. `hetconv` also takes the place of a depthwise 3x3 convolution, its norm and
activation and the 1x1 convolution after them, where nothing else stands between (MobileNetV1 and V2, MnasNet, the
blocks of MobileNetV3 without squeeze-excite); the norm and activation after the 1x1 convolution stay.

Two things the figures of the paper do not settle, so they are choices of this code. Between the two convolutions of
`gwc_pwc` and `dwc_pwc` stand a batch norm (where the net has them) and a ReLU, as in MobileNetV1. A squeeze-excite
stands after the batch norm and before the activation, as in SE-ResNet; with it the first convolution gets one too if
it is 3x3, since 0.45 M multiply-adds for VGG-16 with reduction 8 are those of all its 13 convolutions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from typing import Any, Literal, get_args

from torch import nn

from edgecnn.errors import UsageError
from edgecnn.nets.hetconv import HetConv2d
from edgecnn.nets.layers import SqueezeExcitation, init_conv_nets
from edgecnn.nets.options import NetOption

Form = Literal["standard", "hetconv", "gwc_pwc", "dwc_pwc"]
IMAGE_CHANNELS = 3

TRANSFORM_OPTIONS = (
    NetOption("conv", str, "standard", "what 3x3 convolutions become; see `p` and `se`", get_args(Form)),
    NetOption("p", int, 4, "HetConv's P, or the groups of `gwc_pwc`; 0: P = M, one 3x3 kernel per filter", at_least=0),
    NetOption("se", int, 0, "reduction of a squeeze-excite after each replaced convolution; 0: none", at_least=0),
)
"""What every net takes beside its own options, unless one of its own has the same name."""


@dataclass(frozen=True)
class Site:
    """A place where a convolution is replaced.

    Args:
        parent: the module that holds the convolution whose channels come out.
        name: its name there.
        path: its name in the net.
        spatial: the convolution whose kernel, stride, padding and dilation count.
        outputs: the convolution whose output channels and bias count; `spatial` itself unless it is depthwise.
        dropped: holder and name of what stands before `outputs` and goes with it.
    """

    parent: nn.Module
    name: str
    path: str
    spatial: nn.Conv2d
    outputs: nn.Conv2d
    dropped: tuple[tuple[nn.Module, str], ...] = ()

    @property
    def channels(self) -> tuple[int, int]:
        """M and N."""
        return self.spatial.in_channels, self.outputs.out_channels

    @property
    def geometry(self) -> dict[str, int]:
        """Stride, padding and dilation, alike for rows and columns."""
        padding = self.spatial.padding[0]
        assert isinstance(padding, int)
        return {"stride": self.spatial.stride[0], "padding": padding, "dilation": self.spatial.dilation[0]}


def transform(net: nn.Module, *, conv: Form, p: int, se: int, where: str) -> None:
    """Replaces the convolutions of `net` in place; the new ones are drawn from torch's global generator.

    HetConv with P = 1 is the standard convolution, which stays as it is.

    Raises:
        UsageError: P does not divide the channels of a layer, or there is nothing to replace; `where` names the net.
    """
    if conv == "standard":
        return
    sites = list(_dense_sites(net))
    first = [s for s in sites if s.channels[0] == IMAGE_CHANNELS]
    sites = [s for s in sites if s.channels[0] != IMAGE_CHANNELS]
    if conv == "hetconv":
        sites += _separable_sites(net)
    if not sites:
        raise _nothing(net, conv, where)
    if conv != "dwc_pwc":
        _check_p(sites, p, conv, where)
    for site in sites:
        norm = _norm_after(site)
        if conv != "hetconv":
            groups = site.channels[0] if conv == "dwc_pwc" or p == 0 else p
            setattr(site.parent, site.name, _then_pointwise(site, groups, norm))
        elif p != 1 or site.dropped:
            layer = HetConv2d(*site.channels, p or gcd(*site.channels), bias=_has_bias(site), **site.geometry)
            setattr(site.parent, site.name, layer)
            for holder, name in site.dropped:
                setattr(holder, name, nn.Identity())
    if se:
        for site in first + sites:
            _squeeze(site, se)


def _dense_sites(net: nn.Module) -> Iterator[Site]:
    for parent, name, path in _places(net):
        conv = getattr(parent, name)
        if type(conv) is nn.Conv2d and conv.kernel_size == (3, 3) and conv.groups == 1:
            yield Site(parent, name, path, conv, conv)


def _places(module: nn.Module, prefix: str = "") -> Iterator[tuple[nn.Module, str, str]]:
    """Every module under its parent, in the order of registration; what a convolution holds belongs to it."""
    for name, child in module.named_children():
        yield module, name, prefix + name
        if not isinstance(child, nn.Conv2d):
            yield from _places(child, f"{prefix}{name}.")


def _separable_sites(net: nn.Module) -> Iterator[Site]:
    """Depthwise 3x3, any norm and activation, dense 1x1, one after the other in nested sequences."""
    for parent, name, path in [(net, "", ""), *_places(net)]:
        root = getattr(parent, name) if name else net
        inside_another = name and _is_sequence(parent)
        if not _is_sequence(root) or inside_another:
            continue
        chain = list(_chain(root, f"{path}." if path else ""))
        for start, (holder, name_in, _) in enumerate(chain):
            spatial = getattr(holder, name_in)
            if not _is_depthwise(spatial):
                continue
            stop = start + 1
            while stop < len(chain) and _is_norm_or_activation(getattr(*chain[stop][:2])):
                stop += 1
            if stop == len(chain):
                continue
            outputs = getattr(*chain[stop][:2])
            if type(outputs) is nn.Conv2d and outputs.kernel_size == (1, 1) and outputs.groups == 1:
                dropped = tuple((h, n) for h, n, _ in chain[start:stop])
                yield Site(*chain[stop], spatial, outputs, dropped)


def _chain(sequence: nn.Module, prefix: str) -> Iterator[tuple[nn.Module, str, str]]:
    """The modules that `sequence` calls, one after the other, those of sequences inside it in their place."""
    for name, child in sequence.named_children():
        if _is_sequence(child):
            yield from _chain(child, f"{prefix}{name}.")
        else:
            yield sequence, name, prefix + name


def _is_sequence(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _is_depthwise(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (3, 3)
        and module.groups == module.in_channels == module.out_channels
    )


def _is_norm_or_activation(module: nn.Module) -> bool:
    return isinstance(module, (nn.BatchNorm2d, nn.Identity)) or type(module).__module__ == nn.ReLU.__module__


def _has_bias(site: Site) -> bool:
    return site.outputs.bias is not None


def _norm_after(site: Site) -> nn.BatchNorm2d | None:
    """The batch norm that stands next to the convolution's output in its parent and has as many channels.

    Outside of sequences the order is that of registration, so what has no parameters may stand between: a pool that is
    called later.
    """
    names = list(dict(site.parent.named_children()))
    following = [getattr(site.parent, n) for n in names[names.index(site.name) + 1 :]]
    if not _is_sequence(site.parent):
        following = [m for m in following if next(m.parameters(), None) is not None]
    norm = following[0] if following else None
    return norm if isinstance(norm, nn.BatchNorm2d) and norm.num_features == site.channels[1] else None


def _then_pointwise(site: Site, groups: int, norm: nn.BatchNorm2d | None) -> nn.Sequential:
    """A 3x3 convolution in groups, norm and ReLU, and a 1x1 convolution."""
    inputs, outputs = site.channels
    geometry: dict[str, Any] = {**site.geometry}
    grouped = nn.Conv2d(inputs, inputs, 3, groups=groups, bias=norm is None, **geometry)
    layers: list[nn.Module] = [grouped]
    if norm is not None:
        layers.append(nn.BatchNorm2d(inputs, eps=norm.eps, momentum=norm.momentum))
    pair = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=_has_bias(site)))
    init_conv_nets(pair)
    return pair


def _squeeze(site: Site, reduction: int) -> None:
    channels = site.channels[1]
    gate = SqueezeExcitation(channels, max(1, channels // reduction))
    init_conv_nets(gate)
    norm = _norm_after(site)
    name = site.name if norm is None else next(n for n, m in site.parent.named_children() if m is norm)
    setattr(site.parent, name, nn.Sequential(getattr(site.parent, name), gate))


def _check_p(sites: list[Site], p: int, conv: Form, where: str) -> None:
    def counts(site: Site) -> tuple[int, ...]:
        return site.channels if conv == "hetconv" else site.channels[:1]

    for site in sites:
        if p and any(c % p for c in counts(site)):
            common = gcd(*(c for s in sites for c in counts(s)))
            raise UsageError(
                f"P = {p} does not divide the channels of `{site.path}`",
                where=where,
                expected="one of " + ", ".join(str(d) for d in range(1, common + 1) if common % d == 0),
                got="{} input and {} output channels".format(*site.channels),
                do="give such a P, or p=0 for as many as each layer's channels allow",
            )


def _nothing(net: nn.Module, conv: Form, where: str) -> UsageError:
    kinds = Counter(_kind(m) for m in net.modules() if isinstance(m, nn.Conv2d))
    wanted = "a dense 3x3 convolution that does not read the image"
    if conv == "hetconv":
        wanted += ", or a depthwise 3x3 one that a 1x1 one follows without squeeze-excite between"
    return UsageError(
        f"`conv={conv}` finds nothing to replace",
        where=where,
        expected=wanted,
        got=", ".join(f"{n} {kind}" for kind, n in kinds.items()),
    )


def _kind(conv: nn.Conv2d) -> str:
    size = "x".join(map(str, conv.kernel_size))
    if conv.in_channels == IMAGE_CHANNELS:
        return f"{size} on the image"
    if conv.groups == 1:
        return f"dense {size}"
    return f"depthwise {size}" if conv.groups == conv.in_channels else f"grouped {size}"
