"""Small pictures that were once decoded wrongly have the right colours, with the shipped network.

The right values come from Chromium's canvas, from libvips, or from the numbers that the file was
made from. Results are reduced by four again and compared in flat places.
"""

import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx2
import numpy as np
import pytest
from hosts import Site as Workers
from numpy.typing import NDArray
from PIL import Image
from processes import running_valkey
from serving import Site, served

from service.settings import ServiceSettings

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

LITE = Path(__file__).parents[2] / "model" / "checkpoints" / "lite.safetensors"
FILES = zipfile.ZipFile(Path(__file__).with_name("cases.zip"))
WAIT = {"Prefer": "wait=60"}

Cells = list[tuple[int, ...]]

#: The twelve patches that most files were made from, row by row. Chromium's canvas shows the same
#: for the files that it can decode.
MADE: Cells = [
    (200, 60, 50), (60, 180, 70), (50, 70, 190), (128, 128, 128),
    (30, 30, 30), (235, 235, 235), (220, 200, 60), (150, 60, 160),
    (60, 170, 180), (90, 50, 30), (245, 190, 170), (10, 60, 40),
]  # fmt: skip
#: As on Chromium's canvas.
LINEAR: Cells = [
    (200, 61, 50), (61, 180, 71), (50, 71, 190), (128, 128, 128),
    (28, 28, 28), (235, 235, 235), (220, 200, 61), (150, 61, 160),
    (61, 170, 180), (90, 50, 28), (245, 190, 170), (13, 61, 38),
]  # fmt: skip
ADOBE: Cells = [
    (231, 57, 46), (0, 181, 57), (34, 68, 195), (129, 129, 129),
    (24, 24, 24), (236, 236, 236), (228, 201, 37), (173, 57, 164),
    (0, 172, 182), (101, 46, 22), (255, 191, 171), (0, 57, 34),
]  # fmt: skip
P3: Cells = [
    (217, 42, 39), (0, 183, 49), (44, 71, 197), (128, 128, 128),
    (30, 30, 30), (235, 235, 235), (224, 199, 0), (162, 52, 165),
    (0, 173, 182), (96, 47, 25), (255, 187, 166), (0, 61, 38),
]  # fmt: skip
P3_AVIF: Cells = [
    (219, 41, 39), (0, 184, 48), (44, 72, 196), (128, 128, 128),
    (30, 30, 30), (235, 235, 235), (224, 199, 0), (162, 51, 165),
    (0, 173, 182), (98, 47, 25), (255, 187, 166), (0, 61, 37),
]  # fmt: skip
FRAME: Cells = [
    (176, 170, 158), (66, 54, 50), (53, 47, 44), (127, 109, 99),
    (64, 62, 60), (125, 121, 109), (83, 68, 62), (78, 66, 51),
    (111, 151, 92), (169, 145, 122), (176, 167, 153), (78, 62, 49),
]  # fmt: skip
#: The stored numbers.
SATURATED: Cells = [
    (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0),
    (0, 255, 255), (255, 0, 255), (255, 128, 0), (30, 220, 30),
    (220, 30, 30), (128, 128, 128), (0, 128, 0), (250, 250, 250),
]  # fmt: skip


class Case(NamedTuple):
    cells: Cells
    params: Mapping[str, str] = MappingProxyType({})
    #: In levels of 255; JPEG and 10-bit YCbCr are inexact.
    tolerance: int = 1
    bits: int = 8


