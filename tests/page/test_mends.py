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
    wait_for_result,
)
from factories import photo, saved
from hosts import noise
from PIL import Image
from playwright.sync_api import Page, expect

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
    stage = stage_pixels(page)
    expected = service_pixels(studio, job_of(page), 0.5)
    rows = slice(stage.shape[0] // 2 - 60, stage.shape[0] // 2 - 30)
    columns = slice(stage.shape[1] // 2 - 90, stage.shape[1] // 2 + 90)
    assert difference(stage, expected, rows=rows, columns=columns) <= 1

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
    page.mouse.move(x + 0.6 * width, y)
    page.mouse.down()
    page.mouse.move(x + 0.3 * width, y, steps=4)
    page.mouse.up()
    assert page.locator("#divider").get_attribute("aria-valuenow") == "30"

    page.evaluate("document.activeElement.blur()")
    page.keyboard.down(" ")
    expect(page.locator("#right-tag")).to_be_hidden()
    assert page.evaluate("scrollY + document.getElementById('inspector').scrollTop") == 0
    page.keyboard.up(" ")
    page.mouse.wheel(0, -400)
    expect(page.locator("[data-level=fit]")).to_have_attribute("aria-pressed", "false")


def test_a_file_that_waits_for_the_connection_says_so_and_comes_when_it_is_back(
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
