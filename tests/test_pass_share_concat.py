"""Concatenations start from earlier ones with the same first parts, along the same axis."""

from __future__ import annotations

from pass_laws import exact, rewritten

from edgecnn.passes.share_concat import share_concat


def shared(*ops: str) -> tuple[list[str], list[str]]:
    return rewritten(exact("graph g(x: [N,4,6,6]) {\n" + "\n".join(ops) + "\nreturn y\n}"), share_concat)


def test_a_dense_block_joins_each_new_part_to_what_is_joined_already() -> None:
    text, notes = shared(
        "a = conv(x, wa[2,4,1,1])",
        "xa = concat(x, a) axis=1",
        "b = conv(xa, wb[2,6,1,1])",
        "xab = concat(x, a, b) axis=1",
        "c = conv(xab, wc[2,8,1,1])",
        "y = concat(x, a, b, c) axis=1",
    )
    assert [line for line in text if "concat" in line] == [
        "xa = concat(x, a) axis=1",
        "xab = concat(xa, b) axis=1",
        "y = concat(xab, c) axis=1",
    ]
    assert notes == ["share_concat: xab (starts from `xa`)", "share_concat: y (starts from `xab`)"]


def test_other_parts_another_order_and_another_axis_share_nothing() -> None:
    _, notes = shared(
        "a = clip(x) lo=0.0 hi=None",
        "b = clip(x) lo=None hi=1.0",
        "ab = concat(a, b) axis=2",
        "abx = concat(a, b, x) axis=1",
        "bax = concat(b, a, x) axis=1",
        "j = concat(abx, bax) axis=1",
        "z = concat(ab, x) axis=2",
        "w = conv(j, wj[4,24,1,1])",
        "y = concat(z, w) axis=2",
    )
    assert notes == []
