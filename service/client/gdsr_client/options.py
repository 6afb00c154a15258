"""Options of requests; docs/http.md has their meaning and defaults."""

from collections.abc import Mapping
from typing import Literal, TypedDict

Stop = Literal["psnr", "fused", "gan"]
Format = Literal["png", "jpeg", "webp", "avif", "tiff", "jxl", "same"]


class Options(TypedDict, total=False):
    """Fields of `POST /upscale`; None means not given."""

    trade_off: float | Stop | None
    """0 (faithful) to 1 (crisp); 0.5 unless given."""
    model: str | None
    format: Format | None
    quality: int | None
    """1 to 100."""
    lossless: bool | None
    frame: int | None
    """Frame of an animation or page of a TIFF, from 0."""
    truncated: Literal["refuse", "fill"] | None
    """Refuse a truncated picture, or fill its missing part."""
    scale: float | None
    """1 to 4."""
    width: int | None
    """Maximum width of the result in pixels."""
    height: int | None
    alpha: Literal["model", "lanczos"] | None
    background: str | None
    """`#rrggbb`."""
    icc: Literal["srgb", "keep"] | None
    metadata: Literal["strip", "keep"] | None
    depth: Literal["same", "8", "16"] | None
    consistency: bool | None
    keep_branches: bool | None
    """Needed to derive other slider positions without running the network again."""
    name: str | None
    """File name of the result."""
    webhook: str | None
    """URL that receives the job when it has ended."""


class DerivedOptions(TypedDict, total=False):
    """Fields of `/jobs/{id}/result`, for a job that kept its branches."""

    trade_off: float | Stop | None
    output: Literal["psnr", "fused", "gan", "mask"] | None
    format: Format | None
    quality: int | None
    region: str | None
    """`x,y,width,height` in pixels of the result."""
    width: int | None
    height: int | None
    dpi: int | None
    """Dots per inch that the file states."""
    name: str | None
    """File name of the result, with a map."""
    preview: bool | None
    """A small WebP of an `output`."""


def query(options: Mapping[str, object]) -> dict[str, str]:
    """Options as query parameters: booleans as `true` and `false`, None left out."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in options.items()
        if value is not None
    }
