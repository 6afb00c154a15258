"""Pictures are sent, followed, cancelled, refused and restored, alone and many at once."""

import base64
import io
import re
import struct
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from browsing import (
    SAMPLE,
    Studio,
    Visit,
    choose,
    job_of,
    slide,
    unhurried,
    wait_for_result,
    working,
)
from factories import photo, saved
from hosts import WorkerHost, noise
from PIL import Image
from playwright.sync_api import Page, Route, expect

pytestmark = pytest.mark.e2e
TURNED_PHONE = {
    "viewport": {"width": 844, "height": 390},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
NARROW = {"viewport": {"width": 320, "height": 640}}
LETTER = b"This is a letter, not a photograph. " * 20
# Pictures that are seen under way must differ: an equal one would get the earlier result at once.


def test_a_photograph_is_sent_followed_with_one_estimate_and_shown(
    visit: Visit, studio: Studio, host: WorkerHost
) -> None:
    page = visit()
    large = ("large.png", noise(400, 500, seed=1))
    with working(page, studio.site, host, lambda: choose(page, large)) as seen:
        assert seen["progress"]
        assert seen["message"].startswith("Working, ")
        assert seen["badge"] in seen["message"]
        assert seen["title"] == f"{seen['badge']} large.png · GDSR"
        assert not seen["slides"]
        assert seen["message"] == seen["state"]
        assert re.search(", about .+ left$", seen["state"])
    wait_for_result(page)
    assert page.locator(".card progress").is_hidden()
    assert page.title() == "✓ large.png · GDSR"
    sizes = page.locator("#shown-facts").inner_text().replace("\u00a0", " ")
    assert sizes == "500 × 400 → 2,000 × 1,600"
    page.locator("#about summary").click()
    facts = page.locator("#facts").inner_text().replace("\u00a0", " ")
    day = f", {datetime.now(UTC).year}, "
    for words in ("2,000 × 1,600", "tiny", "float32", "network", "kept until", day):
        assert words in facts
    assert page.locator("#announcer").inner_text() == "large.png: Ready"


@pytest.mark.slow
def test_the_time_in_the_queue_counts_up(visit: Visit, studio: Studio, host: WorkerHost) -> None:
    page = visit(address="about:blank")
    page.clock.install()
    page.goto(studio.address)
    # It would have come down to its least, one second, before it is seen on a busy machine.
    page.clock.pause_at(page.evaluate("Date.now()") / 1000 + 10)
    with host.held():
        choose(page, *((f"{n}.png", noise(300, 400, seed=20 + n)) for n in range(4)))
        expect(page.locator(".card[data-state=queued]")).to_have_count(4)
        page.locator(".card .open").last.click()
        words = page.locator("#working")
        waiting = re.compile(r"^(Next in line|\d ahead of it in line), about .+ left$")
        expect(words).to_have_text(waiting)
        seen = words.inner_text()
        page.clock.run_for(2000)
        expect(words).not_to_have_text(seen)
        expect(words).to_have_text(waiting)
        page.clock.resume()
        for card in page.locator(".card .open").all():  # later tests need not wait for them
            card.click()
            page.locator("#message").get_by_role("button", name="Cancel").click()
            expect(words).to_have_text("Cancelled")


def test_another_model_is_offered_for_a_picture_that_is_there(visit: Visit) -> None:
    page = visit()
    choose(page, ("small.png", noise(16, 16)))
    wait_for_result(page)
    expect(page.locator("#again-with")).to_be_hidden()
    page.select_option("#model", "lite")

    expect(page.locator("#model-note")).to_have_text(
        re.compile("For clean photos: .+ About .+ for this photo.")
    )
    page.get_by_role("button", name="Enlarge again with lite").click()
    expect(page.locator("#again-with")).to_be_hidden()
    wait_for_result(page)
    page.locator("#about summary").click()
    expect(page.locator("#facts")).to_contain_text("lite")


def test_a_cancelled_picture_stops_and_can_be_tried_again(
    visit: Visit, studio: Studio, host: WorkerHost
) -> None:
    page = visit()
    large = ("large.png", noise(400, 500, seed=2))
    with working(page, studio.site, host, lambda: choose(page, large)):
        job_id = job_of(page)
        page.locator("#message").get_by_role("button", name="Cancel").click()
        expect(page.locator("#working")).to_have_text("Cancelled")
    assert studio.http.get(f"/jobs/{job_id}").json()["state"] == "cancelled"

    with working(page, studio.site, host, page.get_by_role("button", name="Try again").click):
        assert job_of(page) != job_id
        page.locator("#message").get_by_role("button", name="Cancel").click()
        expect(page.locator("#working")).to_have_text("Cancelled")


def test_a_removed_picture_can_be_put_back_and_is_erased_otherwise(
    visit: Visit, studio: Studio
) -> None:
    page = visit()
    choose(page, ("small.png", noise(16, 16)))
    wait_for_result(page)
    job_id = job_of(page)
    with unhurried(page):
        page.get_by_role("button", name="Remove small.png").click()
        expect(page.locator("#toast")).to_contain_text("Removed.")
        expect(page.locator("#viewer")).to_be_hidden()
        page.locator("#toast").get_by_role("button", name="Undo").click()
    wait_for_result(page)
    assert studio.http.get(f"/jobs/{job_id}").json()["state"] == "succeeded"

    with page.expect_response(lambda response: response.request.method == "DELETE") as erased:
        page.get_by_role("button", name="Remove small.png").click()
    assert erased.value.status == 204
    assert studio.http.get(f"/jobs/{job_id}").status_code == 404
    assert page.evaluate("localStorage['gdsr.pictures']") == "[]"


def test_a_picture_under_way_that_is_removed_twice_takes_no_other_with_it(
    visit: Visit, studio: Studio, host: WorkerHost
) -> None:
    page = visit()
    choose(page, ("kept.png", noise(16, 16)))
    wait_for_result(page)
    large = ("large.png", noise(400, 500, seed=4))
    with working(page, studio.site, host, lambda: choose(page, large)), unhurried(page):
        page.get_by_role("button", name="Remove large.png").evaluate(
            "(button) => { button.click(); button.click(); }"
        )
        expect(page.locator(".card .name")).to_have_text(["kept.png"])
        wait_for_result(page)
        expect(page.locator("#toast")).to_be_visible()
        expect(page.locator("#shown-name")).to_have_text("kept.png")
        expect(page.locator("#viewer")).to_be_visible()
        page.locator("#toast").get_by_role("button", name="Undo").click()
    expect(page.locator(".card .name")).to_have_text(["large.png", "kept.png"])
    wait_for_result(page)
    expect(page.locator("#shown-name")).to_have_text("large.png")


def test_a_picture_that_is_removed_offline_and_put_back_is_done_when_the_connection_is_back(
    visit: Visit, host: WorkerHost
) -> None:
    page = visit()
    with host.held(), unhurried(page):
        choose(page, ("queued.png", noise(16, 71)))
        expect(page.locator(".card[data-state=queued]")).to_have_count(1)
        page.context.set_offline(True)
        expect(page.locator("#connection")).to_be_visible()
        page.get_by_role("button", name="Remove queued.png").click()
        page.locator("#toast").get_by_role("button", name="Undo").click()
        page.context.set_offline(False)
        expect(page.locator("#connection")).to_be_hidden()
    wait_for_result(page)


def test_an_empty_file_is_said_to_be_empty(visit: Visit) -> None:
    page = visit()
    page.set_input_files("#files", {"name": "empty.png", "mimeType": "image/png", "buffer": b""})

    expect(page.locator("#working")).to_have_text("The file is empty.")
    assert page.locator("#actions button").all_inner_texts() == ["Remove"]


def test_a_picture_that_is_removed_while_it_loads_after_a_reload_is_not_opened(
    visit: Visit,
) -> None:
    page = visit()
    choose(page, ("kept.png", noise(16, 16)))
    wait_for_result(page)
    choose(page, ("other.png", noise(16, 17)))
    expect(page).to_have_title(re.compile("other.png"))
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
    address = f"/jobs/{job_of(page)}"
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route(f"**{address}", hold, times=1)
    with page.expect_request(f"**{address}"):
        page.reload()
    with unhurried(page):
        page.locator(".card .open").last.click()
        wait_for_result(page)
        page.get_by_role("button", name="Remove kept.png").click()
        expect(page).to_have_title(re.compile("other.png"))
        page.get_by_role("button", name="Remove other.png").click()  # last: its load goes on
        expect(page.locator("#empty")).to_be_visible()
        with page.expect_response(lambda it: it.url.endswith(address) and it.status == 200):
            held[0].continue_()
        page.evaluate("() => fetch('livez').then((answer) => answer.text())")  # that is read

    expect(page).to_have_title("GDSR")  # of no picture, and the place of one is empty
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#viewer")).to_be_hidden()


def test_a_forgotten_picture_that_is_removed_while_it_loads_takes_no_other_with_it(
    visit: Visit, studio: Studio
) -> None:
    page = visit()
    choose(page, ("kept.png", noise(16, 16)))
    wait_for_result(page)
    choose(page, ("other.png", noise(16, 17)))
    expect(page).to_have_title(re.compile("other.png"))
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
    address = f"/jobs/{job_of(page)}"
    studio.http.delete(address)
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route(f"**{address}", hold, times=1)
    with page.expect_request(f"**{address}"):
        page.reload()
    page.locator(".card .open").first.click()
    with unhurried(page):
        page.get_by_role("button", name="Remove other.png").click()
        with page.expect_response(lambda it: it.url.endswith(address) and it.status == 404):
            held[0].continue_()
        page.evaluate("() => fetch('livez').then((answer) => answer.text())")  # that is read

    wait_for_result(page)
    expect(page.locator("#shown-name")).to_have_text("kept.png")
    expect(page.locator("#viewer")).to_be_visible()


@pytest.mark.parametrize("screen", [TURNED_PHONE, NARROW], ids=["turned", "narrow"])
def test_the_offer_to_undo_hides_no_message_about_another_picture(
    visit: Visit, screen: dict[str, Any]
) -> None:
    page = visit(**screen)
    choose(page, ("letter.jpg", LETTER), ("one.png", noise(16, 16)), ("two.png", noise(16, 18)))
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)

    def covered() -> list[str]:
        toast = page.locator("#toast").bounding_box()
        assert toast is not None
        said = (
            ".tag", "#message", "#zooms", "#inspector button", "#trade-off", ".card .open",
            "#empty label", "#help", "#add", "#export-button",
        )  # fmt: skip
        boxes = [
            (it, box)
            for it in said
            for found in page.locator(f"{it}:visible").all()
            if (box := found.bounding_box())
        ]
        return [
            it
            for it, box in boxes
            if toast["y"] < box["y"] + box["height"]
            and box["y"] < toast["y"] + toast["height"]
            and toast["x"] < box["x"] + box["width"]
            and box["x"] < toast["x"] + toast["width"]
        ]

    page.locator(".card .open").nth(1).click()
    wait_for_result(page)
    with unhurried(page):
        page.get_by_role("button", name="Remove one.png").click()
        wait_for_result(page)
        for tab in page.locator("[role=tab]").all():
            tab.click()
            page.evaluate("document.getElementById('inspector').scrollTop = 1000")
            assert covered() == [], tab.inner_text()
        page.locator(".card .open").first.click()  # a refusal has the longest message
        expect(page.locator("#working")).to_contain_text("not a picture")
        expect(page.locator("#toast")).to_be_visible()
        assert covered() == []
        page.get_by_role("button", name="Remove letter.jpg").click()
        page.get_by_role("button", name="Remove two.png").click()
        expect(page.locator("#empty h2:visible, #empty .lead:visible").first).to_be_visible()
        assert covered() == []


