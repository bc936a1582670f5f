"""The data's modes as small pictures: which pattern a unit would carry."""

from __future__ import annotations

import numpy as np

from posterior_collapse.arrays import Float, ImageShape
from posterior_collapse.report.pages.pictures import check_image_shape, signed
from posterior_collapse.theory.spectrum import Modes

__all__ = ["patterns", "thumbnails"]

MOST = 32
"""Pictures on a page."""


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
