"""A lost reply changes nothing: a script that is repeated gives the same answer."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from lossy import LossyProxy, lossy
from processes import ValkeyServer, running_valkey
from records import image_info, model_info, options

from workers.contract.errors import ImageCorrupt, QueueFull, QueueUnavailable, WorkerLost
from workers.contract.images.formats import ResultFormat
from workers.contract.queue.admission import QueueLimits, pixels_today
from workers.contract.queue.batch_queue import BatchQueue
from workers.contract.queue.batches import (
    Archive,
    Batch,
    BatchItem,
    BatchSpec,
    Pack,
    pack_task,
    unpack_task,
)
from workers.contract.queue.connection import connect
from workers.contract.queue.idempotency import IdempotencyKey
from workers.contract.queue.jobs import FINAL_STATES, Job, JobResult, JobSpec, JobState
from workers.contract.queue.queue import JobQueue, blend_spec, new_job_id
from workers.contract.queue.records import JobRecords
from workers.contract.queue.runs import (
    SMALL,
    acquire_lease,
    open_queue,
    renew_lease,
    requeue,
    requeue_lost,
)
from workers.contract.queue.validation import RequestedOptions

HOUR = timedelta(hours=1)
RESULT = JobResult(
    key="results/a.png", size=1, sha256="0", format=ResultFormat.PNG, width=4, height=4,
    model="lite", checkpoint="0", device="CPU", precision="float32", seconds={},
    expires_at=datetime.now(UTC) + HOUR,
)  # fmt: skip


class Twice(redis.Redis):
    """Runs each script twice and returns the second reply."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        if args[0] == "EVAL":
            super().execute_command(*args, **options)
        return super().execute_command(*args, **options)


