"""Spans of one trace and log lines with its ids follow a picture, and reveal no secrets."""

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from collector import Collector, collecting
from hosts import Site
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from PIL import Image
from processes import wait_for
from serving import served

from service.access.auth import hash_key, new_key
from service.settings import ServiceSettings
from workers.contract.observability.logs import JSONFormatter

pytestmark = pytest.mark.e2e

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"  # pragma: allowlist secret
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
STAGES = {"queue", "decode", "infer", "encode"}


def photograph() -> bytes:
    """Return a JPEG whose EXIF names the photographer."""
    picture = Image.effect_noise((60, 60), 80).convert("RGB")
    exif = Image.Exif()
    exif[0x013B] = "Confidential Photographer"
    file = io.BytesIO()
    picture.save(file, "JPEG", exif=exif)
    return file.getvalue()


def spans_with(collector: Collector, names: set[str]) -> dict[str, Span]:
    def look() -> dict[str, Span] | None:
        spans = collector.named()
        return spans if names <= spans.keys() else None

    return wait_for(look, what=f"the spans {names}")


def job_spans(collector: Collector) -> dict[str, Span]:
    """Return the spans of jobs by job id."""
    return {
        attribute.value.string_value: span
        for span in list(collector.spans.get("gdsr-worker", []))
        for attribute in span.attributes
        if attribute.key == "gdsr.job"
    }


def test_a_picture_is_one_trace_below_the_callers_and_a_failure_shows(site: Site) -> None:
    with collecting() as collector:
        settings = ServiceSettings(
            redis_url=site.url, blob_dir=site.blobs.root, otel_endpoint=collector.endpoint
        )
        with site.worker_host(otel_endpoint=collector.endpoint), served(settings) as service:
            headers = {"traceparent": TRACEPARENT, "Prefer": "wait=60"}
            sent = service.http.post("/upscale", content=photograph(), headers=headers)
            assert sent.status_code == 200, sent.text
            spans = spans_with(collector, {"POST /upscale", "job", *STAGES})

            broken = site.submit(photograph(), stored=b"no picture any more")
            failed = wait_for(lambda: job_spans(collector).get(broken), what="the span")
            assert failed.status.code == Status.STATUS_CODE_ERROR
            assert failed.status.message == "image-unsupported"
            assert failed.trace_id.hex() != TRACE

        assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
        request, job = spans["POST /upscale"], spans["job"]
        assert request.parent_span_id.hex() == CALLER
        assert request.kind == Span.SPAN_KIND_SERVER
        assert job.parent_span_id == request.span_id
        assert {spans[stage].parent_span_id for stage in STAGES} == {job.span_id}
        order = [spans[stage] for stage in ("queue", "decode", "infer", "encode")]
        started_at = [span.start_time_unix_nano for span in order]
        assert started_at == sorted(started_at)
        assert all(span.end_time_unix_nano > span.start_time_unix_nano for span in order)
        assert set(collector.spans) == {"gdsr-service", "gdsr-worker"}
        assert "/livez" not in str(list(spans))


@pytest.mark.slow
def test_a_collector_that_is_away_stops_nothing(site: Site) -> None:
    nobody = "http://127.0.0.1:9"
    settings = ServiceSettings(redis_url=site.url, blob_dir=site.blobs.root, otel_endpoint=nobody)
    with site.worker_host(otel_endpoint=nobody), served(settings) as service:
        wait = {"Prefer": "wait=60"}
        assert service.http.post("/upscale", content=photograph(), headers=wait).status_code == 200


@contextmanager
def logged() -> Iterator[io.StringIO]:
    """Collect all that the service logs in this process, in its own format."""
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(JSONFormatter("service"))
    loggers = [logging.getLogger(name) for name in ("service", "workers", "uvicorn", "fastapi")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


def test_the_logs_follow_a_picture_and_tell_nothing_of_it(site: Site) -> None:
    key = new_key()
    keys = site.blobs.root.parent / "keys"
    keys.write_text(f"somebody:{hash_key(key)}\n")
    settings = ServiceSettings(redis_url=site.url, blob_dir=site.blobs.root, api_keys_file=keys)
    with (
        site.worker_host(log_level="debug") as host,
        served(settings) as service,
        logged() as lines,
    ):
        headers = {
            "X-API-Key": key,
            "Prefer": "wait=60",
            "traceparent": TRACEPARENT,
            "Idempotency-Key": "word-of-the-client",
        }
        files = {"image": ("grandmothers birthday.jpg", photograph(), "image/jpeg")}
        sent = service.http.post(
            "/upscale", files=files, data={"name": "hidden treasure"}, headers=headers
        )
        assert sent.status_code == 200, sent.text
        service.http.get("/jobs", headers={"X-API-Key": "guessed-key"})
        request_id = sent.headers["X-Request-ID"]
        worker_log = host.stop()

    everything = lines.getvalue() + worker_log
    for secret in (
        key, hash_key(key), "guessed-key", "grandmother", "treasure", "word-of-the-client",
        "Photographer",
    ):  # fmt: skip
        assert secret not in everything
    entries = [json.loads(line) for line in everything.splitlines()]
    (edge,) = (e for e in entries if e["message"].startswith("POST /upscale"))
    (end,) = (e for e in entries if e["message"].startswith("succeeded in"))
    (tiles,) = (e for e in entries if "tiles computed" in e["message"])
    assert edge["process"] == "service"
    assert end["process"].startswith("job worker")
    assert tiles["process"].startswith("engine")
    assert edge["request"] == end["request"] == request_id
    assert edge["job"] == end["job"] == tiles["job"]
    assert edge["trace"] == end["trace"] == tiles["trace"] == TRACE
