"""What every room stands on: errors, files, settings, noise, intervals and tables. Knows no image and no model."""
