"""One browser and one worker host for all tests of the page, and a service per test file."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import ARGUMENTS, LITE, ROOT, Studio, Visit, opened
from hosts import Site, WorkerHost
from networks import tiny_checkpoint
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    expect,
    sync_playwright,
)
from processes import running_valkey

#: Milliseconds; Playwright's default of 5 s is too short on a busy machine.
WAIT = 60_000
expect.set_options(timeout=WAIT)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("needs Chromium on the PATH: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="package")
def hosted(folder: Path, browser: Browser) -> Iterator[tuple[Site, WorkerHost]]:  # noqa: ARG001 - none without one
    """Queue, store and a worker with two models: `tiny` and the shipped `lite`."""
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir()
    tiny_checkpoint(checkpoints / "tiny.safetensors")
    shutil.copy(LITE, checkpoints)
    with running_valkey(folder / "valkey") as server:
        site = Site(server.url, folder / "blobs", checkpoints)
        with site.worker_host(default_model="tiny", threads="2", tile="96") as host:
            yield site, host


@pytest.fixture(scope="module")
def site(hosted: tuple[Site, WorkerHost]) -> Site:
    """Clear the result cache: pictures equal to those of other test files would be done at once."""
    client = hosted[0].client
    for key in client.scan_iter("gdsr:cache:*"):
        client.delete(key)
    return hosted[0]


@pytest.fixture(scope="package")
def host(hosted: tuple[Site, WorkerHost]) -> WorkerHost:
    return hosted[1]


@pytest.fixture(scope="module")
def studio(site: Site) -> Iterator[Studio]:
    with opened(site) as studio:
        yield studio


@pytest.fixture
def visit(browser: Browser, studio: Studio) -> Iterator[Visit]:
    """Open the page in a new context; unexpected errors in it fail the test."""
    contexts: list[BrowserContext] = []
    wrong: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        # The console also reports refusals; tests check that the page shows them.
        if message.type == "error" and "Failed to load resource" not in message.text:
            wrong.append(message.text)

    def start(*, address: str = studio.address, script: str = "", **options: Any) -> Page:
        options = {"viewport": {"width": 1280, "height": 900}} | options
        context = browser.new_context(**options)
        context.set_default_timeout(WAIT)
        contexts.append(context)
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.on("console", heard)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(address)
        return page

    yield start
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="module")
def shots() -> Path:
    """The folder of screenshots for review."""
    folder = ROOT / "out" / "page"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
