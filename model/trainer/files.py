"""Atomic file writes."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from model.trainer.errors import StorageFull


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a temporary file beside `path`, sync it, and rename it.

    Raises:
        StorageFull: it cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise StorageFull(error, path) from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
