"""Clients of Automatic1111 and LocalAI work with a service and a tiny network."""

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hosts
import httpx2
import pytest
from factories import engine_info, photo, register, saved
from networks import tiny_checkpoint
from PIL import Image
from processes import running_valkey, wait_for
from serving import PICTURE, Serve, Site, problem_of, served

from service.access.auth import hash_key
from service.settings import ServiceSettings
from workers.contract.queue.jobs import JobState


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, hosts.Site]]:
    """A service and its workers."""
    folder = tmp_path_factory.mktemp("compat")
    with running_valkey(folder / "valkey") as valkey:
        checkpoint = tiny_checkpoint(folder / "tiny.safetensors")
        workers = hosts.Site(valkey.url, folder / "blobs", checkpoint)
        chosen = ServiceSettings(redis_url=valkey.url, blob_dir=folder / "blobs")
        with served(chosen) as site, workers.worker_host():
            yield site, workers


@pytest.fixture
def working(both: tuple[Site, hosts.Site]) -> Site:
    return both[0]


def in_base64(*pictures: bytes) -> dict[str, Any]:
    """Return the body of a batch request."""
    images = [{"data": base64.b64encode(data).decode()} for data in pictures]
    return {"imageList": images, "upscaler_1": "GDSR crisp"}


def single(site: Site, **changes: Any) -> httpx2.Response:
    body = {"image": base64.b64encode(PICTURE).decode(), "upscaler_1": "GDSR balanced"}
    return site.http.post("/sdapi/v1/extra-single-image", json=body | changes)


@pytest.mark.e2e
def test_the_client_of_automatic1111_upscales_one_and_many(working: Site) -> None:
    webuiapi = pytest.importorskip("webuiapi", reason="no webuiapi: pip install webuiapi")
    host, port = working.http.base_url.host, working.http.base_url.port
    client = webuiapi.WebUIApi(host=host, port=port)
    first, second = Image.new("RGB", (30, 20), "teal"), Image.new("RGB", (16, 24), "red")

    names = [upscaler["name"] for upscaler in client.get_upscalers()]
    one = client.extra_single_image(first, upscaler_1=names[0], upscaling_resize=4)
    many = client.extra_batch_images(
        [first, second], upscaler_1="GDSR crisp (tiny)", upscaling_resize=3
    )

    assert names[:3] == ["GDSR faithful", "GDSR balanced", "GDSR crisp"]
    assert one.image.size == (120, 80)
    assert [image.size for image in many.images] == [(90, 60), (48, 72)]
    with pytest.raises(RuntimeError, match="invalid-request"):
        client.extra_single_image(first, upscaler_1=names[0], upscaling_resize=4.5)


@pytest.mark.e2e
@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_for_localai_gets_the_address_of_the_picture(working: Site) -> None:
    url = str(working.http.base_url).rstrip("/")
    said = subprocess.run(
        ["curl", "-sS", f"{url}/v1/images/upscale", "-F", "model=tiny", "-F", "scale=4",
         "-F", "image=@-;filename=cat.png"],
        input=PICTURE, check=True, capture_output=True, timeout=100,
    ).stdout  # fmt: skip
    answer = json.loads(said)

    assert answer.keys() == {"id", "created", "data"}
    (item,) = answer["data"]
    picture = subprocess.run(
        ["curl", "-sS", "--fail", item["url"]], check=True, capture_output=True, timeout=100
    ).stdout
    with Image.open(io.BytesIO(PICTURE)) as sent, Image.open(io.BytesIO(picture)) as large:
        assert large.size == (4 * sent.width, 4 * sent.height)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"image": "no base64!"}, "image"),
        ({"image": 5}, "image"),
        ({"upscaling_resize": 4.1}, "upscaling_resize"),
        ({"upscaler_1": "R-ESRGAN 4x+"}, "upscaler_1"),
        ({"gfpgan_visibility": 1}, "gfpgan_visibility"),
        ({"resize_mode": 1}, "upscaling_crop"),
        (
            {"resize_mode": 1, "upscaling_crop": False, "upscaling_resize_w": 0},
            "upscaling_resize_w",
        ),
    ],
)
def test_a_bad_field_is_named_and_nothing_is_queued(
    change: dict[str, Any], name: str, site: Site
) -> None:
    refused = single(site, **change)

    assert problem_of(refused) == "invalid-request"
    faults = [(fault["place"], fault["name"]) for fault in refused.json()["errors"]]
    assert faults == [("body", name)]
    assert "Input should" not in refused.text  # pydantic's wording
    assert site.records.active() == []
    assert site.stored() == []


@pytest.mark.parametrize(
    ("body", "name"),
    [(b'{"image": "%b', "json"), (b'["%b"]', "json"), (b'{"image": ["%b"]}', "image")],
)
def test_a_body_that_is_not_right_is_not_repeated(body: bytes, name: str, site: Site) -> None:
    large = body % base64.b64encode(bytes(2**20))

    refused = site.http.post("/sdapi/v1/extra-single-image", content=large)

    assert problem_of(refused) == "invalid-request"
    (fault,) = refused.json()["errors"]
    assert fault["name"] == name
    assert len(refused.content) < 1000


def test_a_batch_with_one_bad_picture_queues_none(site: Site) -> None:
    body = in_base64(PICTURE, b"no picture")

    refused = site.http.post("/sdapi/v1/extra-batch-images", json=body)

    assert problem_of(refused) == "image-unsupported"
    assert site.records.active() == []
    assert site.stored() == []


def test_the_picture_of_a_batch_that_is_not_base64_is_named(site: Site) -> None:
    body = in_base64(PICTURE) | {"upscaler_1": "GDSR crisp"}
    body["imageList"].append({"data": "no base64!"})

    refused = site.http.post("/sdapi/v1/extra-batch-images", json=body)

    assert [fault["name"] for fault in refused.json()["errors"]] == ["imageList.1.data"]


