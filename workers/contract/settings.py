"""Settings, read once from `GDSR_...` environment variables by each process's `main()`.

The docstring under a field is its description: the README's table is held to it by a test.
"""

import difflib
import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from workers.contract.errors import ConfigurationInvalid


def _plain_seconds(value: object) -> object:
    """`60` in the environment is a text; as a number it means seconds."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


#: `60`, `PT1M` and `00:01:00` are the same.
Seconds = Annotated[timedelta, Field(gt=timedelta(0)), BeforeValidator(_plain_seconds)]

_PREFIX = "GDSR_"

#: What else may stand in our environment: settings of the service, and what tools and tests read.
#: A test holds this to `ServiceSettings`, which is not always installed where this is.
READ_ELSEWHERE = frozenset(
    {
        "GDSR_ADMIN_KEYS_FILE", "GDSR_API_KEYS_FILE", "GDSR_CACHE_RESULTS", "GDSR_CORS_ORIGINS",
        "GDSR_HOST", "GDSR_HOSTS", "GDSR_MAX_WAIT", "GDSR_METRICS_PORT", "GDSR_PIXELS_PER_DAY",
        "GDSR_PORT", "GDSR_RESULT_NAME",
        "GDSR_RATE_LIMIT", "GDSR_ROOT_PATH", "GDSR_SIGNED_RESULTS", "GDSR_TRUSTED_PROXIES",
        "GDSR_WEBHOOK_HOSTS", "GDSR_WEBHOOK_NETWORKS", "GDSR_WEBHOOK_SECRET_FILE",
        "GDSR_BENCH_DIR", "GDSR_METRIC_WEIGHTS", "GDSR_TORCH_INDEX", "GDSR_VGG_WEIGHTS",
    }
)  # fmt: skip


class SharedSettings(BaseSettings):
    """What the service and the workers must agree on."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_ignore_empty=True,
        frozen=True,
        use_attribute_docstrings=True,
        extra="ignore",
    )

    redis_url: str = "redis://localhost:6379/0"
    """Queue and job records: `redis://`, `rediss://` or `unix://`."""

    redis_password_file: Path | None = None
    """File whose first line is the password of Redis; unset: the URL has it, or there is none."""

    blob_dir: Path = Path("data/blobs")
    """Where pictures are stored; service and workers see the same folder."""

    blob_url: str | None = None
    """Store them there instead: `s3://BUCKET/PREFIX` (extra `s3`), or `file:/FOLDER`."""

    max_pixels: int = Field(default=16_000_000, gt=0)
    """Largest picture taken, width x height before scaling."""

    max_upload_bytes: int = Field(default=64 * 1024**2, gt=0)
    """Largest upload taken."""

    max_queued_jobs: int = Field(default=1000, gt=0)
    """Jobs that may wait; more are refused with 503."""

    max_queued_pixels: int = Field(default=1_000_000_000, validate_default=True)
    """Pixels (before scaling) of all pictures that may wait; at least the largest picture's."""

    max_batch_pictures: int = Field(default=100, gt=0, le=1000)
    """Most pictures in one batch."""

    max_batch_bytes: int = Field(default=512 * 1024**2, gt=0)
    """Largest batch taken, and the most that its zip may unpack to."""

    small_pixels: int = Field(default=512 * 512, gt=0)
    """Pictures up to this many pixels wait in a queue of their own."""

    result_ttl: Seconds = timedelta(hours=1)
    """How long a finished picture is kept."""

    record_ttl: Seconds = timedelta(days=1)
    """How long the record of an ended job is kept, so that its result says 410 and not 404."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lines below this level are not written."""

    metrics_host: str = "127.0.0.1"
    """Address that ports for metrics alone listen on."""

    otel_endpoint: str | None = None
    """Collector that gets spans (OTLP over HTTP), such as `http://otel:4318`; unset: none."""

    @field_validator("max_queued_pixels")
    @classmethod
    def _holds_one(cls, value: int, others: ValidationInfo) -> int:
        largest = others.data.get("max_pixels", 0)
        if value < largest:
            raise ValueError(f"less than GDSR_MAX_PIXELS ({largest}): the largest never fits")
        return value

    @classmethod
    def load(cls) -> Self:
        """Read the environment; a variable that is set to nothing is not set.

        Raises:
            ConfigurationInvalid: names each wrong variable in one line.
        """
        known = READ_ELSEWHERE | _names(cls) | _names(WorkerSettings)
        for name in os.environ:
            if name.startswith(_PREFIX) and name not in known:
                raise ConfigurationInvalid(_misspelt(name, known))
        try:
            settings = cls()
        except ValidationError as invalid:
            faults = "; ".join(
                f"GDSR_{'.'.join(map(str, fault['loc'])).upper()}: {fault['msg']}"
                for fault in invalid.errors()
            )
            raise ConfigurationInvalid(f"wrong settings: {faults}") from None
        if settings.redis_password_file is None:
            return settings
        password = _first_line(settings.redis_password_file)
        return settings.model_copy(
            update={"redis_url": _with_password(settings.redis_url, password)}
        )


