"""Hyperparameters of the models, one frozen object each for theory and for training.

A spec holds the numbers of the objective and nothing about data or networks. Four models are
known: `VAESpec`, `CVAESpec`, `HVAESpec` (two latent levels) and `ChainSpec` (L levels). Whatever
the model, `dims`, `beta_levels`, `eta_levels` and `sigma_levels` give the same numbers per latent
level, bottom (next to the data) first.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from posterior_collapse import checks
from posterior_collapse.checks import Dispersion
from posterior_collapse.checks import EtaDec as EtaDec
from posterior_collapse.checks import Likelihood as Likelihood
from posterior_collapse.checks import Sigma as Sigma
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.records import plain

S = TypeVar("S", bound="Spec")


class Spec:
    """What all specs share: exact JSON, `replace`, and the per-level view."""

    model: ClassVar[str]

    eta_enc: float
    """Prior std of the last latent level."""
    likelihood: Likelihood = "gaussian"
    """Of the data given the latents: what the reconstruction loss is the negative log of."""
    dispersion: Dispersion = "learned"
    """r of a negative binomial, whose variance is `m + m^2 / r`."""

    def __new__(cls: type[S], *_: Any, **given: Any) -> S:
        checks.known("spec", given, _fields(cls))
        return super().__new__(cls)

    @property
    def dims(self) -> tuple[int, ...]:
        """Number of latent units per level."""
        raise NotImplementedError

    @property
    def beta_levels(self) -> tuple[float, ...]:
        """Beta per level."""
        raise NotImplementedError

    @property
    def eta_levels(self) -> tuple[EtaDec, ...]:
        """Decoder std into the data, then into each latent level but the last.

        For a likelihood other than Gaussian the first is 1: the noise that it tolerates, which
        its data are measured in.
        """
        raise NotImplementedError

    @property
    def sigma_levels(self) -> tuple[Sigma, ...]:
        """Posterior std per level."""
        raise NotImplementedError

    @property
    def one_sigma_levels(self) -> tuple[bool, ...]:
        """Per level, whether all its units have the same std by construction.

        Example:
            >>> VAESpec(2, sigma=0.5).one_sigma_levels, VAESpec(2).one_sigma_levels
            ((True,), (False,))
        """

        def same(sigma: Sigma) -> bool:
            if isinstance(sigma, tuple):
                return len(set(sigma)) == 1
            return not isinstance(sigma, str) or sigma == "shared"

        return tuple(map(same, self.sigma_levels))

    def replace(self: S, **changes: Any) -> S:
        """Return a copy with some fields changed (validated anew).

        Example:
            >>> VAESpec(latent_dim=2).replace(beta=4.0).beta
            4.0
        """
        if "model" in changes:
            raise InvalidArgumentError(
                "model", "a change of model", "changes of fields only", "Make a new spec instead."
            )
        copy = Spec.from_dict({**self.to_dict(), **changes})
        assert isinstance(copy, type(self))
        return copy

    def with_level(self: S, name: str, level: int, value: Any) -> S:
        """Return a copy in which one level, from 1, has another beta, sigma, eta_dec or size.

        What is one for all levels, as eta_dec of an `HVAESpec`, changes for all.

        Raises:
            InvalidArgumentError: There is no such level or field, or a value is out of its domain.

        Example:
            >>> HVAESpec((5, 3)).with_level("beta", 2, 4.0).betas
            (1.0, 4.0)
            >>> HVAESpec((5, 3)).with_level("sigma", 1, 0.5) == HVAESpec((5, 3), sigma_1=0.5)
            True
        """
        if checks.whole("level", level, 1) > len(self.dims):
            wanted = f"at most {len(self.dims)}"
            raise InvalidArgumentError("level", level, wanted, "Count from the data on.")
        fields, own, of_all = _fields(type(self)), f"{name}_{level}", f"{name}s"
        if of_all in fields:
            values = list(getattr(self, of_all))
            values[level - 1] = value
            return self.replace(**{of_all: values})
        return self.replace(**{own if own in fields else name: value})

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain JSON-able values, with the model's name.

        What only some likelihoods have is left out of the others' specs: those of a Gaussian were
        written without a likelihood, and keys of kept runs go by them.
        """
        return {"model": self.model, **{name: plain(value) for name, value in self._stated()}}

    def to_json(self) -> str:
        """Return the spec as JSON; floats survive the round trip exactly.

        Example:
            >>> spec = HVAESpec(latent_dims=(5, 5), betas=(1.0, 2.0), sigma_1=0.5)
            >>> Spec.from_json(spec.to_json()) == spec
            True
        """
        return json.dumps(self.to_dict())

    @staticmethod
    def from_json(text: str) -> Spec:
        """Return the spec that `to_json` wrote.

        Raises:
            InvalidArgumentError: Not JSON, an unknown model or an unknown key.
        """
        try:
            values = json.loads(text)
        except (json.JSONDecodeError, TypeError) as error:
            raise InvalidArgumentError(
                "spec", f"text that is not JSON ({error})", "the JSON of a spec", "Check the text."
            ) from error
        return Spec.from_dict(values)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Spec:
        """Return the spec that `to_dict` described; unknown keys are refused.

        Raises:
            InvalidArgumentError: An unknown model, an unknown key or a missing one.
        """
        if not isinstance(values, Mapping):
            raise InvalidArgumentError(
                "spec", type(values).__name__, "an object with a 'model' key", "Check the JSON."
            )
        given = dict(values)
        name = given.pop("model", None)
        checks.one_of("model", name, sorted(_MODELS), "Set 'model'.")
        known = _fields(_MODELS[name])
        checks.known("spec", given, known)
        for key, field in known.items():
            if field.default is dataclasses.MISSING and key not in given:
                raise InvalidArgumentError(
                    "spec", f"no {key!r}", f"{key!r} for a {name} spec", f"Add {key!r}."
                )
        return _MODELS[name](**given)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self._stated())
        return f"{type(self).__name__}({fields})"

    def _stated(self) -> list[tuple[str, Any]]:
        """Fields by name, but for those that this likelihood does without."""
        idle = {"likelihood"} if self.likelihood == "gaussian" else set()
        if self.likelihood != "gaussian" and len(self.dims) == 1:
            idle.add("eta_dec")
        if self.likelihood != "negative-binomial":
            idle.add("dispersion")
        return [(name, getattr(self, name)) for name in _fields(type(self)) if name not in idle]


