"""The slider shows the service's result to within a level, and downloads exactly that."""

import io
import json

import numpy as np
import pytest
from browsing import (
    WEBGL,
    Studio,
    Visit,
    choose,
    difference,
    job_of,
    measured,
    painted,
    service_file,
    service_pixels,
    slide,
    stage_pixels,
    stage_shot,
    wait_for_result,
)
from factories import photo, saved
from hosts import noise
from PIL import Image
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.e2e
#: A graphics card that supports only small textures.
SMALL_TEXTURES = f"""
{WEBGL}
const card = WebGL2RenderingContext.prototype.getParameter;
WebGL2RenderingContext.prototype.getParameter = function (name) {{
  return name === this.MAX_TEXTURE_SIZE ? 512 : card.call(this, name);
}};
"""
HEIGHT, WIDTH = 40, 60


@pytest.fixture(params=[WEBGL, ""], ids=["webgl", "canvas"])
def shown(visit: Visit, request: pytest.FixtureRequest) -> Page:
    """A page with a finished picture, small enough to be shown at 100 %."""
    page = visit(script=request.param)
    choose(page, ("photo.png", saved(photo(HEIGHT, WIDTH), "PNG")), model="lite")
    wait_for_result(page)
    page.keyboard.press("1")
    expect(page.locator("#zoom")).to_have_text("100%")
    expect(page.locator("#preview")).to_be_hidden()  # every pixel is there
    painter = "document.querySelector('#stage canvas').getContext('webgl2') ? 'webgl' : 'loop'"
    assert page.evaluate(painter) == ("webgl" if request.param else "loop")
    return page