@pytest.mark.parametrize(("width", "height"), [(320, 256), (390, 640), (680, 640), (800, 640)])
def test_the_longest_offer_to_undo_covers_no_button_of_the_bar(
    visit: Visit, width: int, height: int
) -> None:
    page = visit(locale="de-DE", viewport={"width": width, "height": height})
    choose(page, ("one.png", noise(16, 16)))
    wait_for_result(page)
    with unhurried(page):
        page.locator("#apply-all").dispatch_event("click")
        expect(page.locator("#toast")).to_have_text("Gilt jetzt für alle Fotos. Rückgängig")
        for button in ("#help", "#add", "#export-button"):
            page.locator(button).click(trial=True, timeout=2000)


def test_a_refusal_is_told_once_in_the_words_of_the_service(visit: Visit, studio: Studio) -> None:
    text = b"This is a letter, not a photograph. " * 20
    page = visit()
    choose(page, ("letter.jpg", text), ("broken.png", noise(20, 20)[:300]))
    refusal = studio.http.post("/upscale", content=text).json()
    said = f"{refusal['title']}: {refusal['detail']}"

    expect(page.locator("#working")).to_have_text(said)
    seen = """(words) => [...document.querySelectorAll("p, span")].filter((element) =>
      !element.closest(".unseen") && element.textContent.includes(words)).length"""
    assert page.evaluate(seen, refusal["detail"]) == 1
    buttons = page.locator("#actions button")
    assert buttons.all_inner_texts() == ["Remove"]  # a retry would be refused too
    page.locator(".card .open").last.click()
    expect(page.locator("#working")).to_contain_text("The picture is damaged")
    # There is no thumbnail, so the cards show the names.
    assert page.locator(".card .thumb").all_inner_texts() == ["letter.jpg", "broken.png"]


