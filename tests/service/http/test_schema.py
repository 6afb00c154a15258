"""Requests generated from the OpenAPI description get the described responses from a real service.

Each operation gets the description's examples, the borders of its values and random ones, valid and
invalid; then request chains follow the links. Every check of schemathesis runs, and one more: a
response has no undescribed header.
"""

import io
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hosts
import numpy as np
import pytest
import schemathesis
from archives import zipped
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from networks import tiny_checkpoint
from PIL import Image
from processes import running_valkey
from schemathesis import engine
from schemathesis.engine import events as engine_events
from serving import TIMEOUT, Site, served

from service.access.auth import hash_key
from service.app import create_app
from service.settings import ServiceSettings
from workers.contract.errors import ImageCorrupt
from workers.contract.images.formats import ImageFormat

KEY = "the key of these tests"
#: Headers of HTTP itself, added by the server.
_OF_HTTP = {"connection", "content-length", "content-type", "date", "transfer-encoding"}
_CONFIG = {
    "auth": {"openapi": {"APIKeyHeader": {"api_key": KEY}, "HTTPBearer": {"bearer": KEY}}},
    "checks": {
        # DELETE cancels a job that has not ended, and its record remains.
        "use_after_free": {"enabled": False},
        # The description cannot express that bytes are no picture, that `width` and `scale` exclude
        # each other, or that a job has not ended.
        "positive_data_acceptance": {
            "expected-statuses": ["2xx", "3xx", 400, 404, 409, 410, 413, 415, 416, 422]
        },
        # For a cancelled job, its state is reported before the form is read.
        "negative_data_rejection": {
            "expected-statuses": [400, 401, 403, 404, 405, 406, 409, 410, 415, 422, 428, 429, "5xx"]
        },
    },
    # For a list of files, schemathesis cannot generate invalid forms: it raises ValueError.
    "operations": [{"include-name": "POST /batches", "generation": {"mode": "positive"}}],
}


def picture(name: str, mode: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 4), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, name)
    return file.getvalue()


PICTURES = [
    picture("PNG", "RGB"), picture("PNG", "RGBA"), picture("JPEG", "L"), picture("WEBP", "RGB"),
    picture("BMP", "RGB"), picture("PNG", "RGB")[:-20], b"no picture",
]  # fmt: skip
schemathesis.openapi.format("binary", st.sampled_from(PICTURES))
for media_type in ("application/octet-stream", *(f"image/{name}" for name in ImageFormat)):
    schemathesis.openapi.media_type(media_type, st.sampled_from(PICTURES))
ARCHIVES = [zipped({"a.png": PICTURES[0], "b.txt": PICTURES[-1]}), zipped({"b": b""}), b"no zip"]
schemathesis.openapi.media_type("application/zip", st.sampled_from(ARCHIVES))


