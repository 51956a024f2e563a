"""Checkpoints that other programs wrote, one file for each format."""
