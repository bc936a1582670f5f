"""Single-cell models of scvi-tools as a `LatentModel`: counts, given what the decoder is told."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, NegativeBinomial, Normal, Poisson, constraints
from torch.nn.functional import logsigmoid, one_hot

from posterior_collapse.adapters.callables import WrappedModel
from posterior_collapse.adapters.libraries import needing
from posterior_collapse.errors import InvalidArgumentError, count_of
from posterior_collapse.models.global_state import undisturbed
from posterior_collapse.models.likelihoods import log_prob
from posterior_collapse.models.modules import evaluating
from posterior_collapse.specs import CVAESpec, Likelihood, Spec, VAESpec

_SMALL = 1e-8
"""What scvi adds to means and dispersions before it takes their logarithm."""
_LIKELIHOODS: dict[str, Likelihood] = {
    "nb": "negative-binomial",
    "poisson": "poisson",
    "normal": "gaussian",
    "zinb": "other",
}
Tensors = Mapping[str, Any]


def from_scvi(model: Any, *, spec: Spec | None = None) -> ScviModel:
    """Return a `LatentModel` around a model of scvi-tools, `SCVI` or `LinearSCVI`.

    Its decoder is told the library size of a cell and its covariates, so that it is a conditional
    model: x is what the decoder is told, y the counts, and `data()` gives both, from the model's
    own data. The loss is `-log p(y|z, x) + kl_weight KL`, summed over genes and units, so that beta
    is the `kl_weight` of the last training step.

    Args:
        model: A trained `scvi.model.SCVI` or `scvi.model.LinearSCVI`.
        spec: The objective; None: as the model says, assumed of one that was not trained.

    Raises:
        MissingDependencyError: scvi-tools is not installed.
        InvalidArgumentError: Another model, or one that has forgotten its counts.

    Warns:
        UserWarning: Training ended within the warm-up of the KL's weight.
    """
    with needing("scvi-tools", "read its models"):
        from scvi.module import VAE
    module = getattr(model, "module", None)
    methods = ("loss", "generative", "_regular_inference")
    if not isinstance(module, VAE) or any(
        getattr(type(module), name) is not getattr(VAE, name) for name in methods
    ):
        raise InvalidArgumentError(
            "model",
            f"a {type(model).__name__}",
            "an SCVI or LinearSCVI of scvi-tools",
            "Wrap its encoder with from_callable, or derive a class from LatentModel.",
        )
    if module.minified_data_type is not None:
        raise InvalidArgumentError(
            "model", "minified data", "a model with its counts", "Load it with its full adata."
        )
    weight, unfinished = _kl_weight(model)
    if unfinished is not None:
        warnings.warn(unfinished, stacklevel=2)
    return ScviModel(model, weight, unfinished, spec)


class ScviModel(WrappedModel):
    """A wrapped model of scvi-tools; `from_scvi` makes one.

    Args:
        model: The model.
        weight: Of its KL at the last training step; None: there was none.
        unfinished: What to say of a warm-up of that weight which training did not finish.
        spec: The objective, if it was passed.

    Attributes:
        module: The networks.
    """

    def __init__(
        self, model: Any, weight: float | None, unfinished: str | None, spec: Spec | None
    ) -> None:
        module, columns = model.module, _Columns.of(model)
        likelihood = _LIKELIHOODS[module.gene_likelihood]
        found = CVAESpec(
            module.n_latent,
            beta=weight or 1.0,
            eta_dec="learned" if likelihood == "gaussian" else 1.0,
            sigma="input",
            likelihood=likelihood,
        )
        said = [] if unfinished is None else [unfinished]
        if not module.use_observed_lib_size:
            said.append(
                "library sizes are those that the model's own encoder infers, their KL left out"
            )

        def encode(x: Tensor, y: Tensor) -> Normal:
            q = _inferred(module, {**columns.split(x), "X": y})["qz"]
            return Normal(q.loc, q.scale, validate_args=False)

        def decode(z: Tensor, x: Tensor) -> Distribution:
            tensors = columns.split(x)
            given = {
                "z": module.z_encoder.z_transformation(z),
                "library": tensors["library"],
            }
            p = module.generative(**module._get_generative_input(tensors, given))["px"]
            return _plain(p, module.gene_likelihood)

        super().__init__(
            encode,
            decode,
            latent_dim=module.n_latent,
            spec=found if spec is None else _conditional(spec),
            spec_assumed=spec is None and weight is None,
            said=said,
        )
        # Not the model itself: what it trained with is no part of what is diagnosed.
        self.module, self._columns = module, columns
        self._manager, self._loader = model.adata_manager, model._data_loader_cls

    def data(
        self, adata: Any = None, indices: Sequence[int] | None = None, batch_size: int = 1000
    ) -> Cells:
        """Return cells as `diagnose` and `forecast` want them, read by the model's own loader.

        Args:
            adata: Set up as the model's own; None: that.
            indices: Of cells, such as the model's `train_indices`; None: all.
            batch_size: Cells at a time.
        """
        manager = self._manager
        if adata is not None and adata is not manager.adata:
            manager = manager.transfer_fields(adata)
        chosen = np.arange(manager.adata.n_obs) if indices is None else np.asarray(indices)
        return Cells(self, self._loader(manager, indices=chosen, batch_size=batch_size))

    def condition(self, tensors: Tensors) -> Tensor:
        """Return what the decoder is told of the cells of a batch of scvi's, (cells, columns).

        The log of the library size (or size factor), of which log rates are a linear function; 0
        and 1 per batch, if there are several, per label, if dispersions differ by it, and per value
        of each categorical covariate; and the continuous ones.
        """
        if self.module.use_size_factor_key:
            library = tensors["size_factor"].log()
        elif self.module.use_observed_lib_size:
            library = tensors["X"].sum(1, keepdim=True).log()
        else:
            library = _inferred(self.module, tensors)["ql"].loc
        return self._columns.joined(library, tensors)


def _inferred(module: Any, tensors: Tensors) -> dict[str, Any]:
    with undisturbed(tensors["X"].device):
        inputs = module._get_inference_input(tensors)
        return cast("dict[str, Any]", module.inference(**inputs))


def _plain(p: Any, likelihood: str) -> Distribution:
    """Return a distribution of scvi's as one that diagnosis knows."""
    if isinstance(p, Poisson):
        return Poisson(p.rate, validate_args=False)
    if isinstance(p, Normal):
        return Normal(p.loc, p.scale, validate_args=False)
    logits = (p.mu + _SMALL).log() - (p.theta + _SMALL).log()
    if likelihood == "nb":
        return NegativeBinomial(p.theta, logits=logits, validate_args=False)
    return ZeroInflatedNegativeBinomial(p.theta, logits, p.zi_logits)


