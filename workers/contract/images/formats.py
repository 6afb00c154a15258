"""The formats that are read and written, and what may become a job: values and rules, no bytes."""

from dataclasses import dataclass
from enum import StrEnum

from workers.contract.errors import (
    AlphaNotStorable,
    ColourTooDeep,
    DepthNotStorable,
    FrameMissing,
    ImageAnimated,
    ImageTooLarge,
    ImageUnsupported,
    LosslessNotStorable,
    ProfileNotStorable,
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
    GIF = "gif"
    HEIC = "heic"
    JXL = "jxl"


class ResultFormat(StrEnum):
    """A format that a result can be written in; the first is the default."""

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
        """The most bits that a sample can have."""
        return {"png": 16, "tiff": 16}.get(self.value, 8)

    @property
    def max_side(self) -> int:
        """The most pixels that a side can have; for JPEG what libjpeg writes."""
        sides = {"jpeg": 65_500, "webp": 16_383, "avif": 65_536, "jxl": 262_144}
        return sides.get(self.value, 2**31 - 1)

    @property
    def max_pixels(self) -> int | None:
        """The most pixels in all, where sides are not the only limit: TIFF ends at 4 GiB, and a
        pixel may have 8 bytes.
        """
        return {"tiff": 500_000_000}.get(self.value)

    @property
    def may_be_transparent(self) -> bool:
        """Whether it has an alpha channel."""
        return self is not ResultFormat.JPEG

    @property
    def may_be_lossless(self) -> bool:
        """Whether it can hold a picture to the last bit."""
        return self not in (ResultFormat.JPEG, ResultFormat.AVIF)

    @property
    def may_have_iptc(self) -> bool:
        """Whether readers look for IPTC's records in it."""
        return self in (ResultFormat.JPEG, ResultFormat.TIFF)

    @property
    def may_have_profile(self) -> bool:
        """Whether it is written with a colour profile other than sRGB."""
        return self is not ResultFormat.JXL


#: Read, and written, only where workers have a library for them.
EXTRA_FORMATS = (ImageFormat.HEIC, ImageFormat.JXL)


def same_format(picture: ImageFormat) -> ResultFormat:
    """The picture's own format where it can be written, else PNG: nothing is lost in that."""
    written = {result.value for result in ResultFormat}
    return ResultFormat(picture.value) if picture.value in written else ResultFormat.PNG


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
    #: Frames or pages; None: several, and only a walk through the file would tell how many.
    frames: int | None = 1
    #: Its primaries and its transfer function by their numbers in ITU-T H.273, where they count.
    cicp: tuple[int, int] | None = None

    @property
    def pixels(self) -> int:
        return self.width * self.height


def extension(name: ResultFormat) -> str:
    """The usual ending of a file's name."""
    return "jpg" if name is ResultFormat.JPEG else name.value


_DEEP_COLOUR = (ImageFormat.PNG, ImageFormat.TIFF)
#: Transfer functions (ITU-T H.273) whose white is far below their brightest.
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}


def check_header(header: ImageHeader, *, max_pixels: int, frame: int | None = None) -> None:
    """Refuse what cannot become a job. `frame` is the one that was chosen, from 0.

    Raises:
        ImageTooLarge: more than `max_pixels` pixels.
        ImageAnimated: more than one frame or page, and none was chosen.
        FrameMissing: there is no such frame, as far as the header tells.
        ColourTooDeep: more than 8 bits a channel; grey may have 16 except in JPEG XL, and so may
            RGB in PNG and TIFF.
        ImageUnsupported: it is of high dynamic range.
    """
    if header.pixels > max_pixels:
        raise ImageTooLarge(width=header.width, height=header.height, limit=max_pixels)
    if header.frames != 1 and frame is None:
        raise ImageAnimated(frames=header.frames)
    if frame is not None and header.frames is not None and frame >= header.frames:
        raise FrameMissing(frame=frame, frames=header.frames)
    deep = header.format in _DEEP_COLOUR and header.kind is ColourKind.COLOUR and header.bits == 16
    # The library for JPEG XL hands out no more than 8 bits of most kinds.
    deep |= header.kind is ColourKind.GREY and header.format is not ImageFormat.JXL
    if header.bits > 8 and not deep:
        raise ColourTooDeep(
            bits=header.bits,
            kind=f"{header.format.upper()} of kind {header.kind}",
            more_elsewhere=header.format not in _DEEP_COLOUR,
        )
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
    """Refuse a result of `width` x `height` pixels that `format` cannot hold.

    Raises:
        ResultTooLarge: a side, or the number of pixels, passes the format's limit.
        AlphaNotStorable: the picture has an alpha channel and JPEG has none.
        DepthNotStorable: samples of `bits` do not fit.
        LosslessNotStorable: the format always loses something.
        ProfileNotStorable: it is not written with a profile.
    """
    if max(width, height) > format.max_side:
        raise ResultTooLarge(
            width=width, height=height, format_name=format.value, side=format.max_side
        )
    if format.max_pixels is not None and width * height > format.max_pixels:
        raise ResultTooLarge(
            width=width, height=height, format_name=format.value, pixels=format.max_pixels
        )
    if has_alpha and not format.may_be_transparent:
        raise AlphaNotStorable
    if bits > format.max_bits:
        raise DepthNotStorable(bits=bits, format_name=format.value)
    if lossless and not format.may_be_lossless:
        raise LosslessNotStorable(format_name=format.value)
    if has_profile and not format.may_have_profile:
        raise ProfileNotStorable(format_name=format.value)


def unread(name: ImageFormat) -> ImageUnsupported:
    """The refusal of a format whose library is not there."""
    called = {ImageFormat.HEIC: "a HEIC picture", ImageFormat.JXL: "a JPEG XL picture"}[name]
    return unsupported(f"{called}, for which no library is installed here")


def unsupported(found: str) -> ImageUnsupported:
    """The refusal of `found`, which names what would be read instead."""
    return ImageUnsupported(found=found, supported="JPEG, PNG, WebP, TIFF, BMP, AVIF and GIF")
