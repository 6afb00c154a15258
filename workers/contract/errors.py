"""All errors of the service and the workers, without HTTP imports.

Each error has a stable `slug`, which is stored in the failure record of a job and ends the `type`
of the problem document (`service.http.problems`), and the status and title of that document.
Messages name the cause, the value, the limit, and what to do.
"""

import math
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import ClassVar, Literal


def in_bytes(count: int) -> str:
    """A number of bytes for people."""
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:,.4g} {unit} ({count:,} bytes)"
    return f"{count:,} bytes"


def in_time(pause: timedelta) -> str:
    """A time for people: 90 s, 3 min, 2 h."""
    seconds = math.ceil(pause.total_seconds())
    if seconds <= 120:
        return f"{seconds} s"
    return f"{math.ceil(seconds / 60)} min" if seconds <= 7200 else f"{math.ceil(seconds / 3600)} h"


class GDSRError(Exception):
    """Base class of all errors that this project raises."""

    slug: ClassVar[str] = "internal"
    #: HTTP status of a request that fails with this error (RFC 9110).
    status: ClassVar[int] = 500
    #: The kind of error in words.
    title: ClassVar[str] = "Internal error"
    #: The message; the arguments of the error fill its placeholders.
    detail: ClassVar[str] = "{}"
    #: When to retry, if that may help.
    pause: timedelta | None = None
    #: The exceeded limits, by their names in `/limits`.
    limits: Mapping[str, int] = MappingProxyType({})

    def __init__(self, *values: object, **named: object) -> None:
        super().__init__(self.detail.format(*values, **named))


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


class UploadTooLarge(ImageRejected):
    """The body is larger than the limit."""

    slug, status, title = "upload-too-large", 413, "The upload is too large"

    def __init__(self, *, limit: int) -> None:
        super().__init__(f"the upload is larger than the limit of {in_bytes(limit)}")
        self.limits = {"max_upload_bytes": limit}


class DigestMismatch(ImageRejected):
    """The body does not match its digest: it was changed in transit."""

    slug, status, title = "digest-mismatch", 400, "The digest does not match the body"
    detail = "the body does not match {header}; the received body has {found}; send it again"


class ImageTooLarge(ImageRejected):
    """The picture has more pixels than the limit."""

    slug, status, title = "image-too-large", 413, "The picture has too many pixels"

    def __init__(self, *, width: int, height: int, limit: int) -> None:
        super().__init__(
            f"the picture has {width:,} x {height:,} = {width * height:,} pixels; "
            f"the limit is {limit:,}"
        )
        self.limits = {"max_pixels": limit}


class ResultTooLarge(ImageRejected):
    """The result would exceed a limit of the requested format."""

    slug, status, title = "result-too-large", 422, "The result would be too large"

    def __init__(
        self, *, width: int, height: int, format_name: str, side: int = 0, pixels: int = 0
    ) -> None:
        end = f"{side:,} pixels a side" if side else f"{pixels:,} pixels"
        super().__init__(
            f"the result would be {width:,} x {height:,}; the limit of {format_name} is {end}; "
            "choose another format"
        )
        self.limits = {"max_side": side} if side else {"max_result_pixels": pixels}


class ImageUnsupported(ImageRejected):
    """The bytes are not a picture in a supported format."""

    slug, status, title = "image-unsupported", 415, "The format is not supported"
    detail = "the file is {found}; supported are {supported}"


class ImageCorrupt(ImageRejected):
    """The file looks like a picture but cannot be decoded."""

    slug, status, title = "image-corrupt", 422, "The picture is damaged"
    detail = "the picture cannot be decoded: {}"


#: Of the formats that can be filled.
CUT_OFF = "it ends too early; with truncated=fill, the part that is there is enlarged"


class ImageAnimated(ImageRejected):
    """The file has several frames or pages, and none was chosen."""

    slug, status, title = "animated-image", 422, "The picture is animated"

    def __init__(self, *, frames: int | None) -> None:
        last = "on" if frames is None else f"to {frames - 1:,}"
        super().__init__(
            f"the picture has {'several' if frames is None else format(frames, ',')} frames or "
            f"pages; choose one by its number, with `frame` from 0 {last}, or take a single picture"
        )


class FrameMissing(ImageRejected):
    """The chosen frame or page does not exist."""

    slug, status, title = "frame-missing", 422, "The picture has no such frame or page"

    def __init__(self, *, frame: int, frames: int) -> None:
        have = (
            f"{frames:,} frames or pages, from 0 to {frames - 1:,}"
            if frames > 1
            else "one frame, 0"
        )
        super().__init__(f"the picture has no frame {frame:,}: it has {have}")


