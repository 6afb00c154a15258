"""Files are saved with the chosen size, resolution and metadata, or all in one zip."""

import io
import re
import zipfile

import pytest
from browsing import SAMPLE, Studio, Visit, choose, job_of, painted, slide, wait_for_result
from factories import P3_PRIMARIES, photo, rgb_profile, saved
from hosts import WorkerHost, noise
from PIL import Image
from playwright.sync_api import Page, Route, expect

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
CAMERA_MAKER = 0x010F


def test_a_file_has_the_size_and_quality_that_were_chosen(visit: Visit) -> None:
    page = visit()
    choose(page, ("small.png", noise(24, 32)))
    wait_for_result(page)
    page.select_option("#format", "jpeg")
    page.locator("#quality").fill("40")
    page.select_option("#scale", "2")
    expect(page.locator("#download")).to_have_text("Save small-2x.jpg")
    expect(page.locator("#print")).to_have_text("Prints 0.5 × 0.4 cm at 300 dpi")
    expect(page.locator("#export-facts")).to_have_text(re.compile(r"^[\d.]+ (byte|kB)$"))
    told = page.locator("#export-facts").inner_text()
    with page.expect_download() as download:
        page.click("#download")

    assert download.value.suggested_filename == "small-2x.jpg"
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
        for name, size in (("one", (80, 64)), ("two", (64, 80))):
            with Image.open(io.BytesIO(archive.read(f"{name}-4x.webp"))) as opened:
                assert opened.size == size
    assert [
        it["tradeOff"] for it in page.evaluate("JSON.parse(localStorage['gdsr.pictures'])")
    ] == [
        1,
        1,
    ]


def test_a_picture_that_is_gone_keeps_none_of_the_others_from_the_zip(
    visit: Visit, studio: Studio
) -> None:
    page = visit()
    choose(page, *((f"{n}.png", noise(16, 20 + n)) for n in range(3)))
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(3)
    remembered = page.evaluate("JSON.parse(localStorage['gdsr.pictures'])")
    (gone,) = [it["id"] for it in remembered if it["name"] == "1.png"]
    studio.http.delete(f"/jobs/{gone}")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save all 3").click()

    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.namelist() == ["0-4x.png", "2-4x.png"]
    expect(page.locator("#notice-words")).to_have_text(re.compile("^1.png: "))
    page.locator(".card .open").nth(1).click()
    expect(page.locator("#working")).to_have_text("Deleted from the server")
    expect(page.get_by_role("button", name="Save all 2")).to_be_visible()
    page.get_by_role("button", name="Try again").click()
    wait_for_result(page)
    expect(page.get_by_role("button", name="Save all 3")).to_be_visible()


def test_saving_an_expired_picture_says_so_and_offers_to_enlarge_it_again(
    visit: Visit, studio: Studio
) -> None:
    page = visit()
    choose(page, ("photo.png", noise(16, 29)))
    wait_for_result(page)
    studio.http.delete(f"/jobs/{job_of(page)}")  # as another tab would
    slide(page, 0.8)
    page.click("#download")
    expect(page.locator("#working")).to_have_text("Deleted from the server")
    expect(page.locator("#download-note")).to_be_hidden()
    page.get_by_role("button", name="Try again").click()
    wait_for_result(page)


def test_a_notice_with_long_names_can_be_closed_on_a_narrow_screen(
    visit: Visit, studio: Studio
) -> None:
    page = visit(viewport={"width": 320, "height": 640})
    names = [f"<b>{n}</b>{'_' * 60}.png" for n in range(12)]
    choose(page, *((name, noise(16, 60 + n)) for n, name in enumerate(names)))
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(12)
    for it in page.evaluate("JSON.parse(localStorage['gdsr.pictures'])"):
        studio.http.delete(f"/jobs/{it['id']}")
    page.get_by_role("button", name="Save all 12").click()
    close = page.locator("#notice").get_by_role("button", name="Close")

    expect(close).to_be_in_viewport(ratio=1)
    for name in names:
        expect(page.locator("#notice-words")).to_contain_text(name)
    stage = page.locator("#stage").bounding_box()
    assert stage is not None
    assert stage["height"] > 100


