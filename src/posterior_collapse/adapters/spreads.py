"""What a loss makes of its last argument: a std, by which function, and with what added."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from posterior_collapse.arrays import Float

TINY = 1e-6
"""Of a std or variance that is never as small."""
OF_LOG_VARIANCE: dict[str, Callable[[float], float]] = {
    "log-variance": lambda log_var: log_var,
    "log-std": lambda log_var: log_var / 2,
    "softplus std": lambda log_var: math.log(math.expm1(math.exp(log_var / 2))),
    "softplus variance": lambda log_var: math.log(math.expm1(math.exp(log_var))),
    "std": lambda log_var: math.exp(log_var / 2),
    "variance": math.exp,
}
"""What a loss may take as its last argument, from a log-variance in nats."""
STDS: dict[str, Callable[[Float], Float]] = {
    "log-variance": lambda raw: np.exp(raw / 2),
    "log-std": np.exp,
    "softplus std": lambda raw: np.logaddexp(0, raw),
    "softplus variance": lambda raw: np.sqrt(np.logaddexp(0, raw)),
    "std": lambda raw: raw,
    "variance": np.sqrt,
}
"""And the std that it makes of it, before anything is added."""


class Spread(NamedTuple):
    """What a loss takes as its last argument.

    Attributes:
        kind: Of `OF_LOG_VARIANCE`.
        added: What the loss adds to the std, or to the variance, which never falls below it.
        to: To which of the two.
    """

    kind: str
    added: float = 0.0
    to: str = "std"

    def __str__(self) -> str:
        """Return it in words, such as "softplus std + 0.1"."""
        if not self.added:
            return self.kind
        what = "" if f" {self.kind}".endswith(f" {self.to}") else f", {self.to}"
        return f"{self.kind}{what} + {self.added:.3g}"

    @property
    def logged(self) -> bool:
        """Whether any number will do for it."""
        return any(self.kind == one.kind for one in LOGGED)

    def argument(self, log_var: float) -> float:
        """Return what makes a posterior of this log-variance.

        Example:
            >>> Spread("log-std", 0.1).argument(0.0) == math.log(0.9)
            True
        """
        if self.added and self.to == "std":
            log_var = 2 * math.log(max(math.exp(log_var / 2) - self.added, TINY))
        elif self.added:
            log_var = math.log(max(math.exp(log_var) - self.added, TINY))
        return OF_LOG_VARIANCE[self.kind](log_var)


PLAIN = (Spread("std"), Spread("variance"))
LOGGED = tuple(Spread(kind) for kind in STDS if Spread(kind) not in PLAIN)
"""Those that any number will do for."""
