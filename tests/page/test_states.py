"""axe finds no fault in any state of the page on any kind of screen. The screenshots are kept for
review.
"""

import importlib.util
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browsing import (
    SAMPLE,
    Studio,
    Visit,
    choose,
    measured,
    opened,
    painted,
    slide,
    unhurried,
    wait_for_result,
)
from factories import saved
from hosts import Site, WorkerHost, noise
from PIL import Image, ImageOps
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.e2e

PHONE: dict[str, Any] = {"device_scale_factor": 2, "is_mobile": True, "has_touch": True}
UPRIGHT, TURNED = {"width": 390, "height": 844}, {"width": 844, "height": 390}
SCREENS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1440, "height": 900}, "reduced_motion": "reduce"},
    "desktop-light": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light"},
    "phone": {"viewport": UPRIGHT, **PHONE},
    "phone-turned": {"viewport": TURNED, **PHONE},
    "phone-light": {
        "viewport": UPRIGHT,
        "color_scheme": "light",
        **PHONE,
        "device_scale_factor": 1,
    },
    "phone-light-turned": {"viewport": TURNED, "color_scheme": "light", **PHONE},
    "tablet": {"viewport": {"width": 820, "height": 1180}, **PHONE},
    "tablet-turned": {"viewport": {"width": 1180, "height": 820}, **PHONE},
    "narrow": {"viewport": {"width": 320, "height": 640}},
    "4k": {"viewport": {"width": 3840, "height": 2160}},
    "forced": {"viewport": {"width": 1280, "height": 800}, "forced_colors": "active"},
    "chinese": {"viewport": {"width": 1280, "height": 800}, "locale": "zh-CN"},
    "german": {"viewport": UPRIGHT, "locale": "de-DE", **PHONE},
}
#: The only screen that CI checks; the others run by hand.
IN_CI = "phone-light"
MOST_PIXELS = 500_000


def axe_source() -> str:
    package = importlib.util.find_spec("axe_playwright_python")
    assert package is not None
    assert package.origin is not None
    return (Path(package.origin).parent / "axe.min.js").read_text()


AXE = axe_source()
#: Lists targets too small for a finger, except links in a line of text.
SMALL_TARGETS = """() => {
  const targets = "button, .button, select, summary, .check, [role=slider]"
    + ", input:not(.unseen, [type=checkbox])";
  return [...document.querySelectorAll(targets)]
    .filter((it) => it.checkVisibility())
    .filter((it) => Math.min(it.offsetWidth, it.offsetHeight) < 44)
    .map((it) => `${it.outerHTML.slice(0, 80)}: ${it.offsetWidth} x ${it.offsetHeight}`);
}"""


def faults(page: Page) -> list[str]:
    """Return violations of WCAG 2.2 A and AA and of best practices, found by axe-core."""
    if not page.evaluate("window.axe !== undefined"):
        page.evaluate(AXE)
    found = page.evaluate("async () => (await axe.run(document)).violations")
    return [f"{it['id']}: {node['html']}" for it in found for node in it["nodes"]]


def photographs(seed: int) -> dict[str, bytes]:
    """Return crops of the sample and their mirror images, in files that differ for each seed."""
    with Image.open(SAMPLE) as kitten:
        cuts = [(0, 0, 256, 192), (40, 30, 200, 170), (0, 40, 150, 192), (60, 0, 256, 120)]
        pictures = [kitten.crop(cut) for cut in cuts]
    pictures += [ImageOps.mirror(it) for it in pictures]
    return {
        f"IMG_{2041 + n}.jpg": saved(it, "JPEG", quality=75 + seed) for n, it in enumerate(pictures)
    }


@contextmanager
def slow_line(page: Page) -> Iterator[None]:
    wire = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 8000}
    wire.send("Network.enable")
    wire.send("Network.emulateNetworkConditions", slow)
    yield
    wire.send("Network.emulateNetworkConditions", slow | {"uploadThroughput": -1})
    wire.detach()


@pytest.fixture(scope="module")
def small_site(site: Site) -> Iterator[Studio]:
    """A service that accepts no large picture."""
    with opened(site, max_pixels=MOST_PIXELS) as studio:
        yield studio


@pytest.mark.timeout(900)  # large screens are painted slowly without a graphics card
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(it, marks=pytest.mark.slow if it == IN_CI else pytest.mark.long)
        for it in SCREENS
    ],
)
def test_axe_finds_no_fault_in_any_state(
    visit: Visit, small_site: Studio, host: WorkerHost, shots: Path, name: str
) -> None:
    page = visit(address=small_site.address, **{"color_scheme": "dark"} | SCREENS[name])
    found: dict[str, list[str]] = {}

    def look(state: str) -> None:
        painted(page)
        page.screenshot(path=shots / f"{name}-{len(found):02}-{state}.png")
        found[state] = faults(page)
        if "has_touch" in SCREENS[name]:
            found[state] += page.evaluate(SMALL_TARGETS)
        if "reduced_motion" in SCREENS[name]:
            found[state] += page.evaluate("document.getAnimations().map((it) => it.animationName)")

    walk(page, host, look, seed=list(SCREENS).index(name))
    assert {state: it for state, it in found.items() if it} == {}


