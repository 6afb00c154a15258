"""Measures the page for docs/benchmarks.md; run this file with `pytest -m long -rP`."""

import json
import statistics
from collections.abc import Callable
from typing import Any

import pytest
from browsing import WEBGL, Visit, choose, measured, wait_for_result
from hosts import noise
from playwright.sync_api import Browser, Page, Route

pytestmark = [pytest.mark.e2e, pytest.mark.long]
FRAMES = 100
#: Records when the slider is usable and the picture is painted.
SHOWN = """
new MutationObserver((_, observer) => {
  const slider = document.getElementById("trade-off");
  const come = performance.getEntriesByType("resource").some((it) => it.name.includes("/result?"));
  if (!slider || slider.disabled || !come) return;
  observer.disconnect();
  requestAnimationFrame(() => requestAnimationFrame(() => (window.shownAt = performance.now())));
}).observe(document, { subtree: true, childList: true, attributes: true });
"""
RESULTS = """() => {
  const all = performance.getEntriesByType("resource")
    .filter(({ name }) => name.includes("/result?"));
  return {
    bytes: all.reduce((sum, it) => sum + it.transferSize, 0),
    ms: window.shownAt - Math.min(...all.map((it) => it.startTime)),
  };
}"""
SLIDE = """(frames) => new Promise((done) => {
  const slider = document.getElementById("trade-off");
  const step = (n) => {
    if (n === frames) return done();
    slider.value = n % 101;
    slider.dispatchEvent(new Event("input"));
    requestAnimationFrame(() => step(n + 1));
  };
  step(0);
})"""


@pytest.fixture
def page(visit: Visit, request: pytest.FixtureRequest) -> Page:
    page = visit(script=SHOWN + request.param, viewport={"width": 1440, "height": 900})
    choose(page, ("noise.png", noise(512, 512, seed=4)))
    wait_for_result(page)
    return page


@pytest.mark.timeout(900)  # five large jobs on a machine that may be busy
@pytest.mark.parametrize("name", ["previews", "whole branches"])
def test_time_and_bytes_from_a_result_to_the_screen(visit: Visit, name: str) -> None:
    def whole(route: Route) -> None:
        route.continue_(url=route.request.url.replace("&preview=true", ""))

    found = []
    for seed in range(5):
        page = visit(script=SHOWN, viewport={"width": 1440, "height": 900})
        if name != "previews":
            page.route("**/result?*preview=true", whole)
        choose(page, ("noise.png", noise(512, 512, seed=seed)))
        page.wait_for_function("() => window.shownAt", timeout=150_000)
        found.append(page.evaluate(RESULTS))
        page.context.close()  # its memory would slow later pages
    times = sorted(round(it["ms"]) for it in found)
    print(f"{name}: {found[0]['bytes']:,} bytes, {times[0]} / {times[2]} / {times[4]} ms")  # noqa: T201


@pytest.mark.parametrize("page", ["", WEBGL], ids=["loop", "webgl"], indirect=True)
@pytest.mark.parametrize("level", ["fit", "1"])
def test_frames_of_slider_and_brush(page: Page, browser: Browser, level: str) -> None:
    measured(page)
    page.click(f"[data-level='{level}']")
    page.wait_for_function("() => document.getElementById('preview').hidden")
    box = page.locator("#stage").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2 - 100, box["y"] + box["height"] / 2

    def brush() -> None:
        page.keyboard.press("b")
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 200, y + 60, steps=FRAMES)
        page.mouse.up()

    for name, act in {"slider": lambda: page.evaluate(SLIDE, FRAMES), "brush": brush}.items():
        work = frames(browser, page, act)
        tenth = statistics.quantiles(work, n=20)
        print(f"{name}: {len(work)} frames, {tenth[9]:.1f} / {tenth[18]:.1f} ms")  # noqa: T201


def frames(browser: Browser, page: Page, act: Callable[[], object]) -> list[float]:
    """CPU milliseconds of each frame: its painting and the event handlers before it."""
    browser.start_tracing(page=page, categories=["devtools.timeline"])
    act()
    trace = json.loads(browser.stop_tracing())["traceEvents"]
    work, handlers = [], 0.0
    for event in sorted((it for it in trace if it.get("tdur")), key=lambda it: it["ts"]):
        if event["name"] == "EventDispatch" and of_drawing(event):
            handlers += event["tdur"] / 1000
        elif event["name"] == "FireAnimationFrame":
            work.append(handlers + event["tdur"] / 1000)
            handlers = 0.0
    return work


def of_drawing(event: dict[str, Any]) -> bool:
    return event["args"]["data"]["type"] in ("input", "pointermove")
