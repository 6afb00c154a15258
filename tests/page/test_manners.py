"""The page works with the keyboard, on any screen, in light and dark, and in other languages."""

import pytest
from browsing import SAMPLE, Studio, Visit, choose, painted, unhurried, wait_for_result
from factories import photo, saved
from hosts import WorkerHost, noise
from playwright.sync_api import expect

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_all_can_be_done_with_the_keyboard(visit: Visit) -> None:
    page = visit()
    page.on("filechooser", lambda _: None)  # early, not just before the key
    page.locator("#model option").first.wait_for(state="attached")
    page.select_option("#model", "tiny")

    def focused() -> str:
        name: str = page.evaluate(
            "document.activeElement.id || document.activeElement.className.split(' ')[0]"
        )
        return name

    page.keyboard.press("Tab")  # the shortcuts
    page.keyboard.press("Tab")
    assert focused() == "files"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(
        [{"name": "small.png", "mimeType": "image/png", "buffer": noise(40, 60)}]
    )
    wait_for_result(page)

    page.locator("#files").focus()
    order = []
    while focused() != "download":
        page.keyboard.press("Tab")
        order.append(focused())
        if order[-1] == "stage":
            page.keyboard.press("1")
            expect(page.locator("#zoom")).to_have_text("100%")
            page.keyboard.press("8")
            expect(page.locator("#zoom")).to_have_text("800%")
            painted(page)
            before = page.locator("#stage").screenshot()
            page.keyboard.press("ArrowRight")
            painted(page)
            assert page.locator("#stage").screenshot() != before
            page.keyboard.press("b")
            page.keyboard.press("ArrowRight")
            page.keyboard.press("Enter")
            expect(page.locator("#painted")).to_contain_text("Painted")
            page.keyboard.press("b")
            page.keyboard.press("0")
        elif order[-1] == "divider":
            page.keyboard.press("ArrowLeft")
            assert page.locator("#divider").get_attribute("aria-valuenow") == "48"
        elif order[-1] == "trade-off":
            page.keyboard.press("End")
            assert page.locator("#position").inner_text() == "100"
        assert len(order) < 50
    with page.expect_download():
        page.keyboard.press("Enter")

    assert order.index("stage") < order.index("divider") < order.index("trade-off")
    assert order.index("trade-off") < order.index("show-guesses") < order.index("brush-size")
    assert order.index("softness") < order.index("undo") < order.index("format")


def test_every_shortcut_of_the_list_does_what_it_says(visit: Visit) -> None:
    page = visit()
    choose(page, ("one.png", noise(40, 60)), ("two.png", noise(60, 40)))
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
    wait_for_result(page)
    keyboard = page.keyboard
    zoom, painted_share = page.locator("#zoom"), page.locator("#painted")
    keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Shortcuts")
    expect(dialog).to_be_visible()
    listed = dialog.locator("kbd").all_inner_texts()
    keyboard.press("s")  # has no effect behind a dialog
    keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    tried = ["?"]

    def press(key: str) -> None:
        tried.append(key)
        arrows = {"←": "ArrowLeft", "→": "ArrowRight", "↑": "ArrowUp", "↓": "ArrowDown"}
        keyboard.press(
            arrows.get(key, {"Del": "Delete"}.get(key, key.replace("Ctrl ", "Control+")))
        )

    def pressed(selector: str, *, on: bool) -> None:
        expect(page.locator(selector)).to_have_attribute("aria-pressed", str(on).lower())

    pressed("#side", on=False)
    for key in "1248":
        press(key)
        expect(zoom).to_have_text(f"{key}00%")
    press("-")
    expect(zoom).to_have_text("400%")
    press("+")
    expect(zoom).to_have_text("800%")
    page.locator("#stage").focus()
    painted(page)
    for key in ("←", "↑", "→", "↓"):
        before = page.locator("#stage").screenshot()
        press(key)
        painted(page)
        assert page.locator("#stage").screenshot() != before, key
    press("0")
    pressed("[data-level=fit]", on=True)
    keyboard.down(" ")
    expect(page.locator("#right-tag")).to_be_hidden()
    keyboard.up(" ")
    expect(page.locator("#right-tag")).to_be_visible()
    tried.append("Space")
    for key, button in (("S", "#side"), ("M", "#show-guesses")):
        press(key)
        pressed(button, on=True)
        press(key)
        pressed(button, on=False)
    press("B")
    pressed("[data-tool=crisper]", on=True)
    press("X")
    pressed("[data-tool=truer]", on=True)
    size = page.locator("#size-value").inner_text()
    press("]")
    expect(page.locator("#size-value")).not_to_have_text(size)
    press("[")
    expect(page.locator("#size-value")).to_have_text(size)
    press("Enter")
    expect(painted_share).to_contain_text("Painted")
    press("Ctrl Z")
    expect(painted_share).not_to_contain_text("Painted")
    press("Ctrl Y")
    expect(painted_share).to_contain_text("Painted")
    press("E")
    pressed("[data-tool=erase]", on=True)
    press("B")
    pressed("[data-tool=erase]", on=False)
    with page.expect_download():
        press("Ctrl S")
    press(".")
    expect(page.locator("#shown-name")).to_have_text("two.png")
    press(",")
    expect(page.locator("#shown-name")).to_have_text("one.png")
    press("Del")
    expect(page.locator("#toast")).to_be_visible()

    assert sorted(tried) == sorted([*listed, "B", "M", "S"])  # pressed twice


