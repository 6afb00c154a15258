"""The errors of training, each with a message of one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class TrainingError(Exception):
    """Training cannot start or continue, for the reason in the message."""


class ConfigInvalid(TrainingError):
    """A preset or an override is invalid."""


def cause(error: Exception) -> str:
    """The message of an error in one line, without the number of an OSError."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error).strip().partition("\n")[0]


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Report a file that cannot be read as a TrainingError whose message starts with `what`."""
    from model.checkpoint import CheckpointInvalid  # late: it imports torch

    try:
        yield
    except (CheckpointInvalid, OSError) as error:
        raise TrainingError(f"{what}: {cause(error)}") from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Report a file that cannot be written as a TrainingError."""
    try:
        yield
    except OSError as error:
        said, where = error.strerror or error, error.filename or path
        raise TrainingError(f"{said}: {where}; the previous file is unchanged") from None
