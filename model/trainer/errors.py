"""The errors of training, each with a message of one line."""

from collections.abc import Sequence
from pathlib import Path


class TrainingError(Exception):
    """Training cannot start or continue, for the reason in the message."""


class ConfigInvalid(TrainingError):
    """A preset or an override is invalid."""


class PhotographsMissing(TrainingError):
    """A folder has no usable picture."""

    def __init__(self, folder: Path, *, broken: Sequence[Path], small: int, side: int) -> None:
        reasons = []
        if broken:
            reasons.append(f"{len(broken)} broken, {broken[0].name} first")
        if small:
            reasons.append(f"{small} smaller than {side}x{side}")
        super().__init__(
            f"no photograph to use in {folder} ({', '.join(reasons) or 'it has no pictures'})"
        )


class WeightsUnusable(TrainingError):
    """A file of weights is missing, or does not fit the network."""


class RunUnusable(TrainingError):
    """A folder is not a run that can be resumed, or already holds a run."""


class CacheUnusable(TrainingError):
    """A teacher's cache is of another teacher, damaged or incomplete."""


class LossNotFinite(TrainingError):
    """A loss became NaN or infinite."""

    def __init__(self, *, step: int, term: str, batch: Path) -> None:
        super().__init__(
            f"the loss {term} of step {step} is not finite; the batch is in {batch}, "
            "the last good state stays"
        )
        self.step = step


class StorageFull(TrainingError):
    """A file could not be written."""

    def __init__(self, error: OSError, path: Path) -> None:
        said, where = error.strerror or error, error.filename or path
        super().__init__(f"{said}: {where}; what was there before stays")


class PartMissing(TrainingError):
    """An optional package is not installed."""

    def __init__(self, package: str, *, purpose: str, extra: str = "train") -> None:
        super().__init__(f"{purpose} needs {package}: pip install 'gdsr[{extra}]'")


def cause(error: Exception) -> str:
    """The message of an error in one line, without the number of an OSError."""
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename}"
    return str(error)
