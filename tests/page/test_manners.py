"""For everybody: with the keyboard, on any screen, in light and dark, for screen readers."""

import importlib.util
from pathlib import Path

import pytest
from browsing import SAMPLE, Studio, Visit, choose, painted, slide, wait_for_result
from factories import photo, saved
from hosts import noise
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def axe_source() -> str:
    package = importlib.util.find_spec("axe_playwright_python")
    assert package is not None
    assert package.origin is not None
    return (Path(package.origin).parent / "axe.min.js").read_text()


AXE = axe_source()


def faults(page: Page) -> list[str]:
    """Violations of WCAG 2.2 A and AA and of best practices, found by axe-core."""
    page.evaluate(AXE)
    found = page.evaluate("async () => (await axe.run(document)).violations")
    return [f"{it['id']}: {node['html']}" for it in found for node in it["nodes"]]


def test_axe_finds_no_fault_in_any_state_light_or_dark(visit: Visit, shots: Path) -> None:
    page = visit(reduced_motion="reduce", viewport={"width": 1440, "height": 900})

    def look(name: str) -> None:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.screenshot(path=shots / f"{name}-{scheme}.png")
            assert faults(page) == [], (name, scheme)

    page.locator("#model option").first.wait_for(state="attached")
    look("empty")

    choose(page, SAMPLE)
    wait_for_result(page)
    slide(page, 0.35)
    look("result")

    page.keyboard.press("m")
    page.keyboard.press("b")
    page.locator("#stage").hover()
    painted(page)
    look("guesswork")
    page.keyboard.press("?")
    look("shortcuts")
    page.keyboard.press("Escape")

    choose(page, ("letter.jpg", b"Dear Ann, " * 50))
    expect(page.locator(".card[data-state=refused]")).to_have_count(1)
    look("refused")

    page.context.set_offline(True)
    choose(page, ("later.png", saved(photo(120, 160), "PNG")))
    expect(page.locator("#connection")).to_be_visible()
    look("offline")

    page.evaluate("document.getElementById('key-dialog').showModal()")
    look("key")


def test_all_can_be_done_with_the_keyboard(visit: Visit) -> None:
    page = visit()
    page.on("filechooser", lambda _: None)  # from the start, not from just before the key
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
def test_all_is_in_reach_on_any_screen(visit: Visit, name: str, shots: Path) -> None:
    page = visit(**SCREENS[name])
    page.screenshot(path=shots / f"{name}-empty.png")
    choose(page, SAMPLE)
    wait_for_result(page)
    painted(page)
    page.screenshot(path=shots / f"{name}.png")

    width, height, wide, tall = page.evaluate(
        "[innerWidth, innerHeight, document.documentElement.scrollWidth,"
        " document.documentElement.scrollHeight]"
    )
    assert (wide, tall) == (width, height)  # nothing scrolls: stage and slider are always there
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
        page.screenshot(path=shots / f"{name}-{tab.get_attribute('data-tab')}.png")
    assert faults(page) == []


@pytest.mark.slow
def test_many_pictures_have_their_place(visit: Visit, shots: Path) -> None:
    page = visit(color_scheme="dark", viewport={"width": 1600, "height": 1000})
    pictures = [(f"IMG_{n:04}.png", saved(photo(60 + 7 * n, 90, seed=n), "PNG")) for n in range(8)]
    choose(page, *pictures)
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(8)
    wait_for_result(page)
    painted(page)
    page.screenshot(path=shots / "many-dark.png")

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
    unknown = """async () => {
      const english = (await import("./page/words/en.js")).default;
      const own = (await import(`./page/words/${document.documentElement.lang}.js`)).default;
      return Object.keys(own).filter((key) => !(key in english));
    }"""
    assert page.evaluate(unknown) == []


def test_the_first_paint_takes_little(visit: Visit, studio: Studio) -> None:
    page = visit(address="about:blank")
    wire = page.context.new_cdp_session(page)
    sizes: list[float] = []
    wire.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    wire.send("Network.enable")
    page.goto(studio.address, wait_until="networkidle")
    page.locator("#model option").first.wait_for(state="attached")  # by the last of its files

    print(f"{len(sizes)} files, {sum(sizes):,.0f} bytes")  # noqa: T201 - a figure to report
    assert len(sizes) > 10
    assert sum(sizes) < 120_000
