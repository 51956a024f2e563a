"""Denoisers known in closed form, and classes of generated images whose best denoiser is known."""
