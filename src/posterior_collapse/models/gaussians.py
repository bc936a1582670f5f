"""Diagonal Gaussians and where their stds come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["STD_HEADS", "Gaussian", "Scale", "kl_divergence", "log_head_of", "relative_entropy"]

_BOUND = 15.0  # of a log std given by a network: exp(15) is far from every useful scale
_FLOOR = 1e-12  # variance that keeps the log of a signed std finite at 0


class Gaussian(NamedTuple):
    """Mean (..., units) and std, broadcastable to it. Unlike `Normal` it lives inside `vmap`."""

    mean: Tensor
    std: Tensor

    def at(self, noise: Tensor) -> Tensor:
        """Return the sample that standard normal `noise` (..., units) makes."""
        return self.mean + self.std * noise


class Scale(nn.Module):
    """A std that no input moves: fixed (buffer `value`) or learned (parameter `log`, its log).

    Args:
        std: The fixed std, one or one per unit; `"learned"` per unit; `"shared"`, one learned.
        shape: `(units,)`, or `()` for a scalar.
    """

    value: Tensor
    log: Tensor

    def __init__(self, std: float | Sequence[float] | str, shape: tuple[int, ...]) -> None:
        super().__init__()
        if isinstance(std, str):
            self.log = nn.Parameter(torch.zeros(() if std == "shared" else shape))
        else:
            # float64 here: the cast to the model's dtype then rounds once.
            value = torch.tensor(std, dtype=torch.float64).expand(shape)
            self.register_buffer("value", value.clone())

    @property
    def learned(self) -> bool:
        """Whether the std is trained."""
        return "log" in self._parameters

    def forward(self) -> Tensor:
        """Return the std."""
        return self.log.exp() if self.learned else self.value

    @torch.no_grad()
    def set(self, std: Tensor) -> None:
        """Set the std, learned or fixed."""
        if self.learned:
            self.log.copy_(std.log())
        else:
            self.value.copy_(std)


def _std_of_log(head: Tensor) -> Tensor:
    return (_BOUND * torch.tanh(head / _BOUND)).exp()


def log_head_of(std: Tensor) -> Tensor:
    """Return the network output that the `"log"` head turns into `std`."""
    return _BOUND * torch.atanh(std.log() / _BOUND)


def _std_of_signed(head: Tensor) -> Tensor:
    return (head.square() + _FLOOR).sqrt()


def _std_of_tanh(head: Tensor) -> Tensor:
    return _std_of_signed(torch.tanh(head))


STD_HEADS = {"log": _std_of_log, "signed": _std_of_signed, "tanh": _std_of_tanh}
"""Std from a network's output s: `exp(s)` (bounded softly), `|s|`, or `|tanh s|`. The last two are
the paper's, whose variance is the square of a signed number; they stay finite at s = 0."""


def kl_divergence(q: Gaussian, p: Gaussian) -> Tensor:
    """Return `KL(q || p)` of each unit in nats, of the broadcast shape.

    Example:
        >>> one = torch.ones(1)
        >>> kl_divergence(Gaussian(one, one), Gaussian(0 * one, one)).item()
        0.5
    """
    second_moment = (q.mean - p.mean).square() + q.std.square()
    return relative_entropy(second_moment, q.std, p.std)


def relative_entropy(squared_distance: Tensor, std_q: Tensor, std_p: Tensor) -> Tensor:
    """Return `E_q[log q - log p]` of each unit in nats, for Gaussians q and p.

    Args:
        squared_distance: `(z - mean_p)^2`, sampled or averaged over q.
        std_q: Std of q; its entropy is used in closed form.
        std_p: Std of p.

    Example:
        >>> one = torch.ones(1)
        >>> relative_entropy(one, one, one).item()
        0.0
    """
    return 0.5 * (squared_distance / std_p.square() - 1) + (std_p / std_q).log()
