"""A job as a client sees it: what was sent, what was asked for, what became of it.

RQ's status is only an input to it; `records` keeps it, in a Redis hash of our own.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from workers.contract.errors import GDSRError
from workers.contract.images.headers import ImageFormat, ResultFormat
from workers.contract.images.options import PictureChoices
from workers.contract.queue.webhook_outbox import WebhookState

TradeOff = Annotated[float, Field(ge=0, le=1)]
#: Names for the three stops of the slider.
STOPS = {"psnr": 0.0, "fused": 0.5, "gan": 1.0}
#: What the network gives, in the order of the slider.
OUTPUTS = tuple(STOPS)
#: What a job can keep: the same, and where `fused` took which.
KEPT = (*OUTPUTS, "mask")


class JobState(StrEnum):
    """Where a job is. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class Record(BaseModel):
    """What is kept in Redis."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer release may add fields


class ImageInfo(Record):
    """A stored upload, as its header describes it."""

    key: str
    size: int
    sha256: str
    format: ImageFormat
    width: int
    height: int
    bits: int = 8
    """Of a sample."""
    has_alpha: bool = False
    """Whether it could be transparent."""


class UpscaleOptions(PictureChoices):
    """What to make of it."""

    trade_off: TradeOff
    model: str
    format: ResultFormat
    quality: int = Field(ge=1, le=100)
    keep_branches: bool = False
    """Whether psnr, fused, gan and the mask are kept beside the result."""


class Region(NamedTuple):
    """A part of a result, in its pixels."""

    x: int
    y: int
    width: int
    height: int


class Part(Record):
    """What of another job's result is wanted."""

    mask: bool = False
    """The mask that it kept, not the picture."""
    region: Region | None = None
    """None: all of it."""
    width: int | None = None
    height: int | None = None
    """Pixels to reduce that to; None: it stays as large as it is."""


#: Of records that this release can read; those of a higher one are left to newer workers.
SCHEMA = 1


#: How many results can be made of another one while the network makes one: an estimate.
_BLENDS_A_PASS = 16


class JobSpec(Record):
    """The part of a job that never changes."""

    schema_version: int = SCHEMA
    """Fields may come without a new number, if a job runs right without them."""
    id: str
    created_at: datetime
    image: ImageInfo
    options: UpscaleOptions
    time_limit: timedelta
    name: str | None = None
    """What the client calls its picture, made safe; it is for the client alone, not for logs."""
    owner: str = ""
    """Name of the API key that it came with; empty where there are no keys."""
    blend_of: str | None = None
    """The job of whose kept branches or result this one is made."""
    part: Part = Part()
    """What of it."""
    cache_key: str | None = None
    """Under which its result is found for equal uploads."""
    webhook: str | None = None
    """Address to tell when the job has ended."""
    batch: str | None = None
    """The batch that it came in."""
    request_id: str | None = None
    """The HTTP request that it came with, for logs."""
    traceparent: str | None = None
    """Its W3C trace context, for logs and spans."""

    @property
    def pixels(self) -> int:
        """What there is to do, in input pixels of the network."""
        pixels = self.image.width * self.image.height
        return max(1, pixels // _BLENDS_A_PASS) if self.blend_of else pixels


class Branch(Record):
    """One of `KEPT`, as a PNG."""

    key: str
    size: int
    sha256: str


class JobResult(Record):
    """A finished picture and how it was made."""

    key: str
    size: int
    sha256: str
    format: ResultFormat
    width: int
    height: int
    model: str
    checkpoint: str
    """SHA-256 of the checkpoint file."""
    device: str
    precision: str
    consistency: bool = False
    """Whether it was corrected until it gives the picture again when it is reduced."""
    seconds: dict[str, float]
    """Time by stage: queue, decode, infer, encode."""
    warnings: tuple[str, ...] = ()
    """What was ignored or left out, such as a broken colour profile."""
    expires_at: datetime
    has_alpha: bool | None = None
    """Whether any pixel is not opaque; None: made before this was told."""
    cached: bool = False
    """Copied from an equal job's, at no cost; `seconds` then has the time of that as `cache`."""
    branches: dict[str, Branch] = {}
    """By output; empty unless the job was to keep them."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Everything stored of it."""
        return (self.key, *(branch.key for branch in self.branches.values()))


class JobFailure(Record):
    """Why a job failed: the slug of a `GDSRError` and its message; never a traceback."""

    slug: str
    detail: str

    @classmethod
    def of(cls, error: GDSRError) -> "JobFailure":
        return cls(slug=error.slug, detail=str(error))


class Job(Record):
    """A job as it is now."""

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
    """What came of the last attempt."""

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def ended(self) -> bool:
        return self.state in FINAL_STATES
