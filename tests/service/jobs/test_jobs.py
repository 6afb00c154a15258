"""`/jobs/{id}` lets clients see, fetch, cancel and erase a job."""

import hashlib
import socket
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from processes import wait_for
from serving import TIMEOUT, Site, problem_of

from workers.contract import errors
from workers.contract.errors import GDSRError
from workers.contract.queue.jobs import JobState


def test_a_view_follows_the_job_from_queue_to_end(site: Site) -> None:
    first, second = site.submit(), site.submit()
    queued = site.http.get(f"/jobs/{second}")
    site.start(second)
    site.records.progress(second, run="run", tiles_done=3, tiles=12)
    running = site.http.get(f"/jobs/{second}")
    done = site.succeed(first, b"picture")
    ended = site.http.get(f"/jobs/{first}")

    assert (queued.json()["state"], queued.json()["queue_position"]) == ("queued", 1)
    assert queued.headers["Retry-After"] == running.headers["Retry-After"] == "1"
    assert (running.json()["state"], running.json()["queue_position"]) == ("running", None)
    assert running.json()["progress"] == {"tiles_done": 3, "tiles": 12}
    assert running.json()["started_at"] >= running.json()["created_at"]
    view = ended.json()
    assert "Retry-After" not in ended.headers
    assert view["state"] == "succeeded"
    assert view["finished_at"] >= view["started_at"]
    assert view["result"] == {
        **done.result.model_dump(mode="json", exclude={"key", "has_alpha"}),
        "branches": [],
        "previews": [],
        "sha256": hashlib.sha256(b"picture").hexdigest(),
    }
    assert view["failure"] is None


def test_a_view_tells_nothing_of_workers_and_files(site: Site) -> None:
    job_id = site.submit()
    site.succeed(job_id)

    view = site.http.get(f"/jobs/{job_id}").json()

    assert not {"run", "worker", "key"} & {*view, *view["image"], *view["result"]}


@pytest.mark.parametrize("path", ["/jobs/nothing", "/jobs/nothing/result"])
def test_an_unknown_job_is_a_problem(site: Site, path: str) -> None:
    response = site.http.get(path)

    assert response.status_code == 404
    assert problem_of(response) == "job-not-found"


def test_a_job_id_may_be_anything(site: Site) -> None:
    for name in ("%0a%ff", "%00", "*", "a" * 5000):
        response = site.http.get(f"/jobs/{name}")

        assert response.status_code == 404
        assert response.json()["type"] == "/problems/job-not-found"


def test_the_result_is_the_picture_with_its_type_name_and_tag(site: Site) -> None:
    job_id = site.submit()
    site.succeed(job_id, b"picture")

    response = site.http.get(f"/jobs/{job_id}/result")

    tag = f'"{hashlib.sha256(b"picture").hexdigest()}"'
    assert response.content == b"picture"
    assert response.headers["Content-Type"] == "image/png"
    assert response.headers["Content-Disposition"] == f'inline; filename="{job_id}.png"'
    assert response.headers["ETag"] == tag
    assert response.headers["Cache-Control"] == "private, no-cache"
    head = site.http.head(f"/jobs/{job_id}/result")
    assert (head.status_code, head.headers["Content-Length"], head.content) == (200, "7", b"")


def test_a_client_that_has_the_picture_is_not_sent_it_again(site: Site) -> None:
    job_id = site.submit()
    site.succeed(job_id)
    tag = site.http.get(f"/jobs/{job_id}/result").headers["ETag"]

    same = site.http.get(f"/jobs/{job_id}/result", headers={"If-None-Match": f"W/{tag}"})
    other = site.http.get(f"/jobs/{job_id}/result", headers={"If-None-Match": '"0"'})

    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", tag)
    assert other.status_code == 200


def test_a_part_of_the_picture_may_be_asked_for(site: Site) -> None:
    job_id = site.submit()
    site.succeed(job_id, b"picture")

    response = site.http.get(f"/jobs/{job_id}/result", headers={"Range": "bytes=2-4"})

    assert (response.status_code, response.content) == (206, b"ctu")
    assert response.headers["Content-Range"] == "bytes 2-4/7"


def test_a_result_that_is_not_there_yet_says_when_to_ask_again(site: Site) -> None:
    job_id = site.submit()
    queued = site.http.get(f"/jobs/{job_id}/result")
    site.start(job_id)
    running = site.http.get(f"/jobs/{job_id}/result")

    for response, state in ((queued, "queued"), (running, "running")):
        assert response.status_code == 409
        assert problem_of(response) == "job-not-finished"
        assert response.headers["Retry-After"] == "1"
        assert state in response.json()["detail"]


FAILURES = [
    (errors.ImageCorrupt("its end is missing"), 422),
    (errors.ImageAnimated(frames=2), 422),
    (errors.BlobMissing("inputs/x"), 410),
    (errors.StorageFull(), 507),
    (errors.EngineLost("it died twice"), 500),
    (errors.EngineOutOfMemory(tile=64), 500),
    (errors.ModelNotLoaded(name="lite", reason="its file has changed"), 500),
    (errors.TileNotFinite(), 500),
    (errors.WorkerLost(), 500),
    (errors.JobCrashed(), 500),
    (errors.JobTimedOut(time_limit=timedelta(seconds=120)), 500),
    (errors.StorageUnavailable("no answer"), 500),
    (errors.JobOutOfMemory(limit=6), 500),
]


