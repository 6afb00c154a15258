"""Health checks, metrics, log lines and security headers are as documented."""

import io
import json
import logging
import re
from pathlib import Path

import httpx2
import pytest
from factories import engine_info, register
from processes import wait_for
from serving import Serve, Site, problem_of

from service.access.auth import hash_key, load_keys, new_key
from workers.contract.blobs.usage import BlobUsage, record
from workers.contract.errors import ConfigurationInvalid, WorkerLost
from workers.contract.observability import logs
from workers.contract.queue.runs import ACTIVE, WORKERS, register_worker


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
    assert "its folder is missing" in response.json()["checks"]["storage"]


def _value(metrics: str, sample: str) -> float:
    found = re.search(rf"^{re.escape(sample)} (\S+)$", metrics, re.MULTILINE)
    assert found, f"{sample} is not in\n{metrics}"
    return float(found[1])


def test_metrics_name_routes_by_template(site: Site) -> None:
    job_id = site.submit()
    site.http.get(f"/jobs/{job_id}/result")
    site.http.get("/no/such/place")
    site.http.request("BREW", "/upscale")

    sample = 'gdsr_http_request_seconds_count{method="%s",route="%s",status="%d"}'
    wanted = [
        sample % ("POST", "/upscale", 202),
        sample % ("GET", "/jobs/{job_id}/result", 409),
        sample % ("GET", "unmatched", 404),
        sample % ("other", "/upscale", 405),
    ]

    def look() -> str | None:  # a request is counted after its response
        metrics: str = site.http.get("/metrics").text
        return metrics if all(f"\n{each} " in metrics for each in wanted) else None

    metrics = wait_for(look, what="the four requests")
    assert all(_value(metrics, each) >= 1 for each in wanted)
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


def test_metrics_tell_of_waiting_memory_and_room(site: Site) -> None:
    site.submit()
    site.redis.zadd(ACTIVE, dict.fromkeys(site.records.active(), 0), xx=True)
    for name in ("one", "two", "dead"):
        register_worker(site.redis, name)
    site.redis.zadd(WORKERS, {"dead": 1})
    site.records.start(site.submit(), run="run", worker="one")
    record(site.redis, BlobUsage(blobs=2, size=12, quota=100), {"quota": 7})

    metrics = site.http.get("/metrics").text

    assert _value(metrics, 'gdsr_queue_oldest_seconds{queue="gdsr-small"}') > 1e9
    assert _value(metrics, 'gdsr_queue_oldest_seconds{queue="gdsr-large"}') == 0
    assert _value(metrics, 'gdsr_job_workers{state="busy"}') == 1
    assert _value(metrics, 'gdsr_job_workers{state="idle"}') == 1
    assert _value(metrics, 'gdsr_models{model="lite"}') == 1
    assert _value(metrics, "gdsr_redis_memory_bytes") > 1e5
    assert _value(metrics, "gdsr_redis_memory_limit_bytes") == 0
    free, limit = (_value(metrics, f"gdsr_blob_{name}_bytes") for name in ("free", "limit"))
    assert 0 < free < limit
    assert _value(metrics, "gdsr_blob_bytes") == 12
    assert _value(metrics, "gdsr_blob_quota_bytes") == 100
    assert _value(metrics, 'gdsr_blob_freed_bytes_total{reason="quota"}') == 7
    assert _value(metrics, 'gdsr_blob_freed_bytes_total{reason="expired"}') == 0


def test_metrics_need_an_admin_key_if_any_is_configured(serve: Serve, tmp_path: Path) -> None:
    admins, users = tmp_path / "admins", tmp_path / "users"
    admin, user = new_key(), new_key()
    admins.write_text(f"prometheus:{hash_key(admin)}\n")
    users.write_text(f"somebody:{hash_key(user)}\n")
    site = serve(admin_keys_file=admins, api_keys_file=users)

    assert problem_of(site.http.get("/metrics")) == "key-missing"
    wrong = site.http.get("/metrics", headers={"Authorization": f"Bearer {user}"})
    assert problem_of(wrong) == "key-invalid"
    right = site.http.get("/metrics", headers={"Authorization": f"Bearer {admin}"})
    assert right.status_code == 200
    assert problem_of(site.http.get("/jobs", headers={"X-API-Key": admin})) == "key-invalid"


def test_a_missing_file_of_admin_keys_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"GDSR_ADMIN_KEYS_FILE: .*No such file"):
        load_keys(tmp_path / "none", setting="GDSR_ADMIN_KEYS_FILE")


def test_the_log_carries_the_callers_trace_and_the_request(site: Site) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"  # pragma: allowlist secret
    root = logging.getLogger()
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logs.JSONFormatter("service"))
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)

    def lines(count: int) -> list[dict[str, str]] | None:  # written after the response
        found = [json.loads(line) for line in written.getvalue().splitlines()]
        found = [line for line in found if line["message"].startswith("POST /upscale")]
        return found if len(found) == count else None

    try:
        sent = site.post(headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
        wait_for(lambda: lines(1), what="the line of the first request")
        site.post(headers={"traceparent": f"00-{trace}-0000000000000000-01"})
        first, second = wait_for(lambda: lines(2), what="the line of the second request")
    finally:
        root.setLevel(level)
        root.removeHandler(handler)

    assert first["trace"] == trace
    assert first["request"] == sent.headers["X-Request-ID"]
    assert first["job"] == sent.json()["id"]
    assert "trace" not in second  # an invalid trace context is ignored
    spec = site.records.get(sent.json()["id"]).spec
    assert spec.traceparent == f"00-{trace}-b7ad6b7169203331-01"
    assert spec.request_id == sent.headers["X-Request-ID"]


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

    quiet = site.http.get("/livez")
    response = site.post(b"", params={"model": "mine"})

    def lines(of: httpx2.Response) -> list[str]:  # an earlier test's last line may come late
        messages = [r.getMessage() for r in caplog.records if r.name.startswith("service")]
        return [line for line in messages if of.headers["X-Request-ID"] in line]

    (line,) = wait_for(lambda: lines(response), what="the line in the log")
    assert lines(quiet) == []
    assert re.fullmatch(r"POST /upscale 422 in \d+ ms, request \w+ from 127\.0\.0\.1", line)


@pytest.mark.parametrize("path", ["/docs", "/livez", "/nowhere", "/jobs/none", "/metrics", "/"])
def test_every_answer_is_held_to_a_strict_policy(site: Site, path: str) -> None:
    headers = site.http.get(path).headers

    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Server" not in headers
