"""The brush paints a map, and a saved file equals what the screen shows."""

import io
import json
import zipfile

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
    service_pixels,
    slide,
    stage_pixels,
    stage_shot,
    unhurried,
    wait_for_result,
)
from factories import photo, png, saved
from hosts import noise
from PIL import Image
from playwright.sync_api import Page, Route, expect

from workers.tasks.branches import read_branch

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

#: Returns the stored paint; the transaction waits for earlier ones.
STORED = """() => new Promise((done) => {
  const opening = indexedDB.open("gdsr");
  opening.onsuccess = () => {
    const all = opening.result.transaction("paint").objectStore("paint").getAll();
    all.onsuccess = () => { opening.result.close(); done([...all.result[0] ?? []]); };
  };
})"""


@pytest.fixture(params=[WEBGL, ""], ids=["webgl", "canvas"])
def page(visit: Visit, request: pytest.FixtureRequest) -> Page:
    """A page with a finished picture at 1:1."""
    page = visit(script=request.param)
    choose(page, ("photo.png", saved(photo(60, 80), "PNG")), model="lite")
    wait_for_result(page)
    page.keyboard.press("1")
    return page


def stroke(page: Page, *places: tuple[float, float]) -> None:
    """Paint along these points, in pixels from the middle of the stage."""
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
    return pixels(download.value.path().read_bytes())


def pixels(file: bytes) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    with Image.open(io.BytesIO(file)) as opened:
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
    slide(page, 0.7)  # painted areas follow the slider
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


def test_paint_is_saved_with_all_of_a_picture_not_opened_since_a_reload(visit: Visit) -> None:
    page = visit()
    choose(page, ("other.png", saved(photo(40, 60), "PNG")), model="lite")
    wait_for_result(page)
    choose(page, ("photo.png", saved(photo(60, 80), "PNG")), model="lite")
    wait_for_result(page)
    slide(page, 0)
    plain = downloaded(page)
    page.get_by_role("button", name="Crisper").click()
    stroke(page, (-60, 0), (60, 0))
    before = downloaded(page)
    assert not np.array_equal(before, plain)
    page.evaluate(STORED)
    page.locator(".card .open").last.click()
    wait_for_result(page)
    page.reload()
    expect(page.locator("#shown-name")).to_have_text("other.png")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save all").click()

    with zipfile.ZipFile(download.value.path()) as archive:
        assert np.array_equal(pixels(archive.read("photo-4x.png")), before)


def test_a_dab_has_the_size_and_softness_that_were_chosen(visit: Visit) -> None:
    page = visit()
    choose(page, ("photo.png", saved(photo(60, 80), "PNG")))
    wait_for_result(page)
    page.get_by_role("button", name="Crisper").click()

    def dab(size: int, softness: int) -> list[int]:
        """Return the nonzero levels of the map after one dab in the middle."""
        page.locator("#brush-size").fill(str(size))
        page.locator("#softness").fill(str(softness))
        stroke(page, (20, 0))
        stored = [level for level in page.evaluate(STORED) if level]
        page.get_by_role("button", name="Undo", exact=True).click()
        return stored

    hard = dab(50, 0)
    radius = int(page.locator("#size-value").inner_text().removesuffix(" px")) / 2
    assert set(hard) == {255}
    assert abs(len(hard) - np.pi * radius**2) < 0.05 * len(hard)
    soft = dab(50, 100)
    assert len(set(soft)) > 20
    assert sum(soft) < 0.5 * sum(hard)
    assert len(dab(30, 0)) < 0.5 * len(hard)


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


class Fingers:
    """Fingers on the stage, at places in pixels from its middle."""

    def __init__(self, page: Page) -> None:
        box = page.locator("#stage").bounding_box()
        assert box is not None
        self._middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self._page = page
        self._wire = page.context.new_cdp_session(page)

    def _send(self, kind: str, places: tuple[tuple[float, float], ...]) -> None:
        x, y = self._middle
        points = [{"x": x + it[0], "y": y + it[1], "id": n} for n, it in enumerate(places)]
        self._wire.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        painted(self._page)

    def down(self, *places: tuple[float, float]) -> None:
        self._send("touchStart", places)

    def move(self, *places: tuple[float, float]) -> None:
        self._send("touchMove", places)

    def up(self) -> None:
        self._send("touchEnd", ())

    def cancel(self) -> None:
        self._send("touchCancel", ())


