"""What can go wrong, named for what happened. Nothing here knows of HTTP.

Each error carries a stable `slug`: it ends a job's failure record and the `type` of the problem
document that a client sees (`service.problems` holds the one table that adds a status to it).
Messages name what is wrong, the number, the limit, and what to do.
"""

from typing import ClassVar


class GDSRError(Exception):
    """Anything that this project raises on purpose."""

    slug: ClassVar[str] = "internal"


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


class ImageTooLarge(ImageRejected):
    """The picture has more pixels than the limit."""

    slug = "image-too-large"

    def __init__(self, *, width: int, height: int, limit: int) -> None:
        super().__init__(
            f"the picture has {width} x {height} = {width * height:,} pixels; "
            f"the limit is {limit:,}"
        )
        self.limit = limit


class ResultTooLarge(ImageRejected):
    """The result would pass a limit of the chosen format."""

    slug = "result-too-large"

    def __init__(self, *, width: int, height: int, format_name: str, side: int) -> None:
        super().__init__(
            f"the result would be {width} x {height}; "
            f"{format_name} ends at {side:,} pixels a side; choose another format"
        )


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
    """More than one frame or page."""

    slug = "animated-image"

    def __init__(self) -> None:
        super().__init__("the picture has several frames or pages; send a single one")


class ColourTooDeep(ImageRejected):
    """Colour of more than 8 bits a channel, which is not read yet."""

    slug = "colour-too-deep"

    def __init__(self, *, bits: int) -> None:
        super().__init__(
            f"the picture has {bits} bits a colour channel; "
            "colour is read at 8 bits, only grey at 16: convert it to 8 bits first"
        )


class AlphaNotStorable(ImageRejected):
    """The picture is transparent and the chosen format cannot be."""

    slug = "alpha-not-storable"

    def __init__(self) -> None:
        super().__init__("the picture has transparency, which JPEG cannot hold; choose png or webp")


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


class QueueFull(GDSRError):
    """As many jobs wait as may wait."""

    slug = "queue-full"

    def __init__(self, *, limit: int) -> None:
        super().__init__(f"{limit:,} jobs are waiting, which is the limit; try again later")


class QueueUnavailable(GDSRError):
    """Redis does not answer, or refuses to write."""

    slug = "queue-unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the job queue cannot be reached ({reason}); try again later")


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


class EngineOutOfMemory(JobFailed):
    """Even the smallest tile did not fit."""

    slug = "engine-out-of-memory"

    def __init__(self, *, tile: int) -> None:
        super().__init__(f"the device has no memory even for one tile of {tile} x {tile} pixels")


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
