"""What trained models do on data: loss, KL, and which units carry information on x."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from posterior_collapse.models import MarkovVAE, Terms, exact_terms, linear_values, loss
from posterior_collapse.specs import Spec
from posterior_collapse.theory.state import ACTIVE_INFORMATION
from posterior_collapse.training import seeds
from posterior_collapse.training.feeding import Batch, Feed
from posterior_collapse.training.stacking import Draws, Stack

__all__ = ["ACTIVE_INFORMATION", "active_units", "information", "measure"]

ROWS = 10_000
CHUNK = 1_000


class _Upward(nn.Module):
    """Two ways up, the means' and a sample's, as a module that `functional_call` can run."""

    def __init__(self, model: MarkovVAE) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, x: Tensor, y: Tensor | None, noise: Sequence[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        data = {"x": x} if y is None or not self.model.conditional else {"x": x, "y": y}
        above, sampled = data, data
        found = []
        for encoder, level_noise in zip(self.model.encoders, noise, strict=True):
            mean = encoder(above, {}).mean
            q = encoder(sampled, {})
            found.append((mean.var(0), q.mean.var(0) + q.std.square().expand(mean.shape).mean(0)))
            above, sampled = {"z": mean}, {"z": q.at(level_noise)}
        return found


@torch.no_grad()
def information(stack: Stack, batch: Batch, noise: tuple[Tensor, ...]) -> list[Tensor]:
    """Return I(x; z_i) in nats per level, (runs, units), from second moments.

    `-1/2 log(1 - S/T)` with T the variance of z_i and S that of its mean given x, followed through
    the means of the levels below. Exact for linear models, as the forecast's.

    Args:
        stack: The models.
        batch: Rows to measure on.
        noise: (runs, n, units) per level.
    """
    upward = _Upward(stack.model)

    def one(parameters: Any, buffers: Any, noise: Any) -> Any:
        state = {f"model.{name}": v for name, v in {**parameters, **buffers}.items()}
        return functional_call(upward, state, (batch.x, batch.y, noise))

    levels = vmap(one)(stack.parameters, stack.buffers, noise)
    return [-0.5 * torch.log1p(-(s / t).clamp(0, 1 - 1e-7)) for s, t in levels]


def active_units(levels: Sequence[Tensor]) -> list[Tensor]:
    """Return the number of active units per level, (runs,), from their information."""
    return [(level > ACTIVE_INFORMATION).sum(1) for level in levels]


def measure(model: MarkovVAE, feed: Feed, spec: Spec, seed: int) -> dict[str, Any]:
    """Return a trained model's negative beta-ELBO, KL and information per unit, in nats.

    Exact over the noise where the model is linear with stds that do not depend on the input, else
    one draw per row; on the rows of the data, at most 10,000 if it is not exact or streams.

    Args:
        model: On any device.
        feed: The data.
        spec: Gives the betas.
        seed: Of the noise.

    Returns:
        `loss`, `reconstruction`, and per level `n_active`, `kl` and `information` (per unit).
    """
    exact = model.architecture.name == "linear" and "input" not in spec.sigma_levels
    rows = feed.rows(10**12 if exact and feed.sized else ROWS)
    generator = seeds.generator(seed, seeds.MEASURE, device=rows.x.device)
    stack = Stack([model], rows.x.device)
    total, n = torch.zeros(()), len(rows.x)
    sums: list[Tensor] = []
    for start in range(0, n, CHUNK):
        x = rows.x[start : start + CHUNK]
        y = None if rows.y is None else rows.y[start : start + CHUNK]
        noise = model.draw_noise(len(x), generator, x.dtype)
        terms = _exact(model, x, y) if exact else _sampled(stack, Batch(x, y), noise)
        value = loss(terms, spec.beta_levels)
        parts = [value, *(kl.mean(0) for kl in terms.kl)]
        weighted = [part.detach().double().cpu() * len(x) / n for part in parts]
        sums = [a + b for a, b in zip(sums, weighted, strict=True)] if sums else weighted
    total, kls = sums[0], sums[1:]
    weighted_kl = sum(b * float(kl.sum()) for b, kl in zip(spec.beta_levels, kls, strict=True))
    some = Batch(rows.x[:ROWS], None if rows.y is None else rows.y[:ROWS])
    noise = tuple(e.unsqueeze(0) for e in model.draw_noise(len(some.x), generator, some.x.dtype))
    levels = information(stack, some, noise)
    return {
        "loss": float(total),
        "reconstruction": float(total) - weighted_kl,
        "levels": [
            {
                "n_active": int(active),
                "kl": kl.tolist(),
                "information": level[0].double().cpu().tolist(),
            }
            for active, kl, level in zip(active_units(levels), kls, levels, strict=True)
        ],
    }


@torch.no_grad()
def _exact(model: MarkovVAE, x: Tensor, y: Tensor | None) -> Terms:
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    values = linear_values(model, {name: v.detach().double() for name, v in state.items()})
    return exact_terms(values, x.double(), None if y is None else y.double())


def _sampled(stack: Stack, batch: Batch, noise: tuple[Tensor, ...]) -> Terms:
    terms = stack.terms(batch, Draws(tuple(e.unsqueeze(0) for e in noise), {}))
    return Terms(
        terms.squared_error[0],
        terms.eta_dec[0],
        terms.normaliser[0],
        tuple(kl[0] for kl in terms.kl),
        tuple(mean[0] for mean in terms.means),
    )
