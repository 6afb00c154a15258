"""Formats that need an optional library, which an operator may leave out.

HEIC's wheels are under the GPL, and both codecs are young. Each engine registers the formats of its
worker host (`workers.contract.queue.engines`).
"""

from importlib.util import find_spec

from workers.contract.errors import FormatNotWritten
from workers.contract.images.formats import ImageFormat, ResultFormat

_MODULES = {ImageFormat.HEIC: "pillow_heif", ImageFormat.JXL: "pillow_jxl"}


def installed() -> tuple[ImageFormat, ...]:
    """Optional formats whose library is installed; none is imported."""
    return tuple(name for name, module in _MODULES.items() if find_spec(module) is not None)


def make_ready(name: ImageFormat | ResultFormat) -> None:
    """Register the library of an optional format with Pillow; other formats need nothing.

    Raises:
        FormatNotWritten: the library is not installed.
    """
    if name not in _MODULES:
        return
    if ImageFormat(name) not in installed():
        raise FormatNotWritten(format_name=name.value)
    if name == ImageFormat.HEIC:
        from pillow_heif import register_heif_opener

        register_heif_opener()
    else:
        import pillow_jxl  # noqa: F401 - registers itself
