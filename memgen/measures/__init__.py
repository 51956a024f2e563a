"""Measures: arrays in, one table out."""