@pytest.mark.parametrize(
    ("fields", "name"), [({"scale": "2"}, "model"), ({"model": "lite", "scale": "5"}, "scale")]
)
def test_a_bad_field_for_localai_is_named(fields: dict[str, str], name: str, site: Site) -> None:
    files = {"image": ("cat.png", PICTURE)}
    refused = site.http.post("/v1/images/upscale", data=fields, files=files)

    assert problem_of(refused) == "invalid-request"
    assert refused.json()["errors"][0]["name"] == name
    assert site.records.active() == []


def test_a_model_that_is_missing_for_localai_is_placed_where_the_fields_are(site: Site) -> None:
    refused = site.http.post("/v1/images/upscale", json={"image": "AAAA", "scale": 2})

    faults = [(fault["place"], fault["name"]) for fault in refused.json()["errors"]]
    assert faults == [("body", "model")]


@pytest.mark.parametrize("name", ["scale", "colour"])
def test_a_bad_option_for_localai_in_the_query_is_named(name: str, site: Site) -> None:
    files = {"image": ("cat.png", PICTURE)}
    refused = site.http.post(
        "/v1/images/upscale", params={name: "5"}, data={"model": "lite"}, files=files
    )

    assert problem_of(refused) == "invalid-request"
    faults = [(fault["place"], fault["name"]) for fault in refused.json()["errors"]]
    assert faults == [("query", name)]


FORM = {"data": {"model": "lite"}, "files": {"image": ("cat.png", PICTURE)}}
ONE = {"json": {"image": base64.b64encode(PICTURE).decode(), "upscaler_1": "GDSR crisp"}}
BATCH = {"json": in_base64(PICTURE, saved(photo(10, 15), "PNG"))}


@pytest.mark.usefixtures("looking_often")
@pytest.mark.parametrize(
    ("path", "sent", "jobs"),
    [
        ("/v1/images/upscale", FORM, 1),
        ("/sdapi/v1/extra-single-image", ONE, 1),
        ("/sdapi/v1/extra-batch-images", BATCH, 2),
    ],
)
def test_the_jobs_of_a_client_that_leaves_while_it_waits_are_cancelled(
    path: str, sent: dict[str, Any], jobs: int, site: Site
) -> None:
    request = site.http.build_request("POST", path, **sent)
    lines = [f"{name}: {value}" for name, value in request.headers.items()]
    head = "\r\n".join([f"POST {path} HTTP/1.1", *lines, "", ""]).encode()
    address = site.http.base_url.host, site.http.base_url.port
    with socket.create_connection(address) as connection:
        connection.sendall(head + request.read())
        ids = wait_for(lambda: len(known := site.records.active()) == jobs and known)

    for job_id in ids:
        wait_for(
            lambda job_id=job_id: site.records.get(job_id).state is JobState.CANCELLED,  # type: ignore[misc]
            what="a cancelled job",
        )
    wait_for(lambda: not site.stored(), what="an empty store")


@pytest.mark.e2e
@pytest.mark.slow
def test_a_picture_that_kills_its_decoder_is_reported_and_fails_the_rest_of_its_batch(
    both: tuple[Site, hosts.Site],
) -> None:
    site, workers = both
    body = in_base64(hosts.noise(500, 500), *(hosts.noise(400, 400, seed=n) for n in range(1, 9)))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(site.http.post, "/sdapi/v1/extra-batch-images", json=body)
        ids = wait_for(lambda: len(known := site.records.active()) == 9 and known)
        deadly = next(i for i in ids if workers.job(i).spec.image.width == 500)
        kill_twice(workers, deadly)
        refused = answer.result()

    document = refused.json()
    assert (refused.status_code, document["type"]) == (500, "/problems/job-crashed")
    assert document["instance"] == f"/jobs/{deadly}"
    wait_for(lambda: not site.records.active(), what="no job of the batch")
    assert single(site).status_code == 200  # the workers are still alive


def kill_twice(workers: hosts.Site, job_id: str) -> None:
    """Kill the job's process in both runs, as a codec that crashes would."""
    first = wait_for(lambda: workers.in_the_middle(job_id)).run
    os.kill(wait_for(lambda: workers.at_work(job_id))[1], signal.SIGKILL)
    wait_for(lambda: (job := workers.in_the_middle(job_id)) and job.run != first)
    os.kill(wait_for(lambda: workers.at_work(job_id))[1], signal.SIGKILL)


def test_keys_and_rates_hold_for_other_programs(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"ann:{hash_key('ann-key')}\n")
    site = serve(api_keys_file=tmp_path / "keys", rate_limit="1/hour")
    register(site.redis, engine_info())
    key = {"Authorization": "Bearer ann-key"}
    files = {"image": ("cat.png", PICTURE)}
    form = {"model": "lite", "scale": "5"}

    without = [single(site), site.http.post("/v1/images/upscale", data=form, files=files)]
    first, second = (
        site.http.post("/v1/images/upscale", data=form, files=files, headers=key) for _ in range(2)
    )

    assert [problem_of(refused) for refused in without] == ["key-missing"] * 2
    assert problem_of(first) == "invalid-request"  # counted, and not queued
    assert problem_of(second) == "rate-exceeded"


def test_the_routes_can_be_switched_off(serve: Serve) -> None:
    site = serve(compat=False)
    register(site.redis, engine_info())

    assert problem_of(single(site)) == "not-found"
    assert site.http.get("/sdapi/v1/upscalers").status_code == 404
    assert problem_of(site.http.post("/v1/images/upscale")) == "not-found"