class ColourTooDeep(ImageRejected):
    """More bits per colour channel than are read."""

    slug, status, title = "colour-too-deep", 422, "The picture has too many bits per sample"
    detail = "the picture has {bits} bits a channel; at most {limit} are read: convert it first"


class AlphaNotStorable(ImageRejected):
    """The picture has transparency, which the requested format does not support."""

    slug, status, title = "alpha-not-storable", 422, "The result format cannot hold transparency"
    detail = (
        "the picture has transparency, which JPEG cannot hold; choose another format, or give a "
        "`background`"
    )


class DepthNotStorable(ImageRejected):
    """The requested format does not support the requested bit depth."""

    slug, status, title = "depth-not-storable", 422, "The result format cannot hold 16 bits"
    detail = "{format_name} does not support {bits} bits per sample; choose png or tiff, or depth 8"


class LosslessNotStorable(ImageRejected):
    """A lossless result was requested in a lossy format."""

    slug, status, title = "lossless-not-storable", 422, "The result format is lossy"
    detail = "{format_name} cannot be lossless; choose png, webp or tiff"


class FormatNotWritten(ImageRejected):
    """The workers do not have the library of the requested format."""

    slug, status, title = "format-not-written", 422, "The result format is not available"
    detail = (
        "{format_name} is not available: its library is not installed; `/limits` lists the "
        "available formats"
    )


class ProfileNotStorable(ImageRejected):
    """The colour profile was to be kept, in a format that does not support it."""

    slug, status = "profile-not-storable", 422
    title = "The result format cannot hold a colour profile"
    detail = "{format_name} is written in sRGB only; choose another format, or `icc` srgb"


class ScaleTooLarge(ImageRejected):
    """The requested width and height exceed the maximum enlargement."""

    slug, status, title = "scale-too-large", 422, "The enlargement is too large"

    def __init__(self, *, width: int, height: int, factor: float, limit: int) -> None:
        super().__init__(
            f"the picture has {width:,} x {height:,} pixels and would be enlarged {factor:,.2f} "
            f"times; the limit is {limit} times: ask for at most {limit * width:,} x "
            f"{limit * height:,}"
        )


class WebhooksOff(GDSRError):
    """A webhook was requested, but webhooks are not configured."""

    slug, status, title = "webhooks-off", 422, "Webhooks are off"
    detail = (
        "webhooks are off (GDSR_WEBHOOK_HOSTS is not set); leave `webhook` out, and follow "
        "`/jobs/{{id}}/events` or poll `/jobs/{{id}}`"
    )


class WebhookNotAllowed(GDSRError):
    """The webhook's address is not allowed."""

    slug, status, title = "webhook-not-allowed", 422, "The webhook is not allowed"
    detail = "the webhook is not allowed: {}"


class ListingNeedsKeys(GDSRError):
    """Jobs cannot be listed: without API keys they have no owners."""

    slug, status, title = "listing-needs-keys", 403, "Listing jobs needs API keys"
    detail = (
        "jobs can be listed with API keys (GDSR_API_KEYS_FILE), or by local programs if the "
        "service listens on loopback; keep the ids of your jobs instead"
    )


class HostNotServed(GDSRError):
    """A service restricted to local requests was addressed by another host name."""

    slug, status, title = "host-not-served", 421, "The host name is not served"

    def __init__(self, host: str) -> None:
        super().__init__(
            "without API keys this service accepts only local host names, not "
            f"{host[:80]!r}; GDSR_HOSTS adds others"
        )


class OriginNotServed(GDSRError):
    """A page of another origin sent a request that changes something."""

    slug, status, title = "origin-not-served", 403, "The origin is not allowed"
    detail = "the origin {:.80} is not allowed; GDSR_CORS_ORIGINS adds origins"


class KeyMissing(GDSRError):
    """The service requires an API key, and the request has none."""

    slug, status, title = "key-missing", 401, "An API key is needed"
    detail = "send your API key: `Authorization: Bearer KEY`, or `X-API-Key: KEY`"


class KeyInvalid(GDSRError):
    """The API key is unknown."""

    slug, status, title = "key-invalid", 401, "The API key is unknown"
    detail = "unknown API key"


class AdminOff(GDSRError):
    """Admin endpoints are off because no admin keys are configured."""

    slug, status, title = "admin-off", 403, "Admin endpoints are off"
    detail = "this needs an admin key, and none is configured: set GDSR_ADMIN_KEYS_FILE"


