"""The data's modes as small pictures: which pattern a unit would carry."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np

from posterior_collapse.arrays import Float, ImageShape
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.theory.spectrum import Modes

__all__ = ["thumbnails"]

MOST = 32
"""Pictures on a page."""
WIDEST = 64
"""Pixels of a side; larger pictures are thinned out."""


def thumbnails(modes: Modes, image_shape: ImageShape, count: int) -> list[str]:
    """Return the strongest modes as data URIs of PNGs; grey is no change, signs are two colours.

    Args:
        modes: Of images.
        image_shape: (height, width), with the channels first or last where there are any.
        count: How many, at most 32.

    Raises:
        InvalidArgumentError: The shape is not that of the features.
    """
    height_width = _without_channels(image_shape)
    if math.prod(image_shape) != modes.target_dim:
        raise InvalidArgumentError(
            "image_shape",
            f"{image_shape} for {modes.target_dim} features",
            "a shape with as many values as what is decoded",
            "Pass e.g. image_shape=(28, 28), or leave it out.",
        )
    patterns = modes.vectors.write[: min(count, MOST, np.count_nonzero(modes.theta))]
    if modes.noise is not None and modes.noise.divisor is not None:
        # From the data's own noise back to what would be seen.
        patterns = patterns * np.where(np.isfinite(modes.noise.divisor), modes.noise.divisor, 0.0)
    return [_png(_flat(pattern.reshape(image_shape), height_width)) for pattern in patterns]


def _without_channels(shape: ImageShape) -> tuple[int, int]:
    if len(shape) == 2:
        return shape[0], shape[1]
    if len(shape) == 3 and min(shape[0], shape[2]) <= 4:
        return (shape[0], shape[1]) if shape[2] <= 4 else (shape[1], shape[2])
    raise InvalidArgumentError(
        "image_shape", shape, "(height, width), with up to 4 channels", "Leave it out."
    )


def _flat(pattern: Float, height_width: tuple[int, int]) -> Float:
    """One channel: the sum of them, which shows where and not in which colour."""
    if pattern.ndim == 3:
        pattern = pattern.sum(axis=2 if pattern.shape[:2] == height_width else 0)
    step = math.ceil(max(height_width) / WIDEST)
    return pattern[::step, ::step]


def _png(pattern: Float) -> str:
    from matplotlib.image import imsave

    most = float(np.abs(pattern).max()) or 1.0
    content = io.BytesIO()
    unsigned: dict[str, Any] = {"Software": None}  # the same bytes from every version
    imsave(
        content,
        pattern,
        cmap="PuOr",
        vmin=-most,
        vmax=most,
        format="png",
        metadata=unsigned,
        pil_kwargs={"optimize": True},
    )
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