@schemathesis.check
def headers_are_described(ctx: Any, response: Any, case: Any) -> None:  # noqa: ARG001
    described = case.operation.definition.raw["responses"].get(str(response.status_code), {})
    names = {name.lower() for name in described.get("headers", {})} | _OF_HTTP
    if response.status_code != 405:
        assert set(response.headers) <= names, set(response.headers) - names


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A service that requires a key, and a worker host with a tiny network."""
    folder = tmp_path_factory.mktemp("schema")
    keys = folder / "keys"
    keys.write_text(f"tests:{hash_key(KEY)}\n")
    with running_valkey(folder / "valkey") as valkey:
        chosen = ServiceSettings(
            redis_url=valkey.url,
            blob_dir=folder / "blobs",
            api_keys_file=keys,
            admin_keys_file=keys,
            max_wait=0.5,  # type: ignore[arg-type]
            max_queued_jobs=100_000,
            rate_limit="1000000/hour",
            pixels_per_day=10**12,
        )
        workers = hosts.Site(
            valkey.url, folder / "blobs", tiny_checkpoint(folder / "tiny.safetensors")
        )
        with served(chosen) as site, workers.worker_host(max_pixels="1000000"):
            site.http.headers["X-API-Key"] = KEY
            yield site


@pytest.fixture(scope="module")
def job_ids(site: Site) -> Iterator[str]:
    """Jobs in every state, in an endless cycle."""
    kept = site.submit(PICTURES[0], keep_branches=True, name="a cat")
    done = [site.submit(content) for content in PICTURES[1:3]]
    damaged = site.submit(PICTURES[5])
    cancelled, failed = site.submit(), site.submit()
    site.http.delete(f"/jobs/{cancelled}")
    site.records.fail(failed, error=ImageCorrupt("no"))
    for job_id in (kept, *done, damaged):
        site.http.get(f"/jobs/{job_id}/events")
    return itertools.cycle([kept, *done, damaged, cancelled, failed])


@pytest.fixture(scope="module")
def batch_ids(site: Site) -> Iterator[str]:
    """Batches with and without jobs, in an endless cycle."""
    return itertools.cycle([post_batch(site, archive) for archive in ARCHIVES[:2]])


def post_batch(site: Site, archive: bytes) -> str:
    batch_id: str = site.http.post("/batches", content=archive).json()["id"]
    return batch_id


def described() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return create_app(ServiceSettings(blob_dir=Path(folder))).openapi()


def made_from(description: dict[str, Any], **more: Any) -> Any:
    config = schemathesis.Config.from_dict(_CONFIG | more)
    return schemathesis.openapi.from_dict(description, config=config)


schema = made_from(described())
#: Without the borders of every value, which would take thousands of requests.
quick_schema = made_from(described(), phases={"coverage": {"enabled": False}})


def examples(count: int) -> Any:
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )


def check(case: Any, site: Site, job_ids: Iterator[str], batch_ids: Iterator[str]) -> None:
    """Send a request for an existing job or batch and check the response."""
    if "job_id" in (case.path_parameters or {}):
        deletes = case.method.upper() == "DELETE"
        case.path_parameters["job_id"] = site.submit(PICTURES[0]) if deletes else next(job_ids)
    if "batch_id" in (case.path_parameters or {}):
        deletes = case.method.upper() == "DELETE"
        one = post_batch(site, ARCHIVES[0]) if deletes else next(batch_ids)
        case.path_parameters["batch_id"] = one
    case.call_and_validate(base_url=str(site.http.base_url), timeout=TIMEOUT)


@quick_schema.parametrize()
@examples(10)
def test_an_operation_answers_as_described(
    case: Any, site: Site, job_ids: Iterator[str], batch_ids: Iterator[str]
) -> None:
    check(case, site, job_ids, batch_ids)


@pytest.mark.long
@pytest.mark.timeout(600)
@schema.parametrize()
@examples(200)
def test_an_operation_answers_as_described_200_times(
    case: Any, site: Site, job_ids: Iterator[str], batch_ids: Iterator[str]
) -> None:
    check(case, site, job_ids, batch_ids)


def chains(site: Site, *, seed: int) -> Iterator[tuple[int, list[object]]]:
    """Yield the number of requests and the faults of each chain of one schemathesis run.

    The run ends early, without a fault, when repeated requests get other responses, as jobs
    progress in between.
    """
    phases = {name: {"enabled": False} for name in ("examples", "coverage", "fuzzing")}
    linked = made_from(described(), seed=seed, phases=phases)
    linked.config.update(base_url=str(site.http.base_url))
    for event in engine.from_schema(linked).execute():
        match event:
            case engine_events.FatalError():
                yield 0, [event.exception]
            case engine_events.NonFatalError():
                yield 0, [event.value]
            case engine_events.ScenarioFinished():
                checks = itertools.chain(*event.recorder.checks.values())
                faults = [check.failure_info for check in checks if check.failure_info is not None]
                yield len(event.recorder.interactions), list(faults)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_chains_of_requests_that_follow_the_links_answer_as_described(site: Site) -> None:
    lengths: list[int] = []
    for seed in range(100):
        for length, faults in chains(site, seed=seed):
            assert faults == []
            lengths.append(length)
        if sum(length > 1 for length in lengths) >= 200:
            return
    pytest.fail(f"too few chains: {lengths}")
