"""Specs that differ in numbers only, by the architecture they are built with, and their models."""

import torch

from posterior_collapse.models import build
from posterior_collapse.specs import ChainSpec, CVAESpec, HVAESpec, VAESpec

FAMILIES = {
    "vae-relu": [VAESpec(latent_dim=3, sigma=s, eta_dec=e) for s, e in ((0.5, 1), (0.2, 0.7))],
    "cvae-relu": [
        CVAESpec(latent_dim=3, sigma="input", beta=b, eta_dec=e) for b, e in ((0.5, 1), (2, 0.3))
    ],
    "hvae-relu": [
        HVAESpec(latent_dims=(3, 2), betas=(1, b), sigma_1=s, sigma_2="input", eta_enc=e)
        for b, s, e in ((0.5, 0.5, 1), (2, 0.1, 2))
    ],
    "mlp": [
        ChainSpec(latent_dims=(3, 2, 2), betas=(1, 2, b), eta_decs=(0.4, e, 0.6))
        for b, e in ((3, 0.5), (4, 0.2))
    ],
    "cnn": [HVAESpec(latent_dims=(3, 2), eta_dec=e, sigma_2="shared") for e in (0.5, 2)],
}


def built(name, specs, n, **more):
    """Small models of float64, n rows for them (y: None where it is not conditional), and noise."""
    options = {"x_dim": 7, "y_dim": 8 if specs[0].model == "cvae" else 7}
    if name == "cnn":
        options = {"image_shape": (4, 6), "channels": (3, 2), "hidden": (4,)}
    elif name != "linear":
        options |= {"hidden": (6,)}
    seeds = [torch.Generator().manual_seed(seed) for seed in range(len(specs))]
    models = [
        build(spec, name, generator=seed, dtype=torch.float64, **{**options, **more})
        for spec, seed in zip(specs, seeds, strict=True)
    ]
    g = torch.Generator().manual_seed(9)
    shapes = models[0].shapes
    x, y = (
        torch.randn(n, d, generator=g, dtype=torch.float64) for d in (shapes.x_dim, shapes.y_dim)
    )
    noises = [
        model.draw_noise(n, torch.Generator().manual_seed(i), torch.float64)
        for i, model in enumerate(models)
    ]
    return models, x, y if models[0].conditional else None, noises
