"""Atomic file writes."""

import os
from contextlib import suppress
from pathlib import Path

from model.trainer.errors import StorageFull


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a temporary file beside `path`, sync it, and rename it.

    Raises:
        StorageFull: the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise StorageFull(error, path) from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