@pytest.mark.parametrize(("error", "status"), FAILURES)
def test_a_failed_job_shows_its_failure_as_a_problem(
    site: Site, error: GDSRError, status: int
) -> None:
    job_id = site.submit()
    site.records.fail(job_id, error=error)

    view = site.http.get(f"/jobs/{job_id}")
    result = site.http.get(f"/jobs/{job_id}/result")

    assert (view.status_code, view.json()["state"]) == (200, "failed")
    assert result.status_code == status
    assert result.headers["Content-Type"] == "application/problem+json"
    assert result.json() == {
        name: value for name, value in view.json()["failure"].items() if value is not None
    }
    assert result.json()["type"] == f"/problems/{error.slug}"
    assert result.json()["detail"] == str(error)
    assert result.json()["instance"] == f"/jobs/{job_id}"


def test_a_failure_of_a_kind_that_is_not_known_yet_is_passed_on(site: Site) -> None:
    class Novelty(GDSRError):
        slug = "novelty"

    job_id = site.submit()
    site.records.fail(job_id, error=Novelty("unheard of"))

    response = site.http.get(f"/jobs/{job_id}/result")

    assert response.status_code == 500
    assert response.json()["type"] == "/problems/novelty"
    assert response.json()["detail"] == "unheard of"


def test_a_result_whose_time_is_over_has_expired(site: Site) -> None:
    job_id = site.submit()
    site.succeed(job_id, kept=timedelta(0))

    assert site.http.get(f"/jobs/{job_id}").json()["state"] == "succeeded"
    response = site.http.get(f"/jobs/{job_id}/result")
    assert response.status_code == 410
    assert problem_of(response) == "job-expired"


def test_a_result_whose_file_was_removed_is_expired(site: Site) -> None:
    job_id = site.submit()
    done = site.succeed(job_id)
    site.blobs.delete(done.result.key)

    response = site.http.get(f"/jobs/{job_id}/result")

    assert response.status_code == 410
    assert problem_of(response) == "job-expired"


def test_deleting_a_queued_job_cancels_it_and_drops_its_picture(site: Site) -> None:
    job_id = site.submit()

    response = site.http.delete(f"/jobs/{job_id}")

    assert (response.status_code, response.json()["state"]) == (200, "cancelled")
    assert site.stored() == []
    assert site.records.active() == []
    result = site.http.get(f"/jobs/{job_id}/result")
    assert result.status_code == 410
    assert problem_of(result) == "job-cancelled"


def test_deleting_a_running_job_cancels_it_for_its_worker_too(site: Site) -> None:
    job_id = site.submit()
    site.start(job_id)

    response = site.http.delete(f"/jobs/{job_id}")

    assert (response.status_code, response.json()["state"]) == (200, "cancelled")
    assert not site.records.progress(job_id, run="run", tiles_done=1, tiles=2)
    assert site.stored() == []


def test_deleting_a_cancelled_job_erases_it(site: Site) -> None:
    job_id = site.submit()
    site.http.delete(f"/jobs/{job_id}")

    assert site.http.delete(f"/jobs/{job_id}").status_code == 204
    assert problem_of(site.http.get(f"/jobs/{job_id}")) == "job-not-found"


def test_a_cancelled_job_leaves_its_place_in_the_queue(site: Site) -> None:
    first, second = site.submit(), site.submit()

    site.http.delete(f"/jobs/{first}")

    assert site.http.get(f"/jobs/{second}").json()["queue_position"] == 0


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED])
def test_deleting_an_ended_job_erases_all_of_it(site: Site, state: JobState) -> None:
    job_id = site.submit()
    if state is JobState.SUCCEEDED:
        site.succeed(job_id)
    else:
        site.records.fail(job_id, error=errors.WorkerLost())

    response = site.http.delete(f"/jobs/{job_id}")

    assert (response.status_code, response.content) == (204, b"")
    assert site.stored() == []
    assert site.http.get(f"/jobs/{job_id}").status_code == 404
    assert site.http.delete(f"/jobs/{job_id}").status_code == 404


def test_a_client_that_leaves_a_long_download_leaves_no_open_file(site: Site) -> None:
    job_id = site.submit()
    site.succeed(job_id, bytes(40_000_000))
    result = site.blobs.root / "results" / job_id

    def is_open() -> bool:
        for file in Path("/proc/self/fd").iterdir():  # the service runs in this process
            with suppress(FileNotFoundError):  # closed in the meantime
                if file.readlink() == result:
                    return True
        return False

    place = (site.http.base_url.host, site.http.base_url.port)
    with socket.create_connection(place, timeout=TIMEOUT) as stream:
        stream.sendall(f"GET /jobs/{job_id}/result HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert stream.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert is_open()

    wait_for(lambda: not is_open(), what="the end of the download")
    assert site.http.get(f"/jobs/{job_id}").json()["state"] == "succeeded"