def test_a_refusal_is_reported_in_the_language_of_the_page(visit: Visit) -> None:
    page = visit(locale="de-DE")
    choose(page, ("letter.jpg", LETTER))

    said = "Das ist kein Bild in einem der unterstützten Formate."
    expect(page.locator("#working")).to_have_text(said)


def test_errors_without_a_problem_and_warnings_are_reported_in_the_language_of_the_page(
    visit: Visit,
) -> None:
    page = visit(locale="de-DE")
    page.route("**/upscale", lambda route: route.fulfill(status=500), times=1)
    choose(page, ("cut.jpg", saved(photo(60, 80), "JPEG")[:-200]))
    expect(page.locator("#working")).to_have_text("Der Server antwortete mit 500")

    page.locator("#message").get_by_role("button", name="Nochmal").click()
    page.get_by_role("button", name="Fehlenden Teil füllen").click()

    wait_for_result(page)
    expect(page.locator("#facts")).to_contain_text("Das fehlende Ende des Bildes ist gefüllt.")


def test_the_missing_part_of_a_picture_is_filled_by_a_button(visit: Visit, studio: Studio) -> None:
    whole = saved(photo(60, 80), "JPEG")
    page = visit()
    choose(page, ("cut.jpg", whole[:-200]))
    expect(page.locator("#working")).to_have_text("The picture is damaged: its end is missing.")
    page.get_by_role("button", name="Fill the missing part").click()
    wait_for_result(page)

    job = studio.http.get(f"/jobs/{job_of(page)}").json()
    assert job["options"]["truncated"] == "fill"
    assert (job["result"]["width"], job["result"]["height"]) == (320, 240)


