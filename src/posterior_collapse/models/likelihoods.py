"""What a decoder's output says of the data: their loss and their distribution, for each likelihood.

A Gaussian's output is its mean, and its loss the squared error. Of the others the output is free to
be any number: the logits of a Bernoulli or a categorical, the log rates of a Poisson, the log means
of a negative binomial. The loss is -log p(y|z) without what the data alone decide, such as log y!
of counts; the distribution keeps everything.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, NegativeBinomial, Normal, Poisson
from torch.nn import functional

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models.layers import Scale
from posterior_collapse.specs import Spec


class Observation(nn.Module, ABC):
    """`p(y|z)` of a likelihood that is not Gaussian, from the decoder's output."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return -log p(y|z) in nats but for what the data alone decide.

        Args:
            output: Of the decoder, (..., dim y).
            target: y, (..., dim y).

        Returns:
            Summed over features, (...).
        """
        return _known(*self.loss_and_slope(output.detach(), target), output)

    @abstractmethod
    def loss_and_slope(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of rows, (...), and its slope along the output, (..., dim y).

        Autograd would find the slope with several times the operations.
        """

    @abstractmethod
    def distribution(self, output: Tensor) -> Distribution:
        """Return `p(y|z)`, elementwise: its `log_prob`, summed over features, is that of rows.

        Args:
            output: Of the decoder, (..., dim y).
        """


def _known(loss: Tensor, slope: Tensor, output: Tensor) -> Tensor:
    """Return a loss, (...), of which the slope along something, (..., dim), is known."""
    return cast(Tensor, _Known.apply(loss, slope, output))  # type: ignore[no-untyped-call]


