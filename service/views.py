"""What a client sees of a job and of the models."""

import hashlib
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from service.http.problems import ProblemDocument, describe_failure
from service.http.urls import address
from workers.contract.images.formats import ImageFormat, ResultFormat
from workers.contract.queue.engines import EngineInfo
from workers.contract.queue.estimates import QueuePosition
from workers.contract.queue.jobs import ImageInfo, Job, JobResult, JobState, Part, UpscaleOptions
from workers.contract.queue.webhook_outbox import WebhookState


class View(BaseModel):
    """What is told in JSON."""

    model_config = ConfigDict(frozen=True, from_attributes=True, use_attribute_docstrings=True)


class ImageView(View):
    """The upload, as its header describes it."""

    format: ImageFormat
    width: int
    height: int
    size: int
    """Bytes."""
    sha256: str

    @classmethod
    def of(cls, image: ImageInfo) -> Self:
        return cls.model_validate(image)


class ResultView(View):
    """The finished picture and how it was made."""

    format: ResultFormat
    width: int
    height: int
    size: int
    """Bytes."""
    sha256: str
    model: str
    checkpoint: str
    """SHA-256 of the checkpoint file."""
    device: str
    precision: str
    consistency: bool
    """Whether it was corrected until it gives the picture again when it is reduced."""
    seconds: dict[str, float]
    """Time by stage: queue, decode, infer, encode; of a copy, `cache` alone."""
    cached: bool
    """Whether it is a copy of an equal upload's result."""
    warnings: tuple[str, ...]
    """What was ignored or left out, such as a broken colour profile."""
    expires_at: datetime
    branches: tuple[str, ...]
    """What was kept: `output` of the result's address takes these."""

    @classmethod
    def of(cls, result: JobResult) -> Self:
        return cls.model_validate(result.model_dump() | {"branches": tuple(result.branches)})


class Progress(View):
    """How far the job is."""

    tiles_done: int
    tiles: int
    """0 until the picture has been decoded."""


class WebhookView(View):
    """How it goes with telling the client's own server."""

    url: str
    state: WebhookState
    """`failed`: it is not tried again."""
    attempts: int
    answer: str | None
    """What came of the last one; null before it."""

    @classmethod
    def of(cls, job: Job) -> Self | None:
        if job.spec.webhook is None:
            return None
        return cls(
            url=job.spec.webhook,
            state=job.webhook_state,
            attempts=job.webhook_attempts,
            answer=job.webhook_answer,
        )


class Links(View):
    """Where to go on."""

    self: str
    """This view; DELETE cancels the job, or erases it once it has ended."""
    result: str
    """The finished picture."""
    events: str
    """The job's changes as server-sent events."""

    @classmethod
    def of(cls, job_id: str) -> Self:
        job = address(f"/jobs/{job_id}")
        return cls(self=job, result=f"{job}/result", events=f"{job}/events")


class JobView(View):
    """A job as it is now."""

    id: str
    state: JobState
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    queue_position: int | None
    """Jobs that are before this one; null unless it waits."""
    starts_in_seconds: int | None
    """Until it starts, about, by the pixels before it; null unless it waits and an engine runs."""
    progress: Progress
    blend_of: str | None
    """The job whose branches or result this one is made of."""
    part: Part
    """What of it: the mask, a region, in a smaller size."""
    name: str | None
    """What the client called the picture, made safe."""
    batch: str | None
    """The batch that it came in."""
    image: ImageView
    options: UpscaleOptions
    result: ResultView | None
    failure: ProblemDocument | None
    """Why a failed job failed."""
    webhook: WebhookView | None
    """Whether its webhook knows; null where none was asked for."""
    links: Links

    @property
    def tag(self) -> str:
        """The same for the same view: its entity tag, and the id of its event."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:32]

    @classmethod
    def of(cls, job: Job, *, position: QueuePosition | None) -> Self:
        links = Links.of(job.id)
        return cls(
            id=job.id,
            state=job.state,
            created_at=job.spec.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            queue_position=position and position.position,
            starts_in_seconds=position and position.seconds,
            progress=Progress(tiles_done=job.tiles_done, tiles=job.tiles),
            blend_of=job.spec.blend_of,
            part=job.spec.part,
            name=job.spec.name,
            batch=job.spec.batch,
            image=ImageView.of(job.spec.image),
            options=job.spec.options,
            result=None if job.result is None else ResultView.of(job.result),
            webhook=WebhookView.of(job),
            failure=job.failure and describe_failure(job.failure, instance=links.self),
            links=links,
        )


class JobsView(View):
    """A page of jobs, newest first."""

    jobs: tuple[JobView, ...]
    next: str | None
    """Address of the next page; null on the last."""


class OutputFormatView(View):
    """A format that a result can have."""

    name: ResultFormat
    media_type: str
    max_side: int
    """The most pixels that a side of the result can have."""
    max_result_pixels: int | None
    """The most pixels in all; null where the sides are the only limit."""
    max_bits: int
    """The most bits that a sample can have: 8 or 16."""
    lossless: bool
    """Whether a result can hold every pixel as it is."""


class LimitsView(View):
    """Every limit and every format."""

    max_upload_bytes: int
    max_pixels: int
    """Width x height before scaling."""
    max_batch_pictures: int
    """Pictures in one batch."""
    max_batch_bytes: int
    """Bytes of the upload of a batch, and of what its zip unpacks to."""
    max_queued_jobs: int
    max_queued_pixels: int
    pixels_per_day: int | None
    """Pixels that one API key may send from midnight to midnight (UTC)."""
    rate_limit: str | None
    """Uploads that one API key may send, such as `60/minute`."""
    webhooks: bool
    """Whether a job may tell a webhook, of the hosts that the operator has named."""
    max_wait_seconds: float
    """Longest `Prefer: wait`."""
    max_form_fields: int
    max_field_bytes: int
    result_ttl_seconds: float
    """How long a finished picture is kept."""
    record_ttl_seconds: float
    """How long a job that has ended is remembered."""
    input_formats: tuple[ImageFormat, ...]
    output_formats: tuple[OutputFormatView, ...]
    trade_off_stops: dict[str, float]
    """Names for positions of the slider."""


class ModelDevice(View):
    """A model on one device."""

    device: str
    precision: str
    compiled: bool
    """Whether the network's blocks are compiled for the device."""

    pixels_per_second: dict[str, float]
    """Input pixels a second for each of psnr, fused and gan, measured when the engine started."""


class ModelView(View):
    """A model that can be asked for."""

    name: str
    default: bool
    """Whether a request that names no model gets this one."""
    preset: str
    scale: int
    sha256: str
    """Of the checkpoint file."""
    card: dict[str, Any]
    """Training run, data, scores, licence."""
    devices: tuple[ModelDevice, ...] = Field(min_length=1)


def model_views(engines: list[EngineInfo]) -> list[ModelView]:
    """The models of all engines, each once, by name."""
    default = engines[0].default_model if engines else None
    found = sorted(
        ((model, engine.device) for engine in engines for model in engine.models),
        key=lambda pair: pair[0].name,
    )
    devices: dict[str, tuple[ModelDevice, ...]] = {}
    for model, device in found:
        here = ModelDevice(
            device=device,
            precision=model.precision,
            compiled=model.compiled,
            pixels_per_second=model.pixels_per_second,
        )
        devices[model.name] = (*devices.get(model.name, ()), here)
    return [
        ModelView(
            name=model.name,
            default=model.name == default,
            preset=model.preset,
            scale=model.scale,
            sha256=model.sha256,
            card=model.card,
            devices=devices[model.name],
        )
        for model in {model.name: model for model, _ in found}.values()
    ]