@pytest.fixture
def touched(visit: Visit) -> Page:
    """A page on a touch screen with a finished picture and the brush at hand."""
    page = visit(has_touch=True)
    choose(page, ("photo.png", saved(photo(60, 80), "PNG")))
    wait_for_result(page)
    measured(page)
    page.keyboard.press("b")
    return page


def test_a_second_finger_drops_the_stroke_and_pinches(touched: Page) -> None:
    page, fingers = touched, Fingers(touched)
    stroke(page, (-60, -60), (60, -60))
    kept = page.evaluate(STORED)
    page.keyboard.press("Control+z")
    zoom = page.locator("#zoom").inner_text()
    fingers.down((-50, 0))
    fingers.move((-20, 20))
    expect(page.locator("#painted")).to_have_text(
        "Paint detail where you want it."
    )  # until its end
    fingers.down((-20, 20), (60, 20))
    fingers.move((-120, 20), (160, 20))
    fingers.up()

    expect(page.locator("#zoom")).not_to_have_text(zoom)
    assert not any(page.evaluate(STORED))
    page.get_by_role("button", name="Redo", exact=True).click()  # it was there before the pinch
    assert page.evaluate(STORED) == kept
    expect(page.get_by_role("button", name="Redo", exact=True)).to_be_disabled()


def test_a_finger_on_the_divider_moves_it_and_two_fingers_pinch(touched: Page) -> None:
    page, fingers = touched, Fingers(touched)
    page.keyboard.press("b")  # the brush away
    divider, zoom = page.locator("#divider"), page.locator("#zoom")
    seen = zoom.inner_text()
    fingers.down((0, 120))
    fingers.up()
    expect(divider).to_have_attribute("aria-valuenow", "50")
    fingers.down((0, 120))
    fingers.move((-100, 130))
    fingers.up()
    expect(divider).not_to_have_attribute("aria-valuenow", "50")
    expect(zoom).to_have_text(seen)
    page.locator("#divider").press("Home")
    for _ in range(5):
        page.locator("#divider").press("PageUp")

    fingers.down((0, 120))
    fingers.down((0, 120), (80, 120))
    fingers.move((-60, 120), (160, 120))
    fingers.up()
    expect(zoom).not_to_have_text(seen)
    expect(divider).to_have_attribute("aria-valuenow", "50")


def test_a_pinch_fills_nothing(touched: Page) -> None:
    page, fingers = touched, Fingers(touched)
    page.get_by_role("button", name="Fill similar area").click()
    fingers.down((-50, 0))
    fingers.down((-50, 0), (60, 20))
    fingers.move((-120, 20), (160, 20))
    fingers.up()
    expect(page.get_by_role("button", name="Undo", exact=True)).to_be_disabled()

    fingers.down((-50, 0))
    fingers.up()
    expect(page.locator("#painted")).to_contain_text("Painted")


def test_a_stroke_that_the_system_ends_is_kept_and_the_next_one_is_another(touched: Page) -> None:
    page, fingers = touched, Fingers(touched)
    fingers.down((-50, 0))
    fingers.move((-20, 20))
    fingers.cancel()
    first = page.evaluate(STORED)
    assert any(first)
    fingers.down((40, 60))
    fingers.move((60, 60))
    fingers.up()
    assert page.evaluate(STORED) != first
    page.keyboard.press("Control+z")
    assert page.evaluate(STORED) == first


def test_beside_each_other_a_stroke_stays_in_its_pane(visit: Visit) -> None:
    page = visit()
    choose(page, ("photo.png", saved(photo(60, 80), "PNG")))
    wait_for_result(page)
    page.keyboard.press("s")
    page.keyboard.press("b")
    page.locator("#brush-size").fill("20")
    box = page.locator("#stage").bounding_box()
    assert box is not None
    half = box["width"] / 2
    stroke(page, (0.3 * half, 0), (-0.2 * half, 0), (-0.7 * half, 40), (0.4 * half, 20))
    columns = np.flatnonzero(np.array(page.evaluate(STORED)).reshape(240, 320).any(axis=0))

    assert columns.min() == 0  # over the left edge, and back
    assert columns.max() < 0.6 * 320


def test_a_stroke_goes_on_over_the_edge_of_the_picture(visit: Visit) -> None:
    page = visit()
    choose(page, ("photo.png", saved(photo(60, 80), "PNG")))
    wait_for_result(page)
    page.keyboard.press("4")
    page.keyboard.press("b")
    box = page.locator("#stage").bounding_box()
    assert box is not None
    stroke(page, (0, 0), (box["width"], 0), (box["width"], 60), (0, 60))
    assert any(page.evaluate(STORED))
    page.keyboard.press("Control+z")
    assert not any(page.evaluate(STORED))  # it was one stroke


