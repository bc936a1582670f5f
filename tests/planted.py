"""Models of which everything or nothing is known, to be diagnosed."""

import torch
from torch.distributions import Normal

import posterior_collapse as pc
from posterior_collapse.models import LatentModel

LIVE_1, DEAD_1 = 3, 2
LIVE_2, RELAY_2, DEAD_2 = 2, 2, 1
STD_1, STD_2 = 0.6, 0.5
STATUS_1 = ("active",) * LIVE_1 + ("collapsed",) * DEAD_1
STATUS_2 = ("active",) * LIVE_2 + ("noise",) * RELAY_2 + ("collapsed",) * DEAD_2


class PlantedHierarchy(LatentModel):
    """z_1: live units carry x, dead ones do not. z_2: two follow live units of z_1, two follow the
    noise of its dead ones, one follows nothing. The decoder ignores the last live unit of z_1.

    Args:
        bend: Function that z_2's means pass through.
    """

    def __init__(self, bend=torch.tanh):
        self.spec = pc.HVAESpec((5, 5), sigma_1=STD_1, sigma_2=STD_2, eta_dec=1.0)
        self.bend = bend

    def posterior(self, level, given, y=None):
        if level == 1:
            mean = torch.zeros(*given.shape[:-1], 5, dtype=given.dtype)
            mean[..., :LIVE_1] = given[..., :LIVE_1]
            return Normal(mean, torch.full_like(mean, STD_1))
        mean = torch.zeros_like(given)
        mean[..., :LIVE_2] = self.bend(given[..., :LIVE_2])
        mean[..., LIVE_2 : LIVE_2 + RELAY_2] = self.bend(2 * given[..., LIVE_1:])
        return Normal(mean, torch.full_like(mean, STD_2))

    def prior(self, level, given=None):
        mean = (
            torch.zeros(5)
            if given is None
            else torch.cat([given[..., :2]] + 3 * [0 * given[..., :1]], -1)
        )
        return Normal(mean, torch.ones_like(mean))

    def decode(self, z, x=None):
        mean = torch.zeros_like(z)
        mean[..., : LIVE_1 - 1] = 2 * z[..., : LIVE_1 - 1]
        return Normal(mean, torch.ones_like(mean))


class Opaque(LatentModel):
    """A model of which nothing but its distributions is known."""

    def __init__(self, model):
        self.inner, self.spec = model, model.spec

    def posterior(self, level, given, y=None):
        return self.inner.posterior(level, given, y)

    def prior(self, level, given=None):
        return self.inner.prior(level, given)

    def decode(self, z, x=None):
        return self.inner.decode(z, x)


def planted_data(n, seed=0):
    """Rows of 5 standard normal features."""
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))
