"""Labels as the functions of a conditional model take them: in columns of 0 and 1, or numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

Result = TypeVar("Result")


class Labels:
    """Hands labels to functions, as class numbers to one that fails on their one-hot columns.

    Args:
        any_: Whether there may be labels, as in a conditional model.

    Attributes:
        numbered: Names of the functions that are given class numbers.
    """

    def __init__(self, any_: bool = True) -> None:
        self._any, self.numbered = any_, set[str]()

    @property
    def notes(self) -> list[str]:
        """Say which functions were given class numbers."""
        if not self.numbered:
            return []
        return [
            f"labels went to {' and '.join(sorted(self.numbered))} as class numbers, "
            "x.argmax(1): their one-hot columns were not taken"
        ]

    def given(self, name: str, function: Callable[[Tensor], Result], x: Tensor) -> Result:
        """Call a function of the condition x, (rows, ...); one named before as it was then.

        Example:
            >>> import torch
            >>> one_hot = torch.eye(3)[[2, 0]]
            >>> Labels().given("encode", torch.nn.Embedding(3, 5), one_hot).shape
            torch.Size([2, 5])
        """
        if name in self.numbered and is_one_hot(x):
            return function(x.argmax(1))
        try:
            return function(x)
        except Exception:
            if not (self._any and is_one_hot(x)):
                raise
            try:
                found = function(x.argmax(1))
            except Exception:  # it is something else that it does not take
                found = None
            if found is None:
                raise
            self.numbered.add(name)
            return found


def is_one_hot(x: Tensor) -> bool:
    """Whether each row has one 1 among zeros, as labels in columns have.

    Example:
        >>> import torch
        >>> is_one_hot(torch.eye(3)), is_one_hot(torch.ones(3, 2)), is_one_hot(torch.ones(3, 1))
        (True, False, False)
    """
    if x.ndim != 2 or x.shape[1] < 2:
        return False
    return bool((((x == 0) | (x == 1)).all(dim=1) & (x.sum(dim=1) == 1)).all())
