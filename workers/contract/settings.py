"""Settings, read once from `GDSR_...` environment variables at the start of each process.

The docstring of a field is its description; a test compares docs/settings.md with it.
"""

import difflib
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from workers.contract.errors import ConfigurationInvalid
from workers.contract.validation_messages import error_message


def _plain_seconds(value: object) -> object:
    """Parse a plain number as seconds: environment variables are text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


#: `60`, `PT1M` and `00:01:00` are equivalent. At most a century: dates end with the year 9999.
Seconds = Annotated[
    timedelta,
    Field(gt=timedelta(0), le=timedelta(days=36_525)),
    BeforeValidator(_plain_seconds),
]


def _split(separator: str) -> BeforeValidator:
    def split(value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(separator) if part.strip())
        return value

    return BeforeValidator(split)


#: Several values, separated by commas, and several paths, separated by colons.
Values = Annotated[tuple[str, ...], NoDecode, _split(",")]
Paths = Annotated[tuple[Path, ...], NoDecode, _split(":")]

_PREFIX = "GDSR_"
#: Variables that Kubernetes adds for services called `gdsr` or `gdsr-...`, unless
#: `enableServiceLinks` is false; those that end with `_PORT` are recognised by their value.
_SERVICE_LINK = re.compile(
    r"GDSR_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)
_LINK_ADDRESS = re.compile(r"(tcp|udp|sctp)://")

#: Other variables with our prefix: settings of the service, and those of tools and tests. A test
#: compares them with `ServiceSettings`, which is not always installed here.
READ_ELSEWHERE = frozenset(
    {
        "GDSR_ADMIN_KEYS_FILE", "GDSR_API_KEYS_FILE", "GDSR_BODY_TIMEOUT", "GDSR_CACHE_RESULTS",
        "GDSR_CANCEL_ABANDONED", "GDSR_COMPAT", "GDSR_CORS_ORIGINS", "GDSR_HEAD_TIMEOUT",
        "GDSR_HOST", "GDSR_HOSTS", "GDSR_MAX_WAIT", "GDSR_METRICS_PORT", "GDSR_PIXELS_PER_DAY",
        "GDSR_PORT", "GDSR_RATE_LIMIT", "GDSR_RESULT_NAME", "GDSR_ROOT_PATH", "GDSR_SIGNED_RESULTS",
        "GDSR_TRUSTED_PROXIES",
        "GDSR_WEBHOOK_HOSTS", "GDSR_WEBHOOK_NETWORKS", "GDSR_WEBHOOK_SECRET_FILE",
        "GDSR_API_KEY", "GDSR_BENCH_DIR", "GDSR_METRIC_WEIGHTS", "GDSR_TORCH_INDEX",
        "GDSR_VGG_WEIGHTS",
    }
)  # fmt: skip


class SharedSettings(BaseSettings):
    """Settings shared by service and workers."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_ignore_empty=True,
        frozen=True,
        use_attribute_docstrings=True,
        extra="ignore",
    )

    redis_url: str = "redis://localhost:6379/0"
    """Redis for queue and job records: `redis://`, `rediss://` (TLS), `unix://` or
    `redis+sentinel://HOST,HOST/NAME`.
    """

    redis_password_file: Path | None = None
    """File with the Redis password in its first line; unset: the one of the URL, if any."""

    blob_dir: Path = Path("data/blobs")
    """Folder for pictures; shared by service and workers."""

    blob_url: str | None = None
    """Blob store instead of the folder: `s3://BUCKET/PREFIX` (extra `s3`), or `file:/FOLDER`."""

    max_pixels: int = Field(default=16_000_000, gt=0)
    """Maximum input size, width x height before scaling."""

    max_upload_bytes: int = Field(default=64 * 1024**2, gt=0)
    """Maximum upload size in bytes."""

    max_queued_jobs: int = Field(default=1000, gt=0)
    """Maximum number of queued jobs; more are rejected with 503."""

    max_queued_pixels: int = Field(default=1_000_000_000, validate_default=True)
    """Maximum total input pixels of queued pictures; at least GDSR_MAX_PIXELS."""

    max_batch_pictures: int = Field(default=100, gt=0, le=1000)
    """Maximum number of pictures in a batch."""

    max_batch_bytes: int = Field(default=512 * 1024**2, gt=0)
    """Maximum size of a batch upload, and of its unpacked contents, in bytes."""

    small_pixels: int = Field(default=512 * 512, gt=0)
    """Pictures up to this many pixels use a separate queue."""

    result_ttl: Seconds = timedelta(hours=1)
    """Lifetime of a result."""

    record_ttl: Seconds = timedelta(days=1)
    """Lifetime of the record of an ended job. Its expired result is 410, later 404."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum level of log lines."""

    metrics_host: str = "127.0.0.1"
    """Listen address of separate metrics ports."""

    otel_endpoint: str | None = None
    """OpenTelemetry collector (OTLP over HTTP), such as `http://otel:4318`; unset: no spans."""

    @field_validator("redis_url", "blob_url")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        urlsplit(value or "")  # raises ValueError if its host is malformed
        return value

    @field_validator("max_queued_pixels")
    @classmethod
    def _fits_largest_picture(cls, value: int, others: ValidationInfo) -> int:
        largest = others.data.get("max_pixels", 0)
        if value < largest:
            raise ValueError(
                f"less than GDSR_MAX_PIXELS ({largest}): the largest picture would never fit"
            )
        return value

    @classmethod
    def load(cls) -> Self:
        """Read the environment; empty variables count as unset, service links are removed from it.

        Raises:
            ConfigurationInvalid: lists each invalid variable, in one line.
        """
        fields = (*cls.model_fields, *WorkerSettings.model_fields)
        known = READ_ELSEWHERE | {f"{_PREFIX}{field.upper()}" for field in fields}
        for name, value in list(os.environ.items()):
            if not name.startswith(_PREFIX):
                continue
            is_port = name.endswith("_PORT") and _LINK_ADDRESS.match(value)
            if is_port or _SERVICE_LINK.fullmatch(name):
                del os.environ[name]
            elif name not in known:
                nearest = difflib.get_close_matches(name, sorted(known), n=1)
                hint = (
                    f"did you mean {nearest[0]}?"
                    if nearest
                    else "docs/settings.md lists all settings"
                )
                raise ConfigurationInvalid(f"unknown setting {name}; {hint}")
        try:
            settings = cls()
        except ValidationError as invalid:
            errors = "; ".join(
                f"GDSR_{'.'.join(map(str, error['loc'])).upper()}: {error_message(error)}"
                for error in invalid.errors()
            )
            raise ConfigurationInvalid(f"invalid settings: {errors}") from None
        if settings.redis_password_file is None:
            return settings
        password = read_password(settings.redis_password_file, "GDSR_REDIS_PASSWORD_FILE")
        return settings.model_copy(
            update={"redis_url": _with_password(settings.redis_url, password)}
        )


