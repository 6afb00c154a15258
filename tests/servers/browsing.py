"""Helpers shared by the browser tests of the page."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from hosts import Site, WorkerHost
from PIL import Image
from playwright.sync_api import Page
from processes import wait_for
from serving import served

from service.settings import ServiceSettings

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
ROOT = Path(__file__).parents[2]
LITE = ROOT / "model" / "checkpoints" / "lite.safetensors"
SAMPLE = ROOT / "deploy" / "sample" / "kitten.jpg"
#: Screenshots keep exact colours, and the browser makes no requests of its own.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--force-color-profile=srgb", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip

#: Reports software WebGL as a graphics card; without it, the page uses its CPU painter here.
WEBGL = """
const plain = WebGL2RenderingContext.prototype.getParameter;
WebGL2RenderingContext.prototype.getParameter = function (name) {
  return name === 0x9246 ? "A card" : plain.call(this, name); // UNMASKED_RENDERER_WEBGL
};
"""

#: Opens the page in a separate browser context.
Visit = Callable[..., Page]


@dataclass(frozen=True)
class Studio:
    """A service that the page is opened from, and the queue, store and workers behind it."""

    address: str
    site: Site
    http: httpx2.Client


@contextmanager
def opened(site: Site, *, port: int = 0, **settings: Any) -> Iterator[Studio]:
    """Run a separate service on this site's queue and store."""
    given = {"redis_url": site.url, "blob_dir": site.blobs.root} | settings
    with served(ServiceSettings(**given), port=port) as service:
        yield Studio(address=str(service.http.base_url), site=site, http=service.http)


def job_of(page: Page) -> str:
    """Return the id of the newest picture."""
    found: str = page.evaluate("JSON.parse(localStorage['gdsr.pictures'])[0].id")
    return found


def choose(page: Page, *files: Path | tuple[str, bytes], model: str = "tiny") -> None:
    """Choose files on disk, or given as name and content, for one model."""
    page.locator("#model option").first.wait_for(state="attached")
    page.select_option("#model", model, force=True)  # on a phone it may be in a hidden tab
    page.set_input_files(
        "#files",
        [
            {"name": file[0], "mimeType": "", "buffer": file[1]}
            if isinstance(file, tuple)
            else {"name": file.name, "mimeType": "", "buffer": file.read_bytes()}
            for file in files
        ],
    )


def wait_for_result(page: Page, *, seconds: float = 100) -> None:
    """Wait until the open picture can be compared on the slider."""
    page.locator("#trade-off:enabled").wait_for(timeout=1000 * seconds)


@contextmanager
def working(
    page: Page, site: Site, host: WorkerHost, begin: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    """Begin a job; yield the texts about the newest picture while its tiles are computed.

    The engine stands still in the block, so that the job does not end there.
    """
    look = r"""() => {
      const card = document.querySelector(".card");
      const state = card?.querySelector(".state").textContent ?? "";
      return /^Working, \d+%, about/.test(state) && {
        state,
        badge: card.querySelector(".badge").textContent,
        progress: card.querySelector("progress").checkVisibility(),
        message: document.getElementById("working").innerText,
        title: document.title,
        slides: !document.getElementById("trade-off").disabled,
      };
    }"""
    with host.held():
        begin()
        page.locator(".card[data-state=queued]").wait_for()
        job_id = job_of(page)
    wait_for(lambda: site.job(job_id).tiles, what="the first tiles")
    with host.engine_held():
        yield page.wait_for_function(look).json_value()


@contextmanager
def unhurried(page: Page) -> Iterator[None]:
    """Let a long press (350 ms) and the offer to undo (6 s) take a hundred times as long.

    On a busy machine a click would else be a long press, and the offer to undo be gone.
    """
    page.evaluate("""() => {
      window.hurried = window.setTimeout;
      window.setTimeout = (act, ms, ...rest) =>
        window.hurried(act, [350, 6000].includes(ms) ? 100 * ms : ms, ...rest);
    }""")
    yield
    page.evaluate("() => { window.setTimeout = window.hurried; }")


def painted(page: Page) -> None:
    """Wait until the browser has painted pending changes."""
    page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


def measured(page: Page) -> None:
    """Wait until the meter shows a value."""
    page.wait_for_function("() => !document.getElementById('meter').classList.contains('unknown')")


def slide(page: Page, trade_off: float) -> None:
    page.locator("#trade-off").fill(f"{100 * trade_off:g}")
    painted(page)


def stage_shot(page: Page) -> bytes:
    """Return the stage as a PNG, without its overlays."""
    hide = """(visibility) => {
      for (const element of document.querySelectorAll("#stage > :not(canvas), #zooms")) {
        element.style.visibility = visibility;
      }
    }"""
    page.evaluate(hide, "hidden")
    shot = page.locator("#stage").screenshot()
    page.evaluate(hide, "")
    return shot


def stage_pixels(page: Page) -> Pixels:
    """Return the pixels of the stage, (H, W, 3), with the divider at its left edge."""
    page.locator("#divider").press("Home")
    painted(page)
    with Image.open(io.BytesIO(stage_shot(page))) as opened:
        return np.asarray(opened.convert("RGB"))


def service_pixels(studio: Studio, job_id: str, trade_off: float) -> Pixels:
    """Return the service's result at a trade-off, (H, W, 3)."""
    with Image.open(io.BytesIO(service_file(studio, job_id, trade_off, "png"))) as opened:
        return np.asarray(opened.convert("RGB"))


def service_file(studio: Studio, job_id: str, trade_off: float, format_name: str) -> bytes:
    answer = studio.http.get(
        f"/jobs/{job_id}/result",
        params={"trade_off": trade_off, "format": format_name},
        headers={"Prefer": "wait=60"},
    )
    assert answer.status_code == 200, answer.text
    return answer.content


def difference(stage: Pixels, picture: Pixels, *, rows: slice, columns: slice) -> int:
    """Return the largest difference, in levels, between part of the stage and the centred picture.

    The stage may start at a fraction of a pixel, so shifts of up to two pixels are tried.
    """
    top, left = (
        (here - there) // 2 for here, there in zip(stage.shape, picture.shape[:2], strict=False)
    )
    seen = stage[rows, columns].astype(int)
    height, width = stage.shape[:2]

    def at(down: int, across: int) -> int:
        whole = np.full((height, width, 3), -1000)
        y, x = top + down, left + across
        inner = (slice(max(0, y), y + picture.shape[0]), slice(max(0, x), x + picture.shape[1]))
        part = picture[max(0, -y) :, max(0, -x) :][: height - max(0, y), : width - max(0, x)]
        whole[inner] = part
        return int(np.abs(seen - whole[rows, columns]).max())

    return min(at(down, across) for down in range(-2, 3) for across in range(-2, 3))
