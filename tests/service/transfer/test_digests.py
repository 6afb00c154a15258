"""Digests (RFC 9530) of uploads are checked, and every result has one."""

import base64
import hashlib

import httpx2
import pytest
from serving import PICTURE, Site, problem_of


def digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def form_and_digest(site: Site, header: str, *, promised: bytes | None = None) -> httpx2.Response:
    request = site.http.build_request("POST", "/upscale", files={"image": ("a.png", PICTURE)})
    request.headers[header] = digest(promised or request.read())
    return site.http.send(request)


@pytest.mark.parametrize("header", ["Content-Digest", "Repr-Digest"])
def test_a_body_that_is_what_its_digest_says_is_accepted(site: Site, header: str) -> None:
    raw = site.post(headers={header: f"sha-512=:AAAA:, {digest(PICTURE)}"})
    form = form_and_digest(site, header)

    assert (raw.status_code, form.status_code) == (202, 202)


@pytest.mark.parametrize("header", ["Content-Digest", "Repr-Digest"])
def test_a_body_that_changed_on_its_way_is_refused_and_leaves_nothing(
    site: Site, header: str
) -> None:
    raw = site.post(headers={header: digest(b"another")})
    form = form_and_digest(site, header, promised=PICTURE)  # the picture's digest, not the body's

    for response in (raw, form):
        assert response.status_code == 400
        assert problem_of(response) == "digest-mismatch"
    assert digest(PICTURE) in raw.json()["detail"]
    assert site.stored() == []


@pytest.mark.parametrize("value", ["sha-256=AAAA", "sha-256=:AAAA:", "sha-256=:!:", "sha-256=:"])
def test_a_digest_that_is_none_is_named(site: Site, value: str) -> None:
    response = site.post(headers={"Content-Digest": value})

    assert problem_of(response) == "invalid-request"
    assert [(e["place"], e["name"]) for e in response.json()["errors"]] == [
        ("header", "Content-Digest")
    ]


def test_digests_of_other_kinds_are_ignored(site: Site) -> None:
    assert site.post(headers={"Content-Digest": "md5=:AAAA:"}).status_code == 202


def test_a_result_comes_with_its_digest(site: Site) -> None:
    job_id = site.submit()
    site.succeed(job_id, b"picture")
    address = f"/jobs/{job_id}/result"

    whole = site.http.get(address)
    part = site.http.get(address, headers={"Range": "bytes=2-4"})
    head = site.http.head(address)

    assert {r.headers["Repr-Digest"] for r in (whole, part, head)} == {digest(b"picture")}
    assert whole.headers["Content-Digest"] == digest(whole.content)
    assert not {"Content-Digest"} & {*part.headers, *head.headers}
