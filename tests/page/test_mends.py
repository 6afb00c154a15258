"""The page handles folders, lost graphics cards, many large photographs, edges and filters."""

import io
from pathlib import Path

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
    unhurried,
    wait_for_result,
)
from factories import photo, saved
from hosts import noise
from PIL import Image
from playwright.sync_api import Page, Route, expect
from processes import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
#: Records the largest number of files that are decoded at once.
DECODING = """
const decode = createImageBitmap;
let now = 0;
window.most = 0;
window.createImageBitmap = async (source, ...rest) => {
  if (!(source instanceof File)) return decode(source, ...rest);
  now += 1;
  window.most = Math.max(window.most, now);
  try {
    return await decode(source, ...rest);
  } finally {
    now -= 1;
  }
};
"""


#: A graphics card that loses its context each time the page gets one.
FAILING = f"""
{WEBGL}
window.cards = 0;
const give = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {{
  const context = give.call(this, kind, ...rest);
  if (kind === "webgl2" && context) {{
    window.cards += 1;
    setTimeout(() => context.getExtension("WEBGL_lose_context")?.loseContext(), 200);
  }}
  return context;
}};
"""
#: A driver that rejects the page's shader program.
WEAK_DRIVER = f"""
{WEBGL}
WebGL2RenderingContext.prototype.getProgramParameter = () => false;
"""


def drop(page: Page, *paths: Path) -> None:
    """Drop files or folders from the desktop onto the page."""
    wire = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": 300, "y": 300, "data": data}
        wire.send("Input.dispatchDragEvent", event)


def test_a_dropped_folder_gives_its_pictures_in_order(visit: Visit, tmp_path: Path) -> None:
    folder = tmp_path / "Holidays"
    (folder / "Sea").mkdir(parents=True)
    for name in ("IMG_10.png", "IMG_9.png", "Sea/boat.png", ".hidden.png"):
        (folder / name).write_bytes(noise(12, 16))
    page = visit()
    page.locator("#model option").first.wait_for(state="attached")
    page.select_option("#model", "tiny")
    drop(page, folder)

    expect(page.locator(".card[data-state=succeeded]")).to_have_count(3)
    assert page.locator(".card .name").all_inner_texts() == ["IMG_9.png", "IMG_10.png", "boat.png"]


def test_a_chosen_folder_gives_its_pictures_in_order_those_of_no_known_type_too(
    visit: Visit, tmp_path: Path
) -> None:
    folder = tmp_path / "Holidays"
    (folder / ".thumbnails").mkdir(parents=True)
    (folder / "Sea").mkdir()
    names = ("IMG_10.heic", "IMG_9.JXL", "Sea/boat.tif", "Sea/cat.png")
    for n, name in enumerate((*names, ".thumbnails/cat.png", "Thumbs.db", "letter.txt")):
        (folder / name).write_bytes(noise(12, 16 + n))
    page = visit()
    page.locator("#model option").first.wait_for(state="attached")
    page.select_option("#model", "tiny")
    page.set_input_files("#folder", folder)

    expect(page.locator(".card[data-state=succeeded]")).to_have_count(4)
    found = ["IMG_9.JXL", "IMG_10.heic", "boat.tif", "cat.png"]
    assert page.locator(".card .name").all_inner_texts() == found

    page.reload()
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(4)
    drop(page, folder)
    expect(page.locator(".card")).to_have_count(8)
    assert page.locator(".card .name").all_inner_texts() == found * 2


def test_a_folder_without_photographs_is_reported(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "Letters").mkdir()
    (tmp_path / "Letters" / "letter.txt").write_text("Dear Ann, ")
    page = visit()
    page.set_input_files("#folder", tmp_path / "Letters")

    expect(page.locator("#notice-words")).to_have_text("No photo was found there.")


def test_files_are_offered_by_their_endings_too(visit: Visit) -> None:
    page = visit()
    page.locator("#model option").first.wait_for(state="attached")
    offered = (page.locator("#files").get_attribute("accept") or "").split(",")

    assert {"image/png", ".png", ".jpg", ".jpeg", ".tif", ".tiff"} <= set(offered)


def test_a_picture_that_waits_for_its_thumbnail_keeps_no_other_from_being_sent(
    visit: Visit,
) -> None:
    page = visit()
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/result?output=psnr&width=*", hold)
    with page.expect_request("**/result?output=psnr&width=*"):
        choose(page, ("scan.tif", saved(photo(24, 33), "TIFF")))
    choose(page, ("photo.png", noise(16, 50)))

    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
    held[0].continue_()
    expect(page.locator(".card .thumb canvas")).to_have_count(2)