def test_a_width_is_chosen_in_pixels_or_as_it_is_printed(visit: Visit) -> None:
    page = visit()
    choose(page, ("small.png", noise(48, 64)))
    wait_for_result(page)
    page.select_option("#scale", label="Own width")
    page.get_by_label("Width in cm").fill("1.5")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Width in px")).to_have_value("177")
    expect(page.locator("#print")).to_have_text("Prints 1.5 × 1.1 cm at 300 dpi")
    page.get_by_label("Width in px").fill("100000")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Width in px")).to_have_value("256")  # capped at the full width
    page.get_by_label("Width in px").fill("128")
    page.get_by_label("Print dpi").fill("240")
    page.keyboard.press("Tab")
    expect(page.locator("#print")).to_have_text("Prints 1.4 × 1 cm at 240 dpi")
    for extension, format_name in (("png", "png"), ("jpg", "jpeg")):
        page.select_option("#format", format_name)
        with page.expect_download() as download:
            page.click("#download")
        assert download.value.suggested_filename == f"small-2x.{extension}"
        with Image.open(download.value.path()) as opened:
            assert opened.size == (128, 96)
            assert opened.info["dpi"] == pytest.approx((240, 240), abs=0.01)
    page.reload()
    wait_for_result(page)
    expect(page.get_by_label("Width in cm")).to_have_value("1.4")


def test_profile_and_camera_data_are_as_chosen_in_every_file(visit: Visit) -> None:
    profile = rgb_profile(P3_PRIMARIES)
    exif = Image.Exif()
    exif[CAMERA_MAKER] = "Ann's camera"
    page = visit()
    choose(
        page,
        *(
            (f"{n}.jpg", saved(photo(40, 50, seed=n), "JPEG", icc_profile=profile, exif=exif))
            for n in range(2)
        ),
    )
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
    wait_for_result(page)

    def file() -> tuple[bytes | None, str | None]:
        with page.expect_download() as download:
            page.click("#download")
        with Image.open(download.value.path()) as opened:
            return opened.info.get("icc_profile"), opened.getexif().get(CAMERA_MAKER)

    assert file() == (None, None)
    page.keyboard.press("b")
    page.locator("#stage").click(position={"x": 300, "y": 300})
    expect(page.locator("#painted")).to_contain_text("Painted")
    page.select_option("#metadata", "keep")
    page.select_option("#icc", "keep")
    expect(page.locator("#download")).to_be_hidden()  # the file would not be as chosen
    expect(page.get_by_role("button", name="Save all")).to_be_hidden()
    page.get_by_role("button", name="Enlarge again to apply").click()
    wait_for_result(page)
    expect(page.locator("#painted")).to_contain_text("Painted")
    assert file() == (profile, "Ann's camera")

    page.get_by_role("button", name="Use for all photos").click()  # the other is enlarged again too
    page.keyboard.press(".")
    wait_for_result(page)
    expect(page.locator("#shown-name")).to_have_text("1.jpg")
    assert file() == (profile, "Ann's camera")


def test_a_number_that_makes_no_sense_changes_nothing_and_says_what_does(visit: Visit) -> None:
    page = visit()
    choose(page, ("small.png", noise(48, 64)))
    wait_for_result(page)
    page.select_option("#scale", label="Own width")
    note = page.locator("#field-note")

    def enter(label: str, value: str) -> None:
        page.get_by_label(label).fill("")
        page.get_by_label(label).press_sequentially(value)
        page.keyboard.press("Tab")

    enter("Width in px", "128")
    expect(page.locator("#download")).to_have_text("Save small-2x.png")
    for value in ("", "0", "-64", "0.2", "ten", "1e-9"):
        enter("Width in px", value)
        expect(page.get_by_label("Width in px")).to_have_value("128")
        expect(note).to_have_text("Width in px: from 1 to 256.")
    enter("Width in px", "63.6")
    expect(page.get_by_label("Width in px")).to_have_value("64")
    expect(note).to_be_hidden()
    for value in ("", "0", "-3"):
        enter("Width in cm", value)
        expect(page.get_by_label("Width in px")).to_have_value("64")
        expect(note).to_have_text("Width in cm: from 0.1 to 2.1.")
    enter("Width in cm", "1e30")
    expect(page.get_by_label("Width in px")).to_have_value("256")
    expect(note).to_have_text("Width in cm: from 0.1 to 2.1.")
    enter("Print dpi", "200")
    for value in ("", "0", "-1"):
        enter("Print dpi", value)
        expect(page.get_by_label("Print dpi")).to_have_value("200")
        expect(note).to_have_text("Print dpi: from 1 to 65,535.")
    enter("Print dpi", "1e9")
    expect(page.get_by_label("Print dpi")).to_have_value("65535")
    assert "NaN" not in page.locator("#export-panel").inner_text()


