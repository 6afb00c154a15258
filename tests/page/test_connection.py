"""The page recovers from a broken connection and asks for an API key."""

import socket
import threading
from contextlib import ExitStack, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import pytest
from browsing import (
    Studio,
    Visit,
    choose,
    job_of,
    measured,
    opened,
    painted,
    slide,
    wait_for_result,
    working,
)
from hosts import Site, WorkerHost, noise
from PIL import Image
from playwright.sync_api import Route, expect
from processes import free_port

from service.access.auth import hash_key

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
KEY = "a-key-of-anns-that-nobody-else-has"
NOT_SENT = (
    "Not sent yet. The photo is kept while this page is open,"
    " and sent by itself when the connection is back."
)


#: A browser that is set to keep nothing of any page.
KEEPS_NOTHING = """
for (const name of ["localStorage", "sessionStorage", "indexedDB"]) {
  Object.defineProperty(window, name, {
    get() { throw new DOMException("Access is denied for this document.", "SecurityError"); },
  });
}
"""


class WeakLine:
    """A proxy to a service that can break in the middle of a response, and then carries nothing,
    or fall silent in one and go on with others.
    """

    def __init__(self, address: str) -> None:
        self._target = urlsplit(address)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._breaking = b""
        self._broken = False
        self._silencing = b""
        self._bytes = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def break_in(self, request: bytes) -> None:
        """Break in the response to the next request that contains these bytes."""
        self._breaking = request

    def fall_silent_in(self, request: bytes, *, after: int = 0) -> None:
        """Carry so many bytes of the response to the next request with these, and no more of it."""
        self._silencing, self._bytes = request, after

    def speaks(self) -> bool:
        """True if the response in which it is to fall silent has not come so far yet."""
        return bool(self._silencing or self._bytes)

    def mend(self) -> None:
        self._breaking, self._broken = b"", False

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                host, port = self._target.hostname, self._target.port
                server = socket.create_connection((str(host), int(port or 0)))
                asked = threading.Event()  # set if the next response is to break
                silent = threading.Event()
                for work in (self._requests, self._answers):
                    events = (client, server, asked, silent)
                    threading.Thread(target=work, args=events, daemon=True).start()

    def _requests(
        self,
        client: socket.socket,
        server: socket.socket,
        asked: threading.Event,
        silent: threading.Event,
    ) -> None:
        with suppress(OSError):
            while (data := client.recv(1 << 16)) and not self._broken:
                if self._breaking and self._breaking in data:
                    asked.set()
                if self._silencing and self._silencing in data:
                    self._silencing = b""
                    silent.set()
                server.sendall(data)
        _cut(client, server)

    def _answers(
        self,
        client: socket.socket,
        server: socket.socket,
        asked: threading.Event,
        silent: threading.Event,
    ) -> None:
        with suppress(OSError):
            while (data := server.recv(1 << 14)) and not self._broken:
                if asked.is_set() and b"200 OK" in data:
                    client.sendall(data[: data.index(b"\r\n\r\n") + 200])
                    self._broken = True
                    break
                if silent.is_set():
                    part = data[: self._bytes]  # the head may come alone
                    client.sendall(part)
                    self._bytes -= len(part)
                    continue
                client.sendall(data)
        _cut(client, server)


def _cut(*connections: socket.socket) -> None:
    for connection in connections:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


def test_pictures_chosen_offline_are_kept_and_sent_when_the_connection_is_back(
    visit: Visit,
) -> None:
    page = visit()
    page.locator("#model option").first.wait_for(state="attached")
    page.context.set_offline(True)
    choose(page, *((f"{n}.png", noise(24, 24 + n)) for n in range(3)))
    notice, words = page.locator("#connection"), page.locator("#working")
    expect(notice).to_contain_text("This device is offline. Trying again in")
    expect(words).to_have_text(NOT_SENT)
    # All cards say so, and none shows progress.
    expect(page.locator(".card .state", has_text=NOT_SENT)).to_have_count(3)
    expect(page.locator("progress:visible")).to_have_count(0)

    notice.get_by_role("button", name="Try now").click()
    expect(notice).to_contain_text("Trying again in")
    with page.expect_event("dialog") as dialog:  # warns that leaving loses the pictures
        page.close(run_before_unload=True)
    assert dialog.value.type == "beforeunload"
    dialog.value.dismiss()
    page.context.set_offline(False)
    wait_for_result(page)
    expect(notice).to_be_hidden()
    expect(page.locator(".card[data-state=succeeded]")).to_have_count(3)


