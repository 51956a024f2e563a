"""Denoisers: networks, training, sampling, checkpoints, and denoisers known in closed form."""
