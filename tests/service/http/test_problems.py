"""Problem documents are complete and have the same shape everywhere."""

import json
import logging

import pytest
from factories import engine_info, register
from serving import PICTURE, Serve, Site, problem_of

from service.http.problems import KINDS
from workers.contract.errors import GDSRError, ImageRejected, JobFailed
from workers.contract.queue.records import job_key


def _subclasses(kind: type[GDSRError]) -> set[type[GDSRError]]:
    direct = {sub for sub in kind.__subclasses__() if not sub.__module__.startswith("test")}
    return direct.union(*map(_subclasses, direct))


def test_every_error_that_is_raised_has_a_slug_status_and_title_of_its_own() -> None:
    bases = {GDSRError, ImageRejected, JobFailed}
    raised = _subclasses(GDSRError) - bases

    assert len({kind.slug for kind in raised | {GDSRError}}) == len(raised) + 1
    assert len({kind.title for kind in raised | {GDSRError}}) == len(raised) + 1
    assert all("status" in vars(kind) for kind in raised)
    assert set(KINDS.values()) == raised | {GDSRError}


@pytest.mark.parametrize("slug", sorted(KINDS))
def test_every_type_can_be_looked_up(site: Site, slug: str) -> None:
    document = site.http.get(f"/problems/{slug}").json()

    assert document["type"] == f"/problems/{slug}"
    assert document["status"] >= 400
    assert document["title"]


def test_no_two_types_have_the_same_explanation(site: Site) -> None:
    explanations = {slug: site.http.get(f"/problems/{slug}").json()["about"] for slug in KINDS}

    assert len(set(explanations.values())) == len(KINDS)
    assert explanations["webhooks-off"].endswith("follow `/jobs/{id}/events` or poll `/jobs/{id}`")
    assert explanations["key-missing"].startswith("send your API key")
    assert explanations["image-too-large"].endswith("the limit is ...")


def test_an_unknown_type_is_a_problem_itself(site: Site) -> None:
    response = site.http.get("/problems/no-cake")

    assert response.status_code == 404
    assert problem_of(response) == "not-found"


@pytest.mark.parametrize("path", ["/nowhere", "/jobs/", "/docs/x/y"])
def test_an_unknown_address_is_a_problem(site: Site, path: str) -> None:
    response = site.http.get(path)

    assert response.status_code == 404
    assert problem_of(response) == "not-found"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/upscale", "POST"), ("/jobs/x", "DELETE, GET, HEAD"), ("/jobs/x/result", "GET, HEAD, POST")],
)
def test_a_wrong_method_is_a_problem_that_names_the_right_ones(
    site: Site, path: str, allowed: str
) -> None:
    response = site.http.put(path)

    assert response.status_code == 405
    assert problem_of(response) == "method-not-allowed"
    assert response.headers["Allow"] == allowed
    assert response.json()["detail"] == f"PUT is not allowed here; allowed: {allowed}"


def test_a_validation_error_of_the_framework_is_a_problem_that_names_the_field(
    serve: Serve,
) -> None:
    site = serve()

    @site.server.app.get("/doubled")
    def doubled(number: int) -> int:
        return 2 * number

    response = site.http.get("/doubled", params={"number": "many"})

    assert response.status_code == 422
    assert problem_of(response) == "invalid-request"
    assert [(e["place"], e["name"]) for e in response.json()["errors"]] == [("query", "number")]


def test_an_unexpected_error_keeps_its_details_in_the_log(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.redis.hset("gdsr:job:broken", "spec", "{ no JSON")

    response = site.http.get("/jobs/broken")

    assert response.status_code == 500
    assert problem_of(response) == "internal"
    assert "detail" not in response.json()
    request_id = response.json()["request_id"]
    assert request_id == response.headers["X-Request-ID"]
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [request_id in record.getMessage() for record in failures] == [True]
    assert failures[0].exc_info is not None


def test_a_store_that_is_away_and_a_newer_job_are_described_where_they_occur(serve: Serve) -> None:
    site = serve()
    register(site.redis, engine_info())
    done, newer = site.submit(), site.submit()
    site.succeed(done)
    site.blobs.root.rename(site.blobs.root.with_name("away"))
    spec = json.loads(site.redis.hget(job_key(newer), "spec") or "")
    site.redis.hset(job_key(newer), "spec", json.dumps(spec | {"schema_version": 10**6}))
    paths = site.http.get("/openapi.json").json()["paths"]

    for method, path, job_id in (
        ("post", "/upscale", ""),
        ("post", "/v1/images/upscale", ""),
        ("get", "/jobs/{job_id}/result", done),
        ("post", "/jobs/{job_id}/result", done),
        ("get", "/jobs/{job_id}", newer),
        ("get", "/jobs/{job_id}/events", newer),
    ):
        form = {"data": {"model": "lite"}, "files": {"image": PICTURE}} if "v1" in path else {}
        answer = site.http.request(method, path.format(job_id=job_id), **form)
        assert answer.status_code == 503
        described = paths[path][method]["responses"]["503"]["content"]
        _, narrowed = described["application/problem+json"]["schema"]["allOf"]
        assert f"/problems/{problem_of(answer)}" in narrowed["properties"]["type"]["enum"]
