"""`POST /upscale` accepts or refuses pictures and options, and describes the job."""

import hashlib
import struct
from typing import Any

import numpy as np
import pytest
from factories import engine_info, photo, png, register, saved, tiff
from PIL import Image
from serving import PICTURE, Site, problem_of


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WebP", "TIFF", "BMP", "AVIF", "GIF"])
def test_a_picture_in_the_body_becomes_a_queued_job(site: Site, name: str) -> None:
    picture = saved(photo(20, 30), name)

    response = site.post(picture)

    job = response.json()
    assert response.status_code == 202
    assert response.headers["Location"] == f"/jobs/{job['id']}" == job["links"]["self"]
    assert response.headers["Retry-After"] == "1"
    assert (job["state"], job["queue_position"]) == ("queued", 0)
    assert job["image"] == {
        "format": name.lower(),
        "width": 30,
        "height": 20,
        "size": len(picture),
        "sha256": hashlib.sha256(picture).hexdigest(),
    }
    chosen = {"trade_off": 0.5, "model": "lite", "format": "png", "quality": 90}
    assert job["options"].items() >= chosen.items()
    assert site.blobs.read(site.records.get(job["id"]).spec.image.key) == picture


def test_a_form_says_the_same_as_body_and_query(site: Site) -> None:
    form = {"trade_off": "0.25", "format": "webp", "quality": "80", "model": "lite"}

    response = site.http.post("/upscale", files={"image": ("a.png", PICTURE)}, data=form)

    body = site.post(params=form)
    assert response.status_code == body.status_code == 202
    assert response.json()["options"] == body.json()["options"]
    assert response.json()["image"] == body.json()["image"]
    assert response.json()["options"]["trade_off"] == 0.25


@pytest.mark.parametrize(("name", "value"), [("psnr", 0), ("fused", 0.5), ("gan", 1)])
def test_the_slider_has_names(site: Site, name: str, value: float) -> None:
    assert site.post(params={"trade_off": name}).json()["options"]["trade_off"] == value


def test_fields_may_come_by_query_and_form_together(site: Site) -> None:
    response = site.http.post(
        "/upscale?quality=80&format=jpeg",
        files={"image": PICTURE},
        data={"trade_off": "1", "format": "jpeg"},
    )

    options = response.json()["options"]
    assert (options["quality"], options["format"], options["trade_off"]) == (80, "jpeg", 1)


def test_a_field_given_twice_and_different_is_refused(site: Site) -> None:
    in_both = site.http.post(
        "/upscale?quality=80", files={"image": PICTURE}, data={"quality": "81"}
    )
    in_query = site.http.post("/upscale?quality=80&quality=81", content=PICTURE)

    assert problem_of(in_both) == problem_of(in_query) == "invalid-request"
    assert in_both.json()["errors"] == [
        {"place": "form", "name": "quality", "message": "given twice with different values"}
    ]
    assert site.stored() == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("trade_off", "1.01"), ("trade_off", "-0.1"), ("trade_off", "nan"), ("trade_off", "lite"),
        ("quality", "0"), ("quality", "101"), ("quality", "high"), ("format", "gif"),
        ("model", "m" * 201), ("scale", "5"), ("zoom", "2"),
    ],
)  # fmt: skip
def test_a_field_that_is_wrong_or_unknown_is_named(site: Site, field: str, value: str) -> None:
    by_query = site.post(params={field: value})
    by_form = site.http.post("/upscale", files={"image": PICTURE}, data={field: value})

    for place, response in (("query", by_query), ("form", by_form)):
        assert response.status_code == 422
        assert problem_of(response) == "invalid-request"
        assert [(e["place"], e["name"]) for e in response.json()["errors"]] == [(place, field)]
    assert site.stored() == []


def test_all_wrong_fields_are_named_at_once(site: Site) -> None:
    response = site.post(params={"trade_off": "2", "quality": "0", "scale": "5"})

    assert {e["name"] for e in response.json()["errors"]} == {"trade_off", "quality", "scale"}


@pytest.mark.parametrize("content_type", ["image/jpeg", "text/plain", None])
def test_content_counts_and_not_its_name(site: Site, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}

    raw = site.post(headers=headers)
    form = site.http.post("/upscale", files={"image": ("photo.jpg", PICTURE, content_type)})

    assert raw.json()["image"]["format"] == form.json()["image"]["format"] == "png"


def test_a_single_pixel_is_a_picture(site: Site) -> None:
    response = site.post(saved(photo(1, 1), "PNG"))

    assert response.status_code == 202
    assert (response.json()["image"]["width"], response.json()["image"]["height"]) == (1, 1)


def _samples(channels: int) -> Any:
    return np.zeros((4, 4, channels), np.uint16)


_SECOND = [Image.fromarray(photo(seed=1))]
ANIMATION = saved(photo(), "GIF", save_all=True, append_images=_SECOND)

