"""Files to save: their size, how large they are, and all of them in one zip."""

import io
import re
import zipfile

import pytest
from browsing import Visit, choose, slide, wait_for_result
from hosts import noise
from PIL import Image
from playwright.sync_api import expect

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_a_file_has_the_size_and_quality_that_were_chosen(visit: Visit) -> None:
    page = visit()
    choose(page, ("small.png", noise(24, 32)))
    wait_for_result(page)
    page.select_option("#format", "jpeg")
    page.locator("#quality").fill("40")
    page.select_option("#scale", "2")
    expect(page.locator("#print")).to_have_text("Prints 0.5 × 0.4 cm at 300 dpi")
    expect(page.locator("#export-facts")).to_have_text(re.compile(r"^[\d.]+ (byte|kB)$"))
    told = page.locator("#export-facts").inner_text()
    with page.expect_download() as download:
        page.click("#download")

    data = download.value.path().read_bytes()
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.size == (64, 48)
        assert opened.format == "JPEG"
    assert told == (f"{len(data)} byte" if len(data) < 1000 else f"{len(data) / 1000:.1f} kB")


def test_all_are_saved_as_one_zip_with_the_same_settings(visit: Visit) -> None:
    page = visit()
    choose(page, ("one.png", noise(16, 20)), ("two.png", noise(20, 16)))
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
    wait_for_result(page)
    slide(page, 1)
    page.select_option("#format", "webp")
    page.get_by_role("button", name="Use for all photos").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save all").click()

    assert download.value.suggested_filename == "gdsr.zip"
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["one-4x.webp", "two-4x.webp"]
        with Image.open(io.BytesIO(archive.read("one-4x.webp"))) as opened:
            assert opened.size == (80, 64)


def test_a_picture_is_copied_to_the_clipboard(visit: Visit) -> None:
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    choose(page, ("small.png", noise(16, 20)))
    wait_for_result(page)
    page.get_by_role("button", name="Copy").click()

    expect(page.locator("#download-note")).to_have_text("Copied")
    types = "navigator.clipboard.read().then(([item]) => item.types)"
    assert "image/png" in page.evaluate(types)