def test_a_picture_chosen_while_the_server_is_away_is_kept_and_sent(
    visit: Visit, site: Site
) -> None:
    port = free_port()
    with opened(site, port=port) as studio:
        page = visit(address=studio.address)
        page.locator("#model option").first.wait_for(state="attached")
    choose(page, ("small.png", noise(24, 40)))
    notice, words = page.locator("#connection"), page.locator("#working")
    expect(notice).to_contain_text("The server cannot be reached. Trying again in")
    expect(words).to_have_text(NOT_SENT)
    with opened(site, port=port):
        wait_for_result(page)
        expect(notice).to_be_hidden()
        page.close()


def test_a_picture_that_the_service_cannot_take_yet_is_sent_when_it_can(
    visit: Visit, site: Site, host: WorkerHost
) -> None:
    with opened(site, max_queued_jobs=1) as studio:
        page = visit(address=studio.address)
        with host.held():
            choose(page, ("first.png", noise(24, 41)), ("second.png", noise(24, 42)))
            second = page.locator(".card").last
            expect(second.locator(".state")).to_have_text("Waiting to be sent: The queue is full.")
        expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
        page.close()


def test_a_broken_download_is_reported_and_repeated_when_the_connection_is_back(
    visit: Visit, studio: Studio
) -> None:
    with WeakLine(studio.address) as line:
        page = visit(address=line.address)
        choose(page, ("photo.png", noise(100, 130)))
        wait_for_result(page)
        slide(page, 0.8)
        line.break_in(b"trade_off=0.8")
        page.click("#download")
        expect(page.locator("#download-note")).to_have_text(
            "The file comes by itself when the connection is back."
        )
        with page.expect_download() as download:
            line.mend()
        with Image.open(download.value.path()) as file:
            assert file.convert("RGB").size == (520, 400)
        page.close()


def test_a_broken_result_is_reported_and_loaded_again_when_the_connection_is_back(
    visit: Visit, studio: Studio
) -> None:
    with WeakLine(studio.address) as line:
        page = visit(address=line.address)
        line.break_in(b"output=gan")
        choose(page, ("photo.png", noise(100, 140)))
        words = page.locator("#working")
        expect(words).to_have_text("The result comes by itself when the connection is back.")
        expect(page.locator("#connection")).to_be_visible()
        line.mend()
        wait_for_result(page)
        expect(words).to_be_hidden()
        page.close()


@pytest.mark.parametrize(
    ("request_line", "after"),
    [
        (b"POST /upscale", 0),
        (b"GET /limits", 0),
        (b"output=gan", 0),
        (b"output=gan", 1500),  # the head has come, and part of the body
        (b"/events HTTP", 0),  # and not the module net/events.js
        (b"GET /jobs/", 0),
    ],
)
def test_a_service_that_takes_a_request_and_falls_silent_is_asked_again(
    visit: Visit, studio: Studio, host: WorkerHost, request_line: bytes, after: int
) -> None:
    with WeakLine(studio.address) as line:
        page = visit(address="about:blank")
        page.clock.install()
        line.fall_silent_in(request_line, after=after)
        page.goto(line.address)
        page.wait_for_load_state()
        # A job that has ended has no events to follow; a picture sent before may have ended.
        with host.held() if b"/events" in request_line else nullcontext():
            if request_line != b"GET /limits":
                choose(page, ("photo.png", noise(100, 150, seed=len(request_line) + after)))
            while line.speaks():
                painted(page)
        if request_line == b"POST /upscale":  # whose silence begins once it has been sent
            expect(page.locator("#working")).to_have_text("Checking")
        # The clock stands still then, so that the notice stays until it is seen.
        page.clock.pause_at(page.evaluate("Date.now()") / 1000 + 121)
        expect(page.locator("#connection")).to_be_visible()
        page.clock.resume()
        if request_line == b"GET /limits":
            choose(page, ("photo.png", noise(100, 149)))
        wait_for_result(page)
        expect(page.locator("#connection")).to_be_hidden()
        page.close()


def test_a_probe_that_is_not_answered_is_followed_by_another(visit: Visit, studio: Studio) -> None:
    with WeakLine(studio.address) as line:
        page = visit(address=line.address)
        choose(page, ("photo.png", noise(100, 160)))
        wait_for_result(page)
        page.clock.install()
        line.fall_silent_in(b"GET /livez")
        page.context.set_offline(True)
        expect(page.locator("#connection")).to_be_visible()
        page.context.set_offline(False)
        while line.speaks():
            painted(page)
        page.clock.fast_forward("00:11")
        expect(page.locator("#connection")).to_be_hidden()
        page.close()


def test_offline_every_pixel_waits_with_words_and_the_guesswork_without(visit: Visit) -> None:
    page = visit()
    choose(page, ("photo.png", noise(300, 360)))
    wait_for_result(page)
    measured(page)
    page.context.set_offline(True)
    page.keyboard.press("m")
    expect(page.locator("#guesses")).to_be_visible()  # computed in the page
    page.keyboard.press("4")
    expect(page.locator("#preview")).to_have_text(
        "Preview: every pixel comes when the connection is back"
    )
    page.context.set_offline(False)
    expect(page.locator("#preview")).to_be_hidden()