class WorkerSettings(SharedSettings):
    """Additional settings of `gdsr-worker`, its engines and its job workers."""

    job_workers: int | None = Field(default=None, ge=2)
    """Number of job workers, half of them for small pictures only; unset: from cores and GPUs."""

    checkpoints: Paths = ()
    """Checkpoint files or folders, separated by `:`; empty: the checkpoints shipped with GDSR."""

    devices: Values = ()
    """Devices to run an engine on, such as `cuda:0,cuda:1`; empty: every GPU, else the CPU."""

    default_model: str | None = None
    """Default model for requests that name none; unset: `paper-real` on a GPU, else
    `lite-real`.
    """

    max_models: int | None = Field(default=None, gt=0)
    """Maximum number of models on a device; others are loaded on demand (LRU cache). Unset: all."""

    precision: Literal["float32", "bfloat16", "float16"] | None = None
    """Number format of the network; unset: the fastest that passes the startup self-test."""

    cpu_backend: Literal["auto", "torch", "openvino"] = "auto"
    """Library that computes on a CPU: `torch`, `openvino`, or `auto`, the faster one in a trial."""

    threads: int | None = Field(default=None, gt=0)
    """CPU threads of an engine; unset: the CPU quota."""

    cache_dir: Path | None = None
    """Folder for compiled kernels and calibrations; unset: `gdsr` in the user's cache folder."""

    tile: int | None = Field(default=None, ge=64, le=1024)
    """Tile side in input pixels, context included; unset: 160, 288 or, on a GPU, 512."""

    blob_quota: int | None = Field(default=None, gt=0)
    """Storage quota in bytes; beyond it the oldest results are removed early. Unset: unlimited."""

    drain: Seconds = timedelta(seconds=20)
    """Grace period of running jobs after SIGTERM before they are put back in the queue."""

    job_memory: int = Field(default=6 * 1024**3, gt=0)
    """Address space limit of a job's process, in bytes. 16 megapixels of 16 bits with alpha and
    kept branches need about 6 GB, with a background or reduced about 8 GB.
    """

    mark: bool = True
    """State in the XMP of results that a model made them (IPTC DigitalSourceType)."""

    engine_patience: Seconds = timedelta(seconds=60)
    """Maximum time for which a job waits for an engine to restart."""

    worker_metrics_port: int | None = Field(default=None, gt=0, le=65000)
    """Port for metrics and probes of the supervisor; engines use the next ones; unset: none."""

    @field_validator("checkpoints")
    @classmethod
    def _paths_exist(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        for path in value:
            if not path.exists():
                raise ValueError(f"there is no {path}")
        return value


def read_password(path: Path, setting: str) -> str:
    """The first line of a file that a setting names.

    Raises:
        ConfigurationInvalid: it cannot be read, or is empty.
    """
    try:
        password = path.read_text().partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as failure:
        reason = getattr(failure, "strerror", None) or "not a text file"
        raise ConfigurationInvalid(f"{setting}: {path} cannot be read: {reason}") from None
    if not password:
        raise ConfigurationInvalid(f"{setting}: {path} is empty; put the Redis password there")
    return password


def _with_password(url: str, password: str) -> str:
    """The URL with this password; a user name in it is kept."""
    parts = urlsplit(url)
    if parts.password:
        raise ConfigurationInvalid(
            "both GDSR_REDIS_URL and GDSR_REDIS_PASSWORD_FILE have a password; remove one of them"
        )
    user, _, place = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{place}").geturl()
