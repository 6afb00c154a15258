"""Proxies and pages of other origins need a setting, and then work."""

import logging

import pytest
from factories import engine_info, register
from processes import wait_for
from serving import Serve, Site, problem_of
from sse import watching

from service.settings import ServiceSettings
from workers.contract.errors import ConfigurationInvalid

PAGE = "https://page.example"


@pytest.fixture(params=["cut off by the proxy", "passed on"])
def prefixed(serve: Serve, request: pytest.FixtureRequest) -> Site:
    """A service with the root path /gdsr, and a client on either side of the proxy."""
    site = serve(root_path="/gdsr")
    register(site.redis, engine_info())
    if request.param == "passed on":
        site.http.base_url = site.http.base_url.join("/gdsr/")
    return site


def below(address: str) -> str:
    """Remove the prefix from an address; the client's base URL adds it where it is needed."""
    assert address.startswith("/gdsr/")
    return address.removeprefix("/gdsr")


def test_connections_outlast_the_minute_for_which_proxies_keep_them(serve: Serve) -> None:
    assert serve().server.config.timeout_keep_alive > 60


def test_every_link_of_a_job_has_the_prefix_and_leads_there(prefixed: Site) -> None:
    accepted = prefixed.http.post("upscale", content=b"", params={"trade_off": 2})
    assert accepted.json()["instance"] == "/gdsr/upscale"

    job_id = prefixed.submit()
    job = prefixed.http.get(f"jobs/{job_id}").json()
    assert job["links"]["self"] == f"/gdsr/jobs/{job_id}"

    with watching(prefixed.http, job_id) as events:
        assert next(events).data["links"] == job["links"]
    prefixed.succeed(job_id)
    result = prefixed.http.get(below(job["links"]["result"]))
    assert result.content == b"picture"
    assert result.headers["Content-Location"] == job["links"]["result"]


def test_a_location_has_the_prefix(prefixed: Site) -> None:
    response = prefixed.post()

    job = response.json()
    assert response.headers["Location"] == job["links"]["self"] == f"/gdsr/jobs/{job['id']}"


def test_a_problem_and_its_type_have_the_prefix(prefixed: Site) -> None:
    missing = prefixed.http.get("jobs/none").json()

    assert missing["instance"] == "/gdsr/jobs/none"
    assert missing["type"] == "/gdsr/problems/job-not-found"
    about = prefixed.http.get(below(missing["type"])).json()
    assert about["type"] == missing["type"]


def test_a_page_of_the_list_has_the_prefix(prefixed: Site) -> None:
    for _ in range(2):
        prefixed.submit()

    page = prefixed.http.get("jobs", params={"limit": 1}).json()

    assert prefixed.http.get(below(page["next"])).json()["next"] is None


def test_the_page_for_programs_works_behind_the_prefix(prefixed: Site) -> None:
    assert prefixed.http.get("docs").status_code == 200
    assert prefixed.http.get("docs/docs.js").status_code == 200
    assert prefixed.http.get("openapi.json").status_code == 200


def test_without_a_configured_prefix_none_is_accepted(site: Site) -> None:
    assert problem_of(site.http.get("/gdsr/limits")) == "not-found"


def test_a_page_of_an_allowed_origin_may_send_and_read(serve: Serve) -> None:
    site = serve(cors_origins=(PAGE,))
    register(site.redis, engine_info())

    asked = site.http.options(
        "/upscale",
        headers={
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,idempotency-key,prefer",
        },
    )
    sent = site.post(headers={"Origin": PAGE})

    assert (asked.status_code, sent.status_code) == (200, 202)
    for answer in (asked, sent):
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert {"Location", "Retry-After", "ETag", "Content-Range"} <= set(
        sent.headers["Access-Control-Expose-Headers"].split(", ")
    )
    refused = site.post(b"rubbish", headers={"Origin": PAGE})
    assert refused.status_code == 415
    assert refused.headers["Access-Control-Allow-Origin"] == PAGE


def test_a_page_of_another_origin_may_not(serve: Serve) -> None:
    site = serve(cors_origins=(PAGE,))

    answer = site.http.get("/limits", headers={"Origin": "https://other.example"})

    assert "Access-Control-Allow-Origin" not in answer.headers


def test_no_origin_is_allowed_by_default(site: Site) -> None:
    answer = site.http.get("/limits", headers={"Origin": PAGE})

    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    ("trusted", "shown"), [((), "127.0.0.1"), (("127.0.0.0/8",), "203.0.113.9")]
)
def test_a_client_behind_a_proxy_is_known_only_if_the_proxy_is_trusted(
    serve: Serve, caplog: pytest.LogCaptureFixture, trusted: tuple[str, ...], shown: str
) -> None:
    site = serve(trusted_proxies=trusted)

    caplog.set_level(logging.INFO, logger="service.http.middleware")
    request = site.http.get("/limits", headers={"X-Forwarded-For": "203.0.113.9"})

    def look() -> str | None:
        lines = [record.getMessage() for record in caplog.records]
        return next((line for line in lines if request.headers["X-Request-ID"] in line), None)

    line = wait_for(look, what="the line in the log")
    assert line.endswith(f"from {shown}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CORS_ORIGINS", "page.example"),
        ("CORS_ORIGINS", "https://page.example/path"),
        ("MAX_WAIT", "-1"),
        ("ROOT_PATH", "gdsr"),
        ("ROOT_PATH", "/gdsr/"),
        ("TRUSTED_PROXIES", "proxy.example"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"GDSR_{name}", value)
    with pytest.raises(ConfigurationInvalid, match=f"GDSR_{name}"):
        ServiceSettings.load()
