"""Each transition of a job record is allowed only from some states and only for its own run."""

from datetime import UTC, datetime, timedelta

import pytest
import redis
from records import image_info, options

from workers.contract.errors import ImageCorrupt, JobNotFound, WorkerLost
from workers.contract.images.formats import ResultFormat
from workers.contract.queue.jobs import JobResult, JobSpec, JobState
from workers.contract.queue.records import JobRecords
from workers.contract.queue.runs import ACTIVE, requeue

RESULT = JobResult(
    key="results/a.png", size=1, sha256="0", format=ResultFormat.PNG, width=4, height=4,
    model="lite", checkpoint="0", device="CPU", precision="float32", seconds={},
    expires_at=datetime.now(UTC),
)  # fmt: skip


@pytest.fixture
def records(client: redis.Redis) -> JobRecords:
    return JobRecords(client, record_ttl=timedelta(minutes=5))


@pytest.fixture
def job_id(records: JobRecords) -> str:
    spec = JobSpec(
        id="a" * 32, created_at=datetime.now(UTC), image=image_info(), options=options(),
        time_limit=timedelta(minutes=2),
    )  # fmt: skip
    with records.client.pipeline() as pipe:
        records.add(spec, pipe)
        pipe.execute()
    return spec.id


def test_a_job_goes_from_queued_over_running_to_succeeded(records: JobRecords, job_id: str) -> None:
    states = [records.get(job_id).state]
    assert records.start(job_id, run="one", worker="w")
    states.append(records.get(job_id).state)
    assert records.progress(job_id, run="one", tiles_done=1, tiles=2)
    assert records.succeed(job_id, run="one", result=RESULT)
    job = records.get(job_id)

    assert [*states, job.state] == [JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED]
    assert (job.tiles_done, job.tiles, job.worker, job.result) == (2, 2, "w", RESULT)
    assert job.started_at is not None
    assert job.finished_at is not None


def test_a_run_that_was_replaced_can_write_nothing(records: JobRecords, job_id: str) -> None:
    records.start(job_id, run="lost", worker="w")
    assert not records.start(job_id, run="next", worker="w")
    assert requeue(records.client, job_id, run="lost", why="lost") == "queued"
    assert records.start(job_id, run="next", worker="w")

    assert not records.progress(job_id, run="lost", tiles_done=1, tiles=2)
    assert not records.succeed(job_id, run="lost", result=RESULT)
    assert not records.fail(job_id, run="lost", error=WorkerLost())
    assert requeue(records.client, job_id, run="lost", why="lost") == "over"
    assert records.get(job_id).run == "next"
    assert records.succeed(job_id, run="next", result=RESULT)


@pytest.mark.parametrize("end", ["succeed", "fail", "cancel"])
def test_an_ended_job_stays_as_it_ended(records: JobRecords, job_id: str, end: str) -> None:
    records.start(job_id, run="one", worker="w")
    match end:
        case "succeed":
            records.succeed(job_id, run="one", result=RESULT)
        case "fail":
            records.fail(job_id, run="one", error=ImageCorrupt("no"))
        case _:
            records.cancel(job_id)
    ended = records.get(job_id)

    assert not records.start(job_id, run="two", worker="w")
    assert not records.cancel(job_id)
    assert not records.fail(job_id, error=WorkerLost())
    assert requeue(records.client, job_id, run="one", why="lost") == "over"
    assert records.get(job_id) == ended


def test_a_failure_is_kept_as_slug_and_sentence(records: JobRecords, job_id: str) -> None:
    records.start(job_id, run="one", worker="w")
    records.fail(job_id, run="one", error=ImageCorrupt("it ends too early"))
    failure = records.get(job_id).failure

    assert failure is not None
    assert failure.slug == "image-corrupt"
    assert failure.detail == "the picture cannot be decoded: it ends too early"


def test_an_ended_job_is_counted_and_expires_and_an_active_one_does_not(
    records: JobRecords, job_id: str
) -> None:
    key = f"gdsr:job:{job_id}"
    assert records.client.ttl(key) == -1
    assert records.active() == [job_id]

    records.cancel(job_id)

    assert 0 < int(str(records.client.ttl(key))) <= 300
    assert records.active() == []
    assert records.client.zcard(ACTIVE) == 0
    assert records.ended() == {"cancelled": 1}


def test_jobs_whose_records_have_expired_leave_the_list_though_all_new_ones_are_known_results(
    records: JobRecords, job_id: str
) -> None:
    old = records.get(job_id).spec
    later = old.created_at + 3 * records.record_ttl
    made = JobResult(
        key="results/a.png", size=1, sha256="0" * 64, format=ResultFormat.PNG, width=4, height=4,
        model="lite", checkpoint="0" * 64, device="cpu", precision="float32", seconds={},
        expires_at=later,
    )  # fmt: skip
    known = old.model_copy(update={"id": "b" * 32, "created_at": later})
    with records.client.pipeline() as pipe:
        records.add_ended(known, made, pipe)
        pipe.execute()

    (listing,) = records.client.scan_iter("gdsr:jobs:of:*")
    assert records.client.zrange(listing, 0, -1) == [known.id.encode()]


def test_a_record_of_a_newer_release_can_be_read(records: JobRecords, job_id: str) -> None:
    records.client.hset(f"gdsr:job:{job_id}", "a_new_field", "1")

    assert records.get(job_id).state is JobState.QUEUED


def test_an_unknown_job_is_not_found(records: JobRecords) -> None:
    with pytest.raises(JobNotFound, match="there is no job 'nobody'"):
        records.get("nobody")
