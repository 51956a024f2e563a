"""Images: sets of them, their division into parts, and how they come in."""
