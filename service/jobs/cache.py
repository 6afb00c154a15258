"""Result cache: an upload equal to an earlier one becomes a new job with a copy of its result.

Equal means the same owner, picture bytes, options and checkpoint. The new job has its own blobs, so
it expires and is deleted independently.
"""

import hashlib
import time
from datetime import UTC, datetime

from fastapi import Request

from service.services import Services
from workers.contract.errors import BlobMissing
from workers.contract.queue.engines import ModelInfo
from workers.contract.queue.jobs import ImageInfo, Job, JobResult, UpscaleOptions


def bypasses_cache(request: Request) -> bool:
    """True if the client's `Cache-Control` asks for a new computation."""
    directives = ",".join(request.headers.getlist("Cache-Control")).lower().split(",")
    return bool({part.partition("=")[0].strip() for part in directives} & {"no-cache", "no-store"})


def cache_status(services: Services, request: Request, job: Job) -> dict[str, str]:
    """The `Cache-Status` header (RFC 9211): a hit if a job's result is a copy."""
    if not services.settings.cache_results:
        return {}
    if job.result is not None and job.result.cached:
        return {"Cache-Status": "gdsr; hit"}
    return {"Cache-Status": "gdsr; fwd=request" if bypasses_cache(request) else "gdsr; fwd=miss"}


def cache_key(owner: str, image: ImageInfo, options: UpscaleOptions, model: ModelInfo) -> str:
    """The cache key of an upload: a digest of everything that makes uploads equal."""
    parts = (owner, image.sha256, options.model_dump_json(), model.sha256)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def copied_result(services: Services, key: str, job_id: str, model: ModelInfo) -> JobResult | None:
    """Copy the cached result under this key to blobs of the job; None if there is none."""
    started = time.perf_counter()
    earlier = services.queue.find_cached(key)
    found = None if earlier is None else earlier.result
    if found is None or found.checkpoint != model.sha256 or found.expires_at <= datetime.now(UTC):
        return None
    start = f"results/{job_id}.cached"
    copy = found.model_copy(
        update={
            "key": f"{start}.{found.format}",
            "branches": {
                output: branch.model_copy(update={"key": f"{start}.{output}.png"})
                for output, branch in found.branches.items()
            },
            "previews": {
                output: preview.model_copy(update={"key": f"{start}.{output}.webp"})
                for output, preview in found.previews.items()
            },
            "expires_at": datetime.now(UTC) + services.settings.result_ttl,
            "cached": True,
        }
    )
    try:
        for source, target in zip(found.keys, copy.keys, strict=True):
            services.blobs.copy(source, target)
    except BaseException as failure:
        services.blobs.delete(*copy.keys)
        if isinstance(failure, BlobMissing):
            return None
        raise
    seconds = {"cache": round(time.perf_counter() - started, 4)}
    return copy.model_copy(update={"seconds": seconds})
