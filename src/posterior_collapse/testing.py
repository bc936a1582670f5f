"""A contract test for a `LatentModel` of your own: what `diagnose` relies on, checked on your data.

In your test suite:

    from posterior_collapse.testing import LATENT_MODEL_CHECKS

    @pytest.mark.parametrize("check", LATENT_MODEL_CHECKS, ids=lambda check: check.__name__)
    def test_my_adapter(check):
        check(my_model, some_rows)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from posterior_collapse.diagnosis import diagnose
from posterior_collapse.diagnosis.exact import free_levels
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models import LatentModel
from posterior_collapse.models.modules import evaluating, modules_behind
from posterior_collapse.specs import Spec

__all__ = ["LATENT_MODEL_CHECKS", "check_latent_model"]

Check: TypeAlias = Callable[[LatentModel, Tensor, Tensor | None], None]

_DRAWS = 3
_ROWS = 3


def check_latent_model(model: LatentModel, x: Tensor, y: Tensor | None = None) -> None:
    """Check that a model keeps the contract of `LatentModel`, and say where it does not.

    Like `diagnose`, it looks at the model in evaluation mode.

    Args:
        model: The model, as it would be handed to `diagnose`.
        x: Inputs or conditions, at least 3 different ones; passed on as flat rows.
        y: Targets of a conditional model.

    Raises:
        AssertionError: A part of the contract is broken; the message names it.
        InvalidArgumentError: The data are too few.

    Example:
        >>> from posterior_collapse.models import build
        >>> from posterior_collapse.specs import VAESpec
        >>> check_latent_model(build(VAESpec(latent_dim=2), "linear", x_dim=3), torch.eye(3))
    """
    for check in LATENT_MODEL_CHECKS:
        check(model, x, y)


def _check(check: Check) -> Callable[..., None]:
    """Look at the model as `diagnose` does."""

    @functools.wraps(check)
    def checked(model: LatentModel, x: Tensor, y: Tensor | None = None) -> None:
        if len(x) < _ROWS or (y is not None and len(y) != len(x)):
            raise InvalidArgumentError(
                "x", f"{len(x)} rows", f"at least {_ROWS}, and as many of y", "Pass more rows."
            )
        if not isinstance(model, LatentModel):
            _fail(f"the model is a {type(model).__name__}, not a LatentModel: derive from it")
        with torch.no_grad(), evaluating(model):
            check(model, x.flatten(1), None if y is None else y.flatten(1))

    return checked


@_check
def check_spec(model: LatentModel, x: Tensor, y: Tensor | None) -> None:
    """`spec` is a spec, and `units` are its latent dims."""
    if not isinstance(getattr(model, "spec", None), Spec):
        _fail("model.spec is no Spec: set it to the objective that the model was trained with")
    if model.units != model.spec.dims:
        _fail(f"model.units {model.units} differ from model.spec.dims {model.spec.dims}")


@_check
def check_posteriors(model: LatentModel, x: Tensor, y: Tensor | None) -> None:
    """Each level's posterior is a `Normal` per row and unit, finite, with positive stds."""
    given = x
    for level, units in enumerate(model.units, start=1):
        name = f"posterior({level})"
        q = _normal(model.posterior(level, given, y if level == 1 else None), name)
        _same_shape(q.mean, (len(x), units), f"{name}.mean")
        if level > 1:
            several = _normal(model.posterior(level, given.expand(_DRAWS, *given.shape)), name)
            shape = (_DRAWS, len(x), units)
            _same_shape(several.mean, shape, f"{name}.mean of (samples, batch, units)")
        given = q.mean


@_check
def check_priors(model: LatentModel, x: Tensor, y: Tensor | None) -> None:
    """The top level's prior needs nothing; below it, there is one per row of the level above."""
    latents = model.infer(x, y)
    for level, units in enumerate(model.units, start=1):
        top = level == len(model.units)
        p = _normal(
            model.prior(level) if top else model.prior(level, latents[level]), f"prior({level})"
        )
        _same_shape(p.mean, (units,) if top else (len(x), units), f"prior({level}).mean")


@_check
def check_decoder(model: LatentModel, x: Tensor, y: Tensor | None) -> None:
    """The decoder gives one flat row per latent, for samples in front of the batch too."""
    if not _decodes(model):
        return
    z = model.infer(x, y)[0]
    dim = (x if y is None else y)[0].numel()
    one = _of_features(model.decode(z, x), "decode(z)")
    _same_shape(one.mean, (len(x), dim), "decode(z).mean")
    shifts = torch.arange(_DRAWS, device=z.device, dtype=z.dtype)[:, None, None]
    many = _of_features(model.decode(z + shifts, x), "decode of (samples, batch, units)")
    _same_shape(many.mean, (_DRAWS, len(x), dim), "decode(z).mean of (samples, batch, units)")
    _same(many.mean[0], one.mean, "decode depends on what else is decoded at the same time")


@_check
def check_deterministic(model: LatentModel, x: Tensor, y: Tensor | None) -> None:
    """The same input gives the same posterior, and no global random number is drawn."""
    before = _global_states()
    first, second = (model.posterior(1, x, y) for _ in range(2))
    if not (_equal(first.mean, second.mean) and _equal(first.stddev, second.stddev)):
        _fail(
            "two calls of posterior(1, x) differ: return the posterior's mean, not a sample, and "
            "let a module drop out (nn.Dropout), where eval() reaches it: functional.dropout is on "
            "unless told otherwise"
        )
    if not all(map(torch.equal, before, _global_states())):
        _fail("posterior(1, x) draws from torch's global generator: return the distribution only")


