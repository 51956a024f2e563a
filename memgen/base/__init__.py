"""Errors, files, settings, noise, intervals and tables, on which all other packages build."""
