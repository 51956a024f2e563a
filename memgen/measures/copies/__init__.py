"""The test for copies: the pool of images, the competition, conformal p-values, and controls."""
