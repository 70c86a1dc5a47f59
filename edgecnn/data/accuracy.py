"""Counting right answers, the same way for a module, a graph and an artifact."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecnn.errors import CheckFailed, InputError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Accuracy:
    """The share of images whose class was ranked first, or among the first five.

    Units: `top1` and `top5` in percent; `n` counts images.
    """

    top1: float
    top5: float
    n: int


def score(answers: Iterable[tuple[Array, Array | None]]) -> Accuracy:
    """The accuracy over batches of (logits, labels).

    Among equal logits, frequent in int8, the lower class number ranks first, as `argmax` has it.

    Shapes:
        Logits (N, classes), of any numeric type; labels (N,).

    Raises:
        CheckFailed: a logit is NaN or infinite.
        InputError: there are no labels, no images, or a label the net has no class for.
    """
    right1 = right5 = n = 0
    for logits, labels in answers:
        if labels is None:
            raise InputError("accuracy needs labels", do="use a folder with one subfolder per class")
        if np.issubdtype(logits.dtype, np.floating) and not np.isfinite(logits).all():
            raise CheckFailed(
                "the net's answer is not finite", got=f"{int((~np.isfinite(logits)).sum())} NaN or infinite logits"
            )
        if labels.size and int(labels.max()) >= logits.shape[1]:
            raise InputError(
                "the data have more classes than the net",
                expected=f"labels below {logits.shape[1]}",
                got=f"label {int(labels.max())}",
                do="evaluate on the data the net was trained for",
            )
        # Negation would overflow at -128, so integers are widened first.
        ranked = np.argsort(-logits.astype(np.float64), axis=1, kind="stable")[:, :5]
        hits = ranked == labels[:, None]
        right1 += int(hits[:, 0].sum())
        right5 += int(hits.any(axis=1).sum())
        n += len(labels)
    if n == 0:
        raise InputError("no images to evaluate")
    return Accuracy(100 * right1 / n, 100 * right5 / n, n)
