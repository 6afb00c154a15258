"""Job records: the upload, the options and the result.

Records are kept by `records` in a Redis hash of our own; RQ's job status is not used.
"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Annotated, NamedTuple, Self

from pydantic import BeforeValidator, Field
from pydantic.json_schema import WithJsonSchema

from workers.contract.blobs.base import StoredBlob
from workers.contract.errors import GDSRError
from workers.contract.images.formats import ImageFormat, ResultFormat
from workers.contract.images.options import PictureChoices
from workers.contract.observability import logs
from workers.contract.queue.webhook_outbox import WebhookState
from workers.contract.record import Record

TradeOff = Annotated[float, Field(ge=0, le=1)]
#: Named slider positions.
STOPS = {"psnr": 0.0, "fused": 0.5, "gan": 1.0}
#: Outputs of the network, in the order of the slider.
OUTPUTS = tuple(STOPS)
#: Branches that a job can keep: the outputs and the mask of `fused`.
KEPT = (*OUTPUTS, "mask")


TradeOffChoice = Annotated[
    float,
    BeforeValidator(lambda value: STOPS.get(value, value)),
    Field(ge=0, le=1),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 1},
                {"type": "string", "enum": list(STOPS)},
            ],
            "examples": [0.35, "gan"],
        }
    ),
]
_FORMAT_NAMES = {"jpg": "jpeg", "tif": "tiff"}


def _format_name(value: object) -> object:
    """Normalise a format name as people write it, such as `JPG`."""
    return _FORMAT_NAMES.get(value.lower(), value.lower()) if isinstance(value, str) else value


FormatChoice = Annotated[
    ResultFormat,
    BeforeValidator(_format_name),
    WithJsonSchema({"type": "string", "enum": [str(name) for name in ResultFormat]}),
]
SAME = "same"
RequestedFormat = Annotated[
    ResultFormat | None,
    BeforeValidator(lambda value: None if value == SAME else value),
    BeforeValidator(_format_name),
    WithJsonSchema(
        {"type": "string", "enum": [*map(str, ResultFormat), SAME], "examples": ["webp"]}
    ),
]


class JobState(StrEnum):
    """State of a job. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class ImageInfo(StoredBlob):
    """A stored upload, as described by its header."""

    format: ImageFormat
    width: int
    height: int
    bits: int = 8
    """Bits per sample."""
    has_alpha: bool = False
    """True if it may have transparency."""


class UpscaleChoices(PictureChoices):
    """The options that a request chooses, with defaults."""

    trade_off: TradeOffChoice = 0.5
    """From 0 (faithful, `psnr`) through 0.5 (`fused`) to 1 (crisp, `gan`)."""

    model: str = Field(default="", max_length=200)
    """Name of a model; empty: the default model. `GET /models` lists them."""

    format: RequestedFormat = ResultFormat.PNG
    """Format of the result; `same`: the format of the picture, or PNG if that cannot be written
    (BMP, GIF, HEIC). Default: by the `Accept` header, such as `image/webp`, else PNG.
    """

    quality: int = Field(default=90, ge=1, le=100)
    """Quality of a JPEG, AVIF, or lossy WebP or JPEG XL result."""

    keep_branches: bool = False
    """Store psnr, fused, gan and mask, for `output` and `trade_off` of `GET /jobs/{id}/result`."""


class UpscaleOptions(PictureChoices):
    """The options of a job."""

    trade_off: TradeOff
    model: str
    format: ResultFormat
    quality: int = Field(ge=1, le=100)
    keep_branches: bool = False
    """True if psnr, fused, gan and the mask are stored too."""


class Region(NamedTuple):
    """A region of a result, in its pixels."""

    x: int
    y: int
    width: int
    height: int


class Part(Record):
    """The requested part of another job's result, for a derived job."""

    mask: bool = False
    """The stored mask instead of the picture."""
    region: Region | None = None
    """None: the whole picture."""
    width: int | None = None
    height: int | None = None
    """Size to reduce it to; None: not reduced."""
    map: str | None = None
    """SHA-256 of a map that gives each pixel its own trade-off; None: that of the options."""
    dpi: int | None = None
    """Dots per inch stated in the file; None: those of the result."""


#: Version of records that this release can read; newer ones are left to newer workers.
SCHEMA = 2
#: Version of records with a map or `dpi`, which an older release would run wrongly.
WITH_MAP = 2