def walk(page: Page, host: WorkerHost, look: Callable[[str], None], *, seed: int) -> None:
    """Go through all states and look at each."""
    photos = photographs(seed)
    first, *others = photos.items()
    page.locator("#model option").first.wait_for(state="attached")
    look("empty")

    with slow_line(page), host.held():
        choose(page, ("IMG_2040.png", noise(150, 200, seed=seed)))
        page.wait_for_function(
            "() => Number(document.getElementById('stage-progress').value) > 0.2"
        )
        look("uploading")
    wait_for_result(page)
    with unhurried(page):
        page.locator(".card .remove").click()
        look("removed")
        page.locator("#toast button").click()
    wait_for_result(page)
    page.keyboard.press("Delete")

    with host.held():
        choose(page, *others[:2])
        choose(page, first, model="lite")
        page.locator(".card[data-state=queued]").nth(2).wait_for()
        look("queued")
    for card in page.locator(".card .open").all():
        card.click()
        wait_for_result(page)
    choose(page, ("IMG_2039.png", noise(500, 900, seed=seed)), model="lite")
    page.wait_for_function(
        "() => document.querySelector('.card[data-state=running] progress')?.value > 0"
    )
    with host.engine_held():
        look("running")
        page.locator("#actions [data-action=cancel]").click()
        page.locator("#actions [data-action=again]").wait_for()
    look("cancelled")
    page.locator("#actions [data-action=remove]").click()

    page.locator(".card .open").first.click()
    wait_for_result(page)
    measured(page)
    for position in (0, 0.5, 1):
        slide(page, position)
        look(f"result-{position}")
    slide(page, 0.35)
    page.keyboard.press("m")
    look("guesswork")
    page.keyboard.press("m")
    page.keyboard.press("s")
    look("side-by-side")
    page.keyboard.press("s")
    page.locator("#stage").focus()
    page.keyboard.down(" ")
    look("held")
    page.keyboard.up(" ")
    page.keyboard.press("4")
    look("four-to-one")
    page.keyboard.press("0")
    tab(page, "brush")
    paint(page)
    look("brush")
    page.keyboard.press("m")
    look("brush-guesswork")
    page.keyboard.press("m")
    page.keyboard.press("b")

    page.click("#export-button")
    page.select_option("#format", "jpeg")
    page.select_option("#scale", "0")
    page.locator("#export-facts", has_text=re.compile("B|字节|byte")).wait_for()
    look("export")
    page.select_option("#metadata", "keep")
    look("export-apply")
    page.select_option("#metadata", "strip")
    tab(page, "model")
    page.locator("#about summary").click()
    page.locator("#about").scroll_into_view_if_needed()
    look("model")
    page.keyboard.press("?")
    look("shortcuts")
    page.keyboard.press("Escape")
    tab(page, "detail")

    large = saved(Image.open(SAMPLE).resize((1200, 900)), "JPEG")
    choose(
        page,
        ("letter.jpg", b"Dear Ann, " * 50),
        ("panorama.jpg", large),
        ("broken.png", noise(60, 80, seed=seed)[:2000]),
        *others,
    )
    expect(page.locator(".card[data-state=refused]")).to_have_count(2)
    expect(page.locator(".card[data-state=failed]")).to_have_count(1)
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(3 + len(others))
    look("refused")
    page.locator(".card .open", has_text="panorama").click()
    page.locator("#left-tag").wait_for()
    look("too-large")
    page.locator(".card .open").nth(4).click()
    wait_for_result(page)
    look("batch")

    page.reload()
    wait_for_result(page)
    measured(page)
    look("reloaded")
    page.context.set_offline(True)
    choose(page, ("later.jpg", saved(Image.open(SAMPLE).rotate(4 + seed), "JPEG")))
    expect(page.locator("#connection")).to_be_visible()
    look("offline")
    page.evaluate("document.getElementById('key-dialog').showModal()")
    look("key")


def tab(page: Page, which: str) -> None:
    found = page.locator(f"[data-tab={which}]")
    if found.is_visible():
        found.click()


def paint(page: Page) -> None:
    """Paint two strokes with a large brush, and leave its ring over the picture."""
    page.locator("#brush-size").fill("70")
    box = page.locator("#stage").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for tool, across in (("crisper", -0.1), ("truer", 0.1)):
        page.locator(f"[data-tool={tool}]").click()
        page.mouse.move(x + across * box["width"], y - 0.1 * box["height"])
        page.mouse.down()
        page.mouse.move(x + across * box["width"], y + 0.1 * box["height"], steps=4)
        page.mouse.up()
