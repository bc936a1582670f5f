"""A `LatentModel` around two functions, which is how any other library's model gets diagnosed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal, Normal

from posterior_collapse import checks
from posterior_collapse.adapters.conditions import Labels
from posterior_collapse.adapters.outputs import (
    Output,
    OutputReader,
    certain,
    flattened,
    independent,
    posterior_of,
)
from posterior_collapse.diagnosis.arrays import BEYOND
from posterior_collapse.diagnosis.conclusions import GOOD
from posterior_collapse.diagnosis.reading import in_double
from posterior_collapse.diagnosis.scores import elementwise
from posterior_collapse.errors import InvalidArgumentError, NotSolvedError
from posterior_collapse.models import LatentModel, OneHots
from posterior_collapse.models.layers import Gaussian
from posterior_collapse.models.modules import modules_behind
from posterior_collapse.specs import CVAESpec, Spec, VAESpec
from posterior_collapse.theory.thresholds import LEAST_ROWS

BY_SAMPLES = (
    "KL to the prior is found by sampling; where the prior does not split over units, what no unit "
    "has alone is shared by all alike"
)
DRAWS = (
    "the encoder gives another posterior at each call: what it draws is measured too, be it "
    "dropout that does not heed evaluation mode or a sample in place of the mean"
)
FORCED = "the decoder sees the data's own past: of what it predicts from that, no unit need tell. "
MARGINAL = (
    "For a perfect one the best beta of a unit is 1, so that at beta = 1 collapse is marginal by "
    "theory"
)
OF_ERRORS = (
    "For a perfect one, whose errors nothing predicts, units live below the beta that is their "
    "largest variance over eta_dec^2"
)
Prior: TypeAlias = Distribution | Callable[[Tensor], Any]


class WrappedModel(LatentModel, nn.Module):
    """A `LatentModel` of one latent level that calls `encode` and `decode`.

    Modules that the functions are, belong to, hold or mention, in containers and objects too,
    become its submodules: data are moved to their device and dtype. `diagnose` puts them into
    evaluation mode meanwhile, and any other module just before it runs.

    Args:
        encode: x, (batch, *shape), to `(mean, log_var)`, (batch, latent_dim) each, or to a
            `torch.distributions.Normal`, or an object with tensors `mean` and `std`. With a
            `CVAESpec` it is called as `encode(x, y)`, x being the condition and y what is decoded;
            labels are one column of 0 and 1 per class, or class numbers if it takes these alone.
        decode: z, (batch, latent_dim), to the decoder mean, (batch, ...), or to a
            `torch.distributions.Distribution` of the data. With a likelihood that is not Gaussian
            a tensor is what its loss takes (see `output`); classes of a position come last. With a
            `CVAESpec` it is called as `decode(z, x)`. None: only the posterior is diagnosed.
        latent_dim: Number of latent units; of images and sequences the shape of a latent, such as
            (channels, height, width) or (steps, channels), in which `encode` gives and `decode`
            takes them.
        log_var: Whether the second output is a log-variance in nats; False: it is a std.
        spec: The objective that the model was trained with, of one latent level. None: nothing is
            known of it, and `VAESpec(latent_dim, sigma="input")` stands in (see `spec_assumed`).
        output: Whether a tensor that the decoder returns holds the "mean" of each feature
            (probabilities of a Bernoulli, rates of a Poisson) or its "link" (logits, log rates).
            None: as its values show, with a note on what was taken.
        prior: p(z), where it is not N(0, eta_enc^2): a `torch.distributions.Distribution` of one
            latent, a mixture too, whose KL is then found by sampling; or, of a conditional prior
            p(z|x), a function of x to `(mean, std)` or to a `Normal`.
        teacher_forcing: Whether the decoder of a `VAESpec` sees the data too, and is called as
            `decode(z, x)`: an autoregressive one, which gives each feature's distribution from
            those before it.
        shape: Shape of one sample as `encode` wants it. None: flat rows.
        tokens: Whether the functions take x as whole numbers (torch.long), as an embedding does. A
            decoder's classes are compared with one-hot data: without them leave `decode` out.
        padding: Of one-hot data, positions last but one, the number of the class that counts
            nothing, as under `ignore_index`; None: all count.
        modules: Modules that cannot be found, because the functions look them up at run time and
            call a method of theirs instead of them. The first says where data are moved.
        spec_assumed: Whether the spec only stands in for an unknown objective, so that beta and
            eta_dec mean nothing; None: where none was passed.
        said: What a reader of results should know of the model.

    Attributes:
        decodes: Whether there is a decoder.
        wrapped: The modules behind the functions.
        latent_shape: Shape of a latent that is an image or a sequence, units in that order; None:
            a row.
        channels_first: Whether a sequence's channels are the first of its sides, not the last.

    Raises:
        InvalidArgumentError: A spec of other units or of several levels, no function, or no module.

    Example:
        >>> encode = nn.Linear(3, 4)
        >>> model = from_callable(lambda x: encode(x).chunk(2, -1), nn.Linear(2, 3), latent_dim=2)
        >>> model.posterior(1, torch.ones(5, 3)).mean.shape
        torch.Size([5, 2])
    """

    channels_first: ClassVar[bool] = False

    def __init__(
        self,
        encode: Callable[..., Any],
        decode: Callable[..., Any] | None = None,
        *,
        latent_dim: int | Sequence[int],
        log_var: bool = True,
        spec: Spec | None = None,
        output: Output | None = None,
        prior: Prior | None = None,
        teacher_forcing: bool = False,
        shape: Sequence[int] | None = None,
        tokens: bool = False,
        padding: int | None = None,
        modules: Iterable[nn.Module] = (),
        spec_assumed: bool | None = None,
        said: Iterable[str] = (),
    ) -> None:
        super().__init__()
        for name, function in (("encode", encode), ("decode", decode)):
            if not callable(function) and (name == "encode" or function is not None):
                raise InvalidArgumentError(
                    name, type(function).__name__, "a function of a batch", f"Pass {name}=a_module."
                )
        self.latent_shape: tuple[int, ...] | None = None
        if not isinstance(latent_dim, int) and isinstance(latent_dim, Sequence):
            self.latent_shape = _sides(latent_dim, "latent_dim")
            latent_dim = math.prod(self.latent_shape)
        latent_dim = checks.units("latent_dim", latent_dim)
        self.spec_assumed = spec is None if spec_assumed is None else spec_assumed
        self.spec = VAESpec(latent_dim=latent_dim, sigma="input") if spec is None else spec
        if self.spec.dims != (latent_dim,):
            raise InvalidArgumentError(
                "spec",
                f"latent dims {self.spec.dims}",
                f"one level of latent_dim={latent_dim} units",
                "Derive a class from LatentModel for a hierarchy.",
            )
        self.conditional = isinstance(self.spec, CVAESpec)
        self.decodes = decode is not None
        self.teacher_forcing, self.tokens = bool(teacher_forcing), bool(tokens)
        past = {"teacher_forcing": teacher_forcing or None, "padding": padding}
        for name in (name for name, value in past.items() if value is not None):
            if self.conditional:
                raise InvalidArgumentError(
                    name,
                    f"{past[name]} with a CVAESpec, whose decoder is called as decode(z, x)",
                    "a VAESpec, whose decoder is given what it decodes",
                    f"Leave decode and {name} out: KL, information and counts need neither.",
                )
        self.padding = None if padding is None else checks.whole("padding", padding, least=0)
        if padding is not None and self.spec.likelihood != "categorical":
            raise InvalidArgumentError(
                "padding",
                f"{padding} with likelihood {self.spec.likelihood!r}",
                "likelihood 'categorical' in the spec, whose classes it is among",
                "Pass spec=VAESpec(..., likelihood='categorical').",
            )
        self._reader = OutputReader(self.spec, output)
        self._prior = None if prior is None else _known_prior(prior)
        self.shape = None if shape is None else _sides(shape)
        self.wrapped = nn.ModuleList(modules_behind(*_named(modules), encode, decode, prior))
        # The shell itself does not train: only the modes of the modules in it tell.
        self.training = self.wrapped.training = False
        # In a tuple they stay plain functions: a module as an attribute is registered once more.
        self._functions = (encode, decode)
        self._draws: bool | None = None
        self._labels = Labels(self.conditional)
        self._log_var, self._said = checks.flag("log_var", log_var), tuple(said)
        # Where the last posterior was: the prior of functions without a tensor follows it.
        self._last = torch.device("cpu"), torch.get_default_dtype()

    @property
    def notes(self) -> list[str]:
        """What a reader of results should know of the model and of how its outputs were read."""
        notes = [*self._reader.notes, *self._labels.notes]
        if self._draws:
            notes.append(DRAWS)
        if isinstance(self._prior, Distribution) and not isinstance(self._prior, Normal):
            notes.append(BY_SAMPLES)
        elif self._prior is not None and not isinstance(self._prior, Distribution):
            notes.append(BEYOND)
        if self.teacher_forcing:
            gaussian = self.spec.likelihood == "gaussian"
            notes.append(FORCED + (OF_ERRORS if gaussian else MARGINAL))
        return [*notes, *self._said]

    def posterior(self, level: int, given: Tensor, y: Tensor | None = None) -> Normal:
        """Return `q(z | given)`; see `LatentModel`."""
        self._check_level(level)
        x, lead = self._samples(given)
        inputs = [x]
        if self.conditional:
            inputs.append(_rows(self._to_model(_needed("y", y))))
        if self._reader.target is None:
            self._reader.target = in_double(_rows(given if y is None else y).float().mean(0).cpu())
        first = [part.clone() for part in inputs if self.conditional and self._draws is None]
        q = self._labels.given("encode", lambda x: self._encoded([x, *inputs[1:]]), x)
        # A network may span devices, or go through NumPy: noise is drawn where its input is.
        mean, std = (part.to(x.device) for part in q)
        n, k = len(x), self.units[0]
        if mean.ndim > 2 and mean.shape[0] == n and mean[0].numel() == k:
            # Decoders get them in the shape that encoders give.
            self.latent_shape = self.latent_shape or tuple(mean.shape[1:])
            mean, std = mean.flatten(1), std.flatten(1)
        if mean.shape != (n, k):
            action = "Check latent_dim, and flatten what the encoder returns."
            if mean.ndim > 2 and len(mean) == n:
                action = f"Pass latent_dim={tuple(mean.shape[1:])}."
            raise InvalidArgumentError(
                "encode",
                f"outputs of shape {tuple(mean.shape)}",
                f"({n}, {k}), for {n} rows and latent_dim={k}",
                action,
            )
        if first:
            self._refuse_swapped(first, mean)
        self._last = mean.device, mean.dtype
        return Normal(mean.reshape(*lead, k), std.reshape(*lead, k), validate_args=False)

    def _encoded(self, inputs: list[Tensor]) -> Gaussian:
        """Call the encoder; twice the first time, if it draws random numbers meanwhile."""

        def encoded() -> Gaussian:
            return posterior_of(self._functions[0](*inputs), log_var=self._log_var)

        # A frozen script module has no mode.
        if self._draws is not None or any(
            getattr(part, "training", False) for part in self.wrapped.modules()
        ):
            return encoded()
        device = inputs[0].device
        cuda = device.type == "cuda"
        own = torch.cuda.default_generators[device.index] if cuda else torch.default_generator
        before = own.get_state()
        q = encoded()
        self._draws = False
        if not torch.equal(before, own.get_state()):
            pairs = zip(q, encoded(), strict=True)
            self._draws = not all(torch.allclose(*pair, 1e-2, 1e-3) for pair in pairs)
        return q

    def _refuse_swapped(self, inputs: list[Tensor], mean: Tensor) -> None:
        """Refuse an encoder that wants the target first: side by side both orders are as wide."""
        x, y = inputs
        if self._draws is None or not self.decodes or len(x) < LEAST_ROWS:
            return
        try:
            q = posterior_of(self._functions[0](y.clone(), x.clone()), log_var=self._log_var)
            turned = q.mean.to(x.device).reshape(mean.shape)
            errors = [
                float((self.decode(z, x).mean - y).square().sum(1).mean()) for z in (mean, turned)
            ]
        except Exception:  # it takes them in this order alone, or no one knows what it decodes
            return
        constant = float(y.var(0, correction=0).sum())
        # Of encoders that have hardly learned, either order may be a little better.
        if errors[1] < GOOD * min(constant, errors[0]) and errors[0] >= GOOD * constant:
            raise InvalidArgumentError(
                "encode",
                f"a function whose latents decode to the data if it is called as encode(y, x) "
                f"(squared error {errors[1]:.3g}), and do not as encode(x, y) ({errors[0]:.3g})",
                "encode(x, y), x being the condition and y what is decoded",
                "Pass encode=lambda x, y: net.encode(y, x).",
            )

    def prior(self, level: int, given: Tensor | None = None) -> Normal:
        """Return `p(z)`, `N(0, eta_enc^2)`; see `LatentModel`."""
        self._check_level(level)
        if isinstance(self._prior, Normal):
            return self._prior
        if self._prior is not None:
            kind = "a function of x" if callable(self._prior) else type(self._prior).__name__
            raise NotSolvedError(
                "prior",
                kind,
                "one Normal for all rows, for what was asked",
                "Ask diagnose, without importance_samples.",
            )
        device, dtype = self._last
        mean = self._to_model(torch.zeros(self.units[0], device=device, dtype=dtype))
        return Normal(mean, torch.full_like(mean, self.spec.eta_enc), validate_args=False)

    def prior_of(self, x: Tensor) -> Distribution | None:
        """Return p(z) or p(z|x) of rows, as it was given; None: it is `prior`'s.

        Args:
            x: Inputs or conditions, (rows, dim x).

        Raises:
            InvalidArgumentError: The function gives something else, or of other units.
        """
        if self._prior is None or isinstance(self._prior, Distribution):
            return self._prior
        samples, _ = self._samples(x)
        output = self._labels.given("prior", self._prior, samples)
        if isinstance(output, Distribution):
            found = elementwise(output, lead=1)
        else:
            found = Normal(*posterior_of(output, log_var=False), validate_args=False)
        if not isinstance(found, Normal) or found.mean.shape != (len(samples), self.units[0]):
            raise InvalidArgumentError(
                "prior",
                f"a {type(found).__name__} of shape {tuple(found.batch_shape)} from the function",
                f"(mean, std) or a Normal, ({len(samples)}, {self.units[0]}) each",
                "Return one mean and std per row and unit; pass a prior of all rows itself.",
            )
        return found

    def decode(self, z: Tensor, x: Tensor | None = None) -> Distribution:
        """Return `p(y | z)` as flat rows; see `LatentModel`."""
        decoder = _needed("decode", self._functions[1])
        lead, rows = z.shape[:-1], _rows(self._to_model(z))
        inputs = [rows if self.latent_shape is None else rows.reshape(-1, *self.latent_shape)]
        if self.conditional or self.teacher_forcing:
            samples, x_lead = self._samples(_needed("x", x))
            one = samples.shape[1:]
            inputs.append(samples.reshape(*x_lead, *one).expand(*lead, *one).reshape(-1, *one))
        self._reader.spec = self.spec

        def decoded(*given: Tensor) -> Distribution:
            return self._reader.read(decoder(inputs[0], *given), len(rows), rows.device)

        output = self._labels.given("decode", decoded, inputs[1]) if inputs[1:] else decoded()
        if self.tokens and isinstance(output, OneHots):
            raise InvalidArgumentError(
                "tokens",
                "True, and a decoder of classes, which are compared with the data",
                "one-hot data, (rows, positions, classes)",
                "Turn them into class numbers for your functions, decode=lambda z, x: "
                "net.decode(z, x.argmax(-1)), with shape=(positions, classes).",
            )
        output = flattened(output, lead, rows.device)
        if self.padding is None or x is None or not isinstance(output, OneHots):
            return output
        return certain(output, x, self.padding)

    def per_channel(self, values: Any) -> Any:
        """Return what units have, summed over the positions of each channel.

        Channels come first in the shape of an image, last in that of a sequence (but see
        `channels_first`).

        Args:
            values: An array or tensor per unit, (..., units), such as `diagnosis.levels[0].kl`.

        Returns:
            (..., channels): nats per row, if nats were given; of latents in a row the values.
        """
        if self.latent_shape is None or len(self.latent_shape) < 2:
            return values
        if len(self.latent_shape) == 2 and not self.channels_first:
            return values.reshape(*values.shape[:-1], *self.latent_shape).sum(-2)
        return values.reshape(*values.shape[:-1], self.latent_shape[0], -1).sum(-1)

    def _samples(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        """Return samples, (n, *shape), and the leading shape that they came in."""
        x = self._to_model(x)
        if self.tokens:
            x = x.round().long()
        if self.shape is None:
            return _rows(x), x.shape[:-1]
        flat = x.shape[-1] == math.prod(self.shape)
        # A flat row of a sample (1, L) looks like a sample; samples have a row's dimension more.
        if x.shape[-len(self.shape) :] == self.shape and not (flat and x.ndim == len(self.shape)):
            lead = x.shape[: -len(self.shape)]
        elif flat:
            lead = x.shape[:-1]
        else:
            raise InvalidArgumentError(
                "x",
                f"shape {tuple(x.shape)}",
                f"(..., {math.prod(self.shape)}) or (..., {', '.join(map(str, self.shape))})",
                "Pass the shape of one sample as shape=.",
            )
        return x.reshape(-1, *self.shape), lead

    def _to_model(self, value: Tensor) -> Tensor:
        """Return a copy, as the model takes it: functions may write into what they are given."""
        own = itertools.chain(self.parameters(), self.buffers())
        like = next((tensor for tensor in own if tensor.is_floating_point()), value)
        return value.to(device=like.device, dtype=like.dtype, copy=True)

    def _check_level(self, level: int) -> None:
        if level != 1:
            raise InvalidArgumentError("level", level, "1", "This model has one latent level.")


from_callable = WrappedModel
"""Return a `LatentModel` around two functions; the arguments are those of `WrappedModel`."""


def _named(modules: Iterable[nn.Module]) -> list[nn.Module]:
    one = isinstance(modules, nn.Module)
    named: list[nn.Module] = [cast(nn.Module, modules)] if one else list(modules)
    for module in named:
        if not isinstance(module, nn.Module):
            raise InvalidArgumentError(
                "modules", f"a {type(module).__name__}", "torch modules", "Pass modules=[net]."
            )
    return named


def _known_prior(prior: Any) -> Distribution | Callable[[Tensor], Any]:
    found = elementwise(prior, lead=0)
    if isinstance(found, MultivariateNormal) and independent(found):
        found = Normal(found.mean, found.stddev, validate_args=False)
    if isinstance(found, Normal) and found.mean.dim() == 2 and len(found.mean) == 1:
        # A batch of one latent: the prior of all rows, not that of a row.
        found = Normal(found.mean[0].detach(), found.stddev[0].detach(), validate_args=False)
    if isinstance(found, Distribution) or callable(found):
        return cast("Distribution | Callable[[Tensor], Any]", found)
    raise InvalidArgumentError(
        "prior",
        type(prior).__name__,
        "a torch.distributions.Distribution, or a function of x to (mean, std)",
        "Pass Normal(mean, std) for one prior of all rows.",
    )


def _sides(shape: Sequence[int], name: str = "shape") -> tuple[int, ...]:
    sides = checks.sequence(name, shape, None, "the sides of one sample")
    return tuple(checks.whole(name, side, least=1) for side in sides or ((),))


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _needed(name: str, value: Any) -> Any:
    if value is None:
        what = {"decode": "a decoder", "x": "the condition", "y": "the target"}[name]
        raise InvalidArgumentError(name, "nothing", f"{what}, for what was asked", f"Pass {name}.")
    return value
