"""Settings of the image classes that memgen generates."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, model_validator

from memgen.base.config import Settings
from memgen.base.errors import ConfigError
from memgen.models.known.discs import DiscPrior


class _ClassSettings(Settings):
    """Settings that all classes share."""

    n_images: int = Field(10240, ge=1, description="number of images generated")
    side: int = Field(16, ge=4, description="side of the square images, in pixels")


class TextureSettings(_ClassSettings):
    """Stationary Gaussian images on the torus, of mean 1/2; not clipped."""

    kind: Literal["texture"] = "texture"
    channels: Literal[1, 3] = Field(1, description="number of channels, which are independent")
    exponent: float = Field(
        2.0, ge=0, le=8, description="the power spectrum is |k|^-exponent; at |k| = 0, that of |k| = 1"
    )
    std: PositiveFloat = Field(0.15, description="standard deviation of every pixel")


class MixtureSettings(_ClassSettings):
    """A mixture of Gaussians with independent pixels around component images, textures of mean 1/2; not clipped."""

    kind: Literal["mixture"] = "mixture"
    channels: Literal[1, 3] = Field(1, description="number of channels, which are independent")
    components: int = Field(16, ge=1, description="number of Gaussians in the mixture, all equally likely")
    exponent: float = Field(3.0, ge=0, le=8, description="exponent of the power spectrum of the component images")
    spread: PositiveFloat = Field(0.15, description="standard deviation of each pixel over the component images")
    std: tuple[PositiveFloat, PositiveFloat] = Field(
        (0.02, 0.1),
        description="standard deviation of pixels within the first and within the last component; geometric in between",
    )


class DiscSettings(_ClassSettings):
    """One disc of uniform center and radius, with foreground and background uniform where they differ enough."""

    kind: Literal["discs"] = "discs"
    center: tuple[float, float] = Field(
        (0.3, 0.7), description="smallest and largest row and column of the center, as shares of the side"
    )
    radius: tuple[float, float] = Field((0.15, 0.3), description="smallest and largest radius, as shares of the side")
    contrast: float = Field(
        0.3, ge=0.05, le=0.95, description="smallest difference between foreground and background, which lie in [0, 1]"
    )
    edge: float = Field(
        1.0, ge=1, description="width of the edge in pixels: that of a linear ramp as steep as the edge"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            _ = self.prior
        except ConfigError as error:
            raise ValueError(str(error).rstrip(".")) from error
        return self

    @property
    def prior(self) -> DiscPrior:
        """The discs of these settings, in pixels."""
        center, radius = ((low * self.side, high * self.side) for low, high in (self.center, self.radius))
        return DiscPrior(self.side, center, radius, self.contrast, self.edge)


class CAlphaSettings(_ClassSettings):
    """The paper's C^α images: two backgrounds on the two sides of a contour."""

    kind: Literal["c_alpha"] = "c_alpha"
    alpha: float = Field(2.0, gt=0, le=16, description="regularity of the contour, whose spectrum is |k|^-alpha")
    beta: float | None = Field(
        None, gt=0, le=16, description="regularity of the backgrounds; None for that of the contour, alpha"
    )
    source_range: Literal["code", "paper"] = Field(
        "code",
        description="noise behind contour and backgrounds: code = U[-1, 1], paper = U[-1/2, 1/2] (Algorithm 2)",
    )


class ConeSettings(_ClassSettings):
    """One image, a texture stretched to [0, 1], multiplied by a uniform intensity."""

    kind: Literal["cone"] = "cone"
    exponent: float = Field(3.0, ge=0, le=8, description="exponent of the power spectrum of the image")
    low: float = Field(0.0, ge=0, description="smallest intensity")
    high: float = Field(1.0, gt=0, description="largest intensity")

    @model_validator(mode="after")
    def _is_an_interval(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"the smallest intensity is {self.low}, expected less than the largest, {self.high}")
        return self


class SinusoidSettings(_ClassSettings):
    """mean + a cos + b sin of one frequency, with a and b normal (uniform phase, Rayleigh amplitude); not clipped."""

    kind: Literal["sinusoids"] = "sinusoids"
    frequency: tuple[NonNegativeInt, NonNegativeInt] = Field(
        (1, 1), description="number of periods over the rows and over the columns of the image"
    )
    mean: float = Field(0.5, ge=0, le=1, description="mean of every pixel; 0 gives the paper's cone of two dimensions")
    std: PositiveFloat = Field(0.15, description="standard deviation of a and of b, and so of every pixel")

    @model_validator(mode="after")
    def _has_two_phases(self) -> Self:
        if max(self.frequency) > self.side // 2:
            raise ValueError(f"frequency {self.frequency} is above half of the side {self.side}; use a lower one")
        if all(2 * periods % self.side == 0 for periods in self.frequency):
            raise ValueError(
                f"at frequency {self.frequency} and side {self.side} the sine is 0 in every pixel; use (1, 1)"
            )
        return self


ClassSettings = TextureSettings | MixtureSettings | DiscSettings | CAlphaSettings | ConeSettings | SinusoidSettings
GeneratedSettings = Annotated[ClassSettings, Field(discriminator="kind")]


def image_shape(settings: ClassSettings) -> tuple[int, int, int]:
    """(C, H, W) of the images of a class."""
    channels = settings.channels if isinstance(settings, TextureSettings | MixtureSettings) else 1
    return channels, settings.side, settings.side