class RateExceeded(GDSRError):
    """The rate limit of the API key is exceeded."""

    slug, status, title = "rate-exceeded", 429, "Rate limit exceeded"

    def __init__(self, *, rate: str, pause: timedelta) -> None:
        super().__init__(f"the limit is {rate}; try again in {in_time(pause)}")
        self.pause = pause


class PixelsExceeded(GDSRError):
    """The daily pixel quota of the API key is exceeded."""

    slug, status, title = "pixels-exceeded", 429, "Pixel quota exceeded"

    def __init__(self, *, limit: int, pause: timedelta) -> None:
        super().__init__(
            f"with this picture the API key would exceed its quota of {limit:,} pixels a "
            f"day; the next day begins in {in_time(pause)} (midnight UTC)"
        )
        self.limits, self.pause = {"pixels_per_day": limit}, pause


class ModelUnknown(GDSRError):
    """No running engine has this model."""

    slug, status, title = "model-unknown", 422, "There is no such model"

    def __init__(self, *, name: str, known: list[str]) -> None:
        super().__init__(f"there is no model {name!r}; available: {', '.join(known)}")


class JobNotFound(GDSRError):
    """There is no such job, or its record has expired."""

    slug, status, title = "job-not-found", 404, "There is no such job"
    detail = "there is no job {!r}"


class JobTooNew(GDSRError):
    """The job record was written by a newer release, for example during an upgrade."""

    slug, status, title = "job-too-new", 503, "The job is from a newer release"
    pause = timedelta(seconds=5)
    detail = "job {!r} belongs to a newer release; try again after the upgrade"


class JobNotFinished(GDSRError):
    """The result was requested before the job ended."""

    slug, status, title = "job-not-finished", 409, "The job has not finished"
    pause = timedelta(seconds=1)
    detail = "job {} is {state}; try again later"


class JobCancelled(GDSRError):
    """The result of a cancelled job was requested."""

    slug, status, title = "job-cancelled", 410, "The job was cancelled"
    detail = "job {} was cancelled and has no result"


class JobExpired(GDSRError):
    """The result has expired and was deleted."""

    slug, status, title = "job-expired", 410, "The result has expired"
    detail = "the result of job {} has expired; send the picture again"


class BranchesNotKept(GDSRError):
    """A derived result was requested that needs branches which the job did not keep."""

    slug, status, title = "branches-not-kept", 404, "The job did not keep its branches"
    detail = (
        "job {} kept no branches, which are needed for other slider positions, and for other "
        "formats and regions of a result that is not PNG; send the picture again with "
        "keep_branches=true"
    )


class MapInvalid(ImageRejected):
    """The map of a derived result cannot be used."""

    slug, status, title = "map-invalid", 422, "The map cannot be used"
    detail = (
        "the map {}; send an 8-bit grey PNG without transparency, in the proportions of the result "
        "and no larger than it"
    )


class MapTooLarge(ImageRejected):
    """The map of a derived result exceeds the maximum number of pixels or bytes."""

    slug, status, title = "map-too-large", 413, "The map is too large"

    def __init__(self, *, limit: int, of: Literal["pixels", "bytes"]) -> None:
        super().__init__(
            f"the map exceeds the limit of {limit:,} {of}; send a smaller one, which is "
            "interpolated"
        )
        self.limits = {f"max_map_{of}": limit}


class ArchiveInvalid(GDSRError):
    """The upload of a batch is not a readable zip."""

    slug, status, title = "archive-invalid", 422, "The zip cannot be read"
    detail = (
        "{}; send a zip that is stored or deflated and has no password, or the pictures as "
        "several multipart fields `image`"
    )


class BatchEmpty(GDSRError):
    """The zip contains no file, or the form no picture."""

    slug, status, title = "batch-empty", 422, "The batch is empty"
    detail = (
        "the batch has no files; send a zip as the body or as the multipart field `archive`, or "
        "the pictures as several multipart fields `image`"
    )


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


class EntryDamaged(GDSRError):
    """A file in the zip of a batch cannot be unpacked."""

    slug, status, title = "entry-damaged", 422, "The file in the zip is damaged"
    detail = "the file cannot be unpacked: {}"


class BatchNotFound(GDSRError):
    """There is no such batch, or its record has expired."""

    slug, status, title = "batch-not-found", 404, "There is no such batch"
    detail = "there is no batch {!r}"


