"""Both terms of a loss, in whichever order its arguments make sense, and how it reduces them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from posterior_collapse.adapters.divergence import KLReading, read_kl
from posterior_collapse.adapters.probing import LOGGED, PLAIN, ROLES, TARGETS, Probe, Sizes
from posterior_collapse.adapters.reading import ReconstructionReading, read_reconstruction
from posterior_collapse.errors import InvalidArgumentError, PosteriorCollapseError

__all__ = ["REDUCTIONS", "Terms", "cut_off", "read_terms", "reductions"]

REDUCTIONS = ("features", "latents", "reconstruction_batch", "kl_batch")
"""Over what each term may be summed or averaged."""
_UNKNOWN = ("none", "other")


class Terms(NamedTuple):
    """Both terms of a loss, and how it was called; no probe: only its reductions are known."""

    reconstruction: ReconstructionReading
    kl: KLReading
    probe: Probe | None = None

    @property
    def known(self) -> bool:
        """Whether there is a way to understand both."""
        return self.reconstruction.kind not in _UNKNOWN and self.kl.kind not in _UNKNOWN

    @property
    def order(self) -> tuple[str, ...]:
        """Roles of the loss's arguments, in their order."""
        order = (0, 1, 2, 3) if self.probe is None else self.probe.order
        return tuple(ROLES[order.index(place)] for place in range(len(ROLES)))


def read_terms(loss: Callable[..., Any], sizes: Sizes, log_var: bool) -> Terms:
    """Return both terms, of whichever order of the arguments makes sense of them.

    Raises:
        InvalidArgumentError: The loss raises, is not finite, is random, gives no single number, or
            a part of itself where the total should be.
    """
    first: Terms | InvalidArgumentError | None = None
    for order in itertools.permutations(range(len(ROLES))):
        found: Terms | InvalidArgumentError
        try:
            found = _read_as(loss, sizes, log_var, order)
            if found.known:
                return found
        except InvalidArgumentError as error:
            found = error
        first = first or found
    assert first is not None
    if isinstance(first, InvalidArgumentError):
        raise first
    _check_total(first)
    return first


def _read_as(
    loss: Callable[..., Any], sizes: Sizes, log_var: bool, order: tuple[int, ...]
) -> Terms:
    """Return both terms for one order of the arguments.

    Raises:
        InvalidArgumentError: Called so, the loss raises, or is not finite.
    """
    spreads = LOGGED if log_var else PLAIN
    refusals = []
    for target in TARGETS:
        probe = Probe(loss, spread=spreads[0], target=target, order=order)
        try:
            read = read_reconstruction(probe, sizes)
            break
        except InvalidArgumentError as refusal:
            refusals.append(refusal)
    else:
        raise refusals[0]
    kl = read_kl(probe, sizes)
    for spread in spreads[1:]:
        if kl.kind == "other":
            kl = _kl_or(kl, replace(probe, spread=spread), sizes)
    if kl.kind == "other":
        other = PLAIN if log_var else LOGGED
        if any(_kl_or(kl, replace(probe, spread=s), sizes).kind == "gaussian" for s in other):
            raise InvalidArgumentError(
                "log_var",
                f"{log_var} for a loss of a {'std' if log_var else 'log-variance'}",
                str(not log_var),
                f"Pass log_var={not log_var}.",
            )
    return Terms(read, kl, replace(probe, spread=kl.spread))


def _check_total(found: Terms) -> None:
    """Refuse a part of the loss that was returned where the total should be."""
    reconstruction, kl, probe = found
    if probe is None or probe.parts is None or "none" not in (reconstruction.kind, kl.kind):
        return
    lacking = "posterior" if kl.kind == "none" else "reconstruction"
    raise InvalidArgumentError(
        "loss",
        f"{probe.parts}, the part read of which does not depend on the {lacking}",
        'the total first, or under "loss"',
        "Return what training minimises, e.g. lambda *args: sum(loss(*args)[:2]).",
    )


def _kl_or(kl: KLReading, probe: Probe, sizes: Sizes) -> KLReading:
    """Return another reading of the KL, if that makes sense of it."""
    try:
        found = read_kl(probe, sizes)
    except InvalidArgumentError:
        return kl
    return kl if found.kind in _UNKNOWN else found


def cut_off(found: Terms, sizes: Sizes) -> tuple[str, ...]:
    """Return the roles that the loss depends on and that its gradient does not reach."""
    reconstruction, kl, probe = found
    if probe is None or reconstruction.kind == "none" or not kl.has_beta:
        return ()
    # Beyond any floor, up to which the KL pulls at nothing.
    away = kl.prior_mean + kl.prior_std * math.sqrt(2 * (kl.floor + 1))
    slopes = probe.slopes(away, 2 * math.log(kl.prior_std) + 0.7, sizes)
    least = 1e-6 * abs(kl.weight) * min(1.0, kl.prior_std**-2)
    limits = {"reconstruction": 0.0, "mean": least, "log_var": least}
    return tuple(role for role, slope in slopes.items() if slope <= limits[role])


def reductions(found: Terms, sizes: Sizes) -> dict[str, str | None]:
    """Return how each term is reduced, from how its weight grows with each size."""
    reconstruction, kl, probe = found
    assert probe is not None

    def read(term: Callable[[Probe, Sizes], Any], at: Sizes) -> Any:
        """Return a term at other sizes; None if the loss does not take them."""
        try:
            return term(probe, at)
        except PosteriorCollapseError:
            return None

    # With one sample and one feature more, a loss that folds its input into rows of known length
    # fails; more samples could make up for the surplus.
    one = sizes._replace(batch=1)
    shape = list(sizes.features)
    # Of a categorical it is positions that are summed or averaged over, not classes.
    classes = reconstruction.axis
    along = -1 if classes is None or classes % len(shape) != len(shape) - 1 else -2
    features = None
    if reconstruction.apart and (classes is None or len(shape) > 1):
        shape[along] += 1
        wider = read(read_reconstruction, one._replace(features=tuple(shape)))
        ratio = shape[along] / (shape[along] - 1)
        features = _reduction(read(read_reconstruction, one), wider, ratio)
    longer, more = one._replace(latents=sizes.latents + 1), sizes._replace(batch=2 * sizes.batch)
    ratio = 1 + 1 / sizes.latents
    # Weights are those of sums over features and latents, and of means over the batch.
    return {
        "features": features,
        "latents": _reduction(read(read_kl, one), read(read_kl, longer), ratio),
        "reconstruction_batch": _reduction(
            reconstruction, read(read_reconstruction, more), 2.0, of_sum=1
        ),
        "kl_batch": _reduction(kl, read(read_kl, more), 2.0, of_sum=1),
    }


def _reduction(
    here: ReconstructionReading | KLReading | None,
    there: ReconstructionReading | KLReading | None,
    ratio: float,
    of_sum: int = 0,
) -> str | None:
    """Return the reduction whose weight grows like ratio^of_sum (sum) or by one power less.

    None if it grows otherwise, or the loss takes no other size.
    """
    if here is None or there is None or there.kind != here.kind or here.weight * there.weight <= 0:
        return None
    power = math.log(there.weight / here.weight) / math.log(ratio)
    if abs(power - round(power)) > 0.05:
        return None
    return {of_sum: "sum", of_sum - 1: "mean"}.get(round(power))