def test_the_screen_shows_what_the_service_makes(shown: Page, studio: Studio) -> None:
    job_id = job_of(shown)
    ends = [service_pixels(studio, job_id, end).astype(int) for end in (0, 1)]
    assert np.abs(ends[0] - ends[1]).max() > 20  # the outputs differ enough to blend
    for trade_off in (0, 0.13, 0.25, 0.5, 0.8, 1):
        slide(shown, trade_off)
        stage = stage_pixels(shown)
        expected = service_pixels(studio, job_id, trade_off)
        top, left = ((stage.shape[i] - expected.shape[i]) // 2 for i in (0, 1))
        rows = slice(top + 2, top + expected.shape[0] - 2)
        columns = slice(left + 2, left + expected.shape[1] - 2)

        assert difference(stage, expected, rows=rows, columns=columns) <= 1, trade_off


def test_a_pixel_at_400_and_800_percent_is_a_square(shown: Page, studio: Studio) -> None:
    plain = service_pixels(studio, job_of(shown), 0.5)
    inner = slice(60, -60)  # overlays cover the corners
    for times in (4, 8):
        shown.get_by_role("button", name=f"{times}:1").click()
        expect(shown.locator("#zoom")).to_have_text(f"{times}00%")
        stage = stage_pixels(shown)
        large = plain.repeat(times, axis=0).repeat(times, axis=1)
        border = max(60, (stage.shape[0] - large.shape[0]) // 2 + 4)
        assert difference(stage, large, rows=slice(border, -border), columns=inner) <= 1
    shown.locator("#divider").press("End")
    painted(shown)
    with Image.open(io.BytesIO(stage_shot(shown))) as opened:
        line = np.asarray(opened.convert("RGB"))[stage.shape[0] // 2, inner]
    edges = np.flatnonzero((line[1:] != line[:-1]).any(axis=-1))
    assert len(edges) > 5
    assert set(np.diff(edges) % 32) == {0}  # also for the original, four times smaller


def test_a_picture_too_large_for_the_card_is_a_preview_and_exact_when_zoomed(
    visit: Visit, studio: Studio
) -> None:
    page = visit(script=SMALL_TEXTURES)
    choose(page, ("photo.png", saved(photo(150, 200), "PNG")))
    wait_for_result(page)
    note = page.locator("#preview")
    page.keyboard.press("2")
    expect(page.locator("#zoom")).to_have_text("200%")

    expect(note).to_have_text("Every pixel")
    stage = stage_pixels(page)
    large = service_pixels(studio, job_of(page), 0.5).repeat(2, axis=0).repeat(2, axis=1)
    inner = slice(60, -60)
    assert difference(stage, large, rows=inner, columns=inner) <= 1


def test_left_of_the_divider_is_the_original(shown: Page) -> None:
    result = stage_pixels(shown)
    divider = shown.locator("#divider")
    divider.press("End")
    divider.press("PageDown")
    for _ in range(4):
        divider.press("Shift+ArrowLeft")  # the middle, up to rounding
    painted(shown)
    with Image.open(io.BytesIO(shown.locator("#stage").screenshot())) as opened:
        halves = np.asarray(opened.convert("RGB"))

    assert divider.get_attribute("aria-valuenow") == "50"
    assert divider.get_attribute("aria-valuetext") == "50% original"
    height, width = result.shape[:2]
    rows = slice(height // 2 + 30, height // 2 + 70)  # below the handle
    right, left = slice(width // 2 + 5, width // 2 + 100), slice(width // 2 - 100, width // 2 - 5)
    assert np.array_equal(halves[rows, right], result[rows, right])
    assert (halves[rows, left] != result[rows, left]).mean() > 0.5


def test_a_download_is_the_file_that_the_api_gives(visit: Visit, studio: Studio) -> None:
    page = visit()
    choose(page, ("Ferien am Meer.png", noise(24, 24)))
    wait_for_result(page)
    for trade_off, format_name in ((0.37, "png"), (1, "jpeg"), (0.5, "webp")):
        slide(page, trade_off)
        page.select_option("#format", format_name)
        with page.expect_download() as download:
            page.click("#download")

        extension = {"jpeg": "jpg"}.get(format_name, format_name)
        assert download.value.suggested_filename == f"Ferien am Meer-4x.{extension}"
        expected = service_file(studio, job_of(page), trade_off, format_name)
        assert download.value.path().read_bytes() == expected


def test_the_named_stops_and_the_words_follow_the_slider(visit: Visit) -> None:
    page = visit()
    choose(page, ("noise.png", noise(24, 24)))
    wait_for_result(page)
    page.get_by_role("button", name="Crisp", exact=True).click()
    assert page.locator("#position").inner_text() == "100"
    assert page.locator("#meaning").inner_text() == "Rich detail, likely rather than real."
    slide(page, 0.25)

    assert page.locator("[data-stop][aria-pressed=true]").count() == 0
    assert page.locator("#meaning").inner_text() == "50% of the way from true to balanced."
    stored = json.loads(page.evaluate("localStorage['gdsr.pictures']"))
    assert stored[0]["tradeOff"] == 0.25


@pytest.mark.slow
def test_a_large_result_comes_as_previews_and_whole_where_one_zooms_in(
    visit: Visit, studio: Studio
) -> None:
    page = visit()
    wire = page.context.new_cdp_session(page)
    sizes: dict[str, float] = {}
    came: list[str] = []
    wire.on("Network.requestWillBeSent", lambda it: sizes.update({it["requestId"]: 0}))
    wire.on(
        "Network.responseReceived",
        lambda it: came.append(it["requestId"]) if "/result" in it["response"]["url"] else None,
    )
    wire.on(
        "Network.loadingFinished",
        lambda it: sizes.update({it["requestId"]: it["encodedDataLength"]}),
    )
    wire.send("Network.enable")
    choose(page, ("noise.png", noise(512, 512, seed=4)))
    wait_for_result(page)
    measured(page)
    expect(page.locator("#preview")).to_be_hidden()
    first = sum(sizes[request] for request in came)
    invented = studio.http.get(f"/jobs/{job_of(page)}").json()["result"]["invented"]

    assert len(came) == 3
    assert 0 < first < 3_000_000
    meter = int(page.locator("#meter").get_attribute("aria-valuenow") or -1)
    assert abs(meter - 100 * invented) <= 1  # the whole picture is in view

    with page.expect_response(lambda it: it.url.endswith("?output=gan")):
        page.keyboard.press("1")
    expect(page.locator("#preview")).to_be_hidden()  # the label stays until every pixel is shown
    stage = stage_pixels(page)
    inner = slice(60, -60)
    expected = service_pixels(studio, job_of(page), 0.5)
    assert difference(stage, expected, rows=inner, columns=inner) <= 1
    whole = sum(sizes[request] for request in came)
    print(f"first view {first:,.0f} bytes, every pixel {whole - first:,.0f} more")  # noqa: T201
