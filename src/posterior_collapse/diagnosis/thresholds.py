"""What one more unit of a level must find unexplained to pay, and what moves that threshold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from posterior_collapse.diagnosis.results import LevelDiagnosis
from posterior_collapse.specs import ChainSpec, HVAESpec, Spec
from posterior_collapse.theory import unclaimed_signal

__all__ = ["levers", "thresholds"]

Levels = Sequence[LevelDiagnosis]


def thresholds(spec: Spec, levels: Levels, eta_dec: float | None) -> tuple[float, ...]:
    """Return per level the variance that one more unit must exceed.

    Where the fixed sigma differs from unit to unit, the unit is the collapsed one with the
    smallest; none collapsed: the smallest of all.

    Args:
        spec: The hyperparameters.
        levels: Says which units are spare, here and in the level above.
        eta_dec: Decoder std, where the spec learns it.
    """
    return tuple(
        _threshold(_for_spare_units(spec, levels, number), levels, number, eta_dec)
        for number in range(1, len(levels) + 1)
    )


def levers(spec: Spec, levels: Levels, number: int, eta_dec: float, t: float) -> Iterator[str]:
    """Yield the parameters that alone bring one more unit of a level to life, each with its limit.

    Args:
        spec: The hyperparameters.
        levels: Of the model.
        number: Of the level, 1 next to the data.
        eta_dec: Decoder std.
        t: The level's signal, at most 1.
    """
    spec = _for_spare_units(spec, levels, number)
    now = _threshold(spec, levels, number, eta_dec)
    for name, value, power in _candidates(spec, number):
        lower = value * t**power
        if lower == 0:
            continue
        eta = lower if name == "eta_dec" else eta_dec
        then = _threshold(_with(spec, name, lower), levels, number, eta)
        if then <= now * t * (1 + 1e-9):
            yield f"{name} (now {value:.4g}) below {lower:.3g}"


def _threshold(spec: Spec, levels: Levels, number: int, eta_dec: float | None) -> float:
    on = sum(status != "collapsed" for status in levels[number - 1].status)
    # The level above encodes at most as many units as it has.
    spare = number < len(levels) and spec.dims[number] > on
    return 1 / unclaimed_signal(spec, 1.0, level=number, eta_dec=eta_dec, spare_above=spare)


def _candidates(spec: Spec, number: int) -> Iterator[tuple[str, float, float]]:
    """Names and values that thresholds grow with, and the power of t that makes up for t."""
    betas = "betas" if len(spec.dims) > 1 or isinstance(spec, ChainSpec) else "beta"
    for at in (number - 1, number):
        if at < len(spec.dims):
            yield betas if betas == "beta" else f"betas[{at}]", spec.beta_levels[at], 1.0
    eta = spec.eta_levels[number - 1]
    if not isinstance(eta, str):
        yield f"eta_decs[{number - 1}]" if isinstance(spec, ChainSpec) else "eta_dec", eta, 0.5


def _with(spec: Spec, name: str, value: float) -> Spec:
    field, _, index = name.partition("[")
    if not index:
        return spec.replace(**{field: value})
    values = list(getattr(spec, field))
    values[int(index[:-1])] = value
    return spec.replace(**{field: values})


def _for_spare_units(spec: Spec, levels: Levels, number: int) -> Spec:
    sigma = spec.sigma_levels[number - 1]
    if not isinstance(sigma, tuple):
        return spec
    spare = [s for s, u in zip(sigma, levels[number - 1].status, strict=True) if u == "collapsed"]
    changes: dict[str, Any] = {"sigma": min(spare or sigma)}
    if isinstance(spec, HVAESpec):
        changes = {f"sigma_{number}": changes["sigma"]}
    elif isinstance(spec, ChainSpec):
        sigmas = list(spec.sigma_levels)
        sigmas[number - 1] = changes["sigma"]
        changes = {"sigmas": sigmas}
    return spec.replace(**changes)
