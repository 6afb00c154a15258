"""What can go wrong, named for what happened. Nothing here knows of HTTP.

Each error carries a stable `slug`: it ends a job's failure record and the `type` of the problem
document that a client sees (`service.http.problems` holds the one table that adds a status to it).
Messages name what is wrong, the number, the limit, and what to do.
"""

from datetime import timedelta
from typing import ClassVar, Literal


class GDSRError(Exception):
    """Anything that this project raises on purpose."""

    slug: ClassVar[str] = "internal"

    #: When to try again, where that is known.
    pause: timedelta | None = None

    @property
    def limits(self) -> dict[str, int]:
        """The limits that were passed, under the names that `/limits` gives them."""
        return {}


class ImageRejected(GDSRError):
    """The upload cannot become a job, whoever sends it again."""


class ImageMissing(ImageRejected):
    """The request holds no picture, or an empty one."""

    slug = "image-missing"

    def __init__(self) -> None:
        super().__init__(
            "the request holds no picture; send it as the body or as the multipart field `image`"
        )


class UploadTooLarge(ImageRejected):
    """The body has more bytes than the limit."""

    slug = "upload-too-large"

    def __init__(self, *, limit: int) -> None:
        super().__init__(f"the upload is larger than the limit of {limit:,} bytes")
        self.limit = limit

    @property
    def limits(self) -> dict[str, int]:
        return {"max_upload_bytes": self.limit}


class DigestMismatch(ImageRejected):
    """The body is not the one that its digest promised: it changed on its way."""

    slug = "digest-mismatch"

    def __init__(self, *, header: str, found: str) -> None:
        super().__init__(f"the body does not match {header}; what came has {found}; send it again")


class ImageTooLarge(ImageRejected):
    """The picture has more pixels than the limit."""

    slug = "image-too-large"

    def __init__(self, *, width: int, height: int, limit: int) -> None:
        super().__init__(
            f"the picture has {width} x {height} = {width * height:,} pixels; "
            f"the limit is {limit:,}"
        )
        self.limit = limit

    @property
    def limits(self) -> dict[str, int]:
        return {"max_pixels": self.limit}


class ResultTooLarge(ImageRejected):
    """The result would pass a limit of the chosen format."""

    slug = "result-too-large"

    def __init__(
        self, *, width: int, height: int, format_name: str, side: int = 0, pixels: int = 0
    ) -> None:
        end = f"{side:,} pixels a side" if side else f"{pixels:,} pixels"
        super().__init__(
            f"the result would be {width} x {height}; "
            f"{format_name} ends at {end}; choose another format"
        )
        self.passed = {"max_side": side} if side else {"max_result_pixels": pixels}

    @property
    def limits(self) -> dict[str, int]:
        return self.passed


class ImageUnsupported(ImageRejected):
    """The bytes are not a picture in a format that is read here."""

    slug = "image-unsupported"

    def __init__(self, *, found: str, supported: str) -> None:
        super().__init__(f"the upload is {found}; supported are {supported}")


class ImageCorrupt(ImageRejected):
    """The bytes begin like a picture but cannot be decoded."""

    slug = "image-corrupt"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the picture cannot be decoded: {reason}")


class ImageAnimated(ImageRejected):
    """More than one frame or page, and none of them was chosen."""

    slug = "animated-image"

    def __init__(self, *, frames: int | None) -> None:
        last = "" if frames is None else f" to frame={frames - 1}"
        super().__init__(
            f"the picture has {'several' if frames is None else format(frames, ',')} frames or "
            f"pages; choose one by its number, from frame=0{last}, or send a single one"
        )


class FrameMissing(ImageRejected):
    """A frame or page was chosen that the picture does not have."""

    slug = "frame-missing"

    def __init__(self, *, frame: int, frames: int) -> None:
        have = f"{frames:,} frames or pages" if frames > 1 else "one frame"
        last = f" to frame={frames - 1}" if frames > 1 else ""
        super().__init__(
            f"the picture has no frame={frame}: it has {have}, counted from frame=0{last}"
        )


class ColourTooDeep(ImageRejected):
    """Colour of more than 8 bits a channel, in a format or of a kind that is not read so deep."""

    slug = "colour-too-deep"

    def __init__(self, *, bits: int, kind: str, more_elsewhere: bool) -> None:
        where = "that many are read in PNG and TIFF" if more_elsewhere else f"{kind} is read with 8"
        super().__init__(f"the picture has {bits} bits a channel; {where}: convert it first")