def test_a_result_that_was_not_to_be_had_is_fetched_when_one_tries_again(visit: Visit) -> None:
    page = visit()
    page.route("**/result?output=gan*", lambda route: route.fulfill(status=500), times=1)
    choose(page, ("photo.png", noise(16, 51)))
    expect(page.locator("#working")).to_have_text("The service answered 500")
    job_id = job_of(page)
    page.locator("#message").get_by_role("button", name="Try again").click()

    wait_for_result(page)
    assert job_of(page) == job_id


def test_a_slider_does_not_bring_back_a_picture_that_another_tab_removed(visit: Visit) -> None:
    page = visit()
    choose(page, ("photo.png", noise(16, 52)))
    wait_for_result(page)
    page.evaluate("localStorage.removeItem('gdsr.pictures')")
    slide(page, 0.8)
    page.select_option("#format", "webp")

    assert not page.evaluate("localStorage['gdsr.pictures']")


#: Returns the ids of the originals that are kept; the transaction waits for earlier ones.
ORIGINALS = """() => new Promise((done) => {
  const opening = indexedDB.open("gdsr");
  opening.onsuccess = () => {
    const all = opening.result.transaction("originals").objectStore("originals").getAllKeys();
    all.onsuccess = () => { opening.result.close(); done(all.result); };
  };
})"""
#: Two hundred pictures of before, the most that are remembered.
MOST = """localStorage["gdsr.pictures"] = JSON.stringify(
  Array.from({ length: 200 }, (_, n) => ({ id: `old${n}`, name: "old.png" })))"""


def test_no_file_stays_of_a_picture_beyond_those_that_are_remembered(visit: Visit) -> None:
    page = visit()
    page.evaluate(MOST)
    choose(page, ("photo.png", noise(16, 54)))
    wait_for_result(page)

    assert len(page.evaluate("JSON.parse(localStorage['gdsr.pictures'])")) == 200
    assert page.evaluate(ORIGINALS) == []


#: Keeps the bitmaps that are made of what the service sent, with a card of small textures.
BITMAPS = f"""
{WEBGL}
const own = WebGL2RenderingContext.prototype.getParameter;
WebGL2RenderingContext.prototype.getParameter = function (name) {{
  return name === this.MAX_TEXTURE_SIZE ? 512 : own.call(this, name);
}};
const make = createImageBitmap;
window.bitmaps = [];
window.createImageBitmap = async (source, ...rest) => {{
  const made = await make(source, ...rest);
  if (source instanceof Blob && !(source instanceof File)) window.bitmaps.push(made);
  return made;
}};
"""


def test_pixels_that_the_card_has_are_let_go(visit: Visit) -> None:
    page = visit(script=BITMAPS)
    choose(page, ("photo.png", saved(photo(150, 200), "PNG")))
    wait_for_result(page)
    measured(page)
    page.keyboard.press("2")
    expect(page.locator("#preview")).to_have_text("Every pixel")

    assert page.evaluate("window.bitmaps.map(({ width }) => width)") == [0] * 6


#: Makes the page wait for `window.go()` before it reads a file for a smaller one.
HELD = """
const read = createImageBitmap;
window.createImageBitmap = (source, ...rest) =>
  source instanceof File && !rest.length
    ? new Promise((go) => (window.go = go)).then(() => read(source))
    : read(source, ...rest);
"""


def test_a_picture_that_is_removed_while_it_is_made_smaller_is_not_sent(visit: Visit) -> None:
    page = visit(script=HELD)
    page.route(
        "**/limits",
        lambda route: route.fulfill(json={**route.fetch().json(), "max_pixels": 1000}),
    )
    page.reload()
    choose(page, ("large.png", noise(30, 60)))
    page.get_by_role("button", name="Halve it first").click()
    page.wait_for_function("() => window.go !== undefined")
    page.locator("#stage").focus()
    page.keyboard.press("Delete")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    page.evaluate("window.go()")
    choose(page, ("small.png", noise(16, 53)))  # it would be sent after the other
    wait_for_result(page)

    assert sum(url.endswith("/upscale") for url in sent) == 1


def test_photographs_are_decoded_one_after_another(visit: Visit) -> None:
    page = visit(script=DECODING)
    choose(page, *((f"{n}.png", noise(12, 16 + n)) for n in range(6)))

    expect(page.locator(".card .thumb canvas")).to_have_count(6)
    assert page.evaluate("window.most") <= 2  # one for the stage, one for the strip


