"""All errors of the service and the workers, without HTTP imports.

Each error has a stable `slug`, which is stored in the failure record of a job and ends the `type`
of the problem document (`service.http.problems`), and the status and title of that document.
Messages name the cause, the value, the limit, and what to do.
"""

import math
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import ClassVar, Literal, TypeVar

Kind = TypeVar("Kind", bound="GDSRError")


def in_bytes(count: int) -> str:
    """A number of bytes in a readable unit."""
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:,.4g} {unit} ({count:,} bytes)"
    return f"{count:,} bytes"


def format_duration(pause: timedelta) -> str:
    """A duration, rounded up to a readable unit: 90 s, 3 min, 2 h."""
    seconds = math.ceil(pause.total_seconds())
    if seconds <= 120:
        return f"{seconds} s"
    return f"{math.ceil(seconds / 60)} min" if seconds <= 7200 else f"{math.ceil(seconds / 3600)} h"


class GDSRError(Exception):
    """An unexpected error; the log explains it.

    Base class of all errors that this project raises.
    """

    slug: ClassVar[str] = "internal"
    #: HTTP status of a request that fails with this error (RFC 9110).
    status: ClassVar[int] = 500
    #: The kind of error in words.
    title: ClassVar[str] = "Internal error"
    #: The message; the arguments of the error fill its placeholders (durations in words), and
    #: {size} is the limit in bytes.
    detail: ClassVar[str] = "{}"
    #: The name in `/limits` of the argument `limit`; arguments fill its placeholders too.
    limit_name: ClassVar[str] = ""
    #: Time until a retry, if one may help.
    pause: timedelta | None = None
    #: The exceeded limits, by their names in `/limits`.
    limits: Mapping[str, int] = MappingProxyType({})

    def __init__(
        self, *values: object, limit: int = 0, pause: timedelta | None = None, **named: object
    ) -> None:
        if self.limit_name:
            self.limits = {self.limit_name.format(**named): limit}
        if pause is not None:
            self.pause = named["pause"] = pause
        for name, value in named.items():
            if isinstance(value, timedelta):
                named[name] = format_duration(value)
        super().__init__(self.detail.format(*values, limit=limit, size=in_bytes(limit), **named))


def _kind(
    base: type[Kind],
    slug: str,
    status: int,
    title: str,
    detail: str = "{}",
    *,
    pause: timedelta | None = None,
    limit_name: str = "",
) -> type[Kind]:
    """Declare a kind of error that needs no code; its fields are those of `GDSRError`."""
    fields = {
        "slug": slug, "status": status, "title": title, "detail": detail, "pause": pause,
        "limit_name": limit_name,
    }  # fmt: skip
    return type(slug.title().replace("-", ""), (base,), fields)


class ImageRejected(GDSRError):
    """The upload cannot become a job; a retry will not help."""


class ImageMissing(ImageRejected):
    """The request contains no picture, or an empty one."""

    slug, status, title = "image-missing", 422, "There is no picture in the request"

    def __init__(
        self,
        said: str = "the request contains no picture; send it as the body or as the multipart "
        "field `image`: curl -F image=@photo.jpg",
    ) -> None:
        super().__init__(said)


UploadTooLarge = _kind(
    ImageRejected, "upload-too-large", 413, "The upload is too large",
    "the upload is larger than the limit of {size}",
    limit_name="max_upload_bytes",
)  # fmt: skip
DigestMismatch = _kind(
    ImageRejected, "digest-mismatch", 400, "The digest does not match the body",
    "the body does not match {header}; the received body has {found}; send it again",
)  # fmt: skip
ImageTooLarge = _kind(
    ImageRejected, "image-too-large", 413, "The picture has too many pixels",
    "the picture has {width:,} x {height:,} = {pixels:,} pixels; the limit is {limit:,}",
    limit_name="max_pixels",
)  # fmt: skip
ResultTooLarge = _kind(
    ImageRejected, "result-too-large", 422, "The result would be too large",
    "the result would be {width:,} x {height:,}; the limit of {format_name} is {limit:,} {of}; "
    "choose another format",
    limit_name="{name}",
)  # fmt: skip
ImageUnsupported = _kind(
    ImageRejected, "image-unsupported", 415, "The format is not supported",
    "the file is {found}; supported are {supported}",
)  # fmt: skip
ImageCorrupt = _kind(
    ImageRejected, "image-corrupt", 422, "The picture is damaged",
    "the picture cannot be decoded: {}",
)  # fmt: skip