class AlphaNotStorable(ImageRejected):
    """The picture is transparent and the chosen format cannot be."""

    slug = "alpha-not-storable"

    def __init__(self) -> None:
        super().__init__(
            "the picture has transparency, which JPEG cannot hold; "
            "choose another format, or give a `background`"
        )


class DepthNotStorable(ImageRejected):
    """More bits a sample were asked for than the chosen format has."""

    slug = "depth-not-storable"

    def __init__(self, *, bits: int, format_name: str) -> None:
        super().__init__(
            f"{format_name} has no samples of {bits} bits; choose png or tiff, or depth 8"
        )


class LosslessNotStorable(ImageRejected):
    """A result without loss was asked for in a format that always loses something."""

    slug = "lossless-not-storable"

    def __init__(self, *, format_name: str) -> None:
        super().__init__(
            f"{format_name} is not written without loss here; choose png, webp or tiff"
        )


class FormatNotWritten(ImageRejected):
    """A result was asked for in a format whose library the workers do not have."""

    slug = "format-not-written"

    def __init__(self, *, format_name: str) -> None:
        super().__init__(
            f"no {format_name} is written here: its library is not installed; "
            "`/limits` lists the formats that are"
        )


class ProfileNotStorable(ImageRejected):
    """The picture's own colour profile was to be kept, in a format that is written without one."""

    slug = "profile-not-storable"

    def __init__(self, *, format_name: str) -> None:
        super().__init__(
            f"{format_name} is written in sRGB only; choose another format, or icc=srgb"
        )


class ScaleTooLarge(ImageRejected):
    """The width and height that were asked for are out of the network's reach."""

    slug = "scale-too-large"

    def __init__(self, *, width: int, height: int, factor: float, limit: int) -> None:
        super().__init__(
            f"the picture has {width} x {height} pixels and would become {factor:.3g} times "
            f"larger; the limit is {limit} times: "
            f"ask for at most {limit * width} x {limit * height}"
        )
        self.limit = limit


class WebhooksOff(GDSRError):
    """A webhook was asked for, and this service tells nobody."""

    slug = "webhooks-off"

    def __init__(self) -> None:
        super().__init__(
            "no webhook is called here (GDSR_WEBHOOK_HOSTS is not set); leave `webhook` out, and "
            "watch `/jobs/{id}/events` or ask `/jobs/{id}`"
        )


class WebhookNotAllowed(GDSRError):
    """A webhook was asked for at an address that this service may not call."""

    slug = "webhook-not-allowed"

    def __init__(self, reason: str) -> None:
        super().__init__(f"this webhook is not called: {reason}")


class ListingNeedsKeys(GDSRError):
    """Without API keys nobody's jobs can be told from anybody's, and strangers may ask."""

    slug = "listing-needs-keys"

    def __init__(self) -> None:
        super().__init__(
            "jobs are listed where there are API keys (GDSR_API_KEYS_FILE), or to programs on the "
            "machine of a service that is on loopback; keep the ids of your jobs instead"
        )


class HostNotServed(GDSRError):
    """A service for its own machine alone was asked under another name."""

    slug = "host-not-served"

    def __init__(self, host: str) -> None:
        super().__init__(
            f"without API keys this service answers to local names, and not to {host[:80]!r}; "
            "GDSR_HOSTS adds others"
        )


class OriginNotServed(GDSRError):
    """A page of another origin would change something."""

    slug = "origin-not-served"

    def __init__(self, origin: str) -> None:
        super().__init__(
            f"a page of another origin ({origin[:80]}) may not do this; GDSR_CORS_ORIGINS adds some"
        )


class KeyMissing(GDSRError):
    """The service takes API keys, and the request has none."""

    slug = "key-missing"

    def __init__(self) -> None:
        super().__init__("send your API key: `Authorization: Bearer KEY`, or `X-API-Key: KEY`")


class KeyInvalid(GDSRError):
    """The API key is not one that the service knows."""

    slug = "key-invalid"

    def __init__(self) -> None:
        super().__init__("this API key is not known here")


