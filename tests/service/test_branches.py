"""Kept branches: served as they are, blended by a job of its own, erased with their job."""

import pytest
from serving import Site, problem_of

from workers.contract.file_blobs import FileBlobStore
from workers.contract.jobs import KEPT, Branch, Job, JobResult


def kept(blobs: FileBlobStore, job_id: str) -> dict[str, Branch]:
    """Branches as a worker stores them."""
    stored = {
        output: blobs.write(f"results/{job_id}.run.{output}.png", [output.encode()])
        for output in KEPT
    }
    return {
        output: Branch(key=blob.key, size=blob.size, sha256=blob.sha256)
        for output, blob in stored.items()
    }


@pytest.fixture
def job(site: Site) -> Job:
    """A finished job that kept its branches."""
    job_id = site.submit(keep_branches="true", name="cat.jpg")
    return site.succeed(job_id, b"picture", branches=kept(site.blobs, job_id))


def result_of(job: Job) -> JobResult:
    assert job.result is not None
    return job.result


@pytest.mark.parametrize("output", KEPT)
def test_a_kept_branch_is_served_as_it_is(site: Site, job: Job, output: str) -> None:
    address = f"/jobs/{job.id}/result?output={output}"

    response = site.http.get(address)

    assert response.content == output.encode()
    assert response.headers["Content-Type"] == "image/png"
    assert response.headers["Content-Disposition"] == f'inline; filename="cat-{output}.png"'
    again = site.http.get(address, headers={"If-None-Match": response.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert site.http.get(f"/jobs/{job.id}").json()["result"]["branches"] == list(KEPT)


def test_another_position_is_a_job_of_its_own_that_is_found_again(site: Site, job: Job) -> None:
    address = f"/jobs/{job.id}/result?trade_off=0.35&format=webp"

    asked = site.http.get(address)
    again = site.http.get(address)

    assert (asked.status_code, again.status_code) == (202, 202)
    blend = asked.json()
    assert again.json()["id"] == blend["id"] != job.id
    assert blend["blend_of"] == job.id
    assert (blend["options"]["trade_off"], blend["options"]["format"]) == (0.35, "webp")
    assert asked.headers["Location"] == f"/jobs/{blend['id']}"
    assert site.records.active() == [blend["id"]]
    assert site.redis.hget(f"rq:job:{blend['id']}", "description") == b"blend"

    site.succeed(blend["id"], b"blended")
    done = site.http.get(address)
    assert (done.status_code, done.content) == (200, b"blended")
    assert done.headers["Content-Location"] == f"/jobs/{blend['id']}/result"


def test_who_waits_for_another_position_gets_it(site: Site, job: Job) -> None:
    address = f"/jobs/{job.id}/result?trade_off=0.35"
    blend_id = site.http.get(address).json()["id"]
    site.succeed(blend_id, b"blended")

    response = site.http.get(address, headers={"Prefer": "wait=9"})

    assert response.content == b"blended"
    assert response.headers["Preference-Applied"] == "wait=9"


def test_the_position_that_the_job_has_is_its_own_result(site: Site, job: Job) -> None:
    response = site.http.get(f"/jobs/{job.id}/result?trade_off=fused&format=png")

    assert (response.status_code, response.content) == (200, b"picture")
    assert site.records.active() == []


def test_a_position_whose_picture_is_gone_is_made_again(site: Site, job: Job) -> None:
    address = f"/jobs/{job.id}/result?trade_off=0.1"
    blend = site.succeed(site.http.get(address).json()["id"])
    site.blobs.delete(result_of(blend).key)
    site.redis.delete(f"gdsr:blend:{blend.id}")  # which is gone two seconds after it was set

    response = site.http.get(address)

    assert (response.status_code, response.json()["state"]) == (202, "queued")


@pytest.mark.parametrize("query", ["output=psnr", "trade_off=0.3", "format=jpeg"])
def test_a_job_that_kept_nothing_says_how_to(site: Site, query: str) -> None:
    job_id = site.submit()
    early = site.http.get(f"/jobs/{job_id}/result?{query}")
    site.succeed(job_id)

    response = site.http.get(f"/jobs/{job_id}/result?{query}")

    assert problem_of(early) == "job-not-finished"
    assert response.status_code == 404
    assert problem_of(response) == "branches-not-kept"
    assert "keep_branches=true" in response.json()["detail"]


@pytest.mark.parametrize("query", ["output=sharp", "trade_off=2", "format=gif", "quality=0"])
def test_what_cannot_be_asked_for_is_named(site: Site, job: Job, query: str) -> None:
    response = site.http.get(f"/jobs/{job.id}/result?{query}")

    assert problem_of(response) == "invalid-request"
    assert response.json()["errors"][0]["name"] == query.partition("=")[0]


def test_erasing_a_job_erases_its_branches_and_its_other_positions(site: Site, job: Job) -> None:
    done = site.http.get(f"/jobs/{job.id}/result?trade_off=0.35").json()["id"]
    site.succeed(done, b"blended")
    waiting = site.http.get(f"/jobs/{job.id}/result?trade_off=0.36").json()["id"]

    response = site.http.delete(f"/jobs/{job.id}")

    assert response.status_code == 204
    assert site.stored() == []
    assert site.records.active() == []
    for job_id in (job.id, done, waiting):
        assert site.http.get(f"/jobs/{job_id}").status_code == 404
