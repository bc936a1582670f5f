"""What encoders and decoders return, read as distributions of single units and features."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Distribution,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Poisson,
)

from posterior_collapse.arrays import Float
from posterior_collapse.diagnosis.scores import Meant, elementwise
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models import OneHots
from posterior_collapse.models.layers import Gaussian
from posterior_collapse.specs import Likelihood, Spec

Output = Literal["mean", "link"]
"""What a decoder's tensor holds: the mean of each feature (probabilities, rates), or its link
(logits, log rates)."""

WORDS: dict[Likelihood, tuple[str, str]] = {
    "bernoulli": ("probabilities", "logits"),
    "categorical": ("probabilities", "logits"),
    "poisson": ("rates", "log rates"),
    "negative-binomial": ("means", "log means"),
}
KINDS: dict[Likelihood, type[Distribution]] = {
    "gaussian": Normal,
    "bernoulli": Bernoulli,
    "poisson": Poisson,
    "negative-binomial": NegativeBinomial,
    "categorical": OneHots,
}
"""What a decoder's distribution is of, by a spec's likelihood; of "other" any."""
NO_POSTERIOR = "A plain or vector-quantised autoencoder has no posterior that could collapse."
SURE = 4.0
"""Standard errors within which noise counts as that of a sample."""
FAR_BETTER = 10.0
"""Times less deviance from the data's mean: of one reading of a decoder's output than the other."""
NEVER = -1e4
"""Log-probability of what does not happen, finite so that 0 times it is 0."""
ONE = 1e-3
"""By which probabilities of classes may miss a sum of 1."""


def posterior_of(output: Any, *, log_var: bool) -> Gaussian:
    """Return mean and std of what an encoder returned, of one shape.

    Args:
        output: `(mean, log_var)` or `(mean, std)`, perhaps with a sample of them behind, a
            `Normal`, a `MultivariateNormal` of independent units, or another object with tensors
            `mean` and `std`, as latent diffusion has it, perhaps as `latent_dist`.
        log_var: Whether the second is a log-variance in nats; False: it is a std.

    Raises:
        InvalidArgumentError: Something else, two shapes, or a negative std.

    Example:
        >>> posterior_of((torch.zeros(1), torch.zeros(1)), log_var=True)
        Gaussian(mean=tensor([0.]), std=tensor([1.]))
    """
    output = elementwise(getattr(output, "latent_dist", output), lead=1)
    if isinstance(output, Normal):
        return Gaussian(output.mean, output.stddev)
    own_mean, own_std = getattr(output, "mean", None), getattr(output, "std", None)
    if isinstance(own_mean, Tensor) and isinstance(own_std, Tensor):
        return Gaussian(own_mean, own_std)
    if isinstance(output, MultivariateNormal):
        if not independent(output):
            raise InvalidArgumentError(
                "encode",
                "a MultivariateNormal whose units depend on each other",
                "one of independent units",
                "Return a Normal of its mean and of the root of its variance.",
            )
        return Gaussian(output.mean, output.stddev)
    sampled = isinstance(output, Sequence) and len(output) == 3 and isinstance(output[2], Tensor)
    if sampled and output[2].shape == getattr(output[0], "shape", None):
        if _begins_with_sample(output, log_var):
            raise InvalidArgumentError(
                "encode",
                "three things, of which the first is a sample",
                "(mean, log_var), and a sample at most behind",
                "Wrap it: lambda x: encode(x)[1:].",
            )
        output = output[:2]  # the sample that was drawn
    if not isinstance(output, Sequence) or len(output) != 2:
        raise InvalidArgumentError(
            "encode", _described(output), "two: (mean, log_var)", _how_to_return_two(output)
        )
    try:
        mean, spread = (
            part if isinstance(part, Tensor) else torch.as_tensor(part, device="cpu")
            for part in output
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidArgumentError(
            "encode",
            " and ".join(f"a {type(part).__name__}" for part in output),
            "two tensors: (mean, log_var)",
            "Of several latents, put those of each kind side by side: torch.cat(means, dim=-1).",
        ) from error
    if mean.shape != spread.shape:
        raise InvalidArgumentError(
            "encode",
            f"outputs of shapes {tuple(mean.shape)} and {tuple(spread.shape)}",
            "one shape",
            f"Return a log-variance per unit, expanded to the mean's shape. {NO_POSTERIOR}",
        )
    if log_var:
        return Gaussian(mean, (0.5 * spread).exp())
    if (spread < 0).any():
        raise InvalidArgumentError(
            "encode",
            f"a negative std ({spread.min().item():.4g})",
            "positive stds",
            "If that is a log-variance, pass log_var=True; of a log-std return its exp.",
        )
    return Gaussian(mean, spread)


def _described(output: Any) -> str:
    if not isinstance(output, Sequence):
        return f"a {type(output).__name__}"
    shapes = [tuple(part.shape) for part in output if isinstance(part, Tensor)]
    of = f" of shapes {', '.join(map(str, shapes))}" if len(shapes) == len(output) else ""
    return f"{len(output)} things{of}"


def _how_to_return_two(output: Any) -> str:
    if isinstance(output, Distribution):
        return (
            "Return a Normal: that which a flow transforms, or, as an approximation, one of this "
            "posterior's mean and std."
        )
    if isinstance(output, Tensor):
        return f"If it holds both, wrap it: lambda x: encode(x).chunk(2, dim=-1). {NO_POSTERIOR}"
    names = output if isinstance(output, Mapping) else getattr(output, "__dict__", ())
    if names and not isinstance(output, Sequence):
        return f"Return the two of its {', '.join(map(str, names))} that are those."
    parts = output if isinstance(output, Sequence) else ()
    shapes = [getattr(part, "shape", None) for part in parts]
    # A model's own call mostly begins with what was decoded, whose shape is another.
    last = len(shapes) == 3 and shapes[0] != shapes[1] == shapes[2]
    return f"Wrap it: lambda x: encode(x)[{'1:' if last else ':2'}], or whichever two are those."


def _begins_with_sample(output: Sequence[Tensor], log_var: bool) -> bool:
    """Whether three tensors are (z, mean, spread) and not (mean, spread, z).

    Noise of a sample has variance 1, or, of a model that draws none in evaluation, 0.
    """

    def misfit(z: Tensor, mean: Tensor, spread: Tensor) -> float:
        noise = (z - mean) / ((0.5 * spread).exp() if log_var else spread)
        return abs(float(noise.double().square().mean()) - 1)

    first, second, third = (part.detach().float() for part in output)
    error = SURE * math.sqrt(2 / first.numel())
    if torch.equal(first, third) or misfit(third, first, second) < 0.5:
        return False
    return torch.equal(first, second) or misfit(first, second, third) < error < 0.5


def independent(normal: MultivariateNormal) -> bool:
    """Whether the parts of a Gaussian tell nothing of each other."""
    covariance = normal.covariance_matrix
    return torch.equal(covariance, torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1)))


class OutputReader:
    """Reads what a decoder returns by the likelihood that it was trained with.

    Whether a tensor holds means or links shows once a value cannot be a mean. Until then it is
    taken for means, and `notes` says so: sigmoid(x) and x are told apart by nothing else. Of counts
    exp(x) is e times x or more: which of the two has the mean of the data tells.

    Attributes:
        target: Mean of data that are decoded, (features,); None: not known. An array, as the dtype
            of a model is that of its tensors.
    """

    def __init__(self, spec: Spec, output: Output | None = None) -> None:
        if output not in (None, *get_args(Output)):
            raise InvalidArgumentError(
                "output", repr(output), "'mean', 'link' or None", "Pass output='link' for logits."
            )
        self.spec = spec
        self._asked = output
        self._taken: Output | None = output
        self._by_data = False
        self.target: Float | None = None

    @property
    def notes(self) -> list[str]:
        """Say what a tensor was taken for, where nothing but its values told."""
        words = WORDS.get(self.spec.likelihood)
        if words is None or self._asked is not None or self._taken is None:
            return []
        mean, link = words
        if self._by_data:
            return [
                f"the decoder's output was read as {link}, since its exp has the mean of the data "
                f"and it has not: if these are {mean}, pass output='mean' to from_callable"
            ]
        if self._taken == "link":
            return [f"the decoder's output was read as {link}, since no {mean} have such values"]
        return [
            f"the decoder's output was read as {mean}: if these are {link}, pass output='link' to "
            "from_callable"
        ]

    def read(self, output: Any, rows: int, device: torch.device) -> Distribution:
        """Return the distribution of single features, (rows, ...), that an output is."""
        output = elementwise(output, lead=1)
        given = isinstance(output, Distribution)
        if not given:
            output = _as_tensor(output, device)
        shape = output.batch_shape + output.event_shape if given else output.shape
        if len(shape) < 1 or shape[0] != rows:
            raise InvalidArgumentError(
                "decode",
                f"an output of shape {tuple(shape)}",
                f"one row per latent, ({rows}, ...)",
                "Return the decoder mean of each row.",
            )
        if not given:
            return self._of_tensor(output)
        likelihood = self.spec.likelihood
        kind = KINDS.get(likelihood)
        if kind is not None and not isinstance(output, kind):
            of = "Categorical" if kind is OneHots else kind.__name__
            own = next((name for name, one in KINDS.items() if isinstance(output, one)), "other")
            raise InvalidArgumentError(
                "decode",
                f"a {type(output).__name__}",
                f"a tensor of each row's means, or a {of}, with likelihood {likelihood!r}",
                f"Return its .mean, or pass a spec with likelihood={own!r}.",
            )
        try:
            output.mean  # noqa: B018
        except NotImplementedError as error:
            raise InvalidArgumentError(
                "decode",
                f"a {type(output).__name__}, whose mean torch does not know",
                "a distribution that has a mean, which is what is shown and compared",
                "Return one of a class derived from it, with a property mean.",
            ) from error
        if isinstance(output, Normal) and self.spec.likelihood == "other":
            return Meant(output.loc, output.scale, validate_args=False)
        return cast(Distribution, output)

    def _of_tensor(self, values: Tensor) -> Distribution:
        likelihood = self.spec.likelihood
        if likelihood in ("gaussian", "other"):
            # Broadcast, so that one number is kept where the std is the same everywhere.
            return Normal(values, values.new_full((), self._eta_dec()), validate_args=False)
        means = self._are_means(values)
        if likelihood == "bernoulli":
            given = {"probs" if means else "logits": values}
            return Bernoulli(**given, validate_args=False)
        if likelihood == "categorical":
            classes = (values.shape[-1],) * (values[0].numel() // values.shape[-1])
            least = torch.finfo(values.dtype).eps  # as torch does: a class of probability 0
            logits = values.clamp_min(least).log() if means else values
            return OneHots(logits.flatten(1), classes)
        if likelihood == "poisson":
            return Poisson(values if means else values.exp(), validate_args=False)
        count = self.spec.dispersion
        if isinstance(count, str):
            # Without the dispersion nothing can be compared: a stand-in, as of "other".
            return Normal(values, torch.ones_like(values), validate_args=False)
        logits = (values.log() if means else values) - math.log(count)
        return NegativeBinomial(torch.full_like(values, count), logits=logits, validate_args=False)

    def _are_means(self, values: Tensor) -> bool:
        if self._asked is not None:
            return self._asked == "mean"
        likely = self._may_be_means(values)
        if not likely and self._taken == "mean":
            mean, link = WORDS[self.spec.likelihood]
            raise InvalidArgumentError(
                "decode",
                f"values from {float(values.min()):.4g} to {float(values.max()):.4g}, after others "
                f"that could be {mean}",
                f"either {mean} or {link}",
                "Pass output='link' (or 'mean') to from_callable.",
            )
        if self._taken is None:
            self._by_data = likely and self._fits_as_log(values)
            self._taken = "mean" if likely and not self._by_data else "link"
        return self._taken == "mean"

    def _fits_as_log(self, values: Tensor) -> bool:
        """Whether logs of means fit the data's mean far better than means, by their deviance."""
        if self.target is None or self.spec.likelihood not in ("poisson", "negative-binomial"):
            return False
        rows, m = values.detach().flatten(1), torch.from_numpy(self.target)
        if rows.shape[1:] != m.shape or not bool((m >= 0).all()):
            return False
        least = torch.finfo(m.dtype).tiny
        as_mean, as_log = (
            float((torch.xlogy(m, m / mu.clamp_min(least)) - m + mu).sum())
            for mu in (part.mean(0).cpu().double() for part in (rows, rows.exp()))
        )
        return FAR_BETTER * as_log < as_mean

    def _may_be_means(self, values: Tensor) -> bool:
        if self.spec.likelihood in ("poisson", "negative-binomial"):
            return bool((values >= 0).all())
        inside = bool(((values >= 0) & (values <= 1)).all())
        if self.spec.likelihood == "bernoulli":
            return inside
        return inside and bool(((values.sum(-1) - 1).abs() < ONE).all())

    def _eta_dec(self) -> float:
        eta = self.spec.eta_levels[0]
        if isinstance(eta, str):
            raise InvalidArgumentError(
                "decode",
                "a mean alone with eta_dec='learned'",
                "a torch.distributions.Normal, which holds the learned std",
                "Return Normal(mean, std).",
            )
        return eta