def test_pictures_removed_offline_are_erased_once_the_connection_is_back(
    visit: Visit, studio: Studio
) -> None:
    page = visit()
    choose(page, ("photo.png", noise(24, 50)))
    wait_for_result(page)
    job_id = job_of(page)
    page.context.set_offline(True)
    with page.expect_event("requestfailed", lambda request: request.method == "DELETE"):
        page.get_by_role("button", name="Remove photo.png").click()
    with page.expect_response(lambda response: response.request.method == "DELETE") as erased:
        page.context.set_offline(False)

    assert erased.value.status == 204
    assert studio.http.get(f"/jobs/{job_id}").status_code == 404


def test_a_clock_that_is_hours_ahead_lets_no_result_expire(visit: Visit, studio: Studio) -> None:
    page = visit(address="about:blank")
    page.clock.install(time=datetime.now(UTC) + timedelta(hours=30))
    page.goto(studio.address)
    choose(page, ("photo.png", noise(24, 51)))
    wait_for_result(page)
    page.reload()
    wait_for_result(page)


def test_a_result_that_has_expired_can_be_made_again(visit: Visit) -> None:
    page = visit()
    choose(page, ("photo.png", noise(24, 52)))
    wait_for_result(page)

    def long_ago(route: Route) -> None:
        if route.request.method != "GET":
            return route.continue_()
        answer = route.fetch()
        view = answer.json()
        made = view["result"] | {"expires_at": "2020-01-01T00:00:00Z"}
        return route.fulfill(response=answer, json=view | {"result": made})

    page.route(f"**/jobs/{job_of(page)}", long_ago)
    page.reload()
    expect(page.locator("#working")).to_have_text("The result has expired")
    page.get_by_role("button", name="Try again").click()
    wait_for_result(page)


def test_offline_a_running_job_shows_its_last_known_state(visit: Visit, host: WorkerHost) -> None:
    page = visit()
    with host.held():
        choose(page, ("one.png", noise(300, 400)), ("two.png", noise(300, 401)))
        expect(page.locator(".card[data-state=queued]")).to_have_count(2)
        page.context.set_offline(True)
        expect(page.locator("#working")).to_have_text("Last known: Next in line")
        page.locator("#actions [data-action=cancel]").click()
        expect(page.locator("#working")).to_have_text("Cancelling")
        page.context.set_offline(False)
        expect(page.locator("#working")).to_have_text("Cancelled")


@pytest.mark.slow
def test_a_service_that_restarts_finds_its_watchers_again(
    visit: Visit, site: Site, host: WorkerHost
) -> None:
    port = free_port()
    large = ("large.png", noise(400, 500, seed=9))
    with ExitStack() as first:
        page = visit(address=first.enter_context(opened(site, port=port)).address)
        with working(page, site, host, lambda: choose(page, large)):
            first.close()
    expect(page.locator("#connection")).to_be_visible()

    with opened(site, port=port):
        wait_for_result(page)
        expect(page.locator("#connection")).to_be_hidden()
        page.close()


def test_models_are_those_of_the_service_that_is_back(visit: Visit, site: Site) -> None:
    port = free_port()
    with opened(site, port=port) as studio:
        page = visit(address=studio.address)
        models = page.locator("#model option")
        expect(models).to_have_text(["lite", "tiny"])
        page.select_option("#model", "lite")
    page.context.set_offline(True)
    expect(page.locator("#connection")).to_be_visible()
    with opened(site, port=port, redis_url=f"{site.url}?db=1"):  # where no worker runs
        page.context.set_offline(False)
        expect(models).to_have_count(0)
    with opened(site, port=port):  # the page has not noticed
        page.evaluate("window.dispatchEvent(new Event('focus'))")
        expect(models).to_have_text(["lite", "tiny"])
        assert page.locator("#model").input_value() == "tiny"  # the default
        page.close()


def test_a_removed_model_is_reported_and_another_one_chosen(visit: Visit, studio: Studio) -> None:
    page = visit(address="about:blank")

    def before(route: Route) -> None:
        answer = route.fetch()
        first, *others = answer.json()
        route.fulfill(response=answer, json=[first, {**first, "name": "old"}, *others])

    page.route("**/models", before, times=1)
    page.goto(studio.address)
    choose(page, ("photo.png", noise(16, 55)), model="old")
    expect(page.locator("#working")).to_contain_text("There is no such model")
    page.get_by_role("button", name="Try again").click()
    wait_for_result(page)
    expect(page.locator("#model option")).to_have_text(["lite", "tiny"])


