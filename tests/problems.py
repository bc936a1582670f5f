"""Small linear problems of every kind that certificates are asked about."""

import numpy as np
from hypothesis import strategies as st

import posterior_collapse as pc

SIGMAS = ["learned", 0.5, 1.2]


@st.composite
def problems(draw, rows, positive, kinds):
    """Data and spec of a VAE ("per-unit": of sigmas that differ), a CVAE or a hierarchy."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal((rows, 5)) * rng.uniform(0.1, 3, 5)
    kind = draw(st.sampled_from(kinds))
    beta, eta, eta_enc = draw(positive), draw(positive), draw(positive)
    sigma = draw(st.sampled_from(SIGMAS))
    if kind == "vae":
        return x, None, pc.VAESpec(7, beta, eta, eta_enc, sigma)
    if kind == "per-unit":
        return x, None, pc.VAESpec(5, beta, eta, eta_enc, tuple(rng.uniform(0.2, 2, 5)))
    if kind == "cvae":
        y = x[:, :3] + rng.standard_normal((rows, 3))
        return x[:, :2], y, pc.CVAESpec(5, beta, eta, eta_enc, sigma)
    dims = draw(st.sampled_from([(7, 7), (3, 6), (7, 2)]))
    sigma_1, sigma_2 = draw(st.sampled_from([0.4, 1.0])), draw(st.sampled_from(SIGMAS))
    return x, None, pc.HVAESpec(dims, (beta, draw(positive)), eta, eta_enc, sigma_1, sigma_2)
