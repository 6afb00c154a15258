"""A batch of derived results: another slider position, format, region or size of each picture."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime

from service.batches.views import BatchState, batch_state
from service.jobs.derived import derivation, is_over
from service.jobs.options import ResultFields
from service.services import Services
from workers.contract import errors
from workers.contract.queue.batches import Batch, BatchItem
from workers.contract.queue.jobs import JobFailure, JobSpec


def derived_batch(services: Services, batch: Batch, fields: ResultFields) -> Batch:
    """Return the batch of derived results of a finished batch: new, running or done, with a digest
    of the request as its id. If nothing changes, return the finished batch itself.

    A picture that has no result, or that the format cannot hold, is an item that failed.

    Raises:
        BatchNotFinished: some of its jobs have not ended.
        RequestInvalid: fields that exclude each other, or a region outside one of the results.
        BranchesNotKept: the batch did not keep the branches that this needs.
        BatchExpired: all of its results have expired.
        RateExceeded, PixelsExceeded, QueueFull: there is no room for all of the jobs.
    """
    jobs = services.queue.get_many(batch.job_ids)
    if batch_state(batch, jobs) is not BatchState.FINISHED:
        raise errors.BatchNotFinished(batch.id)
    items: list[BatchItem] = []
    asked: dict[str, JobSpec] = {}
    expired = unchanged = 0
    for item in batch.items or ():
        job = jobs.get(item.job_id or "")
        if job is None or job.result is None:
            expired += job is None and item.job_id is not None
            items.append(item)
            continue
        try:
            if job.result.expires_at <= datetime.now(UTC):
                raise errors.JobExpired(job.id)
            spec = derivation(job, fields)
        except (errors.AlphaNotStorable, errors.ResultTooLarge, errors.JobExpired) as refusal:
            expired += isinstance(refusal, errors.JobExpired)
            items.append(BatchItem(name=item.name, failure=JobFailure.of(refusal)))
            continue
        if spec is None:
            unchanged += 1
            items.append(item)
        else:
            asked[spec.id] = spec
            items.append(BatchItem(name=item.name, job_id=spec.id))
    if not asked and unchanged:
        return batch
    if expired and not asked:
        raise errors.BatchExpired(batch.id)
    request = f"{batch.id} {_canonical(fields, asked)}"
    batch_id = hashlib.sha256(request.encode()).hexdigest()[:32]
    while (made := _submitted(services, batch_id, batch, items, asked)) is None:
        pass  # another request queued one of the jobs in the meantime
    return made


def _canonical(fields: ResultFields, asked: Mapping[str, JobSpec]) -> str:
    """The fields in one form for all requests with the same results, such as `output=gan` and
    `trade_off=1`: two batches with the same jobs could not be erased independently.
    """
    if not asked:
        return fields.model_dump_json()
    options = sorted({spec.options.model_dump_json() for spec in asked.values()})
    place = fields.model_dump_json(include={"region", "width", "height", "dpi"})
    return f"{options} {place} {fields.output == 'mask'}"


def _submitted(
    services: Services,
    batch_id: str,
    source: Batch,
    items: list[BatchItem],
    asked: Mapping[str, JobSpec],
) -> Batch | None:
    """The batch, with the jobs that are missing or have to run again queued; None if one of them
    was queued in the meantime.
    """
    earlier = services.queue.get_many(list(asked))
    over = {id_: job for id_, job in earlier.items() if job and is_over(job, services.blobs)}
    missing = {job_id for job_id, job in earlier.items() if job is None or job_id in over}
    found = pack = None
    with suppress(errors.BatchNotFound):
        found = services.batches.get(batch_id)
        if not missing and found.items == tuple(items):
            return found
        pack = services.batches.pack(batch_id)
    counted = services.rate.count(source.spec.owner, len(missing))
    specs = [spec for spec in asked.values() if spec.id in missing]
    with services.rate.given_back_without_room(counted):
        made = services.batches.submit_derived(
            batch_id, source, items, specs, instead=over, again=found is not None
        )
    if made is None:
        services.rate.give_back(counted)
    elif pack is not None and pack.archive is not None:
        services.blobs.delete(pack.archive.key)
    return made