def kinds(page: Page) -> dict[str, str]:
    """Return the chosen format of each picture, by opening one after another."""
    found = {}
    for card in page.locator(".card .open").all():
        card.click()
        wait_for_result(page)
        found[page.locator("#shown-name").inner_text()] = page.locator("#format").input_value()
    return found


def test_settings_for_all_are_those_of_queued_and_later_pictures_too(
    visit: Visit, host: WorkerHost
) -> None:
    page = visit()
    choose(page, ("one.png", noise(16, 30)))
    wait_for_result(page)
    page.select_option("#format", "webp")
    choose(page, ("two.png", noise(16, 31)))
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
    wait_for_result(page)
    page.select_option("#format", "png")  # what a new picture would begin with
    with host.held():
        choose(page, ("queued.png", noise(16, 32)))
        expect(page.locator(".card[data-state=queued]")).to_have_count(1)
        page.locator(".card .open").last.click()
        wait_for_result(page)
        page.get_by_role("button", name="Use for all photos").click()
    choose(page, ("later.png", noise(16, 33)))
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(4)

    assert kinds(page) == dict.fromkeys(["later.png", "queued.png", "two.png", "one.png"], "webp")


def test_settings_for_all_begin_nothing_that_was_cancelled(visit: Visit, host: WorkerHost) -> None:
    page = visit()
    choose(page, ("one.png", noise(16, 34)))
    wait_for_result(page)
    with host.held():
        choose(page, ("two.png", noise(16, 35)))
        expect(page.locator(".card[data-state=queued]")).to_have_count(1)
        page.locator("#actions [data-action=cancel]").click()
        expect(page.locator(".card[data-state=cancelled]")).to_have_count(1)
    page.locator(".card .open").last.click()
    wait_for_result(page)
    page.select_option("#icc", "keep")
    page.get_by_role("button", name="Use for all photos").click()

    wait_for_result(page)
    expect(page.locator("#apply-again")).to_be_hidden()
    expect(page.locator(".card[data-state=cancelled]")).to_have_count(1)


def test_settings_for_all_begin_nothing_that_is_being_cancelled(
    visit: Visit, host: WorkerHost
) -> None:
    page = visit()
    choose(page, ("one.png", noise(16, 36)))
    wait_for_result(page)
    with host.held():
        choose(page, ("two.png", noise(16, 37)))
        expect(page.locator(".card[data-state=queued]")).to_have_count(1)
        page.context.set_offline(True)
        page.locator("#actions [data-action=cancel]").click()
        expect(page.locator("#working")).to_have_text("Cancelling")
        page.locator(".card .open").last.click()
        page.select_option("#icc", "keep")
        page.get_by_role("button", name="Use for all photos").click()
        page.context.set_offline(False)

        expect(page.locator(".card[data-state=cancelled]")).to_have_count(1)


def test_settings_for_all_hold_for_a_picture_that_is_being_sent(visit: Visit) -> None:
    page = visit()
    choose(page, ("one.png", noise(16, 36)))
    wait_for_result(page)
    page.select_option("#icc", "keep")
    page.get_by_role("button", name="Enlarge again to apply").click()
    wait_for_result(page)
    page.select_option("#icc", "srgb")  # what the next picture begins with
    page.select_option("#icc", "keep")
    page.evaluate("localStorage.removeItem('gdsr.settings')")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/upscale", hold, times=1)
    with page.expect_request("**/upscale"):
        choose(page, ("two.png", noise(16, 37)))
    page.locator(".card .open").last.click()
    wait_for_result(page)
    with page.expect_request("**/upscale"):
        page.get_by_role("button", name="Use for all photos").click()
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
    page.locator(".card .open").first.click()
    wait_for_result(page)
    expect(page.locator("#icc")).to_have_value("keep")
    expect(page.locator("#apply-again")).to_be_hidden()


