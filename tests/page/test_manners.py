"""For everybody: with the keyboard, on any screen, in light and dark, for screen readers."""

import importlib.util
from pathlib import Path

import pytest
from browsing import SAMPLE, Studio, Visit, choose, painted, slide, wait_for_result, working
from factories import photo, saved
from hosts import noise
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.e2e


def axe_source() -> str:
    package = importlib.util.find_spec("axe_playwright_python")
    assert package is not None
    assert package.origin is not None
    return (Path(package.origin).parent / "axe.min.js").read_text()


AXE = axe_source()


def faults(page: Page) -> list[str]:
    """What axe-core finds against WCAG 2.2 A and AA and its own best practices."""
    page.evaluate(AXE)
    found = page.evaluate("async () => (await axe.run(document)).violations")
    return [f"{it['id']}: {node['html']}" for it in found for node in it["nodes"]]


def test_axe_finds_no_fault_in_any_state_light_or_dark(visit: Visit, shots: Path) -> None:
    page = visit(reduced_motion="reduce")

    def look(name: str) -> None:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.screenshot(path=shots / f"{name}-{scheme}.png")
            assert faults(page) == [], (name, scheme)

    page.locator("#model option").first.wait_for(state="attached")
    look("empty")

    choose(page, SAMPLE, model="lite")
    working(page)
    look("working")

    wait_for_result(page)
    slide(page, 0.25)
    look("result")
    page.screenshot(path=shots / "page.jpg", type="jpeg", quality=88)  # the README has it

    page.get_by_role("button", name="Show the mask").click()
    expect(page.locator("#right-tag")).to_have_text("Mask")
    painted(page)
    look("mask")

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

    page.keyboard.press("Tab")  # the link in the corner
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
            before = page.locator("#stage").screenshot()
            for key in ("+", "+", "ArrowRight"):
                page.keyboard.press(key)
            painted(page)
            assert page.locator("#zoom").inner_text() == "300 %"
            assert page.locator("#stage").screenshot() != before
            page.keyboard.press("0")
            assert page.locator("#zoom").inner_text() == "100 %"
        elif order[-1] == "divider":
            page.keyboard.press("ArrowLeft")
            assert page.locator("#divider").get_attribute("aria-valuenow") == "48"
        elif order[-1] == "trade-off":
            page.keyboard.press("End")
            assert page.locator("#position").inner_text() == "1.00"
        assert len(order) < 30
    with page.expect_download():
        page.keyboard.press("Enter")

    assert order[:3] == ["model", "open", "drop-it"]
    assert order[3:5] == ["stage", "divider"]
    assert order.index("mask") < order.index("trade-off") < order.index("format")


@pytest.mark.parametrize(
    ("name", "model", "screen"),
    [
        ("phone", "lite", {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 3,
                           "is_mobile": True, "has_touch": True}),
        ("narrow", "tiny", {"viewport": {"width": 320, "height": 640}}),
        pytest.param("4k", "lite", {"viewport": {"width": 3840, "height": 2160}},
                     marks=pytest.mark.slow),
    ],
    ids=["phone", "narrow", "4k"],
)  # fmt: skip
def test_nothing_hangs_over_the_edge_of_any_screen(
    visit: Visit, name: str, model: str, screen: dict[str, object], shots: Path
) -> None:
    page = visit(**screen)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    choose(page, SAMPLE, model=model)
    wait_for_result(page)
    painted(page)
    page.screenshot(path=shots / f"{name}.png", full_page=True)

    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for control in ("#trade-off", "#download", "#zoom-fit", "#mask"):
        box = page.locator(control).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= page.evaluate("innerWidth")
        assert box["height"] >= 24  # WCAG 2.2, 2.5.8
    assert faults(page) == []


@pytest.mark.slow
def test_many_pictures_have_their_place(visit: Visit, shots: Path) -> None:
    page = visit(color_scheme="dark", viewport={"width": 1600, "height": 1000})
    pictures = [(f"IMG_{n:04}.png", saved(photo(60 + 7 * n, 90, seed=n), "PNG")) for n in range(8)]
    choose(page, *pictures)
    choose(page, SAMPLE, model="lite")
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(9)
    wait_for_result(page)
    painted(page)
    page.screenshot(path=shots / "many-dark.png")

    last, stage = page.locator(".card").last.bounding_box(), page.locator("#stage").bounding_box()
    assert last is not None
    assert stage is not None
    assert last["x"] + last["width"] < stage["x"]


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
