"""Checks of the options that the verbs of this room share."""

from __future__ import annotations

from posterior_collapse import checks
from posterior_collapse.errors import InvalidArgumentError

__all__ = ["collapse_options", "whole"]


def whole(name: str, value: object, least: int) -> int:
    """Return a whole number of at least `least`.

    Raises:
        InvalidArgumentError: It is none.

    Example:
        >>> whole("seed", 0.5, least=0)
        Traceback (most recent call last):
        posterior_collapse.errors.InvalidArgumentError: seed: got 0.5; expected a whole number ...
    """
    try:
        number = int(value)  # type: ignore[call-overload]
        fits = not isinstance(value, (bool, str)) and number == value and number >= least
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise InvalidArgumentError(
            name, repr(value), f"a whole number of at least {least}", f"Pass {name}={least}."
        )
    return int(number)


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