def test_the_size_of_a_file_is_that_of_the_settings_that_are_shown(visit: Visit) -> None:
    page = visit()
    choose(page, SAMPLE)
    wait_for_result(page)
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/result?*format=png*", hold, times=1)
    with page.expect_request("**/result?*format=png*"):
        page.select_option("#scale", "2")
    page.select_option("#format", "jpeg")
    facts = page.locator("#export-facts")
    expect(facts).to_have_text(re.compile(r"\d"))
    told = facts.inner_text()
    with page.expect_response("**/result?*format=png*") as answer:
        held[0].continue_()
    answer.value.finished()
    painted(page)
    painted(page)

    assert facts.inner_text() == told


def test_names_that_differ_only_in_case_are_told_apart_in_the_zip(visit: Visit) -> None:
    page = visit()
    choose(page, ("IMG.png", noise(16, 38)), ("img.png", noise(16, 39)))
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save all 2").click()

    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.namelist() == ["IMG-4x.png", "img-4x (2).png"]


def applied_to_two(page: Page) -> None:
    """Set one picture to WebP and crisp, and another to JPEG and true; use the first's for all."""
    choose(page, ("one.png", noise(16, 40)), ("two.png", noise(16, 41)))
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
    for card, format_name, position in (("one", "webp", 1), ("two", "jpeg", 0)):
        page.locator(".card .open", has_text=card).click()
        wait_for_result(page)
        page.select_option("#format", format_name)
        slide(page, position)
    page.locator(".card .open", has_text="one").click()
    wait_for_result(page)
    page.get_by_role("button", name="Use for all photos").click()


def settings_of(page: Page, name: str) -> tuple[str, str]:
    """Open a picture; return its format and the position of its slider."""
    page.locator(".card .open", has_text=name).click()
    wait_for_result(page)
    return page.locator("#format").input_value(), page.locator("#position").inner_text()


def undo_offered(page: Page) -> None:
    page.locator("#toast").get_by_role("button", name="Undo").click()
    expect(page.locator("#toast")).to_be_hidden()


def test_undoing_settings_for_all_includes_later_pictures(visit: Visit, host: WorkerHost) -> None:
    page = visit()
    applied_to_two(page)
    undo_offered(page)
    with host.held():
        choose(page, ("queued.png", noise(16, 42)))
        expect(page.locator(".card[data-state=queued]")).to_have_count(1)
        page.locator(".card .open", has_text="one").click()
        wait_for_result(page)
        page.get_by_role("button", name="Use for all photos").click()
        expect(page.get_by_role("status").filter(has_text="Used for all photos.")).to_be_visible()
        assert settings_of(page, "two") == ("webp", "100")
        undo_offered(page)
        expect(page.locator("#format")).to_have_value("jpeg")  # of the picture that is open
        expect(page.locator("#position")).to_have_text("0")
    choose(page, ("later.png", noise(16, 43)))
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(4)
    page.reload()
    wait_for_result(page)

    assert settings_of(page, "one") == ("webp", "100")
    assert settings_of(page, "two") == ("jpeg", "0")
    assert settings_of(page, "queued") == settings_of(page, "later") == ("jpeg", "50")


def test_undoing_settings_for_all_keeps_later_changes(visit: Visit) -> None:
    page = visit()
    applied_to_two(page)
    slide(page, 0.3)
    assert settings_of(page, "two") == ("webp", "100")
    page.select_option("#format", "png")
    undo_offered(page)

    assert settings_of(page, "two") == ("png", "0")
    assert settings_of(page, "one") == ("webp", "30")
    choose(page, ("later.png", noise(16, 52)))
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(3)
    assert settings_of(page, "later")[0] == "png"