@pytest.mark.parametrize("format_name", ["PNG", "JPEG"])
def test_a_huge_picture_is_refused_by_its_header_and_never_decoded(
    visit: Visit, format_name: str
) -> None:
    file = bytearray(saved(photo(40, 60), format_name))
    if format_name == "PNG":
        file[16:24] = struct.pack(">II", 20_000, 20_000)
    else:
        frame = file.index(b"\xff\xc0")
        file[frame + 5 : frame + 9] = struct.pack(">HH", 20_000, 20_000)
    script = """
      window.decoded = 0;
      const plain = window.createImageBitmap;
      window.createImageBitmap = (...given) => (window.decoded += 1, plain(...given));
    """
    page = visit(script=script)
    page.locator("#taken:not(:empty)").wait_for()  # the limits are known
    choose(page, ("huge.img", bytes(file)))

    expect(page.locator("#working")).to_have_text(
        re.compile(r"20,000.×.20,000 \(400.MP\) is too large: the limit is \d+.MP\.")
    )
    assert page.locator("#actions button").all_inner_texts() == ["Remove"]
    assert page.evaluate("window.decoded") == 0


def test_a_refused_picture_offers_no_file_of_another(visit: Visit) -> None:
    page = visit()
    choose(page, ("good.png", noise(20, 20)))
    wait_for_result(page)
    expect(page.locator("#download")).to_have_text("Save good-4x.png")
    choose(page, ("letter.jpg", b"This is a letter, not a photograph. " * 20))

    expect(page.locator("#working")).to_contain_text("not a picture")
    page.locator(".card .open").first.click()  # a click in its middle does not remove it
    expect(page.locator(".card")).to_have_count(2)
    expect(page.locator("#download")).to_have_text("Save")
    expect(page.locator("#scale option")).to_have_text(["4×"])


