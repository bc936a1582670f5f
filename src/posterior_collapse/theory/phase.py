"""Phase diagrams: number of active units over a grid of beta and eta_dec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from posterior_collapse import checks
from posterior_collapse.arrays import Float
from posterior_collapse.data.about import UNKNOWN, About, about
from posterior_collapse.errors import InvalidArgumentError, UnboundedObjectiveError
from posterior_collapse.moments import Moments
from posterior_collapse.records import Viewed
from posterior_collapse.specs import Spec, in_order
from posterior_collapse.theory import closed_forms
from posterior_collapse.theory.reading import as_modes
from posterior_collapse.theory.solve import Problem, solve_state
from posterior_collapse.theory.spectrum import Modes
from posterior_collapse.theory.state import Numbers, fit, weighted

__all__ = ["PhaseDiagram", "phase_diagram"]

MOST_AT_ONCE = 10_000
"""Units of cells that are solved at once: more do not fit the processor's cache."""


@dataclass(frozen=True, eq=False, repr=False)
class PhaseDiagram(Viewed):
    """Active units over beta (rows) and eta_dec (columns).

    Attributes:
        spec: The other hyperparameters.
        level: Index of the level whose beta varies and whose units are counted.
        betas: Rows.
        eta_decs: Columns, in data units.
        active: Counts, shape (len(betas), len(eta_decs)); -1 where the loss is unbounded.
    """

    view: ClassVar[str] = "phase"
    spec: Spec
    level: int
    betas: Float
    eta_decs: Float
    active: npt.NDArray[np.int64]
    _about: About = UNKNOWN

    def __repr__(self) -> str:
        found = sorted({*self.active.ravel().tolist()} - {-1})
        counts = f"{found[0]} to {found[-1]} active units" if found else "unbounded everywhere"
        return f"PhaseDiagram({len(self.betas)} betas x {len(self.eta_decs)} eta_decs; {counts})"

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        for beta, counts in zip(self.betas, self.active, strict=True):
            for eta_dec, active in zip(self.eta_decs, counts, strict=True):
                yield {"beta": beta, "eta_dec": eta_dec, "active": active}


def phase_diagram(
    data: Moments | Any, spec: Spec, betas: Any, eta_decs: Any = None, *, level: int = -1
) -> PhaseDiagram:
    """Count active units for every pair of beta and eta_dec.

    Args:
        data: As for `forecast`.
        spec: Everything else; its own beta of that level and its eta_dec are replaced.
        betas: Betas of the level, shape (rows,).
        eta_decs: Std of every decoder, shape (columns,); None: the spec's own, in one column. A
            likelihood that is not Gaussian has none.
        level: Level to vary and count, bottom first; -1 is the top.

    Raises:
        InvalidArgumentError: A value that is not positive, or no such level.
        NotSolvedError: No closed form is known.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> m = Moments.from_matrices(np.diag([4.0, 1.0]))
        >>> phase_diagram(m, VAESpec(latent_dim=2), [0.5, 2.0, 5.0], [1.0, 0.1]).active.tolist()
        [[2, 2], [1, 2], [0, 2]]
    """
    data, spec = in_order(data, spec)
    modes, spec = as_modes(data, spec)
    found = of_modes(modes, spec, betas, eta_decs, level)
    return found.replace(_about=about(data, conditional=spec.model == "cvae"))


def of_modes(
    modes: Modes,
    spec: Spec,
    betas: Any,
    eta_decs: Any,
    level: int,
    times: Sequence[float] | None = None,
) -> PhaseDiagram:
    """Return the phase diagram for modes at hand; see `phase_diagram`.

    `times` are what the KL of each unit weighs, in multiples of beta; None: all the same.
    """
    rows = np.array([checks.positive("betas", b) for b in np.ravel(betas)])
    if eta_decs is not None and spec.likelihood != "gaussian":
        raise InvalidArgumentError(
            "eta_decs",
            f"values for likelihood {spec.likelihood!r}",
            "none, as only a Gaussian decoder has a std",
            "Leave eta_decs out.",
        )
    own = eta_decs is None
    if own and "learned" in spec.eta_levels:
        raise InvalidArgumentError(
            "eta_decs", "none", "stds, as the spec learns its own", "Pass some."
        )
    stds = spec.eta_levels[:1] if own else np.ravel(eta_decs)
    columns = np.array([checks.positive("eta_decs", e) for e in stds])
    depth = len(spec.dims)
    if isinstance(level, bool) or level not in range(-depth, depth):
        raise InvalidArgumentError("level", level, f"one of {depth} levels", "Pass level=-1.")
    level = int(level) % depth
    plain = spec.replace(eta_dec=1.0) if spec.eta_levels[0] == "learned" else spec
    problem = Problem.of(modes, plain)
    etas = list(spec.eta_levels) if own else [columns[:, None]] * depth
    if times is None:
        parts = 1 + rows.size * columns.size * max(spec.dims) // MOST_AT_ONCE
        some = np.array_split(rows, min(parts, len(rows)) or 1)
        counts = np.concatenate([_counts(problem, betas, etas, level) for betas in some])
    else:
        cells = [[plain.replace(beta=b, eta_dec=e) for e in columns] for b in rows]
        counts = np.array([[weighted(modes.theta, one, times) for one in row] for row in cells])
    return PhaseDiagram(spec, level, rows, columns, counts)


def _counts(
    problem: Problem, rows: Float, etas: Sequence[Any], level: int
) -> npt.NDArray[np.int64]:
    """Counts per beta of a level, and per column of the decoder stds: (columns, 1) or a number."""
    spec, beta = problem.spec, rows[:, None, None]
    betas = [beta if k == level else b for k, b in enumerate(spec.beta_levels)]
    cells = np.ones((len(rows), np.size(etas[0]), 1))
    if spec.sigma_levels == ("shared",):
        theta = fit(problem.theta, spec.dims[0])
        per_unit = closed_forms.shared_threshold(theta, Numbers(betas, [1.0], spec.eta_enc), 1.0)
        alive = per_unit.beta / np.square(etas[0]) > beta
    else:
        try:
            numbers = Numbers(betas, etas, spec.eta_enc)
            alive = solve_state(problem, problem.theta, numbers).informed[level]
        except UnboundedObjectiveError:
            if len(rows) == 1:
                return np.full(cells.shape[:2], -1)
            return np.concatenate([_counts(problem, row, etas, level) for row in rows[:, None]])
    return np.asarray(np.sum(alive * cells, axis=-1), dtype=np.int64)
