"""The JSON views of jobs."""

import hashlib
from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict

from service.http.problems import ProblemDocument, describe_failure
from service.http.proxy import address
from workers.contract.images.formats import ImageFormat, ResultFormat
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
    """True if back-projection was applied, so that the reduced result equals the picture."""
    seconds: dict[str, float]
    """Time per stage: queue, decode, infer, encode; for a copy only `cache`."""
    cached: bool
    """True if the result was copied from an equal upload."""
    warnings: tuple[str, ...]
    """Parts that were ignored or left out, such as a broken colour profile."""
    expires_at: datetime
    branches: tuple[str, ...]
    """Stored branches: values for `output` of the result's address."""
    previews: tuple[str, ...]
    """The branches that have a `preview`."""
    invented: float | None
    """Share of the fine detail that is invented, 0 to 1: the difference to the faithful branch,
    divided by the sum of this difference and the fine detail of the faithful branch. Null if the
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
        webhook = {
            "url": job.spec.webhook,
            "state": job.webhook_state,
            "attempts": job.webhook_attempts,
            "answer": job.webhook_answer,
        }
        seen = {
            "queue_position": position and position.position,
            "starts_in_seconds": position and position.seconds,
            "progress": Progress(tiles_done=job.tiles_done, tiles=job.tiles),
            "result": None if job.result is None else ResultView.of(job.result),
            "webhook": webhook if job.spec.webhook is not None else None,
            "failure": job.failure and describe_failure(job.failure, instance=links.self),
            "links": links,
        }
        return cls.model_validate(dict(job.spec) | dict(job) | seen)


class JobsView(View):
    """A page of jobs, newest first."""

    jobs: tuple[JobView, ...]
    next: str | None
    """Address of the next page; null on the last page."""
