"""Base class of data that one process writes and another reads."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Immutable; unknown fields are ignored, as a newer release may add some."""

    model_config = ConfigDict(frozen=True, extra="ignore")