def test_a_picture_that_is_too_large_is_halved_or_cropped_before_upload(visit: Visit) -> None:
    page = visit()
    page.route(
        "**/limits",
        lambda route: route.fulfill(json={**route.fetch().json(), "max_pixels": 3000}),
    )
    page.reload()
    choose(page, ("large.png", noise(60, 80)), ("other.png", noise(80, 60)))
    expect(page.locator("#working")).to_contain_text("is too large: the limit is 0 MP")
    assert page.locator("#shown-facts").inner_text().replace("\u00a0", " ") == "80 × 60"
    page.get_by_role("button", name="Halve it first").click()
    wait_for_result(page)
    sizes = page.locator("#shown-facts")
    expect(sizes).to_have_text(re.compile("40.×.30 → 160.×.120"))

    page.keyboard.press(".")
    expect(page.locator("#shown-name")).to_have_text("other.png")
    page.locator("#stage").focus()
    page.keyboard.press("8")
    page.get_by_role("button", name="Crop to this view").click()
    wait_for_result(page)
    assert "→" in sizes.inner_text()


def test_halving_keeps_transparency(visit: Visit) -> None:
    page = visit()
    page.route(
        "**/limits",
        lambda route: route.fulfill(json={**route.fetch().json(), "max_pixels": 3000}),
    )
    page.reload()
    page.locator("#model option").first.wait_for(state="attached")
    clear = io.BytesIO()
    Image.new("RGBA", (80, 60), (200, 40, 40, 0)).save(clear, "WEBP", lossless=True)
    logo = {"name": "logo.webp", "mimeType": "image/webp", "buffer": clear.getvalue()}
    page.select_option("#model", "tiny")
    page.set_input_files("#files", [logo])
    page.get_by_role("button", name="Halve it first").click()
    wait_for_result(page)
    with page.expect_download() as download:
        page.click("#download")

    with Image.open(io.BytesIO(download.value.path().read_bytes())) as opened:
        assert opened.convert("RGBA").getchannel("A").getextrema() == (0, 0)


def test_a_panorama_beyond_the_painter_is_cropped_to_what_is_shown(visit: Visit) -> None:
    page = visit()
    page.route(
        "**/limits",
        lambda route: route.fulfill(json={**route.fetch().json(), "max_pixels": 100_000}),
    )
    page.reload()
    black_and_white = np.zeros((20, 9000, 3), np.uint8)
    black_and_white[:, 4500:] = 255
    choose(page, ("panorama.png", saved(black_and_white, "PNG")))
    expect(page.locator("#working")).to_contain_text("is too large")
    expect(page.locator("#left-tag")).to_be_visible()
    page.keyboard.press("1")
    expect(page.locator("#zoom")).to_have_text("100%")
    page.get_by_role("button", name="Crop to this view").click()
    wait_for_result(page)
    with page.expect_download() as download:
        page.click("#download")

    with Image.open(io.BytesIO(download.value.path().read_bytes())) as opened:
        made = np.asarray(opened.convert("L"))
    middle = made.shape[1] // 2
    assert made[:, : middle - 40].mean() < 64
    assert made[:, middle + 40 :].mean() > 192


