"""Image sets: how they are read and prepared, and how they are split into training sets and a holdout."""
