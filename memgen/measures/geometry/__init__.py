"""The Jacobian of a denoiser, and the basis in which it shrinks noise."""
