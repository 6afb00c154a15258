"""Supported formats, and the rules for what can become a job."""

from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from workers.contract import errors


class ImageFormat(StrEnum):
    """An input format."""

    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    TIFF = "tiff"
    BMP = "bmp"
    AVIF = "avif"
    GIF = "gif"
    HEIC = "heic"
    JXL = "jxl"


class ResultFormat(StrEnum):
    """A result format; the first is the default."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"
    AVIF = "avif"
    TIFF = "tiff"
    JXL = "jxl"

    @property
    def media_type(self) -> str:
        return f"image/{self.value}"

    @property
    def max_bits(self) -> int:
        """Maximum bits per sample."""
        return {"png": 16, "tiff": 16}.get(self.value, 8)

    @property
    def max_side(self) -> int:
        """Maximum width and height: the limits of libjpeg, of WebP and of libavif's readers."""
        sides = {"jpeg": 65_500, "webp": 16_383, "avif": 32_768, "jxl": 262_144}
        return sides.get(self.value, 2**31 - 1)

    @property
    def max_pixels(self) -> int | None:
        """Maximum number of pixels if the sides are not the only limit: TIFF is limited to 4 GiB,
        and a pixel may have 8 bytes; libavif reads no more by default.
        """
        return {"tiff": 500_000_000, "avif": 16_384 * 16_384}.get(self.value)

    @property
    def may_be_lossless(self) -> bool:
        return self not in (ResultFormat.JPEG, ResultFormat.AVIF)


#: Formats that need an optional library on the workers.
EXTRA_FORMATS = (ImageFormat.HEIC, ImageFormat.JXL)


def same_format(picture: ImageFormat) -> ResultFormat:
    """The picture's own format if it can be written, else PNG, which is lossless."""
    written = {result.value for result in ResultFormat}
    return ResultFormat(picture.value) if picture.value in written else ResultFormat.PNG


class ColourKind(StrEnum):
    """The colour model of a picture."""

    GREY = "grey"
    COLOUR = "colour"
    PALETTE = "palette"
    CMYK = "cmyk"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """A picture as described by its header."""

    format: ImageFormat
    #: Pixels as stored: an orientation tag may rotate the picture later.
    width: int
    height: int
    #: Bits of the deepest channel; 8 for a palette, as its entries have 8 bits.
    bits: int = 8
    kind: ColourKind = ColourKind.COLOUR
    #: True if the picture may have transparency, even if every pixel turns out to be opaque.
    has_alpha: bool = False
    #: Frames or pages; None: several, not counted, since that needs a walk through the file.
    frames: int | None = 1
    #: Code points of its primaries and transfer function (ITU-T H.273), if they apply.
    cicp: tuple[int, int] | None = None
    #: True if an AVIF or HEIC has a gain map, with which screens show it brighter.
    has_gain_map: bool = False
    #: True if a TIFF has channels beyond its colours and alpha.
    has_other_channels: bool = False
    #: True if a TIFF has a transparency mask in a page of its own.
    has_mask: bool = False

    @property
    def pixels(self) -> int:
        return self.width * self.height


def extension(name: ResultFormat) -> str:
    """The usual file name extension."""
    return "jpg" if name is ResultFormat.JPEG else name.value


RAW = "a camera's raw file"
#: Maximum bits per sample.
MAX_BITS = 16
#: Transfer functions of high dynamic range (ITU-T H.273): their white is far below their peak.
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}


def check_header(header: ImageHeader, *, max_pixels: int, frame: int | None = None) -> None:
    """Reject pictures that cannot become a job. `frame` is the chosen frame, from 0.

    Raises:
        ImageTooLarge: more than `max_pixels` pixels.
        ImageAnimated: several frames or pages, and none was chosen.
        FrameMissing: there is no such frame, as far as the header shows.
        ColourTooDeep: more than 16 bits per channel.
        ImageUnsupported: it is of high dynamic range.
    """
    if header.pixels > max_pixels:
        raise errors.ImageTooLarge(
            width=header.width, height=header.height, pixels=header.pixels, limit=max_pixels
        )
    if header.frames != 1 and frame is None:
        frames = "several" if header.frames is None else f"{header.frames:,}"
        raise errors.ImageAnimated(frames=frames)
    if frame is not None and header.frames is not None and frame >= header.frames:
        raise errors.FrameMissing(frame=frame, frames=header.frames)
    if header.bits > MAX_BITS:
        raise errors.ColourTooDeep(bits=header.bits, limit=MAX_BITS)
    if header.cicp is not None and header.cicp[1] in _HDR_TRANSFERS:
        curve = _HDR_TRANSFERS[header.cicp[1]]
        raise unsupported(
            f"a picture of high dynamic range ({curve}), which is not tone-mapped here"
        )


def check_result(
    *,
    width: int,
    height: int,
    format: ResultFormat,  # noqa: A002 - the word that the API uses
    has_alpha: bool,
    bits: int = 8,
    lossless: bool = False,
    has_profile: bool = False,
) -> None:
    """Reject a result of `width` x `height` pixels that `format` does not support.

    Raises:
        ResultTooLarge: a side or the number of pixels exceeds the format's limit.
        AlphaNotStorable: the picture has an alpha channel and the format is JPEG.
        DepthNotStorable: `bits` per sample are not supported.
        LosslessNotStorable: the format is lossy.
        ProfileNotStorable: the format does not support colour profiles.
    """
    too_large = partial(errors.ResultTooLarge, width=width, height=height, format_name=format.value)
    if max(width, height) > format.max_side:
        raise too_large(limit=format.max_side, of="pixels a side", name="max_side")
    if format.max_pixels is not None and width * height > format.max_pixels:
        raise too_large(limit=format.max_pixels, of="pixels", name="max_result_pixels")
    if has_alpha and format is ResultFormat.JPEG:
        raise errors.AlphaNotStorable
    if bits > format.max_bits:
        raise errors.DepthNotStorable(bits=bits, format_name=format.value)
    if lossless and not format.may_be_lossless:
        raise errors.LosslessNotStorable(format_name=format.value)
    if has_profile and format is ResultFormat.JXL:
        raise errors.ProfileNotStorable(format_name=format.value)


def library_missing(name: ImageFormat) -> errors.ImageRejected:
    """The error for a format whose library is not installed."""
    called = {ImageFormat.HEIC: "a HEIC picture", ImageFormat.JXL: "a JPEG XL picture"}[name]
    return unsupported(f"{called}, for which no library is installed here")


def unsupported(found: str) -> errors.ImageRejected:
    """The error for an unsupported format `found`; lists the supported ones."""
    return errors.ImageUnsupported(
        found=found,
        supported="JPEG, PNG, WebP, TIFF, BMP, AVIF and GIF; HEIC and JPEG XL with their libraries",
    )
