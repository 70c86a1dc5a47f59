"""Import rules of pools, padding and concatenation; see `ir.aten`."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from edgecnn.ir.aten import pair, rule, sides
from edgecnn.ir.import_site import Const, Entry, Moved, Site

MOST_BRANCHES = 8
"""A sum over an axis becomes one op less than the axis is long; split attention and selective kernels have 2 to 4."""


def _ceil_rest(size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """Extra padding at the end that makes the floor rule give PyTorch's ceil-mode size.

    Source: torch/aten/src/ATen/native/Pool.h, `pooling_output_shape_pad_lr`: a window that would begin in the padding
    after the input is dropped.
    """
    reach = dilation * (kernel - 1) + 1
    out = -(-(size + 2 * pad - reach) // stride) + 1
    if (out - 1) * stride >= size + pad:
        out -= 1
    return max(0, (out - 1) * stride + reach - (size + 2 * pad))


def _pool_windows(
    at: Site, name: str, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
    if len(at.shape(name)) != 4:
        raise at.refuse("pools something that is not (N, C, H, W)")
    kernel = pair(kernel)
    stride = pair(stride) if stride not in (None, [], ()) else kernel
    top, bottom, left, right = sides(padding)
    if ceil:
        (kh, kw), (sh, sw), (dh, dw) = kernel, stride, pair(dilation)
        bottom += _ceil_rest(at.shape(name)[2], kh, sh, top, dh)
        right += _ceil_rest(at.shape(name)[3], kw, sw, left, dw)
    return kernel, stride, (top, bottom, left, right)


@rule("max_pool2d", "max_pool2d_with_indices")
def _max_pool(at: Site, x: Entry, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> str:
    name = at.act(x)
    kernel, stride, pad = _pool_windows(at, name, kernel, stride, padding, dilation, ceil)
    return at.emit("max_pool", name, kernel=kernel, stride=stride, pad=pad, dilation=pair(dilation))


@rule("avg_pool2d")
def _avg_pool(
    at: Site, x: Entry, kernel: Any, stride: Any, padding: Any, ceil: bool, count_include_pad: bool, divisor: int | None
) -> str:
    if divisor is not None:
        raise at.refuse("has its own divisor", do="leave out divisor_override, and multiply by a number after the pool")
    name = at.act(x)
    kernel, stride, pad = _pool_windows(at, name, kernel, stride, padding, 1, ceil)
    counted = sides(padding) if count_include_pad else (0, 0, 0, 0)
    return at.emit("avg_pool", name, kernel=kernel, stride=stride, pad=pad, counted=counted)


@rule("adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d")
def _adaptive_pool(at: Site, x: Entry, output: Any) -> Entry:
    name = at.act(x)
    average = "avg" in at.target
    size, want = at.shape(name)[2:], pair(output)
    if want == size:
        return name
    if want == (1, 1) and average:
        return at.emit("global_pool", name)
    kind = "avg_pool" if average else "max_pool"
    windows = [_even_windows(s, w) for s, w in zip(size, want, strict=True)]
    even = [w for w in windows if w is not None]
    if len(even) == 2:
        kernel, stride = zip(*even, strict=True)
        return at.emit(kind, name, kernel=kernel, stride=stride)
    for axis, count in zip((2, 3), want, strict=True):
        if at.shape(name)[axis] != count:
            name = _pooled_along(at, kind, name, axis, count)
    return name


def _pooled_along(at: Site, kind: str, name: str, axis: int, count: int) -> str:
    """Adaptive windows along one axis, each cut out and pooled; windows of one pixel are only cut out."""
    size = at.shape(name)[axis]
    parts = []
    for i in range(count):
        start, stop = i * size // count, -(-(i + 1) * size // count)
        whole = (start, stop) == (0, size)
        part = name if whole else at.emit("slice", name, axis=axis, start=start, stop=stop)
        kernel = (stop - start, 1) if axis == 2 else (1, stop - start)
        parts.append(part if stop - start == 1 else at.emit(kind, part, kernel=kernel, stride=kernel))
    return parts[0] if len(parts) == 1 else at.emit("concat", *parts, axis=axis)


def _even_windows(size: int, count: int) -> tuple[int, int] | None:
    """Kernel and stride of PyTorch's `count` adaptive windows over `size`; None if they are not evenly spaced alike.

    Window i reaches from i * size / count, rounded down, to (i + 1) * size / count, rounded up. 14 to 7 are windows of
    two side by side; 8 to 7, as in VGG on 256x256 images, windows of two that overlap.
    """
    starts = [i * size // count for i in range(count)]
    lengths = {-(-(i + 1) * size // count) - start for i, start in enumerate(starts)}
    steps = {b - a for a, b in pairwise(starts)} or lengths
    if len(lengths) > 1 or len(steps) > 1 or 0 in steps:
        return None
    return min(lengths), min(steps)


@rule("upsample_nearest2d", "_upsample_nearest_exact2d")
def _upsample(at: Site, x: Entry, *_: Any) -> Entry:
    name = at.act(x)
    size, want = at.shape(name)[2:], tuple(int(d) for d in at.node.meta["val"].shape[2:])
    if any(w % s for s, w in zip(size, want, strict=True)):
        raise at.refuse(
            f"resizes {size[0]}x{size[1]} to {want[0]}x{want[1]}, which is no multiple",
            do="choose an input size at which every pixel is repeated a whole number of times",
        )
    return name if want == size else at.emit("upsample", name, factor=(want[0] // size[0], want[1] // size[1]))


@rule("mean")
def _mean(at: Site, x: Entry, axes: Any = None, keepdim: bool = False, *_: Any) -> Entry:
    axes = [axes] if isinstance(axes, int) else axes or []
    rank = len(at.node.args[0].meta["val"].shape)  # type: ignore[union-attr]
    spatial = {at.axis(a, rank) for a in axes}
    if not spatial or not spatial <= {2, 3} or rank not in (3, 4):
        raise at.refuse("is a mean over other axes than H and W", do="use x.mean((2, 3))")
    if spatial == {2, 3}:
        return at.emit("global_pool", at.act(x), keepdims=bool(keepdim))
    # x.mean(3).mean(2), the spelling of older nets: a pool along one axis each. The second mean sees (N, C, H).
    view = x if isinstance(x, Moved) else Moved(at.act(x))
    name = at.act(view.then(lambda t: t.unsqueeze(3), at) if rank == 3 else view)
    height, width = at.shape(name)[2:]
    kernel = (height, 1) if spatial == {2} else (1, width)
    pooled = Moved(at.emit("avg_pool", name, kernel=kernel, stride=kernel))
    if rank == 3:
        pooled = pooled.then(lambda t: t.squeeze(3), at)
    return pooled if keepdim else pooled.then(lambda t: t.squeeze(*spatial), at)


@rule("cat", "concat", "concatenate")
def _cat(at: Site, parts: list[Entry], axis: int = 0) -> str:
    if any(isinstance(p, Const) for p in parts):
        raise at.refuse(
            "joins a constant, such as a class token, to an activation",
            do="join activations only; a class token can be replaced by the mean x.mean((2, 3))",
        )
    names = [at.act(p) for p in parts]
    return at.emit("concat", *names, axis=at.axis(axis, len(at.shape(names[0]))))


@rule("stack")
def _stack(at: Site, parts: list[Entry], axis: int = 0) -> str:
    rank = len(at.node.meta["val"].shape)
    axis = at.axis(axis, rank)
    views = [p if isinstance(p, (Moved, Const)) else Moved(at.act(p)) for p in parts]
    return str(_cat(at, [v.then(lambda t: t.unsqueeze(axis), at) if isinstance(v, Moved) else v for v in views], axis))


@rule("sum")
def _sum(at: Site, x: Entry, axes: Any = None, keepdim: bool = False, *_: Any) -> Entry:
    """A sum over few branches that lie along one axis; each is cut out and added."""
    shape = at.node.args[0].meta["val"].shape  # type: ignore[union-attr]
    given = [axes] if isinstance(axes, int) else list(axes or [])
    if len(given) != 1 or not 1 < shape[at.axis(given[0], len(shape))] <= MOST_BRANCHES:
        raise at.refuse(
            f"sums over something else than one axis of 2 to {MOST_BRANCHES} branches",
            do="use x.mean((2, 3)) for a sum over the image, a 1x1 convolution for one over the channels",
        )
    axis = at.axis(given[0], len(shape))
    view = x if isinstance(x, Moved) else Moved(at.act(x))

    def branch(index: int) -> str:
        part = view.then(lambda t: t.narrow(axis, index, 1), at)
        return at.act(part if keepdim else part.then(lambda t: t.squeeze(axis), at))

    total = branch(0)
    for index in range(1, shape[axis]):
        total = at.emit("add", total, branch(index))
    return total


@rule("constant_pad_nd", "pad")
def _pad(at: Site, x: Entry, sides: list[int], *how: Any) -> Entry:
    mode = next((h for h in how if isinstance(h, str)), "constant")
    value = next((h for h in how if isinstance(h, (int, float))), 0.0)
    if mode != "constant":
        raise at.refuse(f"pads in the mode `{mode}`", do="pad with a constant")
    name = at.act(x)
    rank = len(at.shape(name))
    if rank != 4 or len(sides) > 6:
        raise at.refuse("pads something that is not (N, C, H, W), or its batch")
    left, right, top, bottom, front, back = (*sides, *(0,) * (6 - len(sides)))
    for axis, (before, after) in {2: (top, bottom), 3: (left, right)}.items():
        if min(before, after) < 0:  # a negative padding cuts away
            size = at.shape(name)[axis]
            name = at.emit("slice", name, axis=axis, start=max(-before, 0), stop=size - max(-after, 0))
    around = tuple(max(p, 0) for p in (top, bottom, left, right))
    if any(around):
        name = at.emit("pad", name, pad=around, value=float(value))
    return _pad_channels(at, name, front, back, value) if front or back else name


def _pad_channels(at: Site, name: str, front: int, back: int, value: float) -> str:
    """New channels in front and behind, made of existing ones times zero (the graph has no constant activations)."""
    channels = at.shape(name)[1]
    if min(front, back) < 0 or max(front, back) > channels or value != 0:
        raise at.refuse("pads channels by a number, by more than there are, or takes some away")
    made: dict[int, str] = {}
    for count in {front, back} - {0}:
        some = name if count == channels else at.emit("slice", name, axis=1, start=0, stop=count)
        made[count] = at.emit("mul", some, at.number(0.0, 4))
    parts = [made[front]] if front else []
    return at.emit("concat", *parts, name, *([made[back]] if back else []), axis=1)
