"""Numerical minimisation of the exact objective: from random starts, or from where a model is."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg

from posterior_collapse import checks
from posterior_collapse.arrays import Float
from posterior_collapse.errors import NonFiniteLossError
from posterior_collapse.moments import Moments
from posterior_collapse.specs import Spec
from posterior_collapse.theory.exact import ExactObjective

FINISHED, LIMIT = "finished", "iteration limit"
ITERATIONS = 20_000
"""At most so many of L-BFGS, where nothing else is said."""
CONVERGED = 1e-13
"""Relative gain below which a restarted L-BFGS counts as converged; one call stops early because
rounding spoils its curvature memory."""
LOG_BOUND = 150.0
"""Clamp on log-stds: a line search may propose any value; e^150 exceeds every spec and does not
overflow."""


class ReducedObjective:
    """The exact objective over encoders and learned stds alone, as a function of a flat vector.

    Whatever the encoders, the best decoders are least-squares fits, so they are not searched
    (variable projection, Golub and Pereyra 1973). The first encoder reads data made white, and
    each encoder is in units of its posterior std: so the search does not feel that pixels have
    variances from 0 to 5, how large a unit of the data is, nor how narrow a posterior. A loss of
    data far smaller than their noise is measured in what it can lose, without its constant, beside
    which it would be lost to rounding.
    """

    def __init__(self, objective: ExactObjective) -> None:
        self.objective, spec, moments = objective, objective.spec, objective.moments
        self.white = _White.of(moments, objective.conditional)
        below = (self.white.coordinates.shape[0], *spec.dims)
        self.shapes = list(zip(spec.dims, below, strict=False))
        scale = math.sqrt(moments.total_variance / moments.features[1])
        etas = [scale if eta == "learned" else float(eta) for eta in spec.eta_levels]
        priors = (*etas[1:], spec.eta_enc)
        self.fixed: dict[str, Float] = {}
        self.learned: dict[str, _Std] = {}
        for level, (sigma, units) in enumerate(zip(spec.sigma_levels, spec.dims, strict=True)):
            name = f"sigma_{level + 1}"
            if isinstance(sigma, str):
                logs = () if sigma == "shared" else (units,)
                self.learned[name] = _Std(logs, (units,), priors[level])
            else:
                self.fixed[name] = np.asarray(sigma) * np.ones(units)
        if spec.eta_levels[0] == "learned":
            self.learned["eta_dec"] = _Std((), (), scale)
        else:
            self.fixed["eta_dec"] = np.asarray(etas[0])
        fixed = "eta_dec" in self.fixed
        error = objective.weights[0] * self.white.total / etas[0] ** 2
        self.unit = min(error, 1.0) if fixed and error > 0 else 1.0

    def start(self, parameters: Mapping[str, Float], *, fresh: bool = False) -> Float:
        """Return the point where a model is.

        Args:
            parameters: Its encoders and stds.
            fresh: It is as it was initialised, which knows nothing of the data's units: its
                weights are then taken for white data, its stds for multiples of the priors'.
        """
        p, white = parameters, self.white
        encoders = [self.objective.encoder(p), *(p[f"W{k}"] for k in range(2, self.depth + 1))]
        if fresh:
            encoders[0] = encoders[0] @ white.modes.T
        else:
            encoders[0] = encoders[0] @ self.objective.second @ white.coordinates.T
            encoders = [W / p[f"sigma_{k}"][:, None] for k, W in enumerate(encoders, start=1)]
        logs = [
            np.log(p[name] * (std.size if fresh else 1.0)).ravel()[: math.prod(std.logs)]
            for name, std in self.learned.items()
        ]
        return np.concatenate([part.ravel() for part in (*encoders, *logs)])

    def random(self, generator: np.random.Generator) -> Float:
        """Return a random point: weights N(0, 0.3), logs of stds N(log of the prior's, 0.3)."""
        weights = [generator.normal(0.0, 0.3, shape) for shape in self.shapes]
        stds = self.learned.values()
        logs = [generator.normal(math.log(std.size), 0.3, std.logs) for std in stds]
        return np.concatenate([np.ravel(part) for part in (*weights, *logs)])

    def __call__(self, point: Float) -> tuple[float, Float]:
        """Return the loss, in `unit`s, and its gradient."""
        V, cross, p = self._model(point)
        white, A = self.white, V[:, : self.white.conditions]
        # In a CVAE, U2 x absorbs at no KL cost what U1 mean owes to the condition: only the
        # residual part lowers the error, all of the mean costs KL.
        direct = p["U1"] @ A
        terms, gradient = self.objective.of_levels(
            p, V @ V.T, cross + direct @ A.T, white.total + float(np.vdot(direct, direct))
        )
        # At their best the decoders have no gradient of their own: they may stand as constants.
        by_mean, by_cross = gradient["mean"], gradient["cross"].T
        gradient["W1"] = 2 * by_mean @ V + np.hstack([by_cross @ direct, by_cross @ white.cross])
        parts: list[Any] = []
        for level in range(1, self.depth + 1):
            W, std = p[f"W{level}"] if level > 1 else V, p[f"sigma_{level}"]
            by = gradient[f"W{level}"]
            parts.append(by * std[:, None])
            gradient[f"sigma_{level}"] += (by * W).sum(1) / std
        for name, learned in self.learned.items():
            by = gradient[name] * p[name]
            parts.append(by if learned.logs else np.sum(by))
        if self.unit < 1:
            terms = terms._replace(normaliser=0.0)
        slope = np.concatenate([np.ravel(part) for part in parts])
        return self.objective.weighed(terms) / self.unit, slope / self.unit

    def parameters(self, point: Float) -> dict[str, Float]:
        """Return the model at a point, its decoders at their best."""
        V, _, p = self._model(point)
        white, x = self.white, self.objective.condition
        encoder, U1 = V @ white.coordinates, white.target @ p["U1"]
        if self.objective.conditional:
            A = V[:, : white.conditions] @ white.coordinates[: white.conditions, x]
            p |= {"W2": encoder[:, x.stop :], "U2": white.K - U1 @ A}
        return p | {"W1": encoder[:, x], "U1": U1}

    @property
    def depth(self) -> int:
        """Number of levels."""
        return len(self.shapes)

    def _model(self, point: Float) -> tuple[Float, Float, dict[str, Float]]:
        """The first encoder on white data, the moment `E tm'` of its mean m, all else by name."""
        parts, start = [], 0
        for shape in (*self.shapes, *(std.logs for std in self.learned.values())):
            size = math.prod(shape)
            parts.append(point[start : start + size].reshape(shape))
            start += size
        p = dict(self.fixed)
        for (name, learned), log in zip(self.learned.items(), parts[self.depth :], strict=True):
            p[name] = np.exp(np.clip(log, -LOG_BOUND, LOG_BOUND)) * np.ones(learned.shape)
        # With T = W/std, S_l is std (T S_{l-1} T' + 1) std: what is in brackets can be inverted
        # however narrow the posteriors are.
        T, std = parts[0], p["sigma_1"]
        informed = T[:, self.white.conditions :]
        cross = self.white.cross @ informed.T
        p["U1"] = np.linalg.solve(informed @ informed.T + np.eye(len(T)), cross.T).T / std
        V = std[:, None] * T
        second = V @ V.T + np.diag(std**2)
        for level, T in enumerate(parts[1 : self.depth], start=2):
            above, read = p[f"sigma_{level}"], T @ second
            inner = read @ T.T + np.eye(len(T))
            p[f"W{level}"] = above[:, None] * T
            p[f"U{level}"] = np.linalg.solve(inner, read).T / above
            second = above[:, None] * inner * above
        return V, cross * std, p


class _Std(NamedTuple):
    """A learned std: the shape of its logs, its own shape, and its size before training."""

    logs: tuple[int, ...]
    shape: tuple[int, ...]
    size: float


@dataclass(frozen=True)
class _White:
    """Coordinates in which what the encoder reads is uncorrelated and of unit variance.

    It reads r: the input, or what a condition x leaves of the target, `y - K x`, after x itself.

    Attributes:
        coordinates: Rows that give the white (x, r), (white, features read).
        modes: The same rows orthonormal, as on data already white.
        conditions: How many of the rows are x's.
        target: Orthonormal coordinates of the target, (features of y, coordinates).
        cross: `E tr'` of the target t less K x and white r, (coordinates, white r).
        total: `E|t|^2`.
        K: Regression of y on x; None without a condition.
    """

    coordinates: Float
    modes: Float
    conditions: int
    target: Float
    cross: Any
    total: float
    K: Any = None

    @staticmethod
    def of(moments: Moments, conditional: bool) -> _White:
        from scipy import sparse  # slow to import, and only needed here

        stds, P = _modes(moments.xx, moments.xx)
        rows, total = (P / stds).T, moments.total_variance
        if not conditional and not moments.paired:
            return _White(rows, P.T, 0, P, sparse.diags_array(stds), total)
        cross = moments.yx @ rows.T
        if not conditional:
            return _White(rows, P.T, 0, np.eye(len(cross)), cross, total)
        K = cross @ rows
        left = moments.yy - cross @ cross.T
        stds, Q = _modes(left, moments.yy)
        inverse = (Q / stds).T
        return _White(
            np.block([[rows, np.zeros((len(rows), len(left)))], [-inverse @ K, inverse]]),
            linalg.block_diag(P.T, Q.T),
            len(rows),
            Q,
            sparse.diags_array(stds),
            total - float(np.vdot(cross, cross)),
            K,
        )


def _modes(second: Float, whole: Float) -> tuple[Float, Float]:
    """Stds and directions of the modes of a second moment that is a part of another.

    Directions whose variance is below the rounding of the whole have none.
    """
    values, vectors = np.linalg.eigh((second + second.T) / 2)
    keep = values > np.linalg.norm(whole) * len(values) * np.finfo(float).eps
    stds: Float = np.sqrt(values[keep])
    return stds, vectors[:, keep]


class Descent(NamedTuple):
    """Where a minimisation came to, and why it ended: `FINISHED` or `LIMIT`."""

    point: Float
    stopped: str


def descend(
    function: Callable[[Float], tuple[float, Float]],
    start: Float,
    *,
    limit: int = ITERATIONS,
    after: Callable[[int, Float], None] = lambda iteration, point: None,
) -> Descent:
    """Minimise by L-BFGS, started anew from its result while that still gains.

    Args:
        function: Returns value and gradient.
        start: Where to begin.
        limit: Iterations at most.
        after: Called after each iteration with its number and point.

    Raises:
        NonFiniteLossError: The function became NaN or infinite, or a matrix singular.

    Example:
        >>> found = descend(lambda x: (float(x @ x), 2 * x), np.ones(3))
        >>> bool(np.allclose(found.point, 0)), found.stopped
        (True, 'finished')
    """
    from scipy.optimize import minimize  # slow to import, and only needed here

    done = 0

    def checked(point: Float) -> tuple[float, Float]:
        value, gradient = math.nan, point
        with np.errstate(all="ignore"), contextlib.suppress(np.linalg.LinAlgError):
            value, gradient = function(point)
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"loss at iteration {done}", "NaN or inf", "a finite loss",
                "Check the data, and with pc.forecast that the loss has a minimum.",
            )  # fmt: skip
        return value, gradient

    def count(xk: Float) -> None:
        nonlocal done
        done += 1
        after(done, xk)

    point: Any = start
    best, converged = math.inf, False
    while done < limit and not converged:
        options: Any = {
            "maxcor": 30, "maxiter": limit - done, "maxfun": 20 * limit,
            "ftol": 1e-16, "gtol": 1e-11,
        }  # fmt: skip
        found = minimize(
            checked, point, jac=True, method="L-BFGS-B", callback=count, options=options
        )
        point, value = found.x, float(found.fun)
        converged = best - value < CONVERGED * max(1.0, abs(value))
        best = value
    return Descent(point, FINISHED if converged else LIMIT)