class ZeroInflatedNegativeBinomial(Distribution):
    """A negative binomial that is 0 instead with some probability.

    Args:
        total_count: r, whose variance is `m + m^2 / r` at mean m, before the inflation.
        logits: log of `m / r`.
        gate_logits: Of the probability of a 0 that no count explains.

    Example:
        >>> one = ZeroInflatedNegativeBinomial(*torch.tensor([[4.0], [0.0], [0.0]]))
        >>> one.mean, one.log_prob(torch.zeros(1)).exp()
        (tensor([2.]), tensor([0.5312]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "total_count": constraints.positive,
        "logits": constraints.real,
        "gate_logits": constraints.real,
    }
    support = constraints.nonnegative_integer

    def __init__(
        self,
        total_count: Tensor,
        logits: Tensor,
        gate_logits: Tensor,
        validate_args: bool | None = False,
    ) -> None:
        shapes = (total_count.shape, logits.shape, gate_logits.shape)
        shape = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
        self.total_count, self.logits = total_count.expand(shape), logits.expand(shape)
        self.gate_logits = gate_logits.expand(shape)
        super().__init__(self.logits.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """Of the counts and zeros together."""
        return (-self.gate_logits).sigmoid() * self.total_count * self.logits.exp()

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of counts, elementwise."""
        counts = NegativeBinomial(self.total_count, logits=self.logits, validate_args=False)
        of_count = logsigmoid(-self.gate_logits) + log_prob(counts, value)
        of_zero = torch.logaddexp(logsigmoid(self.gate_logits), of_count)
        return torch.where(value == 0, of_zero, of_count)


class Cells:
    """Cells of an AnnData, a batch at a time, as often as they are read; `ScviModel.data` makes it.

    Each batch is a pair: what the decoder is told, (cells, columns), and counts, (cells, genes).
    """

    def __init__(self, model: ScviModel, loader: Any) -> None:
        self._model, self._loader = model, loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        device = next(self._model.module.parameters()).device
        for tensors in self._loader:
            moved = {name: value.to(device) for name, value in tensors.items()}
            with torch.no_grad(), evaluating(self._model):
                x = self._model.condition(moved)
            yield x, moved["X"]


