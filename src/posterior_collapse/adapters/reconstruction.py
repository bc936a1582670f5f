"""What the reconstruction term of a loss is: which likelihood's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import expit, softmax, xlogy
from torch import Tensor

from posterior_collapse.adapters.probing import ASKED, Probe, along, random_numbers
from posterior_collapse.arrays import Float
from posterior_collapse.checks import Likelihood
from posterior_collapse.errors import InvalidArgumentError

TOLERANCE = 1e-3
"""Relative: a loss may compute in float32."""
ROWS = 6
"""Rows that a reading goes by, in as many batches as it takes."""
FAR = (3.0, 30.0)
"""Errors at which a robust loss shows that it is no squared one."""
MOST_TRIED = 2**25
"""Numbers of outputs that are looked at for class numbers which count nothing."""


class ReconstructionReading(NamedTuple):
    """How the loss depends on the reconstruction.

    Attributes:
        kind: Of a likelihood: `"squared"`, `"log squared"` (a Gaussian whose std is fitted to the
            batch), `"bernoulli"`, `"bernoulli logits"`, `"poisson"` (of log rates), `"poisson
            rates"`, `"negative-binomial"` (of log means), `"negative-binomial logits"`,
            `"negative-binomial means"`, `"categorical"` (of logits), `"categorical
            log-probabilities"`, `"categorical probabilities"`. Else `"absolute"`, `"other"` or
            `"none"`.
        weight: Its factor, per sample and summed over features.
        weights: Factors per feature, shape of a sample, where they differ; `weight` is their mean.
        axis: Of the classes of a categorical, among the features.
        dispersion: r of a negative binomial; None if it is one per feature.
        apart: Whether each feature is compared with its own target alone.
        masked: Targets on which it is another than on made-up ones, in words; None: none known.
        clipped: Whether outputs are cut off where they leave a range, as by clamp or relu.
        near: Of an `"other"` one, the kind that it has in (0, 1), but not of large errors.
        ignored: Class numbers that count nothing, as that of padding.
        fitted: Of a squared error whose std is a parameter that trains with the model: the factor
            of the Gaussian's -log p that it is.
        own: How many other parameters of the loss's own weigh the error or the KL.
    """

    kind: str
    weight: float
    weights: Any = None
    axis: int | None = None
    dispersion: float | None = None
    apart: bool = True
    masked: str | None = None
    clipped: bool = False
    near: str | None = None
    ignored: tuple[int, ...] = ()
    fitted: float | None = None
    own: int = 0

    @property
    def fits_std(self) -> bool:
        """Whether it is a Gaussian's whose std goes by the errors."""
        return self.kind == "log squared" or (self.kind == "squared" and self.fitted is not None)

    @property
    def likelihood(self) -> Likelihood:
        """What it is the negative log of; "other": none that is known, or weights that differ."""
        return KNOWN[self.kind][0] if self.kind in KNOWN and self.weights is None else "other"

    @property
    def link(self) -> str | None:
        """What the decoder gives: "logits", "probabilities", "log rates", ...; None: unknown."""
        return KNOWN[self.kind][1] if self.kind in KNOWN else None

    def as_other(self, masked: str | None = None) -> ReconstructionReading:
        """Return the reading of an error that is of no known kind on the data."""
        own = self.own + (self.fitted is not None)
        return self._replace(kind="other", weights=None, fitted=None, own=own, masked=masked)

    @property
    def each(self) -> Any:
        """Its factor, or those of the features where they differ."""
        return self.weight if self.weights is None else self.weights


KNOWN: dict[str, tuple[Likelihood, str]] = {
    "squared": ("gaussian", "means"),
    "log squared": ("gaussian", "means"),
    "bernoulli": ("bernoulli", "probabilities"),
    "bernoulli logits": ("bernoulli", "logits"),
    "poisson": ("poisson", "log rates"),
    "poisson rates": ("poisson", "rates"),
    "negative-binomial": ("negative-binomial", "log means"),
    "negative-binomial logits": ("negative-binomial", "logits"),
    "negative-binomial means": ("negative-binomial", "means"),
    "categorical": ("categorical", "logits"),
    "categorical log-probabilities": ("categorical", "log-probabilities"),
    "categorical probabilities": ("categorical", "probabilities"),
}
"""Likelihood and link of each kind that has them."""


def plain(value: float) -> float:
    """Return a value without the rounding of how it was found.

    Example:
        >>> plain(0.31999999999999995)
        0.32
    """
    return float(f"{value:.12g}")


class _Rows(NamedTuple):
    """Reconstructions, targets and gradients of rows, (rows, *features), as for one row alone."""

    output: Float
    target: Float
    gradient: Float


