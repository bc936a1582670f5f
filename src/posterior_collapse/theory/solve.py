"""Which theorem applies to a spec, and the optimum it gives."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from posterior_collapse.arrays import Float
from posterior_collapse.checks import LEARNED_SIGMAS, Sigma
from posterior_collapse.errors import InvalidArgumentError, NotSolvedError
from posterior_collapse.specs import Spec
from posterior_collapse.theory import closed_forms, thresholds
from posterior_collapse.theory.closed_forms import Std
from posterior_collapse.theory.spectrum import Modes
from posterior_collapse.theory.state import Numbers, State, fit
from posterior_collapse.theory.thresholds import Threshold

ROTATION_NOTE = (
    "level {level}: units of equal fixed sigma can be rotated freely, so which unit is active and "
    "the KL of each are not determined (counts, totals and singular values are)"
)


@dataclass(frozen=True, eq=False)
class Problem:
    """What a spec asks of the data's modes, made ready for the theorems.

    Attributes:
        spec: The hyperparameters.
        modes: Of the data.
        sigmas: Per level, posterior std in mode order: an array, or None if learned per unit.
        orders: Per level, the unit that carries mode 0, 1, ...
    """

    spec: Spec
    modes: Modes
    sigmas: list[Std]
    orders: list[npt.NDArray[np.intp]]

    @classmethod
    def of(cls, modes: Modes, spec: Spec) -> Problem:
        """Return the problem that `spec` poses on the data's modes."""
        modes.check_units(max(spec.dims))
        sigmas: list[Std] = []
        orders: list[npt.NDArray[np.intp]] = []
        for sigma, dim in zip(spec.sigma_levels, spec.dims, strict=True):
            std = None if isinstance(sigma, str) else np.asarray(sigma) * np.ones(dim)
            order = np.arange(dim) if std is None else np.argsort(std, kind="stable")
            sigmas.append(None if std is None else std[order])
            orders.append(order)
        return cls(spec, modes, sigmas, orders)

    @property
    def theta(self) -> Float:
        """Std of all data modes, descending."""
        return self.modes.theta

    @property
    def first(self) -> Float:
        """Std of the mode of each unit of level 1, descending; 0 where there is none."""
        return fit(self.theta, self.spec.dims[0])

    @property
    def rest(self) -> Float:
        """Variance of the target not in the first k modes, k = 0 .. units of level 1."""
        units = self.spec.dims[0]
        variance = fit(self.theta, max(units, len(self.theta))) ** 2
        after = np.append(np.cumsum(variance[::-1])[::-1], 0.0)
        return np.asarray(self.modes.outside + after[: units + 1])

    @property
    def depth(self) -> int:
        """Number of latent levels."""
        return len(self.spec.dims)

    @property
    def all_learned(self) -> bool:
        """Whether every sigma is learned per unit."""
        return all(_per_unit(s) for s in self.spec.sigma_levels)


@dataclass(frozen=True, eq=False)
class Solution:
    """The optimum of a problem, level by level in mode order."""

    problem: Problem
    numbers: Numbers
    state: State
    notes: list[str]


def solve(problem: Problem) -> Solution:
    """Return the global optimum.

    Raises:
        NotSolvedError: No closed form is known.
        UnboundedObjectiveError: There is no minimum.
        InvalidArgumentError: The scales are so far apart that the optimum fits no float.
    """
    eta_dec, notes = _decoder_std(problem)
    spec = problem.spec
    etas = [eta_dec if e == "learned" else float(e) for e in spec.eta_levels]
    numbers = Numbers(spec.beta_levels, etas, spec.eta_enc)
    if spec.sigma_levels == ("shared",):
        sigma = closed_forms.shared_sigma(problem.first, spec.beta_levels[0], etas[0], spec.eta_enc)
        problem = replace(problem, sigmas=[np.full(spec.dims[0], sigma)])
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        state = solve_state(problem, problem.theta, numbers)
        fits = np.isfinite([np.log(s).sum() for s in (*state.second, *state.noise)]).all()
        fits &= np.isfinite([kl.sum() for kl in state.kl(numbers)]).all()
    if not fits:
        raise InvalidArgumentError(
            "spec",
            "stds and betas so far apart that the variances of the optimum fit no float",
            "scales within 1e50 of each other",
            "Bring the stds and betas of the levels nearer to each other.",
        )
    return Solution(problem, numbers, state, notes + _notes(problem, numbers, state))


def solve_state(problem: Problem, theta: Float, numbers: Numbers) -> State:
    """Return the optimum's state for given numbers, which may be grids (last axis: modes).

    Raises:
        NotSolvedError: No closed form is known.
        UnboundedObjectiveError: There is no minimum.
    """
    dims, sigmas = problem.spec.dims, problem.sigmas
    if problem.all_learned:
        return closed_forms.all_learned(theta, dims, numbers)
    refuse_unsolved(problem)
    if problem.depth == 1:
        (sigma,) = sigmas
        assert sigma is not None
        kappa = np.sqrt(numbers.betas[0]) * (numbers.etas[0] / numbers.eta_enc) * sigma
        second, noise = closed_forms.fixed(fit(theta, dims[0]), kappa, sigma)
        return State(theta, [second], [noise])
    if problem.depth == 2 and sigmas[0] is None:
        return closed_forms.first_learned(theta, dims, numbers, sigmas[1])
    if problem.depth == 2:
        return closed_forms.two_fixed(theta, dims, numbers, *sigmas)
    return closed_forms.all_fixed(theta, dims, numbers, sigmas)


