"""smoothtool: morph, invert, edit and drag pictures with diffusion models whose latent space is smooth."""

__version__ = "0.1.0"
