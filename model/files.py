"""Atomic file writes."""

import os
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a temporary file beside `path`, sync it, and rename it: several processes may do so.

    Raises:
        OSError: the file cannot be written; the previous file is unchanged.
    """
    # Cut, as the name of a file may have 255 bytes.
    partial = path.with_name(f"{path.name[:48]}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
