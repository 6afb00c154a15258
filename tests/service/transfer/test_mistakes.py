"""Uploads that are sent the wrong way are refused with advice on the right way."""

import base64
import gzip
import json

import pytest
from serving import PICTURE, Site, problem_of

JPEG_LIKE = b"\xff\xd8\xff\xe0\x10JFIF\x01\x01" + b"\x55" * 3000
FORM = "multipart/form-data; boundary=x"
URLENCODED = "application/x-www-form-urlencoded"


def part(value: bytes, *, file_name: str | None = None) -> bytes:
    named = "" if file_name is None else f'; filename="{file_name}"'
    head = f'--x\r\nContent-Disposition: form-data; name="image"{named}\r\n\r\n'
    return head.encode() + value + b"\r\n--x--\r\n"


MISTAKES = {
    "-d @photo.jpg": (URLENCODED, JPEG_LIKE, "curl -d sends text"),
    "-d image=photo.jpg": (URLENCODED, b"image=photo.jpg", "curl -F image=@photo.jpg"),
    "-F image=photo.jpg": (FORM, part(b"photo.jpg"), "an @ before it"),
    "-F image=https://...": (FORM, part(b"https://a.example/b.jpg"), "not fetched"),
    "an address as the body": ("", b"https://a.example/b.jpg", "not fetched"),
    "-d image=https://...": (URLENCODED, b"image=https://a.example/b.jpg", "not fetched"),
    "gzip": ("image/png", gzip.compress(PICTURE), "compressed with gzip"),
    "JSON by another name": ("text/plain", b'{"image": "abc"}', "application/json"),
    "a data URI as the body": ("", b"data:image/png;base64,AAAA", "in JSON only"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_refusal_says_what_was_done_and_the_right_way(site: Site, case: str) -> None:
    content_type, body, words = MISTAKES[case]
    response = site.post(body, headers={"Content-Type": content_type})

    assert (response.status_code, problem_of(response)) == (422, "invalid-request")
    assert words in response.json()["detail"]
    assert site.stored() == []


@pytest.mark.parametrize("content_type", [FORM, "application/json"])
def test_a_form_or_json_that_is_compressed_is_refused(site: Site, content_type: str) -> None:
    headers = {"Content-Type": content_type, "Content-Encoding": "gzip"}
    response = site.post(gzip.compress(part(PICTURE)), headers=headers)

    assert problem_of(response) == "invalid-request"
    assert "Content-Encoding: gzip is not decoded" in response.json()["detail"]


def test_the_refusal_of_a_file_that_is_no_picture_gives_no_advice_about_requests(
    site: Site,
) -> None:
    for body in (part(b"some words", file_name="a.txt"), part(b"{}", file_name="a.json")):
        response = site.post(body, headers={"Content-Type": FORM})
        assert problem_of(response) == "image-unsupported"


def test_a_picture_is_accepted_whatever_its_type_is_called(site: Site) -> None:
    for content_type in (URLENCODED, "image/gif"):
        assert site.post(PICTURE, headers={"Content-Type": content_type}).status_code == 202
    assert site.post(part(PICTURE), headers={"Content-Type": FORM}).status_code == 202


# JSON


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "DATA:;BASE64,"])
def test_a_picture_in_json_is_accepted_with_its_options(site: Site, prefix: str) -> None:
    image = prefix + base64.encodebytes(PICTURE).decode()
    body = {
        "image": image, "trade_off": 0.25, "format": "webp", "lossless": True, "name": "a.png",
        "width": None,
    }  # fmt: skip
    response = site.http.post("/upscale", json=body)

    assert response.status_code == 202, response.text
    options = response.json()["options"]
    assert (options["trade_off"], options["format"], options["lossless"]) == (0.25, "webp", True)
    assert response.json()["name"] == "a.png"
    stored = site.stored()
    assert site.blobs.read(stored[0]) == PICTURE


WRONG_JSON = {
    "no JSON": (b"{", "it is not JSON"),
    "no UTF-8": (b"\xff\xfe\xff", "it is not JSON"),
    "too deep": (b"[" * 100_000, "it is not JSON"),
    "a list": (b"[]", "it is not an object"),
    "an address": (b'{"image": "https://a.example/b.jpg"}', "not fetched"),
    "a number": (b'{"image": 3}', "not a string of base64"),
    "no base64": (b'{"image": "a.b*c"}', "it is not base64"),
    "no ASCII": ('{"image": "\u00e9"}'.encode(), "it is not base64"),
    "a data URI of text": (b'{"image": "data:,abc"}', "only data URIs in base64"),
    "a nested option": (b'{"image": "AAAA", "model": {}}', "neither a string"),
    "an unknown option": (b'{"image": "AAAA", "colour": 1}', "unknown field"),
    "half a character for an image": (rb'{"image": "\ud800"}', "not Unicode"),
    "half a character for a name": (rb'{"image": "AAAA", "name": "\udfff"}', "not Unicode"),
    "half a character for a field": (rb'{"image": "AAAA", "\ud800": 1}', "not Unicode"),
    "a number of 5000 digits": (b'{"image": "AAAA", "model": ' + b"9" * 5000 + b"}", "not JSON"),
    "no number": (b'{"image": "AAAA", "trade_off": NaN}', "trade_off"),
}


@pytest.mark.parametrize("case", WRONG_JSON)
def test_an_invalid_json_body_is_explained(site: Site, case: str) -> None:
    body, words = WRONG_JSON[case]
    response = site.post(body, headers={"Content-Type": "application/json; charset=utf-8"})

    assert (response.status_code, problem_of(response)) == (422, "invalid-request")
    assert words in response.json()["detail"]
    assert site.stored() == []


def test_a_bad_field_of_json_is_placed_in_the_body(site: Site) -> None:
    unknown = site.http.post("/upscale", json={"image": "AAAA", "colour": 1})
    link = site.http.post("/upscale", json={"url": "https://a.example/b.jpg"})

    for response in (unknown, link):
        assert [fault["place"] for fault in response.json()["errors"]] == ["body"]


def test_json_without_a_picture_and_with_something_else_is_refused(site: Site) -> None:
    nothing = site.http.post("/upscale", json={"trade_off": 1})
    text = site.http.post("/upscale", json={"image": base64.b64encode(b"some text").decode()})

    assert problem_of(nothing) == "image-missing"
    assert problem_of(text) == "image-unsupported"


def test_json_that_is_too_large_is_refused_at_its_limit(site: Site) -> None:
    large = json.dumps({"image": "A" * (25 * 1024**2)}).encode()

    assert (
        problem_of(site.post(large, headers={"Content-Type": "application/json"}))
        == "upload-too-large"
    )


# Preambles


@pytest.mark.parametrize(
    "preamble", [b"This is a form.\r\n", b"\r\n", b"--\r\n-", b"x" * 9000 + b"\r\n"]
)
def test_words_before_the_first_boundary_of_a_form_mean_nothing(
    site: Site, preamble: bytes
) -> None:
    preamble = preamble if preamble.endswith(b"\r\n") else preamble + b"\r\n"
    whole = preamble + part(PICTURE, file_name="a.png")
    slowly = iter([whole[at : at + 7] for at in range(0, len(whole), 7)])

    for content in (whole, slowly):
        response = site.post(content, headers={"Content-Type": FORM})
        assert response.status_code == 202, response.text


def test_a_form_that_never_begins_is_refused(site: Site) -> None:
    response = site.post(b"x" * 40_000, headers={"Content-Type": FORM})

    assert problem_of(response) == "invalid-request"
    assert "does not begin with its boundary" in response.json()["detail"]
