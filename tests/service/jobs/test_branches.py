"""Stored branches are served unchanged, blended by jobs of their own, and erased with their job."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from factories import engine_info, photo, register, saved, transparency
from serving import Serve, Site, problem_of

from service.access.auth import hash_key
from workers.contract.blobs.base import StoredBlob
from workers.contract.blobs.file import FileBlobStore
from workers.contract.errors import WorkerLost
from workers.contract.images.formats import ResultFormat
from workers.contract.queue.jobs import KEPT, Job, JobResult


def kept(blobs: FileBlobStore, job_id: str) -> dict[str, StoredBlob]:
    """Store branches as a worker does."""
    return {
        output: blobs.write(f"results/{job_id}.run.{output}.png", [output.encode()])
        for output in KEPT
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


def test_a_branch_of_a_name_with_dots_keeps_the_name_and_its_own(site: Site) -> None:
    job_id = site.submit(keep_branches="true", name="cat.2.jpg")
    site.succeed(job_id, b"picture", branches=kept(site.blobs, job_id))

    response = site.http.get(f"/jobs/{job_id}/result?output=gan")

    assert response.headers["Content-Disposition"] == 'inline; filename="cat.2-gan.png"'


def test_a_preview_is_served_as_it_is_and_erased_with_its_job(site: Site, job: Job) -> None:
    preview = site.blobs.write(f"results/{job.id}.run.gan.webp", [b"small"])
    result = result_of(job).model_copy(update={"previews": {"gan": preview}, "invented": 0.25})
    site.redis.hset(f"gdsr:job:{job.id}", "result", result.model_dump_json())
    address = f"/jobs/{job.id}/result?output=gan&preview=true"

    response = site.http.get(address)
    again = site.http.get(address, headers={"If-None-Match": response.headers["ETag"]})
    part = site.http.get(address, headers={"Range": "bytes=1-2"})
    view = site.http.get(f"/jobs/{job.id}").json()["result"]

    assert (response.content, response.headers["Content-Type"]) == (b"small", "image/webp")
    assert response.headers["Content-Disposition"] == 'inline; filename="cat-gan.webp"'
    assert (again.status_code, part.content) == (304, b"ma")
    assert (view["previews"], view["invented"]) == (["gan"], 0.25)
    assert site.records.active() == []
    assert site.http.delete(f"/jobs/{job.id}").status_code == 204
    assert site.stored() == []


def test_a_preview_goes_with_an_output_alone(site: Site, job: Job) -> None:
    address = f"/jobs/{job.id}/result?preview=true"

    wrong = [site.http.get(f"{address}{more}") for more in ("", "&trade_off=0.3", "&width=9")]
    missing = site.http.get(f"{address}&output=psnr")

    assert [problem_of(response) for response in wrong] == ["invalid-request"] * 3
    assert problem_of(missing) == "branches-not-kept"


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

    site.succeed(blend["id"], b"blended")
    done = site.http.get(address)
    assert (done.status_code, done.content) == (200, b"blended")
    assert done.headers["Content-Location"] == f"/jobs/{blend['id']}/result"


def test_a_request_that_waits_for_another_position_gets_it(site: Site, job: Job) -> None:
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
    site.redis.delete(f"gdsr:blend:{blend.id}")  # as it does two seconds after it was set

    response = site.http.get(address)

    assert (response.status_code, response.json()["state"]) == (202, "queued")


@pytest.mark.parametrize("query", ["output=psnr", "output=mask&width=9", "trade_off=0.3"])
def test_a_job_that_kept_nothing_says_how_to(site: Site, query: str) -> None:
    job_id = site.submit()
    early = site.http.get(f"/jobs/{job_id}/result?{query}")
    site.succeed(job_id)

    response = site.http.get(f"/jobs/{job_id}/result?{query}")

    assert problem_of(early) == "job-not-finished"
    assert response.status_code == 404
    assert problem_of(response) == "branches-not-kept"
    assert "keep_branches=true" in response.json()["detail"]


PARTS = {
    "region=10,20,30,40": {"region": [10, 20, 30, 40]},
    "region=0,0,120,80&trade_off=0.2": {},
    "width=60": {"width": 60, "height": 40},
    "width=60&height=10": {"width": 15, "height": 10},
    "width=5000&trade_off=0.2": {},
    "region=0,0,100,50&width=1": {"region": [0, 0, 100, 50], "width": 1, "height": 1},
    "output=mask&region=1,2,3,4": {"mask": True, "region": [1, 2, 3, 4]},
    "output=mask&format=webp": {"mask": True},
    "dpi=300": {"dpi": 300},
}


@pytest.mark.parametrize("query", PARTS)
def test_a_part_of_a_result_is_a_job_of_its_own(site: Site, job: Job, query: str) -> None:
    made = site.http.get(f"/jobs/{job.id}/result?{query}")
    again = site.http.get(f"/jobs/{job.id}/result?{query}")

    nothing = {"mask": False, **dict.fromkeys(("region", "width", "height", "map", "dpi"))}
    assert made.status_code == 202
    assert made.json()["part"] == nothing | PARTS[query]
    assert made.json()["blend_of"] == job.id
    assert again.json()["id"] == made.json()["id"]


@pytest.mark.parametrize("dpi", ["0", "65536", "-300", "300.5", "fine"])
def test_dots_per_inch_that_no_file_could_state_are_refused(site: Site, job: Job, dpi: str) -> None:
    response = site.http.get(f"/jobs/{job.id}/result?dpi={dpi}")

    assert problem_of(response) == "invalid-request"
    assert [fault["name"] for fault in response.json()["errors"]] == ["dpi"]
    assert site.records.active() == []


@pytest.mark.parametrize("query", ["region=0,0,120,80", "width=120", "width=900&height=900"])
def test_all_of_a_result_is_the_result(site: Site, job: Job, query: str) -> None:
    response = site.http.get(f"/jobs/{job.id}/result?{query}")

    assert (response.status_code, response.content) == (200, b"picture")
    assert site.records.active() == []


def test_a_stop_in_another_format_is_that_position_of_the_slider(site: Site, job: Job) -> None:
    by_name = site.http.get(f"/jobs/{job.id}/result?output=gan&format=webp").json()
    by_number = site.http.get(f"/jobs/{job.id}/result?trade_off=1&format=webp").json()

    assert by_name["id"] == by_number["id"]
    assert by_name["options"]["trade_off"] == 1


@pytest.mark.parametrize(
    "query", ["region=100,0,30,10", "region=0,80,1,1", "region=1,1,0,5", "region=1,1,5,0"]
)
def test_a_region_that_is_not_inside_is_refused_with_the_size(
    site: Site, job: Job, query: str
) -> None:
    response = site.http.get(f"/jobs/{job.id}/result?{query}")

    assert problem_of(response) == "invalid-request"
    (fault,) = response.json()["errors"]
    assert fault["name"] == "region"
    assert "not inside the result of 120 x 80" in fault["message"]


def test_a_part_of_a_png_needs_no_branches(site: Site) -> None:
    job_id = site.submit()
    site.succeed(job_id)

    for query in ("region=0,0,5,5", "width=30", "format=jpeg"):
        made = site.http.get(f"/jobs/{job_id}/result?{query}")
        assert (made.status_code, made.json()["blend_of"]) == (202, job_id)


def test_a_part_of_another_format_needs_branches(site: Site) -> None:
    job_id = site.submit(format="jpeg")
    site.succeed(job_id, format=ResultFormat.JPEG)

    response = site.http.get(f"/jobs/{job_id}/result?region=0,0,5,5")

    assert (response.status_code, problem_of(response)) == (404, "branches-not-kept")
    assert "keep_branches=true" in response.json()["detail"]


def test_a_format_that_cannot_hold_it_is_refused_at_once(site: Site) -> None:
    job_id = site.submit(saved(np.dstack([photo(), transparency()]), "PNG"))
    site.succeed(job_id)

    response = site.http.get(f"/jobs/{job_id}/result?format=jpeg")

    assert problem_of(response) == "alpha-not-storable"


@pytest.mark.parametrize(
    "query",
    ["output=sharp", "trade_off=2", "format=gif", "quality=0", "region=1,2,3", "region=-1,0,2,2",
     "width=0", "height=many", "output=psnr&trade_off=0.3"],
)  # fmt: skip
def test_an_invalid_query_field_is_named(site: Site, job: Job, query: str) -> None:
    response = site.http.get(f"/jobs/{job.id}/result?{query}")

    assert problem_of(response) == "invalid-request"
    assert response.json()["errors"][0]["name"] == query.partition("=")[0]


def test_erasing_a_job_erases_its_branches_and_its_other_positions(site: Site, job: Job) -> None:
    done = site.http.get(f"/jobs/{job.id}/result?trade_off=0.35").json()["id"]
    site.succeed(done, b"blended")
    waiting = site.http.get(f"/jobs/{job.id}/result?trade_off=0.36").json()["id"]
    of_a_part = site.http.get(f"/jobs/{done}/result?region=1,2,3,4").json()["id"]

    response = site.http.delete(f"/jobs/{job.id}")

    assert response.status_code == 204
    assert site.stored() == []
    assert site.records.active() == []
    for job_id in (job.id, done, waiting, of_a_part):
        assert site.http.get(f"/jobs/{job_id}").status_code == 404


def test_an_unknown_word_is_named_and_not_ignored(site: Site, job: Job) -> None:
    response = site.http.get(f"/jobs/{job.id}/result?trade_of=0.3")

    assert problem_of(response) == "invalid-request"
    assert response.json()["errors"][0]["name"] == "trade_of"


def test_a_region_is_held_to_the_format_and_not_the_picture_around_it(site: Site, job: Job) -> None:
    wide = result_of(job).model_copy(update={"width": 20_000, "height": 20_000})
    site.redis.hset(f"gdsr:job:{job.id}", "result", wide.model_dump_json())

    whole = site.http.get(f"/jobs/{job.id}/result?format=webp")
    part = site.http.get(f"/jobs/{job.id}/result?format=webp&region=0,0,100,100")

    assert problem_of(whole) == "result-too-large"
    assert part.status_code == 202


def test_a_position_that_failed_is_tried_again_after_a_while(site: Site, job: Job) -> None:
    address = f"/jobs/{job.id}/result?trade_off=0.35"
    blend_id = site.http.get(address).json()["id"]
    site.records.fail(blend_id, error=WorkerLost())
    assert site.http.get(address).json()["type"] == "/problems/worker-lost"

    yesterday = datetime.now(UTC) - timedelta(days=1)
    site.redis.hset(f"gdsr:job:{blend_id}", "finished_at", yesterday.isoformat())
    again = site.http.get(address)

    assert (again.status_code, again.json()["id"]) == (202, blend_id)
    assert again.json()["state"] == "queued"


def test_derived_results_count_towards_the_limits_like_uploads(
    serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> None:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"ann:{hash_key('ann')}\n")
    site = serve(api_keys_file=keys, rate_limit="3/hour", pixels_per_day=637)
    register(site.redis, engine_info())
    site.http.headers["X-API-Key"] = "ann"
    job_id = site.submit(keep_branches="true")  # 600 pixels
    site.succeed(job_id, branches=kept(site.blobs, job_id))
    address = f"/jobs/{job_id}/result?trade_off="

    first, again, second, third = (
        site.http.get(f"{address}{position}") for position in ("0.3", "0.3", "0.4", "0.41")
    )

    assert [first.status_code, again.status_code] == [202, 202]
    assert problem_of(second) == "pixels-exceeded"
    assert problem_of(third) == "rate-exceeded"
    assert site.records.load()[0] == {first.json()["id"]: 37}
