"""Checks of the options that the verbs of this room share."""

from __future__ import annotations

from posterior_collapse import checks
from posterior_collapse.errors import InvalidArgumentError

__all__ = ["collapse_options"]


def collapse_options(epsilon: object, delta: object) -> dict[str, float]:
    """Return eps and delta of (eps, delta)-collapse by name.

    Raises:
        InvalidArgumentError: eps is not positive, or delta not between 0 and 1.
    """
    number = checks.positive("delta", delta)
    if number >= 1:
        raise InvalidArgumentError(
            "delta", number, "a share of the rows, below 1", "Pass delta=0.05."
        )
    return {"epsilon": checks.positive("epsilon", epsilon), "delta": number}