#: Message of ImageCorrupt for a truncated picture that `truncated=fill` can repair.
CUT_OFF = "it ends too early; with truncated=fill, the part that is there is enlarged"


ImageAnimated = _kind(
    ImageRejected, "animated-image", 422, "The picture is animated",
    "the picture has {frames} frames or pages; choose one with `frame`, counted from 0, or take a "
    "single picture",
)  # fmt: skip
FrameMissing = _kind(
    ImageRejected, "frame-missing", 422, "The picture has no such frame or page",
    "the picture has no frame {frame:,}: it has {frames:,}, counted from 0",
)  # fmt: skip
ColourTooDeep = _kind(
    ImageRejected, "colour-too-deep", 422, "The picture has too many bits per sample",
    "the picture has {bits} bits a channel; at most {limit} are read: convert it first",
)  # fmt: skip
AlphaNotStorable = _kind(
    ImageRejected, "alpha-not-storable", 422, "The result format cannot hold transparency",
    "the picture has transparency, which JPEG cannot hold; choose another format, or give a "
    "`background`",
)  # fmt: skip
DepthNotStorable = _kind(
    ImageRejected, "depth-not-storable", 422, "The result format cannot hold 16 bits",
    "{format_name} does not support {bits} bits per sample; choose png or tiff, or depth 8",
)  # fmt: skip
LosslessNotStorable = _kind(
    ImageRejected, "lossless-not-storable", 422, "The result format is lossy",
    "{format_name} cannot be lossless; choose png, webp or tiff",
)  # fmt: skip
FormatNotWritten = _kind(
    ImageRejected, "format-not-written", 422, "The result format is not available",
    "{format_name} is not available: its library is not installed; `/limits` lists the "
    "available formats",
)  # fmt: skip
ProfileNotStorable = _kind(
    ImageRejected, "profile-not-storable", 422, "The result format cannot hold a colour profile",
    "{format_name} is written in sRGB only; choose another format, or `icc` srgb",
)  # fmt: skip
ScaleTooLarge = _kind(
    ImageRejected, "scale-too-large", 422, "The enlargement is too large",
    "the picture has {width:,} x {height:,} pixels and would be enlarged {factor:,.2f} times; the "
    "limit is {limit} times: ask for at most {max_width:,} x {max_height:,}",
)  # fmt: skip
WebhooksOff = _kind(
    GDSRError, "webhooks-off", 422, "Webhooks are off",
    "webhooks are off (GDSR_WEBHOOK_HOSTS is not set); leave `webhook` out, and follow "
    "`/jobs/{{id}}/events` or poll `/jobs/{{id}}`",
)  # fmt: skip
WebhookNotAllowed = _kind(
    GDSRError, "webhook-not-allowed", 422, "The webhook is not allowed",
    "the webhook is not allowed: {}",
)  # fmt: skip
ListingNeedsKeys = _kind(
    GDSRError, "listing-needs-keys", 403, "Listing jobs needs API keys",
    "jobs can be listed with API keys (GDSR_API_KEYS_FILE), or by local programs if the "
    "service listens on loopback; keep the ids of your jobs instead",
)  # fmt: skip
#: A service restricted to local requests was addressed by another host name.
HostNotServed = _kind(
    GDSRError, "host-not-served", 421, "The host name is not served",
    "without API keys this service accepts only local host names, not {!r:.80}; GDSR_HOSTS adds "
    "others",
)  # fmt: skip
OriginNotServed = _kind(
    GDSRError, "origin-not-served", 403, "The origin is not allowed",
    "the origin {:.80} is not allowed; GDSR_CORS_ORIGINS adds origins",
)  # fmt: skip
KeyMissing = _kind(
    GDSRError, "key-missing", 401, "An API key is needed",
    "send your API key: `Authorization: Bearer KEY`, or `X-API-Key: KEY`",
)  # fmt: skip
KeyInvalid = _kind(
    GDSRError, "key-invalid", 401, "The API key is unknown",
    "unknown API key",
)  # fmt: skip
AdminOff = _kind(
    GDSRError, "admin-off", 403, "Admin endpoints are off",
    "this needs an admin key, and none is configured: set GDSR_ADMIN_KEYS_FILE",
)  # fmt: skip
RateExceeded = _kind(
    GDSRError, "rate-exceeded", 429, "Rate limit exceeded",
    "the limit is {rate}; try again in {pause}",
)  # fmt: skip
PixelsExceeded = _kind(
    GDSRError, "pixels-exceeded", 429, "Pixel quota exceeded",
    "with this picture the API key would exceed its quota of {limit:,} pixels a day; the next day "
    "begins in {pause} (midnight UTC)",
    limit_name="pixels_per_day",
)  # fmt: skip
ModelUnknown = _kind(
    GDSRError, "model-unknown", 422, "There is no such model",
    "there is no model {name!r}; available: {known}",
)  # fmt: skip
JobNotFound = _kind(
    GDSRError, "job-not-found", 404, "There is no such job",
    "there is no job {!r}",
)  # fmt: skip
#: For example during an upgrade.
JobTooNew = _kind(
    GDSRError, "job-too-new", 503, "The job is from a newer release",
    "job {!r} belongs to a newer release; try again after the upgrade",
    pause=timedelta(seconds=5),
)  # fmt: skip
JobNotFinished = _kind(
    GDSRError, "job-not-finished", 409, "The job has not finished",
    "job {} is {state}; try again later",
    pause=timedelta(seconds=1),
)  # fmt: skip
JobCancelled = _kind(
    GDSRError, "job-cancelled", 410, "The job was cancelled",
    "job {} was cancelled and has no result",
)  # fmt: skip
JobExpired = _kind(
    GDSRError, "job-expired", 410, "The result has expired",
    "the result of job {} has expired; send the picture again",
)  # fmt: skip
BranchesNotKept = _kind(
    GDSRError, "branches-not-kept", 404, "The job did not keep its branches",
    "job {} kept no branches, which are needed for other slider positions, and for other "
    "formats and regions of a result that is not PNG; send the picture again with "
    "keep_branches=true",
)  # fmt: skip
MapInvalid = _kind(
    ImageRejected, "map-invalid", 422, "The map cannot be used",
    "the map {}; send an 8-bit grey PNG without transparency, in the proportions of the result "
    "and no larger than it",
)  # fmt: skip
MapTooLarge = _kind(
    ImageRejected, "map-too-large", 413, "The map is too large",
    "the map exceeds the limit of {limit:,} {of}; send a smaller one, which is interpolated",
    limit_name="max_map_{of}",
)  # fmt: skip
ArchiveInvalid = _kind(
    GDSRError, "archive-invalid", 422, "The zip cannot be read",
    "{}; send a zip that is stored or deflated and has no password, or the pictures as "
    "several multipart fields `image`",
)  # fmt: skip
BatchEmpty = _kind(
    GDSRError, "batch-empty", 422, "The batch is empty",
    "the batch has no files; send a zip as the body or as the multipart field `archive`, or "
    "the pictures as several multipart fields `image`",
)  # fmt: skip


