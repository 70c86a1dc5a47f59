"""Where the recipes and the calibration profiles lie: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgecnn.errors import EnvironmentFailure

_PACKAGE = Path(__file__).resolve().parent.parent


def shipped(kind: Literal["recipes", "calibration"]) -> Path:
    """The folder of the files of this `kind` that come with edgecnn.

    Raises:
        EnvironmentFailure: the installation lacks them.
    """
    # The wheel's copy comes first: a folder that happens to be called `recipes` may lie beside an installed package.
    places = (_PACKAGE / "_shipped" / kind, _PACKAGE.parent / kind)
    for place in places:
        if place.is_dir():
            return place
    raise EnvironmentFailure(
        f"this installation of edgecnn has no `{kind}` folder",
        expected=" or ".join(str(place) for place in places),
        do="install edgecnn again: python -m pip install --force-reinstall edgecnn",
    )
