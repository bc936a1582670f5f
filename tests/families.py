"""Specs that differ in numbers only, by the architecture they are built with."""

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
