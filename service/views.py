"""The JSON views of jobs and models."""

import hashlib
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from service.http.problems import ProblemDocument, describe_failure
from service.http.urls import address
from workers.contract.images.formats import ImageFormat, ResultFormat
from workers.contract.queue.engines import EngineInfo
from workers.contract.queue.estimates import QueuePosition
from workers.contract.queue.jobs import Job, JobResult, JobState, Part, UpscaleOptions
from workers.contract.queue.webhook_outbox import WebhookState


class View(BaseModel):
    """Base class of JSON views."""

    model_config = ConfigDict(frozen=True, from_attributes=True, use_attribute_docstrings=True)


class ImageView(View):
    """The upload, from its header."""

    format: ImageFormat
    width: int
    height: int
    size: int
    """Size in bytes."""
    sha256: str


class ResultView(View):
    """A finished picture and how it was computed."""

    format: ResultFormat
    width: int
    height: int
    size: int
    """Size in bytes."""
    sha256: str
    model: str
    checkpoint: str
    """SHA-256 of the checkpoint file."""
    device: str
    precision: str
    consistency: bool
    """Whether back-projection was applied, so that the reduced result equals the picture."""
    seconds: dict[str, float]
    """Time per stage: queue, decode, infer, encode; for a copy only `cache`."""
    cached: bool
    """Whether the result was copied from an equal upload."""
    warnings: tuple[str, ...]
    """Parts that were ignored or left out, such as a broken colour profile."""
    expires_at: datetime
    branches: tuple[str, ...]
    """Stored branches: values for `output` of the result's address."""
    previews: tuple[str, ...]
    """Those of them that have a `preview`."""
    invented: float | None
    """Share of the fine detail that is invented, 0 to 1: the difference to the faithful branch, in
    that difference and the faithful branch's own detail together. Null if it is not known: the
    job kept no branches.
    """

    @classmethod
    def of(cls, result: JobResult) -> Self:
        kept = {"branches": tuple(result.branches), "previews": tuple(result.previews)}
        return cls.model_validate(result.model_dump() | kept)


class Progress(View):
    """Progress of a job."""

    tiles_done: int
    tiles: int
    """Number of tiles; 0 until the picture has been decoded."""


class WebhookView(View):
    """State of the webhook."""

    url: str
    state: WebhookState
    """`failed`: it is not retried."""
    attempts: int
    answer: str | None
    """Outcome of the last attempt; null before the first."""

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
    """Related addresses."""

    self: str
    """This view. DELETE cancels a pending job and deletes an ended one."""
    result: str
    """The finished picture."""
    events: str
    """Job changes as server-sent events."""

    @classmethod
    def of(cls, job_id: str) -> Self:
        job = address(f"/jobs/{job_id}")
        return cls(self=job, result=f"{job}/result", events=f"{job}/events")


class JobView(View):
    """The current state of a job."""

    id: str
    state: JobState
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    queue_position: int | None
    """Number of jobs before it in the queue; null unless it is queued."""
    starts_in_seconds: int | None
    """Estimated seconds until it starts; null unless it is queued and an engine runs."""
    progress: Progress
    blend_of: str | None
    """For a derived result: the job that it is derived from."""
    part: Part
    """For a derived result: the mask, a region, a smaller size."""
    name: str | None
    """Sanitised file name, as sent by the client."""
    batch: str | None
    """The batch of the job."""
    image: ImageView
    options: UpscaleOptions
    result: ResultView | None
    failure: ProblemDocument | None
    """Why the job failed."""
    webhook: WebhookView | None
    """State of the webhook; null if none was requested."""
    links: Links

    @property
    def tag(self) -> str:
        """Digest of the view: its entity tag and the id of its event."""
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
            image=ImageView.model_validate(job.spec.image),
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
    """Address of the next page; null on the last page."""


class OutputFormatView(View):
    """A result format."""

    name: ResultFormat
    media_type: str
    max_side: int
    """Maximum width and height of a result."""
    max_result_pixels: int | None
    """Maximum number of pixels; null if only the sides are limited."""
    max_bits: int
    """Maximum bits per sample: 8 or 16."""
    lossless: bool
    """Whether the format can be lossless."""


class LimitsView(View):
    """All limits and formats."""

    max_upload_bytes: int
    max_pixels: int
    """Maximum width x height of the input."""
    max_batch_pictures: int
    """Maximum number of pictures in a batch."""
    max_batch_bytes: int
    """Maximum bytes of a batch upload, and of its unpacked contents."""
    max_map_pixels: int
    """Maximum width x height of a map."""
    max_map_bytes: int
    max_queued_jobs: int
    max_queued_pixels: int
    pixels_per_day: int | None
    """Input pixels per API key and UTC day."""
    rate_limit: str | None
    """Requests per API key, such as `60/minute`."""
    webhooks: bool
    """Whether webhooks are available, for the hosts that the operator allows."""
    max_wait_seconds: float
    """Maximum of `Prefer: wait`."""
    max_form_fields: int
    max_field_bytes: int
    result_ttl_seconds: float
    """How long a result is kept."""
    record_ttl_seconds: float
    """How long the record of an ended job is kept."""
    input_formats: tuple[ImageFormat, ...]
    output_formats: tuple[OutputFormatView, ...]
    trade_off_stops: dict[str, float]
    """Named slider positions."""


class ModelDevice(View):
    """A model on one device."""

    device: str
    precision: str
    compiled: bool
    """Whether the network is compiled for the device."""

    backend: str
    """Library that computes: `torch`, or `openvino` on some CPUs."""

    seconds_by_backend: dict[str, float]
    """Seconds of one tile in each library, of the trial at start; empty if there was none."""

    pixels_per_second: dict[str, float]
    """Input pixels per second for psnr, fused and gan, measured when the engine started."""


class ModelView(View):
    """An available model."""

    name: str
    default: bool
    """Whether it is used for requests that name no model."""
    preset: str
    scale: int
    sha256: str
    """SHA-256 of the checkpoint file."""
    card: dict[str, Any]
    """Model card: training run, data, scores, licence."""
    devices: tuple[ModelDevice, ...] = Field(min_length=1)


def model_views(engines: list[EngineInfo]) -> list[ModelView]:
    """The models of all engines, merged by name."""
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
            backend=model.backend,
            seconds_by_backend=model.seconds_by_backend,
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