PHONE: dict[str, object] = {"device_scale_factor": 2, "is_mobile": True, "has_touch": True}
SCREENS: dict[str, dict[str, object]] = {
    "phone": {"viewport": {"width": 390, "height": 844}, **PHONE},
    "phone-turned": {"viewport": {"width": 844, "height": 390}, **PHONE},
    "tablet": {"viewport": {"width": 820, "height": 1180}, **PHONE},
    "narrow": {"viewport": {"width": 320, "height": 640}},
    "forced": {"viewport": {"width": 1280, "height": 800}, "forced_colors": "active"},
    "4k": {"viewport": {"width": 3840, "height": 2160}},
}


@pytest.mark.parametrize(
    "name",
    [
        "phone",
        "phone-turned",
        *(pytest.param(it, marks=pytest.mark.slow) for it in ("tablet", "narrow", "forced", "4k")),
    ],
)
def test_all_is_in_reach_on_any_screen(visit: Visit, name: str) -> None:
    page = visit(**SCREENS[name])
    choose(page, SAMPLE)
    wait_for_result(page)
    painted(page)

    width, height, wide, tall = page.evaluate(
        "[innerWidth, innerHeight, document.documentElement.scrollWidth,"
        " document.documentElement.scrollHeight]"
    )
    assert (wide, tall) == (width, height)  # nothing scrolls: stage and slider stay in view
    least = 44 if "has_touch" in SCREENS[name] else 24  # WCAG 2.2, 2.5.5 and 2.5.8
    for control in ("#stage", "#trade-off", "#side", "#export-button", "[data-level='1']"):
        box = page.locator(control).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["y"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= height
        assert min(box["width"], box["height"]) >= least
    stage = page.locator("#stage").bounding_box()
    assert stage is not None
    assert stage["width"] * stage["height"] > 0.3 * width * height
    for tab in page.locator("[role=tab]:visible").all():
        tab.click()
        if tab.get_attribute("data-tab") == "brush":
            page.get_by_role("button", name="Crisper").click()
            page.locator("#stage").click(position={"x": 0.7 * stage["width"], "y": 60})
            expect(page.locator("#painted")).to_contain_text("Painted")
            page.get_by_role("button", name="Crisper").click()


def test_shortcuts_work_once_photos_were_chosen_with_the_mouse(visit: Visit) -> None:
    page = visit()
    page.locator("#model option").first.wait_for(state="attached")
    page.select_option("#model", "tiny")
    with page.expect_file_chooser() as chooser:
        page.locator("label", has_text="Choose photos").click()
    chooser.value.set_files(
        [{"name": "small.png", "mimeType": "image/png", "buffer": noise(40, 61)}]
    )
    wait_for_result(page)
    page.keyboard.press("1")
    expect(page.locator("#zoom")).to_have_text("100%")
    page.keyboard.press("b")
    expect(page.locator("[data-tool=crisper]")).to_have_attribute("aria-pressed", "true")
    ways = page.locator("#empty .ways").bounding_box()
    assert ways is not None
    assert ways["width"] < 20  # nothing lies over the photo


def test_the_position_of_a_fill_by_keyboard_is_visible(visit: Visit) -> None:
    page = visit()
    choose(page, ("one.png", noise(40, 60)))
    wait_for_result(page)
    page.get_by_role("button", name="Fill similar area").click()
    page.locator("#stage").focus()
    page.keyboard.press("ArrowRight")

    expect(page.locator("#ring")).to_be_visible()


#: The element that has the focus, or the label that shows it, if it can be seen; else its name.
LOST = """() => {
  const it = document.activeElement;
  const shown = it.classList.contains("unseen") ? it.previousElementSibling : it;
  const { left, right, top, bottom } = shown.getBoundingClientRect();
  const there = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
  return shown.contains(there) || there?.contains(it) ? "" : it.id || it.className;
}"""


@pytest.mark.parametrize(
    "size", [(1280, 720), (640, 360), (390, 844)], ids=["desktop", "zoomed", "phone"]
)
def test_the_focused_control_is_visible(visit: Visit, size: tuple[int, int]) -> None:
    page = visit(viewport={"width": size[0], "height": size[1]})
    choose(page, ("one.png", noise(40, 60)), ("two.png", noise(60, 40)))
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
    wait_for_result(page)
    page.select_option("#format", "jpeg", force=True)
    lost = []
    for tab in [None, *page.locator("[role=tab]:visible").all()]:
        if tab:
            tab.click()
        page.locator("#help").focus()
        while page.evaluate("document.activeElement.id") != "save-all":
            page.keyboard.press("Tab")
            lost.append(page.evaluate(LOST))

    assert len(lost) > 20
    assert set(lost) == {""}


def test_at_400_percent_all_is_in_reach_by_scrolling_down(visit: Visit) -> None:
    page = visit(viewport={"width": 320, "height": 256})
    choose(page, SAMPLE)
    wait_for_result(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    for selector in ("#stage", "#zooms", "#trade-off", "#tabs", ".card .open", "#export-button"):
        part = page.locator(selector)
        part.scroll_into_view_if_needed()
        box = part.bounding_box()
        assert box is not None
        assert box["x"] >= 0, selector
        assert box["x"] + box["width"] <= 320, selector
        assert 0 <= box["y"] < 256, selector
    stage = page.locator("#stage").bounding_box()
    assert stage is not None
    assert min(stage["width"], stage["height"]) > 150


def test_text_of_twice_the_size_fits_the_bar_and_the_strip(visit: Visit) -> None:
    page = visit()
    choose(page, ("one.png", noise(16, 97)), ("two.png", noise(16, 98)))
    wait_for_result(page)
    page.evaluate("document.documentElement.style.fontSize = '28px'")  # it is 14
    for part, inner in (("#strip", ".card .open"), ("#bar", "#export-button")):
        outer, box = page.locator(part).bounding_box(), page.locator(inner).first.bounding_box()
        assert outer is not None
        assert box is not None
        assert outer["y"] <= box["y"]
        assert box["y"] + box["height"] <= outer["y"] + outer["height"]


def test_text_of_twice_the_size_fits_a_phone(visit: Visit) -> None:
    page = visit(viewport={"width": 375, "height": 667})
    choose(page, ("one.png", noise(16, 99)))
    wait_for_result(page)
    page.evaluate("document.documentElement.style.fontSize = '28px'")  # it is 14
    for tab in page.locator("[role=tab]").all():
        tab.click()
        assert page.evaluate("document.documentElement.scrollWidth") == 375
    for selector in ("#export-button", "#side", "#zooms [data-level=fit]"):
        part = page.locator(selector)
        part.scroll_into_view_if_needed()  # the toolbar scrolls
        box = part.bounding_box()
        assert box is not None
        assert box["x"] >= 0, selector
        assert box["x"] + box["width"] <= 375, selector


@pytest.mark.slow
def test_many_pictures_fit_the_strip(visit: Visit) -> None:
    page = visit(color_scheme="dark", viewport={"width": 1600, "height": 1000})
    pictures = [(f"IMG_{n:04}.png", saved(photo(60 + 7 * n, 90, seed=n), "PNG")) for n in range(8)]
    choose(page, *pictures)
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(8)
    wait_for_result(page)
    painted(page)

    strip, stage = page.locator("#strip").bounding_box(), page.locator("#stage").bounding_box()
    assert strip is not None
    assert stage is not None
    assert stage["y"] + stage["height"] <= strip["y"]


@pytest.mark.parametrize(
    ("locale", "words"), [("de-DE", "Fotos wählen"), ("zh-CN", "选择照片")], ids=["de", "zh"]
)
def test_the_page_speaks_the_language_of_its_reader(visit: Visit, locale: str, words: str) -> None:
    page = visit(locale=locale)

    expect(page.locator("label[for=files]", has_text=words)).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == locale[:2]


@pytest.mark.parametrize(
    "name", ["photo\u202egnp.png", "long-" * 60 + ".png"], ids=["turned", "long"]
)
def test_the_size_is_shown_after_any_name(visit: Visit, name: str) -> None:
    page = visit()
    choose(page, (name, noise(40, 60)))
    wait_for_result(page)
    left, middle, right = (
        page.locator(it).bounding_box() for it in ("#shown-name", "#shown-facts", "#help")
    )

    assert left is not None
    assert middle is not None
    assert right is not None
    assert left["x"] + left["width"] <= middle["x"]
    assert middle["x"] + middle["width"] <= right["x"]


def test_the_first_paint_takes_little(visit: Visit, studio: Studio) -> None:
    page = visit(address="about:blank")
    wire = page.context.new_cdp_session(page)
    sizes: list[float] = []
    wire.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    wire.send("Network.enable")
    page.goto(studio.address, wait_until="networkidle")
    page.locator("#model option").first.wait_for(state="attached")  # filled by the last file

    print(f"{len(sizes)} files, {sum(sizes):,.0f} bytes")  # noqa: T201 - a figure to report
    assert len(sizes) > 10
    assert sum(sizes) < 120_000


@pytest.mark.parametrize("name", ["constructor", "__proto__", "toString", "tlh"])
def test_a_language_that_the_page_lacks_is_english(visit: Visit, studio: Studio, name: str) -> None:
    page = visit(address=f"{studio.address}/?lang={name}")

    expect(page.locator("label[for=files]", has_text="Choose photos")).to_be_visible()
    page.locator("#model option").first.wait_for(state="attached")
    assert page.evaluate("document.documentElement.lang") == "en"


def test_a_focus_whose_control_goes_passes_on_to_what_takes_its_place(
    visit: Visit, host: WorkerHost
) -> None:
    page = visit()
    with host.held():
        choose(page, ("small.png", noise(16, 26)))
        cancel = page.locator("#actions [data-action=cancel]")
        expect(page.locator(".card[data-state=queued]")).to_have_count(1)
        cancel.focus()
        page.keyboard.press("Enter")
    expect(page.locator("#working")).to_have_text("Cancelled")
    page.locator("#actions [data-action=again]").focus()
    page.keyboard.press("Enter")
    wait_for_result(page)
    expect(page.locator("#stage")).to_be_focused()

    with unhurried(page):
        page.keyboard.press("Delete")
        expect(page.locator("#files")).to_be_focused()
        page.locator("#toast button").focus()
        page.keyboard.press("Enter")
    expect(page.locator(".card .open")).to_be_focused()


def test_delete_that_is_held_removes_one_picture(visit: Visit) -> None:
    page = visit()
    choose(page, *((f"{n}.png", noise(16, 20 + n)) for n in range(3)))
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(3)
    for _ in range(3):
        page.keyboard.down("Delete")
    page.keyboard.up("Delete")

    expect(page.locator(".card")).to_have_count(2)


def test_brackets_that_a_keyboard_has_with_option_or_altgr_change_the_brush(visit: Visit) -> None:
    page = visit()
    size = page.locator("#brush-size")
    before = size.input_value()
    press = """(modifiers) => document.body.dispatchEvent(
      new KeyboardEvent("keydown", { key: "]", bubbles: true, cancelable: true, ...modifiers }))"""
    page.evaluate(press, {"altKey": True})
    page.evaluate(press, {"altKey": True, "ctrlKey": True})
    assert int(size.input_value()) == int(before) + 10
    page.evaluate(press, {"metaKey": True})  # "forward" on macOS
    assert int(size.input_value()) == int(before) + 10