def are_specs(value: Any) -> bool:
    """Return whether a value is a spec, or a sequence of them."""
    several = isinstance(value, (list, tuple)) and bool(value)
    return all(isinstance(one, Spec) for one in (value if several else [value]))


def in_order(data: Any, spec: Any) -> tuple[Any, Any]:
    """Return data and spec, in this order, whichever of the two was passed first.

    Example:
        >>> in_order(VAESpec(latent_dim=2), "data")[0]
        'data'
    """
    return (spec, data) if are_specs(data) and not are_specs(spec) else (data, spec)


def _fields(cls: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls)}


CHECKS: dict[str, Callable[[str, object], Any]] = {
    "beta": checks.positive,
    "eta_dec": checks.or_learned,
    "eta_enc": checks.positive,
    "likelihood": checks.likelihood,
    "dispersion": checks.or_learned,
}
"""Of the fields of one value, whatever the model."""


def _check(spec: Spec, **levels: object) -> None:
    """Give a spec its fields in plain, valid form: those of levels, and the others as checked."""
    fields = _fields(type(spec))
    levels |= {name: of(name, getattr(spec, name)) for name, of in CHECKS.items() if name in fields}
    for name, value in levels.items():
        object.__setattr__(spec, name, value)
    if spec.likelihood != "negative-binomial" and spec.dispersion != "learned":
        raise InvalidArgumentError(
            "dispersion", f"{spec.dispersion!r} with likelihood {spec.likelihood!r}",
            "nothing, as only a negative binomial has one", "Leave it out.",
        )  # fmt: skip