def critical(solution: Solution) -> list[Threshold]:
    """Return the thresholds of every level, in mode order."""
    problem, numbers = solution.problem, solution.numbers
    spec, theta, dims, sigmas = problem.spec, problem.theta, problem.spec.dims, problem.sigmas
    first, rest, dim = problem.first, problem.rest, problem.modes.target_dim
    learns_eta, beta = spec.eta_levels[0] == "learned", None
    if problem.all_learned:
        levels = thresholds.all_learned(theta, dims, numbers)
        if learns_eta:
            beta = thresholds.learned_eta_beta(first, rest, dim)
    elif spec.sigma_levels == ("shared",):
        levels = [thresholds.shared(first, numbers, float(np.sqrt(solution.state.noise[0][0])))]
        if learns_eta:
            beta = thresholds.learned_eta_shared_beta(first, rest, dim)
    elif problem.depth == 1:
        sigma = np.asarray(sigmas[0])
        levels = [thresholds.fixed(first, numbers, sigma)]
        if learns_eta:
            beta = thresholds.learned_eta_fixed_beta(first, sigma / numbers.eta_enc, rest, dim)
    elif problem.depth == 2 and sigmas[0] is None:
        levels = thresholds.first_learned(theta, dims, numbers, sigmas[1])
    elif problem.depth == 2 and numbers.etas[0] == numbers.etas[1] and spec.model == "hvae":
        levels = thresholds.two_fixed(theta, dims, numbers, *sigmas)
    else:
        levels = thresholds.by_bisection(
            theta, dims, numbers, lambda t, n: solve_state(problem, t, n)
        )
    if beta is not None:
        levels[0] = levels[0]._replace(beta=beta)
    return levels


def refuse_unsolved(problem: Problem) -> None:
    """Raise `NotSolvedError` for the cases whose optimum no theorem gives."""
    spec, sigmas = problem.spec, problem.sigmas
    if problem.all_learned:
        return
    learned = [isinstance(s, str) for s in spec.sigma_levels]
    case, remedy = "", "Use equal sigmas within a level"
    if problem.depth > 1 and "shared" in spec.sigma_levels:
        case = "a hierarchy with one shared learned sigma"
        remedy = "Learn sigma per unit or fix it"
    elif problem.depth > 1 and spec.eta_levels[0] == "learned":
        case = "a hierarchy with eta_dec learned and some sigma fixed"
        remedy = "Fix eta_dec, or learn every sigma"
    elif problem.depth > 2 and (any(learned[:-1]) or not all(map(_isotropic, sigmas))):
        case = "three or more levels with sigmas neither all learned nor fixed and equal"
        remedy = "Learn every sigma, or fix one value per level (the top may be learned)"
    elif problem.depth == 2 and not _isotropic(sigmas[0]):
        if spec.dims[1] < spec.dims[0]:
            case = "sigma_1 fixed and unequal with fewer units in z2 than in z1"
        elif not _isotropic(sigmas[1]):
            case = "sigma_1 and sigma_2 both fixed and unequal"
    if case:
        raise NotSolvedError(
            "spec",
            case,
            "a case with a known global optimum",
            f"{remedy}, or search numerically with pc.minimise(data, spec).",
        )


def _isotropic(sigma: Std) -> bool:
    return sigma is None or bool(np.all(np.asarray(sigma) == np.asarray(sigma).flat[0]))


def _per_unit(sigma: Sigma) -> bool:
    return sigma in LEARNED_SIGMAS and sigma != "shared"


def _decoder_std(problem: Problem) -> tuple[float, list[str]]:
    """The learned decoder std (NaN if it is fixed) and what is not determined about it."""
    spec, theta = problem.spec, problem.first
    if spec.eta_levels[0] != "learned":
        if "learned" in spec.eta_levels:
            raise NotSolvedError(
                "eta_dec",
                f"'learned' in a hierarchy of likelihood {spec.likelihood!r}",
                "a fixed std of p(z1|z2), as no other is known in closed form",
                "Pass e.g. eta_dec=1.0, or train it with pc.fit.",
            )
        return float("nan"), []
    beta, rest, dim = spec.beta_levels[0], problem.rest, problem.modes.target_dim
    if problem.all_learned:
        return closed_forms.learned_eta(theta, rest, beta, dim)
    refuse_unsolved(problem)
    if spec.sigma_levels == ("shared",):
        return closed_forms.learned_eta_shared_sigma(theta, rest, beta, dim), []
    ratio = np.sqrt(beta) * np.asarray(problem.sigmas[0]) / spec.eta_enc
    return closed_forms.learned_eta_fixed_sigma(theta, ratio, rest, dim), []


def _notes(problem: Problem, numbers: Numbers, state: State) -> list[str]:
    """What the optimum leaves undetermined."""
    notes = []
    betas = problem.spec.beta_levels
    if problem.all_learned:
        notes += [
            f"level {level + 1}: with beta equal to that of level {level} and all sigmas learned "
            "it is a flat direction; the member with this level collapsed is shown"
            for level in range(1, problem.depth)
            if betas[level] == betas[level - 1]
        ]
        return notes
    for level, sigma in enumerate(problem.sigmas):
        if sigma is not None and len(np.unique(np.asarray(sigma))) < np.size(sigma):
            notes.append(ROTATION_NOTE.format(level=level + 1))
    if problem.depth == 2 and problem.sigmas[0] is None:
        if len(np.unique(state.second[0])) > 1:
            notes.append(
                "level 1: which mode goes with which unit of z1 is not determined, hence neither "
                "its encoder singular values and sigma nor the information in z2"
            )
    elif problem.depth == 2 and not _isotropic(problem.sigmas[0]):
        notes.append(
            "level 1: where every mode is active at both levels, z1 may be rotated freely, and "
            "encoder and decoder singular values are not determined"
        )
    return notes