@dataclass(frozen=True, eq=False)
class Minimum:
    """Best of several numerical minimisations.

    Attributes:
        loss: Lowest loss found, nats per sample.
        losses: Loss of every restart.
        parameters: The parameters of the lowest, named as in `Forecast.parameters`.
        singular_values: Per level, those of W_l S_{l-1}^{1/2} and of U_l, descending.
        stopped: Of every restart, "finished" or "iteration limit": then it was not at a minimum.
    """

    loss: float
    losses: tuple[float, ...]
    parameters: Mapping[str, Float]
    singular_values: list[tuple[Float, Float]]
    stopped: tuple[str, ...]


def minimise(
    data: Moments | Any,
    spec: Spec,
    *,
    restarts: int = 8,
    generator: np.random.Generator | None = None,
    after_restart: Callable[[], None] = lambda: None,
) -> Minimum:
    """Minimise the exact objective by L-BFGS from random starts.

    For cases without a closed form, and to check those with one. Nothing of the theory is used.

    Args:
        data: As for `forecast`.
        spec: The hyperparameters.
        restarts: Number of random starts.
        generator: Source of the starts; None seeds one with 0.
        after_restart: Called after each restart, for progress.

    Raises:
        InvalidArgumentError: No restart, or `spec` is not a spec.
        DataError: The data cannot be used.
        NonFiniteLossError: The loss became NaN or infinite.

    Example:
        >>> from posterior_collapse.specs import HVAESpec
        >>> m = Moments.from_matrices(np.diag([4.0, 1.0]))
        >>> spec = HVAESpec((2, 1), sigma_1=(0.3, 0.7), sigma_2=0.5)  # no closed form
        >>> len(minimise(m, spec, restarts=2).losses)
        2
    """
    restarts = checks.whole("restarts", restarts, 1, example=8)
    objective = ExactObjective(data, spec)
    reduced = ReducedObjective(objective)
    generator = generator or np.random.default_rng(0)
    losses, found, stopped = [], [], []
    for _ in range(restarts):
        run = descend(reduced, reduced.random(generator))
        found.append(reduced.parameters(run.point))
        losses.append(objective.loss(found[-1]))
        stopped.append(run.stopped)
        after_restart()
    best = found[int(np.argmin(losses))]
    return Minimum(
        min(losses), tuple(losses), best, objective.singular_values(best), tuple(stopped)
    )
