"""`/batches` takes many pictures in one request. The workers' code runs in this process."""

import io
import json
import os
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import timedelta
from functools import partial
from typing import Any, BinaryIO

import httpx2
import numpy as np
import pytest
import redis
from archives import linked, overlapping, with_directory_field, zipped
from factories import engine_info, photo, register, saved
from full_disk import files_no_larger_than
from processes import wait_for
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty
from serving import PICTURE, Serve, Site, problem_of, working

from service.access.auth import hash_key
from workers.contract.blobs.file import FileBlobStore
from workers.contract.errors import ImageCorrupt
from workers.contract.observability import logs
from workers.contract.queue.admission import Superseded
from workers.contract.queue.batches import BatchItem, BatchRecords, unpack_task
from workers.contract.queue.records import JobRecords
from workers.contract.queue.runs import (
    ACTIVE,
    EVENTS,
    LEASES,
    SMALL,
    acquire_lease,
    next_task,
    requeue,
)
from workers.jobs.janitor import Sweep
from workers.jobs.recovery import run_ended, sweep
from workers.tasks.pack import pack
from workers.tasks.unpack import unpack

OTHER = saved(photo(20, 30, seed=1), "JPEG")
THREE = {"a/cat.png": PICTURE, "dog.jpg": OTHER, "notes.txt": b"not a picture"}


def send(site: Site, content: bytes, **options: Any) -> httpx2.Response:
    headers = {"Content-Type": "application/zip", **options.pop("headers", {})}
    return site.http.post("/batches", content=content, headers=headers, **options)


def send_parts(site: Site, *parts: tuple[str, bytes], **data: str) -> httpx2.Response:
    files = [("image", part) for part in parts]
    return site.http.post("/batches", files=files, data=data)


def unpacked(site: Site, response: httpx2.Response) -> dict[str, Any]:
    """Unpack a batch as a worker does and return its view."""
    assert response.status_code == 202, response.text
    batch_id = response.json()["id"]
    with working(site):
        unpack(batch_id)
    view: dict[str, Any] = site.http.get(f"/batches/{batch_id}").json()
    return view


def pack_now(site: Site, batch_id: str) -> None:
    records = BatchRecords(site.redis, record_ttl=timedelta(hours=1))
    waiting = records.pack(batch_id)
    assert waiting is not None
    with working(site):
        pack(batch_id)


def files_of(response: httpx2.Response) -> dict[str, bytes]:
    assert response.status_code == 200, response.text
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} <= {zipfile.ZIP_STORED}
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def site(serve: Serve) -> Site:
    site = serve(max_upload_bytes=100_000, max_queued_jobs=4, max_batch_pictures=5,
                 max_batch_bytes=200_000, max_pixels=100_000)  # fmt: skip
    register(site.redis, engine_info())
    return site


def test_a_zip_becomes_jobs_with_the_options_of_all_and_the_rest_says_why_not(site: Site) -> None:
    sent = send(site, zipped(THREE, deflated=True), params={"trade_off": "1", "format": "webp"})
    early = sent.json()

    batch = unpacked(site, sent)

    assert sent.headers["Location"] == early["links"]["self"] == f"/batches/{early['id']}"
    assert (early["state"], early["pictures"], early["items"]) == ("unpacking", 3, [])
    assert (batch["state"], batch["counts"]) == ("running", {"queued": 2, "failed": 1})
    assert [item["name"] for item in batch["items"]] == list(THREE)
    assert batch["items"][2]["job"] is batch["items"][2]["links"] is None
    assert batch["items"][2]["failure"]["type"] == "/problems/image-unsupported"
    for item, picture in zip(batch["items"], (PICTURE, OTHER), strict=False):
        job = site.http.get(item["links"]["self"]).json()
        assert (job["batch"], job["name"]) == (batch["id"], item["name"].rpartition("/")[2])
        assert (job["options"]["trade_off"], job["options"]["format"]) == (1, "webp")
        assert site.blobs.read(f"inputs/{item['job']}") == picture
    assert len(site.stored()) == 2
    assert len(site.http.get("/jobs").json()["jobs"]) == 2


