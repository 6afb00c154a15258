"""What a client may choose about its picture, apart from the network: the same fields in the query,
in the job record and behind the options of `gdsr-upscale`.
"""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from workers.contract.errors import ScaleTooLarge

#: What the network enlarges by; everything else is a reduction of that.
SCALE = 4


class AlphaMode(StrEnum):
    """What enlarges transparency."""

    MODEL = "model"
    LANCZOS = "lanczos"


class MetadataMode(StrEnum):
    """What becomes of EXIF and XMP."""

    STRIP = "strip"
    KEEP = "keep"


class ProfileMode(StrEnum):
    """Which colour space the result is in."""

    SRGB = "srgb"
    KEEP = "keep"


class DepthMode(StrEnum):
    """How many bits the samples of the result have."""

    SAME = "same"
    EIGHT = "8"
    SIXTEEN = "16"


class PictureChoices(BaseModel):
    """Each has a default that is right for most pictures."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    alpha: AlphaMode = AlphaMode.MODEL
    """What enlarges transparency: the network's faithful branch (`model`), or `lanczos`."""

    background: str | None = Field(default=None, pattern="^#[0-9a-fA-F]{6}$", examples=["#ffffff"])
    """Colour, as `#rrggbb`, to lay a transparent picture on; the result is opaque then."""

    metadata: MetadataMode = MetadataMode.STRIP
    """`keep`: EXIF (upright, without what is stale) and XMP go into the result."""

    icc: ProfileMode = ProfileMode.SRGB
    """`keep`: the result is in the colour space of the picture, with its profile."""

    depth: DepthMode = DepthMode.SAME
    """Bits of a sample: `8`, `16` (PNG and TIFF only), or the `same` as the picture has, if it can.
    """

    consistency: bool | None = None
    """Correct the result so that the picture comes out of it again when it is reduced by four.
    Unset: as the model's card says, which is on for models that know neither noise nor JPEG.
    """

    lossless: bool = False
    """Nothing is lost in WebP and JPEG XL; PNG and TIFF always are so, JPEG and AVIF never."""

    frame: int | None = Field(default=None, ge=0, le=1_000_000)
    """Which frame of an animation or page of a TIFF, from 0, as viewers show it."""

    scale: float | None = Field(default=None, ge=1, le=SCALE, examples=[2.5])
    """How many times larger each side becomes, 1 to 4; 4 unless `width` or `height` is given."""

    width: int | None = Field(default=None, ge=1, le=1_000_000)
    """The most pixels across; the result fits inside it, and `height`, in its own proportions."""

    height: int | None = Field(default=None, ge=1, le=1_000_000)
    """The most pixels down."""

    @field_validator("width", "height")
    @classmethod
    def _no_scale(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("scale") is not None:
            raise ValueError("give either a scale, or a width and height")
        return value

    def result_size(self, *, width: int, height: int) -> tuple[int, int]:
        """Width and height of what becomes of an upright picture of `width` x `height` pixels.

        Raises:
            ScaleTooLarge: the result would be more than four times larger.
        """
        factor = self.scale or float(SCALE)
        if self.width or self.height:
            across = self.width / width if self.width else float("inf")
            down = self.height / height if self.height else float("inf")
            factor = min(across, down)
        if factor > SCALE:
            raise ScaleTooLarge(width=width, height=height, factor=factor, limit=SCALE)
        return max(1, round(width * factor)), max(1, round(height * factor))

    def possible_size(self, *, width: int, height: int) -> tuple[int, int]:
        """The same for a picture that may yet be turned: its sides are told by its header only.

        Raises:
            ScaleTooLarge: neither upright nor turned it could become what was asked for.
        """
        try:
            return self.result_size(width=width, height=height)
        except ScaleTooLarge:
            return self.result_size(width=height, height=width)