class BatchTooLarge(GDSRError):
    """The batch exceeds a limit by itself: sent again as it is, it would be refused again."""

    slug, status, title = "batch-too-large", 413, "The batch is too large"

    def __init__(
        self,
        *,
        limit: int,
        of: Literal["pictures", "bytes", "pixels"],
        per: str = "",
        name: str = "",
    ) -> None:
        """`per`: the period or place of the limit, and `name` its name in `/limits`."""
        most = in_bytes(limit) if of == "bytes" else f"{limit:,} {of}"
        super().__init__(f"the batch exceeds the limit of {most}{per and f' {per}'}; send several")
        self.limits = {name or f"max_batch_{of}": limit}


EntryDamaged = _kind(
    GDSRError, "entry-damaged", 422, "The file in the zip is damaged",
    "the file cannot be unpacked: {}",
)  # fmt: skip
BatchNotFound = _kind(
    GDSRError, "batch-not-found", 404, "There is no such batch",
    "there is no batch {!r}",
)  # fmt: skip
BatchNotFinished = _kind(
    GDSRError, "batch-not-finished", 409, "The batch has not finished",
    "batch {} has unfinished jobs; try again later",
    pause=timedelta(seconds=1),
)  # fmt: skip
BatchExpired = _kind(
    GDSRError, "batch-expired", 410, "The results have expired",
    "the results of batch {} have expired; send the pictures again",
)  # fmt: skip
IdempotencyKeyReused = _kind(
    GDSRError, "idempotency-key-reused", 422, "The idempotency key was used for another request",
    "this Idempotency-Key was used with another picture or other options; use a new one",
)  # fmt: skip