#: Derived results that cost as much as a computed picture. For 1024 x 1024, with `lite-real` on one
#: Zen core: 26 (AVIF), 78 (WebP), 164 (JPEG XL), 294 (PNG), 358 (JPEG); with a GPU a hundred times
#: as fast 0.3 to 4. The value is in between: a derived result is not free, and costs less than a
#: picture.
_BLENDS_PER_PASS = 16


class Spec(Record):
    """The immutable part of a job or a batch, and its origin: by default the current request."""

    id: str
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    time_limit: timedelta
    """Time limit of the job, or of the unpacking."""
    name: str | None = None
    """Sanitised file name from the client; for the client only, never logged."""
    owner: str = ""
    """Name of the API key that created it; empty without keys."""
    webhook: str | None = None
    """URL to notify when the job, or each of the batch, has ended."""
    request_id: str | None = Field(default_factory=partial(logs.request_id.get, None))
    """The HTTP request that created it, for logs."""
    traceparent: str | None = Field(default_factory=partial(logs.traceparent.get, None))
    """Its W3C trace context, for logs and spans."""

    def derived(self, **changes: object) -> Self:
        """Copy it with changes, the current request as its origin, and no webhook."""
        own = {"created_at", "webhook", "request_id", "traceparent"}
        kept = {name: value for name, value in self if name not in own}
        return self.model_validate(kept | changes)


class JobSpec(Spec):
    """The immutable part of a job."""

    schema_version: int = 1
    """New fields do not need a new version if jobs run correctly without them."""
    image: ImageInfo
    options: UpscaleOptions
    blend_of: str | None = None
    """For a derived job: the job with the stored branches or result."""
    part: Part = Part()
    """For a derived job: the requested part."""
    map_key: str | None = None
    """Blob key of the map of `part` until the job has ended."""
    cache_key: str | None = None
    """Cache key, under which equal uploads find the result."""
    batch: str | None = None
    """The batch of the job."""

    @property
    def pixels(self) -> int:
        """Amount of work, in input pixels of the network."""
        pixels = self.image.width * self.image.height
        return max(1, pixels // _BLENDS_PER_PASS) if self.blend_of else pixels

    @property
    def inputs(self) -> tuple[str, ...]:
        """Blob keys of its uploads, kept until it has ended."""
        return (self.image.key,) if self.map_key is None else (self.image.key, self.map_key)


class JobResult(StoredBlob):
    """A finished picture and how it was computed."""

    format: ResultFormat
    width: int
    height: int
    model: str
    checkpoint: str
    """SHA-256 of the checkpoint file."""
    device: str
    precision: str
    consistency: bool = False
    """True if back-projection was applied, so that the reduced result equals the picture."""
    seconds: dict[str, float]
    """Time per stage: queue, decode, infer, encode."""
    warnings: tuple[str, ...] = ()
    """Parts that were ignored or left out, such as a broken colour profile."""
    expires_at: datetime
    has_alpha: bool | None = None
    """True if any pixel is not opaque; None: of an older release."""
    cached: bool = False
    """Copied from an equal job without computation; `seconds` then has only `cache`."""
    branches: dict[str, StoredBlob] = Field(default={})
    """Stored branches (PNG) by output of `KEPT`; empty unless the job was asked to keep them."""
    previews: dict[str, StoredBlob] = Field(default={})
    """Their previews (WebP) by output."""
    invented: float | None = None
    """Share of fine detail that is invented, 0 to 1; None: not known without kept branches."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The blob keys of everything stored for it."""
        kept = (*self.branches.values(), *self.previews.values())
        return (self.key, *(branch.key for branch in kept))


class JobFailure(Record):
    """Why a job failed: the slug and the message of a `GDSRError`; never a traceback."""

    slug: str
    detail: str

    @classmethod
    def of(cls, error: GDSRError) -> "JobFailure":
        return cls(slug=error.slug, detail=str(error))


class Job(Record):
    """The current state of a job."""

    spec: JobSpec
    state: JobState
    run: str | None = None
    worker: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    tiles_done: int = 0
    tiles: int = 0
    result: JobResult | None = None
    failure: JobFailure | None = None
    webhook_state: WebhookState = "waiting"
    webhook_attempts: int = 0
    webhook_answer: str | None = None
    """Outcome of the last webhook attempt."""

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def ended(self) -> bool:
        return self.state in FINAL_STATES
