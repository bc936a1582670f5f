"""What one more unit of a level must find unexplained to pay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posterior_collapse.diagnosis.results import LevelDiagnosis
from posterior_collapse.specs import ChainSpec, HVAESpec, Spec
from posterior_collapse.theory import unclaimed_signal

__all__ = ["thresholds"]

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


def _threshold(spec: Spec, levels: Levels, number: int, eta_dec: float | None) -> float:
    on = sum(status != "collapsed" for status in levels[number - 1].status)
    # The level above encodes at most as many units as it has.
    spare = number < len(levels) and spec.dims[number] > on
    return 1 / unclaimed_signal(spec, 1.0, level=number, eta_dec=eta_dec, spare_above=spare)


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
