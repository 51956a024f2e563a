"""Denoisers and image classes whose answer is known in closed form."""