class _Known(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(loss: Tensor, slope: Tensor, output: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor]:
        (slope,) = ctx.saved_tensors
        return gradients[0], None, gradients[0].unsqueeze(-1) * slope


FACTORS = 64
"""Numbers from 1/2 to 1 whose product is a number of single precision."""


class _Bernoulli(Observation):
    """Of logits; targets may be soft, from 0 to 1."""

    def loss_and_slope(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.sigmoid(output)
        # log(1 + exp(output)) is output^+ - log(surer), and of many such logs one product tells.
        surer = torch.maximum(mean, 1 - mean)
        products = [part.prod(-1) for part in torch.split(surer, FACTORS, -1)]
        logs = torch.stack(products, -1).log().sum(-1)
        return (torch.relu(output) - target * output).sum(-1) - logs, mean - target

    def distribution(self, output: Tensor) -> Distribution:
        return Bernoulli(logits=output, validate_args=False)


class _Poisson(Observation):
    """Of log rates."""

    def loss_and_slope(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        rate = output.exp()
        return (rate - target * output).sum(-1), rate - target

    def distribution(self, output: Tensor) -> Distribution:
        return Poisson(output.exp(), validate_args=False)


LEAST, MOST = 1e-6, 1e6
"""Of a learned dispersion: data that vary no more than a Poisson's would drive it up for ever."""


class _NegativeBinomial(Observation):
    """Of log means, with dispersion r: the variance at mean m is `m + m^2 / r`.

    A fixed r is a buffer, a learned one a parameter per feature (`dispersion.log`). Where r is
    fixed, the data alone decide the Gamma functions of r and y, and they are left out.
    """

    def __init__(self, dispersion: float | str, dim: int) -> None:
        super().__init__()
        self.dispersion = Scale(dispersion, (dim,) if dispersion == "learned" else ())

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        loss = super().loss(output, target)
        if not self.dispersion.learned:
            return loss
        log_r = self.r.log().expand_as(output)
        return _known(loss, self._slope_along_log_r(output.detach(), target), log_r)

    def loss_and_slope(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        r = self.r.detach()
        odds = output - r.log()  # the log of m / r
        loss = (r + target) * _softplus(odds) - target * output
        if self.dispersion.learned:
            loss = loss - _log_rising(r, target)[0]
        return loss.sum(-1), (r + target) * torch.sigmoid(odds) - target

    def _slope_along_log_r(self, output: Tensor, target: Tensor) -> Tensor:
        r = self.r.detach()
        odds = output - r.log()
        direct = r * _softplus(odds) - (r + target) * torch.sigmoid(odds)
        return direct - _log_rising(r, target)[1]

    def distribution(self, output: Tensor) -> Distribution:
        r = self.r
        return NegativeBinomial(r, logits=output - r.log(), validate_args=False)

    @property
    def r(self) -> Tensor:
        """The dispersion: one for all features, (), or one for each."""
        r = cast(Tensor, self.dispersion())
        return r.clamp(LEAST, MOST) if self.dispersion.learned else r


def log_prob(p: Distribution, value: Tensor) -> Tensor:
    """Return log p of a value as `p.log_prob` does, of a negative binomial to more digits.

    torch's own subtracts Gamma functions of r from each other, which in single precision leaves no
    digit from an r of 10^6 on, where the counts are all but a Poisson's.

    Example:
        >>> counts, logits = torch.tensor([0.0, 3.0]), torch.tensor(-16.118096)  # a mean of 1
        >>> log_prob(NegativeBinomial(1e7, logits=logits), counts)
        tensor([-1.0000, -2.7918])
        >>> Poisson(1.0).log_prob(counts)
        tensor([-1.0000, -2.7918])
    """
    if not isinstance(p, NegativeBinomial):
        return p.log_prob(value)
    r, odds = p.total_count, p.logits
    alone = _log_rising(r.clamp(max=ALL_BUT_POISSON), value)[0] - (value + 1).lgamma()
    near = odds.clamp(-80, 80)  # whose exp single precision holds
    far = torch.where(value > 0, odds - near, 0.0)  # of a mean of 0 minus infinity
    of_mean = torch.xlogy(value, r * near.exp()) + value * far
    return alone + of_mean - (r + value) * _softplus(odds)


ALL_BUT_POISSON = 1e15
"""A dispersion whose square fits single precision, and beyond which no count tells it."""


def _softplus(x: Tensor) -> Tensor:
    """Return `log(1 + exp(x))` to all digits; torch's own is cut off."""
    return -functional.logsigmoid(-x)


def _log_rising(r: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return `c = log(Gamma(r + y) / Gamma(r)) - y log r`, and r dc/dr; both are 0 of infinite r.

    Between Gamma functions of a large r all digits would be lost, and torch takes long for them.
    So r is moved up by 6, where Stirling's series has all digits, and the series are subtracted.
    """
    base, x = r + 6, r + y
    log = torch.log1p(y / base)
    # (r + k) (r + 5 - k) is low + k (5 - k), and likewise of x: six factors, two by two.
    low, high = r * (r + 5), x * (x + 5)
    factors = (high / low) * ((high + 4) / (low + 4)) * ((high + 6) / (low + 6))
    (stirling, bend), (stirling_base, bend_base) = _stirling(x + 6), _stirling(base)
    c = (x + 5.5) * log - y + y * torch.log1p(6 / r) + stirling - stirling_base - factors.log()
    moved = _reciprocals(x, high) - _reciprocals(r, low)
    return c, r * (log + bend - bend_base - moved) - y


def _stirling(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return `log Gamma(x) - (x - 1/2) log x + x - log(2 pi) / 2`, and its slope less `1 / (2 x)`.

    To 11 digits from 6 on; DLMF 5.11.1 and 5.11.2.
    """
    inverse = 1 / x
    q = inverse.square()
    value = inverse * (1 / 12 - q * (1 / 360 - q * (1 / 1260 - q * (1 / 1680 - q / 1188))))
    slope = q * (1 / 12 - q * (1 / 120 - q * (1 / 252 - q * (1 / 240 - q / 132))))
    return value, -0.5 * inverse - slope


def _reciprocals(x: Tensor, ends: Tensor) -> Tensor:
    """Sum of `1 / (x + k)` for k from 0 to 5, with `ends = x (x + 5)`."""
    return (2 * x + 5) * (1 / ends + 1 / (ends + 4) + 1 / (ends + 6))


class Categorical(Observation):
    """Of logits, for one-hot positions side by side.

    Args:
        classes: Number of classes of each position.
    """

    def __init__(self, classes: Sequence[int]) -> None:
        super().__init__()
        self.classes = tuple(classes)

    def loss_and_slope(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of rows, and probabilities less targets."""
        normalisers, means = [], []
        for part in _positions(output, self.classes):
            normaliser = part.logsumexp(-1, keepdim=True)
            normalisers.append(normaliser.sum((-1, -2)))
            means.append((part - normaliser).exp().flatten(-2))
        total = torch.stack(normalisers).sum(0) - (target * output).sum(-1)
        return total, torch.cat(means, -1) - target

    def distribution(self, output: Tensor) -> Distribution:
        """Return `OneHots` of the logits."""
        return OneHots(output, self.classes)


def _positions(values: Tensor, classes: Sequence[int]) -> list[Tensor]:
    """Views (..., positions, classes) of (..., dim), one for each row of positions of one width."""
    found, start = [], 0
    for width, row in groupby(classes):
        positions = len(list(row))
        part = values.narrow(-1, start, positions * width)
        found.append(part.reshape(*part.shape[:-1], positions, width))
        start += positions * width
    return found


class OneHots(Distribution):
    """Independent one-hot vectors side by side, as flat rows.

    Unlike `OneHotCategorical` it is elementwise, and positions may have any numbers of classes:
    `log_prob` is that of each feature, `y_k log p_k`, and its sum over features that of a row.

    Args:
        logits: (..., dim), normalised or not.
        classes: Number of classes of each position; their sum is dim.

    Attributes:
        classes: Number of classes of each position.
        logits: `log p`, (..., dim).

    Example:
        >>> OneHots(torch.zeros(5), (2, 3)).mean
        tensor([0.5000, 0.5000, 0.3333, 0.3333, 0.3333])
    """

    arg_constraints: ClassVar = {}

    def __init__(self, logits: Tensor, classes: Sequence[int]) -> None:
        self.classes = tuple(classes)
        self.logits = self._each(logits, lambda part: part.log_softmax(-1))
        super().__init__(logits.shape, validate_args=False)

    @property
    def probs(self) -> Tensor:
        """The probabilities, (..., dim)."""
        return self.logits.exp()

    @property
    def mean(self) -> Tensor:
        """The probabilities, (..., dim)."""
        return self.probs

    @property
    def variance(self) -> Tensor:
        """Of each feature, (..., dim)."""
        return self.mean * (1 - self.mean)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return each feature's part, (..., dim), of the log probability of rows (..., dim)."""
        # A class that is ruled out costs nothing where it is not there.
        return torch.where(value > 0, value * self.logits, 0.0)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return one draw, (..., dim)."""
        # The class whose exponential clock of rate p rings first is k with probability p_k.
        waits = torch.empty_like(self.logits).exponential_(generator=generator)
        return self._each(self.logits - waits.log(), _largest)

    def _each(self, values: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        parts = [function(part).flatten(-2) for part in _positions(values, self.classes)]
        return torch.cat(parts, -1)


def _largest(scores: Tensor) -> Tensor:
    chosen = scores.argmax(-1, keepdim=True)
    return torch.zeros_like(scores).scatter_(-1, chosen, 1.0)


def observation_of(spec: Spec, dim: int, classes: Sequence[int] | None) -> Observation | None:
    """Return what turns decoder outputs, (..., dim), into `p(y|z)`; None for a Gaussian.

    Raises:
        InvalidArgumentError: A likelihood that has no loss here, or classes that are not dim.
    """
    likelihood = spec.likelihood
    if likelihood == "other":
        raise InvalidArgumentError(
            "likelihood",
            "'other' for a model to train",
            "a likelihood that has a loss, such as 'bernoulli'",
            "Train with your own loop, and diagnose the model by adapters.from_callable.",
        )
    if likelihood == "bernoulli":
        return _Bernoulli()
    if likelihood == "poisson":
        return _Poisson()
    if likelihood == "negative-binomial":
        return _NegativeBinomial(spec.dispersion, dim)
    if likelihood == "categorical":
        classes = (dim,) if classes is None else tuple(classes)
        if sum(classes) != dim:
            raise InvalidArgumentError(
                "classes", f"{sum(classes)} in all", f"{dim}, one per feature of y",
                "Pass the number of classes of each position.",
            )  # fmt: skip
        return Categorical(classes)
    return None


def draw(
    p: Distribution, generator: torch.Generator | None, shape: Sequence[int] | None = None
) -> Tensor:
    """Return a draw of a distribution that a model gives, its mean where there is no generator.

    Args:
        p: A `Normal`, or what an `Observation` gives.
        generator: On the device of p.
        shape: Of what is drawn, for a `Normal`; None: that of the mean.

    Raises:
        InvalidArgumentError: Another distribution.
    """
    mean = p.mean
    shape = tuple(shape or mean.shape)
    if generator is None:
        return mean.expand(shape)
    if isinstance(p, Normal):
        noise = torch.randn(shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return mean + p.stddev * noise
    if isinstance(p, OneHots):
        return p.draw(generator)
    if isinstance(p, Bernoulli):
        return torch.bernoulli(mean, generator=generator)
    if isinstance(p, Poisson):
        return torch.poisson(mean, generator=generator)
    if isinstance(p, NegativeBinomial):
        # A Poisson whose rate is a Gamma's: of shape r and mean m.
        r = p.total_count.expand_as(mean)
        gamma = torch._standard_gamma(r, generator=generator)
        return torch.poisson(gamma * (mean / r), generator=generator)
    raise InvalidArgumentError(
        "noise", f"True for a decoder that gives a {type(p).__name__}",
        "a Normal, Bernoulli, Poisson, NegativeBinomial or OneHots", "Leave noise away.",
    )  # fmt: skip
