"""Conditional tasks cut out of images: one part is given, the rest is the target."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.data.dataset import Dataset
from posterior_collapse.errors import DataError

__all__ = ["TASKS", "half", "quarter"]


def quarter(dataset: Dataset) -> Dataset:
    """Give the bottom-left quarter of each image (x) and ask for the other three (y).

    y holds the top-left, the top-right and the bottom-right quarter, each flattened row by row,
    in that order: 196 and 588 numbers for images of 28 x 28.

    Source: the conditional experiments of Dang et al. 2024 (arXiv:2306.05023).

    Raises:
        DataError: No images, colour images, an odd height or width, or a task was cut before.

    Example:
        >>> image = np.arange(16.0).reshape(1, 16)
        >>> cut = quarter(Dataset("toy", image, image_shape=(4, 4)))
        >>> cut.x
        array([[ 8.,  9., 12., 13.]])
        >>> cut.y
        array([[ 0.,  1.,  4.,  5.,  2.,  3.,  6.,  7., 10., 11., 14., 15.]])
    """
    images, h, w = _images(dataset, "quarter", even_width=True)
    x = _flat(images[:, h:, :w])
    parts = (images[:, :h, :w], images[:, :h, w:], images[:, h:, w:])
    y = np.concatenate([_flat(part) for part in parts], axis=1)
    return replace(dataset, x=x, y=y, task="quarter", steps=(*dataset.steps, "quarter task"))


def half(dataset: Dataset) -> Dataset:
    """Give the top half of each image (x) and ask for the bottom half (y).

    Raises:
        DataError: No images, colour images, an odd height, or a task was cut before.

    Example:
        >>> cut = half(Dataset("toy", np.arange(4.0).reshape(1, 4), image_shape=(2, 2)))
        >>> cut.x, cut.y
        (array([[0., 1.]]), array([[2., 3.]]))
    """
    images, h, _ = _images(dataset, "half", even_width=False)
    x, y = _flat(images[:, :h]), _flat(images[:, h:])
    return replace(dataset, x=x, y=y, task="half", steps=(*dataset.steps, "half task"))


TASKS = {"quarter": quarter, "half": half}


def _flat(images: NDArray[Any]) -> NDArray[Any]:
    return images.reshape(len(images), -1)


def _without_channel(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return (height, width) where the one channel stands first or last."""
    if len(shape) == 3 and 1 in (shape[0], shape[2]):
        return shape[1:] if shape[0] == 1 else shape[:2]
    return shape


def _images(dataset: Dataset, task: str, *, even_width: bool) -> tuple[NDArray[Any], int, int]:
    """Return the images, shape (samples, height, width), and half their height and width."""
    if dataset.y is not None:
        raise DataError(
            dataset.name, "data with a target already", "images alone", f"Leave task={task!r} away."
        )
    if dataset.image_shape is None:
        raise DataError(
            dataset.name,
            "samples of no image shape",
            f"images to cut for the {task} task",
            "Pass an array of shape (samples, height, width).",
        )
    shape = _without_channel(dataset.image_shape)
    odd = len(shape) != 2 or shape[0] % 2 or (even_width and shape[1] % 2)
    if odd:
        sides = "an even height and width" if even_width else "an even height"
        raise DataError(
            dataset.name,
            f"images of shape {dataset.image_shape}",
            f"one channel with {sides} for the {task} task",
            "Crop or pad the images.",
        )
    height, width = shape
    return dataset.x.reshape(-1, height, width), height // 2, width // 2