class BatchNotFinished(GDSRError):
    """The results of a batch were requested before all jobs had ended."""

    slug, status, title = "batch-not-finished", 409, "The batch has not finished"
    pause = timedelta(seconds=1)
    detail = "batch {} has unfinished jobs; try again later"


class BatchExpired(GDSRError):
    """The results of a batch have expired and were deleted."""

    slug, status, title = "batch-expired", 410, "The results have expired"
    detail = "the results of batch {} have expired; send the pictures again"


class IdempotencyKeyReused(GDSRError):
    """The idempotency key was used before with another picture or other options."""

    slug, status = "idempotency-key-reused", 422
    title = "The idempotency key was used for another request"
    detail = "this Idempotency-Key was used with another picture or other options; use a new one"


class QueueFull(GDSRError):
    """The queue limit is reached, in jobs or in pixels."""

    slug, status, title = "queue-full", 503, "The queue is full"

    def __init__(self, *, limit: int, of: Literal["jobs", "pixels"], pause: timedelta) -> None:
        words = {
            "jobs": f"with this upload the queue would exceed its limit of {limit:,} jobs",
            "pixels": f"with this picture the queue would exceed its limit of {limit:,} pixels",
        }
        super().__init__(f"{words[of]}; try again in {in_time(pause)}")
        self.limits, self.pause = {f"max_queued_{of}": limit}, pause


class QueueUnavailable(GDSRError):
    """Redis does not answer, or refuses to write."""

    slug, status, title = "queue-unavailable", 503, "The queue is unavailable"
    pause = timedelta(seconds=5)

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(f"the job queue is unavailable ({reason}); try again later")
        #: True if certainly nothing was written; otherwise the command may have been executed.
        self.refused = refused


class NoWorker(GDSRError):
    """No engine is running, so no models are available."""

    slug, status, title = "no-worker", 503, "No worker is available"
    pause = timedelta(seconds=5)
    detail = "no worker is available; try again later"


class StorageFull(GDSRError):
    """The blob store is full."""

    slug, status, title = "storage-full", 507, "The picture store is full"
    pause = timedelta(seconds=60)
    detail = "the picture store is full; try again later"


class StorageUnavailable(GDSRError):
    """The blob store does not answer, or denies access."""

    slug, status, title = "storage-unavailable", 503, "The picture store is unavailable"
    pause = timedelta(seconds=5)
    detail = "the picture store is unavailable ({}); try again later"


class BlobMissing(GDSRError):
    """A stored picture is missing."""

    slug, status, title = "blob-missing", 410, "The stored picture is missing"
    detail = "the stored picture {} is missing"


class JobFailed(GDSRError):
    """Base class: a job failed for a reason other than the picture."""


class EngineLost(JobFailed):
    """The engine died and did not come back, or died twice on this picture."""

    slug, status, title = "engine-lost", 500, "The engine was lost"
    detail = "the engine was lost: {}"


class CheckpointReplaced(EngineLost):
    """The engine replaced the checkpoint during the job; the job starts again."""

    slug, status, title = "checkpoint-replaced", 500, "The checkpoint was replaced during the job"
    detail = "the engine was lost: the checkpoint was replaced during the job, more than once"


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


class TileNotFinite(JobFailed):
    """The network's output contains NaN or infinity, in float32 too."""

    slug, status, title = "tile-not-finite", 500, "The network's output is not finite"
    detail = "the network's output is not finite, in float32 either"


class WorkerLost(JobFailed):
    """The worker died, and so did the worker of the retry."""

    slug, status, title = "worker-lost", 500, "The worker was lost"
    detail = "the worker was lost while it ran this job, and so was the worker of the retry"


class JobCrashed(JobFailed):
    """The job's process crashed twice: the picture is the likely cause."""

    slug, status, title = "job-crashed", 500, "The job crashed"
    detail = "the process that ran this job crashed twice"


class JobTimedOut(JobFailed):
    """The job exceeded its time limit."""

    slug, status, title = "job-timed-out", 500, "The job timed out"

    def __init__(self, *, seconds: int) -> None:
        super().__init__(
            f"the job exceeded its time limit of {in_time(timedelta(seconds=seconds))}"
        )


class JobOutOfMemory(JobFailed):
    """The job exceeded its memory limit."""

    slug, status, title = "job-out-of-memory", 500, "The job ran out of memory"

    def __init__(self, *, limit: int) -> None:
        super().__init__(f"the job exceeded its memory limit of {in_bytes(limit)}")


class ConfigurationInvalid(GDSRError):
    """A command cannot start with the given settings."""

    slug, status, title = "configuration-invalid", 500, "The settings are invalid"