class Forgetful(redis.Redis):
    """Forgets all scripts before each command, like a server that has just been restarted."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        super().execute_command("SCRIPT FLUSH")
        return super().execute_command(*args, **options)


def make_queue(client: redis.Redis, *, jobs: int = 100) -> JobQueue:
    bounds = QueueLimits(jobs=jobs, pixels=10**9, pixels_per_day=10**9)
    return JobQueue(client, record_ttl=HOUR, bounds=bounds, small_pixels=100 * 100)


def submitted(
    queue: JobQueue, *, idempotency: IdempotencyKey | None = None, born: bool = False
) -> Job:
    job_id = new_job_id() if idempotency is None else idempotency.job_id
    result = RESULT if born else None
    return queue.submit(
        job_id,
        image_info(),
        options(),
        model_info(),
        idempotency=idempotency,
        result=result,
        owner="ann",
    )


def idempotency_key() -> IdempotencyKey:
    return IdempotencyKey(owner="ann", key="word", fingerprint="f", job_id=new_job_id())


def started(queue: JobQueue) -> str:
    job_id = submitted(queue).id
    assert queue.records.start(job_id, run="run", worker="w")
    return job_id


def succeeded(queue: JobQueue) -> Job:
    job_id = started(queue)
    assert queue.records.succeed(job_id, run="run", result=RESULT)
    return queue.get(job_id)


def failed(queue: JobQueue) -> bool:
    return queue.records.fail(started(queue), run="run", error=WorkerLost())


def swept(queue: JobQueue) -> bool:
    return queue.records.fail(submitted(queue).id, error=WorkerLost())


def handed_back(queue: JobQueue) -> list[str]:
    job_id = started(queue)
    first = requeue(queue.client, job_id, run="run", why="lost")
    assert queue.records.start(job_id, run="next", worker="w")
    return [first, requeue(queue.client, job_id, run="next", why="crashed")]


def beaten(queue: JobQueue) -> bool:
    return renew_lease(queue.client, started(queue), run="run")


def redelivered(queue: JobQueue) -> int:
    job_id = submitted(queue).id
    open_queue(SMALL, queue.client).remove(job_id)
    requeue_lost(queue.client)
    return len(queue.queue_positions())


def cancelled(queue: JobQueue) -> bool:
    return queue.cancel(submitted(queue).id).state is JobState.CANCELLED


def blended(queue: JobQueue) -> int:
    source = succeeded(queue)
    blend_id = new_job_id()
    spec = blend_spec(blend_id, source, options(trade_off=0.2))
    first = queue.submit_blend(spec)
    queue.records.fail(first.id, error=ImageCorrupt("no"))
    again = queue.submit_blend(spec, instead=queue.get(blend_id))
    assert again.state is JobState.QUEUED
    return len(queue.derived_from(source.id))


def batch_of(queue: JobQueue, *, idempotency: IdempotencyKey | None = None) -> Batch:
    batch_id = new_job_id() if idempotency is None else idempotency.job_id
    spec = BatchSpec(
        id=batch_id, requested=RequestedOptions(), size=100, pictures=2, owner="ann",
        time_limit=timedelta(minutes=2),
    )  # fmt: skip
    return BatchQueue(queue).submit(spec, idempotency=idempotency)


def unpacked(queue: JobQueue) -> int:
    batches, batch = BatchQueue(queue), batch_of(queue)
    assert acquire_lease(queue.client, unpack_task(batch.id), run="run", worker="w")
    specs = [
        JobSpec(
            id=new_job_id(), created_at=datetime.now(UTC), image=image_info(), options=options(),
            time_limit=timedelta(minutes=2), owner="ann",
        )
        for _ in range(2)
    ]  # fmt: skip
    items = [BatchItem(name=spec.id, job_id=spec.id) for spec in specs]
    batches.submit_items(batch, items, specs, run="run")
    return len(batches.get(batch.id).job_ids)


def unpacking_failed(queue: JobQueue) -> bool:
    batches, batch = BatchQueue(queue), batch_of(queue)
    assert acquire_lease(queue.client, unpack_task(batch.id), run="run", worker="w")
    return batches.records.fail(batch.id, error=WorkerLost(), run="run")


def packed(queue: JobQueue) -> bool:
    batches, batch = BatchQueue(queue), batch_of(queue)
    batches.submit_pack(batch.id, size=100)
    assert acquire_lease(queue.client, pack_task(batch.id), run="run", worker="w")
    archive = Archive(key="results/z.zip", size=1, sha256="0", expires_at=datetime.now(UTC))
    return batches.records.end_pack(batch.id, Pack(archive=archive), run="run", kept=HOUR)


STEPS: dict[str, Callable[[JobQueue], object]] = {
    "submit": lambda queue: submitted(queue).state,
    "submit with a key": lambda queue: submitted(queue, idempotency=idempotency_key()).state,
    "submit with a result": lambda queue: submitted(queue, born=True).state,
    "succeed": lambda queue: succeeded(queue).state,
    "fail": failed,
    "sweep": swept,
    "hand back": handed_back,
    "beat": beaten,
    "deliver again": redelivered,
    "cancel": cancelled,
    "blend": blended,
    "batch": lambda queue: batch_of(queue, idempotency=idempotency_key()).items,
    "unpack": unpacked,
    "fail to unpack": unpacking_failed,
    "pack": packed,
}


def found(client: redis.Redis) -> dict[str, object]:
    """Return the state after a step, without the parts that always differ."""
    queue = make_queue(client)
    waiting, running = queue.records.load()
    return {
        "depths": queue.depths(),
        "ended": queue.records.ended(),
        "active": len(queue.records.active()),
        "load": (sorted(waiting.values()), running),
        "pixels": pixels_today(client, "ann"),
        "keys": sorted(key.split(b":")[1] for key in client.keys("gdsr:*")),
    }


@pytest.fixture
def proxy(valkey: ValkeyServer) -> Iterator[LossyProxy]:
    with lossy(valkey.url) as proxy:
        yield proxy


@pytest.fixture
def through(proxy: LossyProxy) -> Iterator[redis.Redis]:
    with connect(proxy.url, timeout=timedelta(seconds=60), retries=0) as client:
        yield client


@pytest.mark.parametrize("step", STEPS)
def test_a_script_that_runs_twice_does_what_it_does_once(
    step: str, client: redis.Redis, valkey: ValkeyServer
) -> None:
    said, left = STEPS[step](make_queue(client)), found(client)
    client.flushall()
    with Twice.from_url(valkey.url) as twice:
        assert STEPS[step](make_queue(twice)) == said

    assert found(client) == left


@pytest.mark.parametrize("step", STEPS)
def test_a_server_may_forget_all_scripts_at_any_time(
    step: str, client: redis.Redis, valkey: ValkeyServer
) -> None:
    said, left = STEPS[step](make_queue(client)), found(client)
    client.flushall()
    with Forgetful.from_url(valkey.url) as forgetful:
        assert STEPS[step](make_queue(forgetful)) == said

    assert found(client) == left


@pytest.mark.parametrize("step", STEPS)
def test_any_reply_may_be_lost_on_the_way(
    step: str, client: redis.Redis, through: redis.Redis, proxy: LossyProxy
) -> None:
    proxy.lose(0)
    said, left, scripts = STEPS[step](make_queue(through)), found(client), proxy.scripts
    assert scripts
    for number in range(1, scripts + 1):
        client.flushall()
        proxy.lose(number)
        assert STEPS[step](make_queue(through)) == said, f"script {number} of {scripts}"
        assert proxy.lost == 1
        assert found(client) == left, f"script {number} of {scripts}"


@pytest.mark.parametrize("keyed", [False, True])
def test_a_job_whose_fate_is_not_known_is_said_to_be_so_and_is_there(
    keyed: bool,  # noqa: FBT001
    client: redis.Redis,
    through: redis.Redis,
    proxy: LossyProxy,
) -> None:
    proxy.lose(1, times=4)
    with pytest.raises(QueueUnavailable) as unknown:
        submitted(make_queue(through), idempotency=idempotency_key() if keyed else None)

    assert not unknown.value.refused
    assert make_queue(client).depths()["gdsr-small"] == 1
    if keyed:
        (first,) = make_queue(client).records.active()
        assert submitted(make_queue(client), idempotency=idempotency_key()).id == first


def test_a_job_is_accepted_although_several_replies_in_a_row_are_lost(
    client: redis.Redis, through: redis.Redis, proxy: LossyProxy
) -> None:
    proxy.lose(1, times=3)

    job = submitted(make_queue(through))

    assert proxy.lost == 3
    assert make_queue(client).records.active() == [job.id]


def test_a_refusal_of_the_repeat_is_none_of_the_first(
    client: redis.Redis, through: redis.Redis, proxy: LossyProxy
) -> None:
    submitted(make_queue(client))
    proxy.lose(1)

    with pytest.raises(QueueUnavailable) as unknown:
        submitted(make_queue(through, jobs=1))
    with pytest.raises(QueueFull):
        submitted(make_queue(through, jobs=1))
    assert not unknown.value.refused


def test_a_server_that_has_become_read_only_does_not_refuse_what_it_did_before(
    client: redis.Redis, valkey: ValkeyServer
) -> None:
    class Demoted(redis.Redis):
        """Loses the first reply to a script, as its server becomes a replica."""

        def execute_command(self, *args: Any, **options: Any) -> Any:
            reply = super().execute_command(*args, **options)
            if args[0] == "EVAL":
                client.flushall()  # the replica lags behind
                client.execute_command("REPLICAOF", "127.0.0.1", "1")
                raise redis.ConnectionError
            return reply

    try:
        with Demoted.from_url(valkey.url) as demoted, pytest.raises(QueueUnavailable) as unknown:
            submitted(make_queue(demoted))
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")
    assert not unknown.value.refused


class LifeOfAJob(RuleBasedStateMachine):
    """Jobs change state while any reply may be lost."""

    server: ValkeyServer

    @initialize()
    def begin(self) -> None:
        self.client = redis.Redis.from_url(self.server.url)
        self.client.flushall()
        self.proxying = lossy(self.server.url)
        self.proxy = self.proxying.__enter__()
        self.through = connect(self.proxy.url, timeout=timedelta(seconds=60), retries=0)
        self.queue = make_queue(self.through)
        self.jobs: dict[str, tuple[JobState, str | None]] = {}

    def teardown(self) -> None:
        self.through.close()
        self.proxying.__exit__(None, None, None)
        self.client.close()

    def weather(self, lose: bool) -> None:  # noqa: FBT001
        self.proxy.lose(1 if lose else 0)

    def records(self, lose: bool) -> JobRecords:  # noqa: FBT001
        self.weather(lose)
        return self.queue.records

    def chosen(self, data: st.DataObject) -> tuple[str, JobState, str | None]:
        job_id = data.draw(st.sampled_from(sorted(self.jobs)))
        return job_id, *self.jobs[job_id]

    @rule(lose=st.booleans(), keyed=st.booleans())
    def submit(self, lose: bool, keyed: bool) -> None:  # noqa: FBT001
        self.weather(lose)
        job = submitted(self.queue, idempotency=idempotency_key() if keyed else None)
        self.jobs.setdefault(job.id, (JobState.QUEUED, None))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), lose=st.booleans(), run=st.sampled_from("ab"))
    def start(self, data: st.DataObject, lose: bool, run: str) -> None:  # noqa: FBT001
        job_id, state, own = self.chosen(data)
        done = self.records(lose).start(job_id, run=run, worker="w")
        assert done is (state is JobState.QUEUED or (state is JobState.RUNNING and own == run))
        if done:
            self.jobs[job_id] = JobState.RUNNING, run

    @precondition(lambda self: self.jobs)
    @rule(
        data=st.data(),
        lose=st.booleans(),
        run=st.sampled_from("ab"),
        end=st.sampled_from(["succeed", "fail", "leave", "progress"]),
    )
    def end_run(self, data: st.DataObject, lose: bool, run: str, end: str) -> None:  # noqa: FBT001
        job_id, state, own = self.chosen(data)
        records = self.records(lose)
        may = {JobState.RUNNING}
        if end in ("succeed", "leave"):  # a late result of a run that was lost is welcome
            may = {*JobState} - FINAL_STATES
        match end:
            case "succeed":
                done = records.succeed(job_id, run=run, result=RESULT)
                after = JobState.SUCCEEDED
            case "fail":
                done = records.fail(job_id, run=run, error=WorkerLost())
                after = JobState.FAILED
            case "leave":
                verdict = requeue(records.client, job_id, run=run, why="leaves")
                done, after = verdict == "queued", JobState.QUEUED
            case _:
                done = records.progress(job_id, run=run, tiles_done=1, tiles=2)
                after = state
        assert done is (state in may and own == run)
        if done:
            self.jobs[job_id] = after, own

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), lose=st.booleans())
    def cancel(self, data: st.DataObject, lose: bool) -> None:  # noqa: FBT001
        job_id, state, own = self.chosen(data)
        done = self.records(lose).cancel(job_id)
        assert done is (state not in FINAL_STATES)
        if done:
            self.jobs[job_id] = JobState.CANCELLED, own

    @invariant()
    def nothing_is_lost_or_counted_twice(self) -> None:
        if not hasattr(self, "jobs"):
            return
        records = JobRecords(self.client, record_ttl=HOUR)
        states = {
            job_id: job.state for job_id, job in records.get_many(sorted(self.jobs)).items() if job
        }
        assert states == {job_id: state for job_id, (state, _) in self.jobs.items()}
        ended = [state for state in states.values() if state in FINAL_STATES]
        assert records.ended() == {state: ended.count(state) for state in set(ended)}
        waiting, running = records.load()
        assert set(waiting) == {i for i, state in states.items() if state is JobState.QUEUED}
        assert len(running) == list(states.values()).count(JobState.RUNNING)


def test_a_job_goes_its_way_whatever_reply_is_lost(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as server:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("appendfsync", "no")
        machine = type("Machine", (LifeOfAJob,), {"server": server})
        checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
        machine.TestCase.settings = settings(
            max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=checks,
            database=None,
        )  # fmt: skip
        machine.TestCase().runTest()
