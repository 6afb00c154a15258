"""`/docs` is complete and correct, and loads nothing from other hosts."""

import re
from html.parser import HTMLParser
from typing import Any

from serving import Site

from service.jobs.options import UpscaleFields


class _Page(HTMLParser):
    """Collects what a page loads, and inline code that a strict policy would block."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "link", "img"):
            self.loaded.append(given.get("src") or given.get("href") or "")
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        self.inline += [name for name in given if name == "style" or name.startswith("on")]


def test_the_page_loads_only_files_that_the_service_has(site: Site) -> None:
    page = _Page()
    page.feed(site.http.get("/docs").text)

    assert len(page.loaded) == 4
    assert page.inline == []
    for path in page.loaded:
        assert re.fullmatch(r"docs/[a-z.-]+", path)
        response = site.http.get(f"/{path}")
        assert (response.status_code, len(response.content) > 50) == (200, True)


def test_no_other_file_is_served(site: Site) -> None:
    for name in ("docs.html", "redoc.standalone.js", "..%2f__init__.py", "%2fetc%2fpasswd"):
        assert site.http.get(f"/docs/{name}").status_code == 404


def _references(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        own = {schema["$ref"]} if "$ref" in schema else set()
        return own.union(*map(_references, schema.values()))
    if isinstance(schema, list):
        return set().union(*map(_references, schema))
    return set()


def test_every_reference_of_the_description_leads_somewhere(site: Site) -> None:
    described = site.http.get("/openapi.json").json()

    known = {
        f"#/components/{part}/{name}"
        for part in ("schemas", "headers")
        for name in described["components"][part]
    }
    assert _references(described) <= known
    assert "HTTPValidationError" not in str(described)


def test_the_description_of_an_upload_says_what_may_be_sent_and_what_comes_back(site: Site) -> None:
    upload = site.http.get("/openapi.json").json()["paths"]["/upscale"]["post"]

    fields = set(UpscaleFields.model_fields)
    assert fields >= {"trade_off", "model", "format", "quality", "name"}
    described = {field["name"] for field in upload["parameters"]}
    assert described == {"prefer", "idempotency-key", "cache-control", *fields}
    form = upload["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"image", *fields}
    assert "application/octet-stream" in upload["requestBody"]["content"]
    assert set(upload["responses"]) == {
        "200", "202", "400", "401", "404", "410", "413", "415", "422", "429", "500", "503",
        "507",
    }  # fmt: skip
    assert set(upload["responses"]["200"]["content"]) == {
        f"image/{name}" for name in ("png", "jpeg", "webp", "avif", "tiff", "jxl")
    }
    assert set(upload["responses"]["202"]["headers"]) >= {"Location", "Retry-After"}
    assert list(upload["responses"]["413"]["content"]) == ["application/problem+json"]
