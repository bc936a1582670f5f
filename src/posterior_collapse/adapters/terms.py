"""Both terms of a loss, in whichever order of its arguments makes sense of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from posterior_collapse.adapters.kl import OF_ONE_WEIGHT, KLReading, read_kl, weighed_by
from posterior_collapse.adapters.offsets import with_offset
from posterior_collapse.adapters.own import with_own
from posterior_collapse.adapters.precision import beside, with_digits
from posterior_collapse.adapters.probing import (
    ROLES,
    TARGETS,
    Probe,
    Sizes,
    steady,
)
from posterior_collapse.adapters.reconstruction import (
    ReconstructionReading,
    ignored_classes,
    read_reconstruction,
)
from posterior_collapse.adapters.spreads import LOGGED, PLAIN
from posterior_collapse.errors import InvalidArgumentError

_UNKNOWN = ("none", "other")


class Terms(NamedTuple):
    """Both terms of a loss, and how it was called; no probe: only its reductions are known."""

    reconstruction: ReconstructionReading
    kl: KLReading
    sizes: Sizes
    probe: Probe | None = None

    @property
    def known(self) -> bool:
        """Whether there is a way to understand both.

        An error that is known in (0, 1) is: what lies beyond is no reason to turn the arguments.
        """
        error = self.reconstruction.near or self.reconstruction.kind
        return error not in _UNKNOWN and self.kl.kind not in _UNKNOWN

    @property
    def order(self) -> tuple[str, ...]:
        """Roles of the loss's arguments, in their order."""
        order = (0, 1, 2, 3) if self.probe is None else self.probe.order
        return tuple(ROLES[order.index(place)] for place in range(len(ROLES)))


def read_terms(loss: Callable[..., Any], sizes: Sizes, log_var: bool) -> Terms:
    """Return both terms, of whichever order of the arguments makes sense of them."""
    with steady(loss, sizes, (LOGGED if log_var else PLAIN)[0]):
        return _read_in_some_order(loss, sizes, log_var)


def _read_in_some_order(loss: Callable[..., Any], sizes: Sizes, log_var: bool) -> Terms:
    first: Terms | InvalidArgumentError | None = None
    for order in itertools.permutations(range(len(ROLES))):
        found: Terms | InvalidArgumentError
        try:
            found = _read_as(loss, sizes, log_var, order)
            if found.known and (found.order == ROLES or _same_turned(loss, log_var, found)):
                return found
        except InvalidArgumentError as error:
            found = error
        first = first or found
    assert first is not None
    if isinstance(first, InvalidArgumentError):
        raise first
    reconstruction, kl, _, probe = first
    if probe is None or probe.parts is None or "none" not in (reconstruction.kind, kl.kind):
        return first
    # A part of the loss was returned where the total should be.
    lacking = "posterior" if kl.kind == "none" else "reconstruction"
    parts = "loss(*args).values()" if probe.parts.startswith("a dict") else "loss(*args)[:2]"
    raise InvalidArgumentError(
        "loss",
        f"{probe.parts}, the part read of which does not depend on the {lacking}",
        'the total first, or under "loss"',
        f"Return what training minimises, e.g. lambda *args: sum({parts}).",
    )


def _same_turned(loss: Callable[..., Any], log_var: bool, found: Terms) -> bool:
    """Whether an error is one either way round, if of differences: else a penalty is beside it."""
    kind = found.reconstruction.kind
    if found.probe is None or kind not in ("squared", "absolute", "log squared"):
        return True
    output, target, *rest = found.probe.order
    turned = _read_as(loss, found.sizes, log_var, (target, output, *rest))
    return turned.reconstruction.kind == kind


def _read_as(
    loss: Callable[..., Any], sizes: Sizes, log_var: bool, order: tuple[int, ...]
) -> Terms:
    """Return both terms for one order of the arguments."""
    spreads = LOGGED if log_var else PLAIN
    refusals = []
    for target in TARGETS:
        probe = Probe(loss, sizes, spread=spreads[0], target=target, order=order)
        try:
            read = read_reconstruction(probe)
            break
        except InvalidArgumentError as refusal:
            refusals.append(refusal)
    else:
        raise refusals[0]
    if ignored := ignored_classes(probe):
        probe = replace(probe, ignored=ignored)
        read = read_reconstruction(probe)._replace(ignored=ignored)
    probe = with_digits(probe)
    kl = read_kl(probe)
    for spread in spreads[1:]:
        if kl.kind == "other":
            kl, probe = _kl_or(kl, probe, replace(probe, spread=spread))
    if kl.kind in (*OF_ONE_WEIGHT, "other") and (other := with_offset(probe, kl)):
        kl, probe = _kl_or(kl, probe, other)
    if kl.kind == "other":
        turned = (replace(probe, spread=s) for s in (PLAIN if log_var else LOGGED))
        if any(_kl_or(kl, probe, one)[0].kind == "gaussian" for one in turned):
            raise InvalidArgumentError(
                "log_var",
                f"{log_var} for a loss of a {'std' if log_var else 'log-variance'}",
                str(not log_var),
                f"Pass log_var={not log_var}.",
            )
    if kl.kind == "gaussian" and not _adds_up(kl, probe):
        kl = kl._replace(kind="batch")
    if kl.kind == "gaussian" and probe.drew and not _averages(probe):
        kl = kl._replace(kind="samples")
    if kl.has_beta:
        kl = kl._replace(weighed_by=weighed_by(kl, probe))
    return Terms(with_own(probe, read), kl, sizes, probe)


def _adds_up(kl: KLReading, probe: Probe) -> bool:
    """Say whether rows whose posteriors differ cost what each would cost alone.

    Not under a penalty on a batch's covariance or mutual information: on rows of one posterior, of
    which all else is read, these say nothing. A total correlation is no reason: of one unit it is
    none, and it need not be any at an optimum, whose units are uncorrelated.
    """
    y_hat, y = beside(probe)
    unit = 0 if kl.weights is None else int(np.argmax(kl.weights))
    sides = np.resize([2.0, -2.0], probe.sizes.batch)

    def loss(means: Any) -> float:
        moved = np.zeros((probe.sizes.batch, probe.sizes.latents))
        moved[:, unit] = means
        return probe.value(y_hat, y, moved)

    # In either, each row is once on one side and once on the other: its prior may be its own.
    alike, apart = loss(2.0) + loss(-2.0), loss(sides) + loss(-sides)
    return abs(apart - alike) <= 0.05 * abs(alike - 2 * loss(0.0))


def _averages(probe: Probe) -> bool:
    """Say whether samples of a posterior that differ cost what each would cost alone.

    Of an importance-weighted bound, whose samples are all the same here, only the KL is left.
    """
    y_hat, y = beside(probe)
    alike, apart = (
        one.value(y_hat, y, 2.0, -0.9) - one.value(y_hat, y)
        for one in (probe, replace(probe, mixed=True))
    )
    return abs(apart - alike) <= 0.05 * abs(alike)


def _kl_or(kl: KLReading, probe: Probe, other: Probe) -> tuple[KLReading, Probe]:
    """Return another probe with its reading of the KL, if that makes sense of it."""
    try:
        found = read_kl(other)
    except InvalidArgumentError:
        return kl, probe
    return (kl, probe) if found.kind in _UNKNOWN else (found, other)
