"""Health, metrics, log lines and headers."""

import logging
import re

import pytest
from factories import engine_info
from serving import Site

from workers.contract.engines import register
from workers.contract.errors import WorkerLost


def test_a_service_with_an_engine_is_ready(site: Site) -> None:
    response = site.http.get("/readyz")

    assert response.status_code == 200
    assert response.json()["checks"] == {"redis": "ok", "engines": "ok", "storage": "ok"}


def test_a_service_without_an_engine_is_alive_and_not_ready(bare_site: Site) -> None:
    assert bare_site.http.get("/livez").status_code == 200
    response = bare_site.http.get("/readyz")

    assert response.status_code == 503
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["type"] == "/problems/not-ready"
    assert response.json()["checks"]["engines"] == "none is running"
    assert response.json()["detail"] == "engines: none is running"


def test_a_service_that_cannot_store_is_not_ready(site: Site) -> None:
    incoming = site.blobs.root / "incoming"
    incoming.rmdir()

    response = site.http.get("/readyz")

    incoming.mkdir()
    assert response.status_code == 503
    assert "its folder is gone" in response.json()["checks"]["storage"]


def _value(metrics: str, sample: str) -> float:
    found = re.search(rf"^{re.escape(sample)} (\S+)$", metrics, re.MULTILINE)
    assert found, f"{sample} is not in\n{metrics}"
    return float(found[1])


def test_metrics_name_routes_by_template(site: Site) -> None:
    job_id = site.submit()
    site.http.get(f"/jobs/{job_id}/result")
    site.http.get("/no/such/place")
    site.http.request("BREW", "/upscale")

    metrics = site.http.get("/metrics").text

    sample = 'gdsr_http_request_seconds_count{method="%s",route="%s",status="%d"}'
    assert _value(metrics, sample % ("POST", "/upscale", 202)) >= 1
    assert _value(metrics, sample % ("GET", "/jobs/{job_id}/result", 409)) >= 1
    assert _value(metrics, sample % ("GET", "unmatched", 404)) >= 1
    assert job_id not in metrics
    assert "/no/such/place" not in metrics
    assert "BREW" not in metrics


def test_metrics_tell_of_jobs_queues_and_engines(site: Site) -> None:
    small, _, failed = site.submit(), site.submit(), site.submit()
    site.succeed(small)
    site.records.fail(failed, error=WorkerLost())
    register(site.redis, engine_info(id="two", device="cuda:0", tiles=7, memory_retries=2))

    metrics = site.http.get("/metrics").text

    assert _value(metrics, "gdsr_redis_up") == 1
    assert _value(metrics, 'gdsr_jobs_total{state="succeeded"}') == 1
    assert _value(metrics, 'gdsr_jobs_total{state="failed"}') == 1
    assert _value(metrics, 'gdsr_jobs_total{state="cancelled"}') == 0
    assert _value(metrics, "gdsr_jobs_active") == 1
    assert _value(metrics, 'gdsr_queue_jobs{queue="gdsr-large"}') == 0
    assert _value(metrics, "gdsr_engines") == 2
    where = 'device="cuda:0",host="here"'
    assert _value(metrics, f"gdsr_engine_tiles_total{{{where}}}") == 7
    assert _value(metrics, f"gdsr_engine_memory_retries_total{{{where}}}") == 2
    speed = f'gdsr_engine_pixels_per_second{{{where},model="lite",output="gan"}}'
    assert _value(metrics, speed) == 3e5
    assert _value(metrics, "process_resident_memory_bytes") > 0


def test_metrics_count_uploads_and_refusals_by_reason(site: Site) -> None:
    sample = 'gdsr_rejects_total{reason="image-unsupported"}'
    site.post(b"rubbish")
    before = _value(site.http.get("/metrics").text, sample)

    site.post(b"rubbish")
    site.post()

    metrics = site.http.get("/metrics").text
    assert _value(metrics, sample) == before + 1
    assert _value(metrics, "gdsr_upload_bytes_count") >= 1


def test_an_engine_record_that_cannot_be_read_fails_no_scrape(site: Site) -> None:
    site.redis.set("gdsr:engine:one", "{}")

    response = site.http.get("/metrics")

    assert response.status_code == 200
    assert _value(response.text, "gdsr_redis_up") == 0


def test_the_log_has_a_line_for_each_request_by_its_route(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    response = site.post(b"", params={"model": "mine"})
    site.http.get("/livez")

    lines = [r.getMessage() for r in caplog.records if r.name.startswith("service")]
    assert len(lines) == 1
    assert re.fullmatch(r"POST /upscale 422 in \d+ ms, request \w+ from 127\.0\.0\.1", lines[0])
    assert f"request {response.headers['X-Request-ID']} from" in lines[0]


@pytest.mark.parametrize("path", ["/docs", "/livez", "/nowhere", "/jobs/none", "/metrics", "/"])
def test_every_answer_is_held_to_a_strict_policy(site: Site, path: str) -> None:
    headers = site.http.get(path).headers

    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Server" not in headers