def test_keys_in_the_middle_of_a_stroke_lose_no_paint(visit: Visit) -> None:
    page = visit()
    choose(page, ("one.png", saved(photo(60, 80), "PNG")), ("two.png", noise(60, 81)))
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
    wait_for_result(page)
    page.locator("#stage").focus()
    page.keyboard.press("b")
    share = page.locator("#painted")
    box = page.locator("#stage").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y)
    page.keyboard.press("Control+z")  # ends the stroke and takes it back
    page.mouse.move(x + 80, y)
    page.mouse.up()
    expect(share).not_to_contain_text("Painted")

    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y)
    page.keyboard.press(".")
    expect(page.locator("#shown-name")).to_have_text("two.png")
    wait_for_result(page)
    page.mouse.move(x + 80, y)
    page.mouse.up()
    expect(share).not_to_contain_text("Painted")
    page.keyboard.press(",")
    wait_for_result(page)
    expect(share).to_contain_text("Painted")
    page.keyboard.press("Control+z")
    expect(share).not_to_contain_text("Painted")


def test_the_meter_has_no_value_until_its_share_is_known(visit: Visit) -> None:
    page = visit()
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/result?output=gan*", hold)
    with page.expect_request("**/result?output=gan*"):
        choose(page, ("photo.png", noise(16, 61)))
    meter = page.get_by_role("meter")
    expect(meter).to_have_count(0)
    held[0].continue_()
    measured(page)
    expect(meter).to_have_count(1)


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


def test_the_overlay_is_amber_where_detail_is_invented_and_more_so_with_the_slider(
    page: Page,
) -> None:
    """The grey picture has grain in its left half only: nothing is invented in the right half."""
    grain = np.full((60, 80), 128, np.uint8)
    grain[:, :40] = np.random.default_rng(8).integers(60, 200, (60, 40))
    choose(page, ("grain.png", saved(Image.fromarray(grain), "PNG")), model="lite")
    expect(page.locator("#shown-name")).to_have_text("grain.png")
    wait_for_result(page)
    measured(page)
    page.keyboard.press("1")

    def amber() -> tuple[float, float]:
        """Mean excess of red over blue that the overlay adds, in levels, left and right."""
        plain = stage_pixels(page).astype(int)
        page.keyboard.press("m")
        covered = stage_pixels(page).astype(int)
        page.keyboard.press("m")
        added = (covered - plain)[..., 0] - (covered - plain)[..., 2]
        middle, y = added.shape[1] // 2, added.shape[0] // 2
        rows = slice(y - 100, y + 100)
        left, right = slice(middle - 140, middle - 30), slice(middle + 30, middle + 140)
        return float(added[rows, left].mean()), float(added[rows, right].mean())

    seen = []
    for trade_off in (0, 0.1, 0.25, 0.5):
        slide(page, trade_off)
        seen.append(amber())
    left, right = zip(*seen, strict=True)

    assert left[0] < 0  # blue: at 0 everything is measured
    assert list(left) == sorted(left)
    assert left[-1] > 40
    assert max(right) < 3  # nothing is ever invented there


def test_the_meter_tells_the_documented_share_at_every_position(
    visit: Visit, studio: Studio
) -> None:
    page = visit()
    choose(page, ("photo.png", saved(photo(40, 60), "PNG")), model="lite")
    wait_for_result(page)
    measured(page)
    faithful = service_pixels(studio, job_of(page), 0).astype(float)
    blocks = faithful.reshape(40, 4, 60, 4, 3)
    known = np.abs(blocks - blocks.mean(axis=(1, 3), keepdims=True)).sum()
    for trade_off in (0, 0.13, 0.25, 0.5, 0.8, 1):
        slide(page, trade_off)
        guessed = np.abs(service_pixels(studio, job_of(page), trade_off) - faithful).sum()
        meter = int(page.locator("#meter").get_attribute("aria-valuenow") or -1)
        # The service rounds each pixel, which matters where the difference is below one level.
        assert abs(meter - 100 * guessed / (guessed + known)) <= 2, trade_off


