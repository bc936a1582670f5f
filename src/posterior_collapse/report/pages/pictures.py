"""Rows of images, and the data's modes, as one small PNG each inside the page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.arrays import Float, ImageShape
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.theory.spectrum import Modes

WIDEST = 64
"""Pixels of a side; larger pictures are thinned out."""
GAP = 1
"""Pixels between the pictures of a strip."""
MOST = 32
"""Modes on a page."""
LEAST_SHARE = 0.05
"""Of a mode's length, that a feature must have to be named."""
NAMED = 4
"""Features that stand for a mode."""
WIDEST_TABLE = 64
"""Features up to which they are told by number, where they have no names."""


def check_image_shape(shape: ImageShape, features: int) -> None:
    """Refuse a shape that is not that of so many features."""
    quarter = 3 * math.prod(size_of(shape)) // 4  # its targets: an image but its lower left quarter
    if features not in (math.prod(shape), quarter):
        raise InvalidArgumentError(
            "image_shape",
            f"{shape} for {features} features",
            "a shape with as many values as what is decoded",
            "Pass e.g. image_shape=(28, 28), or leave it out.",
        )


def strip(rows: NDArray[Any], shape: ImageShape, limits: tuple[float, float]) -> str:
    """Return images, (images, features), side by side as a data URI, grey or in their colours.

    Values at the limits are shown black and white.

    Example:
        >>> strip(np.zeros((3, 4)), (2, 2), (0.0, 1.0))[:22]
        'data:image/png;base64,'
    """
    images = [_thinned(_image(row, shape, np.nan)) for row in rows]
    low, high = limits
    gap = np.full((images[0].shape[0], GAP, images[0].shape[2]), np.nan)
    parts = [part for image in images for part in (image, gap)][:-1]
    joined = (np.concatenate(parts, axis=1) - low) / ((high - low) or 1.0)
    seen = np.clip(np.nan_to_num(joined, nan=0.0), 0.0, 1.0)
    if seen.shape[2] == 3:
        alpha = ~np.isnan(joined).any(axis=2)
        return png(np.dstack([seen, alpha]))
    return png(seen.mean(axis=2), cmap="gray", vmin=0.0, vmax=1.0)


def signed(pattern: NDArray[Any], shape: ImageShape) -> str:
    """Return a pattern as a data URI; grey is no change, signs are two colours."""
    # The sum of the channels shows where, and not in which colour.
    seen = _thinned(_image(pattern, shape, 0.0)).sum(axis=2)
    most = float(np.abs(seen).max()) or 1.0
    return png(seen, cmap="PuOr", vmin=-most, vmax=most)


def png(pixels: NDArray[Any], **how: Any) -> str:
    """Return pixels as a data URI; the same bytes from every version of the libraries."""
    from matplotlib.image import imsave

    content = io.BytesIO()
    unsigned: dict[str, Any] = {"Software": None}
    imsave(content, pixels, format="png", metadata=unsigned, pil_kwargs={"optimize": True}, **how)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def size_of(shape: ImageShape) -> tuple[int, int]:
    """Return the height and the width of an image, or refuse what is none."""
    if len(shape) == 2:
        return shape[0], shape[1]
    if len(shape) == 3 and min(shape[0], shape[2]) <= 4:
        return (shape[0], shape[1]) if shape[2] <= 4 else (shape[1], shape[2])
    raise InvalidArgumentError(
        "image_shape", shape, "(height, width), with up to 4 channels", "Leave it out."
    )


def _image(row: NDArray[Any], shape: ImageShape, nothing: float) -> NDArray[Any]:
    """A row as an image with its channels last; `nothing` where a task cut a quarter out."""
    if row.size == math.prod(shape):
        image = row.reshape(shape if len(shape) == 3 else (*shape, 1))
        return image if image.shape[:2] == size_of(shape) else np.moveaxis(image, 0, -1)
    height, width = size_of(shape)
    left, right, below = row.astype(float).reshape(3, height // 2, width // 2)
    upper, lower = np.hstack([left, right]), np.hstack([np.full_like(below, nothing), below])
    return np.vstack([upper, lower])[..., None]


def _thinned(image: NDArray[Any]) -> NDArray[Any]:
    step = math.ceil(max(image.shape[:2]) / WIDEST)
    return image[::step, ::step]


def thumbnails(modes: Modes, image_shape: ImageShape, count: int) -> list[str]:
    """Return the strongest modes of images as data URIs, at most 32; see `signed`."""
    check_image_shape(image_shape, modes.target_dim)
    return [signed(pattern, image_shape) for pattern in patterns(modes)[: min(count, MOST)]]


def strongest(
    modes: Modes, names: Sequence[str] | None, count: int
) -> list[list[tuple[str, float]]]:
    """Return the features that are strongest in each mode of a table, with what they weigh in it.

    Without names they are told by number, of wide tables not at all. There are at most 32 modes.
    """
    if names is None and modes.target_dim > WIDEST_TABLE:
        return []
    found = []
    for pattern in patterns(modes)[: min(count, MOST)]:
        shares = pattern / (float(np.linalg.norm(pattern)) or 1.0)
        order = np.argsort(-np.abs(shares), kind="stable")[:NAMED]
        told = [(feature_name(names, int(i)), float(f"{shares[i]:.2g}")) for i in order]
        found.append([(name, share) for name, share in told if abs(share) >= LEAST_SHARE])
    return found


def feature_name(names: Sequence[str] | None, index: int) -> str:
    """Return what a feature is called, or its number.

    Example:
        >>> feature_name(["age"], 0), feature_name(None, 0)
        ('age', 'feature 1')
    """
    if names is not None and index < len(names):
        return str(names[index])
    return f"feature {index + 1}"


def patterns(modes: Modes) -> Float:
    """Return the data's modes that have variance as they are seen, the strongest first."""
    found = modes.vectors.write[: np.count_nonzero(modes.theta)]
    if modes.noise is not None and modes.noise.divisor is not None:
        # From the data's own noise back to what would be seen.
        found = found * np.where(np.isfinite(modes.noise.divisor), modes.noise.divisor, 0.0)
    return found
