"""The client's file name comes back with the result, made safe."""

import logging
from pathlib import Path
from urllib.parse import unquote

import pytest
from factories import engine_info, register
from serving import PICTURE, Serve, Site

from service.transfer.downloads import content_disposition, result_name
from workers.contract.images.names import MAX_LENGTH, safe_name


@pytest.mark.parametrize(
    ("given", "safe"),
    [
        ("holiday.jpg", "holiday.jpg"),
        ("naïve Straße.png", "naïve Straße.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\cat.png", "cat.png"),
        ("a\r\nSet-Cookie: x.png", "aSet-Cookie_ x.png"),
        ('say "cheese"?.jpg', "say _cheese__.jpg"),
        ("photo\u202egnp.exe", "photognp.exe"),
        ("...hidden. ", "hidden"),
        ("CON.png", "_CON.png"),
        ("nul", "_nul"),
        ("..", None),
        ("\x00\x07", None),
        ("", None),
    ],
)
def test_a_name_keeps_what_is_harmless(given: str, safe: str | None) -> None:
    assert safe_name(given) == safe


def test_a_long_name_is_cut_and_keeps_its_extension() -> None:
    cut = safe_name("n" * 300 + ".jpeg")

    assert cut is not None
    assert len(cut) == MAX_LENGTH
    assert cut.endswith("nn.jpeg")


@pytest.mark.parametrize("letter", ["é", "猫", "🐈"])
def test_a_long_name_of_any_letters_is_a_file_name(letter: str, tmp_path: Path) -> None:
    cut = safe_name(letter * 300 + ".jpeg")

    assert cut is not None
    assert cut.endswith(f"{letter}{letter}.jpeg")
    (tmp_path / cut).touch()


@pytest.mark.parametrize(
    "name", ["cat", "cat.jpg", "100 %.png", "naïve.png", "猫.png", "a'b;c.png", "a／b.png"]
)
def test_a_header_says_the_name_to_who_reads_it_by_the_book(name: str) -> None:
    header = content_disposition(name)
    plain, _, encoded = header.removeprefix('inline; filename="').partition('"; filename*=UTF-8')

    assert header.isascii()
    read = unquote(encoded.removeprefix("''")) if encoded else plain.removesuffix('"')
    assert read == name
    assert not set(plain.removesuffix('"')) & set('"\\%/')


FORMS = {
    "plain": ('filename="my cat.jpg"', "my cat.jpg"),
    "UTF-8": ('filename="naïve.jpg"', "naïve.jpg"),
    "extended": ('filename="a.jpg"; filename*=x', "a.jpg"),  # RFC 7578 forbids filename*
}


@pytest.mark.parametrize("case", FORMS)
def test_a_result_has_the_name_that_the_form_gave_its_picture(site: Site, case: str) -> None:
    parameter, name = FORMS[case]
    head = f'--x\r\nContent-Disposition: form-data; name="image"; {parameter}\r\n\r\n'.encode()
    response = site.post(
        head + PICTURE + b"\r\n--x--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    job_id = response.json()["id"]
    site.succeed(job_id)

    result = site.http.get(f"/jobs/{job_id}/result")

    assert response.json()["name"] == name
    expected = content_disposition(f"{name.removesuffix('.jpg')}-4x.png")
    assert result.headers["Content-Disposition"] == expected


@pytest.mark.parametrize(
    ("template", "name", "scale", "made"),
    [
        ("{name}-{scale}x", "kitten.jpg", 4, "kitten-4x"),
        ("{name}-{scale}x", "kitten", 2.5, "kitten-2.5x"),
        ("{name}-{scale}x", "a.b.jpg", 1 / 3, "a.b-0.33x"),
        ("large {name}", "{scale}.jpg", 4, "large {scale}"),
    ],
)
def test_a_result_is_called_after_its_picture_and_told_apart_from_it(
    template: str, name: str, scale: float, made: str
) -> None:
    assert result_name(template, name, scale=scale) == made


def test_the_operator_says_how_downloads_are_called(serve: Serve) -> None:
    site = serve(result_name="{name} (GDSR, {scale})")
    register(site.redis, engine_info())
    job_id = site.submit(name="kitten.jpg")
    site.succeed(job_id)

    header = site.http.get(f"/jobs/{job_id}/result").headers["Content-Disposition"]
    assert header == 'inline; filename="kitten (GDSR, 4).png"'


def test_the_name_field_wins_over_the_file_name(site: Site) -> None:
    response = site.http.post(
        "/upscale", files={"image": ("a.png", PICTURE)}, data={"name": "../b.png"}
    )

    assert response.json()["name"] == "b.png"
    assert site.post(params={"name": "c"}).json()["name"] == "c"
    assert site.post().json()["name"] is None


ROOMS = ("service", "workers", "rq")


def test_no_log_line_holds_a_name(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    job_id = site.submit(name="holiday.png")
    site.succeed(job_id)
    site.http.get(f"/jobs/{job_id}/result")

    ours = [record.getMessage() for record in caplog.records if record.name.startswith(ROOMS)]
    assert ours
    assert "holiday" not in " ".join(ours)