def test_two_notices_are_below_each_other(visit: Visit) -> None:
    page = visit()
    page.set_input_files("#folder", Path(__file__).parent)
    page.context.set_offline(True)
    boxes = []
    for part in ("#bar", "#connection", "#notice", "main"):
        expect(page.locator(part)).to_be_visible()
        box = page.locator(part).bounding_box()
        assert box is not None
        boxes.append(box)

    assert [box["width"] for box in boxes] == [1280] * 4
    ends = [box["y"] + box["height"] for box in boxes]
    assert ends[:3] == [box["y"] for box in boxes[1:]]


def test_a_reload_while_the_service_cannot_answer_brings_the_pictures_when_it_can(
    visit: Visit,
) -> None:
    page = visit()
    choose(page, ("small.png", noise(24, 48)))
    wait_for_result(page)
    job_id = job_of(page)
    page.route(f"**/jobs/{job_id}", lambda route: route.fulfill(status=503), times=1)
    page.reload()

    wait_for_result(page)
    assert job_of(page) == job_id
    expect(page.locator("#connection")).to_be_hidden()


@pytest.fixture
def keyed(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text(f"ann:{hash_key(KEY)}\n")
    return file


def test_a_key_is_asked_for_kept_for_the_tab_and_never_in_an_address(
    visit: Visit, site: Site, keyed: Path
) -> None:
    with opened(site, api_keys_file=keyed) as studio:
        page = visit(address=studio.address)
        addresses: list[str] = []
        page.on("request", lambda request: addresses.append(request.url))
        choose(page, ("small.png", noise(24, 24)))
        dialog = page.get_by_role("dialog", name="Authentication required")
        expect(dialog).to_be_visible()
        without = studio.http.post("/upscale", content=b"").json()["detail"]
        expect(page.locator("#key-reason")).to_have_text(without)
        page.get_by_label("API key").fill("not-the-key")
        page.keyboard.press("Enter")
        expect(page.locator("#key-reason")).not_to_have_text(without)
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        wait_for_result(page)
        with page.expect_download() as download:
            page.click("#download")
        assert download.value.path().stat().st_size > 0

        page.reload()
        wait_for_result(page)
        assert dialog.is_hidden()
        kept = "JSON.stringify([localStorage, sessionStorage, document.cookie])"
        local, session, cookies = page.evaluate(f"JSON.parse({kept})")
        assert (KEY in str(local), KEY in str(session), cookies) == (False, True, "")
        assert len(addresses) > 10
        assert not any(KEY in address for address in addresses)

        other = page.context.new_page()
        other.goto(studio.address)
        expect(other.get_by_role("dialog")).to_be_visible()
        other.keyboard.press("Escape")
        expect(other.locator("#working")).to_contain_text("An API key is needed")
        page.context.close()


def test_the_key_dialog_opens_once_and_again_at_the_next_attempt(
    visit: Visit, site: Site, keyed: Path
) -> None:
    with opened(site, api_keys_file=keyed) as studio:
        page = visit(address=studio.address)
        choose(page, *((f"{n}.png", noise(24, 40 + n)) for n in range(4)))
        dialog = page.get_by_role("dialog", name="Authentication required")
        expect(dialog).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator(".card[data-state=refused]")).to_have_count(4)
        assert dialog.is_hidden()

        page.get_by_role("button", name="Try again").click()
        expect(dialog).to_be_visible()
        page.get_by_label("API key").fill("ключ")  # not sent: no header can hold it
        page.keyboard.press("Enter")
        expect(dialog).to_be_visible()
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator(".card[data-state=succeeded]")).to_have_count(4)
        assert dialog.is_hidden()
        page.context.close()


def test_a_key_given_after_a_refusal_brings_the_jobs_of_before(
    visit: Visit, site: Site, keyed: Path
) -> None:
    with opened(site, api_keys_file=keyed) as studio:
        page = visit(address=studio.address)
        choose(page, ("one.png", noise(24, 50)), ("two.png", noise(24, 51)))
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
        ids = "JSON.parse(localStorage['gdsr.pictures']).map(({ id }) => id)"
        before = page.evaluate(ids)
        page.evaluate("sessionStorage.clear()")
        page.reload()
        dialog = page.get_by_role("dialog", name="Authentication required")
        expect(dialog).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator(".card[data-state=refused]")).to_have_count(2)
        page.get_by_role("button", name="Try again").click()
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")

        expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
        wait_for_result(page)
        assert page.evaluate(ids) == before
        page.context.close()


def test_the_page_works_with_a_key_where_the_browser_keeps_nothing(
    visit: Visit, site: Site, keyed: Path
) -> None:
    with opened(site, api_keys_file=keyed) as studio:
        page = visit(address=studio.address, script=KEEPS_NOTHING)
        choose(page, ("small.png", noise(24, 25)))
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        wait_for_result(page)
        with page.expect_download() as download:
            page.click("#download")
        assert download.value.path().stat().st_size > 0
        page.context.close()
