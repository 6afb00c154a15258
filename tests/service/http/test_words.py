"""Errors in a field are reported in plain words."""

import pytest
from factories import photo, saved
from serving import Site

FIELDS = {
    "quality=0": "quality: it is '0'; the minimum is 1",
    "width=2000000": "width: it is '2000000'; the maximum is 1,000,000",
    "trade_off=nan": "trade_off: it is 'nan'; the minimum is 0",
    "trade_off=abc": "trade_off: 'abc' is not a number",
    "frame=1.5": "frame: '1.5' is not a whole number",
    "lossless=7": "lossless: '7' is neither true nor false",
    "alpha=x": "alpha: it is 'x'; it can be 'model' or 'lanczos'",
    "background=red": "background: 'red' is not a colour such as #ffffff",
    "width=9&scale=2": "width: give either a scale, or a width and height",
    "model=" + "m" * 201: "model: it is longer than 200 characters",
    "colour=1": "colour: unknown field",
    "url=https://a.example/b.jpg": "url: it is a URL, and URLs are not fetched",
    "background=" + "x" * 99: f"background: '{'x' * 40}...' is not a colour",
}


@pytest.mark.parametrize("query", FIELDS)
def test_a_wrong_field_is_reported_in_plain_words(site: Site, query: str) -> None:
    response = site.http.post(f"/upscale?{query}", content=b"unread")

    assert response.status_code == 422
    assert response.json()["detail"].startswith(FIELDS[query])


RESULTS = {
    "/jobs?limit=0": "limit: it is '0'; the minimum is 1",
    "/jobs/JOB/result?region=1": "region: '1' is not of the form x,y,width,height",
    "/jobs/JOB/result?output=x": "output: it is 'x'; it can be 'psnr', 'fused', 'gan' or 'mask'",
    "/jobs/JOB/result?zoom=1": "zoom: unknown field",
}


@pytest.mark.parametrize("address", RESULTS)
def test_a_wrong_field_of_other_requests_is_too(site: Site, address: str) -> None:
    response = site.http.get(address.replace("JOB", site.submit()))

    assert response.status_code == 422
    assert response.json()["detail"].startswith(RESULTS[address])


def test_a_form_and_json_that_name_an_address_are_told_that_it_is_not_fetched(site: Site) -> None:
    fields = {"url": "https://a.example/b.jpg"}
    by_form = site.http.post("/upscale", files={"url": (None, fields["url"])})

    for response in (by_form, site.http.post("/upscale", json=fields)):
        assert "url: it is a URL, and URLs are not fetched" in response.json()["detail"]


def test_a_size_that_is_too_large_is_reported_with_the_sides_in_their_order(site: Site) -> None:
    wide, thin = saved(photo(48, 64), "PNG"), saved(photo(1, 3), "PNG")
    response = site.post(wide, params={"width": "300"})
    larger = site.post(thin, params={"width": "1000000"})

    assert "64 x 48 pixels and would be enlarged 4.69 times" in response.json()["detail"]
    assert response.json()["detail"].endswith("ask for at most 256 x 192")
    assert "would be enlarged 333,333.33 times" in larger.json()["detail"]