class AdminOff(GDSRError):
    """There are no admin keys, so that nobody may do what needs one."""

    slug = "admin-off"

    def __init__(self) -> None:
        super().__init__(
            "this needs an admin key, and the service knows none: set GDSR_ADMIN_KEYS_FILE"
        )


class RateExceeded(GDSRError):
    """The API key has sent as many pictures as it may for now."""

    slug = "rate-exceeded"

    def __init__(self, *, rate: str, pause: timedelta) -> None:
        super().__init__(
            f"the limit is {rate}; the next picture is taken in {pause.total_seconds():.0f} s"
        )
        self.pause = pause


class PixelsExceeded(GDSRError):
    """The API key has sent as many pixels as it may in a day, counted from midnight (UTC)."""

    slug = "pixels-exceeded"

    def __init__(self, *, limit: int, pause: timedelta) -> None:
        super().__init__(
            f"with this picture it would be more than {limit:,} pixels today, the limit of a key; "
            f"the next day begins in {pause.total_seconds():.0f} s (midnight UTC)"
        )
        self.limit, self.pause = limit, pause

    @property
    def limits(self) -> dict[str, int]:
        return {"pixels_per_day": self.limit}


class ModelUnknown(GDSRError):
    """No running engine has that checkpoint."""

    slug = "model-unknown"

    def __init__(self, *, name: str, known: list[str]) -> None:
        super().__init__(f"no model is called {name!r}; there are: {', '.join(known)}")


class JobNotFound(GDSRError):
    """There is no such job, or its record has expired."""

    slug = "job-not-found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job {job_id!r}")


class JobTooNew(GDSRError):
    """The job's record is of a newer release than this process, as in the middle of an upgrade."""

    slug = "job-too-new"

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"job {job_id!r} belongs to a newer release; ask again when this one is up"
        )


class JobNotFinished(GDSRError):
    """The result was asked for before it was there."""

    slug = "job-not-finished"

    def __init__(self, job_id: str, *, state: str) -> None:
        super().__init__(f"job {job_id} is {state}; ask again")


class JobCancelled(GDSRError):
    """The result of a cancelled job was asked for."""

    slug = "job-cancelled"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id} was cancelled and has no result")


class JobExpired(GDSRError):
    """The result was kept for its time and is gone."""

    slug = "job-expired"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"the result of job {job_id} has expired; send the picture again")


class BranchesNotKept(GDSRError):
    """Something was asked for that only what the job did not keep could give."""

    slug = "branches-not-kept"

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"job {job_id} kept no branches, of which other positions of the slider are made, and "
            "other formats and parts of a result that is no PNG; send the picture again with "
            "keep_branches=true"
        )


class ArchiveInvalid(GDSRError):
    """The upload of a batch is not a zip that can be read."""

    slug = "archive-invalid"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}; send a zip that is stored or deflated and has no password, or the pictures "
            "as several multipart fields `image`"
        )


class BatchEmpty(GDSRError):
    """There is no file in the zip, or no picture in the form."""

    slug = "batch-empty"

    def __init__(self) -> None:
        super().__init__(
            "the batch has no files; send a zip as the body or as the multipart field `archive`, "
            "or the pictures as several multipart fields `image`"
        )


class BatchTooLarge(GDSRError):
    """The batch has more pictures, or more bytes when unpacked, than the limit."""

    slug = "batch-too-large"

    def __init__(self, *, limit: int, of: Literal["pictures", "bytes"]) -> None:
        super().__init__(f"the batch has more than {limit:,} {of}, the limit; send several")
        self.limit, self.of = limit, of

    @property
    def limits(self) -> dict[str, int]:
        return {f"max_batch_{self.of}": self.limit}


class EntryDamaged(GDSRError):
    """A file in the zip of a batch cannot be unpacked."""

    slug = "entry-damaged"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the file cannot be unpacked: {reason}")


class BatchNotFound(GDSRError):
    """There is no such batch, or its record has expired."""

    slug = "batch-not-found"

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"there is no batch {batch_id!r}")


class BatchNotFinished(GDSRError):
    """The results of a batch were asked for before all were there."""

    slug = "batch-not-finished"

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"not all pictures of batch {batch_id} are through; ask again")


class BatchExpired(GDSRError):
    """The results of a batch were kept for their time and are gone."""

    slug = "batch-expired"

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"the results of batch {batch_id} have expired; send the pictures again")


