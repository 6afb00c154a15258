"""Options for a picture that do not depend on the network: shared by the query, the job record and
`gdsr-upscale`.
"""

from contextlib import suppress
from enum import StrEnum
from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from workers.contract.errors import ScaleTooLarge
from workers.contract.validation_messages import shaped

#: The network's scale factor; other sizes are reduced from it.
SCALE = 4


class AlphaMode(StrEnum):
    """How transparency is enlarged."""

    MODEL = "model"
    LANCZOS = "lanczos"


class MetadataMode(StrEnum):
    """Handling of EXIF and XMP."""

    STRIP = "strip"
    KEEP = "keep"


class ProfileMode(StrEnum):
    """The colour space of the result."""

    SRGB = "srgb"
    KEEP = "keep"


class TruncatedMode(StrEnum):
    """Handling of a truncated picture."""

    REFUSE = "refuse"
    FILL = "fill"


class DepthMode(StrEnum):
    """The bit depth of the result."""

    SAME = "same"
    EIGHT = "8"
    SIXTEEN = "16"


_COLOUR = "^#[0-9a-fA-F]{6}$"
Colour = Annotated[
    str,
    shaped(_COLOUR, "a colour such as #ffffff"),
    WithJsonSchema({"type": "string", "pattern": _COLOUR}),
]


class PictureChoices(BaseModel):
    """Options with defaults that suit most pictures."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    alpha: AlphaMode = AlphaMode.MODEL
    """Enlarge transparency with the network's faithful branch (`model`) or with `lanczos`."""

    background: Colour | None = Field(default=None, examples=["#ffffff"])
    """Background colour, as `#rrggbb`, for a transparent picture; the result is then opaque."""

    metadata: MetadataMode = MetadataMode.STRIP
    """`keep`: copy EXIF (without orientation and size) and XMP to the result."""

    icc: ProfileMode = ProfileMode.SRGB
    """`keep`: the result has the colour space and profile of the picture."""

    depth: DepthMode = DepthMode.SAME
    """Bits per sample: `8`, `16` (PNG and TIFF only), or the `same` as the picture if possible."""

    consistency: bool | None = None
    """Back-projection: make the result, reduced by four, equal the picture. Unset: as in the model
    card (on for models trained without noise and JPEG).
    """

    lossless: bool = False
    """Lossless WebP or JPEG XL; PNG and TIFF always are lossless, JPEG and AVIF never."""

    frame: int | None = Field(default=None, ge=0, le=1_000_000)
    """Frame of an animation or page of a TIFF, from 0, as displayed by viewers."""

    truncated: TruncatedMode = TruncatedMode.REFUSE
    """`fill`: enlarge the existing part of a truncated JPEG, PNG, WebP, GIF, TIFF or BMP; the rest
    is filled, and the job has a warning.
    """

    scale: float | None = Field(default=None, ge=1, le=SCALE, examples=[2.5])
    """Scale factor, 1 to 4; default 4 unless `width` or `height` is given."""

    width: int | None = Field(default=None, ge=1, le=1_000_000)
    """Maximum width; the result fits into width and height and keeps its aspect ratio."""

    height: int | None = Field(default=None, ge=1, le=1_000_000)
    """Maximum height."""

    @field_validator("width", "height")
    @classmethod
    def _no_scale(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("scale") is not None:
            raise ValueError("give either a scale, or a width and height")
        return value

    def result_size(self, *, width: int, height: int) -> tuple[int, int]:
        """Result size for an upright picture of `width` x `height` pixels.

        Raises:
            ScaleTooLarge: the result would be more than four times larger.
        """
        factor = self.scale or float(SCALE)
        if self.width or self.height:
            across = self.width / width if self.width else float("inf")
            down = self.height / height if self.height else float("inf")
            factor = min(across, down)
        if factor > SCALE:
            raise ScaleTooLarge(
                width=width, height=height, factor=factor, limit=SCALE,
                max_width=SCALE * width, max_height=SCALE * height,
            )  # fmt: skip
        return max(1, round(width * factor)), max(1, round(height * factor))

    def possible_size(self, *, width: int, height: int) -> tuple[int, int]:
        """Result size for a picture that may yet be rotated: the header has its stored sides.

        Raises:
            ScaleTooLarge: the size is not possible in either orientation.
        """
        try:
            return self.result_size(width=width, height=height)
        except ScaleTooLarge:
            with suppress(ScaleTooLarge):
                return self.result_size(width=height, height=width)
            raise