def test_a_picture_comes_back_after_a_reload_with_its_original(
    visit: Visit, studio: Studio, host: WorkerHost
) -> None:
    page = visit()
    choose(page, ("first.png", noise(24, 24)))
    wait_for_result(page)
    second = ("second.png", noise(400, 500, seed=3))
    with working(page, studio.site, host, lambda: choose(page, second)):
        page.reload()

    expect(page.locator(".card")).to_have_count(2)
    assert page.locator(".card .name").all_inner_texts() == ["second.png", "first.png"]
    expect(page.locator(".card .thumb canvas")).to_have_count(2)
    expect(page.locator(".card .state").first).to_have_text(
        re.compile("Working|Ready|Opening|Next")
    )
    expect(page.locator("#shown-name")).to_have_text("second.png")  # the newest
    wait_for_result(page)
    expect(page.locator("#left-tag")).to_have_text("Original")
    page.locator(".card .open").last.click()
    wait_for_result(page)
    assert page.locator("#shown-name").inner_text() == "first.png"


def test_a_reload_opens_the_picture_that_was_open_as_it_was(visit: Visit) -> None:
    page = visit()
    choose(page, *((f"{n}.png", noise(16, 20 + n)) for n in range(3)))
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(3)
    page.locator(".card .open").nth(1).click()
    expect(page.locator("#shown-name")).to_have_text("1.png")
    wait_for_result(page)
    slide(page, 0.83)
    other = page.context.new_page()  # a second tab with another picture open
    other.goto(page.url)
    wait_for_result(other)
    other.locator(".card .open").last.click()
    expect(other.locator("#shown-name")).to_have_text("2.png")

    for tab, name, position in ((page, "1.png", "83"), (other, "2.png", "50")):
        tab.reload()
        wait_for_result(tab)
        assert tab.locator(".card .name").all_inner_texts() == ["0.png", "1.png", "2.png"]
        expect(tab.locator("#shown-name")).to_have_text(name)
        assert tab.locator("#position").inner_text() == position
        assert tab.locator(".card.opened .name").inner_text() == name
    page.get_by_role("button", name="Remove 1.png").click()
    page.reload()  # the removal must be permanent without a wait
    wait_for_result(page)
    expect(page.locator("#shown-name")).to_have_text("2.png")  # the one that took its place


def test_pictures_that_the_service_no_longer_has_are_gone_after_a_reload(
    visit: Visit, studio: Studio
) -> None:
    page = visit()
    choose(page, ("small.png", noise(16, 16)))
    wait_for_result(page)
    studio.http.delete(f"/jobs/{job_of(page)}")
    page.reload()

    expect(page.locator(".card")).to_have_count(0)
    assert page.evaluate("localStorage['gdsr.pictures']") == "[]"


def test_many_pictures_are_all_done_though_few_lines_are_open(visit: Visit) -> None:
    page = visit()
    choose(page, *((f"{n}.png", noise(16, 16 + n)) for n in range(9)))

    expect(page.locator(".card[data-state=succeeded]")).to_have_count(9)
    assert page.locator(".card .name").all_inner_texts() == [f"{n}.png" for n in range(9)]


def test_a_picture_that_the_browser_cannot_read_is_shown_when_it_is_done(visit: Visit) -> None:
    page = visit()
    choose(page, ("scan.tif", saved(photo(24, 32), "TIFF")))
    wait_for_result(page)

    sizes = page.locator("#shown-facts")
    expect(sizes).to_have_text(re.compile("32.×.24 → 128.×.96"))
    expect(page.locator(".card .thumb canvas")).to_have_count(1)
    assert page.locator("#divider").is_hidden()


