"""A service without keys trusts only local names and its own page, unless settings allow more."""

import logging

import pytest
from factories import engine_info, register
from serving import PICTURE, Serve, Site, problem_of

from service.access.auth import hash_key

STRANGE = "evil.example"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("name", [STRANGE, f"{STRANGE}:8000", "127.0.0.1.evil.example", "[", ""])
def test_another_name_is_not_answered_to(site: Site, method: str, name: str) -> None:
    response = site.http.request(method, "/upscale", headers={"Host": name})

    assert (response.status_code, problem_of(response)) == (421, "host-not-served")
    assert "host names, not '" in response.json()["detail"]  # quoted, as it may be empty
    assert site.stored() == []


@pytest.mark.parametrize(
    "name", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "127.1.2.3", "[::1]:80", "localhost."]
)
def test_local_names_are(site: Site, name: str) -> None:
    assert site.http.get("/livez", headers={"Host": name}).status_code == 200


def test_a_name_that_was_added_is_answered_to(serve: Serve) -> None:
    site = serve(hosts="gdsr.home, other.home")

    assert site.http.get("/livez", headers={"Host": "GDSR.home:8000"}).status_code == 200
    assert site.http.get("/livez", headers={"Host": STRANGE}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": f"https://{STRANGE}"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_of_another_origin_changes_nothing(site: Site, headers: dict[str, str]) -> None:
    job_id = site.submit()
    sent = site.post(headers=headers)
    deleted = site.http.delete(f"/jobs/{job_id}", headers=headers)

    assert (problem_of(sent), problem_of(deleted)) == ("origin-not-served",) * 2
    assert sent.status_code == 403
    assert site.records.active() == [job_id]
    assert site.http.get(f"/jobs/{job_id}", headers=headers).status_code == 200


def test_its_own_page_and_pages_that_were_allowed_do(serve: Serve) -> None:
    site = serve(cors_origins="https://page.example")
    register(site.redis, engine_info())
    own = str(site.http.base_url).rstrip("/")

    for headers in (
        {"Origin": own, "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://page.example", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "none"},
    ):
        assert site.post(headers=headers).status_code == 202


@pytest.mark.parametrize(
    "header", ["Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Real-IP"]
)
def test_jobs_are_not_listed_through_a_proxy(site: Site, header: str) -> None:
    site.submit()

    assert len(site.http.get("/jobs").json()["jobs"]) == 1
    response = site.http.get("/jobs", headers={header: "127.0.0.1"})
    assert problem_of(response) == "listing-needs-keys"


def test_a_service_elsewhere_answers_to_any_name_lists_nothing_and_warns_once(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    site = serve(host="0.0.0.0")  # noqa: S104
    register(site.redis, engine_info())

    response = site.post(headers={"Host": STRANGE, "Origin": "https://page.example"})

    assert response.status_code == 202
    assert site.http.get(response.headers["Location"]).status_code == 200
    assert problem_of(site.http.get("/jobs")) == "listing-needs-keys"
    assert [record.message[:11] for record in caplog.records] == ["NO API KEYS"]


def test_with_keys_any_name_will_do(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> None:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"ann:{hash_key('secret')}\n")
    site = serve(api_keys_file=keys)
    register(site.redis, engine_info())
    headers = {"Host": STRANGE, "X-API-Key": "secret", "X-Forwarded-For": "192.0.2.1"}

    assert site.http.post("/upscale", content=PICTURE, headers=headers).status_code == 202
    assert len(site.http.get("/jobs", headers=headers).json()["jobs"]) == 1
