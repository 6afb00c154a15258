"""The `Accept` header, for requests that name no format (RFC 9110, section 12.5)."""

import re

from workers.contract.images.formats import ResultFormat

#: Without JPEG XL, which only some workers write: clients have to request it by name.
_ALWAYS = [name for name in ResultFormat if name is not ResultFormat.JXL]
_QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


def preferred_formats(header: str) -> tuple[ResultFormat, ...]:
    """The formats that the header accepts, best first; empty if it accepts none of them.

    Among equals, formats that the header names come first, then the order is that of
    `ResultFormat`. A header that accepts no format may be answered with 406 or be ignored; the
    response to an upload is the job, so the header is ignored.
    """
    ranges = quality_values(header)
    quality = {name: _quality(name.media_type, ranges) for name in _ALWAYS}
    accepted = [name for name in _ALWAYS if quality[name] > 0]
    return tuple(sorted(accepted, key=lambda name: (-quality[name], name.media_type not in ranges)))


def quality_values(header: str) -> dict[str, float]:
    """The quality (0 to 1) of each media range or coding of a header; without malformed ones."""
    found: dict[str, float] = {}
    for part in header.split(","):
        name, *parameters = (word.strip().lower() for word in part.split(";"))
        weights = [word[2:] for word in parameters if word.startswith("q=")] or ["1"]
        if _QUALITY.fullmatch(weights[0]):
            found[name] = float(weights[0])
    return found


def _quality(media_type: str, ranges: dict[str, float]) -> float:
    """The quality of a type: that of the most specific range that has it."""
    return next((ranges[name] for name in (media_type, "image/*", "*/*") if name in ranges), 0.0)
