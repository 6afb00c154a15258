"""Formats that need a library of their own, which an operator may leave out.

HEIC's wheels are under the GPL, and both codecs are young. A worker host says what it has with its
engines' facts (`workers.contract.queue.engines`); here is where that is found out, and where it is
used.
"""

from functools import cache
from importlib.util import find_spec

from workers.contract.errors import FormatNotWritten
from workers.contract.images.formats import ImageFormat, ResultFormat

_MODULES = {ImageFormat.HEIC: "pillow_heif", ImageFormat.JXL: "pillow_jxl"}


def installed() -> tuple[ImageFormat, ...]:
    """The formats whose library is there; none is imported."""
    return tuple(name for name, module in _MODULES.items() if find_spec(module) is not None)


def make_ready(name: ImageFormat | ResultFormat) -> None:
    """Let Pillow know a format's library, if it has one of its own.

    Raises:
        FormatNotWritten: a result needs one that is not there.
    """
    if name in (ImageFormat.HEIC, ImageFormat.JXL):
        own = ImageFormat(name)
        if own not in installed():
            raise FormatNotWritten(format_name=own.value)
        _register(own)


@cache
def _register(name: ImageFormat) -> None:
    if name is ImageFormat.HEIC:
        from pillow_heif import register_heif_opener

        register_heif_opener()
    else:
        import pillow_jxl  # noqa: F401 - registers itself
