"""torchmetrics of collapse: fed batch by batch, their states merge across processes.

Each is updated with a posterior's mean and std, (batch, units), as
`metric.update(q.mean, q.stddev)`, and keeps sums in float64, so that the order of batches and the
number of processes do not matter. `compute` merges the processes; the other methods tell of this
one. Apple's MPS has no float64: there, keep a metric on the CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from posterior_collapse import checks
from posterior_collapse.adapters.libraries import needing
from posterior_collapse.diagnosis.levels import collapse_options
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models.layers import Gaussian, kl_divergence

with needing("torchmetrics", "be updated batch by batch"):
    from torchmetrics import Metric

__all__ = ["ActiveUnits", "EpsilonDeltaCollapse", "InformationPerUnit", "KLPerUnit"]


class _PerUnit(Metric):
    """What the metrics share: sums per unit, and a count of samples."""

    full_state_update = False
    is_differentiable = False
    count: Tensor

    def __init__(
        self, latent_dim: int, sums: tuple[str, ...], options: dict[str, Any], *by: float
    ) -> None:
        super().__init__(**options)
        self.latent_dim = checks.units("latent_dim", latent_dim)
        # By what `update` counts is a state too: a MetricCollection updates only one of metrics
        # whose states agree after the first batch. Their logs, as small numbers agree for it.
        self.add_state("by", torch.tensor(by, dtype=torch.float64).log(), dist_reduce_fx="max")
        for name, shape in [("count", ()), *((name, (self.latent_dim,)) for name in sums)]:
            zeros = torch.zeros(shape, dtype=torch.float64)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def _checked(self, **values: Tensor) -> list[Tensor]:
        for name, value in values.items():
            if value.ndim != 2 or value.shape[1] != self.latent_dim:
                raise InvalidArgumentError(
                    name,
                    f"shape {tuple(value.shape)}",
                    f"(batch, {self.latent_dim})",
                    "Flatten latents to one row per sample.",
                )
        return [value.detach().double() for value in values.values()]

    def _posterior(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self._checked(mean=mean, std=std)
        # A std of 0 or NaN shows in the result; it must not end a training run.
        if (std < 0).any():
            raise InvalidArgumentError(
                "std",
                f"a negative value ({std.min().item():.4g})",
                "positive stds",
                "Pass (0.5 * log_var).exp() for a log-variance.",
            )
        return mean, std

    def _kl(self, mean: Tensor, std: Tensor, prior_std: float) -> Tensor:
        mean, std = self._posterior(mean, std)
        prior = Gaussian(mean.new_zeros(()), mean.new_full((), prior_std))
        return kl_divergence(Gaussian(mean, std), prior)

    def _samples(self) -> Tensor:
        if int(self.count) == 0:
            raise InvalidArgumentError("update", "no samples", "at least one", "Update first.")
        return self.count


class KLPerUnit(_PerUnit):
    """Mean KL to the prior of each unit in nats, (units,).

    Args:
        latent_dim: Number of latent units.
        prior_std: Std of the prior.
        options: Of `torchmetrics.Metric`.

    Example:
        >>> metric = KLPerUnit(latent_dim=2)
        >>> metric.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.ones(2, 2))
        >>> metric.compute().tolist()
        [0.5, 0.0]
    """

    higher_is_better = None
    total: Tensor

    def __init__(self, latent_dim: int, prior_std: float = 1.0, **options: Any) -> None:
        prior_std = checks.positive("prior_std", prior_std)
        super().__init__(latent_dim, ("total",), options, prior_std)
        self.prior_std = prior_std

    def update(self, mean: Tensor, std: Tensor) -> None:
        """Add the posteriors of a batch, (batch, units) each."""
        kl = self._kl(mean, std, self.prior_std)
        self.total += kl.sum(0)
        self.count += len(kl)

    def compute(self) -> Tensor:
        """Return the mean KL of each unit in nats, (units,)."""
        return self.total / self._samples()


class InformationPerUnit(_PerUnit):
    """What each unit tells of x, I(x; z_i) in nats, (units,), were z_i Gaussian: an upper bound.

    It is `gaussian_information` of `diagnose`. A unit of at most `ACTIVE_INFORMATION` nats is not
    active, whatever its scale; of the others `diagnose` asks the information itself, less two
    errors, which takes all posteriors at once: sums cannot tell.

    Args:
        latent_dim: Number of latent units.
        options: Of `torchmetrics.Metric`.

    Source:
        `1/2 log Var(z) - E log std(z|x)`, since no law of that variance has more entropy; exact
        for linear models on Gaussian data (theory section 6).

    Example:
        >>> metric = InformationPerUnit(latent_dim=2)
        >>> metric.update(torch.tensor([[3.0, 0.0], [-3.0, 0.0]]), torch.ones(2, 2))
        >>> [round(nats, 4) for nats in metric.compute().tolist()]  # 1/2 log 10, and nothing
        [1.1513, 0.0]
    """

    higher_is_better = None
    total: Tensor
    squares: Tensor
    variances: Tensor
    logs: Tensor

    def __init__(self, latent_dim: int, **options: Any) -> None:
        super().__init__(latent_dim, ("total", "squares", "variances", "logs"), options)

    def update(self, mean: Tensor, std: Tensor) -> None:
        """Add the posteriors of a batch, (batch, units) each."""
        mean, std = self._posterior(mean, std)
        self.total += mean.sum(0)
        self.squares += mean.square().sum(0)
        self.variances += std.square().sum(0)
        self.logs += std.log().sum(0)
        self.count += len(mean)

    def compute(self) -> Tensor:
        """Return the information of each unit in nats, (units,)."""
        n = self._samples()
        spread = (self.squares - self.total.square() / n).clamp(min=0)
        entropy = 0.5 * ((spread + self.variances) / n).log()
        return (entropy - self.logs / n).clamp(min=0)


class ActiveUnits(_PerUnit):
    """Number of active units by Burda's definition: variance over x of the mean above a threshold.

    It is what `diagnose` calls `active_units`. Its `n_active`, the number of units with status
    "active", is another number: that goes by information, which no scale of the latent changes.

    Args:
        latent_dim: Number of latent units.
        threshold: Variance above which a unit is active.
        options: Of `torchmetrics.Metric`.

    Source:
        Burda, Grosse and Salakhutdinov 2016 (arXiv:1509.00519), section 5.1.

    Example:
        >>> metric = ActiveUnits(latent_dim=2)
        >>> metric.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        >>> metric.compute().item(), metric.variance().tolist()
        (1, [1.0, 0.0])
    """

    higher_is_better = True
    total: Tensor
    squares: Tensor

    def __init__(self, latent_dim: int, threshold: float = 0.01, **options: Any) -> None:
        super().__init__(latent_dim, ("total", "squares"), options)
        self.threshold = checks.positive("threshold", threshold)

    def update(self, mean: Tensor, std: Tensor | None = None) -> None:
        """Add the posteriors of a batch, (batch, units); the std is not used."""
        (mean,) = self._checked(mean=mean)
        self.total += mean.sum(0)
        self.squares += mean.square().sum(0)
        self.count += len(mean)

    def variance(self) -> Tensor:
        """Return the variance over x of each unit's posterior mean, (units,), normalised by n."""
        n = self._samples()
        return (self.squares - self.total.square() / n).clamp(min=0) / n

    def compute(self) -> Tensor:
        """Return the number of active units, ()."""
        return (self.variance() > self.threshold).sum()