class IdempotencyKeyReused(GDSRError):
    """An idempotency key came again, with another picture or other options."""

    slug = "idempotency-key-reused"

    def __init__(self) -> None:
        super().__init__(
            "this Idempotency-Key was used with another picture or other options; take a new one"
        )


class QueueFull(GDSRError):
    """As many jobs, or as many pixels, wait as may wait."""

    slug = "queue-full"

    def __init__(self, *, limit: int, of: Literal["jobs", "pixels"], pause: timedelta) -> None:
        words = {
            "jobs": f"with this upload more than {limit:,} jobs would wait, the limit",
            "pixels": f"with this picture more than {limit:,} pixels would wait, the limit",
        }
        super().__init__(f"{words[of]}; try again in {pause.total_seconds():.0f} s")
        self.limit, self.of, self.pause = limit, of, pause

    @property
    def limits(self) -> dict[str, int]:
        return {f"max_queued_{self.of}": self.limit}


class QueueUnavailable(GDSRError):
    """Redis does not answer, or refuses to write."""

    slug = "queue-unavailable"

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(f"the job queue cannot be reached ({reason}); try again later")
        #: Whether nothing was written for sure; else what was asked for may have happened.
        self.refused = refused


class NoWorker(GDSRError):
    """No engine is alive to say which models there are."""

    slug = "no-worker"

    def __init__(self) -> None:
        super().__init__("no worker is ready; try again later")


class StorageFull(GDSRError):
    """The blob store has no room."""

    slug = "storage-full"

    def __init__(self) -> None:
        super().__init__("the picture store is full; try again later")


class StorageUnavailable(GDSRError):
    """The blob store does not answer, or does not let us in."""

    slug = "storage-unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the picture store cannot be used ({reason}); try again later")


class BlobMissing(GDSRError):
    """A stored picture is not there."""

    slug = "blob-missing"

    def __init__(self, key: str) -> None:
        super().__init__(f"the stored picture {key} is gone")


class JobFailed(GDSRError):
    """A job ended without a result for a reason that is not the picture."""


class EngineLost(JobFailed):
    """The engine went away and did not come back, or died twice on this picture."""

    slug = "engine-lost"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the engine was lost: {reason}")


class CheckpointReplaced(EngineLost):
    """In the middle of a picture the engine changed the checkpoint, and the picture begins anew."""

    slug = "checkpoint-replaced"

    def __init__(self) -> None:
        super().__init__("its checkpoint was replaced in the middle of the picture, more than once")


class EngineOutOfMemory(JobFailed):
    """Even the smallest tile did not fit."""

    slug = "engine-out-of-memory"

    def __init__(self, *, tile: int) -> None:
        super().__init__(f"the device has no memory even for one tile of {tile} x {tile} pixels")
        self.tile = tile


class ModelNotLoaded(JobFailed):
    """The model had made way for others, and could not be loaded again."""

    slug = "model-not-loaded"

    def __init__(self, *, name: str, reason: str) -> None:
        super().__init__(f"the model {name} could not be loaded again: {reason}")
        self.name, self.reason = name, reason


class TileNotFinite(JobFailed):
    """The network gave NaN or infinity, in single precision too."""

    slug = "tile-not-finite"

    def __init__(self) -> None:
        super().__init__("the network's output is not finite, in single precision either")


class WorkerLost(JobFailed):
    """The worker died, and so did the one that tried again."""

    slug = "worker-lost"

    def __init__(self) -> None:
        super().__init__("the worker was lost while it ran this job, and so was the next one")


class JobCrashed(JobFailed):
    """The job's own process died twice: the picture is the likely cause."""

    slug = "job-crashed"

    def __init__(self) -> None:
        super().__init__("the process that ran this job crashed twice")


class JobTimedOut(JobFailed):
    """The job ran longer than its size allows."""

    slug = "job-timed-out"

    def __init__(self, *, seconds: int) -> None:
        super().__init__(f"the job ran longer than its limit of {seconds} seconds")


class JobOutOfMemory(JobFailed):
    """The job's process reached its memory limit."""

    slug = "job-out-of-memory"

    def __init__(self, *, limit: int) -> None:
        super().__init__(f"the job needed more than its limit of {limit:,} bytes of memory")


class ConfigurationInvalid(GDSRError):
    """A command cannot start with the settings that it was given."""

    slug = "configuration-invalid"
