"""The Jacobian of a denoiser, and the basis in which the denoiser shrinks noisy images."""
