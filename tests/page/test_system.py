"""The page uses the system's camera, sharing, notifications, clipboard and installation."""

import io
import shutil
from pathlib import Path

import pytest
from browsing import ARGUMENTS, SAMPLE, Studio, Visit, choose, wait_for_result
from hosts import noise
from PIL import Image
from playwright.sync_api import Browser, expect

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

#: A system that shares files, and can reject the request because the click was too long ago.
SHARING = """
window.shared = [];
navigator.canShare = ({ files }) => files.every((file) => file instanceof File);
navigator.share = async ({ files: [file] }) => {
  if (window.patience === 0) throw new DOMException("too late", "NotAllowedError");
  window.shared.push([file.name, file.type, await new Response(file).arrayBuffer()]);
};
"""
#: Records notifications, and can pretend that another tab is in front.
ELSEWHERE = """
window.told = [];
window.Notification = class {
  static permission = "default";
  static async requestPermission() { return (this.permission = "granted"); }
  constructor(title, { body }) { window.told.push(`${title}: ${body}`); }
};
Object.defineProperty(document, "hidden", { get: () => window.away === true });
"""


def test_a_phone_takes_a_photograph_with_its_camera(visit: Visit) -> None:
    page = visit(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page.locator("#model option").first.wait_for(state="attached")
    camera = page.locator("#camera")
    assert camera.get_attribute("capture") == "environment"
    assert camera.get_attribute("accept") == "image/*"
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Take a photo").tap()
    chooser.value.set_files(
        [{"name": "image.jpg", "mimeType": "image/jpeg", "buffer": SAMPLE.read_bytes()}]
    )

    wait_for_result(page)
    assert page.locator("#shown-name").inner_text() == "image.jpg"


def test_a_desktop_is_offered_no_camera_and_no_sharing_that_it_lacks(visit: Visit) -> None:
    page = visit()
    expect(page.get_by_text("Take a photo")).to_be_hidden()
    choose(page, ("small.png", noise(16, 20)))
    wait_for_result(page)

    expect(page.locator("#copy")).to_be_visible()
    expect(page.locator("#share")).to_be_hidden()


def test_a_file_is_shared_as_it_would_be_saved(visit: Visit) -> None:
    page = visit(script=SHARING)
    choose(page, ("small.png", noise(16, 20)))
    wait_for_result(page)
    page.select_option("#format", "jpeg")
    note = page.locator("#download-note")
    page.evaluate("window.patience = 0")
    page.get_by_role("button", name="Share").click()
    expect(note).to_have_text("The file is ready. Press Share again.")
    page.evaluate("window.patience = 1")
    page.get_by_role("button", name="Share").click()
    expect(note).to_have_text("Shared")
    with page.expect_download() as download:
        page.click("#download")

    given = page.evaluate(
        "window.shared.map(([name, type, data]) => [name, type, [...new Uint8Array(data)]])"
    )
    assert given == [["small-4x.jpg", "image/jpeg", list(download.value.path().read_bytes())]]


def test_notifications_are_shown_in_the_background_only_if_enabled(visit: Visit) -> None:
    page = visit(script=ELSEWHERE)
    page.evaluate("window.away = true")
    choose(page, ("one.png", noise(16, 20)))
    wait_for_result(page)
    page.get_by_label("Tell me when photos are ready").check()
    choose(page, ("two.png", noise(16, 24)), ("letter.jpg", b"Dear Ann, " * 50))
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
    expect(page.locator(".card[data-state=refused]")).to_have_count(1)
    page.wait_for_function("window.told.length === 2")

    told = sorted(page.evaluate("window.told"))
    assert told[1] == "GDSR: two.png is ready"
    assert told[0].startswith("GDSR: letter.jpg: ")
    page.evaluate("window.away = false")
    choose(page, ("three.png", noise(16, 28)))
    wait_for_result(page)
    assert len(page.evaluate("window.told")) == 2


def test_a_system_that_takes_no_notification_from_a_page_fails_no_picture(visit: Visit) -> None:
    """As Android does, also where its browser gives itself out for one of a desktop."""
    page = visit(script=ELSEWHERE)
    choose(page, ("one.png", noise(16, 32)))
    wait_for_result(page)
    page.evaluate("""() => {
      window.away = true;
      const told = window.Notification;
      window.Notification = class { constructor() { throw new TypeError("Illegal constructor"); } };
      window.Notification.requestPermission = () => told.requestPermission();
    }""")
    page.get_by_label("Tell me when photos are ready").check()
    choose(page, ("two.png", noise(16, 36)))

    expect(page.locator("#announcer")).to_have_text("two.png: Ready")
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)


def test_the_page_can_be_installed(browser: Browser, studio: Studio, tmp_path: Path) -> None:
    found = shutil.which("chromium")
    # The shared browser's contexts are private windows, which cannot install a page.
    context = browser.browser_type.launch_persistent_context(
        tmp_path, executable_path=found, args=ARGUMENTS
    )
    page = context.pages[0]
    page.goto(studio.address)
    wire = context.new_cdp_session(page)
    manifest = wire.send("Page.getAppManifest")
    errors = wire.send("Page.getInstallabilityErrors")["installabilityErrors"]
    icons = page.evaluate(
        """async (address) => {
          const { icons } = await (await fetch(address)).json();
          return Promise.all(icons.map(async ({ src, sizes }) => {
            const icon = new Image();
            icon.src = new URL(src, address);
            await icon.decode();
            return [sizes, `${icon.naturalWidth}x${icon.naturalHeight}`];
          }));
        }""",
        manifest["url"],
    )
    context.close()

    assert errors == []
    assert manifest["errors"] == []
    assert [size for size, _ in icons] == ["any", "192x192"]
    assert all(size in ("any", real) for size, real in icons)


def test_a_picture_is_copied_to_the_clipboard_as_it_is_saved(visit: Visit) -> None:
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    choose(page, ("small.png", noise(16, 20)))
    wait_for_result(page)
    page.select_option("#format", "jpeg")  # a clipboard takes only PNG
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#download-note")).to_have_text("Copied")
    page.select_option("#format", "png")
    with page.expect_download() as download:
        page.click("#download")

    copied = page.evaluate(
        """async () => {
          const [item] = await navigator.clipboard.read();
          const picture = await item.getType("image/png");
          return [...new Uint8Array(await picture.arrayBuffer())];
        }"""
    )
    with Image.open(io.BytesIO(bytes(copied))) as one, Image.open(download.value.path()) as other:
        assert one.convert("RGB").tobytes() == other.convert("RGB").tobytes()
