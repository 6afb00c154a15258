"""Uploads respect limits, may be forms, and leave nothing when a client disconnects."""

import fcntl
import os
import socket
from collections.abc import Iterator

import pytest
from processes import wait_for
from serving import PICTURE, TIMEOUT, Serve, Site, problem_of

from service.batches.uploads import BatchUpload
from service.transfer.incoming import Upload
from workers.contract.errors import StorageUnavailable


def test_an_upload_at_the_limit_is_accepted_and_one_byte_more_is_not(site: Site) -> None:
    limit = site.settings.max_upload_bytes
    fits = PICTURE + b"\0" * (limit - len(PICTURE))

    for content, status in ((fits, 202), (fits + b"\0", 413)):
        raw = site.post(content)
        form = site.http.post("/upscale", files={"image": ("x.png", content)})
        chunked = site.post(iter([content[:10], content[10:]]))
        assert {raw.status_code, form.status_code, chunked.status_code} == {status}
    assert problem_of(chunked) == "upload-too-large"
    assert len(site.stored()) == 3


def test_a_body_that_says_it_is_too_long_is_refused_before_it_is_read(site: Site) -> None:
    with _connected(site) as stream:
        stream.sendall(_head(length=10**9, expect=True))

        assert stream.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_body_without_an_end_is_refused_at_the_limit(site: Site) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 100 * site.settings.max_upload_bytes:
            yield b"\0" * 10_000
            sent += 10_000

    response = site.post(endless())

    assert problem_of(response) == "upload-too-large"
    assert site.stored() == []


@pytest.mark.parametrize("more", [10, 300_000], ids=["at the end", "at once"])
@pytest.mark.parametrize("batch", [False, True])
def test_a_file_that_becomes_read_only_is_a_store_that_is_unavailable(
    more: int,
    batch: bool,  # noqa: FBT001
) -> None:
    upload = BatchUpload(10**6, max_pictures=5) if batch else Upload(10**6)
    with os.fdopen(os.memfd_create("upload", os.MFD_ALLOW_SEALING), "w+b") as file:
        upload.open(file)
        upload.begin("image", "cat.png")
        upload.write(PICTURE)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)

        def write_more() -> None:
            upload.write(bytes(more))
            upload.end()

        with pytest.raises(StorageUnavailable, match="Operation not permitted"):
            write_more()
        upload.close()
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())  # takes what could not be written


def test_a_client_that_expects_100_continue_gets_it(site: Site) -> None:
    with _connected(site) as stream:
        stream.sendall(_head(length=len(PICTURE), expect=True))
        assert stream.recv(1000).startswith(b"HTTP/1.1 100 ")

        stream.sendall(PICTURE)

        assert stream.recv(1000).startswith(b"HTTP/1.1 202 ")


def test_a_client_that_leaves_in_the_middle_leaves_nothing(serve: Serve) -> None:
    site = serve()
    with _connected(site) as stream:
        stream.sendall(_head(length=1_000_000) + PICTURE + bytes(500_000))  # more than one piece
        wait_for(site.stored, what="the beginning of the upload")

    wait_for(lambda: not site.stored(), what="an empty folder")
    assert site.records.active() == []


def _connected(site: Site) -> socket.socket:
    return socket.create_connection(
        (site.http.base_url.host, site.http.base_url.port), timeout=TIMEOUT
    )


def _head(*, length: int, expect: bool = False) -> bytes:
    lines = ["POST /upscale HTTP/1.1", "Host: localhost", f"Content-Length: {length}"]
    if expect:
        lines.append("Expect: 100-continue")
    return "\r\n".join([*lines, "", ""]).encode()


def test_two_pictures_are_refused(site: Site) -> None:
    response = site.http.post("/upscale", files=[("image", PICTURE), ("image", PICTURE)])

    assert response.status_code == 422
    assert problem_of(response) == "invalid-request"
    assert "twice" in response.json()["detail"]
    assert site.stored() == []


def test_a_picture_under_another_name_is_refused_by_that_name(site: Site) -> None:
    response = site.http.post("/upscale", files={"picture": ("a.png", PICTURE)})

    assert response.status_code == 422
    assert response.json()["errors"][0]["name"] == "picture"
    assert site.stored() == []


def test_a_form_without_a_picture_is_refused(site: Site) -> None:
    response = site.http.post("/upscale", files={"quality": (None, "80")})

    assert response.status_code == 422
    assert problem_of(response) == "image-missing"


FORM_HEAD = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
FORM_FIELD = b'\r\n--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s'
MALFORMED = {
    "no boundary": ("multipart/form-data", FORM_HEAD + PICTURE + b"\r\n--x--\r\n"),
    "empty boundary": ("multipart/form-data; boundary=", FORM_HEAD + PICTURE),
    "boundary too long": (f"multipart/form-data; boundary={'x' * 300}", FORM_HEAD + PICTURE),
    "another boundary": ("multipart/form-data; boundary=y", FORM_HEAD + PICTURE),
    "cut off": ("multipart/form-data; boundary=x", FORM_HEAD + PICTURE),
    "cut off in a header": ("multipart/form-data; boundary=x", FORM_HEAD[:20]),
    "nothing": ("multipart/form-data; boundary=x", b""),
    "no name": ("multipart/form-data; boundary=x", b"--x\r\n\r\nimage\r\n--x--\r\n"),
    "not UTF-8": (
        "multipart/form-data; boundary=x",
        FORM_HEAD + PICTURE + FORM_FIELD % (b"model", b"\xff\xfe") + b"\r\n--x--\r\n",
    ),
    "a long field": (
        "multipart/form-data; boundary=x",
        FORM_HEAD + PICTURE + FORM_FIELD % (b"model", b"m" * 2000) + b"\r\n--x--\r\n",
    ),
    "many fields": (
        "multipart/form-data; boundary=x",
        FORM_HEAD + PICTURE + 50 * (FORM_FIELD % (b"quality", b"90")) + b"\r\n--x--\r\n",
    ),
    "endless headers": (
        "multipart/form-data; boundary=x",
        b"--x\r\n" + b"a: b\r\n" * 10_000 + b"\r\n",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_form_is_a_problem_and_leaves_nothing(site: Site, case: str) -> None:
    content_type, content = MALFORMED[case]

    response = site.post(content, headers={"Content-Type": content_type})

    assert response.status_code == 422
    assert problem_of(response) == "invalid-request"
    assert site.stored() == []
