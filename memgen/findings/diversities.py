"""What measures of diversity are called, what they mean, and their values on samples and on held-out images.

Source: the table `diversity`, which is read here; see `memgen.measures.diversity`.
"""

from collections.abc import Mapping
from typing import Any

from memgen.base.estimates import Estimate
from memgen.base.wording import Quantity

QUANTITIES = {
    "vendi": Quantity(
        "Vendi score", "How many images that have nothing in common would be as varied. It is 1 where all are equal."
    ),
    "precision": Quantity(
        "precision",
        "The share of samples within reach of a reference image. An image reaches as far as its k-th nearest neighbor "
        "in its own set. Samples of bad quality lower it.",
    ),
    "recall": Quantity(
        "recall",
        "The share of reference images within reach of a sample. Samples that leave out kinds of images lower it.",
    ),
    "density": Quantity(
        "density", "How many reference images reach a sample, divided by k, on average. It may exceed 1."
    ),
    "coverage": Quantity("coverage", "The share of reference images that reach a sample."),
    "trajectory_variance": Quantity(
        "variance along the path",
        "The variance of the denoised image of a sample over the lower half of the noise levels, mean over pixels. It "
        "is large where a sample wavers until late between two kinds of images. Samples without a denoiser have none.",
    ),
}


def estimates(row: Mapping[str, Any]) -> tuple[Estimate, Estimate]:
    """The value of a row of a DIVERSITY table on samples, and that on held-out images in their place."""
    own = Estimate.of(row["estimate"], row["low"], row["high"], row["n"], row["unit"])
    ends = (row["held_out_low"], row["held_out_high"])
    return own, Estimate.of(row["held_out"], *ends, row["n_held_out"], row["unit"])
