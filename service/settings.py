"""What `gdsr-service` reads from the environment beside what it shares with the workers."""

from datetime import timedelta

from pydantic import Field

from workers.contract.settings import Seconds, SharedSettings


class ServiceSettings(SharedSettings):
    """Where to listen, and how long to keep a request waiting."""

    host: str = "127.0.0.1"
    """Address that the service listens on."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Port that the service listens on; 0: any free one, named in the log."""

    max_wait: Seconds = timedelta(seconds=60)
    """Longest time that `Prefer: wait` keeps a request open."""
