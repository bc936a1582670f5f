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
from posterior_collapse.errors import InvalidArgumentError, UnboundedObjectiveError, count_of
from posterior_collapse.moments import Moments
from posterior_collapse.records import Viewed
from posterior_collapse.specs import Spec, in_order
from posterior_collapse.theory import switches
from posterior_collapse.theory.reading import as_modes
from posterior_collapse.theory.solve import Problem, solve_state
from posterior_collapse.theory.spectrum import Modes
from posterior_collapse.theory.state import Numbers, fit, weighted

MOST_AT_ONCE = 10_000
"""Units of cells that are solved at once: more do not fit the processor's cache."""


@dataclass(frozen=True, eq=False, repr=False)
class PhaseDiagram(Viewed):
    """Active units over beta (rows) and eta_dec (columns).

    Attributes:
        spec: The other hyperparameters.
        level: Index, from 0, of the level whose beta varies and whose units are counted.
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
        counts = "unbounded everywhere"
        if found:
            span = f"{found[0]} to " * (len(found) > 1)
            counts = span + count_of(found[-1], "active unit")
            unbounded = int(np.sum(self.active < 0))
            counts += f"; unbounded in {count_of(unbounded, 'cell')}" * bool(unbounded)
        of = count_of(len(self.eta_decs), "eta_dec")
        return f"PhaseDiagram({count_of(len(self.betas), 'beta')} x {of}; {counts})"

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
        level: Level to vary and count, as an index: 0 is the bottom one, -1 the top. (`tune` and
            messages count levels from 1, as z1.)

    Raises:
        InvalidArgumentError: No values, one that is not positive, or no such level.
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
    rows = _along("betas", betas)
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
    columns = _along("eta_decs", getattr(spec, "eta_dec", spec.eta_levels[0]) if own else eta_decs)
    depth = len(spec.dims)
    if isinstance(level, bool) or level not in range(-depth, depth):
        raise InvalidArgumentError(
            "level",
            level,
            f"one of {', '.join(map(str, range(depth)))} (bottom first), or -1, the top",
            "Pass level=-1.",
        )
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


def _along(name: str, values: Any) -> Float:
    """Return the values of one side of the grid, of which there is at least one."""
    given = np.asarray(values)
    if given.ndim > 1 or not given.size:
        raise InvalidArgumentError(
            name,
            f"an array of shape {given.shape}",
            "one value or a list of them",
            f"Pass e.g. {name}=[0.5, 1, 2].",
        )
    return np.array([checks.positive(name, value) for value in given.ravel()])


def _counts(
    problem: Problem, rows: Float, etas: Sequence[Any], level: int
) -> npt.NDArray[np.int64]:
    """Counts per beta of a level, and per column of the decoder stds: (columns, 1) or a number."""
    spec, beta = problem.spec, rows[:, None, None]
    betas = [beta if k == level else b for k, b in enumerate(spec.beta_levels)]
    cells = np.ones((len(rows), np.size(etas[0]), 1))
    if spec.sigma_levels == ("shared",):
        theta = fit(problem.theta, spec.dims[0])
        per_unit = switches.shared_threshold(theta, Numbers(betas, [1.0], spec.eta_enc), 1.0)
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
