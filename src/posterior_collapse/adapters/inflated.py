"""The zero-inflated negative binomial of single-cell models, as diagnosis can read it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, NegativeBinomial, constraints
from torch.nn.functional import logsigmoid

__all__ = ["ZeroInflatedNegativeBinomial"]


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
        of_count: Tensor = counts.log_prob(value)  # type: ignore[no-untyped-call]
        of_count = logsigmoid(-self.gate_logits) + of_count
        of_zero = torch.logaddexp(logsigmoid(self.gate_logits), of_count)
        return torch.where(value == 0, of_zero, of_count)