def test_undoing_settings_for_all_includes_a_picture_during_its_upload(visit: Visit) -> None:
    page = visit()
    choose(page, ("one.png", noise(16, 44)))
    wait_for_result(page)
    page.select_option("#icc", "keep")
    page.get_by_role("button", name="Enlarge again to apply").click()
    wait_for_result(page)
    page.evaluate("localStorage.removeItem('gdsr.settings')")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/upscale", hold, times=2)
    with page.expect_request("**/upscale"):
        choose(page, ("two.png", noise(16, 45)))
    page.locator(".card .open").last.click()
    wait_for_result(page)
    with page.expect_request("**/upscale"):
        page.get_by_role("button", name="Use for all photos").click()
    with page.expect_request("**/upscale") as sent:
        undo_offered(page)
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)

    asked = sent.value.post_data_buffer
    assert asked is not None
    assert b"srgb" in asked
    page.locator(".card .open").first.click()
    wait_for_result(page)
    expect(page.locator("#icc")).to_have_value("srgb")
    expect(page.locator("#apply-again")).to_be_hidden()


def test_undoing_settings_for_all_sends_no_cancelled_picture(
    visit: Visit,
) -> None:
    page = visit()
    choose(page, ("one.png", noise(16, 46)))
    wait_for_result(page)
    page.select_option("#icc", "keep")
    page.get_by_role("button", name="Enlarge again to apply").click()
    wait_for_result(page)
    page.evaluate("localStorage.removeItem('gdsr.settings')")
    page.route("**/upscale", lambda _: None, times=2)
    with page.expect_request("**/upscale"):
        choose(page, ("two.png", noise(16, 47)))
    page.locator(".card .open").last.click()
    wait_for_result(page)
    with page.expect_request("**/upscale"):
        page.get_by_role("button", name="Use for all photos").click()
    page.locator(".card .open").first.click()
    page.locator("#actions [data-action=cancel]").click()
    expect(page.locator(".card")).to_have_count(1)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    undo_offered(page)
    choose(page, ("three.png", noise(16, 48)))  # it would be sent after the other
    wait_for_result(page)

    assert sum(url.endswith("/upscale") for url in sent) == 1


def test_the_offer_to_undo_lasts_while_it_is_focused_and_is_over_after_a_while(
    visit: Visit,
) -> None:
    page = visit()
    page.clock.install()
    applied_to_two(page)
    toast = page.locator("#toast")
    toast.get_by_role("button", name="Undo").focus()
    page.clock.fast_forward("00:30")
    expect(toast).to_be_visible()
    page.keyboard.press("Enter")
    expect(toast).to_be_hidden()
    expect(page.locator("#stage")).to_be_focused()
    assert settings_of(page, "two") == ("jpeg", "0")

    page.get_by_role("button", name="Use for all photos").click()
    expect(toast).to_be_visible()
    page.clock.fast_forward("00:07")
    expect(toast).to_be_hidden()
    page.keyboard.press("Control+z")
    assert settings_of(page, "one") == ("jpeg", "0")


def test_ctrl_z_takes_back_what_was_done_last_a_stroke_or_the_settings_for_all(
    visit: Visit,
) -> None:
    page = visit()
    choose(page, ("one.png", noise(16, 49)), ("two.png", noise(16, 51)))
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
    wait_for_result(page)
    page.clock.install()
    page.clock.pause_at(page.evaluate("Date.now()") / 1000 + 10)  # so that the offer lasts
    use_for_all = page.get_by_role("button", name="Use for all photos")
    share = page.locator("#painted")
    page.keyboard.press("b")
    page.locator("#stage").focus()
    page.keyboard.press("Enter")
    expect(share).to_contain_text("Painted")
    use_for_all.click()
    page.keyboard.press("Control+z")
    expect(page.locator("#toast")).to_be_hidden()
    expect(share).to_contain_text("Painted")
    page.keyboard.press("Control+z")
    expect(share).not_to_contain_text("Painted")

    use_for_all.click()
    page.locator("#stage").focus()
    page.keyboard.press("Enter")
    expect(share).to_contain_text("Painted")
    page.keyboard.press("Control+z")
    expect(share).not_to_contain_text("Painted")
    expect(page.locator("#toast")).to_be_visible()
