"""Atomic file writes."""

import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)


def write_cache(path: Path, content: bytes) -> None:
    """Write a file that only saves time, and its folder; a failure is only logged."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as failure:
        log.warning("cannot cache %s: %s", path.name, failure)


def check_writable(path: Path) -> None:
    """Check that a file can be written, before the long work of computing its contents.

    Raises:
        OSError: it cannot.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"{path} cannot be written")


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a temporary file beside `path`, sync it, and rename it: several processes may do so,
    also in containers that share the folder.

    Raises:
        OSError: the file cannot be written; the previous file is unchanged.
    """
    # Cut, as the name of a file may have 255 bytes.
    partial = path.with_name(f"{path.name[:48]}.{secrets.token_hex(8)}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
