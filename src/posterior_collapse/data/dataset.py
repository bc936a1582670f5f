"""The one result type of this room: samples in rows, and in words what was done to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from posterior_collapse import checks
from posterior_collapse.errors import DataError

__all__ = ["Dataset"]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Samples in rows, with targets and labels where there are any.

    Args:
        name: The registry name, the file name, or ``"array"``.
        x: Inputs, shape (samples, d_x), any real dtype; the condition where there is a target.
        y: Targets, shape (samples, d_y); None means y = x, an autoencoder.
        labels: The class of each sample, shape (samples,).
        image_shape: Shape of one whole image, before a task cut it; None if not images.
        task: The cut that made x and y out of images: ``"quarter"``, ``"half"`` or None.
        steps: What was done to the numbers, in order, in words.

    Example:
        >>> Dataset("toy", np.zeros((4, 2)), labels=np.array([0, 1, 0, 1]))
        <Dataset 'toy': 4 x 2 float64, used as they are; labels 0, 1>
    """

    name: str
    x: NDArray[Any]
    y: NDArray[Any] | None = None
    labels: NDArray[Any] | None = None
    image_shape: tuple[int, ...] | None = None
    task: Literal["quarter", "half"] | None = None
    steps: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """The size of the numbers and what was done to them, in one line.

        Example:
            >>> Dataset("toy", np.zeros((4, 2)), steps=("pixels divided by 16",)).note
            '4 x 2 float64, pixels divided by 16'
        """
        size = _size(self.x)
        if self.y is not None:
            size = f"x {size}, y {_size(self.y)}"
        return ", ".join([size, *(self.steps or ("used as they are",))])

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        parts = [self.note]
        if self.labels is not None:
            parts.append(f"labels {_listing(np.unique(self.labels))}")
        if self.image_shape is not None:
            parts.append(f"images {' x '.join(map(str, self.image_shape))}")
        return f"<Dataset {self.name!r}: {'; '.join(parts)}>"

    def select(self, label: object) -> Dataset:
        """Return the samples of one class.

        Args:
            label: The class, as it stands in ``labels``; its text form works too.

        Raises:
            DataError: There are no labels, or no sample has this one.

        Example:
            >>> Dataset("toy", np.eye(3), labels=np.array([0, 1, 1])).select(1)
            <Dataset 'toy': 2 x 3 float64, label 1 only; labels 1>
        """
        if self.labels is None:
            raise DataError(
                "label", repr(label), f"labels in {self.name!r}", "Leave the label away."
            )
        keep = _equal(self.labels, label)
        if not keep.any():
            present = _listing(np.unique(self.labels))
            raise DataError("label", repr(label), f"one of {present}", "Pass a label that occurs.")
        return replace(
            self,
            x=self.x[keep],
            y=None if self.y is None else self.y[keep],
            labels=self.labels[keep],
            steps=(*self.steps, f"label {label} only"),
        )

    def scaled(self, factor: float) -> Dataset:
        """Return all numbers times ``factor``; integers of 8 or 16 bits become float32.

        Raises:
            InvalidArgumentError: The factor is not a positive number.

        Example:
            >>> Dataset("toy", np.full((2, 2), 255, np.uint8)).scaled(0.5)
            <Dataset 'toy': 2 x 2 float32, multiplied by 0.5>
        """
        number = checks.positive("scale", factor)
        return self._mapped(np.multiply, number, f"multiplied by {number:g}")

    def divided(self, divisor: float) -> Dataset:
        """Return images whose pixels are divided by ``divisor``, the largest pixel value.

        Example:
            >>> Dataset("toy", np.full((2, 2), 255, np.uint8)).divided(255)
            <Dataset 'toy': 2 x 2 float32, pixels divided by 255>
        """
        return self._mapped(np.divide, divisor, f"pixels divided by {divisor:g}")

    def _mapped(self, operation: np.ufunc, number: float, step: str) -> Dataset:
        def apply(values: NDArray[Any]) -> NDArray[Any]:
            dtype = np.result_type(values.dtype, np.float32)
            result: NDArray[Any] = operation(values, dtype.type(number), dtype=dtype)
            return result

        y = None if self.y is None else apply(self.y)
        return replace(self, x=apply(self.x), y=y, steps=(*self.steps, step))


def _equal(labels: NDArray[Any], label: object) -> NDArray[np.bool_]:
    try:
        numbers = labels.astype(float)
        keep: NDArray[np.bool_] = numbers == float(str(label))
    except ValueError:
        keep = labels.astype(str) == str(label)
    return keep


def _size(values: NDArray[Any]) -> str:
    return f"{len(values):,} x {values.shape[1]:,} {values.dtype}"


def _listing(values: NDArray[Any], most: int = 12) -> str:
    shown = ", ".join(str(value) for value in values[:most])
    return shown if len(values) <= most else f"{shown}, ... ({len(values)} in all)"
