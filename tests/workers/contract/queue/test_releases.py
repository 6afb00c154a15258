"""Two adjacent releases work on one Redis, as during an upgrade."""

import json
from datetime import timedelta

import pytest
import redis
from records import image_info, model_info, options

from workers.contract.errors import JobTooNew
from workers.contract.queue.admission import QueueLimits
from workers.contract.queue.jobs import SCHEMA, JobSpec, JobState
from workers.contract.queue.queue import JobQueue, new_job_id
from workers.contract.queue.records import JobRecords
from workers.jobs.recovery import sweep

#: A job record of the first release, without later fields.
FIRST = {
    "schema_version": 1,
    "id": "old",
    "created_at": "2026-01-02T03:04:05Z",
    "image": {
        "key": "inputs/old", "size": 100, "sha256": "0" * 64,
        "format": "png", "width": 64, "height": 48,
    },
    "options": {"trade_off": 0.5, "model": "lite", "format": "png", "quality": 90},
    "time_limit": "PT2M",
}  # fmt: skip
FIRST_RESULT = {
    "key": "results/old.run.png", "size": 9, "sha256": "0" * 64, "format": "png", "width": 256,
    "height": 192, "model": "lite", "checkpoint": "0" * 64, "device": "cpu",
    "precision": "float32", "seconds": {"queue": 0.1}, "expires_at": "2026-01-02T04:04:05Z",
}  # fmt: skip


@pytest.fixture
def records(client: redis.Redis) -> JobRecords:
    return JobRecords(client, record_ttl=timedelta(minutes=5))


def put(client: redis.Redis, spec: dict[str, object], **fields: str) -> None:
    client.hset(
        f"gdsr:job:{spec['id']}", mapping={"spec": json.dumps(spec), "state": "queued", **fields}
    )


def test_a_job_of_an_older_release_runs_to_its_end(
    client: redis.Redis, records: JobRecords
) -> None:
    put(client, FIRST)

    assert records.get("old").spec == JobSpec.model_validate(FIRST)
    assert records.start("old", run="run", worker="worker")
    assert records.progress("old", run="run", tiles_done=1, tiles=2)
    assert records.cancel("old")
    assert records.get("old").state is JobState.CANCELLED


def test_a_result_of_an_older_release_is_served_on(
    client: redis.Redis, records: JobRecords
) -> None:
    put(client, FIRST, state="succeeded", result=json.dumps(FIRST_RESULT))
    result = records.get("old").result

    assert result is not None
    assert result.keys == ("results/old.run.png",)


def test_fields_of_a_newer_release_are_ignored(client: redis.Redis, records: JobRecords) -> None:
    newer = {**FIRST, "id": "new", "mood": 1, "image": {**FIRST["image"], "depth": 9}}  # type: ignore[dict-item]
    newer["options"] = {**FIRST["options"], "sparkle": True}  # type: ignore[dict-item]
    put(client, newer, weather="fair", result=json.dumps({**FIRST_RESULT, "taste": "sweet"}))

    assert records.get("new").spec.image.width == 64
    assert records.get("new").spec.options.model == "lite"
    assert records.start("new", run="run", worker="worker")


def test_a_job_of_a_higher_schema_is_said_to_be_newer_and_is_not_touched(
    client: redis.Redis, records: JobRecords
) -> None:
    queue = JobQueue(
        client,
        record_ttl=timedelta(minutes=5),
        bounds=QueueLimits(jobs=9, pixels=10**9),
        small_pixels=1,
    )
    job_id = new_job_id()
    queue.submit(job_id, image_info(), options(), model_info())
    spec = json.loads(client.hget(f"gdsr:job:{job_id}", "spec"))
    put(client, {**spec, "schema_version": SCHEMA + 1, "image": "a word"})
    before = client.hgetall(f"gdsr:job:{job_id}")

    with pytest.raises(JobTooNew, match="newer release"):
        records.get(job_id)
    assert records.get_many([job_id]) == {job_id: None}
    sweep(records, lambda *_: None)

    assert client.hgetall(f"gdsr:job:{job_id}") == before
    assert records.active() == [job_id]
