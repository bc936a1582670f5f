"""A model and guide of pyro as a `LatentModel`, its objective read off their traces."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Distribution,
    Independent,
    NegativeBinomial,
    Normal,
    OneHotCategorical,
    Poisson,
)

from posterior_collapse.adapters.callables import WrappedModel
from posterior_collapse.adapters.libraries import needing
from posterior_collapse.checks import Dispersion
from posterior_collapse.diagnosis.scores import binary
from posterior_collapse.errors import InvalidArgumentError, first_line
from posterior_collapse.models.global_state import recording, undisturbed
from posterior_collapse.models.modules import evaluating, tensor_behind
from posterior_collapse.specs import EtaDec, Likelihood, Spec, VAESpec

_SAME = 1e-6
"""Relative difference of stds and scales that is rounding."""
KINDS: dict[Any, Likelihood] = {
    Bernoulli: "bernoulli",
    Poisson: "poisson",
    OneHotCategorical: "categorical",
}
WRAPPERS = ("MaskedDistribution", "ExpandedDistribution")
"""Of pyro, by their names: it need not be installed."""
SCALES = (
    "beta is not known: the latent site is scaled differently in model and guide, or from row to "
    "row, which weights no KL: pass spec="
)


OTHERS = "what these sites add to the objective is left out: {}"


class _Sites(NamedTuple):
    """Of the traces of a model and guide at some rows.

    Attributes:
        latent: Name of the latent site.
        observed: Name of the site of the data.
        posterior: In the guide.
        prior: In the model.
        data: In the model.
        others: Names of what is observed besides, as of `pyro.factor`.
    """

    latent: str
    observed: str
    posterior: dict[str, Any]
    prior: dict[str, Any]
    data: dict[str, Any]
    others: tuple[str, ...]


def from_pyro(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Tensor,
    *,
    site: str | None = None,
    observed: str | None = None,
    spec: Spec | None = None,
    modules: Iterable[nn.Module] = (),
) -> WrappedModel:
    """Return a `LatentModel` around a pyro model and its amortised guide.

    Both are called as `SVI.step(x)` calls them. The guide's trace gives the posterior, that of the
    model the prior and the likelihood, and their scales (`pyro.poutine.scale`) beta: the scale of
    the latent site over that of the data.

    Args:
        model: A function of a batch that samples the latent site, Gaussian, and observes the data.
        guide: A function of a batch that samples the latent site from a Gaussian per row.
        x: Some rows, (rows, ...) as both functions want them, at least 2: they show the sites and
            the shape of a row.
        site: Name of the latent site; None: the one that the guide samples.
        observed: Name of the site of the data; None: the one that the model observes.
        spec: The objective; None: as the traces say.
        modules: As of `from_callable`.

    Raises:
        MissingDependencyError: pyro is not installed.
        InvalidArgumentError: Several sites and no name, or sites that are not Gaussian per row.
    """
    with needing("pyro-ppl", "trace its models"):
        from pyro import poutine
    if not isinstance(x, Tensor) or x.ndim < 2 or len(x) < 2:
        raise InvalidArgumentError(
            "x",
            f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__,
            "a tensor of at least 2 rows, (rows, ...)",
            "Pass a batch as SVI.step takes it.",
        )
    own = tensor_behind(*modules, model, guide)
    x = x.to(own) if own is not None and x.is_floating_point() else x
    with evaluating(model, guide), recording():
        x = x.clone()  # rows that were read in inference mode have no slopes
        sites = _sites(poutine, model, guide, x, site, observed)
    like, latent, data = torch.zeros_like(x[:1]), sites.latent, sites.observed

    def encode(rows: Tensor) -> Normal:
        with undisturbed(rows.device):
            node = poutine.trace(guide).get_trace(rows).nodes[latent]
        return cast(Normal, unwrapped(node["fn"]))

    def decode(z: Tensor) -> Distribution:
        # The model's own rows stand where data are observed, which nothing reads.
        rows = like.to(z.device).expand(len(z), *like.shape[1:])
        with undisturbed(z.device):
            given = poutine.condition(model, data={latent: z})
            node = poutine.trace(given).get_trace(rows).nodes[data]
        return cast(Distribution, unwrapped(node["fn"]))

    units, beta = unwrapped(sites.posterior["fn"]).mean.shape[-1], _beta(sites)
    assumed = spec is None and beta is None
    if spec is None:
        likelihood, eta_dec, dispersion = _likelihood(unwrapped(sites.data["fn"]))
        spec = VAESpec(
            units,
            beta=beta or 1.0,
            eta_dec=eta_dec,
            eta_enc=float(unwrapped(sites.prior["fn"]).stddev.flatten()[0]),
            sigma="input",
            likelihood=likelihood,
            dispersion=dispersion,
        )
    return WrappedModel(
        encode,
        decode,
        latent_dim=units,
        spec=spec,
        spec_assumed=assumed,
        said=[SCALES] * assumed + [OTHERS.format(", ".join(sites.others))] * bool(sites.others),
        shape=x.shape[1:],
        modules=modules,
    )


def _sites(
    poutine: Any,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Tensor,
    site: str | None,
    observed: str | None,
) -> _Sites:
    """Trace both functions and find the latent site and that of the data."""
    guided = _traced(poutine, "guide", guide, x)
    latent = _one("site", site, _names(guided, observed=False))
    z = guided.nodes[latent]["value"]
    given = poutine.condition(model, data={latent: z})
    traced = _traced(poutine, "model", given, x)
    if latent not in traced.nodes:
        raise InvalidArgumentError(
            "model",
            f"no site {latent!r}",
            "the latent site that the guide samples",
            "Name it the same in both.",
        )
    seen = [name for name in _names(traced, observed=True) if name != latent]
    data = _one("observed", observed, seen)
    nodes = traced.nodes
    others = [
        name
        for trace in (guided, traced)
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and node["is_observed"] and name not in (latent, data)
        and type(node["fn"]).__name__ != "_Subsample"
    ]  # fmt: skip
    posterior, prior = guided.nodes[latent], nodes[latent]
    found = _Sites(latent, data, posterior, prior, nodes[data], tuple(dict.fromkeys(others)))
    _check(found, len(x), [name for name in _names(traced, observed=False) if name != latent])
    blank = poutine.trace(given).get_trace(torch.zeros_like(x)).nodes[data]
    for node in (*found[2:5], blank):
        if _masked(node):
            raise InvalidArgumentError(
                "model",
                f"a mask at the site {node['name']!r}",
                "sites of which all counts",
                "For KL and information alone, wrap the encoder with from_callable(encode).",
            )
    if not _alike(unwrapped(found.data["fn"]), unwrapped(blank["fn"])):
        raise InvalidArgumentError(
            "model",
            "a likelihood that changes with the data it is asked of",
            "one that the latent site alone decides",
            "Derive a class from LatentModel with a CVAESpec, whose decode is given x.",
        )
    return found


def _traced(poutine: Any, name: str, function: Callable[..., Any], x: Tensor) -> Any:
    try:
        return poutine.trace(function).get_trace(x)
    except Exception as error:
        raise InvalidArgumentError(
            name,
            f"{type(error).__name__} ({first_line(error)}) for x of shape {tuple(x.shape)}",
            "a function of a batch alone, as SVI.step(x) calls it",
            f"Pass rows as it takes them; give it what else it takes, lambda x: {name}(x, 1.0).",
        ) from error


def _masked(node: dict[str, Any]) -> bool:
    """Whether something of a site does not count."""
    masks = [node["mask"], *(getattr(one, "_mask", None) for one in _layers(node["fn"]))]
    return any(mask is not None and not bool(torch.as_tensor(mask).all()) for mask in masks)


def _check(sites: _Sites, rows: int, others: list[str]) -> None:
    """Refuse latents that are not Gaussian per row, and priors that are not N(0, eta_enc^2)."""
    if others:
        raise InvalidArgumentError(
            "model",
            f"the latent site {others[0]!r} besides {sites.latent!r}",
            "one latent site",
            "Derive a class from LatentModel for a hierarchy.",
        )
    for name, node in (("guide", sites.posterior), ("model", sites.prior)):
        found = unwrapped(node["fn"])
        if not isinstance(found, Normal) or found.batch_shape[:-1] != (rows,):
            got = f"a {type(found).__name__} of shape {tuple(found.batch_shape)}"
            raise InvalidArgumentError(
                name,
                f"{got} at the site {sites.latent!r}",
                f"a Normal of ({rows}, units), for {rows} rows",
                "Sample it as Normal(mean, std).to_event(1) in a plate over the rows.",
            )
    prior = unwrapped(sites.prior["fn"])
    if bool(prior.mean.any()) or not _equal(prior.stddev):
        raise InvalidArgumentError(
            "model",
            f"a prior of the site {sites.latent!r} that is not the same for every unit and row",
            "Normal(0, std) with one std",
            "Derive a class from LatentModel that states its prior.",
        )


def _beta(sites: _Sites) -> float | None:
    """The KL's weight beside the data's; None: what the scales weight is no KL."""
    scales = [torch.as_tensor(node["scale"], dtype=torch.float64) for node in sites[2:5]]
    if not all(_equal(scale) and float(scale.min()) > 0 for scale in scales):
        return None
    of_posterior, of_prior, of_data = (float(scale.flatten()[0]) for scale in scales)
    if not math.isclose(of_posterior, of_prior, rel_tol=_SAME):
        return None
    return of_prior / of_data


def _likelihood(data: Distribution) -> tuple[Likelihood, EtaDec, Dispersion]:
    if isinstance(data, Normal) and (data.scale.requires_grad or _equal(data.scale)):
        return "gaussian", _fixed(data.scale), "learned"
    if isinstance(data, NegativeBinomial):
        return "negative-binomial", 1.0, _fixed(data.total_count)
    for kind, name in KINDS.items():
        if isinstance(data, kind):
            return name, 1.0, "learned"
    return "other", 1.0, "learned"


def _fixed(value: Any) -> Any:
    """Return a number that is one for all and not trained, else "learned"."""
    value = torch.as_tensor(value)
    if value.requires_grad or not _equal(value):
        return "learned"
    return float(value.flatten()[0])


def _equal(value: Tensor) -> bool:
    return bool((value - value.flatten()[0]).abs().max() <= _SAME * value.abs().max())


def unwrapped(output: Any) -> Any:
    """Return the distribution of single numbers inside pyro's and torch's wrappers."""
    *_, inner = _layers(output)
    return binary(inner)


def _layers(output: Any) -> Iterator[Any]:
    yield output
    while isinstance(output, Independent) or type(output).__name__ in WRAPPERS:
        output = output.base_dist
        yield output


def _alike(one: Distribution, other: Distribution) -> bool:
    if type(one) is not type(other) or one.batch_shape != other.batch_shape:
        return False
    names = [name for name in one.arg_constraints if name in vars(one)]
    return all(bool((getattr(one, n) == getattr(other, n)).all()) for n in names)


def _names(trace: Any, *, observed: bool) -> list[str]:
    """Return the names of the sites of a trace that are sampled, or whose values are given."""
    return [
        name
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and isinstance(unwrapped(node["fn"]), Distribution)
        and not node["infer"].get("is_auxiliary") and node["is_observed"] == observed
    ]  # fmt: skip


def _one(name: str, asked: str | None, found: list[str]) -> str:
    if asked is None and len(found) == 1:
        return found[0]
    if asked not in found:
        what = "the latent site of the guide" if name == "site" else "the site of the data"
        raise InvalidArgumentError(
            name,
            repr(asked) if asked is not None else f"the sites {found}",
            f"the name of {what}" + (f", one of {found}" if asked is not None else ""),
            f"Pass {name}=.",
        )
    return asked