def test_a_lost_graphics_card_costs_the_card_alone(visit: Visit, studio: Studio) -> None:
    page = visit(script=WEBGL)
    choose(page, ("photo.png", saved(photo(40, 60), "PNG")), model="lite")
    wait_for_result(page)
    page.evaluate("""() => {
      window.same = true;
      const gl = document.querySelector("#stage canvas").getContext("webgl2");
      gl.getExtension("WEBGL_lose_context").loseContext();
    }""")
    page.wait_for_function(
        "() => document.querySelector('#stage canvas').getContext('2d') !== null"
    )
    expect(page.locator("#notice")).to_contain_text("The graphics card stopped")
    expect(page.locator("#right-tag")).to_contain_text("Result")
    page.keyboard.press("1")
    expect(page.locator("#zoom")).to_have_text("100%")

    assert page.evaluate("window.same") is True
    expected = service_pixels(studio, job_of(page), 0.5)

    def apart() -> int:
        stage = stage_pixels(page)
        rows = slice(stage.shape[0] // 2 - 60, stage.shape[0] // 2 - 30)
        columns = slice(stage.shape[1] // 2 - 90, stage.shape[1] // 2 + 90)
        return difference(stage, expected, rows=rows, columns=columns)

    wait_for(lambda: apart() <= 1, what="the result's own pixels")

    page.context.set_offline(True)  # also announced; the notice stays until it is closed
    expect(page.locator("#connection")).to_contain_text("This device is offline")
    expect(page.locator("#notice")).to_be_visible()


def test_a_card_that_fails_again_and_again_is_asked_once_and_no_unsent_picture_is_lost(
    visit: Visit,
) -> None:
    page = visit(script=FAILING)
    page.evaluate("window.same = true")
    page.locator("#model option").first.wait_for(state="attached")
    page.context.set_offline(True)
    choose(page, *((f"{n}.png", noise(16, 20 + n)) for n in range(3)))
    expect(page.locator("#notice")).to_contain_text("The graphics card stopped")
    loop = "() => document.querySelector('#stage canvas').getContext('2d') !== null"
    page.wait_for_function(loop)
    page.get_by_role("button", name="Close", exact=True).click()

    page.context.set_offline(False)
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(3)
    for card in page.locator(".card .open").all():  # each one is loaded into the painter again
        card.click()
        wait_for_result(page)
        expect(page.locator("#right-tag")).to_contain_text("Result")
    page.set_viewport_size({"width": 1000, "height": 700})
    assert np.ptp(stage_pixels(page)[200:400, 200:400]) > 20
    assert page.evaluate("[window.same, window.cards]") == [True, 1]
    assert page.evaluate(loop)
    expect(page.locator("#notice")).to_be_hidden()


def test_a_driver_that_does_not_take_the_program_is_done_without(visit: Visit) -> None:
    page = visit(script=WEAK_DRIVER)
    choose(page, ("small.png", noise(16, 23)))
    wait_for_result(page)
    assert np.ptp(stage_pixels(page)[200:400, 200:400]) > 20


def test_no_line_is_drawn_at_the_edges_of_an_opaque_photograph(visit: Visit) -> None:
    page = visit(viewport={"width": 637, "height": 511})
    flat = Image.new("RGB", (203, 151), (40, 90, 60))
    choose(page, ("flat.png", saved(flat, "PNG")))
    wait_for_result(page)
    page.locator("#divider").press("Home")
    painted(page)
    farthest = page.evaluate("""() => {
      const canvas = document.querySelector("#stage canvas");
      const context = canvas.getContext("2d");
      const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
      const middle = 4 * ((canvas.height >> 1) * canvas.width + (canvas.width >> 1));
      let farthest = 0;
      for (let i = 0; i < data.length; i += 4) {
        if (!data[i + 3]) continue;
        const apart = Math.abs(data[i] - data[middle]) + Math.abs(data[i + 1] - data[middle + 1]);
        farthest = Math.max(farthest, apart);
      }
      return farthest;
    }""")
    assert farthest <= 6


def test_a_named_position_is_there_after_a_reload(visit: Visit) -> None:
    page = visit()
    choose(page, ("small.png", noise(16, 16)))
    wait_for_result(page)
    page.get_by_role("button", name="Crisp", exact=True).click()
    page.reload()
    wait_for_result(page)

    assert page.locator("#position").inner_text() == "100"


def test_guesswork_in_the_photo_has_colours_and_its_button_says_that_it_is_on(
    visit: Visit,
) -> None:
    page = visit()
    choose(page, ("photo.png", saved(photo(40, 60), "PNG")), model="lite")
    wait_for_result(page)
    measured(page)
    button = page.get_by_role("button", name="Show in the photo")
    colours = """() => {
      const canvas = document.getElementById("guesses");
      const context = canvas.getContext("2d");
      const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
      const found = { amber: 0, blue: 0 };
      for (let i = 0; i < data.length; i += 4) {
        if (data[i] > data[i + 2] + 5) found.amber += 1;
        if (data[i + 2] > data[i] + 5) found.blue += 1;
      }
      return found;
    }"""
    plain = stage_pixels(page)
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    slide(page, 0)
    true = page.evaluate(colours)
    slide(page, 1)
    crisp = page.evaluate(colours)
    button.click()

    assert true["blue"] > true["amber"] == 0
    assert crisp["amber"] > 0
    expect(button).to_have_attribute("aria-pressed", "false")
    slide(page, 0.5)
    assert np.array_equal(stage_pixels(page), plain)


def test_forced_colours_leave_the_track_of_the_slider_and_hide_no_field(visit: Visit) -> None:
    page = visit(forced_colors="active")
    choose(page, ("small.png", noise(16, 16)))
    wait_for_result(page)
    with Image.open(io.BytesIO(page.locator("#trade-off").screenshot())) as opened:
        seen = opened.convert("RGB")
    # Forced colours remove shadows, so the button must not float over the fields.
    save, last = (page.locator(it).bounding_box() for it in ("#download", "#icc"))
    assert save is not None
    assert last is not None
    assert save["y"] >= last["y"] + last["height"]
    middle = seen.height // 2
    ground, before, after = (
        seen.getpixel(place)
        for place in ((2, 2), (seen.width // 4, middle), (3 * seen.width // 4, middle))
    )

    assert len({ground, before, after}) == 3
    page.evaluate("""() => {
      const half = Object.assign(document.createElement("progress"), { id: "half", value: 0.5 });
      half.style = "position: fixed; inset: 0 auto auto 0; width: 100px; z-index: 9";
      document.body.append(half);
    }""")
    with Image.open(io.BytesIO(page.locator("#half").screenshot())) as opened:
        seen = opened.convert("RGB")
    places = [(seen.width // 4, 2), (3 * seen.width // 4, 2)]
    assert len({(0, 0, 0), *(seen.getpixel(place) for place in places)}) == 3


def test_at_fit_a_drag_moves_the_divider_the_wheel_zooms_and_space_does_not_scroll(
    visit: Visit,
) -> None:
    page = visit()
    choose(page, ("photo.png", saved(photo(40, 60), "PNG")))
    wait_for_result(page)
    box = page.locator("#stage").bounding_box()
    assert box is not None
    x, y, width = box["x"], box["y"] + 90, box["width"]
    with unhurried(page):
        page.mouse.move(x + 0.6 * width, y)
        page.mouse.down()
        page.mouse.move(x + 0.3 * width, y, steps=4)
        page.mouse.up()
    assert page.locator("#divider").get_attribute("aria-valuenow") == "30"

    page.evaluate("document.activeElement.blur()")
    page.keyboard.down(" ")
    expect(page.locator("#right-tag")).to_be_hidden()
    painted(page)
    assert page.evaluate("scrollY + document.getElementById('inspector').scrollTop") == 0
    page.keyboard.up(" ")
    page.mouse.wheel(0, -400)
    expect(page.locator("[data-level=fit]")).to_have_attribute("aria-pressed", "false")


def test_a_message_longer_than_the_stage_is_scrolled_by_the_wheel(visit: Visit) -> None:
    page = visit(viewport={"width": 320, "height": 500})
    choose(page, ("letter.jpg", b"This is a letter, not a photograph. " * 20))
    expect(page.locator("#working")).to_contain_text("not a picture")
    box = page.locator("#message").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    assert page.evaluate("document.getElementById('message').scrollTop") == 0
    page.mouse.wheel(0, 60)

    page.wait_for_function("() => document.getElementById('message').scrollTop > 0")


def test_a_download_without_a_connection_says_that_it_waits_and_starts_once_it_is_back(
    visit: Visit,
) -> None:
    page = visit()
    choose(page, ("small.png", noise(16, 20)))
    wait_for_result(page)
    slide(page, 0.8)
    page.context.set_offline(True)
    page.click("#download")
    expect(page.locator("#download-note")).to_have_text(
        "The file comes by itself when the connection is back."
    )
    expect(page.locator("#connection")).to_contain_text("This device is offline")
    expect(page.locator("#download-note")).to_be_in_viewport()  # at any scroll position

    with page.expect_download() as download:
        page.context.set_offline(False)
    assert download.value.suggested_filename == "small-4x.png"
    expect(page.locator("#connection")).to_be_hidden()
