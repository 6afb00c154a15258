"""`/limits` lists the limits, and each refusal names the limit that it is for."""

import struct

import numpy as np
import pytest
from factories import engine_info, register, saved
from serving import PICTURE, Serve, Site, problem_of

from service.settings import ServiceSettings
from workers.contract.errors import ConfigurationInvalid


def test_limits_say_what_the_service_was_set_to(site: Site) -> None:
    limits = site.http.get("/limits").json()

    assert limits["max_pixels"] == site.settings.max_pixels
    assert limits["max_upload_bytes"] == site.settings.max_upload_bytes
    assert limits["max_queued_jobs"] == site.settings.max_queued_jobs
    assert limits["max_wait_seconds"] == 50
    assert limits["result_ttl_seconds"] == 3600
    assert limits["input_formats"] == ["jpeg", "png", "webp", "tiff", "bmp", "avif", "gif"]
    written = [one["name"] for one in limits["output_formats"]]
    assert written == ["png", "jpeg", "webp", "avif", "tiff"]
    assert limits["output_formats"][0]["media_type"] == "image/png"
    assert limits["trade_off_stops"] == {"psnr": 0, "fused": 0.5, "gan": 1}


def test_formats_that_need_a_library_are_listed_when_all_workers_have_it(site: Site) -> None:
    def listed() -> set[str]:
        limits = site.http.get("/limits").json()
        read, written = limits["input_formats"], [one["name"] for one in limits["output_formats"]]
        return {"heic", "jxl"} & set(read) | {"jxl result"} & {f"{name} result" for name in written}

    register(site.redis, engine_info(extra_formats=("heic", "jxl")))
    assert listed() == {"heic", "jxl", "jxl result"}
    register(site.redis, engine_info(id="two", extra_formats=("heic",)))
    assert listed() == {"heic"}


LONG = saved(np.zeros((1, 4096), np.uint8), "PNG")
REFUSED = {
    "bytes": (PICTURE + bytes(100_000), "png", "max_upload_bytes", 100_000),
    "pixels": (
        PICTURE[:16] + struct.pack(">II", 999, 999) + PICTURE[24:], "png", "max_pixels", 100_000
    ),
    "side": (LONG, "webp", "max_side", 16_383),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_names_the_limit_and_its_value(site: Site, case: str) -> None:
    content, chosen, name, value = REFUSED[case]

    problem = site.post(content, params={"format": chosen}).json()

    assert problem["limits"] == {name: value}


def test_a_full_queue_says_when_to_come_back(serve: Serve) -> None:
    site = serve(max_pixels=1200, max_queued_pixels=1200)
    slow = {"psnr": 100.0, "fused": 100.0, "gan": 100.0}
    (model,) = engine_info().models
    register(
        site.redis, engine_info(models=(model.model_copy(update={"pixels_per_second": slow}),))
    )
    site.submit()  # 600 pixels each
    site.submit()

    refused = site.post()

    assert (refused.status_code, problem_of(refused)) == (503, "queue-full")
    assert refused.json()["limits"] == {"max_queued_pixels": 1200}
    assert refused.headers["Retry-After"] == "6"
    assert len(site.stored()) == 2


def test_a_bound_below_the_largest_picture_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GDSR_MAX_QUEUED_PIXELS", "1000")
    with pytest.raises(ConfigurationInvalid, match=r"GDSR_MAX_QUEUED_PIXELS.*GDSR_MAX_PIXELS"):
        ServiceSettings.load()


def test_a_refusal_for_no_limit_names_none(site: Site) -> None:
    assert "limits" not in site.post(b"rubbish").json()