class QueueFull(GDSRError):
    """The queue limit is reached, in jobs or in pixels."""

    slug, status, title = "queue-full", 503, "The queue is full"
    detail = "the queue would exceed its limit of {limit:,} {of}; try again in {pause}"
    limit_name = "max_queued_{of}"


class QueueUnavailable(GDSRError):
    """Redis does not answer, or refuses to write."""

    slug, status, title = "queue-unavailable", 503, "The queue is unavailable"
    pause = timedelta(seconds=5)

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(f"the job queue is unavailable ({reason}); try again later")
        #: True if certainly nothing was written; otherwise the command may have been executed.
        self.refused = refused


NoWorker = _kind(
    GDSRError, "no-worker", 503, "No worker is available",
    "no worker is available; try again later",
    pause=timedelta(seconds=5),
)  # fmt: skip
StorageFull = _kind(
    GDSRError, "storage-full", 507, "The picture store is full",
    "the picture store is full; try again later",
    pause=timedelta(seconds=60),
)  # fmt: skip
StorageUnavailable = _kind(
    GDSRError, "storage-unavailable", 503, "The picture store is unavailable",
    "the picture store is unavailable ({}); try again later",
    pause=timedelta(seconds=5),
)  # fmt: skip
BlobMissing = _kind(
    GDSRError, "blob-missing", 410, "The stored picture is missing",
    "the stored picture {} is missing",
)  # fmt: skip


class JobFailed(GDSRError):
    """Base class: a job failed for a reason other than the picture."""


EngineLost = _kind(
    JobFailed, "engine-lost", 500, "The engine was lost",
    "the engine was lost: {}",
)  # fmt: skip
#: The job starts again.
CheckpointReplaced = _kind(
    EngineLost, "checkpoint-replaced", 500, "The checkpoint was replaced during the job",
    "the engine was lost: the checkpoint was replaced during the job, more than once",
)  # fmt: skip


class EngineOutOfMemory(JobFailed):
    """Even the smallest tile exceeds the device's memory."""

    slug, status, title = "engine-out-of-memory", 500, "The engine is out of memory"

    def __init__(self, *, tile: int) -> None:
        super().__init__(f"the device has not enough memory for one tile of {tile} x {tile} pixels")
        self.tile = tile


class ModelNotLoaded(JobFailed):
    """The model was evicted from the device and could not be loaded again."""

    slug, status, title = "model-not-loaded", 500, "The model could not be loaded"

    def __init__(self, *, name: str, reason: str) -> None:
        super().__init__(f"the model {name} could not be loaded again: {reason}")
        self.reason = reason


TileNotFinite = _kind(
    JobFailed, "tile-not-finite", 500, "The network's output is not finite",
    "the network's output is not finite, in float32 either",
)  # fmt: skip
WorkerLost = _kind(
    JobFailed, "worker-lost", 500, "The worker was lost",
    "the worker was lost while it ran this job, and so was the worker of the retry",
)  # fmt: skip
#: The picture is the likely cause.
JobCrashed = _kind(
    JobFailed, "job-crashed", 500, "The job crashed",
    "the process that ran this job crashed twice",
)  # fmt: skip
JobTimedOut = _kind(
    JobFailed, "job-timed-out", 500, "The job timed out",
    "the job exceeded its time limit of {time_limit}",
)  # fmt: skip
JobOutOfMemory = _kind(
    JobFailed, "job-out-of-memory", 500, "The job ran out of memory",
    "the job exceeded its memory limit of {size}",
)  # fmt: skip


class ConfigurationInvalid(GDSRError):
    """A setting is unknown or invalid, so the program does not start."""

    slug, status, title = "configuration-invalid", 500, "The settings are invalid"