PATCHES = {
    "png_gama_linear.png": Case(LINEAR),
    "png_chrm_adobe.png": Case(ADOBE),
    "png_cicp_p3.png": Case(P3),
    "cicp_p3.avif": Case(P3_AVIF),
    "p3_sat_keep.png": Case(SATURATED, {"icc": "keep"}),
    "cmyk_no_adobe_marker.jpg": Case(MADE),
    "no_eoi.jpg": Case(MADE),
    "zero_screen.gif": Case(MADE),
    "opaque_rgba.png": Case(MADE, {"format": "jpeg", "quality": "100"}, tolerance=2),
    "apng_single_frame_separate_default.png": Case(FRAME, tolerance=30),
    "bmp32_10bit_masks.bmp": Case(MADE),
    "rle8_delta.bmp": Case(MADE),
    "palette_8bit_values.tif": Case(MADE),
    "cmyk16.tif": Case(MADE, bits=16),
    "cmyka.tif": Case(MADE),
    "float32_rgb.tif": Case(MADE, bits=16),
    "lab.tif": Case(MADE, bits=16),
    "rgb16_planar.tif": Case(MADE, bits=16),
    "ten.avif": Case(MADE, bits=16),
}
#: Files with tests of their own.
OTHERS = {
    "exif6_xmp6.jpg", "checker_190_255.png", "png_no_iend.png", "png_bad_phys_crc.png",
    "tall_2x4200.png", "cp932_names.zip", "multipart_preamble.body",
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("cases")
    with running_valkey(folder / "valkey") as valkey:
        workers = Workers(valkey.url, folder / "blobs", LITE)
        settings = ServiceSettings(redis_url=valkey.url, blob_dir=folder / "blobs")
        with workers.worker_host(), served(settings) as site:
            yield site


def sent(site: Site, name: str, headers: dict[str, str] = WAIT, **params: str) -> httpx2.Response:
    response = site.post(
        FILES.read(name), params={"trade_off": "0", **params}, headers={**WAIT, **headers}
    )
    if response.status_code == 202:  # the machine may be busy
        result = response.json()["links"]["result"]
        while response.status_code in (202, 409):
            response = site.http.get(result, headers=WAIT)
    assert response.status_code == 200, response.text
    return response


def opened(response: httpx2.Response) -> Image.Image:
    image = Image.open(BytesIO(response.content))
    image.load()
    return image


def levels(response: httpx2.Response) -> NDArray[np.float64]:
    """Return the pixels of a result, reduced by four: (H, W, C)."""
    pixels = np.asarray(opened(response), np.float64)
    height, width, channels = pixels.shape
    return pixels.reshape(height // 4, 4, width // 4, 4, channels).mean((1, 3))


def test_each_file_has_a_test() -> None:
    assert {*PATCHES, *OTHERS} == set(FILES.namelist())
    assert len(FILES.namelist()) == 26


@pytest.mark.parametrize("name", PATCHES)
def test_its_patches_have_the_right_colours(site: Site, name: str) -> None:
    case = PATCHES[name]
    response = sent(site, name, **case.params)
    small = levels(response)
    places = [(8 + 16 * row, 8 + 16 * column) for row in range(3) for column in range(4)]
    found = np.array([small[at][:3] for at in places])

    assert small.shape[:2] == (48, 64)
    assert np.abs(found - case.cells).max() <= case.tolerance + 0.5
    if case.bits == 16:
        assert response.content[24] == 16, "IHDR says how deep it is"
    if case.params.get("icc") == "keep":
        with Image.open(BytesIO(FILES.read(name))) as picture:
            assert opened(response).info["icc_profile"] == picture.info["icc_profile"]


def test_pixels_that_run_lengths_skip_are_transparent(site: Site) -> None:
    assert levels(sent(site, "rle8_delta.bmp"))[..., 3].min() == 0


def test_a_picture_that_was_held_sideways_is_turned_once_and_says_no_more_of_it(site: Site) -> None:
    image = opened(sent(site, "exif6_xmp6.jpg", metadata="keep", format="jpeg"))
    xmp = image.info["xmp"]

    assert image.size == (4 * 48, 4 * 64)
    assert image.getexif().get(0x0112, 1) == 1
    assert b'tiff:Orientation="1"' in xmp
    assert b"hdrgm:Version" not in xmp
    assert b"MotionPhoto" not in xmp


def test_white_and_light_grey_by_turns_stay_near_the_two(site: Site) -> None:
    """The finest possible pattern: a network that overshoots goes far below 190."""
    pixels = levels(sent(site, "checker_190_255.png"))

    assert 180 <= pixels.min() <= pixels.max() <= 255
    assert abs(pixels.mean() - 222.5) <= 3


@pytest.mark.parametrize("name", ["png_no_iend.png", "png_bad_phys_crc.png"])
def test_a_png_that_is_a_little_broken_is_shown(site: Site, name: str) -> None:
    """The right values are those of Pillow, which accepts a missing end."""
    whole = FILES.read(name)
    if name == "png_bad_phys_crc.png":
        at = whole.index(b"pHYs") - 4
        whole = whole[:at] + whole[at + 21 :]
    with Image.open(BytesIO(whole)) as picture:
        stored = np.asarray(picture, np.float64)
    response = sent(site, name)
    job_at = response.headers["Content-Location"].removesuffix("/result")
    job = site.http.get(job_at).json()
    damaged = ["dropped a damaged pHYs chunk"] if "phys" in name else []

    assert np.abs(levels(response) - stored).mean() <= 2.5
    assert job["result"]["warnings"] == damaged


def test_a_picture_too_tall_for_what_is_liked_best_is_a_png(site: Site) -> None:
    accept = {"Accept": "image/webp,*/*;q=0.8"}
    response = site.post(FILES.read("tall_2x4200.png"), headers=accept)
    job = response.json()
    site.http.delete(job["links"]["self"])

    assert response.status_code == 202
    assert job["options"]["format"] == "png"


def test_names_in_shift_jis_are_read(site: Site) -> None:
    batch = site.http.post("/batches", content=FILES.read("cp932_names.zip")).json()
    view: dict[str, Any] = site.http.get(
        batch["links"]["self"], headers={**WAIT, "Accept": "application/json"}
    ).json()
    while view["state"] == "unpacking":
        view = site.http.get(batch["links"]["self"]).json()

    assert [item["name"] for item in view["items"]] == ["写真.png"]


def test_the_preamble_of_a_form_is_ignored(site: Site) -> None:
    headers = {**WAIT, "Content-Type": "multipart/form-data; boundary=XX"}
    response = site.post(FILES.read("multipart_preamble.body"), headers=headers)

    assert response.status_code == 200, response.text
    assert opened(response).size == (96, 72)
