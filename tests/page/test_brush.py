"""The brush paints a map, and a file that is saved is what the screen shows."""

import io
import json

import numpy as np
import pytest
from browsing import (
    WEBGL,
    Visit,
    choose,
    difference,
    measured,
    painted,
    slide,
    stage_pixels,
    wait_for_result,
)
from factories import photo, png, saved
from PIL import Image
from playwright.sync_api import Page, expect

from workers.tasks.branches import read_branch

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

#: Until the paint is stored: transactions wait for those before them.
STORED = """() => new Promise((done) => {
  const opening = indexedDB.open("gdsr");
  opening.onsuccess = () => {
    const all = opening.result.transaction("paint").objectStore("paint").getAllKeys();
    all.onsuccess = () => { opening.result.close(); done(); };
  };
})"""


@pytest.fixture(params=[WEBGL, ""], ids=["webgl", "canvas"])
def page(visit: Visit, request: pytest.FixtureRequest) -> Page:
    """A finished picture at 1:1."""
    page = visit(script=request.param)
    choose(page, ("photo.png", saved(photo(60, 80), "PNG")), model="lite")
    wait_for_result(page)
    page.keyboard.press("1")
    return page


def stroke(page: Page, *places: tuple[float, float]) -> None:
    """Paint from place to place, in pixels from the middle of the stage."""
    box = page.locator("#stage").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x + places[0][0], y + places[0][1])
    page.mouse.down()
    for across, down in places[1:]:
        page.mouse.move(x + across, y + down, steps=4)
    page.mouse.up()
    painted(page)


def downloaded(page: Page) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    with page.expect_download() as download:
        page.click("#download")
    with Image.open(io.BytesIO(download.value.path().read_bytes())) as opened:
        return np.asarray(opened.convert("RGB"))


def test_a_painted_picture_is_saved_as_it_is_shown(page: Page) -> None:
    slide(page, 0.3)
    plain = stage_pixels(page)
    page.get_by_role("button", name="Crisper").click()
    stroke(page, (-60, -40), (-20, 10), (30, 20))
    page.get_by_role("button", name="Truer").click()
    stroke(page, (60, 60), (110, 80))
    shown = stage_pixels(page)
    rows = slice(shown.shape[0] // 2 - 110, shown.shape[0] // 2 + 110)
    columns = slice(shown.shape[1] // 2 - 150, shown.shape[1] // 2 + 150)

    assert np.abs(shown[rows, columns].astype(int) - plain[rows, columns]).max() > 10
    assert difference(shown, downloaded(page), rows=rows, columns=columns) <= 1
    slide(page, 0.7)  # what was painted moves with the slider
    shown = stage_pixels(page)
    assert difference(shown, downloaded(page), rows=rows, columns=columns) <= 1


def test_sixteen_bits_are_saved_as_they_are_shown(visit: Visit) -> None:
    page = visit()
    deep = photo(60, 80).astype(np.uint16) * 257 + np.arange(80, dtype=np.uint16)[:, None]
    choose(page, ("deep.png", png(deep, bits=16, colour_type=2)), model="lite")
    wait_for_result(page)
    page.keyboard.press("1")
    page.get_by_role("button", name="Crisper").click()
    stroke(page, (-60, -40), (-20, 10), (30, 20))
    shown = stage_pixels(page)
    with page.expect_download() as download:
        page.click("#download")
    saved_as = read_branch(download.value.path().read_bytes()).colour

    assert saved_as.dtype == np.uint16
    rows = slice(shown.shape[0] // 2 - 110, shown.shape[0] // 2 + 110)
    columns = slice(shown.shape[1] // 2 - 150, shown.shape[1] // 2 + 150)
    rounded = np.round(saved_as / 257).astype(np.uint8)
    assert difference(shown, rounded, rows=rows, columns=columns) <= 1


def test_strokes_are_undone_redone_erased_and_survive_a_reload(page: Page) -> None:
    before = stage_pixels(page)
    page.keyboard.press("b")
    stroke(page, (-60, 0), (60, 0))
    after = stage_pixels(page)
    page.get_by_role("button", name="Undo", exact=True).click()
    assert np.array_equal(stage_pixels(page), before)
    page.keyboard.press("Control+y")
    assert np.array_equal(stage_pixels(page), after)
    page.keyboard.press("e")
    stroke(page, (-90, 0), (90, 0))
    assert np.abs(stage_pixels(page).astype(int) - after).max() > 0
    page.keyboard.press("Control+z")
    page.evaluate(STORED)
    page.reload()
    wait_for_result(page)
    page.keyboard.press("1")
    painted(page)
    assert np.array_equal(stage_pixels(page), after)

    page.get_by_role("button", name="Clear").click()
    assert np.array_equal(stage_pixels(page), before)


def test_an_area_of_like_colours_is_filled_at_once(visit: Visit) -> None:
    halves = Image.new("RGB", (60, 40), (200, 60, 50))
    halves.paste((30, 60, 190), (30, 0, 60, 40))
    page = visit()
    choose(page, ("halves.png", saved(halves, "PNG")), model="lite")
    wait_for_result(page)
    page.keyboard.press("1")
    page.get_by_role("button", name="Fill similar area").click()
    measured(page)
    stroke(page, (-60, 0))

    share = page.locator("#painted").inner_text()
    assert 40 <= int(share.removeprefix("Painted ").split("%")[0]) <= 60


def test_guesswork_is_nothing_at_0_and_something_beyond(page: Page) -> None:
    def invented() -> int:
        painted(page)
        return int(page.locator("#meter").get_attribute("aria-valuenow") or -1)

    measured(page)
    slide(page, 0)
    expect(page.locator("#invented")).to_have_text("Blue is measured: nothing in view is invented.")
    page.keyboard.press("m")
    colours = stage_pixels(page).astype(int)
    assert (colours[..., 0] - colours[..., 2]).max() < 130  # no amber
    assert invented() == 0
    slide(page, 0.25)
    quarter = invented()
    slide(page, 0.5)
    assert 0 < quarter < invented()
    slide(page, 1)
    assert invented() > quarter
    assert (stage_pixels(page).astype(int) != colours).any()
    assert json.loads(page.evaluate("localStorage['gdsr.pictures']"))[0]["tradeOff"] == 1


def test_the_original_is_held_divided_or_beside(page: Page) -> None:
    result = stage_pixels(page)
    page.locator("#stage").focus()
    page.keyboard.down(" ")
    painted(page)
    held = page.locator("#stage").screenshot()
    expect(page.locator("#right-tag")).to_be_hidden()
    page.keyboard.up(" ")
    expect(page.locator("#right-tag")).to_be_visible()
    assert np.array_equal(stage_pixels(page), result)
    assert held != page.locator("#stage").screenshot()

    box = page.locator("#stage").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 80)
    assert page.locator("#divider").get_attribute("aria-valuenow") == "25"
    page.get_by_role("button", name="Side by side").click()
    expect(page.locator("#divider")).to_be_hidden()
    expect(page.locator("#left-tag")).to_be_visible()
