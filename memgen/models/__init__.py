"""Denoisers and what is drawn from them: networks, training, sampling, checkpoints."""
