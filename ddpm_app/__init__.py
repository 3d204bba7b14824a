"""A laboratory for denoising diffusion models on small images; see README.md for the map."""

__version__ = "0.1.0"