class _Columns(NamedTuple):
    """Widths of the parts of what the decoder is told: batches, labels, covariates."""

    batches: int
    labels: int
    categories: tuple[int, ...]
    continuous: int

    @classmethod
    def of(cls, model: Any) -> _Columns:
        """Return those of a model."""
        manager, module = model.adata_manager, model.module
        categories: tuple[int, ...] = ()
        if "extra_categorical_covs" in manager.data_registry:
            registry = manager.get_state_registry("extra_categorical_covs")
            categories = tuple(registry.n_cats_per_key)
        return cls(
            module.n_batch if module.n_batch > 1 else 0,
            module.n_labels if module.dispersion == "gene-label" else 0,
            categories,
            int(model.summary_stats.get("n_extra_continuous_covs", 0)),
        )

    def joined(self, library: Tensor, tensors: Tensors) -> Tensor:
        """Return the columns of cells."""
        numbers = [tensors["batch"], tensors["labels"]]
        if self.categories:
            numbers += tensors["extra_categorical_covs"].split(1, dim=1)
        widths = [self.batches, self.labels, *self.categories]
        parts = [library]
        for number, width in zip(numbers, widths, strict=True):
            if width:
                parts.append(one_hot(number.squeeze(1).long(), width).to(library.dtype))
        if self.continuous:
            parts.append(tensors["extra_continuous_covs"])
        return torch.cat(parts, dim=1)

    def split(self, x: Tensor) -> dict[str, Tensor]:
        """Return the tensors that scvi knows them as, and the library sizes."""
        widths = [1, self.batches, self.labels, *self.categories, self.continuous]
        library, *flags, continuous = torch.split(x, widths, dim=1)
        none = torch.zeros_like(library, dtype=torch.long)
        batch, labels, *categories = (
            part.argmax(1, keepdim=True) if part.shape[1] else none for part in flags
        )
        found = {
            "library": library,
            "size_factor": library.exp(),
            "batch": batch,
            "labels": labels,
        }
        if self.categories:
            found["extra_categorical_covs"] = torch.cat(categories, dim=1)
        if self.continuous:
            found["extra_continuous_covs"] = continuous
        return found


def _kl_weight(model: Any) -> tuple[float | None, str | None]:
    """Return the KL's weight where training ended, if it had one, and what is to be said of it."""
    plan = getattr(getattr(model, "trainer", None), "lightning_module", None)
    weights: list[float] = []
    history = getattr(model, "history", None) or {}
    if "kl_weight" in history:
        weights = [float(value) for value in history["kl_weight"].to_numpy().ravel()]
    most = 1.0 if plan is None else float(plan.max_kl_weight)
    # The history has every tenth step or so, and a model that was loaded nothing else.
    last = weights[-1:] if plan is None else [float(plan.loss_kwargs["kl_weight"])]
    if not last or not model.is_trained:
        return None, None
    value = float(str(np.float32(last[0])))  # 0.4, where a tensor held it
    settled = plan is None and len(weights) > 1 and math.isclose(weights[-2], value, rel_tol=1e-6)
    if value <= 0:
        return None, _unfinished(value, most, plan)
    if settled or math.isclose(value, most, rel_tol=1e-6) or value > most:
        return value, None
    return value, _unfinished(value, most, plan)


def _unfinished(value: float, most: float, plan: Any) -> str:
    length = ""
    if plan is not None:
        epochs, steps = plan.n_epochs_kl_warmup, plan.n_steps_kl_warmup
        length = (
            f", over {count_of(epochs, 'epoch')}" if epochs else f", over {count_of(steps, 'step')}"
        )
    return (
        f"the KL's weight was {value:.3g} where training ended, on its way to {most:.3g}{length}: "
        "what is active now may collapse at the full weight; train longer, or shorten the warm-up "
        "with plan_kwargs={'n_epochs_kl_warmup': ...}"
    )


def _conditional(spec: Spec) -> Spec:
    if isinstance(spec, VAESpec) and not isinstance(spec, CVAESpec):
        return Spec.from_dict({**spec.to_dict(), "model": "cvae"})
    return spec
