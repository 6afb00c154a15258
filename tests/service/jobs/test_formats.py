"""The format of a result comes from the field, the picture or the Accept header."""

import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401 - registers itself
import pytest
from factories import engine_info, photo, register, saved, transparency
from serving import PICTURE, Site, problem_of

pillow_heif.register_heif_opener()  # the tests write HEIC; `pillow_jxl` registers itself


def chosen(site: Site, content: bytes = PICTURE, *, accept: str = "*/*", **params: str) -> str:
    response = site.post(content, params=params, headers={"Accept": accept})
    assert response.status_code == 202, response.text
    result: str = response.json()["options"]["format"]
    site.http.delete(response.json()["links"]["self"])
    return result


@pytest.mark.parametrize(
    ("own", "result"),
    [("PNG", "png"), ("JPEG", "jpeg"), ("WebP", "webp"), ("AVIF", "avif"), ("TIFF", "tiff"),
     ("BMP", "png"), ("GIF", "png")],
)  # fmt: skip
def test_the_same_format_is_the_pictures_own_where_it_is_written(
    site: Site, own: str, result: str
) -> None:
    assert chosen(site, saved(photo(), own), format="same") == result


def test_the_same_format_has_its_own_limits(site: Site) -> None:
    deep_jpeg = site.post(saved(photo(), "JPEG"), params={"format": "same", "depth": "16"})

    assert problem_of(deep_jpeg) == "depth-not-storable"


@pytest.mark.parametrize(
    ("accept", "result"),
    [
        ("image/webp", "webp"),
        ("image/jpeg;q=0.5, image/avif;q=0.6", "avif"),
        ("image/jpeg; q=0.500, image/webp; Q=0.501", "webp"),
        ("image/webp, */*;q=0.8", "webp"),
        ("image/webp, */*", "webp"),
        ("image/jpeg;level=1;q=0.3, image/tiff;q=0.2", "jpeg"),
        ("IMAGE/AVIF", "avif"),
        ("image/png;q=0, image/*", "jpeg"),
        ("image/png;q=0.1, image/*;q=0.5, */*;q=0.9", "jpeg"),
        ("text/html, image/avif, image/webp, */*;q=0.8", "webp"),
        ("*/*", "png"),
        ("image/*", "png"),
        ("image/*;q=0.1", "png"),
    ],
)
def test_without_a_field_the_client_gets_what_it_likes_best(
    site: Site, accept: str, result: str
) -> None:
    assert chosen(site, accept=accept) == result


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "application/json",
        "image/gif",
        "*/*;q=0",
        "image/webp;q=2",
        "image/webp;q=x",
        ";;,,;q=1",
    ],
)
def test_an_accept_header_that_no_format_satisfies_is_ignored(site: Site, accept: str) -> None:
    assert chosen(site, accept=accept) == "png"


def test_a_field_counts_more_than_the_header(site: Site) -> None:
    assert chosen(site, accept="image/webp", format="jpeg") == "jpeg"
    form = site.http.post(
        "/upscale",
        files={"image": PICTURE},
        data={"format": "avif"},
        headers={"Accept": "image/webp"},
    )
    assert form.json()["options"]["format"] == "avif"


def test_a_header_that_comes_in_two_lines_is_one(site: Site) -> None:
    headers = [("Accept", "image/png;q=0.2"), ("Accept", "image/webp;q=0.3")]

    assert site.post(headers=headers).json()["options"]["format"] == "webp"


CLEAR = saved(np.dstack((photo(), transparency())), "PNG")
TALL = saved(np.zeros((4200, 2), np.uint8), "PNG")
DEEP = {"depth": "16"}


@pytest.mark.parametrize(
    ("content", "accept", "params", "result"),
    [
        (CLEAR, "image/jpeg", {}, "png"),
        (CLEAR, "image/jpeg, image/webp;q=0.5", {}, "webp"),
        (CLEAR, "image/jpeg", {"background": "#ffffff"}, "jpeg"),
        (TALL, "image/webp,*/*;q=0.8", {}, "png"),
        (TALL, "image/webp,image/avif;q=0.9", {}, "avif"),
        (TALL, "image/webp", {}, "png"),
        (TALL, "image/webp", {"height": "4200"}, "webp"),
        (PICTURE, "image/jpeg", DEEP, "png"),
        (PICTURE, "image/jpeg, image/tiff;q=0.1", DEEP, "tiff"),
        (PICTURE, "image/avif, image/webp;q=0.3", {"lossless": "true"}, "webp"),
    ],
)
def test_of_what_the_client_likes_it_gets_the_best_that_can_hold_its_picture(
    site: Site, content: bytes, accept: str, params: dict[str, str], result: str
) -> None:
    assert chosen(site, content, accept=accept, **params) == result


@pytest.mark.parametrize("name", ["jpg", "JPG", "Jpeg", "TIF", "WebP", "SAME"])
def test_a_format_is_understood_as_people_write_it(site: Site, name: str) -> None:
    meant = {"jpg": "jpeg", "tif": "tiff", "same": "png"}

    assert chosen(site, format=name) == meant.get(name.lower(), name.lower())


def test_a_picture_that_may_turn_out_opaque_is_accepted_for_jpeg(site: Site) -> None:
    assert chosen(site, CLEAR, format="jpeg") == "jpeg"


def test_an_address_may_end_in_a_slash(site: Site) -> None:
    assert site.http.post("/upscale/", content=PICTURE).status_code == 202
    assert site.http.post("/batches/", files=[("image", PICTURE)]).status_code == 202


EXTRAS = {
    "HEIC": saved(photo(), "HEIF"),
    "JPEG XL": saved(photo(), "JXL"),
}


@pytest.mark.parametrize("kind", EXTRAS)
def test_a_format_that_needs_a_library_is_refused_without(site: Site, kind: str) -> None:
    response = site.post(EXTRAS[kind])

    assert problem_of(response) == "image-unsupported"
    assert f"a {kind} picture, for which no library is installed" in response.json()["detail"]
    assert site.stored() == []


@pytest.mark.parametrize(("kind", "result"), [("HEIC", "png"), ("JPEG XL", "jxl")])
def test_a_format_that_needs_a_library_is_accepted_once_it_is_installed(
    site: Site, kind: str, result: str
) -> None:
    register(site.redis, engine_info(extra_formats=("heic", "jxl")))

    assert chosen(site, EXTRAS[kind], format="same") == result
    assert chosen(site, EXTRAS[kind]) == "png"


def test_a_result_that_needs_a_library_is_refused_without(site: Site) -> None:
    refused = site.post(params={"format": "jxl"})

    assert problem_of(refused) == "format-not-written"
    assert "/limits" in refused.json()["detail"]
    register(site.redis, engine_info(extra_formats=("jxl",)))
    assert chosen(site, format="jxl", lossless="true") == "jxl"
    assert problem_of(site.post(params={"format": "jxl", "depth": "16"})) == "depth-not-storable"
    assert problem_of(site.post(params={"format": "jxl", "icc": "keep"})) == "profile-not-storable"
    assert chosen(site, accept="image/jxl") == "png"
