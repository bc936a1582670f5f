"""What was passed for something else: a variance for its log, or for a std."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from posterior_collapse.diagnosis.results import Diagnosis, Finding, LevelDiagnosis
from posterior_collapse.errors import of_level

WIDER = 1.025
"""Times the prior's std, from which a posterior is wider than one that has collapsed."""
NEAR, LEAST_SUSPECT = 0.04, 2
"""How nearly two variances add up to the prior's, and active units that must show it."""
_OTHER_STDS = (
    (
        "variance-for-std",
        1,
        "a std is a variance",
        "Check what was passed: a variance as var= of diagnose_arrays, or its root.",
    ),
    (
        "std-for-variance",
        4,
        "a variance, or its log, is a std, or its log",
        "Check what was passed: of a log-std, (mean, log_std.exp()) with log_var=False.",
    ),
)
"""By which power of the std that was read the variances would add up, and what it then is."""


def mistaken(found: Diagnosis, number: int, level: LevelDiagnosis) -> Iterator[Finding]:
    """Yield what a level's posterior was likely taken for, and is not.

    Of models that the package builds nothing is said: they say what they mean.
    """
    if found._built:
        return
    name = of_level(number, len(found.levels))
    learned = found.spec is None or isinstance(found.spec.sigma_levels[number - 1], str)
    least, most = level.posterior_std_range
    # Below the top the prior is narrower for what it is told, and a posterior may well be wider.
    no_narrower = number == len(found.levels) and (least >= level.prior_std).all()
    # None is wider where stds are small: but then all units are used, as only narrow ones can be.
    used = (most > least).all() and (level.mean_variance > level.prior_std**2 / 2).all()
    if learned and no_narrower and (used or (most > WIDER * level.prior_std).any()):
        yield Finding(
            "variance-for-log-variance",
            f"No posterior{name} is narrower than the prior, on any row: its std "
            f"lies between {least.min():.4g} and {most.max():.4g}. Likely a variance, or a std, "
            "was taken for the log of a variance.",
            "Check what the encoder returns: the std is exp(log_var / 2).",
        )
    active = level.that_are("active")
    if active.sum() < LEAST_SUSPECT or np.isnan(level.prior_gap).any():
        return
    prior = level.prior_std[active]
    signal, std = level.mean_variance[active] / prior**2, level.posterior_std[active] / prior
    # What is learned makes signal and posterior variance add up to the prior's.
    amiss = abs(signal + std**2 - 1) > 2 * NEAR
    for code, power, said, action in _OTHER_STDS:
        # Where it is nearly nothing, means may have the prior's variance by a batch norm as well.
        tells = amiss.sum() >= LEAST_SUSPECT and (std**power > 2 * NEAR).any()
        if tells and (abs(signal + std**power - 1) < NEAR).all():
            yield Finding(
                code,
                f"The variances of mean and posterior add up to the prior's in all {active.sum()} "
                f"active units{name}, if what was taken for {said}.",
                action,
            )
