"""What trained models do on data: loss, KL, and which units carry information on x."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from posterior_collapse.models import (
    LinearValues,
    MarkovVAE,
    Terms,
    exact_terms,
    linear_values,
    loss,
)
from posterior_collapse.specs import Spec
from posterior_collapse.theory.state import ACTIVE_INFORMATION
from posterior_collapse.training import seeds
from posterior_collapse.training.feeding import Batch, Feed
from posterior_collapse.training.information import (
    active_units,
    information,
    linear_information,
    moment,
)
from posterior_collapse.training.stacking import Draws, Stack

__all__ = ["ACTIVE_INFORMATION", "measure"]

ROWS = 10_000
CHUNK = 1_000


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
    linear = model.architecture.name == "linear" and "input" not in spec.sigma_levels
    rows = feed.rows(10**12 if linear and feed.sized else ROWS)
    generator = seeds.generator(seed, seeds.MEASURE, device=rows.x.device)
    stack = Stack([model], rows.x.device)
    values, n = _values(model, rows.x.device) if linear else None, len(rows.x)
    sums: list[Tensor] = []
    means: list[Tensor] = []
    for start in range(0, n, CHUNK):
        x = rows.x[start : start + CHUNK]
        y = None if rows.y is None else rows.y[start : start + CHUNK]
        if values is None:
            noise = model.draw_noise(len(x), generator, x.dtype)
            terms = _sampled(stack, Batch(x, y), noise)
        else:
            terms = exact_terms(values, x.double(), None if y is None else y.double())
            means.append(terms.means[0])
        value = loss(terms, spec.beta_levels)
        parts = [value, *(kl.mean(0) for kl in terms.kl)]
        weighted = [part.detach().double().cpu() * len(x) / n for part in parts]
        sums = [a + b for a, b in zip(sums, weighted, strict=True)] if sums else weighted
    total, kls = sums[0], sums[1:]
    weighted_kl = sum(b * float(kl.sum()) for b, kl in zip(spec.beta_levels, kls, strict=True))
    if values is None:
        some = Batch(rows.x[:ROWS], None if rows.y is None else rows.y[:ROWS])
        drawn = model.draw_noise(len(some.x), generator, some.x.dtype)
        levels = information(stack, some, tuple(level.unsqueeze(0) for level in drawn))
    else:
        first = moment(torch.cat(means), model.architecture.bias)
        levels = [level[None] for level in linear_information(model, values, first)]
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


def _values(model: MarkovVAE, device: torch.device) -> LinearValues:
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return linear_values(model, {n: v.detach().to(device, torch.float64) for n, v in state.items()})


def _sampled(stack: Stack, batch: Batch, noise: tuple[Tensor, ...]) -> Terms:
    terms = stack.terms(batch, Draws(tuple(e.unsqueeze(0) for e in noise), {}))
    return Terms(
        terms.squared_error[0],
        terms.eta_dec[0],
        terms.normaliser[0],
        tuple(kl[0] for kl in terms.kl),
        tuple(mean[0] for mean in terms.means),
    )
