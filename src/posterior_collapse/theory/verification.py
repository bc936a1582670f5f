"""Theory against numerical minima: the paper's matrix problems and random ones of every branch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from posterior_collapse.errors import InvalidArgumentError, nearest
from posterior_collapse.moments import Moments
from posterior_collapse.records import Record
from posterior_collapse.specs import ChainSpec, CVAESpec, HVAESpec, Spec, VAESpec
from posterior_collapse.theory.forecasting import forecast
from posterior_collapse.theory.minimum import minimise

LOSS_TOLERANCE = 1e-9
SINGULAR_VALUE_TOLERANCE = 1e-4
Draw = Callable[[np.random.Generator], tuple[Moments, Spec]]
COUNTED_FROM = 1e-3
"""Singular value from which a unit of a numerical minimum counts as on."""


@dataclass(frozen=True)
class Case:
    """A branch of the theory with a way to draw problems from it.

    Attributes:
        name: E8, E13, E14 (the paper's matrix experiments) or a branch.
        source: Theorem or section of the derivation.
        draw: From a generator to moments and spec.
        identified: Whether the optimum's singular values are unique.
    """

    name: str
    source: str
    model: str
    draw: Draw
    identified: bool = True


@dataclass(frozen=True)
class Verification(Record):
    """One problem: what theory says, and what minimisation from random starts found.

    Attributes:
        case: Name of the case.
        model: The model in words.
        theory_loss: Loss of the closed form, nats per sample.
        found_loss: Lowest loss found numerically.
        loss_gap: `found_loss - theory_loss`: 0 up to rounding if the closed form is the optimum.
        singular_value_error: Largest difference of singular values over levels; None where the
            optimum does not determine them.
        theory_on: Units on (not collapsed) per level, by theory.
        found_on: Units on per level in the numerical minimum.
        agrees: Whether gap, singular values and counts all agree.
    """

    case: str
    model: str
    theory_loss: float
    found_loss: float
    loss_gap: float
    singular_value_error: float | None
    theory_on: tuple[int, ...]
    found_on: tuple[int, ...]
    agrees: bool


def verify(
    which: str = "all",
    *,
    problems: int = 3,
    restarts: int = 8,
    seed: int = 0,
    after_restart: Callable[[], None] = lambda: None,
) -> Iterator[Verification]:
    """Yield one `Verification` per problem.

    Args:
        which: "all", or the name of one case (E8, E13, E14 or a branch).
        problems: Random problems per branch; the paper's experiments are one each.
        restarts: Random starts per problem.
        seed: Seed of problems and starts.
        after_restart: Called after each restart, for progress.

    Raises:
        InvalidArgumentError: No such case.

    Example:
        >>> [v.agrees for v in verify("E13", restarts=2)]
        [True]
    """
    for case, number in plan(which, problems):
        generator = np.random.default_rng([seed, CASES.index(case), number])
        moments, spec = case.draw(generator)
        f = forecast(moments, spec)
        found = minimise(
            moments, spec, restarts=restarts, generator=generator, after_restart=after_restart
        )
        errors = [
            max(
                float(np.abs(encoder - level.encoder_singular_values).max()),
                float(np.abs(decoder - level.decoder_singular_values).max()),
            )
            for (encoder, decoder), level in zip(found.singular_values, f.levels, strict=True)
        ]
        gap = found.loss - f.loss
        on = tuple(len(level.status) - level.status.count("collapsed") for level in f.levels)
        found_on = tuple(int(np.sum(d > COUNTED_FROM)) for _, d in found.singular_values)
        error = max(errors) if case.identified else None
        agrees = abs(gap) <= LOSS_TOLERANCE * (1 + abs(f.loss)) and on == found_on
        if error is not None:
            agrees = agrees and error <= SINGULAR_VALUE_TOLERANCE
        yield Verification(
            case.name, case.model, f.loss, found.loss, gap, error, on, found_on, agrees
        )


def plan(which: str, problems: int) -> list[tuple[Case, int]]:
    """Return the problems that `verify` will solve, as (case, number).

    Raises:
        InvalidArgumentError: No such case.
    """
    chosen = [case for case in CASES if str(which).lower() in ("all", case.name.lower())]
    if not chosen:
        names = [case.name for case in CASES]
        raise InvalidArgumentError(
            "case",
            repr(which),
            f"'all' or one of {', '.join(names)}",
            f"Pass 'all'.{nearest(str(which), names)}",
        )
    return [(c, i) for c in chosen for i in range(1 if c.name.startswith("E") else problems)]


def _data(generator: np.random.Generator, target: bool) -> Moments:
    x = generator.standard_normal((60, 5)) @ np.diag(generator.uniform(0.3, 2.5, 5))
    if not target:
        return Moments.from_arrays(x)
    mix = generator.standard_normal((5, 4)) / 2
    y = x @ mix + generator.standard_normal((60, 4)) * generator.uniform(0.3, 2.0, 4)
    return Moments.from_arrays(x, y)


def _e8(generator: np.random.Generator) -> tuple[Moments, Spec]:
    x, y = 0.1 * generator.standard_normal((2, 100, 5))
    return Moments.from_arrays(x, y, center=False), CVAESpec(5, beta=2.0)


def _e13(generator: np.random.Generator) -> tuple[Moments, Spec]:
    x = generator.standard_normal((100, 6))
    return Moments.from_arrays(x, center=False), HVAESpec((5, 5), (1.0, 2.0), sigma_1=1.0)


def _e14(generator: np.random.Generator) -> tuple[Moments, Spec]:
    x = 0.1 * generator.standard_normal((100, 5))
    spec = HVAESpec((5, 5), (1.0, 2.0), sigma_1=1.0, sigma_2=1.0)
    return Moments.from_arrays(x, center=False), spec


def _number(generator: np.random.Generator, low: float = 0.5, high: float = 1.3) -> float:
    return float(generator.uniform(low, high))


def _low(generator: np.random.Generator) -> float:
    return _number(generator, 0.3, 0.9)


def _stds(generator: np.random.Generator) -> tuple[float, ...]:
    return tuple(generator.uniform(0.3, 1.3, 3).tolist())


def _random(spec: Callable[[np.random.Generator], Spec], target: bool = False) -> Draw:
    return lambda generator: (_data(generator, target), spec(generator))


def _vae(cls: type[VAESpec] = VAESpec, **fields: Any) -> Draw:
    """Data and a spec of one level, whose fields are as given or drawn by what is given."""

    def spec(g: np.random.Generator) -> Spec:
        given = _drawn(g, fields)
        return cls(**{"latent_dim": 3, "beta": _number(g), "eta_enc": _number(g)} | given)

    return _random(spec, target=cls is CVAESpec)


def _hvae(dims: tuple[int, int], **fields: Any) -> Draw:
    """Likewise of two levels."""

    def spec(g: np.random.Generator) -> Spec:
        given = _drawn(g, fields)
        betas, eta_dec = (_number(g), _number(g)), _number(g, 0.4, 1.0)
        return HVAESpec(dims, betas, eta_dec, eta_enc=_number(g), **given)

    return _random(spec)


def _drawn(generator: np.random.Generator, fields: dict[str, Any]) -> dict[str, Any]:
    return {name: v(generator) if callable(v) else v for name, v in fields.items()}


def _rising(g: np.random.Generator) -> Spec:
    return HVAESpec((3, 3), (_number(g, 0.5, 0.9), 1.0), 0.7, sigma_1="learned")


def _chain_learned(g: np.random.Generator) -> Spec:
    return ChainSpec((3, 3, 2), (0.8, 1.0, 1.5), (_number(g), 0.6, 0.7))


def _chain_fixed(g: np.random.Generator) -> Spec:
    betas, etas = (1.0, _number(g), 1.2), (0.5, 0.6, _number(g))
    return ChainSpec((3, 2, 3), betas, etas, 1.2, (0.6, 0.8, "learned"))


CASES: tuple[Case, ...] = (
    Case("E8", "theorem 2", "CVAE, x and y independent", _e8),
    Case("E13", "theorem 3", "HVAE, sigma_2 learned", _e13),
    Case("E14", "theorem 5", "HVAE, both sigmas fixed", _e14),
    Case("vae-learned", "1a", "VAE, sigma learned", _vae()),
    Case("vae-wide", "1a", "VAE, more units than features", _vae(latent_dim=7)),
    Case("vae-target", "1a", "x to y, sigma learned", _random(lambda g: VAESpec(3), target=True)),
    Case("vae-equal", "1b", "VAE, sigma fixed, equal", _vae(sigma=_number)),
    Case("vae-unequal", "1b", "VAE, sigma fixed, unequal", _vae(sigma=_stds)),
    Case("vae-shared", "1c", "VAE, one shared sigma", _vae(sigma="shared")),
    Case("vae-eta", "1d", "VAE, eta_dec learned", _vae(eta_dec="learned")),
    Case(
        "vae-eta-fixed",
        "1d",
        "VAE, eta_dec learned, sigma fixed",
        _vae(eta_dec="learned", sigma=_stds),
    ),
    Case(
        "vae-eta-shared",
        "1c, 1d",
        "VAE, eta_dec and one sigma learned",
        _vae(eta_dec="learned", sigma="shared"),
    ),
    Case("cvae-learned", "2", "CVAE, sigma learned", _vae(CVAESpec)),
    Case("cvae-unequal", "2", "CVAE, sigma fixed, unequal", _vae(CVAESpec, sigma=_stds)),
    Case("cvae-eta", "1d, 2", "CVAE, eta_dec learned", _vae(CVAESpec, eta_dec="learned")),
    Case("hvae-learned-2", "3a", "HVAE, sigma_2 learned", _hvae((4, 3), sigma_1=_low)),
    Case("hvae-fixed", "3b", "HVAE, both fixed", _hvae((3, 4), sigma_1=_low, sigma_2=_number)),
    Case(
        "hvae-unequal-2", "3b", "HVAE, sigma_2 unequal", _hvae((3, 3), sigma_1=_low, sigma_2=_stds)
    ),
    Case("hvae-both-learned", "3c", "HVAE, both learned, beta_2 > beta_1", _random(_rising)),
    Case(
        "hvae-learned-1",
        "3c",
        "HVAE, sigma_1 learned, sigma_2 fixed",
        _hvae((3, 2), sigma_1="learned", sigma_2=_number),
        identified=False,
    ),
    Case(
        "hvae-unequal-1",
        "3d",
        "HVAE, sigma_1 unequal",
        _hvae((3, 3), sigma_1=_stds),
        identified=False,
    ),
    Case("chain-learned", "4", "3 levels, all learned", _random(_chain_learned)),
    Case("chain-fixed", "4", "3 levels, all but the top fixed", _random(_chain_fixed)),
)
