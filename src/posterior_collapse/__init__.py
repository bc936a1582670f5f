"""Say which latent units of a VAE will collapse, show which did, and say what to change."""
