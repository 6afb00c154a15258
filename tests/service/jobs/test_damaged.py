"""Damaged uploads at the service: its headers' parser and its forms' parser, through real requests.

Each is answered with a job or a problem of the client's, in less than two seconds of computing.
"""

import random
import sys
import time
from collections import Counter

import pytest
from factories import engine_info, register
from mutations import damaged
from serving import Serve, Site, problem_of

_BOUNDARY = b"xxBOUNDARYxx"


def form(picture: bytes, dice: random.Random) -> tuple[bytes, str]:
    """A form, as often as not a damaged one, and the content type that it came with."""
    disposition = b'Content-Disposition: form-data; name="%b"'
    head = b"--" + _BOUNDARY + b"\r\n" + disposition
    body = head % b"image" + b'; filename="a.png"\r\n\r\n' + picture + b"\r\n"
    for name, value in ((b"format", b"webp"), (b"trade_off", b"0.5"), (b"name", b"caf\xc3\xa9")):
        if dice.random() < 0.5:
            body += head % name + b"\r\n\r\n" + value + b"\r\n"
    body += b"--" + _BOUNDARY + b"--\r\n"
    if dice.random() < 0.5:
        changed = bytearray(body)
        edges = [*range(min(len(body), 120)), *range(max(len(body) - 250, 0), len(body))]
        for _ in range(dice.choice((1, 2, 6))):
            changed[dice.choice(edges)] = dice.choice((0, 10, 13, 34, 45, 58, 59, 255))
        body = bytes(changed)
    if dice.random() < 0.1:
        body = body[: dice.randrange(len(body))]
    kind = f"multipart/form-data; boundary={_BOUNDARY.decode()}"
    kinds = (kind, kind, kind, kind, kind + "x", "multipart/form-data", kind.replace("; ", ";"))
    return body, dice.choice(kinds)


def check_all(site: Site, uploads: int) -> str:
    """The counts, in words."""
    answers: Counter[str] = Counter()
    past_sniffing = 0
    register(site.redis, engine_info(extra_formats=("heic", "jxl")))
    for number in range(uploads):
        dice = random.Random(number)
        picture, frame = damaged(number)
        params = {} if frame is None else {"frame": frame}
        content, kind = (picture, "image/*") if number % 2 else form(picture, dice)
        start = time.process_time()
        response = site.post(content, params=params, headers={"Content-Type": kind})
        assert time.process_time() - start < 2, number
        assert response.status_code < 500, (number, response.text)
        if response.status_code == 202:
            answers["job"] += 1
            site.http.delete(response.json()["links"]["self"])
        else:
            answers[problem_of(response)] += 1
        past_sniffing += response.status_code not in (400, 415) and "errors" not in response.text
    summary = f"{uploads:,} uploads, {past_sniffing:,} taken for a picture: {dict(answers)}"

    assert past_sniffing >= uploads / 2
    assert answers["job"] > uploads / 5
    assert {"image-corrupt", "invalid-request"} < set(answers)
    return summary


def test_a_damaged_upload_is_a_job_or_a_problem_of_the_clients(serve: Serve) -> None:
    check_all(serve(), 200)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_ten_thousand_damaged_uploads_are_jobs_or_problems(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = check_all(serve(), 10_000)
    with capsys.disabled():
        sys.stdout.write(f"\n{summary}\n")