def _global_states() -> list[Tensor]:
    """States of the CPU's global generator and of each GPU's that is in use."""
    in_use: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    gpus = torch.cuda.get_rng_state_all() if in_use else []
    return [torch.get_rng_state(), *gpus]


@_check
def check_rows(model: LatentModel, x: Tensor, y: Tensor | None) -> None:
    """A row's posterior does not depend on its batch, down to a batch of one."""
    whole = model.posterior(1, x, y)
    for row in range(_ROWS):
        alone = model.posterior(1, x[row : row + 1], None if y is None else y[row : row + 1])
        for part in ("mean", "stddev"):
            _same(
                getattr(alone, part)[0],
                getattr(whole, part)[row],
                f"the {part} of a row's posterior changes with the other rows of its batch: let a "
                "module do batch norm (nn.BatchNorm1d), where eval() reaches it",
            )


@_check
def check_log_terms(model: LatentModel, x: Tensor, y: Tensor | None) -> None:
    """Log densities are finite and have one value per sample and row."""
    if not _decodes(model):
        return
    generator = torch.Generator(device=model.infer(x, y)[0].device).manual_seed(0)
    terms = model.log_terms(model.infer(x, y, generator=generator, samples=_DRAWS), x, y)
    for name, values in zip(terms._fields, ((terms.decoder,), *terms[1:]), strict=True):
        for value in values:
            _same_shape(value, (_DRAWS, len(x)), f"log_terms(...).{name}")
            if not torch.isfinite(value).all():
                _fail(f"log_terms(...).{name} is not finite")


@_check
def check_untouched(model: LatentModel, x: Tensor, y: Tensor | None) -> None:
    """Looking at a model changes neither its modes nor its weights and buffers."""
    modules = modules_behind(model)
    modes, values = _modes(modules), [value.clone() for value in _values(modules)]
    z = model.infer(x, y)[0]
    if _decodes(model):
        model.decode(z, x)
    if modes != _modes(modules):
        _fail("posterior or decode leaves a module in another mode (training or evaluation)")
    if not all(map(_equal, values, _values(modules))):
        _fail("posterior or decode changes weights or buffers")


@_check
def check_diagnosis(model: LatentModel, x: Tensor, y: Tensor | None) -> None:
    """`diagnose` takes the model, and finds the KL of its posteriors."""
    posterior = model.posterior(1, x, y)  # before: what a diagnosis draws is given back
    found = diagnose(model, x if y is None else (x, y))
    if len(model.units) == 1:
        kl = torch.distributions.kl_divergence(posterior, model.prior(1)).mean(0)
        measured = torch.from_numpy(found.levels[0].kl).to(kl)
        if free_levels(model):  # it tells of directions, whose KLs have the same sum
            measured, kl = measured.sum(), kl.sum()
        _same(measured, kl, "diagnose finds another KL than that of posterior(1) and prior(1)")


LATENT_MODEL_CHECKS: tuple[Callable[..., None], ...] = (
    check_spec,
    check_posteriors,
    check_priors,
    check_decoder,
    check_deterministic,
    check_rows,
    check_log_terms,
    check_untouched,
    check_diagnosis,
)
"""The checks in order, each `check(model, x, y=None)`, for a parametrised test."""


def _fail(message: str) -> NoReturn:
    raise AssertionError(f"LatentModel contract: {message}.")


def _modes(modules: list[nn.Module]) -> list[bool]:
    parts = (part for module in modules for part in module.modules())
    return [getattr(part, "training", False) for part in parts]


def _values(modules: list[nn.Module]) -> list[Tensor]:
    return [value for m in modules for value in (*m.parameters(), *m.buffers())]


def _decodes(model: LatentModel) -> bool:
    return bool(getattr(model, "decodes", True))


def _normal(distribution: Any, name: str) -> Normal:
    if not isinstance(distribution, Normal):
        _fail(f"{name} is a {type(distribution).__name__}, not a torch.distributions.Normal")
    mean, std = distribution.mean, distribution.stddev
    if not (torch.isfinite(mean).all() and torch.isfinite(std).all()):
        _fail(f"{name} is not finite")
    if not (std > 0).all():
        _fail(f"{name} has a std that is not positive")
    return distribution


def _of_features(distribution: Any, name: str) -> Distribution:
    if isinstance(distribution, Normal):
        return _normal(distribution, name)
    if not isinstance(distribution, Distribution):
        _fail(f"{name} is a {type(distribution).__name__}, not a torch.distributions.Distribution")
    if distribution.event_shape:
        _fail(f"{name} is of events of shape {tuple(distribution.event_shape)}, not elementwise")
    return distribution


def _same_shape(value: Tensor, shape: tuple[int, ...], name: str) -> None:
    if tuple(value.shape) != shape:
        _fail(f"{name} has shape {tuple(value.shape)}, not {shape}")


def _same(value: Tensor, other: Tensor, message: str) -> None:
    # Batches of another size take other matrix kernels: equal but for rounding.
    scale = max(1.0, float(other.abs().max()))
    tolerance = 1e3 * torch.finfo(other.dtype).eps * scale
    if not torch.allclose(value, other, rtol=0.0, atol=tolerance):
        _fail(message)


def _equal(value: Tensor, other: Tensor) -> bool:
    return value.shape == other.shape and bool(torch.equal(value, other))
