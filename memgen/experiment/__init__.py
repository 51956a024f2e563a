"""A run on the disk: its settings, its artifacts, and the work that makes them."""
