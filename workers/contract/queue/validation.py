"""Validates an upload and its options by the header, without decoding pixels."""

from typing import BinaryIO, NamedTuple

from workers.contract.errors import ImageRejected
from workers.contract.images.formats import (
    ImageHeader,
    ResultFormat,
    check_header,
    check_result,
    same_format,
)
from workers.contract.images.headers import read_header
from workers.contract.images.options import DepthMode, PictureChoices, ProfileMode
from workers.contract.queue.engines import EngineInfo, ModelInfo, check_extra, choose_model
from workers.contract.queue.jobs import ImageInfo, UpscaleChoices, UpscaleOptions


class RequestedOptions(UpscaleChoices):
    """Requested options, before defaults from picture and models are applied."""

    preferred: tuple[ResultFormat, ...] = ()
    """Best first: the first that can hold the picture, where no format was asked for; else PNG."""


class ValidatedUpload(NamedTuple):
    """A validated upload: everything that a job needs."""

    image: ImageInfo
    options: UpscaleOptions
    model: ModelInfo


def validate_upload(
    file: BinaryIO,
    requested: RequestedOptions,
    engines: list[EngineInfo],
    *,
    key: str,
    size: int,
    sha256: str,
    max_pixels: int,
) -> ValidatedUpload:
    """Validate a picture by its header; `key` is its future blob key.

    An alpha channel is no reason to reject: only the pixels show whether it is used.

    Raises:
        ImageRejected: the picture cannot become a job; a retry will not help.
        FormatNotWritten: the library of the result format is missing.
        ModelUnknown: there is no such model.
        NoWorker: no engine is running.
    """
    header = read_header(file, frame=requested.frame)
    check_header(header, max_pixels=max_pixels, frame=requested.frame)
    model = choose_model(engines, requested.model)
    check_extra(header.format, engines)
    result = _preferred(header, requested) or requested.format or same_format(header.format)
    check_extra(result, engines)
    _check(header, requested, result, has_alpha=False)
    image = ImageInfo(
        key=key,
        size=size,
        sha256=sha256,
        format=header.format,
        width=header.width,
        height=header.height,
        bits=header.bits,
        has_alpha=header.has_alpha,
    )
    options = UpscaleOptions.model_validate(
        requested.model_dump(exclude={"preferred"}) | {"model": model.name, "format": result}
    )
    return ValidatedUpload(image, options, model)


def _preferred(header: ImageHeader, requested: RequestedOptions) -> ResultFormat | None:
    """First preferred format that can hold the picture even if it is transparent; else None."""
    for result in requested.preferred:
        try:
            _check(header, requested, result, has_alpha=header.has_alpha)
        except ImageRejected:
            continue
        return result
    return None


def _check(
    header: ImageHeader, requested: RequestedOptions, result: ResultFormat, *, has_alpha: bool
) -> None:
    size = requested.possible_size(width=header.width, height=header.height)
    check_format(requested, result, size=size, has_alpha=has_alpha)


def check_format(
    choices: PictureChoices,
    result: ResultFormat,
    *,
    size: tuple[int, int] = (1, 1),
    has_alpha: bool = False,
) -> None:
    """Raise ImageRejected if the format cannot hold what was chosen; `size`: width and height."""
    width, height = size
    check_result(
        width=width,
        height=height,
        format=result,
        has_alpha=has_alpha and choices.background is None,
        bits=16 if choices.depth is DepthMode.SIXTEEN else 8,
        lossless=choices.lossless,
        has_profile=choices.icc is ProfileMode.KEEP,
    )