def test_pasted_and_dropped_pictures_are_accepted(visit: Visit) -> None:
    page = visit()
    page.locator("#model option").first.wait_for(state="attached")
    page.select_option("#model", "tiny")
    give = """([content, event, name]) => {
      const carried = new DataTransfer();
      const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
      carried.items.add(new File([bytes], name, { type: "image/jpeg" }));
      const options = { bubbles: true, cancelable: true };
      document.body.dispatchEvent(event === "paste"
        ? new ClipboardEvent("paste", { clipboardData: carried, ...options })
        : new DragEvent("drop", { dataTransfer: carried, ...options }));
    }"""
    content = base64.b64encode(SAMPLE.read_bytes()).decode()
    page.evaluate(give, [content, "paste", "pasted.jpg"])
    page.evaluate(give, [content, "drop", "dropped.jpg"])

    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
    assert page.locator(".card .name").all_inner_texts() == ["dropped.jpg", "pasted.jpg"]


#: Records what is told to those who do not look.
HEARD = """
window.heard = [];
document.addEventListener("DOMContentLoaded", () => {
  const announcer = document.getElementById("announcer");
  const told = () => window.heard.push(announcer.textContent);
  new MutationObserver(told).observe(announcer, { childList: true });
});
"""


def held_uploads(page: Page, *, times: int = 1) -> list[Route]:
    """Hold the next uploads until they are continued."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/upscale", hold, times=times)
    return held


@pytest.mark.slow
def test_a_picture_that_is_cancelled_before_its_turn_is_not_sent(visit: Visit) -> None:
    page = visit()
    held = held_uploads(page)
    with page.expect_request("**/upscale"):
        choose(page, ("first.png", noise(16, 60)), ("second.png", noise(16, 61)))
    asked: list[tuple[str, str]] = []
    page.on("request", lambda request: asked.append((request.method, request.url)))
    page.locator(".card .open").last.click()
    expect(page.locator("#working")).to_have_text("Waiting to be sent")
    page.locator("#actions [data-action=cancel]").click()
    held[0].continue_()
    wait_for_result(page)
    choose(page, ("third.png", noise(16, 62)))  # it would be sent after the second
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)

    assert sum(method == "POST" and url.endswith("/upscale") for method, url in asked) == 1
    assert "DELETE" not in [method for method, _ in asked]  # the service has no job of it
    page.reload()
    expect(page.locator(".card .name")).to_have_text(["third.png", "first.png"])


@pytest.mark.slow
def test_an_upload_that_is_cancelled_is_reported_as_no_fault(visit: Visit) -> None:
    page = visit(script=HEARD)
    held_uploads(page)
    with page.expect_request("**/upscale"):
        choose(page, ("first.png", noise(16, 63)))
    expect(page.locator("#stage-progress")).to_have_accessible_name(re.compile("^Sending, "))
    page.locator("#actions [data-action=cancel]").click()
    choose(page, ("second.png", noise(16, 64)))
    wait_for_result(page)

    assert page.evaluate("window.heard") == ["second.png: Ready"]


@pytest.mark.slow
def test_a_queued_picture_that_is_enlarged_again_after_a_reload_is_reported_as_no_fault(
    visit: Visit, host: WorkerHost
) -> None:
    page = visit(script=HEARD)
    choose(page, ("ready.png", noise(16, 65)))
    wait_for_result(page)
    with host.held():
        choose(page, ("queued.png", noise(16, 66)))
        expect(page.locator(".card[data-state=queued]")).to_have_count(1)
        page.reload()
        page.locator(".card .open").last.click()
        wait_for_result(page)
        expect(page.locator(".card[data-state=queued]")).to_have_count(1)
        page.select_option("#icc", "keep")
        with page.expect_response("**/upscale"):
            page.get_by_role("button", name="Use for all photos").click()
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
    wait_for_result(page)

    heard = page.evaluate("window.heard")
    assert set(heard) == {"ready.png: Ready", "queued.png: Ready"}


@pytest.mark.slow
def test_a_picture_that_is_erased_while_it_loads_after_a_reload_is_reported_as_no_fault(
    visit: Visit,
) -> None:
    page = visit(script=HEARD)
    choose(page, ("kept.png", noise(16, 67)))
    wait_for_result(page)
    choose(page, ("other.png", noise(16, 68)))
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
    address = f"/jobs/{job_of(page)}"
    page.route(f"**{address}", lambda _: None, times=1)
    with page.expect_request(f"**{address}"):
        page.reload()
    page.locator(".card .remove").first.dispatch_event("click")
    wait_for_result(page)
    expect(page.locator("#shown-name")).to_have_text("kept.png")
    page.locator("#stage").focus()
    with page.expect_request(lambda request: request.method == "DELETE"):
        page.keyboard.press("Delete")  # erases the other
    page.evaluate("() => fetch('livez').then((answer) => answer.text())")  # by then it is ended

    assert page.evaluate("window.heard") == ["kept.png: Ready"]


@pytest.mark.slow
def test_a_picture_that_ends_while_it_is_removed_is_not_announced_and_has_its_thumbnail_when_back(
    visit: Visit,
) -> None:
    page = visit(script=HEARD)
    page.locator("#model option").first.wait_for(state="attached")
    held = held_uploads(page)
    with page.expect_request("**/upscale"):
        choose(page, ("scan.tif", saved(photo(24, 34), "TIFF")))
    page.clock.install()
    page.clock.pause_at(page.evaluate("Date.now()") / 1000 + 10)  # so that the offer lasts
    page.get_by_role("button", name="Remove scan.tif").click()
    with page.expect_response("**/result?output=psnr&width=*"):
        held[0].continue_()
    assert page.evaluate("window.heard") == []
    page.locator("#toast").get_by_role("button", name="Undo").click()

    expect(page.locator(".card .thumb canvas")).to_have_count(1)
    expect(page.locator(".card .state")).to_have_text("Ready")


@pytest.mark.slow
def test_a_picture_that_is_removed_while_it_is_cancelled_is_not_erased(
    visit: Visit, studio: Studio, host: WorkerHost
) -> None:
    page = visit()
    page.locator("#model option").first.wait_for(state="attached")
    held: list[Route] = []

    def hold(route: Route) -> None:
        if held or route.request.method != "DELETE":
            route.continue_()
        else:
            held.append(route)

    page.route("**/jobs/*", hold)
    with host.held():
        choose(page, ("queued.png", noise(16, 69)))
        expect(page.locator(".card[data-state=queued]")).to_have_count(1)
        job_id = job_of(page)
        page.clock.install()
        page.clock.pause_at(page.evaluate("Date.now()") / 1000 + 10)  # so that the offer lasts
        with page.expect_request(lambda request: request.method == "DELETE"):
            page.locator("#actions [data-action=cancel]").click()
        expect(page.locator("#working")).to_have_text("Cancelling")
        page.get_by_role("button", name="Remove queued.png").click()
        expect(page.locator("#toast")).to_be_visible()
        with page.expect_response(lambda response: response.request.method == "DELETE"):
            held[0].continue_()
        page.locator("#toast").get_by_role("button", name="Undo").click()
        expect(page.locator("#working")).to_have_text("Cancelled")

    assert studio.http.get(f"/jobs/{job_id}").json()["state"] == "cancelled"


@pytest.mark.slow
def test_the_only_picture_that_is_removed_while_it_loads_after_a_reload_is_not_opened(
    visit: Visit,
) -> None:
    page = visit()
    choose(page, ("only.png", noise(16, 70)))
    wait_for_result(page)
    address = f"/jobs/{job_of(page)}"
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route(f"**{address}", hold, times=1)
    with page.expect_request(f"**{address}"):
        page.reload()
    page.clock.install()
    page.clock.pause_at(page.evaluate("Date.now()") / 1000 + 10)  # so that the offer lasts
    page.locator(".card .open").click()
    page.get_by_role("button", name="Remove only.png").click()
    expect(page.locator("#empty")).to_be_visible()
    with page.expect_response(f"**{address}"):
        held[0].continue_()
    page.evaluate("() => fetch('livez').then((answer) => answer.text())")  # that is read

    expect(page).to_have_title("GDSR")
    page.locator("#toast").get_by_role("button", name="Undo").click()
    wait_for_result(page)
    expect(page).to_have_title(re.compile("only.png"))
