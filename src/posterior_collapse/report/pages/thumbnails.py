"""The data's modes as small pictures: which pattern a unit would carry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from posterior_collapse.arrays import Float, ImageShape
from posterior_collapse.report.pages.pictures import check_image_shape, signed
from posterior_collapse.theory.spectrum import Modes

__all__ = ["feature_name", "patterns", "strongest", "thumbnails"]

MOST = 32
"""Pictures on a page."""
LEAST_SHARE = 0.05
"""Of a mode's length, that a feature must have to be named."""
NAMED = 4
"""Features that stand for a mode."""
WIDEST_TABLE = 64
"""Features up to which they are told by number, where they have no names."""


def thumbnails(modes: Modes, image_shape: ImageShape, count: int) -> list[str]:
    """Return the strongest modes as data URIs of PNGs; grey is no change, signs are two colours.

    Args:
        modes: Of images.
        image_shape: (height, width), with the channels first or last where there are any.
        count: How many, at most 32.

    Raises:
        InvalidArgumentError: The shape is not that of the features.
    """
    check_image_shape(image_shape, modes.target_dim)
    return [signed(pattern, image_shape) for pattern in patterns(modes)[: min(count, MOST)]]


def strongest(
    modes: Modes, names: Sequence[str] | None, count: int
) -> list[list[tuple[str, float]]]:
    """Return the features that are strongest in each mode, with what they weigh in it.

    Args:
        modes: Of a table.
        names: Of its features; None: they are told by number, of wide tables not at all.
        count: How many modes, at most 32.
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
    known = names is not None and index < len(names)
    return str(names[index]) if known and names is not None else f"feature {index + 1}"


def patterns(modes: Modes) -> Float:
    """Return the data's modes as they are seen, the strongest first, (modes, features).

    Args:
        modes: Those without variance are left out.
    """
    found = modes.vectors.write[: np.count_nonzero(modes.theta)]
    if modes.noise is not None and modes.noise.divisor is not None:
        # From the data's own noise back to what would be seen.
        found = found * np.where(np.isfinite(modes.noise.divisor), modes.noise.divisor, 0.0)
    return found