def flattened(output: Distribution, lead: torch.Size, device: torch.device) -> Distribution:
    """Return a distribution of single features, (rows, ...), with rows flat and in a shape `lead`.

    Example:
        >>> images = Bernoulli(logits=torch.zeros(6, 1, 2, 2))
        >>> flattened(images, torch.Size([2, 3]), torch.device("cpu")).batch_shape
        torch.Size([2, 3, 4])
    """
    if isinstance(output, OneHots):
        return OneHots(output.logits.to(device).reshape(*lead, -1), output.classes)
    constraints: dict[str, Any] = getattr(output, "arg_constraints", {})
    names = [name for name in constraints if not (name == "probs" and "logits" in constraints)]
    if not names or output.event_shape:
        return _Reshaped(output, lead)
    # With its device named, as a default device would move it to another.
    given = {
        name: torch.as_tensor(getattr(output, name), device=device).expand(output.batch_shape)
        for name in names
    }
    kind: Any = type(output)
    rows = {name: value.reshape(*lead, -1) for name, value in given.items()}
    return cast(Distribution, kind(**rows, validate_args=False))


def certain(output: OneHots, x: Tensor, padding: int) -> OneHots:
    """Return classes that are certain of the padding where one-hot rows x have it.

    So it costs nothing, and nothing that the latents say could change it.

    Example:
        >>> x = torch.tensor([[1.0, 0.0, 0.0, 1.0]])  # of two positions the first is padded
        >>> certain(OneHots(torch.zeros(1, 4), (2, 2)), x, 0).mean
        tensor([[1.0000, 0.0000, 0.5000, 0.5000]])
    """
    classes = output.classes[0]
    if padding >= classes or x.shape[-1] != output.logits.shape[-1]:
        raise InvalidArgumentError(
            "padding",
            f"{padding}, with {classes} classes of {len(output.classes)} positions and rows of "
            f"{x.shape[-1]} features",
            "the number of a class of one-hot data, (rows, positions, classes)",
            "Pass one-hot data, whose classes are those that the decoder gives.",
        )
    shape = (-1, classes)
    logits = output.logits.reshape(*output.logits.shape[:-1], *shape)
    padded = x.to(logits).reshape(*x.shape[:-1], *shape)[..., padding] > 0.5
    only = logits.new_full((classes,), NEVER)
    only[padding] = 0.0
    return OneHots(torch.where(padded[..., None], only, logits).flatten(-2), output.classes)


class _Reshaped(Distribution):
    """A distribution whose parameters are not known, asked for rows of another shape."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, inner: Distribution, lead: torch.Size) -> None:
        rows = inner.batch_shape + inner.event_shape
        super().__init__(torch.Size([*lead, rows[1:].numel()]), validate_args=False)
        self.inner = copy.copy(inner)
        self.inner._validate_args = False
        self._rows = rows

    @property
    def mean(self) -> Tensor:
        return self.inner.mean.reshape(self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        rows = value.expand(self.batch_shape).reshape(self._rows)
        found: Tensor = self.inner.log_prob(rows)
        return found.reshape(*self.batch_shape[:-1], -1)


def _as_tensor(output: Any, device: torch.device) -> Tensor:
    try:
        return torch.as_tensor(output, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        many = f" of {len(output)}" if isinstance(output, Sequence) else ""
        raise InvalidArgumentError(
            "decode",
            f"a {type(output).__name__}{many}",
            "one tensor, the decoder mean of each row, or a torch distribution",
            "Wrap it, e.g. lambda z: decode(z)[0]; of a mean and a std, Normal(*decode(z)).",
        ) from error