def test_parts_of_a_form_become_the_same(site: Site) -> None:
    sent = send_parts(
        site, ("cat.png", PICTURE), ("../cat.png", OTHER), ("", PICTURE), trade_off="0.2"
    )

    batch = unpacked(site, sent)

    assert [item["name"] for item in batch["items"]] == ["cat.png", "cat (2).png", "picture-3"]
    jobs = [site.http.get(item["links"]["self"]).json() for item in batch["items"]]
    assert [job["image"]["format"] for job in jobs] == ["png", "jpeg", "png"]
    assert {job["options"]["trade_off"] for job in jobs} == {0.2}


def test_a_zip_may_be_a_part_too_and_names_the_zip_of_results(site: Site) -> None:
    files = {"archive": ("holiday.zip", zipped({"cat.png": PICTURE}))}

    batch = unpacked(site, site.http.post("/batches", files=files))

    assert (batch["name"], batch["counts"]) == ("holiday.zip", {"queued": 1})


def test_results_come_in_one_zip_under_their_names_and_failures_as_text(site: Site) -> None:
    cats = [("a/cat.png", PICTURE), ("a/cat.jpg", OTHER), ("b.png", PICTURE), ("c", b"rubbish")]
    batch = unpacked(site, send(site, zipped(cats), params={"name": "cats.zip"}))
    address = batch["links"]["result"]
    assert [item["result"] for item in batch["items"]] == [None] * len(batch["items"])
    first, second, third = (item["job"] for item in batch["items"][:3])
    site.succeed(first, b"one")
    site.succeed(second, b"two")
    early = site.http.get(address)
    site.records.fail(third, error=ImageCorrupt("it has holes"))

    asked = site.http.get(address)
    again = site.http.get(address)
    pack_now(site, batch["id"])
    done = site.http.get(address)

    assert (early.status_code, problem_of(early)) == (409, "batch-not-finished")
    assert (asked.status_code, again.status_code) == (202, 202)
    assert asked.headers["Location"] == address
    assert asked.json()["counts"] == {"succeeded": 2, "failed": 2}
    files = files_of(done)
    results = [item["result"] for item in site.http.get(batch["links"]["self"]).json()["items"]]
    assert results == ["a/cat.png", "a/cat (2).png", None, None]
    assert list(files) == ["a/cat.png", "a/cat (2).png", "b.png.txt", "c.txt"]
    assert (files["a/cat.png"], files["a/cat (2).png"]) == (b"one", b"two")
    assert b"it has holes (image-corrupt)" in files["b.png.txt"]
    assert b"(image-unsupported)" in files["c.txt"]
    assert done.headers["Content-Disposition"] == 'inline; filename="cats.zip"'
    tag = {"If-None-Match": done.headers["ETag"]}
    assert site.http.get(address, headers=tag).status_code == 304
    part = site.http.get(address, headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"PK\3\4")
    assert site.http.head(address).headers["Content-Length"] == str(len(done.content))


def test_a_zip_for_which_there_is_no_room_is_reported(site: Site) -> None:
    batch = unpacked(site, send(site, zipped({"a.png": PICTURE})))
    site.succeed(batch["items"][0]["job"], b"x" * 50_000)
    result = batch["links"]["result"]
    assert site.http.get(result).status_code == 202

    with files_no_larger_than(5_000):
        pack_now(site, batch["id"])

    refused = site.http.get(result)
    assert (refused.status_code, problem_of(refused)) == (507, "storage-full")


def test_a_request_that_waits_for_the_zip_gets_it(site: Site) -> None:
    batch = unpacked(site, send(site, zipped({"cat.png": PICTURE})))
    site.succeed(batch["items"][0]["job"])
    site.http.get(batch["links"]["result"])
    pack_now(site, batch["id"])

    response = site.http.get(batch["links"]["result"], headers={"Prefer": "wait=9"})

    assert files_of(response) == {"cat.png": b"picture"}
    assert response.headers["Preference-Applied"] == "wait=9"