class EpsilonDeltaCollapse(_PerUnit):
    """Share of units that are (epsilon, delta)-collapsed: `Pr_x[KL_i(x) < epsilon] >= 1 - delta`.

    Args:
        latent_dim: Number of latent units.
        epsilon: KL in nats below which a sample counts as collapsed.
        delta: Share of the samples that may not.
        prior_std: Std of the prior.
        options: Of `torchmetrics.Metric`.

    Source:
        Dang et al. 2024 (arXiv:2306.05023), experiments.

    Example:
        >>> metric = EpsilonDeltaCollapse(latent_dim=2)
        >>> metric.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.ones(2, 2))
        >>> metric.compute().item(), metric.collapsed().tolist()
        (0.5, [False, True])
    """

    higher_is_better = False
    below: Tensor

    def __init__(
        self,
        latent_dim: int,
        epsilon: float = 0.01,
        delta: float = 0.05,
        prior_std: float = 1.0,
        **options: Any,
    ) -> None:
        prior_std = checks.positive("prior_std", prior_std)
        epsilon, delta = collapse_options(epsilon, delta).values()
        super().__init__(latent_dim, ("below",), options, epsilon, prior_std)
        self.prior_std, self.epsilon, self.delta = prior_std, epsilon, delta

    def update(self, mean: Tensor, std: Tensor) -> None:
        """Add the posteriors of a batch, (batch, units) each."""
        kl = self._kl(mean, std, self.prior_std)
        self.below += (kl < self.epsilon).sum(0)
        self.count += len(kl)

    def collapsed(self) -> Tensor:
        """Return whether each unit is collapsed, (units,)."""
        n = self._samples()
        # A rounding of delta * n, such as 0.29 * 100 = 28.999999999999996, must not cost a sample.
        return n - self.below <= self.delta * n * (1 + 1e-12)

    def compute(self) -> Tensor:
        """Return the share of collapsed units, ()."""
        return self.collapsed().double().mean()