class WorkerSettings(SharedSettings):
    """What `gdsr-worker`, its engines and its job workers need beside that."""

    job_workers: int | None = Field(default=None, ge=2)
    """Job worker processes, half of them for small pictures alone; unset: by the cores."""

    checkpoints: Annotated[tuple[Path, ...], NoDecode] = ()
    """Checkpoint files or folders, separated by `:`; empty: those that come with GDSR."""

    devices: Annotated[tuple[str, ...], NoDecode] = ()
    """Devices to run an engine on, such as `cuda:0,cuda:1`; empty: every GPU, else the CPU."""

    default_model: str | None = None
    """Model of requests that name none; unset: `base` on a GPU, `lite-real` on a CPU."""

    max_models: int | None = Field(default=None, gt=0)
    """Models an engine keeps on its device; others are loaded when a job wants them. Unset: all."""

    precision: Literal["float32", "bfloat16", "float16"] | None = None
    """Number format of the network; unset: the fastest that passes the start-up self-test."""

    threads: int | None = Field(default=None, gt=0)
    """CPU threads of an engine; unset: the CPU quota."""

    cache_dir: Path | None = None
    """Folder for compiled kernels and calibrations; unset: `gdsr` in the user's cache folder."""

    tile: int | None = Field(default=None, ge=64, le=1024)
    """Tile side in input pixels, context included; unset: 160 or 288, as suits each picture."""

    blob_quota: int | None = Field(default=None, gt=0)
    """Bytes that all pictures may take; beyond, the oldest results go early. Unset: any number."""

    drain: Seconds = timedelta(seconds=20)
    """How long running jobs may go on after SIGTERM before they are put back in the queue."""

    job_memory: int = Field(default=6 * 1024**3, gt=0)
    """Address space in bytes that one job's process may use."""

    mark: bool = True
    """Whether results say in their XMP that a model made them, in the words of IPTC; `off`: not."""

    engine_patience: Seconds = timedelta(seconds=60)
    """How long a job waits for an engine that is being restarted."""

    worker_metrics_port: int | None = Field(default=None, gt=0, le=65000)
    """Port for metrics and probes of the supervisor; engines take the next ones; unset: none."""

    @field_validator("checkpoints", mode="before")
    @classmethod
    def _split_paths(cls, value: object) -> object:
        return _split(value, ":")

    @field_validator("devices", mode="before")
    @classmethod
    def _split_devices(cls, value: object) -> object:
        return _split(value, ",")


def _split(value: object, separator: str) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(separator) if part.strip())
    return value


def _names(settings: type[BaseSettings]) -> frozenset[str]:
    return frozenset(f"{_PREFIX}{field.upper()}" for field in settings.model_fields)


def _misspelt(name: str, known: frozenset[str]) -> str:
    nearest = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else "the README has the table of settings"
    return f"there is no setting {name}; {hint}"


def _first_line(path: Path) -> str:
    try:
        password = path.read_text().partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as failure:
        reason = getattr(failure, "strerror", None) or "it is not text"
        raise ConfigurationInvalid(
            f"GDSR_REDIS_PASSWORD_FILE: {path} cannot be read: {reason}"
        ) from None
    if not password:
        raise ConfigurationInvalid(
            f"GDSR_REDIS_PASSWORD_FILE: {path} is empty; put the password of Redis there"
        )
    return password


def _with_password(url: str, password: str) -> str:
    """The URL with this password; a user that it names stays."""
    parts = urlsplit(url)
    if parts.password:
        raise ConfigurationInvalid(
            "GDSR_REDIS_URL has a password and GDSR_REDIS_PASSWORD_FILE is set; keep one of them"
        )
    user, _, place = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{place}").geturl()