def test_beside_each_other_both_show_the_same_place_at_the_same_size(visit: Visit) -> None:
    halves = Image.new("RGB", (60, 40), (230, 30, 20))
    halves.paste((20, 30, 230), (30, 0, 60, 40))
    page = visit()
    choose(page, ("halves.png", saved(halves, "PNG")), model="lite")
    wait_for_result(page)
    page.get_by_role("button", name="Side by side").click()
    page.locator("#stage").focus()
    for keys in ([], ["2"], ["8"], ["ArrowRight", "ArrowRight"]):
        for key in keys:
            page.keyboard.press(key)
        painted(page)
        with Image.open(io.BytesIO(stage_shot(page))) as opened:
            line = np.asarray(opened.convert("RGB")).astype(int)[opened.height // 2]
        red = line[:, 0] > line[:, 2]
        half = len(line) // 2
        edges = [np.flatnonzero(red[part])[-1] for part in (slice(half), slice(half, None))]
        assert abs(edges[0] - edges[1]) <= 8, keys  # the model may move an edge by a pixel


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
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 80)
    page.mouse.down()
    expect(page.locator("#right-tag")).to_be_hidden()
    page.mouse.up()
    expect(page.locator("#right-tag")).to_be_visible()
    assert page.locator("#divider").get_attribute("aria-valuenow") == "0"  # holding is no tap
    with unhurried(page):
        page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 80)
    assert page.locator("#divider").get_attribute("aria-valuenow") == "25"
    page.get_by_role("button", name="Side by side").click()
    expect(page.locator("#divider")).to_be_hidden()
    expect(page.locator("#left-tag")).to_be_visible()


#: Makes the page wait for `window.measure()` between the steps of its measurement.
UNMEASURED = """
const later = window.setTimeout;
window.held = [];
window.setTimeout = (work, delay, ...rest) =>
  delay === undefined ? window.held.push(work) : later(work, delay, ...rest);
window.measure = () => {
  window.setTimeout = later;
  for (const work of window.held) work();
};
"""


def test_a_fill_waits_visibly_until_the_detail_is_measured(visit: Visit) -> None:
    halves = Image.new("RGB", (60, 40), (200, 60, 50))
    halves.paste((30, 60, 190), (30, 0, 60, 40))
    page = visit(script=UNMEASURED)
    choose(page, ("halves.png", saved(halves, "PNG")), model="lite")
    wait_for_result(page)
    page.get_by_role("button", name="Fill similar area").click()
    note = page.locator("#painted[role=status]")
    stroke(page, (-60, 0))
    expect(note).to_have_text("Fills once the detail is measured.")
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(note).to_have_text("Paint detail where you want it.")
    expect(page.locator("#undo")).to_be_disabled()

    stroke(page, (-60, 0))
    page.evaluate("window.measure()")
    expect(note).to_contain_text("Painted")
    assert 40 <= int(note.inner_text().removeprefix("Painted ").split("%")[0]) <= 60
    page.keyboard.press("Control+z")
    expect(note).to_have_text("Paint detail where you want it.")


def test_a_fill_that_waits_is_cleared_with_all_that_was_painted(visit: Visit) -> None:
    page = visit(script=UNMEASURED)
    choose(page, ("photo.png", saved(photo(60, 82), "PNG")))
    wait_for_result(page)
    page.keyboard.press("b")
    stroke(page, (-60, 0), (60, 0))
    page.get_by_role("button", name="Fill similar area").click()
    stroke(page, (-60, 0))
    expect(page.locator("#painted")).to_have_text("Fills once the detail is measured.")
    page.get_by_role("button", name="Clear").click()
    page.evaluate("window.measure()")
    measured(page)

    expect(page.locator("#painted")).to_have_text("Paint detail where you want it.")
    assert not any(page.evaluate(STORED))


def test_a_fill_that_waits_does_not_break_off_a_stroke(visit: Visit) -> None:
    page = visit(script=UNMEASURED)
    choose(page, ("photo.png", saved(photo(60, 81), "PNG")))
    wait_for_result(page)
    fill = page.get_by_role("button", name="Fill similar area")
    fill.click()
    stroke(page, (-60, 0))
    fill.click()
    box = page.locator("#stage").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y)
    page.evaluate("window.measure()")
    measured(page)
    half = page.evaluate(STORED)
    page.mouse.move(x + 120, y)
    page.mouse.up()

    expect(page.locator("#painted")).to_contain_text("Painted")
    page.keyboard.press("Control+z")  # the fill
    whole = page.evaluate(STORED)
    assert sum(map(bool, whole)) > sum(map(bool, half))
    page.keyboard.press("Control+z")  # the stroke
    assert not any(page.evaluate(STORED))
