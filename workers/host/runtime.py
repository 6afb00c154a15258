"""The folder for the sockets of a host, with a lock that tells whether its process is alive."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOCK = "runtime.lock"


@contextmanager
def runtime_folder() -> Iterator[Path]:
    """A new folder, directly below the one for temporary files, as paths of sockets are limited to
    107 bytes. Removes the folders of processes that were killed.
    """
    for lock in Path(tempfile.gettempdir()).glob(f"gdsr-*/{_LOCK}"):
        with suppress(OSError), lock.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent)
    folder = Path(tempfile.mkdtemp(prefix="gdsr-"))
    try:
        new = folder / "new"
        with new.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            new.rename(folder / _LOCK)  # now that it is locked others may find it
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