@dataclass(frozen=True, repr=False)
class VAESpec(Spec):
    """A variational autoencoder: `p(z) = N(0, eta_enc^2 I)`, `p(y|z) = N(mu(z), eta_dec^2 I)`.

    Args:
        latent_dim: Number of latent units.
        beta: Weight of the KL in the loss `|y - mu|^2 / (2 eta_dec^2) + beta KL`.
        eta_dec: Decoder std, in units of the data; `"learned"` to learn it.
        eta_enc: Prior std of the latent units.
        sigma: Posterior std: `"learned"` per unit, `"shared"` (one learned scalar), `"input"`
            (learned as a function of the input), a float, or one float per unit.
        likelihood: `p(y|z)`, if it is not Gaussian: "bernoulli" (binary cross-entropy, of binary
            or soft targets), "categorical" (cross-entropy of one-hot positions), "poisson",
            "negative-binomial", or "other", for which `onset` gives the law. It has no eta_dec,
            and the loss is `-log p(y|z) + beta KL`, without terms of the data alone (log y!).
        dispersion: r of a negative binomial, whose variance is `m + m^2 / r`; "learned": one for
            each feature.

    Raises:
        InvalidArgumentError: A value is out of its domain; the message says which.

    Example:
        >>> VAESpec(latent_dim=16, beta=2.0)
        VAESpec(latent_dim=16, beta=2.0, eta_dec=1.0, eta_enc=1.0, sigma='learned')
    """

    model: ClassVar[str] = "vae"

    latent_dim: int
    beta: float = 1.0
    eta_dec: EtaDec = 1.0
    eta_enc: float = 1.0
    sigma: Sigma = "learned"
    likelihood: Likelihood = "gaussian"
    dispersion: Dispersion = "learned"

    def __post_init__(self) -> None:
        dim = checks.units("latent_dim", self.latent_dim)
        _check(self, latent_dim=dim, sigma=checks.sigma("sigma", self.sigma, dim))
        if self.likelihood != "gaussian" and self.eta_dec != 1.0:
            raise InvalidArgumentError(
                "eta_dec", f"{self.eta_dec!r} with likelihood {self.likelihood!r}",
                "1.0, as only a Gaussian decoder has a std", "Leave it out.",
            )  # fmt: skip

    @property
    def dims(self) -> tuple[int, ...]:
        return (self.latent_dim,)

    @property
    def beta_levels(self) -> tuple[float, ...]:
        return (self.beta,)

    @property
    def eta_levels(self) -> tuple[EtaDec, ...]:
        return (self.eta_dec,)

    @property
    def sigma_levels(self) -> tuple[Sigma, ...]:
        return (self.sigma,)


@dataclass(frozen=True, repr=False)
class CVAESpec(VAESpec):
    """A conditional VAE: encoder and decoder both see the condition x; y is modelled.

    The fields are those of `VAESpec`; in the data, `x` is the condition and `y` the target.

    Example:
        >>> CVAESpec(latent_dim=16, eta_dec=0.5).model
        'cvae'
    """

    model: ClassVar[str] = "cvae"


class _Levels(Spec):
    """What specs of several levels share: a field holds the units of all, another their betas."""

    latent_dims: tuple[int, ...]
    betas: tuple[float, ...]

    @property
    def dims(self) -> tuple[int, ...]:
        return self.latent_dims

    @property
    def beta_levels(self) -> tuple[float, ...]:
        return self.betas


