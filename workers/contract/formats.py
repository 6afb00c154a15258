"""The formats that are read and written, and what may become a job: values and rules, no bytes."""

from dataclasses import dataclass
from enum import StrEnum

from workers.contract.errors import (
    AlphaNotStorable,
    ColourTooDeep,
    ImageAnimated,
    ImageTooLarge,
    ImageUnsupported,
    ResultTooLarge,
)


class ImageFormat(StrEnum):
    """A format that is read."""

    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    TIFF = "tiff"
    BMP = "bmp"
    AVIF = "avif"


class ResultFormat(StrEnum):
    """A format that a result can be written in."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def media_type(self) -> str:
        return f"image/{self.value}"

    @property
    def max_side(self) -> int:
        """The most pixels that a side can have; for JPEG what libjpeg writes."""
        return {"png": 2**31 - 1, "jpeg": 65_500, "webp": 16_383}[self.value]


class ColourKind(StrEnum):
    """What the samples of a picture mean."""

    GREY = "grey"
    COLOUR = "colour"
    PALETTE = "palette"
    CMYK = "cmyk"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """A picture as its header describes it."""

    format: ImageFormat
    #: Pixels as stored: an orientation tag or box may turn the picture afterwards.
    width: int
    height: int
    #: Bits of the deepest channel; 8 for a palette, since its entries are what counts.
    bits: int
    kind: ColourKind
    #: True if the picture could be transparent, even if every pixel turns out opaque.
    has_alpha: bool
    #: True if there is more than one frame or page.
    animated: bool

    @property
    def pixels(self) -> int:
        return self.width * self.height


def check_header(header: ImageHeader, *, max_pixels: int) -> None:
    """Refuse what cannot become a job.

    Raises:
        ImageTooLarge: more than `max_pixels` pixels.
        ImageAnimated: more than one frame or page.
        ColourTooDeep: more than 8 bits a channel; grey may have 16.
    """
    if header.pixels > max_pixels:
        raise ImageTooLarge(width=header.width, height=header.height, limit=max_pixels)
    if header.animated:
        raise ImageAnimated
    if header.bits > 8 and header.kind is not ColourKind.GREY:
        raise ColourTooDeep(bits=header.bits)


def check_result(
    *,
    width: int,
    height: int,
    format: ResultFormat,  # noqa: A002 - the word that the API uses
    has_alpha: bool,
) -> None:
    """Refuse a result of `width` x `height` pixels that `format` cannot hold.

    Raises:
        ResultTooLarge: a side passes the format's limit.
        AlphaNotStorable: the picture has an alpha channel and JPEG has none.
    """
    if max(width, height) > format.max_side:
        raise ResultTooLarge(
            width=width, height=height, format_name=format.value, side=format.max_side
        )
    if has_alpha and format is ResultFormat.JPEG:
        raise AlphaNotStorable


def unsupported(found: str) -> ImageUnsupported:
    """The refusal of `found`, which names what would be read instead."""
    return ImageUnsupported(found=found, supported="JPEG, PNG, WebP, TIFF, BMP and AVIF")