def read_reconstruction(probe: Probe) -> ReconstructionReading:
    """Return what the gradient with respect to the reconstruction says of the loss.

    Raises:
        InvalidArgumentError: The loss raises, is not finite, is random or gives no single number.
    """
    y_hat, y = probe.made_up()
    if probe.value(y_hat, y, *ASKED[0]) != probe.value(y_hat, y, *ASKED[0]):
        raise random_numbers()
    batches = [_look(probe, seed) for seed in range(max(2, -(-ROWS // probe.sizes.batch)))]
    rows = _Rows(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))
    if not rows.gradient.any():
        return ReconstructionReading("none", 0.0)
    for kind, slope, axis in _slopes(rows, probe):
        found = _fitted(kind, rows, slope, axis)
        if found is not None and _is_likelihood(probe, found):
            return _beyond(probe, found) if kind in ("squared", "absolute") else found
    fitted = _fitted_std(batches)
    if fitted is not None:
        return fitted
    return _negative_binomial(rows) or _other(probe)


def _look(probe: Probe, seed: int, error: float | None = None, moved: str = "output") -> _Rows:
    """Return what a batch shows; with errors of a given size, of either sign."""
    y_hat, y = probe.made_up(seed)
    alike = _alike(probe, y)
    if error is not None:
        away = error * (2.0 * (y_hat > 0.5) - 1.0) * (0.5 + y_hat)
        if moved == "output":
            y_hat = torch.from_numpy(alike.copy()) + away
        else:
            y = y_hat + away
            alike = y.numpy()
    gradient = probe.gradient(y_hat, y) * len(y)
    return _Rows(y_hat.numpy(), alike, gradient)


def _alike(probe: Probe, y: Any) -> Float:
    """Return targets of the reconstruction's shape: class numbers as one-hot."""
    hot = probe.one_hot(y) if probe.target.values == "classes" else y
    return np.asarray(hot, dtype=np.float64)


@np.errstate(all="ignore")  # of what outputs of data give, a kind that is none of theirs
def _slopes(rows: _Rows, probe: Probe) -> list[tuple[str, Float, int | None]]:
    """Return the gradient that each known term of weight 1 has, with the axis of its classes."""
    o, y, _ = rows
    known = probe.target.axis
    axes = range(-1, -o.ndim, -1) if known is None else (known,)
    of_numbers: list[tuple[str, Float, int | None]] = [
        ("squared", 2 * (o - y), None),
        ("absolute", np.sign(o - y), None),
        ("bernoulli", (o - y) / (o * (1 - o)), None),
        ("bernoulli logits", expit(o) - y, None),
        ("poisson", np.exp(o) - y, None),
        ("poisson rates", 1 - y / o, None),
    ]
    of_classes: list[tuple[str, Float, int | None]] = []
    for axis in axes:
        of_row = along(axis)
        total = y.sum(axis=of_row, keepdims=True)
        of_classes.append(("categorical", softmax(o, axis=of_row) * total - y, axis))
    of_classes.append(("categorical log-probabilities", -y, axes[0]))
    of_classes.append(("categorical probabilities", -y / o, axes[0]))
    return of_numbers + of_classes if known is None else of_classes + of_numbers


def _fitted(kind: str, rows: _Rows, slope: Float, axis: int | None) -> ReconstructionReading | None:
    """Return the reading if gradients are a multiple of the slope, of each feature its own."""
    g = rows.gradient
    scale = np.abs(g).max()
    if not np.isfinite(slope).all() or not slope.any():
        return None
    square = np.square(slope).sum(axis=0)
    if axis is not None and (square == 0).any():  # a class that none of the rows has
        square = np.broadcast_to(square.mean(), square.shape)
    weight = float((g * slope).sum() / np.square(slope).sum())
    if np.abs(g - weight * slope).max() <= TOLERANCE * scale:
        return ReconstructionReading(kind, plain(weight), axis=axis)
    if axis is not None:
        return None
    weights = (g * slope).sum(axis=0) / np.where(square > 0, square, 1.0)
    if np.abs(g - weights * slope).max() <= TOLERANCE * scale:
        return ReconstructionReading(kind, float(weights.mean()), weights=weights)
    return None


def _beyond(probe: Probe, found: ReconstructionReading) -> ReconstructionReading:
    """Return what an error is found to be once outputs leave (0, 1) too."""
    if _holds_far(probe, found, "output"):
        return found
    # Of a robust error large ones count less wherever they are.
    if _clips(probe) and _holds_far(probe, found, "target"):
        return found._replace(clipped=True)
    return _other(probe)._replace(near=found.kind)


def _clips(probe: Probe) -> bool:
    """Whether outputs far out are cut off: none is moved, even where it is next to its target."""
    y_hat, y = probe.made_up()
    for shift in (-FAR[-1], FAR[-1]):
        try:
            if not probe.gradient(y_hat + shift, y + shift).any():
                return True
        except InvalidArgumentError:
            continue
    return False


def _holds_far(probe: Probe, found: ReconstructionReading, moved: str) -> bool:
    """Whether large errors count as small ones do; a loss that refuses them is not asked."""
    for error in FAR:
        try:
            o, y, g = _look(probe, 1, error, moved)
        except InvalidArgumentError:
            continue
        expected = found.each * (2 * (o - y) if found.kind == "squared" else np.sign(o - y))
        if np.abs(g - expected).max() > TOLERANCE * np.abs(expected).max():
            return False
    return True


def ignored_classes(probe: Probe) -> tuple[int, ...]:
    """Return class numbers that pull at no output, as that of padding under `ignore_index`.

    Of a large vocabulary the last and the first are tried, which such a number is among.
    """
    values, axis = probe.target
    if values != "classes" or axis is None:
        return ()
    y_hat, y = probe.made_up()
    classes, positions = probe.sizes.features[axis], y.numel()
    calls = min(-(-classes // positions), max(1, MOST_TRIED // y_hat.numel()))

    def pulls(target: Any) -> Any:
        return torch.from_numpy(np.abs(probe.gradient(y_hat, target)).max(axis=along(axis)) > 0)

    try:
        found: set[int] = set()
        for call in range(calls):
            tried = (torch.arange(positions) + call * positions - 1) % classes
            moved = pulls(tried.reshape(y.shape)).flatten()
            found |= set(tried[~moved].tolist()) - set(tried[moved].tolist())
        if not found or len(found) > classes - 2:
            return ()
        ignored = tuple(sorted(found))
        # Wherever it stands, and nothing else: not the last position of a shifted target, say.
        mixed = replace(probe, ignored=ignored).made_up()[1].flatten()
        mixed[::2] = torch.tensor(ignored).repeat(len(mixed))[: len(mixed[::2])]
        for turn in (0, 1):
            target = mixed.roll(turn).reshape(y.shape)
            if not torch.equal(pulls(target), ~torch.isin(target, torch.tensor(ignored))):
                return ()
    except InvalidArgumentError:
        return ()
    return ignored


def weight_on(probe: Probe, found: ReconstructionReading, y: Tensor) -> float | None:
    """Return the weight that an error of this kind has on some targets; None: it is another."""
    y_hat, _ = probe.made_up()
    try:
        gradient = probe.gradient(y_hat, y) * len(y)
    except InvalidArgumentError:
        return None
    rows = _Rows(y_hat.numpy(), _alike(probe, y), gradient)
    for kind, slope, axis in _slopes(rows, probe):
        if (kind, axis) == (found.kind, found.axis):
            there = _fitted(kind, rows, slope, axis)
            return None if there is None else there.weight
    return None


def holds_on(
    probe: Probe, found: ReconstructionReading, y: Tensor, y_hat: Tensor | None = None
) -> bool:
    """Whether the error is on these targets, or outputs, what it was found to be on made-up ones.

    A loss that refuses them is not asked, nor one whose gradient is of no form known here.
    """
    made_up, usual = probe.made_up()
    y_hat = made_up if y_hat is None else y_hat
    of_counts = found.kind.startswith("negative-binomial")
    try:
        gradient, *others = (
            probe.gradient(y_hat, there) * len(y)
            for there in (y, *((usual, usual + 1) if of_counts else ()))
        )
    except InvalidArgumentError:
        return True
    rows = _Rows(y_hat.numpy(), _alike(probe, y), gradient)
    if found.kind == "log squared":
        fitted = _fitted_std([rows])
        return fitted is not None and bool(np.isclose(fitted.weight, found.weight, rtol=0.01))
    if of_counts:  # whatever its dispersions, the slope is linear in the target
        at, beyond = others
        return _agree(gradient, at + (rows.target - usual.numpy()) * (beyond - at))
    for kind, slope, axis in _slopes(rows, probe):
        if (kind, axis) == (found.kind, found.axis):
            return _agree(gradient, found.each * slope)
    return True


def _agree(gradient: Float, expected: Float) -> bool:
    """Whether each number of a gradient is as expected: that of a masked target may be small.

    The second limit is what single precision and differences can tell.
    """
    size = np.abs(expected)
    allowed = np.maximum(10 * TOLERANCE * size, 1e-5 * np.nanmax(size))
    return bool((np.abs(gradient - expected) <= allowed).all())


def _is_likelihood(probe: Probe, found: ReconstructionReading) -> bool:
    """Whether a loss with the gradient of `-y log p` is that, as a function of y too.

    A cross-entropy of logits has that gradient with respect to its target, but more beside. That of
    `y log y`, in a Kullback-Leibler divergence, is still one. Other kinds are not asked.
    """
    if probe.target.values == "classes" or not found.kind.startswith("categorical "):
        return True
    o, y = probe.made_up()
    log_p = (o if found.kind.endswith("log-probabilities") else o.log()).numpy()
    beside, entropy = [], []
    for part in (0.5, 0.75, 1.0):
        target = part * y.numpy()
        try:
            total = probe.value(o, part * y) * len(y)
        except InvalidArgumentError:  # of whole targets only
            return True
        beside.append(total + float((found.each * target * log_p).sum()))
        entropy.append(float((found.each * xlogy(target, target)).sum()))
    allowed = TOLERANCE * float(np.abs(found.each * y.numpy() * log_p).sum())
    return any(
        np.ptp(np.subtract(beside, times * np.array(entropy))) <= allowed for times in (0.0, 1.0)
    )


def _fitted_std(batches: Sequence[_Rows]) -> ReconstructionReading | None:
    """Return the reading of the log of a squared error, of the batch's or of each sample's."""
    for over in (None, tuple(range(1, batches[0].output.ndim))):
        found = []
        for o, y, g in batches:
            squares = np.square(o - y).sum(axis=over, keepdims=True)
            count = len(o) if over is None else 1
            found.append(g / (o - y) * squares / (2 * count))
        weights = np.concatenate(found)
        if np.ptp(weights) <= TOLERANCE * abs(weights.flat[0]):
            return ReconstructionReading("log squared", float(weights.mean()))
    return None


def _negative_binomial(rows: _Rows) -> ReconstructionReading | None:
    """Return the reading of a negative binomial: variance / m is linear in the mean m."""
    o, y, g = (part.reshape(len(part), -1) for part in rows)
    if len(o) < 4:
        return None
    for kind, m, times in (
        ("negative-binomial", np.exp(o), 1.0),
        ("negative-binomial means", o, o),
    ):
        with np.errstate(all="ignore"):
            found = _two_terms(np.ones_like(m), m, (m - y) / (g * times))  # 1/w + m / (w r)
        if found is not None:
            return _of_dispersion(kind, 1 / found[0], found[0] / found[1])
    # total_count r and logits o: g = w ((r + y) expit(o) - y)
    found = _two_terms(expit(o), y * (expit(o) - 1), g)
    if found is None:
        return None
    return _of_dispersion("negative-binomial logits", found[1], found[0] / found[1])


def _two_terms(first: Float, second: Float, value: Float) -> tuple[Float, Float] | None:
    """Return the factors of one sign, per column, by which two terms make a value, if they do."""
    if not np.isfinite(value).all():
        return None
    fits = [
        np.linalg.lstsq(np.stack(terms, 1), whole, rcond=None)[0]
        for *terms, whole in zip(first.T, second.T, value.T, strict=True)
    ]
    a, b = np.array(fits).T
    miss = np.abs(a * first + b * second - value).max()
    fit = miss <= TOLERANCE * np.abs(value).max() and (a * b > 0).all()
    return (a, b) if fit else None


def _of_dispersion(kind: str, weights: Float, r: Float) -> ReconstructionReading | None:
    same = np.ptp(weights) <= 10 * TOLERANCE * abs(weights[0])
    if not same:
        return None
    one = np.ptp(r) <= 10 * TOLERANCE * abs(r[0])
    dispersion = float(np.median(r)) if one else None
    return ReconstructionReading(kind, float(np.median(weights)), dispersion=dispersion)


def _other(probe: Probe) -> ReconstructionReading:
    """Return what is left: its weight is the slope at one error, to see how it is reduced."""
    y_hat, y = probe.made_up()
    if probe.target.axis is None:
        values = {"soft": 0.5, "binary": 1.0, "counts": 2.0}
        y_hat = torch.full_like(y_hat, 0.7)
        y = torch.full_like(y, values[probe.target.values])
    error = y_hat.numpy() - _alike(probe, y)
    gradient = probe.gradient(y_hat, y) * len(y)
    weight = float((gradient * error).sum() / (2 * np.square(error).sum()))
    return ReconstructionReading("other", weight, apart=_apart(probe))


def _apart(probe: Probe) -> bool:
    """Whether moving half of the features leaves the others' gradients as they were."""
    y_hat, y = probe.made_up()
    moved = y_hat.clone().flatten(1)
    moved[:, ::2] = 0.5 * moved[:, ::2] + 0.2
    still = np.s_[:, 1::2]
    before, after = (
        probe.gradient(at.reshape(y_hat.shape), y).reshape(len(y), -1)[still]
        for at in (y_hat, moved)
    )
    scale = np.abs(before).max(initial=0.0)
    return bool(np.abs(before - after).max(initial=0.0) <= TOLERANCE * scale)