@dataclass(frozen=True, repr=False)
class HVAESpec(_Levels):
    """A two-level Markov hierarchical VAE, `x -> z1 -> z2 -> z1 -> y`.

    `p(z2) = N(0, eta_enc^2 I)`; both `p(z1|z2)` and `p(y|z1)` have std `eta_dec`.

    Args:
        latent_dims: Number of units of z1 and of z2.
        betas: `betas[0]` weighs `E[log q(z1|x) - log p(z1|z2)]`, `betas[1]` the KL of z2.
        eta_dec: Decoder std; `"learned"` to learn it.
        eta_enc: Prior std of z2.
        sigma_1: Posterior std of z1, as `sigma` of `VAESpec`.
        sigma_2: Posterior std of z2, likewise.
        likelihood: `p(y|z1)`, as of `VAESpec`; `eta_dec` is then that of `p(z1|z2)` alone.
        dispersion: As of `VAESpec`.

    Raises:
        InvalidArgumentError: A value is out of its domain; the message says which.

    Example:
        >>> HVAESpec(latent_dims=(5, 3), sigma_1=0.5).dims
        (5, 3)
    """

    model: ClassVar[str] = "hvae"

    latent_dims: tuple[int, int]
    betas: tuple[float, float] = (1.0, 1.0)
    eta_dec: EtaDec = 1.0
    eta_enc: float = 1.0
    sigma_1: Sigma = 1.0
    sigma_2: Sigma = "learned"
    likelihood: Likelihood = "gaussian"
    dispersion: Dispersion = "learned"

    def __post_init__(self) -> None:
        dims = checks.each(
            "latent_dims", self.latent_dims, 2, "z1's units, z2's units", checks.units
        )
        _check(
            self,
            latent_dims=dims,
            betas=checks.each("betas", self.betas, 2, "z1's beta, z2's beta", checks.positive),
            sigma_1=checks.sigma("sigma_1", self.sigma_1, dims[0]),
            sigma_2=checks.sigma("sigma_2", self.sigma_2, dims[1]),
        )

    @property
    def eta_levels(self) -> tuple[EtaDec, ...]:
        # Without a Gaussian decoder into the data, signal is measured in the data's own noise: 1.
        return (self.eta_dec if self.likelihood == "gaussian" else 1.0, self.eta_dec)

    @property
    def sigma_levels(self) -> tuple[Sigma, ...]:
        return (self.sigma_1, self.sigma_2)


@dataclass(frozen=True, repr=False)
class ChainSpec(_Levels):
    """A Markov hierarchical VAE of L levels, each with its own decoder std.

    Args:
        latent_dims: Number of units per level, bottom first.
        betas: Beta per level.
        eta_decs: `eta_decs[0]` is the std of `p(y|z1)`, `eta_decs[l]` of `p(z_l|z_{l+1})`.
        eta_enc: Prior std of the last level.
        sigmas: `"learned"` for every level, or one entry per level as `sigma` of `VAESpec`.

    Raises:
        InvalidArgumentError: A value is out of its domain; the message says which.

    Example:
        >>> ChainSpec(latent_dims=(3, 3, 2), betas=(1, 1.5, 2), eta_decs=(0.5, 0.6, 0.7)).sigmas
        ('learned', 'learned', 'learned')
    """

    model: ClassVar[str] = "chain"

    latent_dims: tuple[int, ...]
    betas: tuple[float, ...]
    eta_decs: tuple[float, ...]
    eta_enc: float = 1.0
    sigmas: tuple[Sigma, ...] | Literal["learned"] = "learned"

    def __post_init__(self) -> None:
        dims = checks.each("latent_dims", self.latent_dims, None, "units per level", checks.units)
        levels = len(dims)
        if levels < 1:
            raise InvalidArgumentError(
                "latent_dims", "no level", "at least one level", "Pass e.g. latent_dims=(8, 4, 2)."
            )
        sigmas = ("learned",) * levels if isinstance(self.sigmas, str) else self.sigmas
        if isinstance(self.sigmas, str) and self.sigmas != "learned":
            raise InvalidArgumentError(
                "sigmas", repr(self.sigmas), "'learned' or one entry per level",
                "Pass sigmas='learned'.",
            )  # fmt: skip
        sigmas = checks.sequence("sigmas", sigmas, levels, "one entry per level")
        _check(
            self,
            latent_dims=dims,
            betas=checks.each("betas", self.betas, levels, "one beta per level", checks.positive),
            eta_decs=checks.each(
                "eta_decs", self.eta_decs, levels, "one std per level", checks.positive
            ),
            sigmas=tuple(
                checks.sigma(checks.level("sigmas", i), sigma, dim)
                for i, (sigma, dim) in enumerate(zip(sigmas, dims, strict=True), 1)
            ),
        )

    @property
    def eta_levels(self) -> tuple[EtaDec, ...]:
        return self.eta_decs

    @property
    def sigma_levels(self) -> tuple[Sigma, ...]:
        assert isinstance(self.sigmas, tuple)
        return self.sigmas


_MODELS: dict[Any, type[Spec]] = {
    cls.model: cls for cls in (VAESpec, CVAESpec, HVAESpec, ChainSpec)
}