REFUSED = {
    "no zip": (b"rubbish", "archive-invalid", 422),
    "a picture": (PICTURE, "archive-invalid", 422),
    "nothing": (b"", "batch-empty", 422),
    "nothing in it": (zipped({}), "batch-empty", 422),
    "a password": (with_directory_field(zipped(THREE), 8, "<H", 1), "archive-invalid", 422),
    "too many": (zipped({f"{n}.png": PICTURE for n in range(6)}), "batch-too-large", 413),
    "a bomb": (overlapping(5, size=90_000), "batch-too-large", 413),
    "too many bytes": (zipped({"a.png": bytes(200_001)}), "batch-too-large", 413),
    "more than may wait": (zipped({f"{n}.png": PICTURE for n in range(5)}), "batch-too-large", 413),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_batch_that_cannot_be_is_refused_at_once_and_leaves_nothing(
    site: Site, case: str
) -> None:
    content, slug, status = REFUSED[case]

    response = send(site, content)

    assert (response.status_code, problem_of(response)) == (status, slug)
    assert site.stored() == []
    assert site.redis.keys("gdsr:batch*") == []
    assert site.redis.hlen("gdsr:jobs:waiting") == 0


@pytest.mark.parametrize(
    ("parts", "slug"),
    [
        ([("image", ("a.png", PICTURE))] * 6, "batch-too-large"),
        ([("image", ("a.png", PICTURE)), ("archive", ("a.zip", PICTURE))], "invalid-request"),
        ([("archive", ("a.zip", PICTURE)), ("archive", ("a.zip", PICTURE))], "invalid-request"),
        ([("picture", ("a.png", PICTURE))], "invalid-request"),
        ([("image", ("a.png", b""))], "batch-empty"),
        ([("image", ("a.png", bytes(200_001)))], "batch-too-large"),
    ],
)
def test_a_form_that_is_no_batch_is_refused(site: Site, parts: Any, slug: str) -> None:
    response = site.http.post("/batches", files=parts)

    assert problem_of(response) == slug
    assert site.stored() == []


@pytest.mark.parametrize(
    ("params", "slug"),
    [({"model": "none"}, "model-unknown"), ({"trade_off": "2"}, "invalid-request")],
)
def test_options_are_checked_before_anything_is_queued(
    site: Site, params: dict[str, str], slug: str
) -> None:
    assert problem_of(send(site, zipped(THREE), params=params)) == slug
    assert site.stored() == []


BAD_ITEMS = {
    "a link": (linked("cat.png", "/etc/passwd"), "image-unsupported"),
    "a wrong checksum": (
        with_directory_field(zipped({"a.png": PICTURE}), 16, "<I", 1), "entry-damaged"
    ),
    "a lie about its size": (
        with_directory_field(zipped({"a.png": bytes(10**6)}, deflated=True), 24, "<I", 99),
        "entry-damaged",
    ),
    "too many bytes": (zipped({"a.png": bytes(100_001)}), "upload-too-large"),
    "a picture cut off": (zipped({"a.png": PICTURE[:20]}), "image-corrupt"),
    "too many pixels": (zipped({"a.png": saved(photo(400, 300) // 99, "PNG")}), "image-too-large"),
    "nothing": (zipped({"a.png": b""}), "image-missing"),
    "a zip in a zip": (zipped({"a.zip": zipped(THREE)}), "image-unsupported"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ITEMS)
def test_a_file_that_is_no_picture_fails_alone(site: Site, case: str) -> None:
    content, slug = BAD_ITEMS[case]

    batch = unpacked(site, send(site, content))

    (item,) = batch["items"]
    assert (batch["state"], item["state"]) == ("finished", "failed")
    assert item["failure"]["type"] == f"/problems/{slug}"
    assert site.stored() == []
    site.http.get(batch["links"]["result"])
    pack_now(site, batch["id"])
    assert slug in str(files_of(site.http.get(batch["links"]["result"])))


def test_an_option_that_does_not_suit_one_picture_fails_that_picture_alone(site: Site) -> None:
    tall = saved(np.zeros((5000, 2), np.uint8), "PNG")
    sent = send(site, zipped({"a.png": PICTURE, "b.png": tall}), params={"format": "webp"})

    batch = unpacked(site, sent)

    assert [item["state"] for item in batch["items"]] == ["queued", "failed"]
    assert batch["items"][1]["failure"]["type"] == "/problems/result-too-large"


def test_log_lines_of_a_batch_name_no_job_that_its_process_did_before(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "workers.tasks")
    batch_id = send(site, zipped({"a.png": PICTURE})).json()["id"]

    def line_after_a_job(task: Callable[[str], None]) -> dict[str, Any]:
        logs.job_id.set("a job")
        logs.traceparent.set(f"00-{'1' * 32}-{'2' * 16}-01")
        task(batch_id)
        found: dict[str, Any] = json.loads(logs.JSONFormatter("test").format(caplog.records[-1]))
        return found

    with working(site):
        line = copy_context().run(line_after_a_job, unpack)
    assert ("1 jobs" in line["message"], line.get("job"), line.get("trace")) == (True, None, None)
    (job_id,) = site.records.active()
    site.succeed(job_id)
    site.http.get(f"/batches/{batch_id}/result")
    with working(site):
        line = copy_context().run(line_after_a_job, pack)
    assert ("packed" in line["message"], line.get("job"), line.get("trace")) == (True, None, None)


def test_unpacking_waits_for_a_store_that_is_away(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    sent = send(site, zipped(THREE))
    away = site.blobs.root.with_name("away")
    site.blobs.root.rename(away)

    with working(site), ThreadPoolExecutor(1) as pool:
        unpacking = pool.submit(copy_context().run, unpack, sent.json()["id"])
        wait_for(lambda: unpacking.done() or "waiting for the picture store" in caplog.text)
        away.rename(site.blobs.root)
        unpacking.result()

    batch = site.http.get(sent.headers["Location"]).json()
    assert (batch["state"], batch["counts"]) == ("running", {"queued": 2, "failed": 1})


def test_jobs_that_were_queued_as_the_time_limit_came_keep_their_pictures(site: Site) -> None:
    class Slow(redis.Redis):
        """Answers too late once jobs were queued."""

        late = False

        def execute_command(self, *args: Any, **options: Any) -> Any:
            reply = super().execute_command(*args, **options)
            if args[0] == "EVAL" and not self.late and site.redis.exists(ACTIVE):
                self.late = True
                raise JobTimeoutException
            return reply

    sent = send(site, zipped({"a.png": PICTURE, "b.jpg": OTHER}))
    with Slow.from_url(site.settings.redis_url) as slow:
        site.records = JobRecords(slow, record_ttl=site.settings.record_ttl)
        batch = unpacked(site, sent)

    assert batch["counts"] == {"queued": 2}
    assert {f"inputs/{item['job']}" for item in batch["items"]} <= {*site.stored()}


def test_packing_waits_for_a_store_that_is_away(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    batch = unpacked(site, send(site, zipped({"a.png": PICTURE})))
    site.succeed(batch["items"][0]["job"], b"result")
    assert site.http.get(batch["links"]["result"]).status_code == 202
    away = site.blobs.root.with_name("away")
    site.blobs.root.rename(away)

    with working(site), ThreadPoolExecutor(1) as pool:
        packing = pool.submit(copy_context().run, pack, batch["id"])
        wait_for(lambda: packing.done() or "waiting for the picture store" in caplog.text)
        away.rename(site.blobs.root)
        packing.result()

    assert site.http.get(batch["links"]["result"]).status_code == 200


@pytest.mark.timeout(300, method="thread")  # the time limit of tasks uses the signal
def test_packing_that_exceeds_its_time_limit_is_reported(site: Site) -> None:
    batch = unpacked(site, send(site, zipped({"a.png": PICTURE})))
    job = site.succeed(batch["items"][0]["job"], b"result")
    assert site.http.get(batch["links"]["result"]).status_code == 202
    assert job.result is not None
    blob = site.blobs.root / job.result.key
    blob.unlink()
    os.mkfifo(blob)  # a disk that does not answer

    with working(site), UnixSignalDeathPenalty(1, JobTimeoutException):  # type: ignore[no-untyped-call]
        pack(batch["id"])

    refused = site.http.get(batch["links"]["result"])
    assert problem_of(refused) == "job-timed-out"
    assert "exceeded its time limit of 3 min" in refused.json()["detail"]


def test_a_client_that_waits_for_a_zip_costs_few_reads_and_gets_it(site: Site) -> None:
    batch = unpacked(site, send(site, zipped({"a.png": PICTURE})))
    site.succeed(batch["items"][0]["job"], b"result")

    def waiting(seconds: int) -> httpx2.Response:
        headers = {"Prefer": f"wait={seconds}"}
        return site.http.get(batch["links"]["result"], headers=headers)

    def reads() -> int:
        calls: int = site.redis.info("commandstats")["cmdstat_hget"]["calls"]
        return calls

    assert waiting(0).status_code == 202
    before = reads()
    assert waiting(2).status_code == 202
    assert reads() - before < 10
    with site.redis.pubsub() as events:
        events.subscribe(EVENTS)
        with working(site), ThreadPoolExecutor(1) as pool:
            answer = pool.submit(waiting, 50)
            pack(batch["id"])
            assert answer.result().status_code == 200
        published = iter(partial(events.get_message, timeout=1), None)
        assert f"{batch['id']} packed".encode() in [message["data"] for message in published]


def test_the_upload_of_a_batch_that_expires_before_a_worker_comes_is_removed(site: Site) -> None:
    batch_id = send(site, zipped(THREE)).json()["id"]
    upload = site.blobs.root / "inputs" / batch_id
    os.utime(upload, (0, 0))
    site.redis.delete(f"gdsr:batch:{batch_id}")  # as Redis does when it expires
    janitor = Sweep(records=site.records, blobs=site.blobs)

    assert next_task(site.redis, SMALL, seconds=None) == f"batch-{batch_id}"  # which is unknown
    sweep(site.records, lambda *_: None)
    janitor.sweep(result_ttl=timedelta(hours=1), quota=None)

    assert site.stored() == []


def test_no_picture_of_a_batch_is_queued_if_other_jobs_took_the_room_meanwhile(site: Site) -> None:
    sent = send(site, zipped(THREE))
    for _ in range(3):
        site.submit()

    batch = unpacked(site, sent)

    assert (batch["state"], batch["items"]) == ("failed", [])
    assert batch["failure"]["type"] == "/problems/queue-full"
    assert len(site.records.active()) == len(site.stored()) == 3
    result = site.http.get(batch["links"]["result"])
    assert result.status_code == 500
    assert result.json()["detail"] == batch["failure"]["detail"]


def test_the_pixels_of_a_day_are_counted_for_each_picture(serve: Serve) -> None:
    site = serve(pixels_per_day=1500)
    register(site.redis, engine_info())

    two = unpacked(site, send(site, zipped({"a.png": PICTURE, "b.png": PICTURE})))
    one = unpacked(site, send(site, zipped({"a.png": PICTURE})))

    assert two["counts"] == {"queued": 2}  # 1200 pixels together
    assert one["failure"]["type"] == "/problems/pixels-exceeded"


TWO = zipped({"a.png": PICTURE, "b.png": PICTURE})  # 1200 pixels


@pytest.mark.parametrize("rate", ["1/hour", "1/2 hours;9/day"])
def test_more_pictures_than_a_rate_ever_allows_are_refused_for_good(
    serve: Serve, rate: str
) -> None:
    site = serve(rate_limit=rate)
    register(site.redis, engine_info())

    response = send(site, TWO)

    assert (response.status_code, problem_of(response)) == (413, "batch-too-large")
    assert "Retry-After" not in response.headers
    assert response.json()["limits"] == {"rate_limit": 1}
    assert "1 pictures in" in response.json()["detail"]
    assert "send several" in response.json()["detail"]


@pytest.mark.parametrize(
    "limits", [{"pixels_per_day": 1000}, {"max_queued_pixels": 1000, "max_pixels": 1000}]
)
def test_more_pixels_than_are_ever_allowed_fail_for_good(
    serve: Serve, limits: dict[str, int]
) -> None:
    site = serve(**limits)
    register(site.redis, engine_info())

    batch = unpacked(site, send(site, TWO))

    assert batch["failure"]["type"] == "/problems/batch-too-large"
    assert "1,000 pixels" in batch["failure"]["detail"]
    assert len(site.stored()) == 0


def test_a_picture_beyond_the_pixels_of_a_day_is_refused_for_good(serve: Serve) -> None:
    site = serve(pixels_per_day=500)
    register(site.redis, engine_info())

    alone = site.post()
    batch = unpacked(site, send(site, TWO))

    assert (alone.status_code, problem_of(alone)) == (413, "image-too-large")
    assert alone.json()["limits"]["max_pixels"] == site.http.get("/limits").json()["max_pixels"]
    assert [item["failure"]["type"] for item in batch["items"]] == ["/problems/image-too-large"] * 2


def test_the_rate_counts_each_picture(serve: Serve) -> None:
    site = serve(rate_limit="5/hour")
    register(site.redis, engine_info())

    first = send(site, zipped(THREE))
    second = send(site, zipped(THREE))

    assert first.headers["RateLimit"].startswith('"uploads";r=2;')
    assert (second.status_code, problem_of(second)) == (429, "rate-exceeded")
    assert len(site.stored()) == 1


def test_a_batch_is_visible_to_its_own_key_alone(serve: Serve, tmp_path: Any) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"a:{hash_key('key a')}\nb:{hash_key('key b')}\n")
    site = serve(api_keys_file=keys)
    register(site.redis, engine_info())
    mine, other = {"X-API-Key": "key a"}, {"X-API-Key": "key b"}
    batch_id = send(site, zipped(THREE), headers=mine).json()["id"]
    with working(site):
        unpack(batch_id)

    job_id = site.http.get(f"/batches/{batch_id}", headers=mine).json()["items"][0]["job"]
    assert site.http.get(f"/jobs/{job_id}", headers=mine).status_code == 200
    assert problem_of(send(site, zipped(THREE))) == "key-missing"
    for method, path in (("GET", ""), ("GET", "/result"), ("DELETE", "")):
        response = site.http.request(method, f"/batches/{batch_id}{path}", headers=other)
        assert (response.status_code, problem_of(response)) == (404, "batch-not-found")
    assert problem_of(site.http.get(f"/jobs/{job_id}", headers=other)) == "job-not-found"


def test_a_repeated_request_is_one_batch(site: Site) -> None:
    key = {"Idempotency-Key": "one"}

    first = send(site, zipped(THREE), headers=key)
    again = send(site, zipped(THREE), headers=key)
    other = send(site, zipped({"a.png": PICTURE}), headers=key)

    assert first.json()["id"] == again.json()["id"]
    assert problem_of(other) == "idempotency-key-reused"
    assert len(site.stored()) == 1


def test_deleting_cancels_what_is_under_way_and_erases_everything(site: Site) -> None:
    batch = unpacked(site, send(site, zipped(THREE)))
    done, waiting = (item["job"] for item in batch["items"][:2])
    site.succeed(done)

    response = site.http.delete(batch["links"]["self"])

    assert (response.status_code, response.content) == (204, b"")
    assert site.stored() == site.records.active() == []
    assert waiting.encode() not in site.redis.lrange("rq:queue:gdsr-small", 0, -1)
    for address in (batch["links"]["self"], f"/jobs/{done}", f"/jobs/{waiting}"):
        assert site.http.get(address).status_code == 404


def test_deleting_a_batch_that_waits_or_is_being_unpacked_leaves_no_job(site: Site) -> None:
    waits, runs = (send(site, zipped({"a.png": PICTURE})).json()["id"] for _ in range(2))
    records = BatchRecords(site.redis, record_ttl=timedelta(hours=1))
    assert acquire_lease(site.redis, unpack_task(runs), run="run", worker="w")
    batch = records.get(runs)
    assert site.http.delete(f"/batches/{waits}").status_code == 204
    assert site.http.delete(f"/batches/{runs}").status_code == 204

    for batch_id in (waits, runs):
        with working(site):
            unpack(batch_id)

    assert batch.items is None
    assert site.stored() == site.records.active() == records.unpacking() == []
    assert site.redis.hlen("gdsr:jobs:waiting") == 0


def test_a_run_that_was_overtaken_queues_nothing(site: Site) -> None:
    sent = send(site, zipped({"a.png": PICTURE}))
    batches = site.server.app.state.services.batches
    batch = batches.get(sent.json()["id"])
    assert acquire_lease(site.redis, unpack_task(batch.id), run="old", worker="w")
    assert requeue(site.redis, f"batch-{batch.id}", run="old", why="leaves") == "queued"
    assert acquire_lease(site.redis, unpack_task(batch.id), run="new", worker="w")

    with pytest.raises(Superseded):
        batches.submit_items(batch, [BatchItem(name="a.png")], [], run="old")

    assert batches.get(batch.id).items is None
    requeue(site.redis, f"batch-{batch.id}", run="new", why="leaves")
    assert unpacked(site, sent)["counts"] == {"queued": 1}


def test_erasing_a_job_takes_it_out_of_the_zip(site: Site) -> None:
    batch = unpacked(site, send(site, zipped({"a.png": PICTURE, "b.png": PICTURE})))
    for item in batch["items"]:
        site.succeed(item["job"], item["name"].encode())
    site.http.get(batch["links"]["result"])
    pack_now(site, batch["id"])

    site.http.delete(f"/jobs/{batch['items'][0]['job']}")

    view = site.http.get(batch["links"]["self"]).json()
    assert view["counts"] == {"gone": 1, "succeeded": 1}
    assert site.http.get(batch["links"]["result"]).status_code == 202
    pack_now(site, batch["id"])
    files = files_of(site.http.get(batch["links"]["result"]))
    assert list(files) == ["a.png.txt", "b.png"]


def test_results_that_have_expired_are_gone(site: Site) -> None:
    batch = unpacked(site, send(site, zipped({"a.png": PICTURE})))
    site.succeed(batch["items"][0]["job"], kept=timedelta(seconds=-1))

    response = site.http.get(batch["links"]["result"])

    assert (response.status_code, problem_of(response)) == (410, "batch-expired")


def test_a_zip_that_the_janitor_took_is_made_again(site: Site) -> None:
    batch = unpacked(site, send(site, zipped({"a.png": PICTURE})))
    site.succeed(batch["items"][0]["job"])
    site.http.get(batch["links"]["result"])
    pack_now(site, batch["id"])
    (archive,) = [name for name in site.stored() if name.endswith(".zip")]
    site.blobs.delete(archive)

    assert site.http.get(batch["links"]["result"]).status_code == 202
    pack_now(site, batch["id"])
    assert files_of(site.http.get(batch["links"]["result"])) == {"a.png": b"picture"}


def test_packing_that_was_overtaken_leaves_the_zip_of_its_successor(site: Site) -> None:
    batch = unpacked(site, send(site, zipped({"a.png": PICTURE})))
    job = site.succeed(batch["items"][0]["job"], b"result")
    assert job.result is not None
    site.http.get(batch["links"]["result"])
    blobs, read, stopped = site.blobs, threading.Event(), threading.Event()
    blobs.delete(job.result.key)  # so that the zips differ

    class Stopping(FileBlobStore):
        def keep(self, file: BinaryIO, key: str) -> None:
            read.set()
            stopped.wait()
            super().keep(file, key)

    site.blobs = Stopping(site.settings.blob_dir)
    with working(site, run="old"), ThreadPoolExecutor(1) as pool:
        old = pool.submit(copy_context().run, pack, batch["id"])
        read.wait()
        requeue(site.redis, f"zip-{batch['id']}", run="old", why="lost")
        site.blobs = blobs
        blobs.write(job.result.key, [b"result"])
        with working(site, run="new"):
            pack(batch["id"])
        stopped.set()
        old.result()

    assert files_of(site.http.get(batch["links"]["result"])) == {"a.png": b"result"}
    assert len([name for name in site.stored() if name.endswith(".zip")]) == 1


@pytest.mark.parametrize(("why", "slug"), [("crashed", "job-crashed"), ("overdue", "worker-lost")])
def test_a_batch_whose_worker_died_twice_reports_worker_lost(
    site: Site, why: Any, slug: str
) -> None:
    batch_id = send(site, zipped(THREE)).json()["id"]
    for run in ("one", "two"):
        assert acquire_lease(site.redis, unpack_task(batch_id), run=run, worker="w")
        site.redis.zadd(LEASES, {f"batch-{batch_id}": 1})
        run_ended(site.records, f"batch-{batch_id}", run=run, why=why, on_failure=lambda *_: None)

    batch = site.http.get(f"/batches/{batch_id}").json()
    assert batch["failure"]["type"] == f"/problems/{slug}"
    assert site.redis.hlen("gdsr:jobs:waiting") == site.redis.zcard(LEASES) == 0


def test_a_zip_whose_packer_died_twice_is_reported_for_a_moment(site: Site) -> None:
    batch = unpacked(site, send(site, zipped({"a.png": PICTURE})))
    site.succeed(batch["items"][0]["job"])
    site.http.get(batch["links"]["result"])
    task = f"zip-{batch['id']}"
    for run in ("one", "two"):
        assert acquire_lease(site.redis, task, run=run, worker="w")
        site.redis.zadd(LEASES, {task: 1})
        sweep(site.records, lambda *_: None)

    assert problem_of(site.http.get(batch["links"]["result"])) == "worker-lost"
    assert 0 < site.redis.ttl(f"gdsr:zip:{batch['id']}") <= 30


def test_the_janitor_leaves_an_upload_that_waits_to_be_unpacked(site: Site) -> None:
    send(site, zipped(THREE))

    due = Sweep(records=site.records, blobs=site.blobs)
    assert len(due._needed()) == 1
    assert due._needed() == {site.stored()[0].removeprefix("inputs/")}
