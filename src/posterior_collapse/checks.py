"""Checks that turn a hyperparameter into its plain, valid form or say what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Literal, TypeAlias, get_args

from posterior_collapse.errors import InvalidArgumentError, count_of, nearest

Sigma: TypeAlias = float | tuple[float, ...] | Literal["learned", "shared", "input"]
"""Posterior std of a level: one float, one per unit, or learned: per unit, as one shared scalar,
or as a function of the input (whose linear optimum is the per-unit one)."""
EtaDec: TypeAlias = float | Literal["learned"]
"""Decoder std: a float, or learned with the model."""
Likelihood: TypeAlias = Literal[
    "gaussian", "bernoulli", "categorical", "poisson", "negative-binomial", "other"
]
"""Law of the data given the latents; "other" is a loss that is none of the rest."""
Dispersion: TypeAlias = float | Literal["learned"]
"""r of a negative binomial, whose variance is `m + m^2 / r`; "learned": one for each feature."""

LEAST, MOST = 1e-50, 1e50
"""Bounds of positive hyperparameters, so that their products stay within floats."""
MOST_UNITS = 1_000_000
"""Units per level beyond which an entry is a slip of the keyboard, not a model."""
LONGEST_NAME = 255
"""Bytes that file systems allow in the name of a file."""

LEARNED_SIGMAS = ("learned", "shared", "input")


def _example(name: str, value: object) -> str:
    # One of several values (see `level`) is no argument that could be passed by its name.
    return f"Pass e.g. {value} instead." if " of " in name else f"Pass e.g. {name}={value}."


def _is_flag(value: object) -> bool:
    # NumPy's too: as a number it would count as 0 or 1, without an error.
    return isinstance(value, bool) or (
        getattr(getattr(value, "dtype", None), "kind", "") == "b" and getattr(value, "ndim", 0) == 0
    )


def positive(name: str, value: object) -> float:
    expected, action = "a positive, finite number", _example(name, "1.0")
    try:
        if isinstance(value, (str, bytes)) or _is_flag(value):
            raise TypeError
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        shown = repr(value) if len(repr(value)) < 40 else f"a {type(value).__name__} beyond floats"
        raise InvalidArgumentError(name, shown, expected, action) from None
    if not (math.isfinite(number) and number > 0):
        raise InvalidArgumentError(name, number, expected, action)
    if not LEAST <= number <= MOST:
        raise InvalidArgumentError(
            name, number, f"a number from {LEAST:g} to {MOST:g}", "Measure the data in other units."
        )
    return number


def rate(name: str, value: Any, example: float) -> float:
    try:
        fits = not (isinstance(value, str) or _is_flag(value)) and bool(0 <= value < 1)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise InvalidArgumentError(name, repr(value), "a number in [0, 1)", _example(name, example))
    return float(value)


def flag(name: str, value: Any) -> bool:
    if not (_is_flag(value) or (isinstance(value, int) and value in (0, 1))):
        raise InvalidArgumentError(name, repr(value), "True or False", f"Pass {name}=True.")
    return bool(value)


def whole(
    name: str, value: object, least: int, expected: str | None = None, example: int | None = None
) -> int:
    try:
        number = int(value)  # type: ignore[call-overload]
        wrong = isinstance(value, str) or _is_flag(value)
        fits = not wrong and number == value and number >= least
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        expected = expected or f"a whole number of at least {least}"
        raise InvalidArgumentError(name, repr(value), expected, _example(name, example or least))
    return int(number)


def count(name: str, value: object) -> int:
    return whole(name, value, 1, "a whole number of units, at least 1", example=8)


def units(name: str, value: object) -> int:
    number = count(name, value)
    if number > MOST_UNITS:
        raise InvalidArgumentError(name, number, f"at most {MOST_UNITS:,} units", _example(name, 8))
    return number


def sequence(name: str, value: Any, length: int | None, what: str) -> tuple[Any, ...]:
    if getattr(value, "ndim", 0) == 1:
        value = value.tolist()
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        shown = repr(value) if len(repr(value)) < 80 else f"a {type(value).__name__}"
        raise InvalidArgumentError(name, shown, f"a sequence: {what}", f"Pass a list for {name}.")
    if length is not None and len(value) != length:
        raise InvalidArgumentError(
            name,
            count_of(len(value), "value"),
            f"{length}: {what}",
            f"Pass {count_of(length, 'value')} for {name}.",
        )
    return tuple(value)


def each(
    name: str, value: object, length: int | None, what: str, check: Callable[[str, object], Any]
) -> tuple[Any, ...]:
    values = sequence(name, value, length, what)
    return tuple(check(level(name, i), v) for i, v in enumerate(values, 1))


def level(name: str, number: int) -> str:
    """What to call one of several values: levels, units and layers count from 1.

    Example:
        >>> level("betas", 2), level("sigma", 3)
        ('beta_2', 'sigma of unit 3')
    """
    if name in ("betas", "eta_decs", "sigmas", "latent_dims"):
        return f"{name.removesuffix('s')}_{number}"
    return f"{name} of {'unit' if name.startswith('sigma') else 'layer'} {number}"


def one_of(name: str, value: object, known: Sequence[str], action: str = "Choose one.") -> None:
    if not isinstance(value, str) or value not in known:
        hint = nearest(str(value), known)
        raise InvalidArgumentError(
            name, repr(value), f"one of {', '.join(known)}", f"{action}{hint}"
        )


def or_learned(name: str, value: object) -> float | Literal["learned"]:
    if isinstance(value, str):
        if value == "learned":
            return "learned"
        raise InvalidArgumentError(
            name, repr(value), "a positive number or 'learned'", f"Pass {name}='learned'."
        )
    return positive(name, value)


def sigma(name: str, value: object, dim: int) -> Sigma:
    if isinstance(value, str):
        if value in LEARNED_SIGMAS:
            return str(value)  # type: ignore[return-value]
        raise InvalidArgumentError(
            name,
            repr(value),
            "a positive number, one per unit, or 'learned', 'shared' or 'input'",
            f"Pass {name}='learned'.{nearest(value, LEARNED_SIGMAS)}",
        )
    if hasattr(value, "__len__") and getattr(value, "ndim", 1) > 0:
        values = sequence(name, value, dim, "one std per latent unit")
        return tuple(positive(level(name, i), v) for i, v in enumerate(values, 1))
    return positive(name, value)


def file_name(name: str, value: object) -> str:
    # Whatever becomes a file's or folder's name may come from a file that somebody else wrote.
    plain = (
        isinstance(value, str)
        and value not in ("", ".", "..")
        and value.isprintable()
        and not set(value) & set("/\\:")
        and len(value.encode()) <= LONGEST_NAME
    )
    if not plain:
        shown = repr(value) if len(repr(value)) < 80 else f"{repr(value)[:60]}..."
        raise InvalidArgumentError(
            name,
            shown,
            f"a plain name of at most {LONGEST_NAME} bytes, without separators or colons",
            "Shorten it, or take such characters away.",
        )
    return str(value)


def known(name: str, given: Iterable[str], names: Collection[str]) -> None:
    """Refuse what is none of the known names, and say which was meant."""
    for key in given:
        if key not in names:
            raise InvalidArgumentError(
                name, f"the unknown key {key!r}", f"only {sorted(names)}",
                f"Remove it.{nearest(key, names)}",
            )  # fmt: skip


def likelihood(name: str, value: object) -> Likelihood:
    action = f"Pass {name}='gaussian' for a squared error, 'bernoulli' for binary cross-entropy."
    one_of(name, value, get_args(Likelihood), action)
    return str(value)  # type: ignore[return-value]