REFUSED = {
    "empty": (b"", {}, 422, "image-missing"),
    "truncated": (PICTURE[:30], {}, 422, "image-corrupt"),
    "rubbish": (b"not a picture", {}, 415, "image-unsupported"),
    "PDF": (saved(photo(), "PDF"), {}, 415, "image-unsupported"),
    "EPS": (saved(photo(), "EPS"), {}, 415, "image-unsupported"),
    "PSD": (b"8BPS\0\1" + bytes(20), {}, 415, "image-unsupported"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", {}, 415, "image-unsupported"),
    "PDF called PNG": (saved(photo(), "PDF"), {"format": "png"}, 415, "image-unsupported"),
    "animated GIF": (ANIMATION, {}, 422, "animated-image"),
    "a frame too far": (ANIMATION, {"frame": "2"}, 422, "frame-missing"),
    "a frame before the first": (ANIMATION, {"frame": "-1"}, 422, "invalid-request"),
    "a second frame of a picture": (PICTURE, {"frame": "1"}, 422, "frame-missing"),
    "bomb": (
        PICTURE[:16] + struct.pack(">II", 40_000, 40_000) + PICTURE[24:],
        {},
        413,
        "image-too-large",
    ),
    "too many pixels": (saved(np.zeros((401, 250), np.uint8), "PNG"), {}, 413, "image-too-large"),
    "APNG": (
        png(_samples(3), bits=8, colour_type=2, chunks=[(b"acTL", b"\0\0\0\2\0\0\0\0")]),
        {},
        422,
        "animated-image",
    ),
    "signed samples": (
        tiff(bytes(6), height=2, width=3, bits=[8], photometric=1, tags=[(339, 2)]),
        {},
        415,
        "image-unsupported",
    ),
    "16 bits into JPEG": (
        png(_samples(3), bits=16, colour_type=2),
        {"format": "jpeg", "depth": "16"},
        422,
        "depth-not-storable",
    ),
    "more than four times": (
        png(_samples(3), bits=16, colour_type=2),
        {"width": "1000"},
        422,
        "scale-too-large",
    ),
    "a background without a colour": (
        png(_samples(3), bits=16, colour_type=2),
        {"background": "white"},
        422,
        "invalid-request",
    ),
    "too long for WebP": (
        saved(np.zeros((1, 4096), np.uint8), "PNG"),
        {"format": "webp"},
        422,
        "result-too-large",
    ),
    "unknown model": (PICTURE, {"model": "huge"}, 422, "model-unknown"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_rejected_upload_is_a_problem_and_leaves_nothing(site: Site, case: str) -> None:
    content, params, status, slug = REFUSED[case]

    by_body = site.post(content, params=params)
    by_form = site.http.post("/upscale", files={"image": ("x.png", content)}, params=params)

    for response in (by_body, by_form):
        assert response.status_code == status
        assert problem_of(response) == slug
        assert response.json()["detail"]
    assert site.stored() == []
    assert site.records.active() == []


def test_the_chosen_frame_of_an_animation_is_stored_with_the_job(site: Site) -> None:
    job = site.post(ANIMATION, params={"frame": "1"}).json()

    assert job["image"]["format"] == "gif"
    assert job["options"]["frame"] == 1
    assert site.post(ANIMATION).json()["detail"] == (
        "the picture has 2 frames or pages; choose one with `frame`, counted from 0, or take a "
        "single picture"
    )


def test_a_page_of_a_tiff_has_its_own_size(site: Site) -> None:
    pages = saved(photo(), "TIFF", save_all=True, append_images=[Image.fromarray(photo(5, 7))])
    image = site.post(pages, params={"frame": "1"}).json()["image"]

    assert (image["width"], image["height"]) == (7, 5)


def test_grey_of_16_bits_is_accepted(site: Site) -> None:
    assert site.post(png(_samples(1), bits=16, colour_type=0)).status_code == 202


def test_pixels_up_to_the_limit_are_accepted(site: Site) -> None:
    assert site.post(saved(np.zeros((400, 250), np.uint8), "PNG")).status_code == 202


def test_without_a_worker_nothing_is_accepted(bare_site: Site) -> None:
    response = bare_site.post()

    assert response.status_code == 503
    assert problem_of(response) == "no-worker"
    assert int(response.headers["Retry-After"]) >= 1
    assert bare_site.stored() == []


def test_a_full_queue_is_a_problem_that_says_when_to_retry(site: Site) -> None:
    for _ in range(3):
        site.submit()

    response = site.post()

    assert response.status_code == 503
    assert problem_of(response) == "queue-full"
    assert response.json()["limits"] == {"max_queued_jobs": 3}
    assert int(response.headers["Retry-After"]) >= 1
    assert len(site.stored()) == len(site.records.active()) == 3


def test_the_default_model_is_the_engines(site: Site) -> None:
    lite = engine_info().models[0]
    base = lite.model_copy(update={"name": "base"})
    register(site.redis, engine_info(models=(lite, base), default_model="base"))

    assert site.post().json()["options"]["model"] == "base"
    assert site.post(params={"model": ""}).json()["options"]["model"] == "base"
    assert site.post(params={"model": "lite"}).json()["options"]["model"] == "lite"
