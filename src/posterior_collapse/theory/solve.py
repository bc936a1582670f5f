"""Which theorem applies to a spec, and the optimum it gives: per unit, and in explicit matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from posterior_collapse.arrays import Float
from posterior_collapse.checks import Sigma
from posterior_collapse.errors import InvalidArgumentError, NotSolvedError, enumerated
from posterior_collapse.likelihoods import ENDLESS
from posterior_collapse.records import Record
from posterior_collapse.specs import Spec
from posterior_collapse.theory import closed_forms, switches
from posterior_collapse.theory.closed_forms import Std
from posterior_collapse.theory.spectrum import Modes
from posterior_collapse.theory.state import Numbers, State, fit
from posterior_collapse.theory.switches import Threshold

Status = Literal["active", "noise", "collapsed"]


@dataclass(frozen=True, eq=False)
class Problem:
    """What a spec asks of the data's modes, made ready for the theorems.

    Attributes:
        sigmas: Per level, posterior std in mode order: an array, or None if learned per unit.
        orders: Per level, the unit that carries mode 0, 1, ...
    """

    spec: Spec
    modes: Modes
    sigmas: list[Std]
    orders: list[npt.NDArray[np.intp]]

    @classmethod
    def of(cls, modes: Modes, spec: Spec) -> Problem:
        """Return the problem that `spec` poses on the data's modes.

        Raises:
            NotSolvedError: No closed form of its optimum is known.
            DataError: More units than a randomised subspace resolved modes.
        """
        _refuse_unsolved(spec)
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
        return _all_learned(self.spec)


@dataclass(frozen=True, eq=False)
class Solution:
    """The optimum of a problem, level by level in mode order."""

    problem: Problem
    numbers: Numbers
    state: State
    notes: list[str]

    @property
    def undetermined(self) -> tuple[bool, ...]:
        """Per level, whether as good an optimum may have another count of active units."""
        spare = bool((self.state.information[0] <= 0).any())
        if spare and _turns(self.problem, self.state):
            # Turned, z2 may hear units of z1 that know nothing.
            return (True,) * self.problem.depth
        flat = _flat_levels(self.problem)
        return tuple(level in flat for level in range(self.problem.depth))


def solve(problem: Problem) -> Solution:
    """Return the global optimum.

    Raises:
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
        UnboundedObjectiveError: There is no minimum.
    """
    dims, sigmas = problem.spec.dims, problem.sigmas
    if problem.all_learned:
        return closed_forms.all_learned(theta, dims, numbers)
    if problem.depth == 1:
        (sigma,) = sigmas
        assert sigma is not None
        kappa = np.sqrt(numbers.betas[0]) * (numbers.etas[0] / numbers.eta_enc) * sigma
        second, noise = closed_forms.fixed(fit(theta, dims[0]), kappa, sigma)
        return State(theta, [second], [noise])
    if problem.depth == 2 and sigmas[0] is None:
        return closed_forms.first_learned(theta, dims, numbers, sigmas[1])
    return closed_forms.all_fixed(theta, dims, numbers, sigmas)


def critical(solution: Solution) -> list[Threshold]:
    """Return the thresholds of every level, in mode order."""
    problem, numbers = solution.problem, solution.numbers
    spec, theta, dims, sigmas = problem.spec, problem.theta, problem.spec.dims, problem.sigmas
    first, rest, dim = problem.first, problem.rest, problem.modes.target_dim
    learns_eta, beta = spec.eta_levels[0] == "learned", None
    one_eta = spec.model == "hvae" and spec.likelihood == "gaussian"  # for both decoders
    if problem.all_learned:
        levels = switches.all_learned_thresholds(theta, dims, numbers)
        if learns_eta:
            beta = switches.learned_eta_beta(first, rest, dim)
    elif spec.sigma_levels == ("shared",):
        levels = [switches.shared_threshold(first, numbers, np.asarray(sigmas[0]))]
        if learns_eta:
            beta = switches.learned_eta_shared_beta(first, rest, dim)
    elif problem.depth == 1:
        sigma = np.asarray(sigmas[0])
        levels = [switches.fixed_threshold(first, numbers, sigma)]
        if learns_eta:
            beta = switches.learned_eta_fixed_beta(first, sigma / numbers.eta_enc, rest, dim)
    elif problem.depth == 2 and sigmas[0] is None:
        levels = switches.first_learned_thresholds(theta, dims, numbers, sigmas[1], one_eta)
    elif one_eta:
        levels = switches.two_fixed_thresholds(theta, dims, numbers, *sigmas)
    else:
        levels = switches.bisected_thresholds(
            theta, dims, numbers, lambda t, n: solve_state(problem, t, n)
        )
    if beta is not None:
        levels[0] = levels[0]._replace(beta=beta)
    return levels


def _refuse_unsolved(spec: Spec) -> None:
    if spec.eta_levels[0] != "learned" and "learned" in spec.eta_levels:
        raise NotSolvedError(
            "eta_dec",
            f"'learned' in a hierarchy of likelihood {spec.likelihood!r}",
            "a fixed std of p(z1|z2), as no other is known in closed form",
            "Pass e.g. eta_dec=1.0, or train it with pc.fit.",
        )
    depth, sigmas = len(spec.dims), spec.sigma_levels
    if depth == 1 or _all_learned(spec):
        return
    case, remedy = "", "Use equal sigmas within a level"
    if "shared" in sigmas:
        case = "a hierarchy with one shared learned sigma"
        remedy = "Learn sigma per unit or fix it"
    elif spec.eta_levels[0] == "learned":
        case = "a hierarchy with eta_dec learned and some sigma fixed"
        remedy = "Fix eta_dec, or learn every sigma"
    elif depth > 2:
        if any(isinstance(s, str) for s in sigmas[:-1]) or not all(map(_isotropic, sigmas)):
            case = "three or more levels with sigmas neither all learned nor fixed and equal"
            remedy = "Learn every sigma, or fix one value per level (the top may be learned)"
    elif not _isotropic(sigmas[0]):
        if spec.dims[1] < spec.dims[0]:
            case = "sigma_1 fixed and unequal with fewer units in z2 than in z1"
        elif not _isotropic(sigmas[1]):
            case = "sigma_1 and sigma_2 both fixed and unequal"
    if case:
        search = "search numerically with pc.minimise(data, spec)"
        if spec.likelihood != "gaussian":  # which moments do not tell
            search = "train it with pc.fit"
        raise NotSolvedError(
            "spec", case, "a case with a known global optimum", f"{remedy}, or {search}."
        )


def _isotropic(sigma: Sigma) -> bool:
    return not isinstance(sigma, tuple) or len(set(sigma)) == 1


def _all_learned(spec: Spec) -> bool:
    """Whether every sigma is learned per unit."""
    return all(sigma in ("learned", "input") for sigma in spec.sigma_levels)


def _decoder_std(problem: Problem) -> tuple[float, list[str]]:
    """The learned decoder std (NaN if it is fixed) and what is not determined about it."""
    spec, theta = problem.spec, problem.first
    if spec.eta_levels[0] != "learned":
        return float("nan"), []
    beta, rest, dim = spec.beta_levels[0], problem.rest, problem.modes.target_dim
    if problem.all_learned:
        return closed_forms.learned_eta(theta, rest, beta, dim)
    if spec.sigma_levels == ("shared",):
        return closed_forms.learned_eta_shared_sigma(theta, rest, beta, dim), []
    ratio = np.sqrt(beta) * np.asarray(problem.sigmas[0]) / spec.eta_enc
    return closed_forms.learned_eta_fixed_sigma(theta, ratio, rest, dim), []


def _notes(problem: Problem, numbers: Numbers, state: State) -> list[str]:
    """What the optimum leaves undetermined."""
    if problem.all_learned:
        return [
            f"level {level + 1}: with beta equal to that of level {level} and all sigmas learned "
            "it is a flat direction of the loss; shown is the optimum with this level collapsed"
            for level in _flat_levels(problem)
        ]
    notes = []
    for level, sigma in enumerate(problem.sigmas):
        if sigma is not None and len(np.unique(np.asarray(sigma))) < np.size(sigma):
            notes.append(
                f"level {level + 1}: units of equal fixed sigma can be rotated freely, so which "
                "unit is active and the KL of each are not determined (counts, totals and singular "
                "values are)"
            )
    if _turns(problem, state):
        notes.append(
            "level 1: which mode goes with which unit of z1 is not determined, so neither are "
            "its encoder singular values, its sigma and the information in z2; if z1 has spare "
            "units, nor is the number of units that share the active modes"
        )
    elif problem.depth == 2 and not _isotropic(problem.spec.sigma_levels[0]):
        notes.append(
            "level 1: where every mode is active at both levels, z1 may be rotated freely, and "
            "encoder and decoder singular values are not determined"
        )
    return notes


def _flat_levels(problem: Problem) -> list[int]:
    """Levels above the first, from 1, that may be used or not at the same loss."""
    betas = problem.spec.beta_levels
    above = range(1, problem.depth) if problem.all_learned else ()
    return [level for level in above if betas[level] == betas[level - 1]]


def _turns(problem: Problem, state: State) -> bool:
    """Whether z1 may be turned against the modes that z2 hears, at the same loss."""
    first_learned = problem.depth == 2 and problem.sigmas[0] is None and not problem.all_learned
    return first_learned and len(np.unique(state.second[0])) > 1


def or_others(free: Sequence[bool]) -> str:
    """Return what is added to counts of which those of some levels are left open.

    Example:
        >>> or_others([True, True]), or_others([False])
        (', or other numbers at the same loss', '')
        >>> or_others([True, True, True, False])
        ', or other numbers of z1, z2 and z3 at the same loss'
    """
    if not any(free):
        return ""
    names = enumerated([f"z{number}" for number, one in enumerate(free, 1) if one])
    return f", or other numbers{'' if all(free) else f' of {names}'} at the same loss"


@dataclass(frozen=True, eq=False, repr=False)
class Level(Record):
    """One latent level at the optimum; arrays hold one entry per unit.

    Singular values are descending. All else is in the order of the units: as given for a fixed
    sigma per unit, else from the strongest mode to the weakest.

    Attributes:
        encoder_singular_values: Of W_l S_{l-1}^{1/2}, in latent units.
        decoder_singular_values: Of U_l, in units of what it decodes per latent unit.
        posterior_std: sigma.
        kl: E_q[log q - log p] in nats, without beta; below the top level it may be negative.
        information: I(x; z_i) in nats, from second moments.
        status: "active" (carries information on x), "noise" (has KL but knows nothing of x) or
            "collapsed".
        data_variance: Variance of the data mode that the unit carries, or would.
        threshold: Variance that mode must exceed for the unit to be active.
        critical_beta: The level's beta above which the unit collapses.
        critical_eta_dec: eta_dec above which the unit collapses.
        informed_beta: The level's beta above which the unit is not active: above z1 it may relay
            noise from there on, up to `critical_beta`.
        informed_eta_dec: Likewise of eta_dec.
    """

    encoder_singular_values: Float
    decoder_singular_values: Float
    posterior_std: Float
    kl: Float
    information: Float
    status: tuple[Status, ...]
    data_variance: Float
    threshold: Float
    critical_beta: Float
    critical_eta_dec: Float
    informed_beta: Float
    informed_eta_dec: Float

    derived: ClassVar = ("n_active",)

    @property
    def n_active(self) -> int:
        """Number of units with status "active"."""
        return self.status.count("active")

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.status.count(s)} {s}" for s in ("active", "noise", "collapsed"))
        return f"Level({counts}, KL {self.kl.sum():.4g} nats)"


@np.errstate(over="ignore", divide="ignore")  # a critical value beyond floats: infinity
def levels(solution: Solution) -> tuple[Level, ...]:
    """Return what each unit is at the optimum, level by level, bottom first."""
    problem, state = solution.problem, solution.state
    switches, kls = critical(solution), state.kl(solution.numbers)
    encoders, decoders, informations = state.encoder, state.decoder, state.information
    found: list[Level] = []
    for number, order in enumerate(problem.orders):
        unit, threshold = np.argsort(order), switches[number]
        encoder, information = encoders[number], informations[number][unit]
        no_std = np.nan if number == 0 and problem.spec.likelihood != "gaussian" else 1.0
        beta, eta_dec = threshold.informed_beta, threshold.informed_eta_dec
        beta = threshold.beta if beta is None else beta
        eta_dec = threshold.eta_dec if eta_dec is None else eta_dec
        found.append(
            Level(
                encoder_singular_values=np.sort(encoder)[::-1],
                decoder_singular_values=np.sort(decoders[number])[::-1],
                posterior_std=np.sqrt(state.noise[number])[unit],
                kl=kls[number][unit],
                information=information,
                status=tuple(
                    "active" if known > 0 else "noise" if weight > 0 else "collapsed"
                    for weight, known in zip(encoder[unit], information, strict=True)
                ),
                data_variance=fit(problem.theta, len(unit))[unit] ** 2,
                threshold=threshold.variance[unit],
                critical_beta=threshold.beta[unit],
                critical_eta_dec=threshold.eta_dec[unit] * no_std,
                informed_beta=beta[unit],
                informed_eta_dec=eta_dec[unit] * no_std,
            )
        )
    return tuple(found)


def parameters(solution: Solution, constant: bool = False) -> dict[str, Float]:
    """Return matrices that attain the optimum by name; `Forecast.parameters` documents them.

    `constant`: the last input of a pair is a 1, whose weights are the encoder's bias.
    """
    problem, modes, state = solution.problem, solution.problem.modes, solution.state
    orders, dims = problem.orders, problem.spec.dims
    encoder, decoder, vectors = state.encoder, state.decoder, modes.vectors
    live = min(dims[0], len(vectors.read))
    unit = orders[0][:live]
    read = np.zeros((dims[0], vectors.read.shape[1]))
    write = np.zeros((vectors.write.shape[1], dims[0]))
    read[unit] = encoder[0][:live, None] * vectors.read[:live]
    write[:, unit] = decoder[0][:live] * vectors.write[:live].T
    mean_in, mean_out = (m * modes.moments.center for m in (vectors.mean_in, vectors.mean_out))
    if (k := vectors.regression) is None:
        found: dict[str, Float] = {"W1": read, "U1": write}
        biases = {"b1": -read @ mean_in, "c1": mean_out}
        if constant and modes.moments.paired:
            found["W1"], biases["b1"] = read[:, :-1], read[:, -1]
    else:
        found = {"W1": -read @ k, "W2": read, "U1": write, "U2": k}
        biases = {"b1": read @ k @ mean_in - read @ mean_out, "c1": mean_out - k @ mean_in}
    for level in range(1, problem.depth):
        below = np.sqrt(fit(state.second[level - 1], dims[level]))
        weight = np.divide(encoder[level], below, out=np.zeros(dims[level]), where=below > 0)
        up = np.zeros((dims[level], dims[level - 1]))
        down = np.zeros((dims[level - 1], dims[level]))
        both = min(dims[level], dims[level - 1])
        here, there = orders[level][:both], orders[level - 1][:both]
        up[here, there], down[there, here] = weight[:both], decoder[level][:both]
        found |= {f"W{level + 1}": up, f"U{level + 1}": down}
    for number, (noise, order) in enumerate(zip(state.noise, orders, strict=True), 1):
        found[f"sigma_{number}"] = np.sqrt(noise)[np.argsort(order)]
    found |= biases
    white = modes.noise
    if white is None:
        return found | {"eta_dec": np.asarray(solution.numbers.etas[0])}
    if white.divisor is None or white.output is None:
        raise NotSolvedError(
            "parameters",
            "a conditional model of a likelihood that is not Gaussian",
            "one whose best encoder is linear",
            "Train it with pc.fit.",
        )
    # Matrices of whitened scores, to read the data and give the decoder's output.
    return found | {
        # Of a pair y alone is whitened, and x read as it is.
        "W1": found["W1"] / (1.0 if modes.moments.paired else white.divisor),
        "U1": found["U1"] / white.divisor[:, None],
        "c1": np.clip(white.output, -ENDLESS, ENDLESS),
    }
