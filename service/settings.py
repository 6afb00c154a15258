"""What `gdsr-service` reads from the environment beside what it shares with the workers."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field

from workers.contract.settings import Seconds, SharedSettings


class ServiceSettings(SharedSettings):
    """Where to listen, and how long to keep a request waiting."""

    host: str = "127.0.0.1"
    """Address that the service listens on."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Port that the service listens on; 0: any free one, named in the log."""

    api_keys_file: Path | None = None
    """File of API keys, `name:sha256` lines (`gdsr-service --new-key NAME`); unset: no keys."""

    rate_limit: str | None = None
    """Uploads that one API key may send, such as `60/minute`; unset: any number."""

    pixels_per_day: int | None = Field(default=None, gt=0)
    """Pixels (before scaling) that one API key may send a day (UTC); unset: any number."""

    max_wait: Seconds = timedelta(seconds=60)
    """Longest time that `Prefer: wait` keeps a request open."""
